"""Which version's answer does a judge prefer?

Asked in both orders, with nothing said about who answered. Where the orders disagree it is a tie, and the
flip is counted as the judge's, not the versions'. Equal answers are a tie, and an answer that failed loses to
one that did not, without anybody being asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from evaluators.golden import GoldenItem, Kind
from evaluators.judges.asking import Heard, ask, judged, no_verdict, seed_of
from evaluators.judges.question import answered, pair_question, says_nothing
from evaluators.score import Output, PairScore, Preference, Score
from evaluators.scorers.judged import AsksJudge, RubricText
from evaluators.scorers.registry import EvalContext, ValueType, register

_WORTH: Final[dict[Preference, float]] = {"candidate": 1.0, "tie": 0.5, "control": 0.0}
_CONTROL_FIRST: Final[Mapping[str, Preference]] = {"first": "control", "second": "candidate", "tie": "tie"}
_CANDIDATE_FIRST: Final[Mapping[str, Preference]] = {"first": "candidate", "second": "control", "tie": "tie"}
_FAILED: Final = frozenset(("truncated", "empty", "upstream_error", "upstream_rejected", "timeout", "length"))


class PairwiseOptions(RubricText):
    """`rubric` says what makes one answer better than another."""

    rubric: str = Field(
        default="The better answer is the more correct and the more helpful one.",
        min_length=3,
        max_length=20_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise(AsksJudge):
    """The evaluator `pairwise`."""

    name: str = "pairwise"
    kind: Kind = "pairwise"
    value_type: ValueType = "label"
    threshold: float = 0.5
    options: type[RubricText] = PairwiseOptions

    async def score(self, item: GoldenItem, output: Output, context: EvalContext) -> Score:
        """One answer alone cannot be preferred."""
        return Score.skipped(context.name, "judged in pairs, when two versions are compared")

    async def compare(
        self, item: GoldenItem, control: Output, candidate: Output, context: EvalContext
    ) -> PairScore:
        """What the judge prefers. Raises ModelUnavailable when it does not answer."""
        without = _without_judge(context.name, control, candidate)
        if without is not None:
            return without
        judge = context.services.judge
        if judge is None:
            return PairScore(score=Score.skipped(context.name, "there is no judge"))
        rubric, seed = context.options.rubric, seed_of(item, context.repeat)
        heard = await asyncio.gather(
            ask(judge, pair_question(item, control, candidate, rubric=rubric, nonce=self.nonce()), seed=seed),
            ask(judge, pair_question(item, candidate, control, rubric=rubric, nonce=self.nonce()), seed=seed),
        )
        return _pair_score(context.name, judge.identity, heard)


def _without_judge(name: str, control: Output, candidate: Output) -> PairScore | None:
    """What needs no judge: an answer that failed or says nothing, and two that are the same."""
    for output in (control, candidate):
        if output.outcome not in _FAILED | {"complete"}:
            return PairScore(score=Score.unscored(name, f"an answer is missing: {output.outcome}"))
    good, better = _stands(control), _stands(candidate)
    if not (good and better):
        preferred: Preference = "tie" if good == better else "control" if good else "candidate"
        return _settled(name, preferred, "an answer failed or says nothing; no judge was asked")
    if answered(control).strip() == answered(candidate).strip():
        return _settled(name, "tie", "the answers are the same; no judge was asked")
    return None


def _stands(output: Output) -> bool:
    return output.outcome == "complete" and not says_nothing(output)


def _settled(name: str, preferred: Preference, why: str) -> PairScore:
    score = Score(name=name, status="scored", value=_WORTH[preferred], label=preferred, explanation=why)
    return PairScore(score=score, control_first=preferred, candidate_first=preferred)


def _pair_score(name: str, identity: str, heard: Sequence[Heard]) -> PairScore:
    control_first, candidate_first = (
        None if one.verdict is None else places[one.verdict.grade]
        for one, places in zip(heard, (_CONTROL_FIRST, _CANDIDATE_FIRST), strict=True)
    )
    orders = {"control_first": control_first, "candidate_first": candidate_first}
    if control_first is None or candidate_first is None:
        return PairScore(score=no_verdict(name, heard, identity), **orders)
    flipped = control_first != candidate_first
    agreed: Preference = "tie" if flipped else control_first
    reason = heard[0].verdict.reason if heard[0].verdict else ""
    why = "the orders disagree, hence a tie" if flipped else f"both orders: {agreed}. {reason}"
    score = judged(name, _WORTH[agreed], agreed, why, heard, identity, **orders, flipped=flipped)
    return PairScore(score=score, **orders)


register(Pairwise())
