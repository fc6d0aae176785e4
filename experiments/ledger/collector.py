"""How do records get from the spool into the ledger, each exactly once?

The rows of some segments and the segments' names go into the database in one transaction; only then are
the files deleted. A collector that is killed in between finds the name in the table and merely deletes
the file. A record that cannot be understood is set aside, told, and does not hold up its segment.
This module knows files and transactions; what a record means is `rows` and `transcript`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from .exchange import ExchangeRecord, Record, encode
from .forgetting import Forgotten
from .recorded import without_repeats
from .recording import Patience, RecordingPolicy
from .rows import MISFITS, Rows, rows_of
from .spool import contents_of, read_segment, sealed_segments
from .store import Store, registered

logger = logging.getLogger(__name__)

#: One transaction takes at most about this much of the spool: bounds memory, and what a retry repeats.
BATCH_BYTES: Final = 16 << 20
BATCH_SEGMENTS: Final = 256
#: Records that could not be understood; the spool skips folders that begin with a dot.
QUARANTINE: Final = ".quarantine"

#: Values that a table will not have. Anything else (a full disk) is no fault of the rows.
REFUSED_BY_DATABASE: Final = (duckdb.DataError, duckdb.IntegrityError)
_DEFAULT: Final = RecordingPolicy()
#: The only tables that segments fill, each with the statement that fills it from an Arrow table.
_INSERTS: Final = {
    "exchanges": "INSERT INTO exchanges BY NAME SELECT * FROM incoming",
    "bodies": "INSERT INTO bodies BY NAME SELECT * FROM incoming",
    # After the exchanges of the same batch. About a unit: its last answer before, if there is one yet.
    "feedback": """
        INSERT INTO feedback BY NAME
        WITH once AS (
            SELECT * FROM incoming
            QUALIFY key IS NULL OR row_number() OVER (PARTITION BY key ORDER BY "at") = 1),
        fresh AS (
            SELECT once.* FROM once LEFT JOIN feedback known ON known.key = once.key
            WHERE known.key IS NULL)
        SELECT * REPLACE (coalesce(nullif(request_id, ''), (
            SELECT arg_max(x.request_id, x.started_at) FROM exchanges x
            WHERE x.unit = fresh.unit AND x.role = 'primary' AND x.origin = 'live'
                AND x.started_at <= fresh."at"
        ), 'unit:' || unit) AS request_id)
        FROM fresh
    """,
    "losses": "INSERT INTO losses BY NAME SELECT * FROM incoming",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one round brought in. `waiting` segments could not be read and will be tried again."""

    segments: int = 0
    records: int = 0
    exchanges: int = 0
    bodies: int = 0
    feedback: int = 0
    lost: int = 0
    torn_bytes: int = 0
    quarantined: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """A segment that has been read, and what became of its records."""

    path: Path
    name: str
    size: int
    records: int
    torn_bytes: int
    quarantined: int
    tables: Mapping[str, pa.Table]


class Collector:
    """Empties a spool into a store. One per store; call `collect_once` again and again from one thread.

    `policies` maps a model's name to what may be kept of it; it is looked up anew for each record, so
    the mapping may change. Models that it does not name are recorded in full. Of whom is `forgotten` no more
    than numbers are kept of what was before.
    """

    def __init__(
        self,
        store: Store,
        spool_root: Path,
        policies: Mapping[str, RecordingPolicy] | None = None,
        forgotten: Forgotten | None = None,
    ) -> None:
        self._store = store
        self._root = spool_root
        self._policies: Mapping[str, RecordingPolicy] = {} if policies is None else policies
        self._forgotten = forgotten
        self._patience = Patience()
        #: By name, why a segment that is in the ledger could not be deleted, as of the last round.
        self.stuck: Mapping[str, str] = {}
        self._refusing: dict[str, str] = {}  # the same, of this round so far

    @property
    def withheld(self) -> Mapping[str, int]:
        """By model, how many bodies were not kept since the start, for they could not be redacted in time."""
        return dict(self._patience.withheld)

    def collect_once(self) -> Collected:
        """Take in every segment that is sealed now, and those that dead workers left open.

        Raises what the store raises (a full disk, say): nothing is lost then, the next round goes on.
        """
        self._refusing = {}
        total = Collected()
        batch: list[_Segment] = []
        for path in sealed_segments(self._root):
            try:
                segment = self._read(path)
            except OSError as error:
                logger.warning("cannot read the segment %s, it stays in the spool: %s", path, error)
                total = replace(total, waiting=total.waiting + 1)
                continue
            if segment is not None:
                batch.append(segment)
            if sum(each.size for each in batch) >= BATCH_BYTES or len(batch) >= BATCH_SEGMENTS:
                total = _sum(total, self._commit(batch))
                batch = []
        total = _sum(total, self._commit(batch))
        self.stuck = self._refusing
        return total

    def _read(self, path: Path) -> _Segment | None:
        """A segment's rows; None if it is in the ledger already, for then it only has to go."""
        try:
            content = path.read_bytes()
            # The digest tells two segments apart where a new worker has the name of a dead one.
            digest = blake2b(content, digest_size=8).hexdigest()
            name = f"{path.parent.name}/{path.stem}-{digest}"
            if self._store.read("SELECT 1 FROM segments WHERE name = ?", [name]):
                self._delete(path, name)
                return None
        except FileNotFoundError:
            return None
        contents = contents_of(content)
        if contents.torn_bytes:
            logger.warning("%d bytes of the segment %s are no record", contents.torn_bytes, path)
        tables, refused = self._understand(self._as_forgotten(contents.records), name)
        self._set_aside(name, refused)
        return _Segment(
            path=path,
            name=name,
            size=len(content),
            records=len(contents.records) - len(refused),
            torn_bytes=contents.torn_bytes,
            quarantined=len(refused),
            tables=tables,
        )

    def _as_forgotten(self, records: tuple[Record, ...]) -> tuple[Record, ...]:
        """The records as they may be kept of those who were forgotten."""
        return records if self._forgotten is None else tuple(map(self._forgotten.applied, records))

    def _understand(
        self, records: tuple[Record, ...], segment: str
    ) -> tuple[Mapping[str, pa.Table], list[Record]]:
        """The rows of those records that can be understood, and those that cannot."""
        try:
            rows = Rows()
            for record in records:
                rows.extend(rows_of(record, segment, self._policy(record), self._patience))
            return rows.tables(), []
        except MISFITS:
            return self._one_by_one(records, segment)

    def _one_by_one(
        self, records: tuple[Record, ...], segment: str
    ) -> tuple[Mapping[str, pa.Table], list[Record]]:
        """As `_understand`, but finds out which records do not fit. Slow, and rarely needed."""
        rows = Rows()
        refused: list[Record] = []
        for record in records:
            try:
                one = rows_of(record, segment, self._policy(record), self._patience)
                one.tables()
            except MISFITS as error:
                logger.warning("a record of the segment %s is set aside: %s", segment, error)
                refused.append(record)
            else:
                rows.extend(one)
        return rows.tables(), refused

    def _policy(self, record: Record) -> RecordingPolicy:
        return self._policies.get(getattr(record, "model", ""), _DEFAULT)

    def _commit(self, batch: list[_Segment]) -> list[_Segment]:
        """Write a batch and delete its files; the segments as they are in the ledger now."""
        if not batch:
            return []
        try:
            self._store.write(lambda connection: _insert(connection, batch))
        except REFUSED_BY_DATABASE as error:
            if len(batch) > 1:
                return [done for segment in batch for done in self._commit([segment])]
            # `rows` has checked all that the tables ask for, so this should not be; but if it is, one
            # segment must not stop all that come after it.
            logger.exception("the segment %s is set aside whole: %s", batch[0].path, error)
            return self._commit([self._refused(batch[0])])
        for segment in batch:
            self._delete(segment.path, segment.name)
        return batch

    def _delete(self, path: Path, name: str) -> None:
        """What cannot be deleted is known by its name as long as it is there, and skipped."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            if name not in self.stuck:
                logger.warning("cannot delete the segment %s, which is in the ledger: %s", path, error)
            self._refusing[name] = error.strerror or str(error)

    def _refused(self, segment: _Segment) -> _Segment:
        """The segment without its rows: they are in the quarantine."""
        self._set_aside(segment.name, self._as_forgotten(read_segment(segment.path).records))
        return replace(segment, records=0, quarantined=segment.quarantined + segment.records, tables={})

    def _set_aside(self, segment: str, records: Sequence[Record]) -> None:
        """Keep what could not be understood, as a segment that can be put back into the spool later: of what
        is not to be recorded in full without the bodies, for nobody deletes it after `keep`.

        The same segment always gets the same file, so doing it twice does no harm.
        """
        content = b"".join(piece for record in records for piece in _encoded(self._permitted(record)))
        if content:
            folder = self._root / QUARANTINE
            folder.mkdir(exist_ok=True)
            (folder / f"{segment.replace('/', '-')}.seg").write_bytes(content)

    def _permitted(self, record: Record) -> Record:
        if not isinstance(record, ExchangeRecord):
            return record
        with suppress(TypeError):  # nothing is sure of such a record, not even that its model is a name
            if record.recording == self._policy(record).recording == "full":
                return record
        return replace(record, request=b"", response=b"", clipped=True)


def _encoded(record: Record) -> list[bytes]:
    try:
        return encode(record)
    except MISFITS:
        return []  # counted and told, but not even writable


def _insert(connection: DuckDBPyConnection, batch: list[_Segment]) -> None:
    connection.executemany(
        "INSERT INTO segments VALUES (?, now()::TIMESTAMP, ?, ?, ?)",
        [[segment.name, segment.records, segment.torn_bytes, segment.quarantined] for segment in batch],
    )
    for name, statement in _INSERTS.items():
        parts = [segment.tables[name] for segment in batch if name in segment.tables]
        if parts:
            table = pa.concat_tables(parts)
            _fill(connection, statement, without_repeats(connection, table) if name == "exchanges" else table)


def _fill(connection: DuckDBPyConnection, statement: str, table: pa.Table) -> None:
    with registered(connection, incoming=table):
        connection.execute(statement)


def _sum(total: Collected, batch: list[_Segment]) -> Collected:
    def rows(name: str) -> int:
        return sum(segment.tables[name].num_rows for segment in batch if name in segment.tables)

    lost = [segment.tables["losses"].column("count") for segment in batch if "losses" in segment.tables]
    return Collected(
        segments=total.segments + len(batch),
        records=total.records + sum(segment.records for segment in batch),
        exchanges=total.exchanges + rows("exchanges"),
        bodies=total.bodies + rows("bodies"),
        feedback=total.feedback + rows("feedback"),
        lost=total.lost + sum(sum(column.to_pylist()) for column in lost),
        torn_bytes=total.torn_bytes + sum(segment.torn_bytes for segment in batch),
        quarantined=total.quarantined + sum(segment.quarantined for segment in batch),
        waiting=total.waiting,
    )
