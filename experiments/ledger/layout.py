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
#: What the second of two counts in one number is told in: each has 26 of a DOUBLE's 52 bits.
PACK: Final = 1 << 26
#: A quantile's histogram has 1,000 bins for each factor of e: it is read to a tenth of a percent.
BINS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where one metric's numbers stand: indices into the layout's columns; None where it has none.

    `value` and `weight` are of sums over a unit's exchanges, `seen` and `expected` count those that were, or
    should have been, observed. `failed` and `lacking` are bits, `histogram` an expression's index.
    """

    metric: Metric
    seen: int
    expected: int | None = None
    value: int | None = None
    weight: int | None = None
    failed: int | None = None
    lacking: int | None = None
    histogram: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of a unit's row: `sums` (y0, y1, ...) and `counts` (w0, ...), all of which add up.

    `counts` are conditions, s0, s1, ... of a row of `facts.EXCHANGES`, `x`; the first one is always true.
    Each of `sums` and `histograms` is an SQL expression of such a row and the number of the condition under
    which it counts. `bits` are conditions of a unit's row.
    """

    sums: tuple[tuple[str, int], ...]
    counts: tuple[str, ...]
    bits: tuple[str, ...]
    histograms: tuple[tuple[str, int], ...]
    of: tuple[Columns, ...]
    said: tuple[tuple[Metric, int, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return (
            *(f"y{i}" for i in range(len(self.sums) + len(self.said))),
            *(f"w{i}" for i in range(len(self.counts) + len(self.said))),
        )

    def values(self, columns: str, source: str) -> str:
        """A query of `columns` for each row of `source`, with the conditions s0, s1, ... and the sums' values
        y0, y1, ..., which are NULL where they do not count.

        Each is worked out once, a level below those that use it: DuckDB does not share what stands in
        conditions.
        """
        seen = "".join(f", ({seen}) AS s{i}" for i, seen in enumerate(self.counts))
        numbers = "".join(f", CAST({value} AS DOUBLE) AS v{i}" for i, (value, _) in enumerate(self.sums))
        values = "".join(
            f", CASE WHEN s{seen} THEN {_whole(f'v{i}', value)} END AS y{i}"
            for i, (value, seen) in enumerate(self.sums)
        )
        packed = "".join(
            ", " + " + ".join(f"CASE WHEN s{i} THEN {one}::DOUBLE ELSE 0 END" for i, one in two) + f" AS p{k}"
            for k, two in enumerate(self._packs)
        )
        conditions = f"SELECT x.*{seen} {source}"
        return f"SELECT {columns}, x.*{values}{packed} FROM (SELECT x.*{numbers} FROM ({conditions}) x) x"

    def values_of_control(self, columns: str, source: str) -> str:
        """The same of traffic of which all is the control's, whatever experiment it was in: what each arm's
        tokens cost is the spec's."""
        return self.values(columns, source).replace("x.assigned_arm = 'control'", "true")

    @property
    def _packs(self) -> list[list[tuple[int, int]]]:
        """The counts, two and two, each with what an exchange adds for it to the number that holds both."""
        own = range(1, len(self.counts))
        return [list(zip(own[k : k + 2], (1, PACK), strict=False)) for k in range(0, len(own), 2)]

    def totals(self, rows: int) -> str:
        """The columns of a unit's row, aggregated over `values` of so many rows; zero for what is said later.

        Two counts in one DOUBLE cost a group what one does, as long as no unit can fill its half of the bits.
        """
        sums = (f"CAST(coalesce(sum(y{i}), 0) AS BIGINT) AS y{i}" for i in range(len(self.sums)))
        counts = [f"count(*) FILTER (s{i}) AS w{i}" for i in range(1, len(self.counts))]
        if rows < PACK:
            counts = [
                f"CAST({_unpacked(f'sum(p{k})', one)} AS INTEGER) AS w{i}"
                for k, two in enumerate(self._packs)
                for i, one in two
            ]
        said_sums = (f"0::BIGINT AS y{y}" for _, y, _ in self.said)
        said_counts = (f"0::BIGINT AS w{w}" for _, _, w in self.said)
        return ", ".join((*sums, *said_sums, "count(*) AS w0", *counts, *said_counts))


def _unpacked(total: str, one: int) -> str:
    """The count of which each exchange has added `one` to a total of two counts."""
    return f"{total} % {PACK}" if one == 1 else f"floor({total} / {PACK})"


def _whole(number: str, value: str) -> str:
    """A column's value in whole millionths, as a DOUBLE that holds a whole number: sums are exact to 2^53.

    No value counts for more than 10^9 of its unit; a logarithm never does. `greatest` and `least` would take
    four times as long.
    """
    if value.startswith("ln("):
        return f"round({number} * {SCALE}::DOUBLE)"
    return (
        f"round(CASE WHEN {number} BETWEEN -1e9::DOUBLE AND 1e9::DOUBLE THEN {number}"
        f" WHEN {number} < 0 THEN -1e9::DOUBLE ELSE 1e9::DOUBLE END * {SCALE}::DOUBLE)"
    )


def whole(value: str) -> str:
    """The same for a single value, as a BIGINT."""
    return f"CAST({_whole(f'CAST({value} AS DOUBLE)', value)} AS BIGINT)"


def bin_of(log_value: str) -> str:
    """The bin of a logarithm; `bin_middle` is the way back."""
    return f"CAST(floor(({log_value}) * {BINS}.0) AS INTEGER)"


def layout_of(metrics: Sequence[Metric]) -> Layout:
    """The columns for these metrics, each expression once."""
    sums: list[tuple[str, int]] = []
    counts: list[str] = ["true"]
    bits: list[str] = []
    histograms: list[tuple[str, int]] = []
    of: list[Columns] = []
    for metric in metrics:
        if metric.source is not None:
            continue
        value, seen = metric.value_sql, _at(counts, metric.observed_sql)
        binary = metric.kind == "binary"
        expected = None if metric.expected_sql == "false" else _at(counts, metric.expected_sql)
        event = _at(counts, f"({metric.observed_sql}) AND ({value})") if binary else None
        of.append(
            Columns(
                metric=metric,
                seen=seen,
                expected=expected,
                value=None if binary else _at(sums, (value, seen)),
                weight=_at(sums, (metric.weight_sql, seen)) if metric.kind == "ratio" else None,
                failed=None if event is None else _at(bits, f"w{event} > 0"),
                # Whatever is observed was expected: so a unit lacks what it has fewer of.
                lacking=None if expected is None else _at(bits, f"w{expected} > w{seen}"),
                histogram=_at(histograms, (value, seen)) if metric.kind == "quantile" else None,
            )
        )
    said = [metric for metric in metrics if metric.source is not None]
    # What is said is counted by itself: these have numbers beyond those of the bits.
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
