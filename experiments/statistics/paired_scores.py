"""By how much do two versions' scores differ on the same items, and does it hold without normality?

Tests of single pairs' differences beside `paired.clustered_difference`: Wilcoxon's signed ranks, the sign
test, effect sizes for pairs, the bootstrap-t interval where differences are skewed; and the score intervals
for paired shares of May and Johnson and of Tango, next to `paired.bonett_price`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import Estimate, Interval, check_level, lacking, quantile
from .paired import PairTable, clustered_difference, mcnemar_mid_p, paired_sums
from .ranks import RankTest

Floats = npt.NDArray[np.float64]

#: The discordance that May and Johnson's interval is given at least, so that it never collapses.
DISCORDANCE_FLOOR = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SignTest:
    """How many differences are positive and negative (zeros are dropped), with the exact two-sided p."""

    positive: int
    negative: int
    p: float


def sign_test(differences: Sequence[float]) -> SignTest:
    """The exact binomial test of the signs; p is 1.0 without any."""
    d = np.asarray(differences, np.float64)
    up, down = int((d > 0.0).sum()), int((d < 0.0).sum())
    p = float(scipy.stats.binomtest(up, up + down, 0.5).pvalue) if up + down else 1.0
    return SignTest(positive=up, negative=down, p=p)


def wilcoxon(differences: Sequence[float], *, pratt: bool = False) -> RankTest | None:
    """Wilcoxon's signed-rank test; zeros are dropped, or with `pratt` ranked and then dropped.

    Exact up to 50 differences without ties or zeros, else normal with the tie correction. None if all are 0.
    """
    d = np.asarray(differences, np.float64)
    if not np.any(d != 0.0):
        return None
    found = scipy.stats.wilcoxon(d, zero_method="pratt" if pratt else "wilcox", method="auto")
    return RankTest(statistic=float(found.statistic), log_p=math.log(max(float(found.pvalue), 5e-324)))


def rank_biserial(differences: Sequence[float]) -> float | None:
    """The share of signed ranks in favour less the share against (Kerby 2014); None if all are 0.

    Sizes that differ by the rounding of a subtraction alone are ties.
    """
    d = np.asarray(differences, np.float64)
    size = np.abs(d)
    largest = float(size.max()) if d.size else 0.0
    if not 0.0 < largest < math.inf:
        return None
    ties = np.round(size / largest, 12)
    d, ties = d[ties > 0.0], ties[ties > 0.0]
    ranks = scipy.stats.rankdata(ties)
    return float((ranks * np.sign(d)).sum() / ranks.sum())


def standardised(differences: Sequence[float], *, corrected: bool = False) -> float | None:
    """The mean difference in standard deviations of differences (d_z); `corrected` is Hedges' g_z."""
    d = np.asarray(differences, np.float64)
    spread = float(d.std(ddof=1)) if d.size > 1 else 0.0
    if spread <= 0.0:
        return None
    factor = 1.0 - 3.0 / (4.0 * (d.size - 1) - 1.0) if corrected else 1.0
    return factor * float(d.mean()) / spread


def correlation(candidate: Sequence[float], control: Sequence[float]) -> float | None:
    """Pearson's correlation of the two scores: how much pairing is worth; None without spread."""
    one, zero = np.asarray(candidate, np.float64), np.asarray(control, np.float64)
    if one.size < 2 or one.std() == 0.0 or zero.std() == 0.0:
        return None
    return float(np.corrcoef(one, zero)[0, 1])


def bootstrap_t(
    differences: Sequence[float], *, alpha: float = 0.05, draws: int = 4_000, seed: int = 0
) -> Estimate:
    """The mean difference with the bootstrap-t interval, for skewed differences; seeded, so repeatable.

    Draws without spread carry no t and are left out; below eight differences it is no better than a guess.
    """
    method = "bootstrap-t"
    check_level(alpha)
    d = np.asarray(differences, np.float64)
    if not d.size:
        return lacking("no_data", method)
    value, n = float(d.mean()), d.size
    plain = clustered_difference(paired_sums(d.tolist()), alpha=alpha)
    if n < 8 or plain.status != "ok" or plain.se is None:
        return lacking("insufficient_data", method, value)
    rng = np.random.default_rng(seed)
    drawn = d[rng.integers(0, n, size=(draws, n))]
    spread = drawn.std(axis=1, ddof=1) / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (drawn.mean(axis=1) - value) / spread
    t = t[np.isfinite(t)]
    if t.size < draws // 2:
        return lacking("insufficient_data", method, value)
    low, high = np.quantile(t, [alpha / 2.0, 1.0 - alpha / 2.0])
    interval = Interval(
        lower=min(value, value - float(high) * plain.se),
        upper=max(value, value - float(low) * plain.se),
        level=1.0 - alpha,
    )
    return Estimate(
        status="ok",
        method=method,
        value=value,
        se=plain.se,
        df=plain.df,
        interval=interval,
        log_p=plain.log_p,
    )


def wald(table: PairTable, *, alpha: float = 0.05) -> Estimate:
    """The plain normal interval: for comparison only, it covers too little below some hundred pairs."""
    method = "wald-paired"
    check_level(alpha)
    if not table.n:
        return lacking("no_data", method)
    if table.wald_se <= 0.0:
        return lacking("insufficient_data", method, table.difference)
    half = quantile(1.0 - alpha / 2.0) * table.wald_se
    return _of_table(table, table.difference - half, table.difference + half, alpha=alpha, method=method)


def may_johnson(table: PairTable, *, alpha: float = 0.05, floor: float = DISCORDANCE_FLOOR) -> Estimate:
    """The score interval of May and Johnson (1997); as published with floor 0.0, where it can collapse."""
    method = "may-johnson" if floor > 0.0 else "may-johnson-unfloored"
    check_level(alpha)
    n = table.n
    if not n:
        return lacking("no_data", method)
    z2 = quantile(1.0 - alpha / 2.0) ** 2
    up, down = table.candidate_only, table.control_only
    inside = (up + down) / n - ((up - down) / n) ** 2 + z2 * max((up + down) / n, floor) / n
    shrink = 1.0 + z2 / n
    centre, half = table.difference / shrink, math.sqrt(z2 * max(0.0, inside) / n) / shrink
    return _of_table(table, centre - half, centre + half, alpha=alpha, method=method)


def tango(table: PairTable, *, alpha: float = 0.05, continuity: float = 0.0) -> Estimate:
    """Tango's (1998) score interval by the quartic of Chang et al. (2024), who correct it by `continuity`.

    Their small correction is 0.125. The ends are -1 and 1 where all pairs are discordant one way.
    """
    method = "tango-corrected" if continuity else "tango"
    check_level(alpha)
    n = table.n
    if not n:
        return lacking("no_data", method)
    z2 = quantile(1.0 - alpha / 2.0) ** 2
    value = table.difference
    high = _quartic_roots(table, z2, continuity)
    low = _quartic_roots(table, z2, -continuity)
    lower, upper = min([*low, value]), max([*high, value])
    return _of_table(table, lower, upper, alpha=alpha, method=method)


def _quartic_roots(table: PairTable, z2: float, c: float) -> list[float]:
    n, up, down = float(table.n), float(table.candidate_only), float(table.control_only)
    g = n * n + z2 * n
    h = 0.5 * z2 * (2.0 * n - up + down) - 2.0 * n * (up - down + c) - z2 * n
    i = (up - down + c) ** 2 - 0.5 * z2 * (up + down)
    b, z4 = 2.0 * n - up + down, z2 * z2
    roots = np.roots(
        [
            g * g,
            2.0 * g * h,
            h * h + 2.0 * g * i - 0.25 * z4 * (b * b - 8.0 * n * down),
            2.0 * h * i - 0.25 * z4 * (8.0 * n * down - 2.0 * (up + down) * b),
            i * i - 0.25 * z4 * (up + down) ** 2,
        ]
    )
    real = roots[np.abs(roots.imag) < 1e-8].real
    return [float(root) for root in real if -1.0 - 1e-9 <= root <= 1.0 + 1e-9]


def _of_table(table: PairTable, lower: float, upper: float, *, alpha: float, method: str) -> Estimate:
    if table.candidate_only == table.n:
        upper = 1.0
    if table.control_only == table.n:
        lower = -1.0
    return Estimate(
        status="ok",
        method=method,
        value=table.difference,
        se=table.wald_se,
        interval=Interval(lower=max(-1.0, lower), upper=min(1.0, upper), level=1.0 - alpha),
        log_p=math.log(max(mcnemar_mid_p(table), 5e-324)),
    )
