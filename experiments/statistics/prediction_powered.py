"""What do few human labels and many judge scores say together? Prediction-powered inference (F14, PPI++).

The judge's mean over everything, corrected by its mean error on the labelled items, weighted by how well it
follows the people (Angelopoulos, Duchi and Zrnic 2023). It holds however bad the judge is, if the labelled
items are a uniform random sample of all; a judge that helps not is weighted with zero. For a paired
comparison of two versions, y and f are the differences.
"""

from __future__ import annotations

import math
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
