"""How many units are needed, and what can be seen with those there are? To ask before the start.

Normal approximations, two-sided unless `sides` is 1; n is a float (round it up). Looking several times
costs a few per cent more (`group_sequential.inflation`). Traffic is not its business: days are n over units a
day.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import scipy

from .bounded import BoundedArm, arms_z
from .confidence_sequence import critical_value
from .estimate import StatisticsError, check_level, quantile
from .proportion import score_variance

#: Beyond so many degrees of freedom t is normal to seven digits, and the non-central t a number no more.
_ALMOST_NORMAL = 1e7


def _zs(alpha: float, power: float, sides: int) -> tuple[float, float]:
    check_level(alpha)
    check_level(power)
    if sides not in (1, 2):
        raise StatisticsError(f"{sides!r} sides: 1 or 2 are needed")
    return quantile(1.0 - alpha / sides), quantile(power)


def _phi(z: float) -> float:
    return float(scipy.stats.norm.cdf(z))


def _positive(**numbers: float) -> None:
    """Raises StatisticsError unless each is a positive, finite number."""
    for name, number in numbers.items():
        if not 0.0 < number < math.inf:
            raise StatisticsError(f"{name.replace('_', ' ')} is {number!r}: a positive number is needed")


def _not_zero(effect: float) -> float:
    if effect == 0.0 or not math.isfinite(effect):
        raise StatisticsError(f"the effect to be found is {effect!r}: a number other than 0 is needed")
    return effect


def units_for_shares(
    control: float,
    difference: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    sides: int = 2,
) -> float:
    """Units in the candidate's arm to tell p0 + difference from p0; the control's arm has `ratio` as many.

    The test's variance is of the pooled share, the power's of the two (Fleiss 1981).
    """
    z_a, z_b = _zs(alpha, power, sides)
    null, other = _share_spreads(control, difference, ratio)
    return ((z_a * null + z_b * other) / _not_zero(difference)) ** 2


def _share_spreads(control: float, difference: float, ratio: float) -> tuple[float, float]:
    candidate = control + difference
    _positive(ratio=ratio)
    if not (0.0 <= control <= 1.0 and 0.0 <= candidate <= 1.0):
        raise StatisticsError(f"the shares {control!r} and {candidate!r} must lie in [0, 1]")
    pooled = (candidate + control * ratio) / (1.0 + ratio)
    null = math.sqrt(pooled * (1.0 - pooled) * (1.0 + 1.0 / ratio))
    return null, math.sqrt(candidate * (1.0 - candidate) + control * (1.0 - control) / ratio)


def power_of_shares(
    n: float, control: float, difference: float, *, alpha: float = 0.05, ratio: float = 1.0, sides: int = 2
) -> float:
    """The power with n units in the candidate's arm, of both tails where there are two sides."""
    check_level(alpha)
    null, other = _share_spreads(control, difference, ratio)
    if other == 0.0 or n <= 0.0:
        return 0.0 if difference == 0.0 or n <= 0.0 else 1.0
    crossing = quantile(1.0 - alpha / sides) * null / other
    shift = abs(difference) * math.sqrt(n) / other
    found = _phi(shift - crossing)
    return found + _phi(-shift - crossing) if sides == 2 else found


def units_for_shares_arcsine(
    control: float,
    difference: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    sides: int = 2,
) -> float:
    """The same by Cohen's h, the difference of arcsine-transformed shares."""
    _share_spreads(control, difference, ratio)
    h = 2.0 * math.asin(math.sqrt(control + difference)) - 2.0 * math.asin(math.sqrt(control))
    z_a, z_b = _zs(alpha, power, sides)
    n = (z_a + z_b) ** 2 * (1.0 + 1.0 / ratio) / _not_zero(h) ** 2
    if sides == 1:
        return n

    def gap(units: float) -> float:
        shift = abs(h) * math.sqrt(units / (1.0 + 1.0 / ratio))
        return _phi(shift - z_a) + _phi(-shift - z_a) - power

    return n if gap(n / 2.0) > 0.0 else float(scipy.optimize.brentq(gap, n / 2.0, n * 1.01, xtol=1e-9))


def units_for_means(
    variance: float,
    difference: float,
    *,
    control_variance: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    sides: int = 2,
) -> float:
    """Units in the candidate's arm to see a difference of means; the control's arm has `ratio` as many.

    `variance` is of a unit, in the control's arm too where `control_variance` is not given.
    """
    z_a, z_b = _zs(alpha, power, sides)
    other = variance if control_variance is None else control_variance
    return (z_a + z_b) ** 2 * (variance + other / ratio) / _not_zero(difference) ** 2


def detectable(se: float, *, alpha: float = 0.05, power: float = 0.8, sides: int = 2) -> float:
    """The smallest effect that an estimate with this standard error would find with this power."""
    z_a, z_b = _zs(alpha, power, sides)
    return (z_a + z_b) * se


def margin_of_shares(
    share: float, candidates: float, controls: float, *, alpha: float, power: float
) -> float:
    """The smallest margin within which two arms that are alike are shown to be, one-sided, by the score test:
    its variance is that of a candidate at the margin (Farrington and Manning 1990)."""
    z_a, z_b = _zs(alpha, power, 1)
    one, zero = ((round(share * n), round(n)) for n in (candidates, controls))
    se = math.sqrt(share * (1.0 - share) * (1.0 / candidates + 1.0 / controls))

    def gap(margin: float) -> float:
        return margin - z_b * se - z_a * math.sqrt(score_variance(one, zero, margin, corrected=False))

    most = 1.0 - share
    return float(scipy.optimize.brentq(gap, 0.0, most, xtol=1e-9)) if gap(most) > 0.0 else most


def margin_of_scores(
    level: float, variance: float, candidates: float, controls: float, *, alpha: float, power: float
) -> float:
    """The same of scores in [0, 1] of which a unit has this variance, by `bounded.arms_z`; of `level`."""
    z_a, z_b = _zs(alpha, power, 1)
    # A candidate that is as far below by luck as the power allows for: it varies more too.
    low = max(0.0, level - z_b * math.sqrt(variance * (1.0 / candidates + 1.0 / controls)))
    one = BoundedArm(n=candidates, mean=low, variance=variance * low * (1.0 - low) / (level * (1.0 - level)))
    zero = BoundedArm(n=controls, mean=level, variance=variance)
    se = math.sqrt(one.variance / candidates + variance / controls)

    def gap(away: float) -> float:
        return arms_z(away, se, one, zero, factor=max(0.0, (low - away) / level)) - z_a

    end = float(scipy.optimize.brentq(gap, 1e-9, level, xtol=1e-9)) if gap(level) > 0.0 else level
    return min(level, end + level - low) / level


def power_of_t(
    total: float, effect: float, *, variance: float, alpha: float = 0.05, ratio: float = 1.0, sides: int = 2
) -> float:
    """The power of Welch's t with `total` units, of which the candidate has ratio / (1 + ratio)."""
    check_level(alpha)
    n0, n1 = total / (1.0 + ratio), total * ratio / (1.0 + ratio)
    if min(n0, n1) <= 1.0 or variance <= 0.0:
        return 0.0
    part0, part1 = variance / n0, variance / n1
    se = math.sqrt(part0 + part1)
    df = (part0 + part1) ** 2 / (part0**2 / (n0 - 1.0) + part1**2 / (n1 - 1.0))
    shift = abs(effect) / se
    if df > _ALMOST_NORMAL:
        crossing = quantile(1.0 - alpha / sides)
        return _phi(shift - crossing) + (_phi(-shift - crossing) if sides == 2 else 0.0)
    crossing = float(scipy.stats.t.isf(alpha / sides, df))
    found = float(scipy.stats.nct.sf(crossing, df, shift))
    return found + float(scipy.stats.nct.cdf(-crossing, df, shift)) if sides == 2 else found


def units_for_t(
    effect: float,
    *,
    variance: float,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    sides: int = 2,
) -> float:
    """Units in both arms together for Welch's t."""
    _zs(alpha, power, sides)
    _not_zero(effect)
    _positive(variance=variance, ratio=ratio)

    def gap(total: float) -> float:
        return power_of_t(total, effect, variance=variance, alpha=alpha, ratio=ratio, sides=sides) - power

    high = 10.0
    while gap(high) < 0.0:
        high *= 4.0
    return (
        float(scipy.optimize.brentq(gap, min(3.0, high / 2), high, xtol=1e-9, rtol=1e-12))
        if gap(3.0) < 0.0
        else 3.0
    )


def detectable_by_t(
    total: float,
    *,
    variance: float,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    sides: int = 2,
) -> float:
    """The smallest difference that Welch's t finds with `total` units; infinite where there are too few."""
    if total <= 2.0 * (1.0 + ratio) * max(1.0, 1.0 / ratio) or variance <= 0.0:
        return math.inf if variance > 0.0 else 0.0

    def gap(effect: float) -> float:
        return power_of_t(total, effect, variance=variance, alpha=alpha, ratio=ratio, sides=sides) - power

    high = math.sqrt(variance / total)
    while gap(high) < 0.0:
        high *= 2.0
    return float(scipy.optimize.brentq(gap, 0.0, high, xtol=1e-14, rtol=1e-13))


def powered_effect(
    variance_control: float,
    n_control: float,
    n_candidate: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    sides: int = 2,
) -> float:
    """The smallest difference of means that these arms find, both with the control's variance."""
    return detectable(
        math.sqrt(variance_control * (1.0 / n_control + 1.0 / n_candidate)),
        alpha=alpha,
        power=power,
        sides=sides,
    )


def powered_difference(
    control: float,
    n_control: float,
    n_candidate: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    sides: int = 2,
) -> float | None:
    """The smallest rise of a share that these arms find, each with its own variance; or None."""
    z = sum(_zs(alpha, power, sides))

    def gap(rise: float) -> float:
        p = min(1.0, control + rise)
        return rise - z * math.sqrt(control * (1.0 - control) / n_control + p * (1.0 - p) / n_candidate)

    if not 0.0 <= control < 1.0 or gap(1.0 - control) < 0.0:
        return None
    return float(scipy.optimize.brentq(gap, 0.0, 1.0 - control, xtol=1e-14))


def design_effect(cluster_size: float, icc: float) -> float:
    """By how much clusters of this size inflate a variance (Kish): 1 + (m - 1) icc, icc cut at 0."""
    return 1.0 + (cluster_size - 1.0) * max(0.0, icc)


def paired_detectable(
    sd: float,
    pairs: float,
    *,
    clusters: float | None = None,
    icc: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
    sides: int = 2,
) -> float:
    """The smallest mean difference that so many pairs find; `sd` is of the differences."""
    if pairs < 2.0:
        return math.inf
    deff = 1.0 if clusters is None else design_effect(pairs / clusters, icc)
    return detectable(sd * math.sqrt(deff / pairs), alpha=alpha, power=power, sides=sides)


def paired_units(
    sd: float,
    difference: float,
    *,
    cluster_size: float = 1.0,
    icc: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
    sides: int = 2,
) -> float:
    """How many pairs are needed to see a mean difference."""
    z_a, z_b = _zs(alpha, power, sides)
    return ((z_a + z_b) * sd / _not_zero(difference)) ** 2 * design_effect(cluster_size, icc)


def golden_items(
    difference: float,
    *,
    between: float,
    within_candidate: float = 0.0,
    within_control: float = 0.0,
    generations: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
    sides: int = 2,
) -> float:
    """Golden items to see a difference (Miller 2024, eq. 9).

    `between` is the variance over items of the difference of their means, `within_*` the variance of one
    generation about its item's mean; `generations` are drawn of each item in both arms.
    """
    z_a, z_b = _zs(alpha, power, sides)
    variance = between + (within_candidate + within_control) / generations
    return (z_a + z_b) ** 2 * variance / _not_zero(difference) ** 2


def resampling_variance(generations: float) -> float:
    """Var(K generations) / Var(1) = (1 + 2 / K) / 3 where the items' pass rates are uniform (Miller 3.1)."""
    if not generations >= 1.0:
        raise StatisticsError(f"{generations!r} generations: 1 or more are needed")
    return (1.0 + 2.0 / generations) / 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPlan:
    """Items that people label (n), that only the judge scores (N), the cost, and what it is worth."""

    n: int
    N: int
    cost: float
    effective_n: int


def _effective(n: float, N: float, correlation: float) -> int:
    below = n + (1.0 - correlation**2) * N
    return round(n * (n + N) / below) if below > 0.0 else 0


def label_plan(
    correlation: float,
    *,
    label_cost: float,
    judge_cost: float,
    item_cost: float = 0.0,
    effective_n: float | None = None,
    budget: float | None = None,
) -> LabelPlan:
    """The cheapest labels and judge scores worth `effective_n` labels, or the most that `budget` buys.

    `correlation` is of judge and human. Broska, Howes and van Loon (2024): n = n0 (1 - r^2 + sqrt(g r^2 (1 -
    r^2))), with g the cost of a judged item over that of a label; labels alone where the judge does not pay.
    """
    if not -1.0 < correlation < 1.0:
        raise StatisticsError(
            f"the correlation is {correlation!r}: a number strictly between -1 and 1 is needed"
        )
    _positive(label_cost=label_cost)
    if judge_cost < 0.0 or item_cost < 0.0:
        raise StatisticsError(f"costs of {judge_cost!r} and {item_cost!r}: none may be negative")
    r2, g = correlation**2, (judge_cost + item_cost) / label_cost
    each = label_cost * (1.0 - r2 + g * r2 + 2.0 * math.sqrt(g * r2 * (1.0 - r2)))
    alone = label_cost + item_cost
    if budget is not None:
        wanted, without = budget / each, budget / alone
    elif effective_n is not None:
        wanted = without = float(effective_n)
    else:
        raise StatisticsError("neither effective_n nor budget is given: one is needed")
    n = wanted * (1.0 - r2 + math.sqrt(g * r2 * (1.0 - r2)))
    N = n * (wanted - n) / (n - (1.0 - r2) * wanted) if r2 and g else (math.inf if r2 else 0.0)
    if alone < each or N < 0.0:
        n, N = without, 0.0
        return LabelPlan(n=round(n), N=0, cost=round(n) * alone, effective_n=round(n))
    if math.isinf(N):
        raise StatisticsError("judged items cost nothing: judge all there are")
    n, N = round(n), round(N)
    cost = n * label_cost + (n + N) * (judge_cost + item_cost)
    return LabelPlan(n=n, N=N, cost=cost, effective_n=_effective(n, N, correlation))


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskAllocation:
    """The alpha of each success metric and each guardrail, and the power each is to be planned with."""

    alpha_success: float
    alpha_guardrail: float
    power: float


def allocate_risks(
    success_metrics: int, guardrails: int, *, alpha: float = 0.05, power: float = 0.8
) -> RiskAllocation:
    """Who gets how much risk (Schultzberg, Ankargren and Franberg 2024).

    One success metric suffices, so they share alpha; every guardrail must pass, so each keeps alpha; the
    power's error is shared by the guardrails and one success metric (none, if none is declared).
    """
    check_level(alpha)
    check_level(power)
    if success_metrics < 0 or guardrails < 0:
        raise StatisticsError("a negative number of metrics")
    sharers = guardrails + min(1, success_metrics) if guardrails else 1
    shared = 1.0 - (1.0 - power) / sharers
    return RiskAllocation(alpha_success=alpha / max(1, success_metrics), alpha_guardrail=alpha, power=shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreUnits:
    """How many times as many units again are needed (None: more than can be had), and power now."""

    factor: float | None
    power_now: float


def more_units(
    se: float,
    n: float,
    effect: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    best_at: float | None = None,
) -> MoreUnits:
    """How much longer to run for `effect` to be found, from the standard error after n units.

    With `best_at` the interval is the asymptotic sequence tuned there, otherwise the fixed-look one.
    """
    check_level(power)
    _positive(standard_error=se, units=n)
    if not math.isfinite(effect):
        raise StatisticsError(f"the effect to be found is {effect!r}: a number is needed")

    def at(factor: float) -> float:
        grown = se / math.sqrt(1.0 + factor)
        if best_at is None:
            crossing = quantile(1.0 - alpha / 2.0)
        else:
            crossing = critical_value(n * (1.0 + factor), alpha=alpha, best_at=best_at)
        shift = abs(effect) / grown
        return _phi(shift - crossing) + _phi(-shift - crossing)

    now = at(0.0)
    if now >= power:
        return MoreUnits(factor=0.0, power_now=now)
    high = 1.0
    while at(high) < power:
        high *= 2.0
        if high > 2.0**27:
            return MoreUnits(factor=None, power_now=now)
    return MoreUnits(factor=float(scipy.optimize.brentq(lambda f: at(f) - power, 0.0, high)), power_now=now)


def first_units(excluded: Callable[[float], bool], since: float, horizon: int) -> float | None:
    """The first number of units, to a twentieth, that suffices; None beyond the horizon."""
    units = since
    while units <= horizon:
        if excluded(units):
            return units
        units *= 1.05
    return None
