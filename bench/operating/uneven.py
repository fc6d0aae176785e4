"""How often do equal versions differ where units are of unequal sizes, or few, or far from normal?

`python -m bench.operating.uneven` prints how often an experiment of production against itself is called
better at 2.5 %, and one that is worse by a margin of 10 % not worse at 5 %, by the verdict's own comparison.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from experiments.evidence import (
    AnalysisSpec,
    Evidence,
    Goal,
    Histogram,
    MetricSums,
    Mode,
    PairQuantile,
    PairSums,
)
from experiments.metrics import metric
from experiments.verdict.comparison import compare

from .told import arms_of, bins_of, called, histogram, sums

Floats = npt.NDArray[np.float64]
Random = np.random.Generator


def _alike(random: Random, n: int) -> Floats:
    return np.ones(n)


def _whale(random: Random, n: int) -> Floats:
    m = np.ceil(np.exp(1.0 + 0.5 * random.normal(size=n)))
    m[random.integers(n)] = m.sum()
    return m


def _five(random: Random, n: int) -> Floats:
    m = np.ceil(np.exp(1.0 + 0.5 * random.normal(size=n)))
    m[random.permutation(n)[:5]] = m.sum() / 5.0
    return m


def _pareto(random: Random, n: int) -> Floats:
    return np.ceil(1.0 + 2.0 * random.pareto(1.2, n))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`units` units of which the share goes to the candidate; `sizes` are their numbers of requests, `spread`
    the standard deviation of the logarithm of a unit's own cost."""

    name: str
    units: int
    share: float
    sizes: Callable[[Random, int], Floats] = _alike
    spread: float = 0.5


CASES: Final = (
    Case(name="all of one size", units=200, share=0.5),
    Case(name="one has half of the requests", units=200, share=0.5, sizes=_whale),
    Case(name="five have a tenth each", units=200, share=0.5, sizes=_five),
    Case(name="Pareto's sizes (1.2)", units=200, share=0.5, sizes=_pareto),
    Case(name="the same, 1 % on the candidate", units=5000, share=0.01, sizes=_pareto),
    Case(name="heavy tail, 1 % on the candidate", units=5000, share=0.01, spread=1.0),
    Case(name="heavy tail, 10 % on the candidate", units=1000, share=0.1, spread=1.0),
)
_MARGIN: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """Shares of the runs: called better, and worse, at 2.5 % each, and not worse by the margin, at 5 %."""

    better: float
    worse: float
    safe: float


def costs(case: Case, *, factor: float = 1.0, runs: int = 1000, seed: int = 31) -> Called:
    """The metric `cost` of a candidate whose requests cost `factor` as much."""
    random = np.random.default_rng(seed)

    def once() -> Evidence:
        m = case.sizes(random, case.units)
        y = m * np.exp(case.spread * random.normal(size=case.units))
        arm = random.random(case.units) < case.share
        y[arm] *= factor
        return _evidence([sums("cost", name, y[which], m[which]) for name, which in arms_of(arm)], [])

    return _called("cost", once, runs)


def quantiles(
    name: str, *, units: int, share: float, factor: float = 1.0, runs: int = 300, seed: int = 32
) -> Called:
    """A latency's quantile, of units with eight requests each in the mean, 3 % of which are slow in all."""
    random = np.random.default_rng(seed)

    def once() -> Evidence:
        requests = random.geometric(1 / 8, units)
        unit = np.repeat(np.arange(units), requests)
        m = np.asarray(requests, np.float64)
        slow = (random.random(units) < 0.03)[unit]
        logs = 6.0 + 0.5 * random.normal(size=unit.size) + 2.5 * slow
        arm = random.random(units) < share
        logs[arm[unit]] += math.log(factor)
        y = np.asarray(np.bincount(unit, weights=logs, minlength=units), np.float64)
        return _evidence(
            [sums(name, told, y[which], m[which]) for told, which in arms_of(arm)],
            [histogram(name, told, bins_of(logs[which[unit]])) for told, which in arms_of(arm)],
        )

    return _called(name, once, runs)


def shadows(name: str, case: Case, *, factor: float = 1.0, runs: int = 1000, seed: int = 34) -> Called:
    """A shadow's pairs: how much slower the candidate is differs from unit to unit, and from pair to pair.

    `name` is of times or of `tokens_per_second`; the candidate is `factor` times as slow in the mean.
    """
    random, spread = np.random.default_rng(seed), case.spread / math.sqrt(2.0)

    def once() -> Evidence:
        m = case.sizes(random, case.units).astype(np.int64)
        unit = np.repeat(np.arange(m.size), m)
        middle = 6.0 + (0.3 * random.normal(size=m.size))[unit] + 0.5 * random.normal(size=unit.size)
        apart = (spread * random.normal(size=m.size))[unit] + spread * random.normal(size=unit.size)
        # Either half might be the other: so means and quantiles are the same as well.
        return _pairs(name, unit, middle + math.log(factor) + apart / 2.0, middle - apart / 2.0)

    return _called(name, once, runs, mode="shadow")


def _pairs(name: str, unit: npt.NDArray[np.int64], one: Floats, zero: Floats) -> Evidence:
    """The evidence of pairs, of which the candidate's and the control's times have these logarithms."""
    asked, units = metric(name), int(unit.max()) + 1

    def summed(values: npt.NDArray[np.generic]) -> Floats:
        return np.asarray(np.bincount(unit, weights=values, minlength=units), np.float64)

    m = summed(np.ones(unit.size))
    y1, y0 = (one, zero) if asked.on_log_scale else (np.exp(one), np.exp(zero))
    d = summed(y1 - y0)
    row = PairSums(
        metric=name,
        phase=1,
        clusters=units,
        pairs=unit.size,
        missing=0,
        d=float(d.sum()),
        dd=float(d @ d),
        md=float(m @ d),
        mm=float(m @ m),
        control_y=float(y0.sum()),
    )
    if asked.kind == "ratio":
        four = np.stack([m, summed(np.exp(one)), m, summed(np.exp(zero))])
        upper = (four @ four.T)[np.triu_indices(4)]
        row = replace(row, totals=tuple(four.sum(axis=1).tolist()), products=tuple(upper.tolist()))
    if asked.kind != "quantile":
        return replace(_evidence([], []), pairs=(row,))
    halves = [histogram(name, arm, bins_of(logs)) for arm, logs in (("candidate", one), ("control", zero))]
    ends = [half.bins[half.place(asked.quantile or 0.5)] for half in halves]
    a, b = (summed(bins_of(logs) <= end) for logs, end in zip((one, zero), ends, strict=True))
    both = {
        name: round(float(value))
        for name, value in {
            "a": a.sum(), "b": b.sum(), "m": m.sum(),
            "aa": a @ a, "bb": b @ b, "ab": a @ b, "am": a @ m, "bm": b @ m, "mm": m @ m,
        }.items()
    }  # fmt: skip
    quantile_ = PairQuantile(metric=name, bins=(ends[0], ends[1]), clusters=units, **both)
    return replace(_evidence([], halves), pairs=(row,), pair_quantiles=(quantile_,))


def _called(name: str, once: Callable[[], Evidence], runs: int, *, mode: Mode = "ab") -> Called:
    goal = Goal(metric=metric(name), role="guardrail", margin=_MARGIN)
    spec = AnalysisSpec(experiment="e", mode=mode, unit="user", goals=(goal,))
    said: Counter[str] = Counter()
    for _ in range(runs):
        said.update(called(compare(spec, once(), goal, harm_alpha=0.01)))
    return Called(**{word: said[word] / runs for word in ("better", "worse", "safe")})


def _evidence(sums: list[MetricSums], histograms: list[Histogram]) -> Evidence:
    return Evidence(experiment="e", as_of_ns=0, started_ns=0, sums=tuple(sums), histograms=tuple(histograms))


def main() -> None:
    """Print the table."""
    print("| metric | units | as good: called better | called worse | worse by 10 %: called not worse |")
    print("| --- | --- | --- | --- | --- |")
    for case in CASES:
        _row("cost", f"{case.units:,}, {case.name}", costs(case), costs(case, factor=1.0 + _MARGIN))
    for name in ("latency", "latency_mean", "tokens_per_second"):
        for case in CASES[:4]:
            same = shadows(name, case)
            # More is better of tokens per second: a tenth fewer is ten ninths of the time.
            slower = 1.0 / (1.0 - _MARGIN) if name == "tokens_per_second" else 1.0 + _MARGIN
            _row(name, f"{case.units:,} of a shadow, {case.name}", same, shadows(name, case, factor=slower))
    for units, share in ((8000, 0.01), (3000, 0.1)):
        same = quantiles("latency.p95", units=units, share=share)
        other = quantiles("latency.p95", units=units, share=share, factor=1.0 + _MARGIN)
        _row("latency.p95", f"{units:,}, 3 % always slow, {100 * share:g} % on the candidate", same, other)


def _row(name: str, what: str, same: Called, other: Called) -> None:
    print(f"| {name} | {what} | {same.better:.3f} | {same.worse:.3f} | {other.safe:.3f} |", flush=True)


if __name__ == "__main__":
    main()
