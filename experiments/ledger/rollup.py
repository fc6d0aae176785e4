"""What do the units of an experiment amount to, brought up to date as rows arrive?

One row for each unit, phase and arm is kept in a temporary table, and sums over those rows in memory. Rows
of the ledger are taken in once, in the order in which they arrived, however late; of each unit that they
concern, the old contribution is taken out of the sums and the new one put in. Ten thousand new rows cost
what ten thousand rows cost, not what the ten million before them did. Nothing here is written to the
ledger: after a restart the first look reads everything, by the same steps.

A unit is known by DuckDB's 64-bit hash of it: among a million units, two share one with probability 3e-8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import AnalysisSpec, Cut
from ..metrics import Metric
from .layout import COUNTED, RECORDED, SLOT, Columns, Layout, bin_of, layout_of
from .said import Said

#: 2 * phase + 1 for the candidate, 2 * phase for the control.
Slot = int

#: Rows deleted from the table before it is written anew.
_TIDY_AT: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class UnitSums:
    """Sums over the units of one slot for one metric, in millionths (squares in millionths of millionths)."""

    units: int = 0
    y: int = 0
    m: int = 0
    yy: int = 0
    mm: int = 0
    ym: int = 0

    def plus(self, other: Sequence[int], sign: int) -> UnitSums:
        """With another's sums added, or taken out."""
        mine = (self.units, self.y, self.m, self.yy, self.mm, self.ym)
        return UnitSums(*(a + sign * int(b) for a, b in zip(mine, other, strict=True)))


class Rollup:
    """The sums of one experiment's units. Not safe for threads: one look at a time.

    `take_in` brings it up to a cut of the ledger; the attributes then hold the sums of all that was taken
    in. Slots without any unit are not there.
    """

    def __init__(self, cursor: DuckDBPyConnection, spec: AnalysisSpec, metrics: Sequence[Metric]) -> None:
        self.layout: Layout = layout_of(metrics)
        self.cut = Cut()
        self._cursor = cursor
        self._dead = 0
        self._scope = {
            "experiment": spec.experiment,
            "control": spec.control,
            "candidate": spec.candidate,
            "first": spec.first_phase,
        }
        #: Live primary rows, with or without a unit; then eligible rows by slot.
        self.recorded = 0
        self.exchanges: defaultdict[Slot, int] = defaultdict(int)
        #: Rows that lack a value, by bit and slot.
        self.lacking: defaultdict[tuple[int, Slot], int] = defaultdict(int)
        #: Units by the slot in which they were first seen (bit -1), or first had the bit's event.
        self.firsts: defaultdict[tuple[int, Slot], int] = defaultdict(int)
        #: Units that were seen in a slot.
        self.present: defaultdict[Slot, int] = defaultdict(int)
        self.sums: defaultdict[tuple[int, Slot], UnitSums] = defaultdict(UnitSums)
        self.observed: defaultdict[tuple[int, Slot], int] = defaultdict(int)
        #: Units that were seen in both of two slots, and per metric their sums yy, ym, my and mm.
        self.shared: defaultdict[tuple[Slot, Slot], int] = defaultdict(int)
        self.overlaps: defaultdict[tuple[int, Slot, Slot], list[int]] = defaultdict(lambda: [0] * 4)
        self.histograms: defaultdict[tuple[int, Slot], defaultdict[int, int]] = defaultdict(
            lambda: defaultdict(int)
        )
        self.in_two_arms = 0
        columns = ", ".join(f"{name} BIGINT" for name in self.layout.names)
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE totals (h UBIGINT, slot INTEGER, flags BIGINT, {columns})"
        )
        self.said = Said(cursor, self.layout)

    def take_in(self, until: Cut) -> None:
        """Take in what arrived since the last time, up to the cut. All of it, or, if it raises, nothing:
        then this rollup is spent, and another must be made."""
        if until == self.cut:
            return
        self._read(until)
        if self.cut == Cut() and not self.layout.said:
            self._cursor.execute("INSERT INTO totals SELECT * FROM fresh")
            self._count("totals", 1)
        else:
            self._merge()
        self.cut = until

    # -- reading -----------------------------------------------------------------------------------------

    def _read(self, until: Cut) -> None:
        """The table `fresh`: what the new rows amount to, by unit and slot."""
        scope = {**self._scope, "since": self.cut.exchanges, "until": until.exchanges}
        self._cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE fresh AS SELECT hash(x.unit) AS h, {SLOT} AS slot,"
            f" {self.layout.of_exchanges()} {COUNTED} GROUP BY ALL",
            scope,
        )
        self._count_rows(scope)
        for index, (value, seen) in enumerate(self.layout.histograms):
            found = self._cursor.execute(
                f"SELECT {SLOT} AS slot, {bin_of(value)} AS bin, count(*) {COUNTED} AND ({seen})"
                " GROUP BY ALL",
                scope,
            )
            for slot, bin_, count in found.fetchall():
                self.histograms[index, slot][bin_] += count
        self.said.take_in(scope, self.cut, until)
        for counts, mine in ((self.said.lacking, self.lacking), (self.said.firsts, self.firsts)):
            for place in [place for place in mine if place[0] >= len(self.layout.bits)]:
                del mine[place]
            mine.update(counts)

    def _count_rows(self, scope: dict[str, Any]) -> None:
        """What is counted by rows: exchanges, and those that lack a value."""
        row = self._cursor.execute(
            f"SELECT count(*) FROM exchanges x {RECORDED}",
            {name: scope[name] for name in ("experiment", "first", "since", "until")},
        ).fetchone()
        self.recorded += row[0] if row else 0
        of_rows = self.layout.of[: len(self.layout.of) - len(self.layout.said)]
        lacking = sorted({one.lacking for one in of_rows if one.lacking is not None})
        counts = "".join(f", count(*) FILTER ({self.layout.bits[bit]})" for bit in lacking)
        found = self._cursor.execute(
            f"SELECT {SLOT} AS slot, count(*){counts} {COUNTED} GROUP BY slot", scope
        )
        for slot, exchanges, *lacks in found.fetchall():
            self.exchanges[slot] += exchanges
            for bit, count in zip(lacking, lacks, strict=True):
                self.lacking[bit, slot] += count

    # -- adding up ---------------------------------------------------------------------------------------

    def _merge(self) -> None:
        """Take the units that `fresh` concerns out of the sums, and put them in as they are now."""
        run = self._cursor.execute
        added = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in self.layout.names)
        run("CREATE OR REPLACE TEMP TABLE old AS SELECT * FROM totals WHERE h IN (SELECT h FROM fresh)")
        run(
            f"CREATE OR REPLACE TEMP TABLE new AS SELECT h, slot, bit_or(flags) AS flags, {added}"
            " FROM (SELECT * FROM old UNION ALL SELECT * FROM fresh) GROUP BY h, slot"
        )
        self._count("old", -1)
        self._count("new", 1)
        run("DELETE FROM totals WHERE h IN (SELECT h FROM old)")
        run("INSERT INTO totals SELECT * FROM new")
        row = run("SELECT count(*) FROM old").fetchone()
        self._dead += row[0] if row else 0
        if self._dead > _TIDY_AT:
            run("CREATE OR REPLACE TEMP TABLE totals AS SELECT * FROM totals")
            self._dead = 0

    def _count(self, table: str, sign: int) -> None:
        """Add to the sums, or take from them, all units of a table of rows like `totals`."""
        self._add_sums(table, sign)
        self._add_firsts(table, sign)
        self._add_overlaps(table, sign)

    def _add_sums(self, table: str, sign: int) -> None:
        columns = []
        for one in self.layout.of:
            y, m, seen = _terms(one)
            y = "CAST(0 AS HUGEINT)" if one.value is None else y
            columns.append(f"count(*) FILTER (w{one.seen} > 0)")
            columns += [
                f"coalesce(sum({each}), 0)" for each in (y, m, f"{y} * {y}", f"{m} * {m}", f"{y} * {m}", seen)
            ]
        added = ", ".join(("count(*)", *columns))
        found = self._cursor.execute(f"SELECT slot, {added} FROM {table} GROUP BY slot").fetchall()
        for slot, present, *values in found:
            self.present[slot] += sign * present
            for index in range(len(self.layout.of)):
                units, y, m, yy, mm, ym, seen = values[7 * index : 7 * index + 7]
                self.sums[index, slot] = self.sums[index, slot].plus((units, y, m, yy, mm, ym), sign)
                self.observed[index, slot] += sign * int(seen)

    def _add_firsts(self, table: str, sign: int) -> None:
        bits = range(len(self.layout.bits))
        columns = "".join(f", min(slot) FILTER (flags & {1 << bit} <> 0) AS s{bit}" for bit in bits)
        self._cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE firsts AS SELECT min(slot) AS s{columns} FROM {table} GROUP BY h"
        )
        for bit, column in ((-1, "s"), *((bit, f"s{bit}") for bit in bits)):
            found = self._cursor.execute(
                f"SELECT {column}, count(*) FROM firsts WHERE {column} IS NOT NULL GROUP BY ALL"
            )
            for slot, count in found.fetchall():
                self.firsts[bit, slot] += sign * count

    def _add_overlaps(self, table: str, sign: int) -> None:
        summed = [(index, one) for index, one in enumerate(self.layout.of) if one.value is not None]
        columns = []
        for _, one in summed:
            (y1, m1, _), (y2, m2, _) = _terms(one, "a."), _terms(one, "b.")
            columns += [f"sum({a} * {b})" for a, b in ((y1, y2), (y1, m2), (m1, y2), (m1, m2))]
        found = self._cursor.execute(
            f"SELECT a.slot, b.slot, count(*){''.join(f', {column}' for column in columns)}"
            f" FROM {table} a JOIN {table} b ON a.h = b.h AND a.slot < b.slot GROUP BY ALL"
        ).fetchall()
        for a, b, units, *values in found:
            self.shared[a, b] += sign * units
            for place, (index, _) in enumerate(summed):
                total = self.overlaps[index, a, b]
                for i, value in enumerate(values[4 * place : 4 * place + 4]):
                    total[i] += sign * int(value)
        row = self._cursor.execute(
            f"SELECT count(DISTINCT a.h) FROM {table} a JOIN {table} b"
            " ON a.h = b.h AND a.slot + 1 = b.slot AND a.slot % 2 = 0"
        ).fetchone()
        self.in_two_arms += sign * (row[0] if row else 0)


def _terms(one: Columns, of: str = "") -> tuple[str, str, str]:
    """A unit's y, its m and how many exchanges were observed, as HUGEINT: their products are exact."""
    seen = f"CAST({of}w{one.seen} AS HUGEINT)"
    y = seen if one.value is None else f"CAST({of}y{one.value} AS HUGEINT)"
    m = seen if one.weight is None else f"CAST({of}y{one.weight} AS HUGEINT)"
    return y, m, seen
