"""By how much do two latency quantiles differ, and where does one lie at every moment at once?

Order statistics with a cluster adjustment for one look (F11; Deng, Knoblich and Lu 2018); confidence
sequences on ranks for any look (F12) and a two-sample anytime p (F13; Howard and Ramdas 2022). The p is
conservative: it is shown, and nothing is decided on it; a latency limit has `failures`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import Estimate, Interval, StatisticsError, Status, check_level, lacking, quantile
from .mean import t_estimate
from .mixtures import BetaBinomial, NormalMixture, beta_binomial_bound, one_sided_rho, solve
from .moments import Cluster

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileSummary:
    """One arm's quantile at `level`, and those at level -/+ z sqrt(level (1 - level) / n_star).

    `n` observations; `n_star` of them were meant when the two outer levels were chosen (n, unless they come
    from a sketch). `clusters` has, over units, y = how many observations of a unit are at or below the
    quantile and m = how many it has; None where each observation is a unit of its own. z is of 95 %.
    """

    n: int
    level: float
    value: float
    lower: float
    upper: float
    n_star: int | None = None
    clusters: Cluster | None = None

    @property
    def needed(self) -> float:
        """How many observations must be exceeded for the outer levels to lie strictly within (0, 1)."""
        return needed(self.level)

    @property
    def status(self) -> Status:
        """Whether the order statistics can carry a standard error."""
        if self.n == 0:
            return "no_data"
        if self.n <= self.needed:
            return "insufficient_data"
        if not (math.isfinite(self.value) and math.isfinite(self.lower) and math.isfinite(self.upper)):
            return "not_finite"
        if not self.upper > self.lower:
            return "insufficient_resolution"
        if self.clusters is not None and (self.clusters.n < 2 or not self.clusters.usable):
            return "insufficient_data"
        return "ok"

    @property
    def unit_variance(self) -> float:
        """n - 1 times the squared standard error, widened by the clusters' inflation."""
        if not self.n:
            return math.nan
        star = self.n if self.n_star is None else self.n_star
        se = (self.upper - self.lower) / (2.0 * quantile(0.975))
        plain = star / self.n * (self.n - 1.0) * se * se
        return plain * self.inflation

    @property
    def inflation(self) -> float:
        """The clustered variance of the share at or below the quantile over the independent one (F11)."""
        if self.clusters is None:
            return 1.0
        if not self.n:
            return math.nan
        return self.clusters.variance / (self.level * (1.0 - self.level) / self.n)


def needed(level: float) -> float:
    """How many observations must be exceeded for a quantile's 95 % interval to have two ends."""
    odds = level / (1.0 - level)
    return quantile(0.975) ** 2 * max(odds, 1.0 / odds)


def _check_quantile(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise StatisticsError(f"a quantile's level of {level!r}: a number strictly between 0 and 1 is needed")


def outer_levels(level: float, n: int) -> tuple[float, float]:
    """level -/+ z sqrt(level (1 - level) / n), of 95 %: the two quantiles to ask the database for."""
    half = quantile(0.975) * math.sqrt(level * (1.0 - level) / n) if n > 0 else math.inf
    return level - half, level + half


def summarise(
    values: Sequence[float], level: float, *, units: Sequence[object] | None = None
) -> QuantileSummary:
    """The summary of raw values: linear interpolation (type 7), clusters where `units` are named."""
    x = np.asarray(values, np.float64)
    _check_quantile(level)
    if not x.size:
        return QuantileSummary(n=0, level=level, value=math.nan, lower=math.nan, upper=math.nan)
    low, high = outer_levels(level, x.size)
    found = np.quantile(x, [level, min(1.0, max(0.0, low)), min(1.0, max(0.0, high))])
    clusters = None if units is None else _clusters(x <= found[0], units)
    return QuantileSummary(
        n=int(x.size),
        level=level,
        value=float(found[0]),
        lower=float(found[1]),
        upper=float(found[2]),
        clusters=clusters,
    )


def _clusters(below: npt.NDArray[np.bool_], units: Sequence[object]) -> Cluster:
    _, index = np.unique(np.asarray([str(unit) for unit in units]), return_inverse=True)
    m = np.bincount(index).astype(np.float64)
    y = np.bincount(index, weights=below.astype(np.float64)).astype(np.float64)
    return Cluster.of(y, m)


def quantile_estimate(summary: QuantileSummary, *, alpha: float = 0.05) -> Estimate:
    """One arm's quantile with its normal interval."""
    return _estimate(summary.value, [summary], [1.0], alpha=alpha, method="order-statistic", normal=True)


def quantile_difference(
    candidate: QuantileSummary, control: QuantileSummary, *, alpha: float = 0.05, normal: bool = False
) -> Estimate:
    """The difference of two quantiles: Welch's t on the order-statistic variances, or with `normal` z."""
    return _estimate(
        candidate.value - control.value,
        [candidate, control],
        [1.0, 1.0],
        alpha=alpha,
        method="order-statistic",
        normal=normal,
    )


def quantile_relative(
    candidate: QuantileSummary, control: QuantileSummary, *, alpha: float = 0.05, normal: bool = False
) -> Estimate:
    """(q1 - q0) / |q0| by the delta method; a base of zero has no answer."""
    base = control.value
    if base == 0.0 or not math.isfinite(base):
        worst = _worst([candidate, control])
        return lacking("insufficient_data" if worst == "ok" else worst, "order-statistic-relative")
    return _estimate(
        (candidate.value - base) / abs(base),
        [candidate, control],
        [1.0 / base**2, candidate.value**2 / base**4],
        alpha=alpha,
        method="order-statistic-relative",
        normal=normal,
    )


def quantile_log_ratio(
    candidate: QuantileSummary, control: QuantileSummary, *, alpha: float = 0.05
) -> Estimate:
    """ln(q1 / q0), for quantiles above zero: what latencies are usually told in."""
    if not (candidate.value > 0.0 and control.value > 0.0):
        worst: Status = next(
            (a.status for a in (candidate, control) if a.status != "ok"), "insufficient_data"
        )
        return lacking(worst, "order-statistic-log-ratio")
    return _estimate(
        math.log(candidate.value / control.value),
        [candidate, control],
        [1.0 / candidate.value**2, 1.0 / control.value**2],
        alpha=alpha,
        method="order-statistic-log-ratio",
        normal=False,
    )


def _worst(arms: Sequence[QuantileSummary]) -> Status:
    """What is lacking most, in whichever arm."""
    order: tuple[Status, ...] = ("no_data", "not_finite", "insufficient_data", "insufficient_resolution")
    return next((status for status in order if any(arm.status == status for arm in arms)), "ok")


def _estimate(
    value: float,
    arms: list[QuantileSummary],
    factors: list[float],
    *,
    alpha: float,
    method: str,
    normal: bool,
) -> Estimate:
    if any(arm.clusters is not None for arm in arms):
        method += "-clustered"
    status = _worst(arms)
    if status != "ok":
        return lacking(status, method, value if math.isfinite(value) else None)
    parts = [factor * arm.unit_variance / arm.n for factor, arm in zip(factors, arms, strict=True)]
    degrees = [(arm.n if arm.clusters is None else arm.clusters.n) - 1 for arm in arms]
    # Degrees of freedom from the plain variances, as for means.
    plain = [arm.unit_variance / arm.n for arm in arms]
    df = sum(plain) ** 2 / sum(p * p / d for p, d in zip(plain, degrees, strict=True))
    return t_estimate(value, sum(parts), math.inf if normal else df, alpha=alpha, method=method)


# --- at every moment at once ---------------------------------------------------------------------------


def quantile_sequence(
    ordered: Sequence[float],
    level: float,
    *,
    alpha: float = 0.05,
    best_at: float,
    alpha_opt: float = 0.05,
) -> Interval:
    """Where the quantile lies, valid at every n at once (F12), from values in ascending order.

    Ranks by the beta-binomial mixture; an end is infinite while the ranks reach beyond the data.
    """
    lower, upper = sequence_ranks(len(ordered), level, alpha=alpha, best_at=best_at, alpha_opt=alpha_opt)
    return _at_ranks(ordered, lower, upper, alpha)


def sequence_ranks(
    n: int, level: float, *, alpha: float = 0.05, best_at: float, alpha_opt: float = 0.05
) -> tuple[int, int]:
    """The ranks (from 1) of the order statistics that bound the quantile; outside 1..n there is none."""
    check_level(alpha)
    _check_quantile(level)
    if n <= 0:
        return 0, 1
    v, v_opt = level * (1.0 - level) * n, level * (1.0 - level) * best_at
    below = beta_binomial_bound(v, alpha, v_opt=v_opt, g=1.0 - level, h=level, alpha_opt=alpha_opt)
    above = beta_binomial_bound(v, alpha, v_opt=v_opt, g=level, h=1.0 - level, alpha_opt=alpha_opt)
    # A sum that cannot reach its boundary excludes nothing: with few values there is no end on that side.
    lower = math.floor(n * (level - below / n) + 1.0) if below < v / (1.0 - level) else 0
    upper = math.ceil(n * (level + above / n)) if above < v / level else n + 1
    return lower, upper


def _at_ranks(ordered: Sequence[float], lower: int, upper: int, alpha: float) -> Interval:
    n = len(ordered)
    return Interval(
        lower=float(ordered[lower - 1]) if lower >= 1 else -math.inf,
        upper=float(ordered[upper - 1]) if upper <= n else math.inf,
        level=1.0 - alpha,
    )


def subgaussian_quantile_sequence(
    ordered: Sequence[float], level: float, *, alpha: float = 0.05, best_at: float
) -> Interval:
    """The same by two one-sided normal mixtures with variance 1/4: far wider at p95, for comparison."""
    check_level(alpha)
    _check_quantile(level)
    n = len(ordered)
    if not n:
        return Interval(lower=-math.inf, upper=math.inf, level=1.0 - alpha)
    mixture = NormalMixture(rho=_narrowest_rho(0.25 * best_at, alpha / 2.0), one_sided=True)
    reach = solve(mixture, 0.25 * n, alpha / 2.0)
    return _at_ranks(ordered, math.ceil(n * level - reach), math.floor(n * level + reach) + 1, alpha)


def _narrowest_rho(v: float, alpha: float) -> float:
    """The precision of the one-sided normal mixture that is narrowest at intrinsic time v, by search."""
    start = math.log(one_sided_rho(v, alpha))
    found = scipy.optimize.minimize_scalar(
        lambda log_rho: NormalMixture(rho=math.exp(log_rho), one_sided=True).bound(v, alpha),
        bounds=(start - 6.0, start + 6.0),
        method="bounded",
    )
    return math.exp(float(found.x))


def quantile_test_log_e(
    candidate: Sequence[float],
    control: Sequence[float],
    level: float,
    *,
    best_at: float,
    alpha_opt: float = 0.05,
) -> float:
    """ln e against "both arms have the same quantile" (F13), at every moment; 0.0 where an arm is empty.

    For each x that the common quantile could be, the two arms' mixtures on the share at or below x multiply;
    the least over x is what the null cannot escape. Of order n log n.
    """
    arms = [np.sort(np.asarray(arm, np.float64)) for arm in (candidate, control)]
    if not arms[0].size or not arms[1].size:
        return 0.0
    mixture = BetaBinomial.tuned(level * (1.0 - level) * best_at, g=level, h=1.0 - level, alpha=alpha_opt)
    at = np.unique(np.concatenate(arms))
    total = np.zeros(at.size)
    for arm in arms:
        n = arm.size
        centre = _minimiser(mixture, level, n)
        less = np.searchsorted(arm, at, side="left") / n
        not_more = np.searchsorted(arm, at, side="right") / n
        share = np.clip(centre, less, not_more)
        total += _log_values(mixture, (share - level) * n, level * (1.0 - level) * n)
    return float(total.min())


def _minimiser(mixture: BetaBinomial, level: float, n: int) -> float:
    v = level * (1.0 - level) * n
    found = scipy.optimize.minimize_scalar(
        lambda share: mixture.log_value((share - level) * n, v),
        bounds=(0.0, 1.0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(found.x)


def _log_values(mixture: BetaBinomial, s: Floats, v: float) -> Floats:
    """`mixture.log_value` of a two-sided mixture for an array of sums."""
    g, h, r = mixture.g, mixture.h, mixture.r
    powers = (v + h * s) / (h * (g + h)) * math.log(g) + (v - g * s) / (g * (g + h)) * math.log(h)
    start = float(scipy.special.betaln(r / (g * (g + h)), r / (h * (g + h))))
    mixed = scipy.special.betaln((r + v - g * s) / (g * (g + h)), (r + v + h * s) / (h * (g + h)))
    return np.asarray(v / (g * h) * math.log(g + h) - powers + mixed - start, np.float64)


def quantile_test_p(
    candidate: Sequence[float],
    control: Sequence[float],
    level: float,
    *,
    best_at: float,
    alpha_opt: float = 0.05,
) -> float:
    """The anytime p-value of `quantile_test_log_e`: min(1, 1 / e)."""
    log_e = quantile_test_log_e(candidate, control, level, best_at=best_at, alpha_opt=alpha_opt)
    return math.exp(min(0.0, -log_e))
