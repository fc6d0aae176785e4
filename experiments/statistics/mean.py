"""By how much do two independent means, or ratios of sums, differ?

Welch's t on the difference (F2), on the relative difference by the delta method and by the log ratio (F3),
and the same for ratios of sums over units (F4). It knows neither looks nor margins' policies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from .estimate import Estimate, Interval, check_level, lacking, log_two_sided, quantile
from .moments import Cluster, Moments

Alternative = Literal["two-sided", "greater", "less"]


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances, each with its number of units."""
    total = sum(variance for variance, _ in parts)
    below = sum(variance * variance / (n - 1) for variance, n in parts if n > 1)
    return total * total / below if below > 0.0 else math.inf


def t_estimate(
    value: float,
    variance: float,
    df: float,
    *,
    alpha: float,
    method: str,
    null: float = 0.0,
    alternative: Alternative = "two-sided",
) -> Estimate:
    """An estimate from its variance. One-sided intervals have level 1 - alpha and an infinite end."""
    check_level(alpha)
    if not math.isfinite(value):
        return lacking("not_finite", method)
    if not (0.0 < variance < math.inf and df > 0.0):
        return lacking("insufficient_data", method, value)
    se = math.sqrt(variance)
    statistic = (value - null) / se
    if alternative == "two-sided":
        half = quantile(1.0 - alpha / 2.0, df) * se
        ends = (value - half, value + half)
        log_p = log_two_sided(statistic, df)
    else:
        half = quantile(1.0 - alpha, df) * se
        up = alternative == "greater"
        ends = (value - half, math.inf) if up else (-math.inf, value + half)
        # The one-sided p from the two-sided logarithm, without losing the far tail.
        favourable = (statistic > 0.0) == up
        half_p = log_two_sided(statistic, df) - math.log(2.0)
        log_p = half_p if favourable else math.log1p(-math.exp(half_p))
    interval = Interval(lower=ends[0], upper=ends[1], level=1.0 - alpha)
    return Estimate(status="ok", method=method, value=value, se=se, df=df, interval=interval, log_p=log_p)


def welch(
    candidate: Moments,
    control: Moments,
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    normal: bool = False,
) -> Estimate:
    """The difference of two means (F2): s1^2/n1 + s0^2/n0 with Satterthwaite's degrees of freedom.

    With `normal` the reference distribution is normal, as some platforms have it.
    """
    if candidate.n == 0 or control.n == 0:
        return lacking("no_data", "welch")
    value = candidate.mean - control.mean
    if not math.isfinite(value):
        return lacking("not_finite", "welch")
    if not (candidate.usable or control.usable) or min(candidate.n, control.n) < 2:
        return lacking("insufficient_data", "welch", value)
    parts = [(arm.variance / arm.n, arm.n) for arm in (candidate, control)]
    variance = sum(part for part, _ in parts)
    df = math.inf if normal else satterthwaite(parts)
    return t_estimate(value, variance, df, alpha=alpha, method="welch", alternative=alternative)


def relative_change(candidate: float, control: float) -> float | None:
    """(candidate - control) / |control|: a negative base keeps the direction; None for a base of zero."""
    return (candidate - control) / abs(control) if control != 0.0 else None


def relative(
    candidate: Moments, control: Moments, *, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Estimate:
    """(mean1 - mean0) / |mean0| by the delta method (F3): dividing by the size keeps the direction.

    The degrees of freedom are those of the difference. A control mean of zero has no answer.
    """
    plain = welch(candidate, control, alpha=alpha)
    if plain.status != "ok":
        return lacking(plain.status, "welch-relative-delta")
    base = control.mean
    if base == 0.0:
        return lacking("insufficient_data", "welch-relative-delta")
    variance = candidate.variance / (candidate.n * base**2) + control.variance * candidate.mean**2 / (
        control.n * base**4
    )
    return t_estimate(
        (candidate.mean - base) / abs(base),
        variance,
        plain.df,
        alpha=alpha,
        method="welch-relative-delta",
        alternative=alternative,
    )


def log_ratio(candidate: Moments, control: Moments, *, alpha: float = 0.05) -> Estimate:
    """ln(mean1 / mean0) (F3): symmetric, and never below a ratio of zero. Both means must be positive."""
    plain = welch(candidate, control, alpha=alpha)
    if plain.status != "ok":
        return lacking(plain.status, "welch-log-ratio")
    if candidate.mean <= 0.0 or control.mean <= 0.0:
        return lacking("insufficient_data", "welch-log-ratio")
    parts = [(arm.variance / (arm.n * arm.mean**2), arm.n) for arm in (candidate, control)]
    return t_estimate(
        math.log(candidate.mean / control.mean),
        sum(part for part, _ in parts),
        plain.df,
        alpha=alpha,
        method="welch-log-ratio",
    )


def ratio_difference(candidate: Cluster, control: Cluster, *, alpha: float = 0.05) -> Estimate:
    """R1 - R0 for ratios of sums over units (F4), with Welch's degrees of freedom over the units."""
    if candidate.n == 0 or control.n == 0 or not candidate.m or not control.m:
        return lacking("no_data", "ratio-delta")
    if min(candidate.n, control.n) < 2:
        return lacking("insufficient_data", "ratio-delta", candidate.ratio - control.ratio)
    parts = [(candidate.variance, candidate.n), (control.variance, control.n)]
    return t_estimate(
        candidate.ratio - control.ratio,
        sum(part for part, _ in parts),
        satterthwaite(parts),
        alpha=alpha,
        method="ratio-delta",
    )


def ratio_log_ratio(candidate: Cluster, control: Cluster, *, alpha: float = 0.05) -> Estimate:
    """ln(R1 / R0) for ratios of sums over units: F3 on F4's variances. Both ratios must be positive."""
    plain = ratio_difference(candidate, control, alpha=alpha)
    if plain.status != "ok":
        return lacking(plain.status, "ratio-log-ratio")
    if candidate.ratio <= 0.0 or control.ratio <= 0.0:
        return lacking("insufficient_data", "ratio-log-ratio")
    parts = [(arm.variance / arm.ratio**2, arm.n) for arm in (candidate, control)]
    return t_estimate(
        math.log(candidate.ratio / control.ratio),
        sum(part for part, _ in parts),
        satterthwaite(parts),
        alpha=alpha,
        method="ratio-log-ratio",
    )
