"""Does the candidate have more events than its exposure explains? Counts over requests, time or tokens.

Given how many events there were in all, the candidate's are binomial with its share of the exposure, whatever
the base rate: the exact test and interval (F5; Przyborowski and Wilenski 1940), with the mid-p version, and
the usual approximations. Of use where an event may happen many times in one unit of exposure; where it
happens or does not, use `proportion`; while looking again and again, use `failures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from .estimate import Estimate, Interval, StatisticsError, check_level, lacking, log_two_sided, quantile

#: Above this many expected events the E-test's double sum is refused: it is for small counts.
_E_TEST_LIMIT = 5_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """A number of events over an exposure (requests, seconds, thousands of tokens)."""

    count: int
    exposure: float

    @property
    def rate(self) -> float:
        """Events per unit of exposure; NaN without exposure."""
        return self.count / self.exposure if self.exposure > 0.0 else math.nan


def _checked(*arms: Events) -> None:
    for arm in arms:
        if arm.count < 0 or not 0.0 <= arm.exposure < math.inf:
            raise StatisticsError(f"{arm!r}: a count and an exposure of 0 or more are needed")


def rate_ratio(candidate: Events, control: Events) -> float | None:
    """The candidate's rate over the control's; infinite without control events, None where it is 0/0."""
    _checked(candidate, control)
    if not candidate.exposure or not control.exposure or candidate.count + control.count == 0:
        return None
    return math.inf if control.count == 0 else candidate.rate / control.rate


def _null_share(candidate: Events, control: Events, ratio: float) -> float:
    weighted = ratio * candidate.exposure
    return weighted / (weighted + control.exposure)


def exact_p(candidate: Events, control: Events, *, ratio: float = 1.0) -> float | None:
    """The exact conditional two-sided p of rate1 = ratio * rate0 (outcomes no likelier than the observed)."""
    total = candidate.count + control.count
    if rate_ratio(candidate, control) is None:
        return None
    share = _null_share(candidate, control, ratio)
    return float(scipy.stats.binomtest(candidate.count, total, share).pvalue)


def mid_p(candidate: Events, control: Events, *, ratio: float = 1.0) -> float | None:
    """The same, counting only half of the observed outcome's probability."""
    exact = exact_p(candidate, control, ratio=ratio)
    if exact is None:
        return None
    total = candidate.count + control.count
    share = _null_share(candidate, control, ratio)
    return exact - 0.5 * float(scipy.stats.binom.pmf(candidate.count, total, share))


def score_z(candidate: Events, control: Events, *, ratio: float = 1.0) -> float | None:
    """The score z of rate1 = ratio * rate0: its variance is the one under that hypothesis."""
    if rate_ratio(candidate, control) is None:
        return None
    odds = ratio * candidate.exposure / control.exposure
    return (candidate.count - control.count * odds) / math.sqrt((candidate.count + control.count) * odds)


def score_p(candidate: Events, control: Events, *, ratio: float = 1.0) -> float | None:
    """The two-sided p of `score_z`."""
    z = score_z(candidate, control, ratio=ratio)
    return None if z is None else math.exp(log_two_sided(z))


def e_test_p(candidate: Events, control: Events, *, ratio: float = 1.0) -> float | None:
    """The E-test: how often Poisson counts at the estimated null give so large a score (Gu et al. 2008).

    None without events, and above a few thousand expected ones, where the score test says the same.
    """
    observed = score_z(candidate, control, ratio=ratio)
    if observed is None:
        return None
    rate = (candidate.count + control.count) / (ratio * candidate.exposure + control.exposure)
    means = (rate * ratio * candidate.exposure, rate * control.exposure)
    if max(means) > _E_TEST_LIMIT:
        return None
    most = max(100.0, float(scipy.stats.poisson.isf(1e-13, max(means))))
    grid = np.arange(most + 1.0)
    odds = ratio * candidate.exposure / control.exposure
    one, zero = grid[:, None], grid[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (one - zero * odds) / np.sqrt((one + zero) * odds)
    far = np.abs(np.nan_to_num(z)) >= abs(observed) - 1e-15
    weight = scipy.stats.poisson.pmf(one, means[0]) * scipy.stats.poisson.pmf(zero, means[1])
    return float(weight[far].sum())


def exact_interval(candidate: Events, control: Events, *, alpha: float = 0.05) -> Interval | None:
    """The rate ratio by inverting Clopper and Pearson (F5): (lower, inf) without control events."""
    check_level(alpha)
    if rate_ratio(candidate, control) is None:
        return None
    one, zero = candidate.count, control.count
    scale = control.exposure / candidate.exposure

    def odds(p: float) -> float:
        return math.inf if p >= 1.0 else p / (1.0 - p)

    lower = 0.0 if one == 0 else odds(float(scipy.special.betaincinv(one, zero + 1.0, alpha / 2.0)))
    upper = math.inf if zero == 0 else odds(float(scipy.special.betainccinv(one + 1.0, zero, alpha / 2.0)))
    return Interval(lower=lower * scale, upper=upper * scale, level=1.0 - alpha)


def mid_p_interval(candidate: Events, control: Events, *, alpha: float = 0.05) -> Interval | None:
    """The rate ratio by inverting the mid-p tails: nearer to its nominal level than the exact interval."""
    check_level(alpha)
    if rate_ratio(candidate, control) is None:
        return None
    one, total = candidate.count, candidate.count + control.count
    scale = control.exposure / candidate.exposure

    def upper_tail(p: float) -> float:
        return float(scipy.stats.binom.sf(one, total, p)) + 0.5 * float(scipy.stats.binom.pmf(one, total, p))

    def at(tail: float) -> float:
        p = float(
            scipy.optimize.brentq(
                lambda q: upper_tail(q) - tail, 1e-300, 1.0 - 1e-16, xtol=1e-300, rtol=1e-12
            )
        )
        return math.inf if p >= 1.0 else p / (1.0 - p)

    lower = 0.0 if one == 0 else at(alpha / 2.0)
    upper = math.inf if control.count == 0 else at(1.0 - alpha / 2.0)
    return Interval(lower=lower * scale, upper=upper * scale, level=1.0 - alpha)


def score_interval(candidate: Events, control: Events, *, alpha: float = 0.05) -> Interval | None:
    """The rate ratio by inverting the score test, in closed form; an end is 0 or infinite at zero events.

    (x1 - x0 o)^2 = z^2 (x1 + x0) o is a quadratic in the odds o = ratio * e1 / e0.
    """
    check_level(alpha)
    if rate_ratio(candidate, control) is None:
        return None
    one, zero = float(candidate.count), float(control.count)
    z2 = quantile(1.0 - alpha / 2.0) ** 2
    middle = 2.0 * one * zero + z2 * (one + zero)
    root = math.sqrt(max(0.0, middle * middle - 4.0 * one * one * zero * zero))
    scale = control.exposure / candidate.exposure
    lower = 2.0 * one * one / (middle + root)
    upper = math.inf if zero == 0.0 else (middle + root) / (2.0 * zero * zero)
    return Interval(lower=lower * scale, upper=upper * scale, level=1.0 - alpha)


def wald_interval(candidate: Events, control: Events, *, alpha: float = 0.05) -> Interval | None:
    """The rate ratio by a normal log ratio with half an event added to each arm: always finite."""
    check_level(alpha)
    if not candidate.exposure or not control.exposure:
        return None
    one, zero = candidate.count + 0.5, control.count + 0.5
    centre = one / zero * control.exposure / candidate.exposure
    reach = math.exp(quantile(1.0 - alpha / 2.0) * math.sqrt(1.0 / one + 1.0 / zero))
    return Interval(lower=centre / reach, upper=centre * reach, level=1.0 - alpha)


def root_interval(candidate: Events, control: Events, *, alpha: float = 0.05) -> Interval | None:
    """The rate ratio by square roots of counts plus a half (Price and Bonett 2000, eq. 2.4).

    None where the control has too few events for it. Scaled by the exposures, which other software forgets.
    """
    check_level(alpha)
    if not candidate.exposure or not control.exposure:
        return None
    z = quantile(1.0 - alpha / 2.0)
    one, zero = candidate.count + 0.5, control.count + 0.5
    below = zero - 0.25 * z * z
    if below <= 0.0:
        return None
    centre = math.sqrt(one * zero)
    half = z * 0.5 * math.sqrt(max(0.0, one + zero - 0.25 * z))
    scale = control.exposure / candidate.exposure
    lower, upper = max(0.0, (centre - half) / below) ** 2, ((centre + half) / below) ** 2
    return Interval(lower=lower * scale, upper=upper * scale, level=1.0 - alpha)


def mover_interval(candidate: Events, control: Events, *, alpha: float = 0.05) -> Interval | None:
    """The rate ratio from the two rates' score intervals (MOVER; Li, Tang and Wong 2014)."""
    check_level(alpha)
    if rate_ratio(candidate, control) is None:
        return None
    z2 = quantile(1.0 - alpha / 2.0) ** 2

    def ends(arm: Events) -> tuple[float, float]:
        centre, half = arm.count + z2 / 2.0, math.sqrt(z2 * (arm.count + z2 / 4.0))
        return max(0.0, centre - half) / arm.exposure, (centre + half) / arm.exposure

    (low1, high1), (low0, high0) = ends(candidate), ends(control)
    one, zero = candidate.rate, control.rate
    product = one * zero

    def end(own: float, other: float, sign: float) -> float:
        below = other * (2.0 * zero - other)
        inside = max(0.0, product**2 - below * own * (2.0 * one - own))
        if below <= 0.0 and sign > 0.0:
            return math.inf
        return (product + sign * math.sqrt(inside)) / below if below else math.inf

    return Interval(lower=max(0.0, end(low1, high0, -1.0)), upper=end(high1, low0, 1.0), level=1.0 - alpha)


Method = Literal["exact", "mid-p", "score", "wald", "root", "mover"]
_INTERVALS: dict[Method, Callable[..., Interval | None]] = {
    "exact": exact_interval,
    "mid-p": mid_p_interval,
    "score": score_interval,
    "wald": wald_interval,
    "root": root_interval,
    "mover": mover_interval,
}


def compare_rates(
    candidate: Events, control: Events, *, alpha: float = 0.05, method: Method = "mid-p"
) -> Estimate:
    """The rate ratio with an interval and the mid-p; `value` is infinite without control events."""
    name = f"rate-ratio-{method}"
    if not candidate.exposure or not control.exposure:
        return lacking("no_data", name)
    ratio = rate_ratio(candidate, control)
    interval = _INTERVALS[method](candidate, control, alpha=alpha)
    p = mid_p(candidate, control)
    if ratio is None or interval is None or p is None:
        return lacking("insufficient_data", name)
    return Estimate(status="ok", method=name, value=ratio, interval=interval, log_p=math.log(max(p, 5e-324)))
