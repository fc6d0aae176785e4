"""What can an experiment find out at its horizon, how long will that take, and how soon is harm caught?

A spec and the model's own history in, a plan out; pure. Asked before the start: a margin that cannot be shown
at the horizon is found here, not after two weeks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from .contrast import BURN_IN_UNITS, DEFAULT_RELATIVE_MARGIN, DEFAULT_SHARE_MARGIN
from .evidence import AnalysisSpec, Goal, Mode
from .history import History, UnitTotals
from .sketch import Sketch
from .statistics import betting, confidence_sequence, failures, group_sequential, paired, planning

#: How much worse a candidate may be imagined.
HARMS: Final = (2.0, 5.0)
_PATHS: Final = 200
_MOST_FAILURES: Final = 4000
_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """A candidate that is `factor` times worse on a guardrail: the median number of units, of both arms,
    until it is rolled back, and days. None: not within the horizon."""

    factor: float
    units: int | None
    days: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalPlan:
    """What the horizon is worth for one goal.

    `level` is the metric's in production, `coverage` the share of the units that have it. `detectable` is the
    smallest effect (success) or margin (guardrail) that would be found with the power asked: a difference of
    shares for binary metrics, otherwise relative. `asked` is the spec's mde or margin, and `units_needed` how
    many units that takes.
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
    """One stage: units a day in production (of a shadow, those that are mirrored), days to the horizon, and
    each goal."""

    experiment: str
    mode: Mode
    horizon: int
    share: float
    units_a_day: float | None
    days: float | None
    max_days: float
    goals: tuple[GoalPlan, ...]
    warnings: tuple[str, ...]


def plan(spec: AnalysisSpec, history: History, *, first_share: float, last_share: float) -> Plan:
    """The plan. `first_share` and `last_share` are the candidate's at the ramp's begin and end; of a shadow,
    the share that is mirrored.

    Harm is caught at the first share (a ramp begins with it), the rest is reckoned at the last. How alike the
    two answers to a mirrored request are cannot be told from one version's traffic: they are taken to be
    independent, so that a shadow finds no less than it is said to.
    """
    rate = history.units_a_day
    if spec.mode == "shadow" and rate is not None:
        rate *= last_share
    days = None if not rate else spec.horizon / rate
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
        units_a_day=rate,
        days=days,
        max_days=spec.max_duration_s / 86_400.0,
        goals=goals,
        warnings=tuple(_warnings(spec, history, goals, days)),
    )


@dataclass(frozen=True, slots=True)
class _Design:
    """Who is compared with whom: two arms with the candidate's share at first and at last, or pairs. Of the
    units only `coverage` have the metric, where answers are scored by sampling or feedback is volunteered."""

    pairs: bool
    first: float
    last: float
    units_a_day: float | None
    coverage: float = 1.0

    def worth(self, goal: Goal, units: float, share: float) -> float:
        """A unit's variance over this is that of the difference. A preference is one number a pair."""
        if self.pairs:
            return self.coverage * (units if goal.metric.preference else units / 2.0)
        return self.coverage * units * share * (1.0 - share)

    def effective(self, units: float, share: float) -> float:
        """The units as the sequences count them: those of an even split, or pairs."""
        return self.coverage * (units if self.pairs else 4.0 * units * share * (1.0 - share))


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
            f"{spec.horizon:,} units take {days:.1f} days, and max_duration is "
            f"{spec.max_duration_s / 86_400.0:.1f}: lower the horizon, or allow more time"
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
    totals = history.of(goal.metric)
    if totals is None:
        return _unplanned(goal, "production has none of it in these days: nothing to plan from")
    cluster = totals.cluster
    if cluster.n < 100:
        return _unplanned(goal, f"production had {cluster.n} units with it, and 100 are needed to plan")
    share_metric = goal.metric.kind == "binary"
    level, spread = _level(goal, totals), _spread(goal, totals)
    if level is None or spread is None:
        return _unplanned(goal, "it does not vary in production, or there is too little of it")
    design = replace(design, coverage=cluster.n / len(totals.m))
    detectable = _detectable(spec, goal, spread, design)
    asked = _asked(goal, level if share_metric else 1.0)
    needed = None if asked is None else math.ceil(spec.horizon * (detectable / asked) ** 2)
    caught: tuple[Caught, ...] = ()
    if goal.role == "guardrail":
        caught = tuple(_caught(spec, goal, level, spread, factor, design) for factor in HARMS)
    return GoalPlan(
        metric=goal.metric.name,
        role=goal.role,
        level=math.exp(level) if goal.metric.on_log_scale else level,
        detectable=detectable,
        asked=asked,
        units_needed=needed,
        caught=caught,
        coverage=design.coverage,
    )


def _asked(goal: Goal, level: float) -> float | None:
    """The effect or margin that the spec asks for, on the scale of `detectable`."""
    if goal.role == "guardrail" and goal.margin is None:
        return DEFAULT_SHARE_MARGIN if goal.metric.kind == "binary" else DEFAULT_RELATIVE_MARGIN
    if goal.role == "guardrail" or goal.equivalent:
        return goal.margin
    return None if goal.mde is None else goal.mde * level


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


def _sketch(totals: UnitTotals) -> Sketch:
    return Sketch(histogram=totals.histogram, units=totals.cluster)


def _level(goal: Goal, totals: UnitTotals) -> float | None:
    """The metric's level: a share of units, a mean, or the logarithm of a geometric mean or a quantile."""
    if goal.metric.kind == "binary":
        found = totals.failing_share
    elif goal.metric.quantile is not None:
        value = _sketch(totals).quantile(goal.metric.quantile)
        found = math.log(value) if value > 0.0 else math.nan
    else:
        found = totals.cluster.ratio
    return found if math.isfinite(found) else None


def _spread(goal: Goal, totals: UnitTotals) -> float | None:
    """The standard deviation of one unit's worth, on the scale of the margin."""
    cluster, level = totals.cluster, _level(goal, totals)
    if goal.metric.kind == "binary":
        found = math.sqrt(level * (1.0 - level)) if level else 0.0
    elif goal.metric.quantile is not None:
        summary = _sketch(totals).summary(goal.metric.quantile)
        if summary.status != "ok":
            return None
        found = math.sqrt(summary.unit_variance / summary.n * cluster.n) / summary.value
    elif not cluster.usable:
        return None
    else:
        found = math.sqrt(cluster.variance * cluster.n)
        if not goal.metric.on_log_scale:
            found = found / abs(level) if level else 0.0
    return found or None


def _detectable(spec: AnalysisSpec, goal: Goal, spread: float, design: _Design) -> float:
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
    se = spread * math.sqrt(inflated / design.worth(goal, spec.horizon, design.last))
    return planning.detectable(se, alpha=alpha, power=power, sides=sides)


def _caught(
    spec: AnalysisSpec, goal: Goal, level: float, spread: float, factor: float, design: _Design
) -> Caught:
    log_threshold = math.log(max(1, len(spec.named("guardrail"))) / spec.rollback_alpha)
    if goal.metric.kind != "binary":
        units = _until_sequence(spec, goal, spread, factor, design)
    elif design.pairs:
        units = _until_pairs(spec, goal, level, factor, log_threshold)
    else:
        units = _until_failures(goal, level, factor, design.first, log_threshold)
    if units is not None and goal.metric.kind == "binary":
        units /= design.coverage
    if units is None or units > spec.horizon:
        return Caught(factor=factor, units=None, days=None)
    rate = design.units_a_day
    return Caught(factor=factor, units=math.ceil(units), days=units / rate if rate else None)


def _until_failures(
    goal: Goal, level: float, factor: float, share: float, log_threshold: float
) -> float | None:
    """The median over simulated streams of failing units, by the very e-process that rolls back."""
    if level <= 0.0:
        return None
    worse = min(1.0, factor * level)
    blame = share * worse / (share * worse + (1.0 - share) * level)
    draws = np.random.default_rng(1).random((_PATHS, _MOST_FAILURES)) < blame
    candidate = np.cumsum(draws, axis=1)
    control = np.arange(1, _MOST_FAILURES + 1) - candidate
    first = np.full(_PATHS, np.inf)
    for since in range(0, _MOST_FAILURES, _AT_ONCE):  # no further than the median needs
        here = slice(since, since + _AT_ONCE)
        log_e = failures.harm_log_e(candidate[:, here], control[:, here], share, ratio=goal.tolerated_ratio)
        crossed = log_e >= log_threshold
        first = np.where(crossed.any(axis=1), np.minimum(first, since + crossed.argmax(axis=1) + 1.0), first)
        if np.isfinite(first).mean() > 0.5:
            break
    median = float(np.median(first))
    return median / (share * worse + (1.0 - share) * level) if math.isfinite(median) else None


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

    return _first_units(excluded, 1.0, spec.horizon)


def _until_sequence(
    spec: AnalysisSpec, goal: Goal, spread: float, factor: float, design: _Design
) -> float | None:
    """When the one-sided sequence excludes the margin, were the estimate what it is expected to be."""
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    worse = factor if goal.metric.direction == "decrease" else 1.0 / factor
    sign = 1.0 if goal.metric.direction == "decrease" else -1.0
    if goal.metric.on_log_scale:
        excess = abs(math.log(worse)) - abs(math.log1p(sign * margin))
    else:
        excess = abs(worse - 1.0) - margin
    if excess <= 0.0:
        return None
    alpha = spec.rollback_alpha / max(1, len(spec.named("guardrail")))

    def excluded(units: float) -> bool:
        se = spread / math.sqrt(design.worth(goal, units, design.first))
        return excess / se >= confidence_sequence.one_sided_critical_value(
            design.effective(units, design.first), alpha=alpha, best_at=max(1.0, spec.horizon / 2.0)
        )

    return _first_units(excluded, BURN_IN_UNITS, spec.horizon)


def _first_units(excluded: Callable[[float], bool], since: float, horizon: int) -> float | None:
    """The first number of units, to a twentieth, at which harm is excluded; None beyond the horizon."""
    units = since
    while units <= horizon:
        if excluded(units):
            return units
        units *= 1.05
    return None
