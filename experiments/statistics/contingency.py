"""What do the exact and classical tests of a two-by-two table say, and how large is the risk ratio?

For pairs (candidate, control) of counts out of n. What a verdict uses is in `proportion`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import scipy

from .estimate import Estimate, Interval, check_level, lacking, log_two_sided, quantile
from .proportion import EXACT_LIMIT, Share, pooled_score, restricted_ratio

Alternative = Literal["two-sided", "less", "greater"]


def _table(candidate: Share, control: Share) -> np.ndarray:
    (x1, n1), (x0, n0) = candidate, control
    return np.array([[x1, x0], [n1 - x1, n0 - x0]])


def _degenerate(candidate: Share, control: Share) -> bool:
    """Whether all units had the same outcome, or an arm has none: no table can differ then."""
    total = candidate[0] + control[0]
    return 0 in (candidate[1], control[1]) or total in (0, candidate[1] + control[1])


def fisher(candidate: Share, control: Share, *, alternative: Alternative = "two-sided") -> float:
    """Fisher's exact p; 1.0 where the table cannot differ."""
    if _degenerate(candidate, control):
        return 1.0
    return float(scipy.stats.fisher_exact(_table(candidate, control), alternative=alternative).pvalue)


def boschloo(
    candidate: Share, control: Share, *, alternative: Alternative = "two-sided", limit: int = EXACT_LIMIT
) -> float | None:
    """Boschloo's exact unconditional p; None above `limit` units in an arm, where it takes too long."""
    if max(candidate[1], control[1]) > limit:
        return None
    if _degenerate(candidate, control):
        return 1.0
    return float(scipy.stats.boschloo_exact(_table(candidate, control), alternative=alternative).pvalue)


def barnard(
    candidate: Share,
    control: Share,
    *,
    alternative: Alternative = "two-sided",
    pooled: bool = False,
    limit: int = 2 * EXACT_LIMIT,
) -> float | None:
    """Barnard's exact p with the Wald statistic (pooled or not); None above `limit` units in an arm."""
    if max(candidate[1], control[1]) > limit:
        return None
    if _degenerate(candidate, control):
        return 1.0
    found = scipy.stats.barnard_exact(_table(candidate, control), alternative=alternative, pooled=pooled)
    return float(found.pvalue)


def chi_square(
    candidate: Share,
    control: Share,
    *,
    likelihood: bool = False,
    corrected: bool = True,
) -> float | None:
    """Pearson's chi-square p, or the likelihood ratio's, with Yates' correction; None without spread."""
    if _degenerate(candidate, control):
        return None
    found = scipy.stats.chi2_contingency(
        _table(candidate, control),
        correction=corrected,
        lambda_="log-likelihood" if likelihood else "pearson",
    )
    return float(found.pvalue)


def wald_share(count: int, n: int, *, alpha: float = 0.05) -> Interval | None:
    """The plain normal interval of one share, cut to [0, 1]: for comparison only. None at 0/n and n/n."""
    check_level(alpha)
    if not 0 < count < n:
        return None
    p = count / n
    half = quantile(1.0 - alpha / 2.0) * math.sqrt(p * (1.0 - p) / n)
    return Interval(lower=max(0.0, p - half), upper=min(1.0, p + half), level=1.0 - alpha)


def wald_difference(
    candidate: Share,
    control: Share,
    *,
    alpha: float = 0.05,
    pooled: bool = False,
    corrected: bool = False,
) -> Estimate:
    """The difference with the plain normal interval: for comparison only, it collapses at 0/n and n/n.

    `pooled` takes the variance under equal shares, `corrected` Yates' correction by half a unit in each arm.
    Without variance it is insufficient data, and not an interval of no width.
    """
    method = "wald"
    check_level(alpha)
    (x1, n1), (x0, n0) = candidate, control
    if n1 == 0 or n0 == 0:
        return lacking("no_data", method)
    p1, p0 = x1 / n1, x0 / n0
    value = p1 - p0
    if pooled:
        p = (x1 + x0) / (n1 + n0)
        variance = p * (1.0 - p) * (1.0 / n1 + 1.0 / n0)
    else:
        variance = p1 * (1.0 - p1) / n1 + p0 * (1.0 - p0) / n0
    if variance <= 0.0:
        return lacking("insufficient_data", method, value)
    se = math.sqrt(variance)
    shift = 0.5 * (1.0 / n1 + 1.0 / n0) if corrected else 0.0
    half = quantile(1.0 - alpha / 2.0) * se + shift
    interval = Interval(lower=value - half, upper=value + half, level=1.0 - alpha)
    log_p = log_two_sided(max(0.0, abs(value) - shift) / se)
    return Estimate(status="ok", method=method, value=value, se=se, interval=interval, log_p=log_p)


def risk_ratio_log(
    candidate: Share, control: Share, *, alpha: float = 0.05, adjusted: bool = False, pooled: bool = False
) -> Estimate:
    """The ratio of two shares with the normal interval of its logarithm (Katz et al. 1978).

    `pooled` takes the variance under equal shares.
    `adjusted` adds half an event and half a unit to each arm (Walter 1975): zero events have an answer.
    """
    method = "risk-ratio-log-adjusted" if adjusted else "risk-ratio-log"
    check_level(alpha)
    (x1, n1), (x0, n0) = candidate, control
    if n1 == 0 or n0 == 0:
        return lacking("no_data", method)
    added = 0.5 if adjusted else 0.0
    a1, a0, m1, m0 = x1 + added, x0 + added, n1 + added, n0 + added
    if a1 == 0.0 or a0 == 0.0:
        return lacking("insufficient_data", method)
    value = a1 / m1 / (a0 / m0)
    if pooled:
        variance = max(0.0, 1.0 / ((a1 + a0) / (m1 + m0)) - 1.0) * (1.0 / m1 + 1.0 / m0)
    else:
        variance = max(0.0, 1.0 / a1 - 1.0 / m1 + 1.0 / a0 - 1.0 / m0)
    if variance == 0.0:
        return lacking("insufficient_data", method, value)
    reach = math.exp(quantile(1.0 - alpha / 2.0) * math.sqrt(variance))
    return Estimate(
        status="ok",
        method=method,
        value=x1 / n1 / (x0 / n0) if x0 else value,
        se=math.sqrt(variance),
        interval=Interval(lower=value / reach, upper=value * reach, level=1.0 - alpha),
        log_p=log_two_sided(math.log(value) / math.sqrt(variance)),
    )


def risk_ratio_interval(
    candidate: Share, control: Share, *, alpha: float = 0.05, corrected: bool = True
) -> Estimate:
    """The ratio of two shares by inverting the score test (Koopman 1984; N / (N - 1) if `corrected`).

    Found by bracketing on the logarithm; an end is 0 or infinite at zero events, and n/n is no obstacle.
    """
    method = "risk-ratio-score"
    check_level(alpha)
    (x1, n1), (x0, n0) = candidate, control
    if n1 == 0 or n0 == 0:
        return lacking("no_data", method)
    if x1 == 0 and x0 == 0:
        return lacking("insufficient_data", method)
    z = quantile(1.0 - alpha / 2.0)

    def score(log_ratio: float) -> float:
        ratio = math.exp(log_ratio)
        p1, p0 = restricted_ratio(candidate, control, ratio)
        variance = p1 * (1.0 - p1) / n1 + ratio * ratio * p0 * (1.0 - p0) / n0
        if corrected:
            variance *= (n1 + n0) / (n1 + n0 - 1.0)
        gap = x1 / n1 - ratio * x0 / n0
        if gap == 0.0:
            return 0.0
        return gap / math.sqrt(variance) if variance > 0.0 else math.copysign(math.inf, gap)

    value = math.inf if x0 == 0 else x1 / n1 / (x0 / n0)
    start = math.log(value) if 0.0 < value < math.inf else math.copysign(60.0, value - 1.0)
    lower = 0.0 if x1 == 0 else math.exp(_root(score, z, start, -1.0))
    upper = math.inf if x0 == 0 else math.exp(_root(score, -z, start, 1.0))
    return Estimate(
        status="ok",
        method=method,
        value=None if math.isinf(value) else value,
        interval=Interval(lower=lower, upper=upper, level=1.0 - alpha),
        log_p=log_two_sided(pooled_score(candidate, control)),
    )


def _root(score: Callable[[float], float], target: float, start: float, step: float) -> float:
    """Where a score that falls in the log ratio passes `target`, looking from `start` in steps."""
    near, far = start, start
    while (score(far) - target) * step > 0.0 and abs(far) < 700.0:
        near, far = far, far + step
        step *= 1.5
    for _ in range(200):
        middle = 0.5 * (near + far)
        if middle in (near, far):
            break
        if (score(middle) - target) * step > 0.0:
            near = middle
        else:
            far = middle
    return 0.5 * (near + far)
