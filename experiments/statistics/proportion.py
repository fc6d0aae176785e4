"""How large is a share, and by how much do two independent shares differ?

Wilson and Clopper-Pearson for one share; Newcombe's interval (F1), the score test, Miettinen-Nurminen and
Farrington-Manning with a margin (F15), Fisher and Boschloo for two. Counts are (failures or successes, n).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import scipy

from .estimate import Estimate, Interval, StatisticsError, check_level, lacking, log_two_sided, quantile

#: A count out of n.
Share = tuple[int, int]

#: Up to this many units in each arm the exact unconditional test is affordable, and worth it.
EXACT_LIMIT = 60


def _checked(share: Share) -> Share:
    count, n = share
    if not 0 <= count <= n:
        raise StatisticsError(f"{count} of {n} is no share: 0 <= count <= n is needed")
    return share


def wilson(count: int, n: int, *, alpha: float = 0.05) -> Interval:
    """Wilson's score interval for count out of n; (0, 1) for n = 0. Ends are exact at 0/n and n/n."""
    check_level(alpha)
    _checked((count, n))
    if n == 0:
        return Interval(lower=0.0, upper=1.0, level=1.0 - alpha)
    z2 = quantile(1.0 - alpha / 2.0) ** 2
    p = count / n
    centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n)
    half = math.sqrt(z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n))) / (1.0 + z2 / n)
    lower = 0.0 if count == 0 else max(0.0, centre - half)
    upper = 1.0 if count == n else min(1.0, centre + half)
    return Interval(lower=lower, upper=upper, level=1.0 - alpha)


def _beta_interval(a: tuple[float, float] | None, b: tuple[float, float] | None, alpha: float) -> Interval:
    lower = 0.0 if a is None else float(scipy.special.betaincinv(*a, alpha / 2.0))
    upper = 1.0 if b is None else float(scipy.special.betainccinv(*b, alpha / 2.0))
    return Interval(lower=lower, upper=upper, level=1.0 - alpha)


def clopper_pearson(count: int, n: int, *, alpha: float = 0.05) -> Interval:
    """The exact interval of Clopper and Pearson; (0, 1) for n = 0."""
    check_level(alpha)
    _checked((count, n))
    return _beta_interval(
        None if count == 0 else (count, n - count + 1.0),
        None if count == n else (count + 1.0, float(n - count)),
        alpha,
    )


def bayes_interval(count: int, n: int, *, prior: float, alpha: float = 0.05) -> Interval:
    """The equal-tailed interval under a Beta(prior, prior); Jeffreys with 0.5, uniform with 1."""
    check_level(alpha)
    _checked((count, n))
    shape = (count + prior, n - count + prior)
    return _beta_interval(shape, shape, alpha)


def agresti_coull(count: int, n: int, *, alpha: float = 0.05) -> Interval:
    """The interval of Agresti and Coull (1998), cut to [0, 1]."""
    check_level(alpha)
    _checked((count, n))
    z = quantile(1.0 - alpha / 2.0)
    p = (count + z * z / 2.0) / (n + z * z)
    half = z * math.sqrt(p * (1.0 - p) / (n + z * z))
    return Interval(lower=max(0.0, p - half), upper=min(1.0, p + half), level=1.0 - alpha)


def pooled_score(candidate: Share, control: Share) -> float:
    """The score z of equal shares (pooled variance); 0.0 where both arms are all 0 or all 1."""
    (x1, n1), (x0, n0) = _checked(candidate), _checked(control)
    if n1 == 0 or n0 == 0:
        return 0.0
    pooled = (x1 + x0) / (n1 + n0)
    variance = pooled * (1.0 - pooled) * (1.0 / n1 + 1.0 / n0)
    return (x1 / n1 - x0 / n0) / math.sqrt(variance) if variance > 0.0 else 0.0


def newcombe(candidate: Share, control: Share, *, alpha: float = 0.05) -> Estimate:
    """The difference with Newcombe's hybrid score interval (F1; Newcombe 1998, method 10) and the score test.

    Finite and of positive width at 0/n and n/n.
    """
    (x1, n1), (x0, n0) = _checked(candidate), _checked(control)
    if n1 == 0 or n0 == 0:
        return lacking("no_data", "newcombe")
    p1, p0 = x1 / n1, x0 / n0
    w1, w0 = wilson(x1, n1, alpha=alpha), wilson(x0, n0, alpha=alpha)
    interval = Interval(
        lower=p1 - p0 - math.hypot(p1 - w1.lower, w0.upper - p0),
        upper=p1 - p0 + math.hypot(w1.upper - p1, p0 - w0.lower),
        level=1.0 - alpha,
    )
    se = math.sqrt(p1 * (1.0 - p1) / n1 + p0 * (1.0 - p0) / n0)
    log_p = log_two_sided(pooled_score(candidate, control))
    return Estimate(status="ok", method="newcombe", value=p1 - p0, se=se, interval=interval, log_p=log_p)


def agresti_caffo(candidate: Share, control: Share, *, alpha: float = 0.05) -> Estimate:
    """The difference with the interval of Agresti and Caffo (2000): two observations added to each arm.

    As published: in arms of a few units it may reach beyond 1.
    """
    (x1, n1), (x0, n0) = _checked(candidate), _checked(control)
    if n1 == 0 or n0 == 0:
        return lacking("no_data", "agresti-caffo")
    q1, q0 = (x1 + 1) / (n1 + 2), (x0 + 1) / (n0 + 2)
    se = math.sqrt(q1 * (1.0 - q1) / (n1 + 2) + q0 * (1.0 - q0) / (n0 + 2))
    half = quantile(1.0 - alpha / 2.0) * se
    interval = Interval(lower=q1 - q0 - half, upper=q1 - q0 + half, level=1.0 - alpha)
    return Estimate(
        status="ok",
        method="agresti-caffo",
        value=x1 / n1 - x0 / n0,
        se=se,
        interval=interval,
        log_p=log_two_sided((q1 - q0) / se),
    )


def restricted(candidate: Share, control: Share, difference: float) -> tuple[float, float]:
    """The shares (p1, p0) of greatest likelihood among those with p1 - p0 = difference (F15).

    The root of the likelihood's slope, which falls in p0, by bracketing. The closed form of the cubic
    (Farrington and Manning 1990) is the same root, but loses it to rounding where one arm is far smaller.
    """
    arms = (_checked(candidate), difference), (_checked(control), 0.0)
    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)

    def slope(p0: float) -> float:
        total = 0.0
        for (x, n), shift in arms:
            p = min(1.0, max(0.0, p0 + shift))
            if x:
                total += x / p if p > 0.0 else math.inf
            if n - x:
                total -= (n - x) / (1.0 - p) if p < 1.0 else math.inf
        return max(-1e300, min(1e300, total))

    if slope(low) <= 0.0:
        p0 = low
    elif slope(high) >= 0.0:
        p0 = high
    else:
        p0 = float(scipy.optimize.brentq(slope, low, high, xtol=1e-18, rtol=1e-14, maxiter=500))
    return min(1.0, max(0.0, p0 + difference)), p0


def restricted_ratio(candidate: Share, control: Share, ratio: float) -> tuple[float, float]:
    """The shares (p1, p0) of greatest likelihood among those with p1 = ratio * p0, in closed form."""
    (x1, n1), (x0, n0) = _checked(candidate), _checked(control)
    a = (n1 + n0) * ratio
    b = ratio * (n1 + x0) + n0 + x1
    p0 = 2.0 * (x1 + x0) / (b + math.sqrt(max(0.0, b * b - 4.0 * a * (x1 + x0))))
    return min(1.0, ratio * p0), min(1.0, p0)


def score_variance(candidate: Share, control: Share, difference: float, *, corrected: bool) -> float:
    """The variance of the observed difference under p1 - p0 = difference; `corrected` by N / (N - 1)."""
    p1, p0 = restricted(candidate, control, difference)
    n1, n0 = candidate[1], control[1]
    factor = (n1 + n0) / (n1 + n0 - 1.0) if corrected else 1.0
    return factor * (p1 * (1.0 - p1) / n1 + p0 * (1.0 - p0) / n0)


def margin_score(candidate: Share, control: Share, difference: float, *, corrected: bool = False) -> float:
    """The score z of p1 - p0 = difference: Farrington-Manning, or Miettinen-Nurminen if `corrected`.

    Infinite where the restricted model cannot have made the data; 0.0 without units.
    """
    (x1, n1), (x0, n0) = _checked(candidate), _checked(control)
    if n1 == 0 or n0 == 0:
        return 0.0
    distance = x1 / n1 - x0 / n0 - difference
    variance = score_variance(candidate, control, difference, corrected=corrected)
    if distance == 0.0:
        return 0.0
    return distance / math.sqrt(variance) if variance > 0.0 else math.copysign(math.inf, distance)


def inverted(z_at: Callable[[float], float], value: float, z: float) -> tuple[float, float]:
    """Where a score that falls in the difference passes +z and -z: the ends of its interval in [-1, 1]."""

    def gap(difference: float, target: float) -> float:
        return max(-1e6, min(1e6, z_at(difference))) - target

    low, high = -1.0 + 1e-12, 1.0 - 1e-12
    lower, upper = -1.0, 1.0
    if value > low and gap(low, z) > 0.0:
        lower = float(scipy.optimize.brentq(gap, low, value, args=(z,), xtol=1e-13))
    if value < high and gap(high, -z) < 0.0:
        upper = float(scipy.optimize.brentq(gap, value, high, args=(-z,), xtol=1e-13))
    return lower, upper


def score_interval(
    candidate: Share, control: Share, *, alpha: float = 0.05, corrected: bool = True
) -> Estimate:
    """The difference with the score interval of Miettinen and Nurminen (1985), or uncorrected (Mee 1984)."""
    method = "miettinen-nurminen" if corrected else "mee"
    check_level(alpha)
    (x1, n1), (x0, n0) = _checked(candidate), _checked(control)
    if n1 == 0 or n0 == 0:
        return lacking("no_data", method)
    value = x1 / n1 - x0 / n0
    z = quantile(1.0 - alpha / 2.0)
    lower, upper = inverted(lambda d: margin_score(candidate, control, d, corrected=corrected), value, z)
    return Estimate(
        status="ok",
        method=method,
        value=value,
        interval=Interval(lower=lower, upper=upper, level=1.0 - alpha),
        log_p=log_two_sided(margin_score(candidate, control, 0.0, corrected=corrected)),
    )


def exact_p(
    candidate: Share, control: Share, *, alternative: Literal["two-sided", "less", "greater"] = "two-sided"
) -> tuple[str, float] | None:
    """Boschloo up to EXACT_LIMIT in each arm, Fisher where a cell is expected below five, else None.

    `alternative` is of the candidate's share: "greater", "less" or "two-sided".
    """
    (x1, n1), (x0, n0) = _checked(candidate), _checked(control)
    if n1 == 0 or n0 == 0:
        return None
    table = np.array([[x1, x0], [n1 - x1, n0 - x0]])
    if x1 + x0 in (0, n1 + n0):
        return "boschloo", 1.0
    if max(n1, n0) <= EXACT_LIMIT:
        return "boschloo", float(scipy.stats.boschloo_exact(table, alternative=alternative).pvalue)
    events = min(x1 + x0, n1 + n0 - x1 - x0)
    if events * min(n1, n0) / (n1 + n0) < 5.0:
        return "fisher", float(scipy.stats.fisher_exact(table, alternative=alternative).pvalue)
    return None
