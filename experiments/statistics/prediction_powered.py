"""What do few human labels and many judge scores say together? Prediction-powered inference (F14, PPI++).

The judge's mean over everything, corrected by its mean error on the labelled items, weighted by how well it
follows the people (Angelopoulos, Duchi and Zrnic 2023). It holds however bad the judge is, if the labelled
items are a uniform random sample of all; a judge that helps not is weighted with zero. For a paired
comparison of two versions, y and f are the differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .estimate import Estimate, StatisticsError, lacking
from .mean import Alternative, t_estimate
from .moments import Moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Sums over n labelled items: the human's y, the judge's f, and their product."""

    y: Moments
    f: Moments
    yf: float

    @property
    def n(self) -> int:
        """The number of labelled items."""
        return self.y.n


def _spread(moments: Moments) -> float:
    """The variance with n, not n - 1, as the method has it."""
    if moments.n == 0:
        return math.nan
    return max(0.0, moments.squares / moments.n - moments.mean**2)


def tuning(labelled: Labelled, unlabelled: Moments) -> float:
    """lambda = Cov(y, f) / ((1 + n / N) Var f), cut to [0, 1]; the variance is of all of f (n - 1).

    0.0 where f has no spread or nothing is unlabelled: then the labels speak alone.
    """
    n, N = labelled.n, unlabelled.n
    if n == 0 or N == 0:
        return 0.0
    all_of_f = Moments(
        n=n + N,
        total=labelled.f.total + unlabelled.total,
        squares=labelled.f.squares + unlabelled.squares,
    )
    if not all_of_f.usable:
        return 0.0
    cross = labelled.yf / n - labelled.y.mean * labelled.f.mean
    return min(1.0, max(0.0, cross / ((1.0 + n / N) * all_of_f.variance)))


def mean(
    labelled: Labelled,
    unlabelled: Moments,
    *,
    alpha: float = 0.05,
    lam: float | None = None,
    alternative: Alternative = "two-sided",
    null: float = 0.0,
    normal: bool = False,
) -> Estimate:
    """lam * mean(f over unlabelled) + mean(y - lam * f over labelled), with the t interval of n - 1.

    SE^2 = lam^2 Var(f unlabelled) / N + Var(y - lam f) / n. The published interval is `normal`, with n in
    place of n - 1: it covers 93.5 % with eighty labels. `lam` is tuned where it is not given; 1 is plain
    PPI and 0 the labels alone. A one-sided interval keeps its infinite end whether or not lam is tuned.
    """
    method = "ppi++" if lam is None else "ppi"
    if lam is not None and not math.isfinite(lam):
        raise StatisticsError(f"lam is {lam!r}: a finite number is needed")
    n, N = labelled.n, unlabelled.n
    if n == 0 or (N == 0 and lam):
        return lacking("no_data", method)
    weight = tuning(labelled, unlabelled) if lam is None else lam
    value = labelled.y.mean - weight * labelled.f.mean
    variance = 0.0
    if weight:
        value += weight * unlabelled.mean
        variance = weight**2 * _spread(unlabelled) / N
    cross = labelled.yf / n - labelled.y.mean * labelled.f.mean
    rest = _spread(labelled.y) + weight**2 * _spread(labelled.f) - 2.0 * weight * cross
    variance += max(0.0, rest) / (n if normal else max(1, n - 1))
    if n < 2 or variance <= 1e-15 * max(1.0, value * value):
        return lacking("insufficient_data", method, value)
    df = math.inf if normal else n - 1.0
    return t_estimate(value, variance, df, alpha=alpha, method=method, alternative=alternative, null=null)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSums:
    """One cluster's sums over its items, each with its weight m: the labelled ones with the human's y and the
    judge's f; those that only the judge has seen (`rest_`); and those whose y is known without a label."""

    m: float = 0.0
    y: float = 0.0
    f: float = 0.0
    rest_m: float = 0.0
    rest_f: float = 0.0
    known_m: float = 0.0
    known_y: float = 0.0


def clustered_mean(clusters: Sequence[ClusterSums], *, alpha: float = 0.05) -> Estimate:
    """The same over clusters, beside items whose y is known: w (mean(y) - lam (mean(f labelled) - mean(f
    all))) + (1 - w) mean(y known), with a robust error.

    w is the share of the items whose y is not known; the labelled ones are a random sample of those, and
    "all" are all of those. The standard error is that of the sum over clusters of their influence (CR1 with
    the labelled clusters, t with one less), and lam minimises it: without clusters and known items this is
    F14, whose lam is N / (n + N) times this one. Taking f's mean over all, and not over the rest, keeps the
    error honest where few are left unlabelled.
    """
    method = "ppi++-clustered"
    m, known = math.fsum(one.m for one in clusters), math.fsum(one.known_m for one in clusters)
    total = m + math.fsum(one.rest_m for one in clusters)
    labelled = sum(one.m > 0.0 for one in clusters)
    if m <= 0.0:
        return lacking("no_data", method)
    y = math.fsum(one.y for one in clusters) / m
    all_f = math.fsum(one.f + one.rest_f for one in clusters) / total
    of_y = [(one.y - one.m * y) / m for one in clusters]
    of_f = [
        (one.f - one.m * all_f) / m - (one.f + one.rest_f - (one.m + one.rest_m) * all_f) / total
        for one in clusters
    ]
    squares = math.fsum(b * b for b in of_f)
    cross = math.fsum(a * b for a, b in zip(of_y, of_f, strict=True))
    lam = min(1.0, max(0.0, cross / squares)) if squares > 1e-15 else 0.0
    there = y - lam * (math.fsum(one.f for one in clusters) / m - all_f)
    value = (total * there + math.fsum(one.known_y for one in clusters)) / (total + known)
    if labelled < 2:
        return lacking("insufficient_data", method, value)
    influence = [
        total * (a - lam * b)
        + ((one.m + one.rest_m) * there + one.known_y - (one.m + one.rest_m + one.known_m) * value)
        for one, a, b in zip(clusters, of_y, of_f, strict=True)
    ]
    variance = labelled / (labelled - 1) * math.fsum(one * one for one in influence) / (total + known) ** 2
    if variance <= 1e-15 * max(1.0, value * value):
        return lacking("insufficient_data", method, value)
    return t_estimate(value, variance, labelled - 1.0, alpha=alpha, method=method)
