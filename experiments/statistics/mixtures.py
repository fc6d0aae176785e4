"""How far may a sum stray, at all times at once? Mixture supermartingales and their boundaries.

A process S with intrinsic time V (its variance so far) has exp(lambda S - psi(lambda) V) as a supermartingale
for every lambda; averaging over lambda gives one that is good for many effects (Howard, Ramdas, McAuliffe and
Sekhon 2021). The boundary is where the mixture reaches 1 / alpha. Formulas as in the authors' confseq.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import scipy

from .estimate import Interval, StatisticsError, check_level


class Mixture(Protocol):
    """ln of a supermartingale as a function of the sum s and the intrinsic time v."""

    def log_value(self, s: float, v: float) -> float:
        """ln M(s, v); it rises with s for s >= 0."""
        ...


def two_sided_rho(v: float, alpha: float) -> float:
    """The precision at which the two-sided normal mixture is (nearly) narrowest at intrinsic time v."""
    check_level(alpha)
    if not v > 0.0:
        raise StatisticsError(f"the intrinsic time is {v!r}: a positive number is needed")
    log = -2.0 * math.log(alpha)
    return v / (log + math.log1p(log))


def one_sided_rho(v: float, alpha: float) -> float:
    """The same for a one-sided mixture: the two-sided one at twice the alpha."""
    return two_sided_rho(v, min(2.0 * alpha, 1.0 - 1e-12))


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalMixture:
    """Robbins' mixture over all effects, or with `one_sided` over the positive ones."""

    rho: float
    one_sided: bool = False

    def log_value(self, s: float, v: float) -> float:
        """ln M: 1/2 ln(rho / (v + rho)) + s^2 / (2 (v + rho)), one-sided plus ln 2 Phi(s / sqrt(v + rho))."""
        total = v + self.rho
        plain = 0.5 * math.log(self.rho / total) + s * s / (2.0 * total)
        if not self.one_sided:
            return plain
        return plain + math.log(2.0) + float(scipy.special.log_ndtr(s / math.sqrt(total)))

    def bound(self, v: float, alpha: float) -> float:
        """The boundary at level alpha; in closed form for two sides."""
        check_level(alpha)
        if self.one_sided:
            return solve(self, v, alpha)
        return math.sqrt((v + self.rho) * (math.log1p(v / self.rho) - 2.0 * math.log(alpha)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaExponential:
    """For sub-exponential sums with scale c: heavy upper tails, such as waiting times."""

    rho: float
    c: float

    def log_value(self, s: float, v: float) -> float:
        """ln M, a gamma mixture over (0, 1/c)."""
        scaled = self.rho / self.c**2
        x = (self.c * s + v + self.rho) / self.c**2
        a = (v + self.rho) / self.c**2
        lead = scaled * math.log(scaled) - math.lgamma(scaled) - _log_gamma_p(scaled, scaled)
        return lead + math.lgamma(a) + _log_gamma_p(a, x) - a * math.log(x) + (self.c * s + v) / self.c**2


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaPoisson:
    """For sub-Poisson sums with scale c: counts against their compensator."""

    rho: float
    c: float

    def log_value(self, s: float, v: float) -> float:
        """ln M, a gamma mixture."""
        scaled = self.rho / self.c**2
        b = (v + self.rho) / self.c**2
        a = s / self.c + b
        lead = scaled * math.log(scaled) - math.lgamma(scaled) - _log_gamma_q(scaled, scaled)
        return lead + math.lgamma(a) + _log_gamma_q(a, b) - a * math.log(b) + v / self.c**2


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaBinomial:
    """For sums of steps in [-g, h]: what a count of Bernoulli events minus its mean is (g = p, h = 1 - p)."""

    g: float
    h: float
    r: float
    one_sided: bool = False

    @classmethod
    def tuned(
        cls, v_opt: float, *, g: float, h: float, alpha: float = 0.05, one_sided: bool = False
    ) -> BetaBinomial:
        """Narrowest near intrinsic time v_opt for level alpha."""
        rho = one_sided_rho(v_opt, alpha) if one_sided else two_sided_rho(v_opt, alpha)
        return cls(g=g, h=h, r=max(rho - g * h, 1e-3 * g * h), one_sided=one_sided)

    def log_value(self, s: float, v: float) -> float:
        """ln M, a beta mixture; minus infinity beyond what steps in [-g, h] can reach."""
        g, h = self.g, self.h
        low, high = (self.r + v - g * s) / (g * (g + h)), (self.r + v + h * s) / (h * (g + h))
        if low <= 0.0 or high <= 0.0:
            return -math.inf
        x = h / (g + h) if self.one_sided else 1.0
        log_powers = (v + h * s) / (h * (g + h)) * math.log(g) + (v - g * s) / (g * (g + h)) * math.log(h)
        start = _log_beta(self.r / (g * (g + h)), self.r / (h * (g + h)), x)
        return v / (g * h) * math.log(g + h) - log_powers + _log_beta(low, high, x) - start


def _log_beta(a: float, b: float, x: float) -> float:
    whole = float(scipy.special.betaln(a, b))
    if x >= 1.0:
        return whole
    tail = float(scipy.special.betainc(a, b, x))
    return whole + (math.log(tail) if tail > 0.0 else -math.inf)


def _log_gamma_p(a: float, x: float) -> float:
    tail = float(scipy.special.gammainc(a, x))
    return math.log(tail) if tail > 0.0 else -math.inf


def _log_gamma_q(a: float, x: float) -> float:
    tail = float(scipy.special.gammaincc(a, x))
    return math.log(tail) if tail > 0.0 else -math.inf


def solve(mixture: Mixture, v: float, alpha: float, *, most: float = math.inf) -> float:
    """The s >= 0 at which the mixture reaches 1 / alpha, at most `most` (what s can be at all)."""
    check_level(alpha)
    threshold = -math.log(alpha)

    def gap(s: float) -> float:
        return max(-1e6, min(1e6, mixture.log_value(s, v) - threshold))

    high = most
    if math.isinf(high):
        high = max(1.0, math.sqrt(max(v, 1.0)))
        for _ in range(200):
            if gap(high) > 0.0:
                break
            high *= 2.0
    if gap(high) <= 0.0:
        return high
    return float(scipy.optimize.brentq(gap, 0.0, high, xtol=1e-12, rtol=1e-14)) if gap(0.0) < 0.0 else 0.0


def beta_binomial_bound(
    v: float,
    alpha: float,
    *,
    v_opt: float,
    g: float,
    h: float,
    alpha_opt: float = 0.05,
    one_sided: bool = False,
) -> float:
    """The beta-binomial boundary at intrinsic time v; never beyond v / g, where such a sum must stop."""
    mixture = BetaBinomial.tuned(v_opt, g=g, h=h, alpha=alpha_opt, one_sided=one_sided)
    return solve(mixture, v, alpha, most=v / g)


def bernoulli_sequence(
    successes: int, n: int, *, alpha: float = 0.05, best_at: float, alpha_opt: float = 0.05
) -> Interval:
    """The share of successes, valid at every n at once: shares at which the mixture stays below 1 / alpha.

    (0, 1) for n = 0. Narrowest near n = `best_at`.
    """
    check_level(alpha)
    if not 0 <= successes <= n:
        raise StatisticsError(f"{successes} of {n} is no share: 0 <= successes <= n is needed")
    if n == 0:
        return Interval(lower=0.0, upper=1.0, level=1.0 - alpha)
    seen = successes / n
    threshold = -math.log(alpha)

    def gap(p: float) -> float:
        mixture = BetaBinomial.tuned(p * (1.0 - p) * best_at, g=p, h=1.0 - p, alpha=alpha_opt)
        return max(-1e6, min(1e6, mixture.log_value((seen - p) * n, p * (1.0 - p) * n) - threshold))

    lower = 0.0 if successes == 0 else _end(gap, 1e-13, seen)
    upper = 1.0 if successes == n else _end(gap, 1.0 - 1e-13, seen)
    return Interval(lower=lower, upper=upper, level=1.0 - alpha)


def _end(gap: Callable[[float], float], edge: float, seen: float) -> float:
    if gap(edge) <= 0.0:
        return float(round(edge))
    inner = min(1.0 - 1e-13, max(1e-13, seen))
    return float(scipy.optimize.brentq(gap, edge, inner, xtol=1e-13)) if gap(inner) < 0.0 else inner
