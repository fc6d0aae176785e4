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

import numpy as np

from ..evidence import Histogram, PairQuantile
from ..statistics import strata
from ..statistics.moments import Cluster, Sizes
from ..statistics.quantiles import QuantileSummary, needed, outer_levels
from ..statistics.shares_below import Layer, Ordered, QuantileContrast

#: Bins for each factor of e (`ledger.layout` counts them so).
_BINS = 1000.0
#: No two shares of the same pairs are taken to hang together more closely.
_ALIKE = 0.99


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
        logs = (np.asarray(self.histogram.bins, np.float64) + 0.5) / _BINS
        counts = np.asarray(self.histogram.counts, np.float64)
        squares = float((logs - logs @ counts / self.n) ** 2 @ counts)
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

    def summary(self, level: float) -> QuantileSummary:
        """What the order statistics need, with as many values as the dependent ones are worth."""
        n = round(self.n / self.design_effect)
        value, low, high = (self.quantile(at) for at in (level, *outer_levels(level, n)))
        return QuantileSummary(n=n, level=level, value=value, lower=low, upper=high)

    def ordered(self, n: float) -> Ordered:
        """The shares of its values below each edge of a bin, of values worth `n`; there must be some."""
        if self.histogram is None:
            return Ordered(np.zeros(1), np.ones(1), n)
        counts = np.asarray(self.histogram.counts, np.float64)
        bins = np.asarray(self.histogram.bins, np.float64)
        after = np.cumsum(counts) / counts.sum()
        before = np.concatenate([[0.0], after[:-1]])
        at = np.stack([bins, bins + 1.0], axis=1).ravel() / _BINS
        return Ordered(at, np.stack([before, after], axis=1).ravel(), n)


#: (candidate, control) in each phase; and the layer that their comparison is, None where too few values came.
Phases = Sequence[tuple[Sketch, Sketch]]
Layers = Sequence[Layer | None]


def compared(layers: Layers) -> QuantileContrast | None:
    """The candidate's quantile against the control's, within phases; None where no phase can tell."""
    found = [layer for layer in layers if layer is not None]
    return QuantileContrast(found) if found else None


def within(phases: Phases, level: float) -> Layers:
    """Each phase's comparison."""
    return [_layer(candidate, control, level) for candidate, control in phases]


def _layer(candidate: Sketch, control: Sketch, level: float) -> Layer | None:
    """Where one arm has few units, they may lack the slow ones, and seem less alike in themselves than they
    are: then they are taken to be as much so as the other's, which has many."""
    few = strata.outnumbered(candidate.units.n, control.units.n)
    one, zero = candidate.design_effect, control.design_effect
    one, zero = max(one, zero) if few == "candidate" else one, max(one, zero) if few == "control" else zero
    worth = round(candidate.n / one), round(control.n / zero)
    weight = strata.harmonic(candidate.units.n, control.units.n)
    if min(worth) <= needed(level) or not weight:
        return None
    return Layer(
        candidate=candidate.ordered(worth[0]),
        control=control.ordered(worth[1]),
        level=level,
        weight=weight,
    )


def paired(candidate: Sketch, control: Sketch, both: PairQuantile, level: float) -> QuantileContrast | None:
    """The candidate's quantile against the control's, over the same pairs; None where they cannot tell.

    The variances of the shares below the two quantiles, and their covariance, are of clusters, so that what
    makes a request slow in both versions cancels out. A large cluster's residual counts as too small.
    """
    c, m = both.clusters, float(both.m)
    if c < 2 or not m:
        return None
    one, zero = both.a / m, both.b / m
    sizes = Sizes(n=c, m=m, mm=float(both.mm))
    scale = c / (c - 1) / (m * m) * sizes.missed
    of_one = scale * (both.aa - 2.0 * one * both.am + one * one * both.mm)
    of_zero = scale * (both.bb - 2.0 * zero * both.bm + zero * zero * both.mm)
    shared = scale * (both.ab - one * both.bm - zero * both.am + one * zero * both.mm)
    plain = level * (1.0 - level)
    if not 0.0 < min(of_one, of_zero) < math.inf:
        return None
    worth = min(m, plain / of_one), min(m, plain / of_zero)
    if min(worth) <= needed(level):
        return None
    # Never as if the halves were one and the same: the histogram's bins are rough.
    correlation = max(-_ALIKE, min(_ALIKE, shared / math.sqrt(of_one * of_zero)))
    layer = Layer(
        candidate=candidate.ordered(worth[0]),
        control=control.ordered(worth[1]),
        level=level,
        correlation=correlation,
        df=sizes.freedom,
    )
    return QuantileContrast([layer])


def levels(phases: Phases, layers: Layers, level: float) -> tuple[float | None, float | None]:
    """The candidate's and the control's quantile over the phases: for show, and weighed as they are compared.

    Pooled, a level that drifts along a ramp would stand between the arms.
    """
    weighed = [(one.weight, pair) for one, pair in zip(layers, phases, strict=True) if one is not None]
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
