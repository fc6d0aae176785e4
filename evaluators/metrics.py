"""How does one evaluator, or the whole item, come out in both versions?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.estimates import Effect, paired_effect
from evaluators.golden import Check, GoldenItem, GoldenSet, Kind
from evaluators.pairing import Pair, observed, pair_of
from evaluators.preferences import Preferences, preferred_pair
from evaluators.summary import RunResults


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One evaluator (or `items`) in both versions; counts are items whose every answer passed. There is a
    `margin` where the verdict depends on it."""

    evaluator: str
    evaluator_version: str
    gate: bool
    n: int
    missing: int
    control: float | None
    candidate: float | None
    effect: Effect | None
    both: int = 0
    only_control: int = 0
    only_candidate: int = 0
    neither: int = 0
    margin: float | None = None
    kind: Kind = "code"

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        effect = None if self.effect is None else self.effect.to_json()
        return {**fields, "effect": effect, "p_value": None if self.effect is None else self.effect.p_value}


def metric_row(
    evaluator: str,
    version: str,
    pairs: Sequence[Pair],
    *,
    alpha: float,
    gate: bool,
    margin: float | None,
    kind: Kind = "code",
) -> MetricRow:
    """The row of these pairs."""
    values = observed(pairs)
    scored = [pair for pair in pairs if pair.control.observed and pair.candidate.observed]
    cells = [(pair.control.passes, pair.candidate.passes) for pair in scored]
    n = len(values)
    weight = math.fsum(value.weight for value in values)
    return MetricRow(
        evaluator=evaluator,
        evaluator_version=version,
        gate=gate,
        n=n,
        missing=len(pairs) - n,
        control=math.fsum(value.weight * value.control for value in values) / weight if n else None,
        candidate=math.fsum(value.weight * value.candidate for value in values) / weight if n else None,
        effect=paired_effect(values, alpha=alpha),
        both=cells.count((True, True)),
        only_control=cells.count((True, False)),
        only_candidate=cells.count((False, True)),
        neither=cells.count((False, False)),
        margin=margin,
        kind=kind,
    )


def metric_rows(
    golden: GoldenSet,
    comparable: Sequence[GoldenItem],
    control: RunResults,
    candidate: RunResults,
    preferences: Preferences,
) -> list[tuple[MetricRow, list[Pair]]]:
    """A row for each evaluator, with its pairs. It has a margin where the set declares that its mean gates; a
    judge's also where one of its checks says so. Both versions' means of a pairwise judge are the shares of
    items for which it prefers them, ties halved: they add up to one."""
    rows = []
    for key, version in golden.evaluators.items():
        with_check = [(item, [c for c in item.checks if c.key == key]) for item in comparable]
        used = [(item, checks) for item, checks in with_check if checks]
        checks = [check for _, found in used for check in found]
        kind = checks[0].kind if checks else "code"
        if kind == "pairwise":
            judged = preferences.by_item(key)
            pairs = [preferred_pair(item, judged[item.id]) for item, _ in used if item.id in judged]
        else:
            pairs = [
                pair
                for item, found in used
                if (pair := pair_of(item, control, candidate, found, score="mean")) is not None
            ]
        margin, gate = _margin(golden, key, checks), any(check.gate for check in checks)
        row = metric_row(key, version, pairs, alpha=golden.policy.alpha, gate=gate, margin=margin, kind=kind)
        rows.append((row, pairs))
    return rows


def _margin(golden: GoldenSet, key: str, checks: Sequence[Check]) -> float | None:
    declared = golden.policy.metrics.get(key)
    if declared is not None and declared.gate:
        return declared.margin
    return golden.policy.margin if any(check.gate and check.kind != "code" for check in checks) else None
