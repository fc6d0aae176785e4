"""How is evidence from different tests put on one scale? E-values, and e-processes for normal data.

Calibrators between p and e (Vovk and Wang 2021), merging, Gaussian mixture tests (mSPRT; Johari et al. 2022),
the safe test of two by two tables (F10; Turner, Ly and Gruenwald 2024), and the anytime-valid t of regression
coefficients (Lindon, Ham, Tingley and Bojinov 2022). An e-value's expectation is at most 1 under the null, so
1 / alpha is crossed with probability alpha at most, however often one looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import StatisticsError, check_level

Floats = npt.NDArray[np.float64]


def p_to_log_e(log_p: float, *, kappa: float | None = None) -> float:
    """ln of the e-value of a p-value, given as its logarithm, so that 1e-400 has one too.

    kappa p^(kappa - 1), or that averaged over kappa in (0, 1): (1 - p + p ln p) / (p (ln p)^2).
    """
    if log_p > 0.0 or math.isnan(log_p):
        raise StatisticsError(f"ln p is {log_p!r}: a number of at most 0 is needed")
    if kappa is not None:
        if not 0.0 < kappa < 1.0:
            raise StatisticsError(f"kappa is {kappa!r}: a number strictly between 0 and 1 is needed")
        return math.log(kappa) + (kappa - 1.0) * log_p
    if log_p == -math.inf:
        return math.inf
    if log_p > -1e-4:
        # (1 - p + p ln p) / (p ln^2 p) at p = exp(-s): (e^s - 1 - s) / s^2 = 1/2 + s/6 + s^2/24 + ...
        s = -log_p
        return math.log(0.5 + s / 6.0 + s * s / 24.0)
    p = math.exp(log_p)
    return math.log1p(p * (log_p - 1.0)) - log_p - 2.0 * math.log(-log_p)


def e_to_p(log_e: float) -> float:
    """The p-value that Markov's inequality gives: min(1, 1 / e)."""
    return math.exp(min(0.0, -log_e))


def merged(log_es: Sequence[float]) -> float:
    """ln of the average of e-values: an e-value in any dependence; 0.0 for none."""
    return float(scipy.special.logsumexp(log_es)) - math.log(len(log_es)) if len(log_es) else 0.0


def msprt_log_e(
    total: npt.ArrayLike,
    n: npt.ArrayLike,
    *,
    theta: float = 0.0,
    sigma: npt.ArrayLike = 1.0,
    tau: float = 1.0,
) -> Floats:
    """ln e of "the mean is theta" for sums `total` of n normal values of known sigma; arrays broadcast.

    The likelihood mixed over N(theta, tau^2) against theta.
    """
    if not (np.all(np.asarray(sigma) > 0.0) and tau > 0.0):
        raise StatisticsError(f"sigma {sigma!r} and tau {tau!r} must be positive")
    count = np.asarray(n, np.float64)
    apart = np.asarray(total, np.float64) - count * theta
    s2, t2 = np.asarray(sigma, np.float64) ** 2, tau * tau
    return np.asarray(
        0.5 * np.log(s2 / (s2 + count * t2)) + t2 * apart**2 / (2.0 * s2 * (s2 + count * t2)), np.float64
    )


def safe_two_by_two_log_e(candidate: npt.ArrayLike, control: npt.ArrayLike, *, prior: float = 0.18) -> Floats:
    """ln e after each block of one candidate and one control outcome (0 or 1) (F10). Shapes (..., blocks).

    p1(y1) p0(y0) / (p(y1) p(y0)) with Beta(prior, prior) means of the blocks before, p their average.
    """
    y1, y0 = np.asarray(candidate, np.float64), np.asarray(control, np.float64)
    if not prior > 0.0:
        raise StatisticsError(f"the prior is {prior!r}: a positive number is needed")
    before = np.arange(y1.shape[-1])
    one = (np.cumsum(y1, axis=-1) - y1 + prior) / (before + 2.0 * prior)
    zero = (np.cumsum(y0, axis=-1) - y0 + prior) / (before + 2.0 * prior)
    both = 0.5 * (one + zero)

    def log_likelihood(y: Floats, p: Floats) -> Floats:
        return np.where(y > 0.5, np.log(p), np.log1p(-p))

    gained = log_likelihood(y1, one) + log_likelihood(y0, zero)
    gained -= log_likelihood(y1, both) + log_likelihood(y0, both)
    return np.asarray(np.cumsum(gained, axis=-1), np.float64)


def regression_t_log_e(t: float, *, n: int, coefficients: int, g: float) -> float:
    """ln e that a regression coefficient is zero, from its t-statistic; invariant to scale (g-prior).

    With nu = n - coefficients and r = g / (g + n): ln(r) / 2 + (nu + 1) / 2 *
    [ln(1 + t^2 / nu) - ln(1 + r t^2 / nu)].
    """
    nu = _degrees(n, coefficients, g)
    r = g / (g + n)
    square = t * t / nu
    return 0.5 * math.log(r) + 0.5 * (nu + 1.0) * (math.log1p(square) - math.log1p(r * square))


def regression_t_radius(*, n: int, coefficients: int, g: float, alpha: float) -> float:
    """By how many standard errors the anytime-valid interval reaches; infinite where n says too little.

    Where `regression_t_log_e` reaches ln(1 / alpha).
    """
    check_level(alpha)
    nu = _degrees(n, coefficients, g)
    r = g / (g + n)
    # ((1 + u) / (1 + r u))^((nu + 1) / 2) sqrt(r) = 1 / alpha, u = t^2 / nu.
    grown = math.exp(min(700.0, (2.0 * -math.log(alpha) - math.log(r)) / (nu + 1.0)))
    if grown * r >= 1.0:
        return math.inf
    return math.sqrt(nu * (grown - 1.0) / (1.0 - grown * r))


def best_g(*, n: int, coefficients: int, alpha: float) -> float:
    """The g at which the anytime-valid interval is narrowest after n observations."""
    found = scipy.optimize.minimize_scalar(
        lambda log_g: regression_t_radius(n=n, coefficients=coefficients, g=math.exp(log_g), alpha=alpha),
        bounds=(math.log(1e-3), math.log(1e3 * n)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(float(found.x))


def _degrees(n: int, coefficients: int, g: float) -> float:
    if n <= coefficients or not g > 0.0:
        raise StatisticsError(f"n {n}, {coefficients} coefficients and g {g!r}: n must be larger, g positive")
    return float(n - coefficients)
