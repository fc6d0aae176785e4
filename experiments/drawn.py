"""What would an experiment of production against itself have seen? Evidence drawn from units of the past.

Units come with replacement, in random order. Of two arms each unit has one, by the coin. Of pairs, each
cluster is of two units drawn independently of each other: as different as two answers can be that no rule
may tell apart. Which of two answers a judge preferred is kept or turned round by the coin. Pure: a random
generator in, evidence at any number of units out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from .evidence import (
    AnalysisSpec,
    ArmCount,
    Evidence,
    Goal,
    Histogram,
    MetricSums,
    PairQuantile,
    PairSums,
)
from .history import History, UnitTotals
from .metrics import Metric

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: The upper triangle of a ratio's 4 x 4 products, row by row.
_UPPER: Final = tuple((j, k) for j in range(4) for k in range(j, 4))


class Units:
    """A sample of units as columns, metric by metric. Built once for many experiments."""

    def __init__(self, history: History, goals: Sequence[Goal]) -> None:
        """Raises KeyError for a goal that no unit has."""
        self.metrics: dict[str, Metric] = {goal.metric.name: goal.metric for goal in goals}
        totals = {name: history.of(metric) for name, metric in self.metrics.items()}
        self.of = {name: _Columns(found) for name, found in totals.items() if found is not None}
        if lacking := totals.keys() - self.of.keys():
            raise KeyError(f"no unit has {', '.join(sorted(lacking))}")
        self.size = max(column.y.size for column in self.of.values())


class _Columns:
    """One metric's totals, and the bins of all units one after the other."""

    def __init__(self, totals: UnitTotals) -> None:
        self.y, self.m = np.asarray(totals.y), np.asarray(totals.m)
        self.failed = np.asarray(totals.failed, np.float64)
        self.bins = np.array([bin_ for unit in totals.bins for bin_ in unit], np.int64)
        self.counts = np.array([len(unit) for unit in totals.bins], np.int64)
        self.starts = np.cumsum(self.counts) - self.counts

    def bins_of(self, units: Integers) -> Integers:
        """The bins of these units, one after the other."""
        counts = self.counts[units]
        ends = np.cumsum(counts)
        inside = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - counts, counts)
        return self.bins[np.repeat(self.starts[units], counts) + inside]


def drawn(spec: AnalysisSpec, units: Units, random: np.random.Generator, *, share: float) -> Arms | Pairs:
    """One experiment of `spec.horizon` units."""
    if spec.mode == "shadow":
        return Pairs(spec, units, random)
    return Arms(spec, units, random, share)


class Arms:
    """Units of one sample, half of them (or `share`) called the candidate's."""

    def __init__(self, spec: AnalysisSpec, units: Units, random: np.random.Generator, share: float) -> None:
        self._spec, self._units, self._share = spec, units, share
        self._chosen = random.integers(0, units.size, spec.horizon)
        self._arms = random.random(spec.horizon) < share
        self._sums = {name: self._running(columns) for name, columns in units.of.items()}

    def evidence(self, units: int, at: int) -> Evidence:
        """What is known after the first `units`, `at` seconds after the begin."""
        names = {False: self._spec.control, True: self._spec.candidate}
        counts = {True: int(self._arms[:units].sum())}
        counts[False] = units - counts[True]
        return Evidence(
            experiment=self._spec.experiment,
            as_of_ns=at * 10**9,
            started_ns=0,
            arms=tuple(
                ArmCount(
                    phase=1,
                    arm=names[arm],
                    expected_share=self._share if arm else 1.0 - self._share,
                    units=counts[arm],
                    exchanges=counts[arm],
                )
                for arm in (False, True)
            ),
            sums=tuple(
                _sums(name, names[arm], running[arm][:, units - 1])
                for name, running in self._sums.items()
                for arm in (False, True)
            ),
            histograms=tuple(
                _histogram(name, names[arm], self._bins(name, units, arm))
                for name, metric in self._units.metrics.items()
                if metric.kind == "quantile"
                for arm in (False, True)
            ),
            recorded=units,
        )

    def _running(self, columns: _Columns) -> dict[bool, Floats]:
        """Cumulative sums over units as they come, for each arm: units, y, m, yy, mm, ym, failing."""
        y, m, failed = (column[self._chosen] for column in (columns.y, columns.m, columns.failed))
        rows = np.stack([m > 0, y, m, y * y, m * m, y * m, failed])
        return {arm: np.cumsum(rows * (self._arms == arm), axis=1) for arm in (False, True)}

    def _bins(self, name: str, units: int, arm: bool) -> Integers:
        return self._units.of[name].bins_of(self._chosen[:units][self._arms[:units] == arm])


def _sums(metric: str, arm: str, at: Floats) -> MetricSums:
    units, y, m, yy, mm, ym, failing = (float(value) for value in at)
    return MetricSums(
        metric=metric,
        phase=1,
        arm=arm,
        units=round(units),
        exchanges=round(m),
        missing=0,
        y=y,
        m=m,
        yy=yy,
        mm=mm,
        ym=ym,
        failing_units=round(failing),
    )


def _histogram(metric: str, arm: str, bins: Integers) -> Histogram:
    values, counts = np.unique(bins, return_counts=True)
    return Histogram(
        metric=metric, phase=1, arm=arm, bins=tuple(values.tolist()), counts=tuple(counts.tolist())
    )


class Pairs:
    """Clusters of one pair each: two units of the sample, one of them called the candidate's."""

    def __init__(self, spec: AnalysisSpec, units: Units, random: np.random.Generator) -> None:
        self._spec, self._units = spec, units
        control, candidate = random.integers(0, units.size, (2, spec.horizon))
        self._halves = {name: self._drawn(name, control, candidate, random) for name in units.metrics}
        self._running = {name: self._sums_of(name) for name in units.metrics}

    def evidence(self, units: int, at: int) -> Evidence:
        """What is known after the first `units` clusters, `at` seconds after the begin."""
        quantiles = [name for name, metric in self._units.metrics.items() if metric.kind == "quantile"]
        halves = {name: self._histograms(name, units) for name in quantiles}
        return Evidence(
            experiment=self._spec.experiment,
            as_of_ns=at * 10**9,
            started_ns=0,
            pairs=tuple(self._pair_sums(name, units) for name in self._units.metrics),
            histograms=tuple(half for both in halves.values() for half in both),
            pair_quantiles=tuple(
                self._pair_quantile(name, units, *both)
                for name, both in halves.items()
                if all(half.counts for half in both)
            ),
            recorded=units,
        )

    def _drawn(
        self, name: str, control: Integers, candidate: Integers, random: np.random.Generator
    ) -> dict[str, Floats]:
        """Of each cluster both halves' value and weight, and whether it is complete."""
        columns, metric = self._units.of[name], self._units.metrics[name]
        if metric.kind == "quantile":
            found = {half: _one_bin(columns, chosen, random) for half, chosen in
                     (("y0", control), ("y1", candidate))}  # fmt: skip
            whole = np.where((columns.counts[control] > 0) & (columns.counts[candidate] > 0), 1.0, 0.0)
            ones = np.ones(control.size)
            return found | {"m0": ones, "m1": ones, "whole": whole}
        m0, m1 = columns.m[control], columns.m[candidate]
        if metric.preference:
            preferred = np.divide(columns.y[candidate], m1, out=np.zeros(m1.size), where=m1 > 0)
            turned = np.where(random.random(m1.size) < 0.5, preferred, 1.0 - preferred)
            half, ones = np.full(m1.size, 0.5), np.ones(m1.size)
            return {"y0": half, "y1": turned, "m0": ones, "m1": ones, "whole": (m1 > 0).astype(np.float64)}
        whole = ((m0 > 0) & (m1 > 0)).astype(np.float64)
        if metric.kind == "ratio":
            return {"y0": columns.y[control], "y1": columns.y[candidate], "m0": m0, "m1": m1, "whole": whole}
        values = columns.failed if metric.kind == "binary" else columns.y / np.maximum(columns.m, 1e-300)
        ones = np.ones(m0.size)
        return {"y0": values[control], "y1": values[candidate], "m0": ones, "m1": ones, "whole": whole}

    def _sums_of(self, name: str) -> Floats:
        """Cumulative sums over clusters: pairs, d, dd, control; cells, cubes or a ratio's products."""
        half = self._halves[name]
        whole, y1, y0 = half["whole"], half["y1"] * half["whole"], half["y0"] * half["whole"]
        d = y1 - y0
        rows = [whole, d, d * d, y0]
        metric = self._units.metrics[name]
        if metric.kind == "binary":
            rows += [y1 * y0, y0 * (1.0 - y1), y1 * (1.0 - y0), whole * (1.0 - y1) * (1.0 - y0)]
        if metric.limits:
            rows.append(d**3)
        if metric.kind == "ratio":
            four = [y1, half["m1"] * whole, y0, half["m0"] * whole]
            rows += [*four, *(four[j] * four[k] for j, k in _UPPER)]
        return np.cumsum(np.stack(rows), axis=1)

    def _pair_sums(self, name: str, units: int) -> PairSums:
        pairs, d, dd, control, *rest = (float(value) for value in self._running[name][:, units - 1])
        metric = self._units.metrics[name]
        found = PairSums(
            metric=name,
            phase=1,
            clusters=round(pairs),
            pairs=round(pairs),
            missing=0,
            d=d,
            dd=dd,
            md=d,
            mm=pairs,
            control_y=control,
            cubes=(rest[0], dd, d, pairs) if metric.limits else (),
        )
        if metric.kind == "binary":
            n11, n10, n01, n00 = map(round, rest)
            return replace(found, n11=n11, n10=n10, n01=n01, n00=n00)
        if metric.kind == "ratio":
            return replace(found, totals=tuple(rest[:4]), products=tuple(rest[4:]))
        return found

    def _histograms(self, name: str, units: int) -> tuple[Histogram, Histogram]:
        half = self._halves[name]
        whole = half["whole"][:units] > 0.0
        one, zero = (half[key][:units][whole].astype(np.int64) for key in ("y1", "y0"))
        return _histogram(name, self._spec.candidate, one), _histogram(name, self._spec.control, zero)

    def _pair_quantile(self, name: str, units: int, one: Histogram, zero: Histogram) -> PairQuantile:
        level = self._units.metrics[name].quantile or 0.5
        ends = one.bins[one.place(level)], zero.bins[zero.place(level)]
        half = self._halves[name]
        whole = half["whole"][:units] > 0.0
        a, b = (half[key][:units][whole] <= end for key, end in zip(("y1", "y0"), ends, strict=True))
        n, sum_a, sum_b, both = int(whole.sum()), int(a.sum()), int(b.sum()), int((a & b).sum())
        return PairQuantile(
            metric=name, bins=ends, clusters=n, a=sum_a, b=sum_b, m=n,
            aa=sum_a, bb=sum_b, ab=both, am=sum_a, bm=sum_b, mm=n,
        )  # fmt: skip


def _one_bin(columns: _Columns, chosen: Integers, random: np.random.Generator) -> Floats:
    """One of each unit's values, by chance; 0 where it has none."""
    counts = columns.counts[chosen]
    at = columns.starts[chosen] + np.floor(random.random(chosen.size) * counts).astype(np.int64)
    found = columns.bins[np.minimum(at, max(0, columns.bins.size - 1))] if columns.bins.size else counts * 0
    return np.asarray(found, np.float64)
