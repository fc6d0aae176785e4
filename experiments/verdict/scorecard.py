"""What does one metric say of the two arms? The card that people read, and the numbers that decide.

The shapes of a metric's result and its sentence. `comparison` fills them; `verdict` weighs them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from ..evidence import Goal, Role
from ..figures import percent, points, quantity
from ..metrics import Direction, Kind

Scale = Literal["difference", "ratio"]
MetricState = Literal["ok", "crossed", "better", "equivalent", "worse", "no_data", "insufficient_data"]

#: e-values are shown as numbers; beyond this only their logarithm is told.
_LARGEST_LOG = 690.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One arm: `n` observed exchanges of `units` units, `missing` of them unknown; the metric's level.

    `value` is a share of units (binary), a mean, or a geometric mean; None without data. Of several phases
    it is their average by the weights of the comparison.
    """

    arm: str
    version: int | None
    units: int
    n: int
    missing: int
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Candidate against control at one look, on the scale named; `null` is where they are the same."""

    scale: Scale
    estimate: float
    lower: float
    upper: float
    level: float
    method: str
    method_version: str
    null: float
    log_p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The same, valid at all moments at once."""

    estimate: float
    lower: float
    upper: float
    level: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """A metric's card, in JSON's terms. `margin` is on the effect's scale, and None of a goal that has none:
    of a success metric that is to be better, of an exploratory one. `e_value` tests for harm.

    `z` is what a look judges the goal by, and `z_bound` what it must pass at this very look: of a success
    metric the bound by Holm's steps, of a guardrail that of its margin; None between looks.
    `instrument` is the evaluator's version that a score is of: with another one it is another metric.
    `information` is what a later look is held against (of shares: CMH's variance).
    `adjusted_p` is of an exploratory metric at this look, among all of them (false-discovery rate).
    """

    metric: str
    title: str
    role: Role
    kind: Kind
    direction: Direction
    display_unit: str
    unit: str
    arms: tuple[ArmResult, ...]
    effect: Effect | None
    band: Band | None
    margin: float | None
    tolerated_ratio: float | None
    e_value: float | None
    log_e: float | None
    e_method: str | None
    threshold: float | None
    state: MetricState
    text: str
    instrument: str | None = None
    adjusted_p: float | None = None
    information: float | None = None
    z: float | None = None
    z_bound: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a method found out about one goal, before anything is decided.

    `harm_log_e` is ln of the e-value against "no worse than tolerated". `z_better` is positive where the
    candidate is better, `z_noninferior` where it is less bad than the margin, `z_equivalent` where it is
    neither better nor worse by the margin (the lesser of two one-sided tests); None if unknown.
    `information` is what this look knows, on any scale; None: what its units are worth.
    `missing_log_e` tells whether values are missing more often in one arm. `alike`: all pairs differ by the
    very same, and by how much another one might is not known.
    """

    arms: tuple[ArmResult, ArmResult]
    effect: Effect | None = None
    band: Band | None = None
    margin: float | None = None
    harm_log_e: float | None = None
    harm_method: str | None = None
    z_better: float | None = None
    z_noninferior: float | None = None
    z_equivalent: float | None = None
    information: float | None = None
    missing_log_e: float = 0.0
    alike: bool = False

    def strength(self, goal: Goal) -> float | None:
        """The z by which a look judges the goal: for shipping, the larger the better."""
        if goal.role == "guardrail":
            return self.z_noninferior
        return self.z_equivalent if goal.equivalent else self.z_better


def card(
    goal: Goal,
    found: Comparison,
    *,
    unit: str,
    log_threshold: float | None,
    z_called: float,
    z_bound: float = math.inf,
    instrument: str | None = None,
    adjusted_p: float | None = None,
) -> MetricResult:
    """The card of one goal. `log_threshold` is that of rolling back, None where the goal cannot do so.

    `z_called` is what z must pass to be called better or worse, `z_bound` what it must for shipping.
    """
    log_e = found.harm_log_e if log_threshold is not None else None
    return MetricResult(
        metric=goal.metric.name,
        title=goal.metric.title,
        role=goal.role,
        kind=goal.metric.kind,
        direction=goal.metric.direction,
        display_unit=goal.metric.display_unit,
        unit=unit,
        arms=found.arms,
        effect=found.effect,
        band=found.band,
        margin=found.margin if goal.role == "guardrail" or goal.equivalent else None,
        tolerated_ratio=goal.tolerated_ratio if goal.metric.kind == "binary" else None,
        e_value=None if log_e is None else math.exp(min(log_e, _LARGEST_LOG)),
        log_e=log_e,
        e_method=None if log_e is None else found.harm_method,
        threshold=None if log_threshold is None else math.exp(log_threshold),
        state=_state(goal, found, log_e, log_threshold, z_called),
        text=describe(goal, found),
        instrument=instrument,
        adjusted_p=adjusted_p,
        information=found.information,
        z=found.strength(goal),
        z_bound=z_bound if math.isfinite(z_bound) else None,
    )


def _state(
    goal: Goal, found: Comparison, log_e: float | None, log_threshold: float | None, z_bound: float
) -> MetricState:
    if log_e is not None and log_threshold is not None and log_e >= log_threshold:
        return "crossed"
    if any(arm.n == 0 for arm in found.arms):
        return "no_data"
    if found.z_better is None or found.effect is None:
        return "insufficient_data"
    if goal.equivalent:
        return "equivalent" if (found.z_equivalent or -math.inf) >= z_bound else "ok"
    if found.z_better >= z_bound:
        return "better"
    return "worse" if found.z_better <= -z_bound else "ok"


#: So many values, all alike, are not too few.
_ALIKE: Final = 20


def describe(goal: Goal, found: Comparison) -> str:
    """One sentence on one metric: both levels, the effect and its interval, or what is lacking."""
    control, candidate = found.arms
    title = goal.metric.title
    if control.n == 0 or candidate.n == 0:
        side = (
            "either arm" if control.n == candidate.n else ("control" if control.n == 0 else "the candidate")
        )
        return f"{title}: no data from {side} yet"
    if found.effect is None or control.value is None or candidate.value is None:
        if found.alike and control.value is not None and candidate.value is not None and control.n > _ALIKE:
            unit = goal.metric.display_unit
            levels = f"{quantity(candidate.value, unit)} against {quantity(control.value, unit)}"
            return (
                f"{title}: {levels}, the same difference in every pair; one that is rare may be of any size, "
                "so that there is no interval"
            )
        if control.value is not None and control.value == candidate.value and control.n > _ALIKE:
            of_share = goal.metric.source == "scores" and goal.metric.below is None
            mend = f"; ask for the share of low ones, such as {goal.metric.name}<0.5" if of_share else ""
            return f"{title}: {control.value:g} in both arms, and what never varies has no interval{mend}"
        return f"{title}: too little data for an interval"
    effect = found.effect
    sure = f"{effect.level * 100:.4g} % interval"
    if goal.metric.kind == "binary":
        levels = f"{percent(candidate.value)} against {percent(control.value)}"
        span = f"{_points(effect.lower)} to {_points(effect.upper)}"
        return f"{title}: {levels}, {_points(effect.estimate)} ({sure} {span})"
    unit = goal.metric.display_unit
    apart = candidate.value - control.value if effect.scale == "difference" else math.inf
    levels = f"{quantity(candidate.value, unit, apart)} against {quantity(control.value, unit, apart)}"
    if effect.scale == "ratio":
        span = f"{_change(effect.lower)} to {_change(effect.upper)}"
        return f"{title}: {levels}, {_change(effect.estimate)} ({sure} {span})"
    span = f"{effect.lower:+.3g} to {effect.upper:+.3g}"
    return f"{title}: {levels}, {effect.estimate:+.3g} ({sure} {span})"


def _points(difference: float) -> str:
    return f"{points(difference)} points"


def _change(ratio: float) -> str:
    return f"{(ratio - 1.0) * 100.0:+.1f} %"
