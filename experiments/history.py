"""What is known of a model's traffic before an experiment: its units' totals, as a sample.

The shapes only: `ledger.history` fills them, `planning` and `drawn` reckon with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .evidence import Histogram
from .metrics import Metric
from .statistics.moments import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTotals:
    """One metric's totals, one entry for each unit of the sample, in the metric's own unit.

    `y` is the sum of the values, `m` the number of observed exchanges (of a ratio: the denominator), `failed`
    whether a binary metric's event occurred. Of a quantile, `bins` are the bins (as in `Histogram`) of the
    unit's values, ascending; of a preference, y counts the answers of which the candidate's was preferred.
    """

    y: tuple[float, ...]
    m: tuple[float, ...]
    failed: tuple[bool, ...]
    bins: tuple[tuple[int, ...], ...] = ()

    @property
    def cluster(self) -> Cluster:
        """The sums over the units that have the metric."""
        seen = [(y, m) for y, m in zip(self.y, self.m, strict=True) if m > 0]
        return Cluster(
            n=len(seen),
            y=sum(y for y, _ in seen),
            m=sum(m for _, m in seen),
            yy=sum(y * y for y, _ in seen),
            mm=sum(m * m for _, m in seen),
            ym=sum(y * m for y, m in seen),
        )

    @property
    def failing_share(self) -> float:
        """The share of the units with the event; NaN without units."""
        seen = [failed for failed, m in zip(self.failed, self.m, strict=True) if m > 0]
        return sum(seen) / len(seen) if seen else float("nan")

    @property
    def histogram(self) -> Histogram | None:
        """How often each bin occurred over all units; None where none did."""
        counts = Counter(bin_ for unit in self.bins for bin_ in unit)
        if not counts:
            return None
        bins = tuple(sorted(counts))
        return Histogram(metric="", phase=0, arm="", bins=bins, counts=tuple(counts[bin_] for bin_ in bins))


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Traffic of a stretch of time, and totals of a sample of its units, by metric."""

    model: str
    exchanges: int
    units: int
    without_unit: int
    seconds: float
    totals: Mapping[str, UnitTotals]

    def of(self, metric: Metric) -> UnitTotals | None:
        """The metric's totals, None where no unit has it. Where nobody has judged pairs yet, a preference is
        taken to be as uncertain as it can be: each answer preferred by every second unit."""
        found = self.totals.get(metric.name)
        if found is not None and any(m > 0 for m in found.m):
            return found
        size = max((len(each.m) for each in self.totals.values()), default=0)
        if not metric.preference or not size:
            return None
        return UnitTotals(y=tuple(float(i % 2) for i in range(size)), m=(1.0,) * size, failed=(False,) * size)

    @property
    def units_a_day(self) -> float | None:
        """How many units came in a day; None if nothing is known."""
        return self.units / self.seconds * 86_400.0 if self.seconds > 0 else None
