"""Which version's answer does a judge prefer?

Asked in both orders, with nothing said about who answered. Where the orders disagree it is a tie, and the
flip is counted as the judge's, not the versions'. Equal answers are a tie, and an answer that failed loses to
one that did not, without anybody being asked.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from evaluators.golden import GoldenItem, Kind, Reference
from evaluators.judges.question import Nonce, answered, new_nonce, pair_question, says_nothing
from evaluators.models import ChatModel, ModelReply
from evaluators.score import Output, PairScore, Preference, Score
from evaluators.scorers.registry import Direction, EvalContext, Need, Options, ValueType, register
from evaluators.scorers.rubric import no_verdict, seed_of

_WORTH: Final[dict[Preference, float]] = {"candidate": 1.0, "tie": 0.5, "control": 0.0}
_FAILED: Final = frozenset(("truncated", "empty", "upstream_error", "upstream_rejected", "timeout", "length"))


class PairwiseOptions(Options):
    """`rubric` says what makes one answer better than another."""

    rubric: str = Field(
        default="The better answer is the more correct and the more helpful one.",
        min_length=3,
        max_length=20_000,
    )

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return self.rubric


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise:
    """The evaluator `pairwise`."""

    name: str = "pairwise"
    version: str = "1"
    kind: Kind = "pairwise"
    direction: Direction = "max"
    value_type: ValueType = "label"
    threshold: float = 0.5
    requires: frozenset[Need] = frozenset({"judge"})
    options: type[Options] = PairwiseOptions
    nonce: Nonce = new_nonce

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
        seed = seed_of(item, context.repeat)
        (ahead, first), (behind, second) = await asyncio.gather(
            self._asked(judge, item, control, candidate, context, seed, ("control", "candidate")),
            self._asked(judge, item, candidate, control, context, seed, ("candidate", "control")),
        )
        return _pair_score(context.name, judge.identity, (ahead, behind), (first, second))

    async def _asked(
        self,
        judge: ChatModel,
        item: GoldenItem,
        first: Output,
        second: Output,
        context: EvalContext,
        seed: int,
        places: tuple[Literal["control", "candidate"], Literal["control", "candidate"]],
    ) -> tuple[Preference | None, ModelReply]:
        question = pair_question(item, first, second, rubric=context.options.rubric, nonce=self.nonce())
        reply = await judge.reply(question.messages, schema=question.schema, seed=seed)
        found = None if reply.finish_reason == "length" else question.verdict(reply.text)
        if found is None:
            return None, reply
        preferences: dict[str, Preference] = {"first": places[0], "second": places[1], "tie": "tie"}
        return preferences[found.grade], reply


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


def _pair_score(
    name: str,
    identity: str,
    preferences: tuple[Preference | None, Preference | None],
    replies: tuple[ModelReply, ModelReply],
) -> PairScore:
    control_first, candidate_first = preferences
    reply = _both(replies, unread=preferences[0] is not None)
    if control_first is None or candidate_first is None:
        return PairScore(
            score=no_verdict(name, reply, identity),
            control_first=control_first,
            candidate_first=candidate_first,
        )
    agreed: Preference = control_first if control_first == candidate_first else "tie"
    flipped = control_first != candidate_first
    score = Score(
        name=name,
        status="scored",
        value=_WORTH[agreed],
        label=agreed,
        explanation="the orders disagree, hence a tie" if flipped else f"both orders: {agreed}",
        cost_usd=reply.cost_usd,
        tokens=reply.tokens,
        latency_ms=reply.latency_ms,
        metadata={
            "judge": identity,
            "control_first": control_first,
            "candidate_first": candidate_first,
            "flipped": flipped,
        },
    )
    return PairScore(score=score, control_first=control_first, candidate_first=candidate_first)


def _both(replies: tuple[ModelReply, ModelReply], *, unread: bool) -> ModelReply:
    """Two calls as one: costs and tokens add up, the longer time counts, and the text is of the call that is
    to be shown (the second where the first was read)."""
    costs = [reply.cost_usd for reply in replies if reply.cost_usd is not None]
    tokens = [reply.tokens for reply in replies if reply.tokens is not None]
    shown = replies[1] if unread else replies[0]
    return ModelReply(
        text=shown.text,
        finish_reason=shown.finish_reason,
        cost_usd=math.fsum(costs) if costs else None,
        tokens=sum(tokens) if tokens else None,
        latency_ms=max((reply.latency_ms or 0.0 for reply in replies), default=None),
    )


register(Pairwise())
