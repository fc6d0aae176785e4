"""Is the effect the same on first turns and on later ones? Strata that are shown apart, never averaged away.

A first turn is a fair comparison: both arms get the same kind of conversation. What later turns there are,
and how they go, the arm has had a hand in: each goes on from that arm's own earlier answers. Where the
two disagree, the number over all turns describes neither.

Pure: it weighs sums, reads no row and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ..evidence import AnalysisSpec, Evidence, Goal
from ..metrics import Metric, on_turns
from ..statistics import confidence_sequence
from ..statistics.estimate import quantile
from .comparison import compare
from .contrast import BURN_IN_ARM, BURN_IN_UNITS
from .scorecard import ArmResult, Comparison, Effect, describe

#: Goals are split in the order in which they were declared; more than these cost more than they tell.
MOST_GOALS: Final = 8

TurnState = Literal["alike", "differ", "opposed", "insufficient_data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStratum:
    """One goal on the first turns, or on the later ones. Each unit counts with its turns of this kind."""

    arms: tuple[ArmResult, ArmResult]
    effect: Effect | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """One goal by turn. `log_e` is ln of the e-value against "the effect is the same on both".

    `state`: `differ` once that is refuted, `opposed` if besides one of the two is on the wrong side: worse
    (success), or worse than its margin (guardrail).
    """

    metric: str
    first: TurnStratum
    later: TurnStratum
    log_e: float | None
    threshold: float
    state: TurnState
    text: str


def split_goals(spec: AnalysisSpec) -> tuple[Goal, ...]:
    """The goals that are looked at by turn: those that decide, but feedback, quantiles and pairs.

    What is both a success metric and a guardrail counts as the one that was declared first.
    """
    found: dict[str, Goal] = {}
    for goal in spec.goals:
        able = goal.metric.source is None and goal.metric.kind != "quantile"
        if able and goal.role != "exploratory" and spec.mode != "shadow":
            found.setdefault(goal.metric.name, goal)
    return tuple(found.values())[:MOST_GOALS]


def turn_metrics(spec: AnalysisSpec) -> tuple[Metric, ...]:
    """The metrics of first and of later turns whose sums the evidence must hold."""
    return tuple(on_turns(goal.metric, turn) for goal in split_goals(spec) for turn in ("first", "later"))


def by_turn(spec: AnalysisSpec, evidence: Evidence) -> tuple[TurnResult, ...]:
    """What each goal does on first and on later turns; nothing where there are no later turns."""
    known = {sums.metric for sums in evidence.sums}
    goals = [goal for goal in split_goals(spec) if f"{goal.metric.name}@later" in known]
    return tuple(_result(spec, evidence, goal, spec.alpha / len(goals)) for goal in goals)


def _result(spec: AnalysisSpec, evidence: Evidence, goal: Goal, alpha: float) -> TurnResult:
    found = [
        compare(spec, evidence, replace(goal, metric=on_turns(goal.metric, turn)), harm_alpha=alpha)
        for turn in ("first", "later")
    ]
    strata = [TurnStratum(arms=one.arms, effect=one.effect, text=describe(goal, one)) for one in found]
    log_e = _log_e(spec, found, alpha)
    state: TurnState = "insufficient_data"
    if log_e is not None:
        state = "alike" if log_e < -math.log(alpha) else "differ"
        if state == "differ" and any(_wrong(goal, one) for one in found):
            state = "opposed"
    return TurnResult(
        metric=goal.metric.name,
        first=strata[0],
        later=strata[1],
        log_e=log_e,
        threshold=1.0 / alpha,
        state=state,
        text=f"First turns: {strata[0].text}. Later turns: {strata[1].text}",
    )


def _log_e(spec: AnalysisSpec, found: Sequence[Comparison], alpha: float) -> float | None:
    """Evidence that the two effects differ, at any time: the sequence (F6) on their difference.

    The two are taken as independent. A unit with turns of both kinds makes them alike, if anything, and a
    difference of alike estimates varies less: the evidence is then understated.
    """
    values, variances, units = [], 0.0, 0
    for one in found:
        counts = [arm.units for arm in one.arms]
        if one.effect is None or min(counts) < BURN_IN_ARM or sum(counts) < BURN_IN_UNITS:
            return None
        ratio = one.effect.scale == "ratio"
        if ratio and not one.effect.lower > 0.0:
            return None
        ends = [one.effect.estimate, one.effect.lower, one.effect.upper]
        value, lower, upper = (math.log(end) for end in ends) if ratio else ends
        values.append(value)
        variances += ((upper - lower) / (2.0 * quantile(0.5 + one.effect.level / 2.0))) ** 2
        units += sum(counts)
    if not 0.0 < variances < math.inf:
        return None
    z = (values[1] - values[0]) / math.sqrt(variances)
    return confidence_sequence.log_e(z, float(units), alpha=alpha, best_at=max(1.0, spec.horizon / 2.0))


def _wrong(goal: Goal, found: Comparison) -> bool:
    """Whether a stratum by itself speaks against the candidate, by its estimate."""
    z = found.z_noninferior
    if goal.role == "success":
        z = found.z_equivalent if goal.equivalent else found.z_better
    return z is not None and z < 0.0
