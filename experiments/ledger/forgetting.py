"""What does the ledger hold of a unit, and how does that go, while the sums that verdicts rest on stay?

The rows of a forgotten unit stay, as numbers, under a name that was drawn by lot: how many units there were,
and what they amount to, is what it was. Everything that anybody wrote goes. What still lies in a spool, or is
under way, is met when it is collected: for that, what a unit is called now is remembered for a week in a file
of its own, which leaves nothing behind when it is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
from duckdb import DuckDBPyConnection

from ..assignment import unit_id
from ..replacing import replace_whole
from .exchange import ExchangeRecord, FeedbackRecord, LossRecord, Record, encode
from .rows import unpack
from .spool import read_segment
from .store import Store, one_number, registered

#: What was under way, or waited in a spool, is in the ledger by then.
REMEMBERED_NS: Final = 7 * 86_400 * 10**9
#: Where a request's body may name a unit; a header is not recorded.
_NAMED: Final = re.compile(
    rb'"(?:user|safety_identifier|user_id|session_id|prompt_cache_key)"\s*:\s*("(?:[^"\\]|\\.)*")'
)
_PAGE: Final = 1000


def named_in(request: bytes) -> frozenset[str]:
    """The units (as the ledger names them) that a request's body names, also of a body that was clipped."""
    found: set[str] = set()
    for text in _NAMED.findall(request):
        with suppress(ValueError):
            found.add(unit_id(orjson.loads(text)))
    return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """What a unit is called in the rows of before it was forgotten, at `at_ns` (unix nanoseconds)."""

    name: str
    at_ns: int


class Forgotten:
    """The units that were forgotten within a week, in a file. One per spool; not safe for threads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._aliases: dict[str, Alias] = {}
        with suppress(FileNotFoundError):
            self._aliases = {unit: Alias(**alias) for unit, alias in orjson.loads(file.read_bytes()).items()}

    def get(self, unit: str) -> Alias | None:
        """What the unit is called now, None if it is not remembered."""
        return self._aliases.get(unit)

    def add(self, aliases: Mapping[str, Alias]) -> None:
        """Remember, on disk first."""
        self._keep({**self._aliases, **aliases})

    def expire(self, now_ns: int) -> None:
        """Forget what was remembered long enough."""
        kept = {unit: alias for unit, alias in self._aliases.items() if alias.at_ns > now_ns - REMEMBERED_NS}
        if kept != self._aliases:
            self._keep(kept)

    def _keep(self, aliases: dict[str, Alias]) -> None:
        written = {unit: {"name": one.name, "at_ns": one.at_ns} for unit, one in aliases.items()}
        replace_whole(self._file, orjson.dumps(written).decode())
        self._aliases = aliases

    def applied(self, record: Record) -> Record:
        """The record as it may be kept: of what began before its unit was forgotten the numbers alone."""
        if not self._aliases or isinstance(record, LossRecord):
            return record
        alias = self._aliases.get(record.unit or "")
        if isinstance(record, FeedbackRecord):
            if alias is None or record.at_ns > alias.at_ns:
                return record
            return replace(record, unit=alias.name, key=None)
        if alias is not None and record.started_ns <= alias.at_ns:
            return replace(record, unit=alias.name, traceparent=None, recording="numbers")
        named = (self._aliases.get(unit) for unit in named_in(record.request))
        if any(one is not None and record.started_ns <= one.at_ns for one in named):
            return replace(record, traceparent=None, recording="numbers")
        return record

    def clean(self, folder: Path) -> None:
        """The same for segments that were set aside."""
        for path in sorted(folder.glob("*.seg")) if folder.is_dir() else ():
            records = read_segment(path).records
            kept = [_bare(self.applied(record), record) for record in records]
            if any(one is not record for one, record in zip(kept, records, strict=True)):
                making = path.with_suffix(".cleaned")
                making.write_bytes(b"".join(piece for record in kept for piece in encode(record)))
                making.replace(path)


def _bare(record: Record, before: Record) -> Record:
    """Without its body, if its unit was forgotten: what was set aside is nobody's to redact later."""
    if record is before or not isinstance(record, ExchangeRecord):
        return record
    return replace(record, request=b"", response=b"", clipped=True)


# -- in the ledger -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Rows that there are of some units: their exchanges (with the copies), and what goes with these."""

    exchanges: int
    bodies: int
    feedback: int
    explanations: int
    golden_answers: int

    @property
    def anything(self) -> bool:
        return any((self.exchanges, self.bodies, self.feedback, self.explanations, self.golden_answers))


def naming(store: Store, units: frozenset[str]) -> list[str]:
    """The exchanges whose kept requests name one of the units, whatever unit they were counted as."""
    found: list[str] = []
    with store.reading() as cursor:
        bodies = cursor.execute("SELECT exchange_id, request FROM bodies WHERE request IS NOT NULL")
        while page := bodies.fetchmany(_PAGE):
            found += [name for name, request in page if units & named_in(unpack(request) or b"")]
    return found


def forget(
    names: Mapping[str, str], named: Iterable[str], *, then: Callable[[DuckDBPyConnection, Found], None]
) -> Callable[[DuckDBPyConnection], Found]:
    """A change for `Store.write` that leaves of units (by what each is to be called) and of exchanges that
    name them the numbers alone. `then` is called with what was found, in the same transaction."""

    def change(connection: DuckDBPyConnection) -> Found:
        # Who was forgotten before is found by either name: what came meanwhile goes too.
        known = [*names.items(), *((name, name) for name in names.values())]
        subjects = pa.table({"unit": [unit for unit, _ in known], "name": [name for _, name in known]})
        exchanges = pa.table({"exchange_id": pa.array(list(named), pa.string())})
        with registered(connection, subjects=subjects, naming=exchanges):
            for statement in _GOING:
                connection.execute(statement)
            found = Found(
                exchanges=one_number(connection, "SELECT count(*) FROM going"),
                feedback=one_number(connection, _FEEDBACK),
                bodies=one_number(connection, _BODIES),
                explanations=one_number(connection, _EXPLANATIONS),
                golden_answers=one_number(connection, _GOLDEN_ANSWERS),
            )
            for statement in _CHANGES:
                connection.execute(statement)
            then(connection, found)
            for table in ("going", "items"):
                connection.execute(f"DROP TABLE {table}")
        return found

    return change


#: The exchanges that go: the units', those that name them, the copies of either, and what golden items were
#: asked that were made of any of these (`golden add`).
_GOING: Final = (
    """
    CREATE OR REPLACE TEMP TABLE going AS
    SELECT exchange_id, request_id FROM exchanges
    WHERE unit IN (SELECT unit FROM subjects) OR exchange_id IN (SELECT exchange_id FROM naming)
    """,
    """
    INSERT INTO going SELECT exchange_id, request_id FROM exchanges
    WHERE pair_id IN (SELECT exchange_id FROM going)
        AND exchange_id NOT IN (SELECT exchange_id FROM going)
    """,
    """
    CREATE OR REPLACE TEMP TABLE items AS
    SELECT DISTINCT run_id, item_id, request_id FROM golden_results
    WHERE item_id IN (SELECT 'exchange-' || exchange_id FROM going)
    """,
    """
    INSERT INTO going SELECT exchange_id, request_id FROM exchanges
    WHERE request_id IN (SELECT request_id FROM items)
        AND exchange_id NOT IN (SELECT exchange_id FROM going)
    """,
)
_FEEDBACK: Final = """
    SELECT count(*) FROM feedback
    WHERE request_id IN (SELECT request_id FROM going) OR unit IN (SELECT unit FROM subjects)
"""
_BODIES: Final = "DELETE FROM bodies WHERE exchange_id IN (SELECT exchange_id FROM going)"
_EXPLANATIONS: Final = """
    UPDATE scores SET explanation = NULL
    WHERE explanation IS NOT NULL AND exchange_id IN (SELECT exchange_id FROM going)
"""
_GOLDEN_ANSWERS: Final = """
    UPDATE golden_results SET output = NULL, explanation = NULL, detail = NULL
    WHERE (output IS NOT NULL OR explanation IS NOT NULL)
        AND EXISTS (
            SELECT 1 FROM items i
            WHERE i.run_id = golden_results.run_id AND i.item_id = golden_results.item_id)
"""
_CHANGES: Final = (
    """
    UPDATE exchanges SET traceparent = NULL
    WHERE traceparent IS NOT NULL AND exchange_id IN (SELECT exchange_id FROM going)
    """,
    """
    UPDATE exchanges SET unit = subjects.name FROM subjects
    WHERE exchanges.unit = subjects.unit AND exchanges.unit <> subjects.name
    """,
    "UPDATE feedback SET key = NULL WHERE key IS NOT NULL AND request_id IN (SELECT request_id FROM going)",
    """
    UPDATE feedback SET key = NULL, unit = subjects.name,
        request_id = if(request_id = 'unit:' || subjects.unit, 'unit:' || subjects.name, request_id)
    FROM subjects WHERE feedback.unit = subjects.unit
    """,
    "UPDATE human_labels SET note = NULL WHERE item_id IN (SELECT item_id FROM items)",
    # The next comparison, or `golden label`, hands in another.
    """
    DELETE FROM label_worksheets
    WHERE control_run IN (SELECT run_id FROM items) OR candidate_run IN (SELECT run_id FROM items)
    """,
)
