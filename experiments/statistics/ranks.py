"""Is one sample larger than the other, whatever its shape? Ranks and effect sizes for latencies and scores.

Brunner and Munzel's test rather than Mann and Whitney's (the variances may differ), with an interval for
P(candidate > control); Hodges and Lehmann's shift with the interval by inverting the rank test. A location
test is blind to changes of the tail: see `quantiles` and the exceedance of a limit in `failures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import Estimate, Interval, check_level, lacking, log_two_sided, quantile

Floats = npt.NDArray[np.float64]


def _samples(candidate: Sequence[float], control: Sequence[float]) -> tuple[Floats, Floats]:
    """Both samples as arrays; empty if a value is no number, which has no rank."""
    one, zero = np.asarray(candidate, np.float64), np.asarray(control, np.float64)
    if np.isnan(one).any() or np.isnan(zero).any():
        return np.empty(0), np.empty(0)
    return one, zero


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTest:
    """A statistic and the logarithm of its two-sided p-value."""

    statistic: float
    log_p: float

    @property
    def p(self) -> float:
        """The p-value; 0.0 where it is smaller than a float can hold."""
        return math.exp(self.log_p)


def mann_whitney(candidate: Sequence[float], control: Sequence[float]) -> RankTest | None:
    """U of the candidate with the normal p, corrected for ties and continuity; None without spread."""
    one, zero = _samples(candidate, control)
    if not one.size or not zero.size:
        return None
    both = np.concatenate([one, zero])
    ranks = scipy.stats.rankdata(both)
    u = float(ranks[: one.size].sum()) - one.size * (one.size + 1) / 2.0
    n = both.size
    _, ties = np.unique(both, return_counts=True)
    uneven = float((ties.astype(np.float64) ** 3 - ties).sum()) / (n * (n - 1.0)) if n > 1 else 0.0
    variance = one.size * zero.size / 12.0 * (n + 1.0 - uneven)
    if variance <= 0.0:
        return None
    z = max(0.0, abs(u - one.size * zero.size / 2.0) - 0.5) / math.sqrt(variance)
    return RankTest(statistic=u, log_p=log_two_sided(z))


@dataclass(frozen=True, slots=True, kw_only=True)
class Superiority:
    """P(candidate > control), ties counting half: its test of 1/2 and its interval."""

    probability: float
    statistic: float
    df: float
    log_p: float
    interval: Interval

    @property
    def p(self) -> float:
        """The two-sided p-value of Brunner and Munzel's test."""
        return math.exp(self.log_p)


def brunner_munzel(
    candidate: Sequence[float], control: Sequence[float], *, alpha: float = 0.05, normal: bool = False
) -> Superiority | None:
    """Brunner and Munzel (2000). The statistic is positive where the candidate is smaller, as usual in print.

    None below two values in an arm, or where the samples do not overlap and no variance can be had.
    The interval is probability -/+ t * se, cut to [0, 1].
    """
    check_level(alpha)
    one, zero = _samples(candidate, control)
    m, n = one.size, zero.size
    if m < 2 or n < 2:
        return None
    overall = scipy.stats.rankdata(np.concatenate([one, zero]))
    ours, theirs = overall[:m], overall[m:]
    v1 = float(np.sum((ours - scipy.stats.rankdata(one) - ours.mean() + (m + 1) / 2.0) ** 2)) / (m - 1)
    v0 = float(np.sum((theirs - scipy.stats.rankdata(zero) - theirs.mean() + (n + 1) / 2.0) ** 2)) / (n - 1)
    spread = m * v1 + n * v0
    if spread <= 0.0:
        return None
    statistic = m * n * float(theirs.mean() - ours.mean()) / ((m + n) * math.sqrt(spread))
    df = spread**2 / ((m * v1) ** 2 / (m - 1) + (n * v0) ** 2 / (n - 1))
    used = math.inf if normal else df
    probability = (float(ours.mean()) - (m + 1) / 2.0) / n
    half = quantile(1.0 - alpha / 2.0, used) * math.sqrt(v1 / (n * n) / m + v0 / (m * m) / n)
    return Superiority(
        probability=probability,
        statistic=statistic,
        df=df,
        log_p=log_two_sided(statistic, used),
        interval=Interval(
            lower=max(0.0, probability - half), upper=min(1.0, probability + half), level=1.0 - alpha
        ),
    )


def superiority(candidate: Sequence[float], control: Sequence[float]) -> float | None:
    """P(candidate > control) + P(equal) / 2: the common-language effect size (Vargha and Delaney 2000)."""
    one, zero = _samples(candidate, control)
    if not one.size or not zero.size:
        return None
    ranks = scipy.stats.rankdata(np.concatenate([one, zero]))[: one.size]
    return (2.0 * float(ranks.sum()) - one.size * (one.size + 1)) / (2.0 * one.size * zero.size)


def hodges_lehmann(candidate: Sequence[float], control: Sequence[float]) -> float | None:
    """The median of all differences candidate - control; time and memory are of order n1 n0."""
    one, zero = _samples(candidate, control)
    return float(np.median(one[:, None] - zero[None, :])) if one.size and zero.size else None


def _rank_z(one: Floats, zero: Floats, shift: float) -> float:
    """Mann and Whitney's z, with continuity correction, of the samples when `one` is shifted back."""
    m, n = float(one.size), float(zero.size)
    both = np.concatenate([one - shift, zero])
    _, inverse, ties = np.unique(both, return_inverse=True, return_counts=True)
    ends = np.cumsum(ties)
    ranks = (ends - (ties - 1) / 2.0)[inverse]
    distance = float(ranks[: one.size].sum()) - m * (m + 1) / 2.0 - m * n / 2.0
    uneven = float((ties.astype(np.float64) ** 3 - ties).sum()) / ((m + n) * (m + n - 1.0))
    sigma = math.sqrt(m * n / 12.0 * max(0.0, m + n + 1.0 - uneven))
    if sigma == 0.0:
        return 0.0
    return (distance - math.copysign(0.5, distance) * (distance != 0.0)) / sigma


def shift_interval(candidate: Sequence[float], control: Sequence[float], *, alpha: float = 0.05) -> Estimate:
    """The shift between the samples, with the interval that the rank test does not reject.

    The estimate is where the test's z passes zero; for continuous data that is Hodges and Lehmann's. As in
    R's wilcox.test with conf.int, for samples with ties too.
    """
    method = "rank-shift"
    check_level(alpha)
    one, zero = _samples(candidate, control)
    if not one.size or not zero.size:
        return lacking("no_data", method)
    low, high = float(one.min() - zero.max()), float(one.max() - zero.min())
    if not (math.isfinite(low) and math.isfinite(high)):
        return lacking("not_finite", method)
    if not high > low:
        return lacking("insufficient_data", method, low)
    z = quantile(1.0 - alpha / 2.0)

    def passing(target: float) -> float:
        return _crossing(lambda shift: _rank_z(one, zero, shift) - target, low, high)

    interval = Interval(lower=passing(z), upper=passing(-z), level=1.0 - alpha)
    test = mann_whitney(candidate, control)
    return Estimate(
        status="ok",
        method=method,
        value=passing(0.0),
        interval=interval,
        log_p=None if test is None else test.log_p,
    )


def _crossing(gap: Callable[[float], float], low: float, high: float) -> float:
    if gap(low) <= 0.0:
        return low
    if gap(high) >= 0.0:
        return high
    return float(scipy.optimize.brentq(gap, low, high, xtol=1e-6 * (high - low)))


def cohen_d(candidate: Sequence[float], control: Sequence[float]) -> float | None:
    """The difference of means in pooled standard deviations; None without spread or below two values."""
    one, zero = _samples(candidate, control)
    if one.size < 2 or zero.size < 2:
        return None
    squares = one.var(ddof=1) * (one.size - 1) + zero.var(ddof=1) * (zero.size - 1)
    pooled = math.sqrt(float(squares) / (one.size + zero.size - 2))
    return float(one.mean() - zero.mean()) / pooled if pooled > 0.0 else None


def hedges_g(candidate: Sequence[float], control: Sequence[float]) -> float | None:
    """Cohen's d without its small-sample bias: times 1 - 3 / (4 df - 1)."""
    d = cohen_d(candidate, control)
    df = len(candidate) + len(control) - 2
    return None if d is None else d * (1.0 - 3.0 / (4.0 * df - 1.0))
