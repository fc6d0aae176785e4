"""Which columns does a unit's row need, so that every metric's sums can be made of it?

Metrics share what they can: two that are observed on the same rows share one count, and a latency and its
quantile share one sum. SQL is put together from the catalogue's expressions and from numbered columns.

Sums are exact: values are whole numbers of millionths, added as integers. So neither the order of the rows,
nor the number of threads, nor whether they came at once or one by one, changes a bit of the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..metrics import Metric

#: Parts of a value's unit that are told apart.
SCALE: Final = 10**6
#: A quantile's histogram has 1,000 bins for each factor of e: it is read to a tenth of a percent.
BINS: Final = 1000

#: Rows of an experiment that arrived in a stretch of the ledger, and those of them that an arm can be blamed
#: or praised for.
RECORDED: Final = """
    WHERE x.rowid >= $since AND x.rowid < $until AND x.experiment = $experiment AND x.phase >= $first
        AND x.role = 'primary' AND x.origin = 'live' AND x.outcome <> 'rejected'
"""
ELIGIBLE: Final = f"{RECORDED} AND x.unit IS NOT NULL AND x.assigned_arm IN ($control, $candidate)"
COUNTED: Final = f"FROM exchanges x {ELIGIBLE}"
#: A row's phase and arm: 2 * phase + 1 for the candidate, 2 * phase for the control.
SLOT: Final = "CAST(2 * x.phase + CAST(x.assigned_arm = $candidate AS INTEGER) AS INTEGER)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where one metric's numbers stand: indices into the layout's columns; None where it has none.

    `value` and `weight` are of sums over a unit's exchanges, `seen` (how many were observed) too. `failed`
    and `lacking` are bits of the unit's flags (of what is said later: numbers of their own), `histogram` an
    expression's index.
    """

    metric: Metric
    seen: int
    value: int | None = None
    weight: int | None = None
    failed: int | None = None
    lacking: int | None = None
    histogram: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of a unit's row: `sums` (y0, y1, ...), `counts` (w0, ...) and `bits` of `flags`.

    Each of `sums` and `histograms` is a pair of SQL expressions, value and condition; the others are
    conditions. All are over one row `x` of `exchanges`.
    """

    sums: tuple[tuple[str, str], ...]
    counts: tuple[str, ...]
    bits: tuple[str, ...]
    histograms: tuple[tuple[str, str], ...]
    of: tuple[Columns, ...]
    said: tuple[tuple[Metric, int, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns that add up."""
        return (
            *(f"y{i}" for i in range(len(self.sums) + len(self.said))),
            *(f"w{i}" for i in range(len(self.counts) + len(self.said))),
        )

    def of_exchanges(self) -> str:
        """The columns of a unit's row, aggregated over its exchanges; zero for what is said later."""
        sums = (
            f"CAST(coalesce(sum({_whole(value)}) FILTER ({seen}), 0) AS BIGINT) AS y{i}"
            for i, (value, seen) in enumerate(self.sums)
        )
        counts = (f"count(*) FILTER ({seen}) AS w{i}" for i, seen in enumerate(self.counts))
        said_sums = (f"0::BIGINT AS y{y}" for _, y, _ in self.said)
        said_counts = (f"0::BIGINT AS w{w}" for _, _, w in self.said)
        return ", ".join((f"{self._flags()} AS flags", *sums, *said_sums, *counts, *said_counts))

    def _flags(self) -> str:
        cases = (f"CASE WHEN {bit} THEN {1 << i} ELSE 0 END" for i, bit in enumerate(self.bits))
        return f"bit_or(CAST({' + '.join(cases)} AS BIGINT))" if self.bits else "0::BIGINT"


def _whole(value: str) -> str:
    """The value in whole millionths, as a DOUBLE that holds a whole number: its sums are exact to 2^53."""
    return f"round(greatest(least(CAST({value} AS DOUBLE), 1e9), -1e9) * {SCALE}.0)"


def whole(value: str) -> str:
    """The same for a single value, as a BIGINT."""
    return f"CAST({_whole(value)} AS BIGINT)"


def bin_of(log_value: str) -> str:
    """The bin of a logarithm; `bin_middle` is the way back."""
    return f"CAST(floor(({log_value}) * {BINS}.0) AS INTEGER)"


def layout_of(metrics: Sequence[Metric]) -> Layout:
    """The columns for these metrics, each expression once."""
    sums: list[tuple[str, str]] = []
    counts: list[str] = []
    bits: list[str] = []
    histograms: list[tuple[str, str]] = []
    of: list[Columns] = []
    for metric in metrics:
        if metric.source is not None:
            continue
        value, seen = metric.value_sql, metric.observed_sql
        binary = metric.kind == "binary"
        of.append(
            Columns(
                metric=metric,
                seen=_at(counts, seen),
                value=None if binary else _at(sums, (value, seen)),
                weight=_at(sums, (metric.weight_sql, seen)) if metric.kind == "ratio" else None,
                failed=_at(bits, f"({seen}) AND ({value})") if binary else None,
                lacking=_at(bits, f"({metric.expected_sql}) AND NOT ({seen})"),
                histogram=_at(histograms, (value, seen)) if metric.kind == "quantile" else None,
            )
        )
    said = [metric for metric in metrics if metric.source is not None]
    # What is said can be taken back, a bit of the flags cannot: these have numbers beyond those of the flags.
    spare = iter(range(len(bits), len(bits) + 2 * len(said)))
    return Layout(
        sums=tuple(sums),
        counts=tuple(counts),
        bits=tuple(bits),
        histograms=tuple(histograms),
        of=(
            *of,
            *(
                Columns(
                    metric=metric,
                    seen=len(counts) + i,
                    value=None if metric.kind == "binary" else len(sums) + i,
                    failed=next(spare) if metric.kind == "binary" else None,
                    lacking=next(spare) if metric.source == "scores" else None,
                )
                for i, metric in enumerate(said)
            ),
        ),
        said=tuple((metric, len(sums) + i, len(counts) + i) for i, metric in enumerate(said)),
    )


def _at(entries: list[Any], entry: Any) -> int:
    """Where the entry stands, appended if it is new."""
    if entry not in entries:
        entries.append(entry)
    return entries.index(entry)
