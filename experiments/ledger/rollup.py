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
from .accounts import Accounts
from .facts import COUNTED, EXCHANGES, FIRST_ROW, PAST, RECORDED, SLOT
from .layout import Columns, Layout, bin_of, layout_of
from .said import Said
from .store import one_number

#: 2 * phase + 1 for the candidate, 2 * phase for the control.
Slot = int

#: Which sums of a unit that was seen in two phases are kept.
OVERLAP_TERMS: Final = ("yy", "ym", "my", "mm")
#: Which sums of a unit's past are kept, and of a unit that was seen in two phases.
PAST_TERMS: Final = ("a", "b", "aa", "ab", "bb", "ya", "yb", "ma", "mb")
PAST_OVERLAP_TERMS: Final = ("aa", "ab", "bb", "ya", "yb", "ma", "mb", "ay", "by", "am", "bm")

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
    in. Slots without any unit are not there. `by_turn` are metrics of which the sums are kept only from the
    first later turn on: then all rows are read once more.
    """

    def __init__(
        self,
        cursor: DuckDBPyConnection,
        spec: AnalysisSpec,
        metrics: Sequence[Metric],
        by_turn: Sequence[Metric] = (),
    ) -> None:
        self._cursor = cursor
        self._metrics, self._by_turn = tuple(metrics), tuple(by_turn)
        self._scope = {
            "experiment": spec.experiment,
            "control": spec.control,
            "candidate": spec.candidate,
            "first": spec.first_phase,
        }
        self._history_us = round(spec.history_s * 1e6)
        self._adjusted = frozenset(goal.metric.name for goal in spec.goals if goal.adjusted)
        self.accounts = Accounts(spec.experiment, spec.first_phase)
        self._begin(self._metrics)

    def _begin(self, metrics: Sequence[Metric]) -> None:
        """Nothing has been taken in, of these metrics."""
        self.layout: Layout = layout_of(metrics)
        self.cut = Cut()
        self._dead = 0
        #: Live primary rows, with or without a unit; then eligible rows by slot.
        self.recorded = 0
        self.exchanges: defaultdict[Slot, int] = defaultdict(int)
        #: Rows that lack a value, by metric and slot.
        self.missing: defaultdict[tuple[int, Slot], int] = defaultdict(int)
        #: Units by the slot in which they were first seen (bit -1), or first had the bit's event.
        self.firsts: defaultdict[tuple[int, Slot], int] = defaultdict(int)
        #: Units that were seen in a slot.
        self.present: defaultdict[Slot, int] = defaultdict(int)
        self.sums: defaultdict[tuple[int, Slot], UnitSums] = defaultdict(UnitSums)
        self.observed: defaultdict[tuple[int, Slot], int] = defaultdict(int)
        #: Units that were seen in both of two slots, and per metric the sums that `OVERLAP_TERMS` names.
        self.shared: defaultdict[tuple[Slot, Slot], int] = defaultdict(int)
        self.overlaps: defaultdict[tuple[int, Slot, Slot], list[int]] = defaultdict(lambda: [0] * 4)
        self.histograms: defaultdict[tuple[int, Slot], defaultdict[int, int]] = defaultdict(
            lambda: defaultdict(int)
        )
        self.in_two_arms = 0
        # Of exchanges, a unit has fewer than 2^31.
        kinds = {"y": "BIGINT", "w": "INTEGER"}
        columns = ", ".join(f"{name} {kinds[name[0]]}" for name in self.layout.names)
        for table in ("totals", "fresh"):
            self._cursor.execute(f"CREATE OR REPLACE TEMP TABLE {table} (h UBIGINT, slot INTEGER, {columns})")
        self.said = Said(self._cursor, self.layout)
        #: Metrics that are adjusted for their units' past, once that was read: of them, in this order, its
        #: columns are a0, b0, a1, ...
        self.remembering: list[int] = []
        self.past: defaultdict[tuple[int, Slot], list[int]] = defaultdict(lambda: [0] * len(PAST_TERMS))
        self.past_overlaps: defaultdict[tuple[int, Slot, Slot], list[int]] = defaultdict(
            lambda: [0] * len(PAST_OVERLAP_TERMS)
        )

    def take_in(self, until: Cut, as_of_ns: int) -> None:
        """Take in what arrived since the last time, up to the cut, and what counts by `as_of_ns`. All of it,
        or, if it raises, nothing: then this rollup is spent, and another must be made."""
        if until == self.cut and not any(metric.closed for metric in self._metrics):
            return
        if self._by_turn and self._later_turns(until):
            self._begin((*self._metrics, *self._by_turn))
            self._by_turn = ()
        self.accounts.take_in(self._cursor, until)
        scope = {**self._scope, "since": self.cut.exchanges, "until": until.exchanges}
        self._cursor.execute("TRUNCATE fresh")
        phases = self._count_rows(scope)
        if phases and self._adjusted and not self.remembering:
            self._remember(scope)
        if self.cut == Cut():
            self._read_units("totals", phases, scope)
            self._count("(SELECT 1 AS sign, true AS changed, * FROM totals)")
        else:
            self._read_units("fresh", phases, scope)
        self._hear(scope, until, as_of_ns)
        self._merge()
        self.cut = until

    def _later_turns(self, until: Cut) -> bool:
        """Whether there is a later turn among the new rows. Where there is none, all are first turns."""
        found = self._cursor.execute(
            f"SELECT 1 {COUNTED} AND x.turn = 'later' LIMIT 1",
            {**self._scope, "since": self.cut.exchanges, "until": until.exchanges},
        )
        return found.fetchone() is not None

    # -- reading -----------------------------------------------------------------------------------------

    def _count_rows(self, scope: dict[str, Any]) -> list[int]:
        """Count rows: all of them, and the histograms' bins. Their phases."""
        found = self._cursor.execute(
            f"SELECT x.phase, count(*) FROM {EXCHANGES} x {RECORDED} GROUP BY x.phase",
            {name: scope[name] for name in ("experiment", "first", "since", "until")},
        ).fetchall()
        if not found:
            return []
        self.recorded += sum(count for _, count in found)
        for index, (value, seen) in enumerate(self.layout.histograms):
            bins = self._cursor.execute(
                f"SELECT {SLOT} AS slot, {bin_of(value)} AS bin, count(*)"
                f" {COUNTED} AND {self.layout.counts[seen]} GROUP BY slot, bin",
                scope,
            )
            for slot, bin_, count in bins.fetchall():
                self.histograms[index, slot][bin_] += count
        return sorted(phase for phase, _ in found)

    def _read_units(self, table: str, phases: Sequence[int], scope: dict[str, Any]) -> None:
        """What the new rows amount to, by unit and slot: phase by phase, since no unit's row is of two, and
        each phase's rows lie close together."""
        values = self.layout.values(f"hash(x.unit) AS h, {SLOT} AS slot", f"{COUNTED} AND x.phase = $phase")
        totals = self.layout.totals(scope["until"] - scope["since"])
        for phase in phases:
            self._cursor.execute(
                f"INSERT INTO {table} SELECT h, slot, {totals} FROM ({values}) GROUP BY h, slot",
                {**scope, "phase": phase},
            )

    def _remember(self, scope: dict[str, Any]) -> None:
        """What the units did before the experiment, for the metrics that are adjusted for it."""
        own = {"experiment": scope["experiment"]}
        first = one_number(self._cursor, FIRST_ROW, own)
        self.remembering = [i for i, one in enumerate(self.layout.of) if one.metric.name in self._adjusted]
        before = layout_of([self.layout.of[index].metric for index in self.remembering])
        columns = ", ".join(
            f"{y} AS a{k}, {m} AS b{k}" for k, (y, m, _) in enumerate(_terms(one) for one in before.of)
        )
        values = before.values_of_control("hash(x.unit) AS h", PAST)
        self._cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE past AS SELECT h, {columns}"
            f" FROM (SELECT h, {before.totals(first)} FROM ({values}) GROUP BY h)",
            {**own, "before": first, "history_us": self._history_us},
        )

    def _hear(self, scope: dict[str, Any], until: Cut, as_of_ns: int) -> None:
        """What is said of exchanges, old or new."""
        self.said.take_in(scope, self.cut, until, as_of_ns)
        of_rows = len(self.layout.of) - len(self.layout.said)
        for counts, mine, own in (
            (self.said.missing, self.missing, of_rows),
            (self.said.firsts, self.firsts, len(self.layout.bits)),
        ):
            for place in [place for place in mine if place[0] >= own]:
                del mine[place]
            mine.update(counts)

    # -- adding up ---------------------------------------------------------------------------------------

    def _merge(self) -> None:
        """Take the units that `fresh` concerns out of the sums, and put them in as they are now."""
        run = self._cursor.execute
        if run("SELECT 1 FROM fresh LIMIT 1").fetchone() is None:
            return
        columns = ", ".join(self.layout.names)
        added = ", ".join(f"sum({name}) AS {name}" for name in self.layout.names)
        run("CREATE OR REPLACE TEMP TABLE old AS SELECT * FROM totals WHERE h IN (SELECT h FROM fresh)")
        run(
            f"CREATE OR REPLACE TEMP TABLE new AS SELECT h, slot, {added}, bool_or(arrived) AS changed"
            " FROM (SELECT *, false AS arrived FROM old UNION ALL SELECT *, true FROM fresh) GROUP BY h, slot"
        )
        # What stayed as it was would be taken out and put in again.
        run(
            "CREATE OR REPLACE TEMP TABLE moved AS"
            " SELECT -1 AS sign, old.*, new.changed FROM old"
            " JOIN new ON old.h = new.h AND old.slot = new.slot UNION ALL SELECT 1 AS sign, * FROM new"
        )
        self._count("moved")
        self._dead += one_number(self._cursor, "DELETE FROM totals WHERE h IN (SELECT h FROM old)")
        run(f"INSERT INTO totals SELECT h, slot, {columns} FROM new")
        if self._dead > _TIDY_AT:
            run("CREATE OR REPLACE TEMP TABLE totals AS SELECT * FROM totals")
            self._dead = 0

    def _count(self, table: str) -> None:
        """Add to the sums all units of a table of rows like `totals`, or take them out, by their sign."""
        if self.remembering:
            columns = "".join(f", coalesce({name}, 0) AS {name}" for name in self._past_names)
            table = f"(SELECT t.*{columns} FROM {table} t LEFT JOIN past ON past.h = t.h)"
        largest = self._largest(table)
        self._add_sums(table, largest)
        self._add_firsts(table)
        self._add_overlaps(table, largest)

    @property
    def _past_names(self) -> list[str]:
        return [f"{name}{k}" for k in range(len(self.remembering)) for name in "ab"]

    def _largest(self, table: str) -> Largest:
        """The largest magnitude in each column."""
        names = (*self.layout.names, *self._past_names)
        row = self._cursor.execute(
            f"SELECT {', '.join(f'greatest(max({name}), -min({name}), 0)' for name in names)} FROM {table}"
        ).fetchone()
        return Largest(dict(zip(names, row or (), strict=True)))

    def _add_sums(self, table: str, largest: Largest) -> None:
        columns: list[str] = []  # each of them once

        def place(column: str) -> int:
            if column not in columns:
                columns.append(column)
            return columns.index(column)

        def total(column: str) -> int:
            return place(f"coalesce(sum({column}), 0)")

        all_units, all_rows = place("count(*)"), total("w0")
        places = []
        for one in self.layout.of:
            y, m, seen = _terms(one)
            expected = None if one.expected is None else total(f"w{one.expected}")
            squares = [total(largest.product(a, b)) for a, b in ((y, y), (m, m), (y, m))]
            if one.value is None:  # of a share, only how much was observed
                y, squares[0], squares[2] = "0", total("0"), total("0")
            mine = [place(f"count(*) FILTER ({seen} > 0)"), total(y), total(m), *squares]
            places.append((mine, total(seen), expected))
        past = {
            index: [total(term) for term in self._past_terms(index, k, largest)]
            for k, index in enumerate(self.remembering)
        }
        found = self._cursor.execute(
            f"SELECT sign, slot, {', '.join(columns)} FROM {table} WHERE changed GROUP BY sign, slot"
        ).fetchall()
        for sign, slot, *values in found:
            self.present[slot] += sign * values[all_units]
            self.exchanges[slot] += sign * int(values[all_rows])
            for index, (mine, seen_at, expected_at) in enumerate(places):
                added = [values[at] for at in mine]
                self.sums[index, slot] = self.sums[index, slot].plus(added, sign)
                self.observed[index, slot] += sign * int(values[seen_at])
                if expected_at is not None:
                    self.missing[index, slot] += sign * int(values[expected_at] - values[seen_at])
            for index, terms in past.items():
                for i, at in enumerate(terms):
                    self.past[index, slot][i] += sign * int(values[at])

    def _past_terms(self, index: int, k: int, largest: Largest) -> list[str]:
        """The columns that `PAST_TERMS` names, of units that the metric's own sums count."""
        y, m, seen = _terms(self.layout.of[index])
        of = {"a": f"a{k}", "b": f"b{k}", "y": y, "m": m}
        products = (largest.product(*(of[factor] for factor in term)) for term in PAST_TERMS[2:])
        return [f"CASE WHEN {seen} > 0 THEN {term} ELSE 0 END" for term in (of["a"], of["b"], *products)]

    def _add_firsts(self, table: str) -> None:
        firsts = {-1: "s"} | {bit: f"s{bit}" for bit in range(len(self.layout.bits))}
        columns = "".join(f", min(slot) FILTER ({bit}) AS s{i}" for i, bit in enumerate(self.layout.bits))
        places = [(bit, slot) for bit in firsts for slot in sorted(self.exchanges)]
        counts = "".join(f", count(*) FILTER ({firsts[bit]} = {slot})" for bit, slot in places)
        found = self._cursor.execute(
            f"SELECT sign{counts} FROM (SELECT sign, min(slot) AS s{columns} FROM {table} GROUP BY sign, h)"
            " GROUP BY sign"
        )
        for sign, *units in found.fetchall():
            for place, count in zip(places, units, strict=True):
                self.firsts[place] += sign * count

    def _add_overlaps(self, table: str, largest: Largest) -> None:
        """What units amount to together that were seen in two phases, or in two arms of one."""
        summed = [
            (index, one)
            for index, one in enumerate(self.layout.of)
            if one.value is not None and one.metric.kind != "quantile"
        ]
        columns = []
        for _, one in summed:
            y, m, _ = _terms(one)
            columns += [
                f"sum({largest.product(a, b, 'a.', 'b.')})" for a, b in ((y, y), (y, m), (m, y), (m, m))
            ]
        for k, index in enumerate(self.remembering):
            columns += [f"sum({term})" for term in self._past_overlap_terms(index, k, largest)]
        # One later phase after the other: a hash table of its units alone, and each pair once.
        for phase in sorted({slot // 2 for slot in self.exchanges})[1:]:
            found = self._cursor.execute(
                f"SELECT a.sign, a.slot, b.slot, count(*){''.join(f', {column}' for column in columns)}"
                f" FROM {table} a JOIN (FROM {table} WHERE slot // 2 = {phase}) b"
                f" ON a.h = b.h AND a.sign = b.sign"
                f" WHERE a.slot < {2 * phase} AND (a.changed OR b.changed) GROUP BY ALL"
            ).fetchall()
            for sign, a, b, units, *values in found:
                self.shared[a, b] += sign * units
                for place, (index, _) in enumerate(summed):
                    total = self.overlaps[index, a, b]
                    for i, value in enumerate(values[4 * place : 4 * place + 4]):
                        total[i] += sign * int(value)
                terms = len(PAST_OVERLAP_TERMS)
                for k, index in enumerate(self.remembering):
                    start = 4 * len(summed) + terms * k
                    for i, value in enumerate(values[start : start + terms]):
                        self.past_overlaps[index, a, b][i] += sign * int(value)
        found = self._cursor.execute(
            f"SELECT a.sign, count(DISTINCT a.h) FROM {table} a JOIN {table} b"
            " ON a.h = b.h AND a.sign = b.sign AND a.slot + 1 = b.slot"
            " WHERE a.slot % 2 = 0 AND b.slot % 2 = 1 GROUP BY a.sign"
        ).fetchall()
        self.in_two_arms += sum(sign * units for sign, units in found)

    def _past_overlap_terms(self, index: int, k: int, largest: Largest) -> list[str]:
        """The products that `PAST_OVERLAP_TERMS` names, of units that the metric's own sums count in both."""
        y, m, seen = _terms(self.layout.of[index])
        of = {"a": f"a{k}", "b": f"b{k}", "y": y, "m": m}
        both = f"a.{seen} > 0 AND b.{seen} > 0"
        return [
            f"CASE WHEN {both} THEN {largest.product(of[one], of[other], 'a.', 'b.')} ELSE 0 END"
            for one, other in PAST_OVERLAP_TERMS
        ]


class Largest(dict[str, int]):
    """The largest magnitude of each column: whether products of two fit into 64 bits."""

    def product(self, a: str, b: str, of_a: str = "", of_b: str = "") -> str:
        """Two columns' product, exact. What 128 bits cost is four times as much, and seldom needed."""
        if self[a] * self[b] < 2**63:
            return f"CAST({of_a}{a} AS BIGINT) * {of_b}{b}"
        return f"CAST({of_a}{a} AS HUGEINT) * {of_b}{b}"


def _terms(one: Columns) -> tuple[str, str, str]:
    """The columns of a unit's y, its m and of how many exchanges were observed."""
    seen = f"w{one.seen}"
    y = seen if one.value is None else f"y{one.value}"
    m = seen if one.weight is None else f"y{one.weight}"
    return y, m, seen
