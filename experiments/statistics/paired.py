"""By how much do two versions differ on the same items? Shadow pairs and golden sets.

McNemar's test (mid-p and exact) with the intervals of Bonett and Price and of Newcombe for failures; the
cluster-robust mean difference (F17) for numbers. Candidate minus control.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from .estimate import Estimate, Interval, check_level, lacking, quantile
from .mean import t_estimate
from .moments import Sizes
from .proportion import wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTable:
    """Pairs by what became of both: the event in both, in the control alone, the candidate alone, neither."""

    both: int
    control_only: int
    candidate_only: int
    neither: int

    @property
    def n(self) -> int:
        """The number of pairs."""
        return self.both + self.control_only + self.candidate_only + self.neither

    @property
    def difference(self) -> float:
        """The candidate's share of the event minus the control's; NaN without pairs."""
        return (self.candidate_only - self.control_only) / self.n if self.n else math.nan

    @property
    def sums(self) -> PairedSums:
        """The sums of the pairs' differences, each pair a cluster of its own."""
        d, discordant, n = (
            self.candidate_only - self.control_only,
            self.candidate_only + self.control_only,
            self.n,
        )
        return PairedSums(clusters=n, d=d, m=n, dd=discordant, md=d, mm=n, cubes=(d, discordant, d, n))

    @property
    def wald_se(self) -> float:
        """The plain standard error of the difference; 0.0 without discordant pairs: not for intervals."""
        if not self.n:
            return math.nan
        discordant = self.candidate_only + self.control_only
        squared = (self.candidate_only - self.control_only) ** 2 / self.n
        return math.sqrt(max(0.0, discordant - squared)) / self.n


def mcnemar_exact(table: PairTable) -> float:
    """McNemar's exact two-sided p-value: the binomial test of the discordant pairs; 1.0 without any."""
    few, total = min(table.control_only, table.candidate_only), table.control_only + table.candidate_only
    return min(1.0, 2.0 * float(scipy.stats.binom.cdf(few, total, 0.5))) if total else 1.0


def mcnemar_mid_p(table: PairTable) -> float:
    """The same with only half of the observed table's probability (Fagerland, Lydersen and Laake 2013)."""
    few, total = min(table.control_only, table.candidate_only), table.control_only + table.candidate_only
    if not total:
        return 1.0
    at = float(scipy.stats.binom.pmf(few, total, 0.5))
    return min(1.0, 2.0 * float(scipy.stats.binom.cdf(few, total, 0.5)) - at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChiSquare:
    """A chi-square statistic with one degree of freedom and its p-value."""

    statistic: float
    p: float


def mcnemar_chi_square(table: PairTable) -> ChiSquare | None:
    """McNemar's chi-square with continuity correction; None without discordant pairs."""
    total = table.control_only + table.candidate_only
    if not total:
        return None
    statistic = max(0.0, abs(table.candidate_only - table.control_only) - 1.0) ** 2 / total
    return ChiSquare(statistic=statistic, p=float(scipy.stats.chi2.sf(statistic, 1)))


def mid_p_z(table: PairTable) -> float:
    """The z whose two-sided p-value is McNemar's mid-p, positive where the candidate has more events."""
    p = mcnemar_mid_p(table)
    size = -quantile(max(p, 1e-300) / 2.0)
    return math.copysign(max(0.0, size), table.candidate_only - table.control_only)


def bonett_price(table: PairTable, *, alpha: float = 0.05) -> Estimate:
    """The difference with the adjusted Wald interval of Bonett and Price (2012); p is McNemar's mid-p.

    `se` is the adjusted one: never zero.
    """
    check_level(alpha)
    if not table.n:
        return lacking("no_data", "bonett-price")
    n = table.n + 2
    up, down = (table.candidate_only + 1) / n, (table.control_only + 1) / n
    se = math.sqrt((up + down - (up - down) ** 2) / n)
    half = quantile(1.0 - alpha / 2.0) * se
    interval = Interval(
        lower=max(-1.0, up - down - half), upper=min(1.0, up - down + half), level=1.0 - alpha
    )
    return Estimate(
        status="ok",
        method="bonett-price",
        value=table.difference,
        se=se,
        interval=interval,
        log_p=math.log(max(mcnemar_mid_p(table), 5e-324)),
    )


def newcombe_paired(table: PairTable, *, alpha: float = 0.05) -> Estimate:
    """The difference with Newcombe's (1998, method 10) interval for pairs, from Wilson's limits."""
    check_level(alpha)
    n = table.n
    if not n:
        return lacking("no_data", "newcombe-paired")
    x1, x0 = table.both + table.candidate_only, table.both + table.control_only
    p1, p0 = x1 / n, x0 / n
    w1, w0 = wilson(x1, n, alpha=alpha), wilson(x0, n, alpha=alpha)
    phi = _correlation(table)
    below = (p1 - w1.lower) ** 2 - 2 * phi * (p1 - w1.lower) * (w0.upper - p0) + (w0.upper - p0) ** 2
    above = (w1.upper - p1) ** 2 - 2 * phi * (w1.upper - p1) * (p0 - w0.lower) + (p0 - w0.lower) ** 2
    value = table.difference
    interval = Interval(
        lower=value - math.sqrt(max(0.0, below)),
        upper=value + math.sqrt(max(0.0, above)),
        level=1.0 - alpha,
    )
    return Estimate(
        status="ok",
        method="newcombe-paired",
        value=value,
        se=table.wald_se,
        interval=interval,
        log_p=math.log(max(mcnemar_mid_p(table), 5e-324)),
    )


def _correlation(table: PairTable) -> float:
    """The correlation of the two events, continuity-corrected where positive as Newcombe has it."""
    a, b, c, d = table.both, table.control_only, table.candidate_only, table.neither
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    cross = float(a * d - b * c)
    if cross > 0:
        cross = max(cross - table.n / 2.0, 0.0)
    return cross / math.sqrt(margins)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedSums:
    """Sums over clusters (units, scenarios): of d_c (sum of differences) and m_c (how many) in each.

    `cubes`, where they are known, are the sums of d_c^3, m_c d_c^2, m_c^2 d_c and m_c^3.
    """

    clusters: int
    d: float
    m: float
    dd: float
    md: float
    mm: float
    cubes: tuple[float, ...] = ()

    @property
    def sizes(self) -> Sizes:
        """How unequal the clusters are."""
        return Sizes(n=self.clusters, m=self.m, mm=self.mm)

    @property
    def residual_cubes(self) -> float | None:
        """The sum over clusters of (d_c - m_c * mean)^3; None where it is not known."""
        if len(self.cubes) != 4 or self.m <= 0.0:
            return None
        ddd, mdd, mmd, mmm = self.cubes
        r = self.d / self.m
        return ddd - 3.0 * r * mdd + 3.0 * r * r * mmd - r**3 * mmm


def clustered_difference(
    sums: PairedSums,
    *,
    alpha: float = 0.05,
    null: float = 0.0,
    corrected: bool = True,
    wary: bool = False,
) -> Estimate:
    """The mean difference with the cluster-robust standard error and C - 1 degrees of freedom (F17).

    sqrt(C / (C - 1) * sum over clusters of (d_c - m_c * mean)^2) / n. With one pair in each cluster this
    is the paired t. Without `corrected` the factor C / (C - 1) is left out, as in Miller (2024), eq. 4.
    With `wary`, clusters of unequal sizes count as the fewer that they are worth, and a large one's residual
    as too small, as units do in `strata.mean_contrast`.
    """
    if sums.clusters == 0 or sums.m <= 0:
        return lacking("no_data", "paired-t-clustered")
    value = sums.d / sums.m
    if sums.clusters < 2:
        return lacking("insufficient_data", "paired-t-clustered", value)
    squares = sums.dd + value * value * sums.mm - 2.0 * value * sums.md
    if squares <= 1e-12 * (abs(sums.dd) + value * value * sums.mm):
        return lacking("insufficient_data", "paired-t-clustered", value)
    factor = sums.clusters / (sums.clusters - 1) if corrected else 1.0
    variance, df = factor * squares / sums.m**2, sums.clusters - 1.0
    if wary:
        variance, df = variance * sums.sizes.missed, sums.sizes.freedom
    return t_estimate(value, variance, df, alpha=alpha, method="paired-t-clustered", null=null)


#: The pairs of one cluster, each as (weight, candidate - control).
Cluster = Sequence[tuple[float, float]]


def independent_parts(clusters: Sequence[Cluster]) -> float:
    """Of how many pairs that have nothing to do with each other a cluster is made: from 1, where its pairs
    are won and lost as one, to its size. It is the size over the design effect (Kish 1965), as if one cluster
    more had come and had been lost whole: what was not seen to differ is taken to hang together."""
    sums = [_cluster_sums(cluster) for cluster in clusters]
    n = math.fsum(m for _, m in sums)
    if n <= 0:
        return 1.0
    mean = math.fsum(d for d, _ in sums) / n
    whole = math.fsum(m * m for _, m in sums) / n
    pair = math.fsum(weight * weight for cluster in clusters for weight, _ in cluster) / n
    between = math.fsum((d - m * mean) ** 2 for d, m in sums) + whole * whole
    within = math.fsum((weight * (d - mean)) ** 2 for cluster in clusters for weight, d in cluster)
    return min(max(1.0, whole / pair * (within + whole * pair) / between), whole / pair)


def cluster_sums(clusters: Sequence[Cluster]) -> PairedSums:
    """The sums over these clusters, of weighted differences and of weights."""
    return _paired_sums([_cluster_sums(cluster) for cluster in clusters])


def _cluster_sums(cluster: Cluster) -> tuple[float, float]:
    return math.fsum(weight * d for weight, d in cluster), math.fsum(weight for weight, _ in cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRatio:
    """Sums over clusters of pairs of (top, bottom) of the candidate and of the control: shape (4,), and of
    the products of each cluster's totals: shape (4, 4)."""

    clusters: int
    totals: tuple[float, ...]
    products: tuple[tuple[float, ...], ...]


def ratio_contrast(sums: PairedRatio, *, alpha: float = 0.05, control_factor: float = 1.0) -> Estimate:
    """R1 - control_factor * R0, where R are ratios of sums over the same pairs, by the delta method (F4).

    A cluster's residual is (y1 - R1 w1) / W1 - control_factor (y0 - R0 w0) / W0; the standard error is that
    of their sum: what both halves of a pair share cancels out. Clusters of unequal sizes count as the fewer
    that they are worth, and a large one's residual as too small.
    """
    method = "paired-ratio-clustered"
    if sums.clusters == 0 or not all(sums.totals[k] > 0.0 for k in (1, 3)):
        return lacking("no_data", method)
    y1, w1, y0, w0 = sums.totals
    value = y1 / w1 - control_factor * y0 / w0
    slope = (
        np.array([1.0, -y1 / w1, 0.0, 0.0]) / w1 - control_factor * np.array([0.0, 0.0, 1.0, -y0 / w0]) / w0
    )
    parts = np.outer(slope, slope) * np.asarray(sums.products, np.float64)
    squares = float(parts.sum())
    if sums.clusters < 2 or squares <= 1e-12 * float(np.abs(parts).sum()):
        return lacking("insufficient_data", method, value)
    c = sums.clusters
    halves = [Sizes(n=c, m=sums.totals[k], mm=float(sums.products[k][k])) for k in (1, 3)]
    variance = squares * c / (c - 1) * max(half.missed for half in halves)
    return t_estimate(value, variance, min(half.freedom for half in halves), alpha=alpha, method=method)


def paired_sums(differences: Sequence[float], clusters: Sequence[object] | None = None) -> PairedSums:
    """The sums of single differences, each its own cluster unless `clusters` names them."""
    totals: dict[object, tuple[float, int]] = {}
    for index, difference in enumerate(differences):
        name = index if clusters is None else clusters[index]
        d, m = totals.get(name, (0.0, 0))
        totals[name] = (d + difference, m + 1)
    return _paired_sums(list(totals.values()))


def _paired_sums(pairs: Sequence[tuple[float, float]]) -> PairedSums:
    return PairedSums(
        clusters=len(pairs),
        d=math.fsum(d for d, _ in pairs),
        m=math.fsum(m for _, m in pairs),
        dd=math.fsum(d * d for d, _ in pairs),
        md=math.fsum(m * d for d, m in pairs),
        mm=math.fsum(m * m for _, m in pairs),
        cubes=tuple(math.fsum(m**k * d ** (3 - k) for d, m in pairs) for k in range(4)),
    )


def sign_flip_p(differences: Sequence[float], *, draws: int = 10_000, seed: int = 0) -> float:
    """The two-sided sign-flip permutation p-value: every flip up to 12 differences, else seeded draws.

    The draws count the observed signs among themselves, so that p is never zero.
    """
    d = np.asarray(differences, np.float64)
    if d.size == 0:
        return 1.0
    observed = abs(float(d.sum()))
    slack = 1e-12 * float(np.abs(d).sum())
    if d.size <= 12:
        signs = 1.0 - 2.0 * ((np.arange(2**d.size)[:, None] >> np.arange(d.size)) & 1)
        return float(np.mean(np.abs(signs @ d) >= observed - slack))
    rng = np.random.default_rng(seed)
    signs = rng.choice(np.array([-1.0, 1.0]), size=(draws, d.size))
    return float((1 + np.count_nonzero(np.abs(signs @ d) >= observed - slack)) / (draws + 1))
