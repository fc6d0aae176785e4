"""What does an estimate say of the margin, to the eye, and at every moment? For arms and for pairs alike.

Estimates of any metric and design become effects on the scale that people know, bands, and the z and e by
which they are judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..evidence import AnalysisSpec, Goal
from ..statistics import confidence_sequence, strata
from ..statistics.estimate import Estimate, Interval, as_z
from ..statistics.moments import Cluster
from ..statistics.shares_below import QuantileContrast
from .scorecard import ArmResult, Band, Comparison, Effect

#: What shipping tolerates where the spec does not say: two points of a failure rate, 10 % of a mean.
DEFAULT_SHARE_MARGIN = 0.02
DEFAULT_RELATIVE_MARGIN = 0.10
#: Asymptotic sequences start here; the design's false-alarm rates are of this burn-in.
BURN_IN_UNITS = 100
BURN_IN_ARM = 20

#: An arm without units.
NO_UNITS = Cluster(n=0, y=0.0, m=0.0, yy=0.0, mm=0.0, ym=0.0)


def effective_units(strata_units: Sequence[tuple[int, int]]) -> float:
    """What units are worth, as those of an even split."""
    return 4.0 * sum(strata.harmonic(one, zero) for one, zero in strata_units)


def settled(strata_units: Sequence[tuple[int, int]]) -> bool:
    """Whether the burn-in of the asymptotic sequences is over."""
    ones, zeros = sum(one for one, _ in strata_units), sum(zero for _, zero in strata_units)
    return ones + zeros >= BURN_IN_UNITS and min(ones, zeros) >= BURN_IN_ARM


def countable(*sums: float) -> bool:
    """Whether sums are finite and so far from a float's ends that their squares are finite too."""
    return all(math.isfinite(value) and abs(value) < 1e70 for value in sums)


def level_shown(value: float | None, ratio: bool) -> float | None:
    """A level on the scale that people know: a geometric mean for a mean of logarithms."""
    if value is None or not ratio:
        return value
    return math.exp(value) if value < 700.0 else None


def margin_shown(sign: float, margin: float, control: float | None, ratio: bool) -> float | None:
    """The margin on the scale of the effect; None where it needs a level that is not known."""
    if ratio:
        return 1.0 + sign * margin
    return None if control is None else sign * margin * abs(control)


def signed_z(estimate: Estimate, sign: float) -> float | None:
    """The z with the same one-sided p as the estimate's t, positive in the direction of `sign`."""
    if estimate.status != "ok" or estimate.value is None or not estimate.se:
        return None
    return as_z(sign * estimate.value / estimate.se, estimate.df)


def lesser(one: float | None, other: float | None) -> float | None:
    """Two one-sided tests reject together where the lesser of their z does (TOST)."""
    return None if one is None or other is None else min(one, other)


def harm_log_e(
    spec: AnalysisSpec,
    harm: Estimate,
    sign: float,
    units: Sequence[tuple[int, int]],
    harm_alpha: float,
) -> float | None:
    """ln of the e-value against "no worse than the margin", from the estimate against it."""
    z = signed_z(harm, sign)
    if z is None or not settled(units):
        return None
    return float(
        confidence_sequence.harm_log_e(z, effective_units(units), alpha=harm_alpha, horizon=spec.horizon)
    )


def effect_of(estimate: Estimate, *, ratio: bool) -> Effect | None:
    """The estimate as an effect; None without an interval."""
    if estimate.status != "ok" or estimate.value is None or estimate.interval is None:
        return None
    interval = estimate.interval
    return Effect(
        scale="ratio" if ratio else "difference",
        estimate=_through(estimate.value, ratio),
        lower=_through(interval.lower, ratio),
        upper=_through(interval.upper, ratio),
        level=interval.level,
        method=f"{estimate.method}-log" if ratio and "log" not in estimate.method else estimate.method,
        method_version=estimate.version,
        null=1.0 if ratio else 0.0,
        log_p=estimate.log_p,
    )


def _through(value: float, ratio: bool) -> float:
    return math.exp(min(value, 700.0)) if ratio else value


def band_of(
    spec: AnalysisSpec, estimate: Estimate, units: Sequence[tuple[int, int]], *, ratio: bool
) -> Band | None:
    """The interval that holds at every moment; None before the burn-in."""
    if estimate.status != "ok" or estimate.value is None or estimate.se is None or not settled(units):
        return None
    found: Interval | None = confidence_sequence.band(
        estimate.value,
        estimate.se,
        effective_units(units),
        alpha=spec.alpha,
        best_at=max(1.0, spec.horizon / 2.0),
    )
    return None if found is None else _band(spec, estimate.value, (found.lower, found.upper), ratio)


def quantile_comparison(
    spec: AnalysisSpec,
    goal: Goal,
    arms: tuple[ArmResult, ArmResult],
    found: QuantileContrast,
    n: float | None,
    harm_alpha: float,
) -> Comparison:
    """What two quantiles say, of arms or of pairs, after `n` units' worth; None before the burn-in's end."""
    estimate = found.estimate(alpha=spec.alpha)
    if estimate.status != "ok":
        return Comparison(arms=arms)
    sign = sign_of(goal)
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    harm, gain = (sign * found.z(math.log1p(side * sign * margin)) for side in (1.0, -1.0))
    band = log_e = None
    if n is not None:
        reach = confidence_sequence.critical_value(n, alpha=spec.alpha, best_at=max(1.0, spec.horizon / 2.0))
        ends = found.between(reach)
        band = None if ends is None else _band(spec, found.value, ends, ratio=True)
        log_e = float(confidence_sequence.harm_log_e(harm, n, alpha=harm_alpha, horizon=spec.horizon))
    return Comparison(
        arms=arms,
        effect=effect_of(estimate, ratio=True),
        band=band,
        margin=1.0 + sign * margin,
        harm_log_e=log_e,
        harm_method="one-sided-asymptotic",
        z_better=-sign * found.z(0.0),
        z_noninferior=-harm,
        z_equivalent=min(-harm, gain),
    )


def _band(spec: AnalysisSpec, value: float, ends: tuple[float, float], ratio: bool) -> Band:
    lower, upper = (_through(end, ratio) for end in ends)
    return Band(
        estimate=_through(value, ratio),
        lower=lower,
        upper=upper,
        level=1.0 - spec.alpha,
        method="asymptotic-cs",
    )


def shifted(estimate: Estimate, by: float) -> Estimate:
    """The estimate less a constant."""
    if estimate.status != "ok" or estimate.value is None:
        return estimate
    return Estimate(
        status="ok",
        method=estimate.method,
        value=estimate.value - by,
        se=estimate.se,
        df=estimate.df,
    )


def sign_of(goal: Goal) -> float:
    """1 where more is worse, -1 where less is."""
    return 1.0 if goal.metric.direction == "decrease" else -1.0


def as_margin(goal: Goal, distance: float) -> float:
    """What a distance, where it is of logarithms, is as a margin to the worse side, or as an improvement."""
    if not goal.metric.on_log_scale:
        return distance
    up = (sign_of(goal) > 0.0) == (goal.role == "guardrail" or goal.equivalent)
    return math.expm1(distance) if up else -math.expm1(-distance)
