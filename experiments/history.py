"""What is known of a model's traffic before an experiment: its units' totals, as a sample.

The shapes only: `ledger.history` fills them, `planning` and `false_alarms` reckon with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .statistics.moments import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTotals:
    """One metric's totals, one entry for each unit of the sample, in the metric's own unit.

    `y` is the sum of the values, `m` the number of observed exchanges (of a ratio: the denominator), `failed`
    whether a binary metric's event occurred.
    """

    y: tuple[float, ...]
    m: tuple[float, ...]
    failed: tuple[bool, ...]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Traffic of a stretch of time, and totals of a sample of its units, by metric."""

    model: str
    exchanges: int
    units: int
    without_unit: int
    seconds: float
    totals: Mapping[str, UnitTotals]

    @property
    def units_a_day(self) -> float | None:
        """How many units came in a day; None if nothing is known."""
        return self.units / self.seconds * 86_400.0 if self.seconds > 0 else None
