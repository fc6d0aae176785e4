"""How do two arms' quantiles compare, when only histograms of them are kept?

A histogram has a thousand bins for each factor of e, so that a quantile is read to a tenth of a percent. The
exchanges of one unit resemble each other: they count as fewer, by the design effect of the logarithm's mean
over units, which for a shift of the whole distribution is at least that of a share beyond any limit. Units
seen in several phases make the phases' estimates dependent; their standard errors are added as if they
depended entirely, which is never too little. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .evidence import Histogram, PairQuantile
from .statistics import strata
from .statistics.estimate import Estimate, lacking, quantile
from .statistics.mean import t_estimate
from .statistics.moments import Cluster
from .statistics.quantiles import QuantileSummary, outer_levels, quantile_log_ratio

#: Bins for each factor of e (`ledger.layout` counts them so).
_BINS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """One arm in one phase: how often each size occurred, and the logarithms' sums over units."""

    histogram: Histogram | None
    units: Cluster

    @property
    def n(self) -> int:
        """The number of values."""
        return sum(self.histogram.counts) if self.histogram else 0

    @property
    def design_effect(self) -> float:
        """How many dependent values say as much as one independent one; at least 1."""
        if self.histogram is None or self.n < 2:
            return 1.0
        logs = [(bin_ + 0.5) / _BINS for bin_ in self.histogram.bins]
        mean = sum(x * k for x, k in zip(logs, self.histogram.counts, strict=True)) / self.n
        squares = sum((x - mean) ** 2 * k for x, k in zip(logs, self.histogram.counts, strict=True))
        plain = squares / (self.n - 1) / self.n
        found = self.units.variance * self.units.missed / plain if plain > 0.0 else 1.0
        return max(1.0, found) if math.isfinite(found) else 1.0

    def quantile(self, level: float) -> float:
        """The value at a level, interpolated within its bin; NaN without values."""
        if self.histogram is None or not self.n:
            return math.nan
        rank = min(1.0, max(0.0, level)) * self.n
        at = self.histogram.place(level)
        inside = 1.0 - (sum(self.histogram.counts[: at + 1]) - rank) / self.histogram.counts[at]
        return math.exp((self.histogram.bins[at] + min(1.0, max(0.0, inside))) / _BINS)

    def summary(self, level: float, *, like: Sketch | None = None) -> QuantileSummary:
        """What the order statistics need, with as many values as the dependent ones are worth.

        Where there are few, they lack the slow ones just when the quantile is too low by luck: then neither
        are they worth more nor are they closer together than those of `like`, which has many.
        """
        effects = [self.design_effect, *([like.design_effect] if like is not None else [])]
        n, value = round(self.n / max(effects)), self.quantile(level)
        low, high = outer_levels(level, n)
        ends = [(self.quantile(low), self.quantile(high))]
        if like is not None and like.n:
            scale = value / like.quantile(level)
            ends.append((scale * like.quantile(low), scale * like.quantile(high)))
        lower, upper = max(ends, key=lambda both: both[1] - both[0])
        return QuantileSummary(n=n, level=level, value=value, lower=lower, upper=upper)


#: (candidate, control) in each phase; and what each phase's comparison weighs, and says.
Phases = Sequence[tuple[Sketch, Sketch]]
Compared = Sequence[tuple[float, Estimate]]


def log_ratio(compared: Compared, *, alpha: float) -> Estimate:
    """ln of the candidate's quantile over the control's, compared within phases."""
    method = "order-statistic-log-ratio"
    found = [one for one in compared if one[0] > 0.0]
    if not found:
        statuses = {one.status for _, one in compared}
        return lacking("no_data" if statuses <= {"no_data"} else "insufficient_data", method)
    if len(found) == 1:
        return found[0][1]
    total = sum(weight for weight, _ in found)
    value = sum(weight * (one.value or 0.0) for weight, one in found) / total
    se = sum(weight * (one.se or 0.0) for weight, one in found) / total
    df = min(one.df for _, one in found)
    return t_estimate(value, se * se, df, alpha=alpha, method=f"stratified-{method}")


def within(phases: Phases, level: float, *, alpha: float) -> Compared:
    """Each phase's comparison and what it weighs: nothing where it has no standard error."""
    each = (_compared(candidate, control, level, alpha) for candidate, control in phases)
    return [
        (strata.harmonic(candidate.units.n, control.units.n) if one.status == "ok" else 0.0, one)
        for (candidate, control), one in zip(phases, each, strict=True)
    ]


def _compared(candidate: Sketch, control: Sketch, level: float, alpha: float) -> Estimate:
    few = strata.outnumbered(candidate.units.n, control.units.n)
    return quantile_log_ratio(
        candidate.summary(level, like=control if few == "candidate" else None),
        control.summary(level, like=candidate if few == "control" else None),
        alpha=alpha,
    )


def paired_log_ratio(
    candidate: Sketch, control: Sketch, both: PairQuantile, level: float, *, alpha: float
) -> Estimate:
    """ln of the candidate's quantile over the control's, over the same pairs.

    By Bahadur's representation a quantile's error is that of the share below it, over the density: the two
    shares' variances and their covariance are of clusters, so that what makes a request slow in both
    versions cancels out. The densities are differences of outer quantiles (F11).
    """
    method = "paired-order-statistic-log-ratio"
    c, m = both.clusters, float(both.m)
    if not c or not m:
        return lacking("no_data", method)
    value = math.log(candidate.quantile(level) / control.quantile(level))
    if c < 2:
        return lacking("insufficient_data", method, value)
    one, zero = both.a / m, both.b / m
    scale = c / (c - 1) / (m * m)
    of_one = scale * (both.aa - 2.0 * one * both.am + one * one * both.mm)
    of_zero = scale * (both.bb - 2.0 * zero * both.bm + zero * zero * both.mm)
    shared = scale * (both.ab - one * both.bm - zero * both.am + one * zero * both.mm)
    slopes = [_slope(half, level, v) for half, v in ((candidate, of_one), (control, of_zero))]
    if None in slopes:
        return lacking("insufficient_data", method, value)
    s1, s0 = (slope or 0.0 for slope in slopes)
    if not s1 or not s0:
        return lacking("insufficient_resolution", method, value)
    variance = s1 * s1 * of_one + s0 * s0 * of_zero - 2.0 * s1 * s0 * shared
    # Never as if the halves were one and the same: the histogram's bins and the density are rough too.
    variance = max(variance, 0.01 * (s1 * s1 * of_one + s0 * s0 * of_zero))
    return t_estimate(value, variance, c - 1.0, alpha=alpha, method=method)


def _slope(half: Sketch, level: float, variance: float) -> float | None:
    """d ln(quantile) / d level, from the quantiles as far away as chance reaches; None beyond the data."""
    reach = quantile(0.975) * math.sqrt(max(0.0, variance))
    if not 0.0 < level - reach < level + reach < 1.0:
        return None
    return math.log(half.quantile(level + reach) / half.quantile(level - reach)) / (2.0 * reach)


def levels(phases: Phases, compared: Compared, level: float) -> tuple[float | None, float | None]:
    """The candidate's and the control's quantile over the phases: for show, and weighed as they are compared.

    Pooled, a level that drifts along a ramp would stand between the arms.
    """
    weighed = [(weight, pair) for (weight, _), pair in zip(compared, phases, strict=True) if weight > 0.0]
    if len(weighed) < 2:
        shown = [pair for _, pair in weighed] or phases
        candidates, controls = [one for one, _ in shown], [zero for _, zero in shown]
        return _pooled(candidates, level), _pooled(controls, level)
    total = sum(weight for weight, _ in weighed)
    one, zero = (
        math.exp(sum(weight * math.log(pair[side].quantile(level)) for weight, pair in weighed) / total)
        for side in (0, 1)
    )
    return one, zero


def _pooled(sketches: Sequence[Sketch], level: float) -> float | None:
    counts: dict[int, int] = {}
    for sketch in sketches:
        if sketch.histogram is not None:
            for bin_, count in zip(sketch.histogram.bins, sketch.histogram.counts, strict=True):
                counts[bin_] = counts.get(bin_, 0) + count
    if not counts:
        return None
    bins = tuple(sorted(counts))
    whole = Histogram(metric="", phase=0, arm="", bins=bins, counts=tuple(counts[bin_] for bin_ in bins))
    none = Cluster(n=0, y=0.0, m=0.0, yy=0.0, mm=0.0, ym=0.0)
    return Sketch(histogram=whole, units=none).quantile(level)
