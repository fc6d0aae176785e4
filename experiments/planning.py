"""What can an experiment find out at its horizon, how long will that take, and how soon is harm caught?

A spec and the model's own history in, a plan out; pure. Asked before the start: a margin that cannot be shown
at the horizon is found here, not after two weeks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from .evidence import AnalysisSpec, Goal, Mode
from .history import History, UnitTotals
from .metrics import Direction
from .quantities import duration_text
from .statistics import betting, confidence_sequence, failures, group_sequential, paired, planning
from .statistics.bounded import BoundedClusters
from .verdict.contrast import (
    BURN_IN_ARM,
    BURN_IN_UNITS,
    DEFAULT_RELATIVE_MARGIN,
    DEFAULT_SHARE_MARGIN,
    as_margin,
    sign_of,
)
from .verdict.looks import window_over
from .verdict.sketch import Sketch

#: How much worse a candidate may be imagined: by what the metric's level is multiplied. Where more is better,
#: one answer in ten is worth nothing, or one in five, or half of them, or four in five.
HARMS: Final[Mapping[Direction, tuple[float, ...]]] = {
    "decrease": (2.0, 5.0),
    "increase": (0.9, 0.8, 0.5, 0.2),
}
Floats = npt.NDArray[np.float64]

#: Units with a metric's value of which a plan can be made.
_LEAST_UNITS: Final = 100
_PATHS: Final = 400
_MOST_FAILURES: Final = 4000
#: By what factor the moments are apart at which a simulated sequence is looked at.
_STEP: Final = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """A candidate whose level on a guardrail is `factor` times production's: the median number of units, of
    both arms, until it is rolled back, days, and how many of the candidate's units had a value by then
    (`measured`). None: not within the horizon."""

    factor: float
    units: int | None
    days: float | None
    measured: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalPlan:
    """What the horizon is worth for one goal.

    `level` is the metric's in production, `coverage` the share of the units that have it: where answers are
    scored by sampling, not all of them. `detectable` is the smallest effect (success) or margin (guardrail)
    that would be found with the power asked: a difference of shares for binary metrics, otherwise relative.
    `asked` is the spec's mde or margin, and `units_needed` how many units that takes.
    """

    metric: str
    role: str
    level: float | None
    detectable: float | None
    asked: float | None
    units_needed: int | None
    caught: tuple[Caught, ...] = ()
    problem: str | None = None
    coverage: float | None = None

    @property
    def enough(self) -> bool:
        """Whether the horizon suffices for what is asked; true where nothing is."""
        return self.asked is None or (self.detectable is not None and self.detectable <= self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One stage: units a day that enter (of a shadow, those that are mirrored), days to the horizon, and each
    goal. `entering` is the share of production's units that may enter at all."""

    experiment: str
    mode: Mode
    horizon: int
    share: float
    entering: float
    units_a_day: float | None
    days: float | None
    max_days: float
    goals: tuple[GoalPlan, ...]
    warnings: tuple[str, ...]


def plan(
    spec: AnalysisSpec, history: History, *, first_share: float, last_share: float, entering: float = 1.0
) -> Plan:
    """The plan. `first_share` and `last_share` are the candidate's at the ramp's begin and end; of a shadow,
    the share that is mirrored. `entering` is the share of the units that may enter at all.

    Harm is caught at the first share (a ramp begins with it), the rest is reckoned at the last. How alike the
    two answers to a mirrored request are cannot be told from one version's traffic: they are taken to be
    independent, so that a shadow finds no less than it is said to.
    """
    rate = history.units_a_day
    if rate is not None:
        rate *= entering * (last_share if spec.mode == "shadow" else 1.0)
    days = spec.horizon / rate if rate else None
    goals = tuple(
        _goal(spec, goal, history, _Design(spec.mode == "shadow", first_share, last_share, rate))
        for goal in spec.goals
        if goal.role != "exploratory"
    )
    return Plan(
        experiment=spec.experiment,
        mode=spec.mode,
        horizon=spec.horizon,
        share=last_share,
        entering=entering,
        units_a_day=rate,
        days=days,
        max_days=spec.max_duration_s / 86_400.0,
        goals=goals,
        warnings=tuple(_warnings(spec, history, goals, days)),
    )


@dataclass(frozen=True, slots=True)
class _Design:
    """Who is compared with whom: two arms with the candidate's share at first and at last, or pairs."""

    pairs: bool
    first: float
    last: float
    units_a_day: float | None

    def worth(self, goal: Goal, units: float) -> float:
        """A unit's variance over this is that of the difference, at the last share. Of a pair a preference is
        one number."""
        if self.pairs:
            return units if goal.metric.preference else units / 2.0
        return units * self.last * (1.0 - self.last)

    def spread(self, goal: Goal, candidate: float, control: float) -> float:
        """One unit's standard deviation of the difference, at the first share, of those of its two sides."""
        if self.pairs:
            return candidate if goal.metric.preference else math.hypot(candidate, control)
        return math.hypot(candidate / math.sqrt(self.first), control / math.sqrt(1.0 - self.first))

    @property
    def burn_in(self) -> float:
        """The units before which no sequence speaks."""
        smaller = 1.0 if self.pairs else min(self.first, 1.0 - self.first)
        return max(BURN_IN_UNITS, BURN_IN_ARM / smaller)

    def effective(self, units: Floats) -> Floats:
        """The units at the first share as the sequences count them: those of an even split, or pairs."""
        return units if self.pairs else 4.0 * units * self.first * (1.0 - self.first)


def _warnings(
    spec: AnalysisSpec, history: History, goals: Sequence[GoalPlan], days: float | None
) -> list[str]:
    found = []
    if history.without_unit:
        found.append(
            f"{history.without_unit:,} of {history.exchanges:,} exchanges have no {spec.unit}: each counts "
            "as a unit of its own, so that days are underestimated if users come back"
        )
    if days is not None and days > spec.max_duration_s / 86_400.0:
        found.append(
            f"{spec.horizon:,} units take {duration_text(days * 86_400.0)}, and max_duration is "
            f"{duration_text(spec.max_duration_s)}: lower the horizon, or allow more time"
        )
    assumed = [
        goal.metric.name
        for goal in spec.goals
        if goal.metric.preference and goal.role != "exploratory" and not _judged(history, goal)
    ]
    found += [
        f"{name}: no pair has been judged in these days; taken to be as uncertain as it can be"
        for name in assumed
    ]
    for goal in goals:
        if goal.problem is not None:
            found.append(f"{goal.metric}: {goal.problem}")
        elif not goal.enough and goal.asked is not None and goal.detectable is not None:
            what = "improvement" if goal.role == "success" else "margin"
            found.append(
                f"{goal.metric}: at the horizon the smallest {what} that can be shown is "
                f"{100 * goal.detectable:.2g} %, more than the {100 * goal.asked:.2g} % asked: "
                f"{goal.units_needed or 0:,} units are needed"
            )
    return found


def _judged(history: History, goal: Goal) -> bool:
    found = history.totals.get(goal.metric.name)
    return found is not None and any(m > 0 for m in found.m)


def _goal(spec: AnalysisSpec, goal: Goal, history: History, design: _Design) -> GoalPlan:
    if not design.pairs and design.last >= 1.0:
        return _unplanned(goal, "at 100 % no unit is left to compare with: end the ramp below it")
    totals = history.of(goal.metric)
    if totals is None:
        return _unplanned(goal, "production has none of it in these days: nothing to plan from")
    if totals.cluster.n < _LEAST_UNITS:
        return _unplanned(
            goal, f"production had {totals.cluster.n} units with it, and {_LEAST_UNITS} are needed to plan"
        )
    known = _Known.of(goal, totals)
    if known is None:
        return _unplanned(goal, "it does not vary in production, or there is too little of it")
    over = window_over(spec, goal, design.units_a_day)
    if not over:
        return _unplanned(
            goal, "its window is still open at the last look: a longer min_duration waits for it"
        )
    detectable = _detectable(spec, goal, replace(known, coverage=known.coverage * over), design)
    asked = _asked(goal, known.level if goal.metric.kind == "binary" else 1.0)
    needed = (
        None if asked is None else math.ceil(spec.horizon * (over * (detectable / asked) ** 2 + 1.0 - over))
    )
    caught: tuple[Caught, ...] = ()
    if goal.role == "guardrail":
        harms = HARMS[goal.metric.direction]
        caught = tuple(_caught(spec, goal, known, factor, design) for factor in harms)
    return GoalPlan(
        metric=goal.metric.name,
        role=goal.role,
        level=math.exp(known.level) if goal.metric.on_log_scale else known.level,
        detectable=detectable,
        asked=asked,
        units_needed=needed,
        caught=caught,
        coverage=known.coverage,
    )


def _asked(goal: Goal, level: float) -> float | None:
    """The effect or margin that the spec asks for, on the scale of `detectable`."""
    if goal.role == "guardrail":
        return _margin(goal)
    if goal.equivalent:
        return goal.margin
    return None if goal.mde is None else goal.mde * level


def _margin(goal: Goal) -> float:
    if goal.margin is not None:
        return goal.margin
    return DEFAULT_SHARE_MARGIN if goal.metric.kind == "binary" else DEFAULT_RELATIVE_MARGIN


def _unplanned(goal: Goal, problem: str) -> GoalPlan:
    return GoalPlan(
        metric=goal.metric.name,
        role=goal.role,
        level=None,
        detectable=None,
        asked=None,
        units_needed=None,
        problem=problem,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A metric in production: its level (of one on a log scale its logarithm), one unit's standard deviation
    on the scale of the margin, and the share of the units that have it.
    `square` is the mean square of one answer on that scale: what is lost of the spread where an answer is
    worth nothing.
    """

    level: float
    spread: float
    coverage: float
    square: float
    #: Of how many units of one size one unit is worth.
    worth: float = 1.0

    @classmethod
    def of(cls, goal: Goal, totals: UnitTotals) -> _Known | None:
        """None where it does not vary, or its mean is zero, or too little of it is there."""
        coverage = totals.cluster.n / len(totals.m)
        if goal.metric.kind == "binary":
            level = totals.failing_share
            spread, square = math.sqrt(level * (1.0 - level)), level
        elif goal.metric.quantile is not None:
            found = Sketch(histogram=totals.histogram, units=totals.cluster).summary(goal.metric.quantile)
            if found.status != "ok" or not found.value > 0.0:
                return None
            level = math.log(found.value)
            spread = math.sqrt(found.unit_variance / found.n * totals.cluster.n) / found.value
            square = spread**2
        else:
            cluster, level = totals.cluster, totals.cluster.ratio
            scale = 1.0 if goal.metric.on_log_scale else abs(level)
            if not cluster.usable or not scale:
                return None
            spread = math.sqrt(cluster.variance * cluster.n) / scale
            # Of a unit with m answers that are alike each has y / m; of a ratio, m does not count them.
            counted = goal.metric.kind != "ratio"
            squares = sum(
                y * y / (m if counted else 1.0) for y, m in zip(totals.y, totals.m, strict=True) if m
            )
            square = squares / cluster.n / (cluster.m / cluster.n) ** 2 / scale**2
        even = totals.cluster.worth / totals.cluster.n
        known = cls(level=level, spread=spread, coverage=coverage, square=square, worth=even)
        return known if spread else None

    def spread_of(self, factor: float) -> float:
        """A candidate's standard deviation: of its answers, the share `1 - factor` is worth nothing."""
        if factor >= 1.0:
            return self.spread
        return math.sqrt(factor**2 * self.spread**2 + factor * (1.0 - factor) * self.square)


def _detectable(spec: AnalysisSpec, goal: Goal, known: _Known, design: _Design) -> float:
    """The smallest effect found at the horizon, with all looks up to it; of a goal that is hoped to be the
    same, the smallest margin within which two equal arms are shown to be (two one-sided tests)."""
    risks = planning.allocate_risks(
        len(spec.named("success")), len(spec.named("guardrail")), alpha=spec.alpha, power=spec.power
    )
    guardrail = goal.role == "guardrail"
    alpha = risks.alpha_guardrail if guardrail else risks.alpha_success
    sides = 1 if guardrail or goal.equivalent else 2
    power = 1.0 - (1.0 - risks.power) / 2.0 if goal.equivalent else risks.power
    looks = [look / spec.looks for look in range(1, spec.looks + 1)]
    inflated = group_sequential.inflation(looks, alpha=alpha, power=power, sides=sides)
    units = spec.horizon * known.coverage
    se = known.spread * math.sqrt(inflated / design.worth(goal, units))
    bounded = _bounded(goal, known, design, units / inflated, se * math.sqrt(units / inflated), 0.0)
    if bounded is None:
        arms = [units / inflated * each for each in (design.last, 1.0 - design.last)]
        if sides == 1 and goal.metric.kind == "binary" and known.level < 1.0:
            return planning.margin_of_shares(known.level, *arms, alpha=alpha, power=power)
        if sides == 1 and goal.metric.limits is not None and 0.0 < known.level < 1.0:
            square, arms = (known.spread * known.level) ** 2 * known.worth, [n * known.worth for n in arms]
            return planning.margin_of_scores(known.level, square, *arms, alpha=alpha, power=power)
        return as_margin(goal, planning.detectable(se, alpha=alpha, power=power, sides=sides))
    return bounded.away(planning.detectable(1.0, alpha=alpha, power=power, sides=sides)) / _scale(goal, known)


def _scale(goal: Goal, known: _Known) -> float:
    """What `known.spread` and margins are relative to."""
    return 1.0 if goal.metric.kind == "binary" else known.level


def _bounded(
    goal: Goal, known: _Known, design: _Design, units: float, spread: float, change: float
) -> BoundedClusters | None:
    """What so many pairs are expected to be, where differences have limits: `spread` is a pair's, `change`
    their mean, both on the scale of margins. None elsewhere."""
    limits = (-1.0, 1.0) if goal.metric.kind == "binary" else goal.metric.limits
    if not design.pairs or limits is None or not 0.0 < known.level <= 1.0:
        return None
    low, high = limits
    value = min(high, max(low, change * _scale(goal, known)))
    square = min((spread * _scale(goal, known)) ** 2, (value - low) * (high - value))
    return BoundedClusters(n=units, value=value, squares=square * units, cubes=0.0, low=low, high=high)


def caught_after(spec: AnalysisSpec, goal: Goal, history: History, factor: float, share: float) -> Caught:
    """How soon a candidate whose level on a guardrail is `factor` times production's is rolled back, at a
    share of the traffic. The metric must vary in the history."""
    known = _Known.of(goal, history.totals[goal.metric.name])
    if known is None:
        raise ValueError(f"{goal.metric.name} does not vary in the history")
    return _caught(spec, goal, known, factor, _Design(False, share, share, history.units_a_day))


def _caught(spec: AnalysisSpec, goal: Goal, known: _Known, factor: float, design: _Design) -> Caught:
    log_threshold = math.log(max(1, len(spec.named("guardrail"))) / spec.rollback_alpha)
    if design.pairs and goal.metric.kind == "binary":
        found = _until_pairs(spec, goal, known.level, factor, log_threshold)
    elif goal.metric.kind != "binary":
        bounded = _bounded(goal, known, design, 1.0, _spread(goal, known, factor, design), factor - 1.0)
        found = (
            _until_sequence(spec, goal, known, factor, design)
            if bounded is None
            else _until_bounded(spec, goal, known.level, bounded, log_threshold)
        )
    else:
        found = _until_failures(goal, known.level, factor, design.first, log_threshold)
    units = math.inf if found is None else found / known.coverage
    if found is None or units > spec.horizon:
        return Caught(factor=factor, units=None, days=None)
    rate = design.units_a_day
    return Caught(
        factor=factor,
        units=math.ceil(units),
        days=units / rate if rate else None,
        measured=math.ceil(found if design.pairs else found * design.first),
    )


def _until_failures(
    goal: Goal, level: float, factor: float, share: float, log_threshold: float
) -> float | None:
    """The median over simulated streams of failing units, by the very e-process that rolls back."""
    if level <= 0.0:
        return None
    worse = min(1.0, factor * level)
    blame = share * worse / (share * worse + (1.0 - share) * level)
    draws = np.random.default_rng(1).random((_PATHS, _MOST_FAILURES)) < blame
    at = np.asarray(sorted({math.ceil(one) for one in _apart(1.0, _MOST_FAILURES)}))
    candidate = np.cumsum(draws, axis=1)[:, at - 1]
    log_e = failures.harm_log_e(candidate, at - candidate, share, ratio=goal.tolerated_ratio)
    median = _median_crossing(at.astype(np.float64), log_e >= log_threshold)
    return None if median is None else median / (share * worse + (1.0 - share) * level)


def _until_pairs(
    spec: AnalysisSpec, goal: Goal, level: float, factor: float, log_threshold: float
) -> float | None:
    """When the bets on pairs pay enough, were the pairs' table what it is expected to be."""
    worse = min(1.0, factor * level)

    def excluded(pairs: float) -> bool:
        table = paired.PairTable(
            both=round(pairs * worse * level),
            control_only=round(pairs * (1.0 - worse) * level),
            candidate_only=round(pairs * worse * (1.0 - level)),
            neither=round(pairs * (1.0 - worse) * (1.0 - level)),
        )
        return betting.pair_harm_log_e(table, ratio=goal.tolerated_ratio) >= log_threshold

    return planning.first_units(excluded, 1.0, spec.horizon)


def _until_bounded(
    spec: AnalysisSpec, goal: Goal, level: float, one: BoundedClusters, log_threshold: float
) -> float | None:
    """The same of pairs whose differences have limits; `one` is what each is expected to be."""
    away = sign_of(goal) * min(1.0, _margin(goal)) * level

    def excluded(pairs: float) -> bool:
        seen = replace(one, n=pairs, squares=one.squares * pairs)
        return seen.log_e(away, above=away > 0.0) >= log_threshold

    return planning.first_units(excluded, 2.0, spec.horizon)


def _tolerated(goal: Goal) -> float:
    """By what the control's level is multiplied where the candidate is worse by the margin."""
    return 1.0 + sign_of(goal) * _margin(goal)


def _spread(goal: Goal, known: _Known, factor: float, design: _Design) -> float:
    """One unit's standard deviation of the difference with the control's level that a margin tolerates."""
    tolerated = 1.0 if goal.metric.on_log_scale else _tolerated(goal)
    return design.spread(goal, known.spread_of(factor), tolerated * known.spread)


def _until_sequence(
    spec: AnalysisSpec, goal: Goal, known: _Known, factor: float, design: _Design
) -> float | None:
    """The median over simulated Brownian paths of the estimate, by the one-sided sequence that rolls back."""
    if goal.metric.on_log_scale:
        excess = abs(math.log(factor)) - abs(math.log(_tolerated(goal)))
    else:
        excess = abs(factor - 1.0) - _margin(goal)
    # Counts of units with a value, of both arms, from the burn-in's end to the horizon's.
    first, last = design.burn_in, spec.horizon * known.coverage
    if excess <= 0.0 or last < first:
        return None
    units = np.asarray(_apart(first, last), np.float64)
    spread = _spread(goal, known, factor, design)
    steps = np.random.default_rng(1).normal(size=(_PATHS, len(units))) * np.sqrt(np.diff(units, prepend=0.0))
    z = (excess / spread * units + np.cumsum(steps, axis=1)) / np.sqrt(units)
    alpha = spec.rollback_alpha / max(1, len(spec.named("guardrail")))
    effective = design.effective(units)
    log_e = confidence_sequence.harm_log_e(z, effective, alpha=alpha, horizon=spec.horizon)
    return _median_crossing(units, log_e >= -math.log(alpha))


def _apart(first: float, last: float) -> list[float]:
    """Moments from `first` to `last`, each a fiftieth later than the one before."""
    return [first * _STEP**i for i in range(math.floor(math.log(last / first) / math.log(_STEP)) + 1)]


def _median_crossing(at: Floats, crossed: npt.NDArray[np.bool_]) -> float | None:
    """The median over paths (rows) of where a bound is first crossed; None if half of them never do."""
    first = np.where(crossed.any(axis=1), at[crossed.argmax(axis=1)], np.inf)
    median = float(np.median(first))
    return median if math.isfinite(median) else None
