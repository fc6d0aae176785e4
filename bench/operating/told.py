"""What would the ledger tell of simulated units, and what is then said of them, look after look?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Final

import numpy as np
import numpy.typing as npt

from experiments.evidence import AnalysisSpec, Evidence, Histogram, Look, MetricSums
from experiments.statistics.estimate import quantile
from experiments.statistics.moments import Cluster
from experiments.verdict import Verdict, conclude
from experiments.verdict.looks import look_taken
from experiments.verdict.scorecard import Comparison

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

#: In a histogram an e-fold has so many bins.
BINS: Final = 1000.0


def arms_of(candidate: Flags) -> tuple[tuple[str, Flags], ...]:
    """Each arm's units."""
    return ("control", ~candidate), ("candidate", candidate)


def sums(metric: str, arm: str, y: Floats, m: Floats, phase: int = 1) -> MetricSums:
    """Of units whose values add up to `y`, and their weights to `m`: 0 where a unit is not in the arm."""
    totals = asdict(Cluster.of(y, m)) | {"n": int((m > 0).sum())}
    units, count = totals.pop("n"), round(float(m.sum()))
    return MetricSums(
        metric=metric, phase=phase, arm=arm, units=units, exchanges=count, observed=count, missing=0, **totals
    )


def bins_of(logs: Floats) -> Integers:
    """The bin of each logarithm."""
    return np.floor(BINS * logs).astype(np.int64)


def histogram(metric: str, arm: str, bins: Integers, phase: int = 1) -> Histogram:
    """How many values there are in each bin."""
    values, counts = np.unique(bins, return_counts=True)
    return Histogram(
        metric=metric, phase=phase, arm=arm, bins=tuple(values.tolist()), counts=tuple(counts.tolist())
    )


def verdicts(spec: AnalysisSpec, looks: Iterable[Evidence]) -> Iterator[Verdict]:
    """What is said at each look of an experiment that goes on whatever is said."""
    past: list[Look] = []
    for evidence in looks:
        verdict = conclude(spec, evidence, past_looks=tuple(past))
        yield verdict
        taken = look_taken(verdict.document())
        past += [taken] if taken is not None else []


def called(found: Comparison) -> dict[str, bool]:
    """Whether a look calls the candidate better or worse (2.5 % each), and not worse by the margin (5 %)."""
    z, limit = found.z_better or 0.0, quantile(0.975)
    return {"better": z > limit, "worse": z < -limit, "safe": (found.z_noninferior or 0.0) > quantile(0.95)}
