"""What can an experiment find out at its horizon, how long will that take, and how soon is harm caught?

A spec and the model's own history in, a plan out; pure. Asked before the start: a margin that cannot be shown
at the horizon is found here, not after two weeks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .contrast import DEFAULT_RELATIVE_MARGIN, DEFAULT_SHARE_MARGIN
from .evidence import AnalysisSpec, Goal
from .history import History, UnitTotals
from .statistics import confidence_sequence, failures, group_sequential, planning

#: How much worse a candidate may be imagined.
HARMS: Final = (2.0, 5.0)
_PATHS: Final = 200
_MOST_FAILURES: Final = 4000


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

    `level` is the metric's in production. `detectable` is the smallest effect (success) or margin (guardrail)
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

    @property
    def enough(self) -> bool:
        """Whether the horizon suffices for what is asked; true where nothing is."""
        return self.asked is None or (self.detectable is not None and self.detectable <= self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole: units a day in production, days to the horizon, and each goal."""

    experiment: str
    horizon: int
    share: float
    units_a_day: float | None
    days: float | None
    max_days: float
    goals: tuple[GoalPlan, ...]
    warnings: tuple[str, ...]


def plan(spec: AnalysisSpec, history: History, *, first_share: float, last_share: float) -> Plan:
    """The plan. `first_share` and `last_share` are the candidate's at the ramp's begin and end.

    Harm is caught at the first share (a ramp begins with it), the rest is reckoned at the last.
    """
    rate = history.units_a_day
    days = None if not rate else spec.horizon / rate
    goals = tuple(
        _goal(spec, goal, history, first_share, last_share)
        for goal in spec.goals
        if goal.role != "exploratory"
    )
    return Plan(
        experiment=spec.experiment,
        horizon=spec.horizon,
        share=last_share,
        units_a_day=rate,
        days=days,
        max_days=spec.max_duration_s / 86_400.0,
        goals=goals,
        warnings=tuple(_warnings(spec, history, goals, days)),
    )


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


def _goal(spec: AnalysisSpec, goal: Goal, history: History, first: float, last: float) -> GoalPlan:
    totals = history.totals.get(goal.metric.name)
    if totals is None or goal.metric.kind == "quantile":
        return _unplanned(goal, "cannot be planned from the traffic so far")
    cluster = totals.cluster
    if cluster.n < 100:
        return _unplanned(goal, f"production had {cluster.n} units with it, and 100 are needed to plan")
    share_metric = goal.metric.kind == "binary"
    level = totals.failing_share if share_metric else cluster.ratio
    spread = _spread(goal, totals, level)
    if spread is None:
        return _unplanned(goal, "it does not vary in production, or its mean is zero")
    detectable = _detectable(spec, goal, spread, spec.horizon, last)
    if goal.role == "guardrail":
        default = DEFAULT_SHARE_MARGIN if share_metric else DEFAULT_RELATIVE_MARGIN
        asked: float | None = default if goal.margin is None else goal.margin
    else:
        asked = None if goal.mde is None else (goal.mde * level if share_metric else goal.mde)
    needed = None if asked is None else math.ceil(spec.horizon * (detectable / asked) ** 2)
    caught: tuple[Caught, ...] = ()
    if goal.role == "guardrail":
        caught = tuple(_caught(spec, goal, level, spread, history, factor, first) for factor in HARMS)
    return GoalPlan(
        metric=goal.metric.name,
        role=goal.role,
        level=math.exp(level) if goal.metric.on_log_scale else level,
        detectable=detectable,
        asked=asked,
        units_needed=needed,
        caught=caught,
    )


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


def _spread(goal: Goal, totals: UnitTotals, level: float) -> float | None:
    """The standard deviation of one unit's worth, on the scale of the margin."""
    if goal.metric.kind == "binary":
        found = math.sqrt(level * (1.0 - level))
    else:
        cluster = totals.cluster
        if not cluster.usable:
            return None
        found = math.sqrt(cluster.variance * cluster.n)
        if not goal.metric.on_log_scale:
            found = found / abs(level) if level else 0.0
    return found or None


def _detectable(spec: AnalysisSpec, goal: Goal, spread: float, units: int, share: float) -> float:
    """The smallest effect found at the horizon, with all looks up to it."""
    risks = planning.allocate_risks(
        len(spec.named("success")), len(spec.named("guardrail")), alpha=spec.alpha, power=spec.power
    )
    guardrail = goal.role == "guardrail"
    alpha, sides = (risks.alpha_guardrail, 1) if guardrail else (risks.alpha_success, 2)
    looks = [look / spec.looks for look in range(1, spec.looks + 1)]
    inflated = group_sequential.inflation(looks, alpha=alpha, power=risks.power, sides=sides)
    se = spread * math.sqrt(inflated / (units * share * (1.0 - share)))
    return planning.detectable(se, alpha=alpha, power=risks.power, sides=sides)


def _caught(
    spec: AnalysisSpec,
    goal: Goal,
    level: float,
    spread: float,
    history: History,
    factor: float,
    share: float,
) -> Caught:
    log_threshold = math.log(max(1, len(spec.named("guardrail"))) / spec.rollback_alpha)
    if goal.metric.kind == "binary":
        units = _until_failures(goal, level, factor, share, log_threshold)
    else:
        units = _until_sequence(spec, goal, spread, factor, share)
    if units is None or units > spec.horizon:
        return Caught(factor=factor, units=None, days=None)
    rate = history.units_a_day
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
    log_e = failures.harm_log_e(candidate, control, share, ratio=goal.tolerated_ratio)
    crossed = log_e >= log_threshold
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, np.inf)
    median = float(np.median(first))
    return median / (share * worse + (1.0 - share) * level) if math.isfinite(median) else None


def _until_sequence(
    spec: AnalysisSpec, goal: Goal, spread: float, factor: float, share: float
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
    best_at = max(1.0, spec.horizon / 2.0)
    units = 100.0
    while units <= spec.horizon:
        se = spread / math.sqrt(units * share * (1.0 - share))
        effective = 4.0 * units * share * (1.0 - share)
        if excess / se >= confidence_sequence.one_sided_critical_value(
            effective, alpha=alpha, best_at=best_at
        ):
            return units
        units *= 1.05
    return None
