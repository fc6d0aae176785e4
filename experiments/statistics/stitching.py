"""How far may a sum, a distribution function or all quantiles stray, at the rate of the iterated logarithm?

Stitched boundaries, which are wider than mixtures for any sensible n but never much too wide (Howard,
Ramdas, McAuliffe and Sekhon 2021; Howard and Ramdas 2022). Formulas as in the authors' confseq.
"""

from __future__ import annotations

import math

import scipy

from .estimate import StatisticsError, check_level


def polynomial_bound(
    v: float, alpha: float, *, v_min: float, c: float = 0.0, s: float = 1.4, eta: float = 2.0
) -> float:
    """The polynomial stitched boundary of a sum with scale c at intrinsic time v, at least v_min."""
    check_level(alpha)
    if not (v_min > 0.0 and s > 1.0 and eta > 1.0):
        raise StatisticsError("v_min must be positive, s and eta above 1")
    used = max(v, v_min)
    k1 = (eta**0.25 + eta**-0.25) / math.sqrt(2.0)
    k2 = (math.sqrt(eta) + 1.0) / 2.0
    a = math.log(float(scipy.special.zeta(s)) / math.log(eta) ** s)
    level = s * math.log(math.log(eta * used / v_min)) + a - math.log(alpha)
    drift = k2 * c * level
    return math.sqrt(k1 * k1 * used * level + drift * drift) + drift


def distribution_radius(t: int, alpha: float, *, t_min: float, a: float = 0.85) -> float:
    """By how much the whole empirical distribution function may be off, at all t >= t_min; infinite before.

    a sqrt((ln(1 + ln(t / t_min)) + C) / t) with C chosen for alpha. `a` above sqrt(1/2).
    """
    check_level(alpha)
    if not a > math.sqrt(0.5):
        raise StatisticsError(f"a is {a!r}: a number above 0.7072 is needed")
    if t < t_min:
        return math.inf
    return a * math.sqrt((math.log1p(math.log(t / t_min)) + _lil_constant(alpha, a)) / t)


def _lil_constant(alpha: float, a: float) -> float:
    """C at which the crossing probability of the distribution function's boundary is alpha."""

    def error(c: float, eta: float) -> float:
        if eta <= 1.0:
            return math.inf
        gamma = 2.0 / eta * (a - math.sqrt(2.0 * (eta - 1.0) / c)) ** 2
        if gamma <= 1.0:
            return math.inf
        return 4.0 * math.exp(-gamma * c) * (1.0 + 1.0 / ((gamma - 1.0) * math.log(eta)))

    def best(c: float) -> float:
        widest = scipy.optimize.brentq(
            lambda eta: math.sqrt(eta / 2.0) + math.sqrt(2.0 * (eta - 1.0) / c) - a, 1.0, 2.0 * a * a
        )
        found = scipy.optimize.minimize_scalar(
            lambda eta: min(1e300, error(c, eta)),
            bounds=(1.0, float(widest)),
            method="bounded",
            options={"xatol": 1e-12},
        )
        return float(found.fun)

    low, high = 1.0, 5.0
    while best(high) > alpha:
        low, high = high, high * 2.0
    return float(scipy.optimize.brentq(lambda c: min(1e6, best(c)) - alpha, low, high, xtol=1e-11))


def quantile_bound(
    p: float,
    t: float,
    alpha: float,
    *,
    t_opt: float,
    delta: float = 0.5,
    s: float = 1.4,
    eta: float = 2.0,
) -> float:
    """The double-stitched boundary: by how many ranks quantile p may be off, for all p and t at once."""
    check_level(alpha)
    if not 0.0 < p < 1.0:
        raise StatisticsError(f"the quantile's level is {p!r}: a number strictly between 0 and 1 is needed")
    late = max(t, t_opt)
    logit = math.log(p / (1.0 - p))
    r = (
        p
        if p >= 0.5
        else min(0.5, float(scipy.special.expit(logit + 2.0 * delta * math.sqrt(t_opt * eta / late))))
    )
    variance = r * (1.0 - r)
    j = math.sqrt(late / t_opt) * abs(logit) / (2.0 * delta) + 1.0
    zeta = float(scipy.special.zeta(s))
    level = s * math.log(math.log(eta * late / t_opt)) + s * math.log(j)
    level += math.log(2.0 * zeta * (2.0 * zeta + 1.0) / (alpha * math.log(eta) ** s))
    k1 = (eta**0.25 + eta**-0.25) / math.sqrt(2.0)
    k2 = (math.sqrt(eta) + 1.0) / 2.0
    drift = k2 * (1.0 - 2.0 * p) / 3.0 * level
    return (
        delta * math.sqrt(eta * late * variance / t_opt)
        + math.sqrt(k1 * k1 * variance * late * level + drift * drift)
        + drift
    )
