"""Where does an effect lie, at every moment at once? The asymptotic confidence sequence (F6).

Robbins' normal mixture over the estimate and its standard error (Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas 2024, eq. 9), scale free, two-sided and one-sided. Valid as n grows; it wants a burn-in, which is
the caller's to set. Takes an estimate and a standard error, whatever they came from.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import Interval, StatisticsError, check_level

Floats = npt.NDArray[np.float64]

#: The parts of the horizon that a guardrail's process is tuned to: small harm shows late, large harm early,
#: and a canary's or a judge's share makes of many units few.
TUNED_TO = (1 / 2, 1 / 32)


def tuning(alpha: float, best_at: float) -> float:
    """r^2 of the mixture that is narrowest after `best_at` units (F6): (-2 ln a + ln(1 - 2 ln a)) / N*."""
    check_level(alpha)
    if not best_at > 0.0:
        raise StatisticsError(f"best_at is {best_at!r}: a positive number of units is needed")
    log_alpha = math.log(alpha)
    return (-2.0 * log_alpha + math.log(1.0 - 2.0 * log_alpha)) / best_at


def exact_tuning(alpha: float, best_at: float) -> float:
    """r^2 by the exact optimum, through Lambert's W (branch -1); `tuning` approximates it."""
    check_level(alpha)
    branch = float(scipy.special.lambertw(-(alpha**2) / math.e, k=-1).real)
    return (-branch - 1.0) / best_at


def critical_value(n: float, *, alpha: float, best_at: float) -> float:
    """By how many standard errors the two-sided sequence reaches after n units; infinite at n = 0."""
    spread = n * tuning(alpha, best_at)
    if spread <= 0.0:
        return math.inf
    return math.sqrt(2.0 * (spread + 1.0) / spread * (0.5 * math.log1p(spread) - math.log(alpha)))


def one_sided_critical_value(n: float, *, alpha: float, best_at: float) -> float:
    """The same for one side (eq. 134): ln(1 + sqrt(n r2 + 1) / (2 alpha)), and 2 alpha in r2."""
    check_level(alpha)
    spread = n * tuning(min(2.0 * alpha, 0.999), best_at)
    if spread <= 0.0:
        return math.inf
    root = math.sqrt(spread + 1.0)
    return math.sqrt(2.0 * (spread + 1.0) / spread * math.log1p(root / (2.0 * alpha)))


def band(value: float, se: float, n: float, *, alpha: float, best_at: float) -> Interval | None:
    """The two-sided sequence's interval at n units, or None without a positive, finite standard error."""
    half = critical_value(n, alpha=alpha, best_at=best_at) * se
    if not (math.isfinite(value) and 0.0 < half < math.inf):
        return None
    return Interval(lower=value - half, upper=value + half, level=1.0 - alpha)


def lower_bound(value: float, se: float, n: float, *, alpha: float, best_at: float) -> float:
    """The one-sided sequence's lower end; minus infinity where nothing can be said."""
    half = one_sided_critical_value(n, alpha=alpha, best_at=best_at) * se
    return value - half if math.isfinite(value) and 0.0 < half < math.inf else -math.inf


def log_e(z: float, n: float, *, alpha: float, best_at: float) -> float:
    """ln of the two-sided e-process: r2 n z^2 / (2 (n r2 + 1)) - ln(n r2 + 1) / 2."""
    spread = n * tuning(alpha, best_at)
    return 0.5 * (spread / (spread + 1.0) * z * z - math.log1p(spread))


def one_sided_log_e(z: npt.ArrayLike, n: npt.ArrayLike, *, alpha: float, best_at: float) -> Floats:
    """ln of the e-process against effects <= 0: the same mixture over positive effects only.

    2 exp(a z^2 / 2) Phi(z sqrt(a)) / sqrt(n r2 + 1) with a = n r2 / (n r2 + 1); arrays broadcast. 0 (e = 1)
    where nothing is known.
    """
    spread = np.asarray(n, np.float64) * tuning(min(2.0 * alpha, 0.999), best_at)
    known = (spread > 0.0) & ~np.isnan(z)
    spread, found = np.where(known, spread, 0.0), np.where(known, z, 0.0)
    a = spread / (spread + 1.0)
    return np.asarray(
        math.log(2.0)
        - 0.5 * np.log1p(spread)
        + 0.5 * a * found**2
        + scipy.special.log_ndtr(found * np.sqrt(a)),
        np.float64,
    )


def harm_log_e(z: npt.ArrayLike, n: npt.ArrayLike, *, alpha: float, horizon: float) -> Floats:
    """ln of a guardrail's e-process against effects <= 0, whatever the size of the effect: the mean of
    `one_sided_log_e` over `TUNED_TO`, which is an e-process as each of them is. Arrays broadcast."""
    each = [one_sided_log_e(z, n, alpha=alpha, best_at=max(1.0, part * horizon)) for part in TUNED_TO]
    return np.asarray(scipy.special.logsumexp(each, axis=0) - math.log(len(each)), np.float64)


def one_sided_p(z: float, n: float, *, alpha: float, best_at: float) -> float:
    """The level at which the one-sided sequence, tuned for `alpha`, would just exclude zero; at most 1."""
    spread = n * tuning(min(2.0 * alpha, 0.999), best_at)
    if spread <= 0.0 or not z > 0.0:
        return 1.0
    exponent = min(700.0, 0.5 * z * z * spread / (spread + 1.0))
    return min(1.0, math.sqrt(spread + 1.0) / (2.0 * math.expm1(exponent))) if exponent > 0.0 else 1.0
