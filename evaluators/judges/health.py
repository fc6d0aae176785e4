"""How well does a judge work as an instrument? What came of asking it, by check and by judge.

Whether it agrees with people is another question (`evaluators.labels.agreement`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

from evaluators.results import ResultRow
from evaluators.score import Score
from experiments.statistics.pairwise import BothOrders, position_bias_p


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeHealth:
    """One judge at one check. Of the times that it was `asked`, `unparseable` ones gave no verdict; `errors`
    are questions that it did not answer, and `cached` verdicts were had before. Cost is in US dollars, times
    are milliseconds. `flips` and `position_bias_p` are of a judge of pairs: how often it changed its mind
    with the order, and the p-value of its leaning towards a place by chance.
    """

    evaluator: str
    evaluator_version: str
    judge: str
    asked: int
    unparseable: int
    errors: int
    cached: int
    cost_usd: float
    tokens: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    flips: int | None
    position_bias_p: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is kept of one question to a judge, by a check and its version."""

    evaluator: str
    evaluator_version: str
    status: str
    label: str | None
    detail: Mapping[str, Any]

    @classmethod
    def of_row(cls, row: ResultRow) -> Verdict:
        """From a golden run."""
        return cls(
            evaluator=row.evaluator,
            evaluator_version=row.evaluator_version,
            status=row.status,
            label=row.label,
            detail=row.detail or {},
        )

    @classmethod
    def of_score(cls, evaluator: str, version: str, score: Score) -> Verdict:
        """From a score."""
        return cls(
            evaluator=evaluator,
            evaluator_version=version,
            status=score.status,
            label=score.label,
            detail=score.detail or {},
        )

    @property
    def concerns_a_judge(self) -> bool:
        """Whether a judge was asked. Scores by policy, and equal answers, are none of its business."""
        return "judge" in self.detail or self.detail.get("error") == "model_unavailable"


def judge_health(verdicts: Iterable[Verdict]) -> tuple[JudgeHealth, ...]:
    """The health of each judge at each check."""
    found: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    for one in verdicts:
        if one.concerns_a_judge:
            found[one.evaluator, one.evaluator_version, str(one.detail.get("judge", ""))].append(one)
    return tuple(_health(*key, verdicts=found[key]) for key in sorted(found))


def _health(evaluator: str, version: str, judge: str, *, verdicts: Sequence[Verdict]) -> JudgeHealth:
    said = [one for one in verdicts if one.status != "error"]
    fresh = [one.detail for one in said if not one.detail.get("cached")]
    times = [float(detail["latency_ms"]) for detail in fresh if detail.get("latency_ms") is not None]
    pairs = [one for one in said if "flipped" in one.detail]
    return JudgeHealth(
        evaluator=evaluator,
        evaluator_version=version,
        judge=judge,
        asked=len(said),
        unparseable=sum(one.label == "unparseable" for one in said),
        errors=len(verdicts) - len(said),
        cached=len(said) - len(fresh),
        cost_usd=math.fsum(float(detail.get("cost_usd") or 0.0) for detail in fresh),
        tokens=sum(int(detail.get("tokens") or 0) for detail in fresh),
        latency_p50_ms=_percentile(times, 50),
        latency_p95_ms=_percentile(times, 95),
        flips=sum(bool(one.detail["flipped"]) for one in pairs) if pairs else None,
        position_bias_p=position_bias_p(_orders(pairs)) if pairs else None,
    )


def _orders(pairs: Sequence[Verdict]) -> BothOrders:
    """Pairs by what both orders said: the place that was preferred with either version in it, or the
    version."""
    cells = Counter((one.detail.get("control_first"), one.detail.get("candidate_first")) for one in pairs)
    named = ("control", "candidate")
    return BothOrders(
        candidate=cells["candidate", "candidate"],
        control=cells["control", "control"],
        first_place=cells[named],
        second_place=cells[named[::-1]],
        ties=sum(n for cell, n in cells.items() if "tie" in cell),
    )


def _percentile(times: Sequence[float], percent: int) -> float | None:
    if len(times) < 2:
        return times[0] if times else None
    return quantiles(times, n=100, method="inclusive")[percent - 1]
