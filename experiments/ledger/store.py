"""How do many threads of one process share the one DuckDB database that it owns?

All writes go through one thread, each as one transaction; a read takes a cursor of its own and sees what
was committed when it began. DuckDB admits a single process per file, so whoever else wants to know
something asks the process that holds the store. This module knows connections and transactions, and
none of the tables.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from .rewriting import copy_of, discard
from .schema import LedgerClosed, LedgerError, LedgerHeld, migrate

T = TypeVar("T")
Parameters = Sequence[Any] | Mapping[str, Any]
Row = dict[str, Any]
#: For those outside the ledger who write to it: what `write` hands over, and what it may raise.
Connection = DuckDBPyConnection
DatabaseError = duckdb.Error
_Job = Callable[[], None]

_NANOSECONDS: Final = 1_000_000_000
#: So long a rewriting waits for those who read; a look at ten million rows takes a quarter of it.
_READERS_S: Final = 60.0

#: How large the log grows before DuckDB moves it into the file, and while there is no room for that.
_LOG_BYTES: Final = 16 << 20
_NO_END: Final = 1 << 40
#: To move it in, DuckDB writes anew what it adds to: a row group of each table, the whole file at most.
_REWRITTEN_BYTES: Final = 2 << 30
_MARGIN_BYTES: Final = 64 << 20


def instant(ns: int) -> datetime:
    """Unix nanoseconds as the naive UTC datetime that a TIMESTAMP column holds (to the microsecond)."""
    whole = datetime.fromtimestamp(ns // _NANOSECONDS, tz=UTC)
    return whole.replace(microsecond=ns % _NANOSECONDS // 1000, tzinfo=None)


def nanoseconds(at: datetime) -> int:
    """The unix nanoseconds of a TIMESTAMP; a naive datetime counts as UTC."""
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * _NANOSECONDS + since.microseconds * 1000


def rows_so_far(cursor: DuckDBPyConnection, table: str = "exchanges") -> int:
    """The number that the next row will get of a table of which none is deleted: those below it are the same
    rows for ever."""
    return one_number(cursor, f"SELECT max(rowid) + 1 FROM {table}")


class Store:
    """The ledger's file, opened by this process and brought up to date.

    Raises LedgerHeld if another process has it, LedgerTooNew if a newer Turnout wrote it, and
    LedgerError if the file is no database or cannot be opened.
    """

    def __init__(self, path: Path, *, memory_limit: str = "2GB", threads: int | None = None) -> None:
        self.path = path
        self._log = path.with_name(path.name + ".wal")
        # What a commit or a checkpoint needed for a moment goes back to the system without being asked for.
        self._config: dict[str, Any] = {"memory_limit": memory_limit, "allocator_background_threads": True}
        if threads is not None:
            self._config["threads"] = threads
        self._config["wal_autocheckpoint"] = f"{_NO_END}B"
        #: whether DuckDB has given the database up: it has to be opened anew, by another process
        self.lost = False
        self._open()
        discard(path)  # of a process that was killed meanwhile
        try:
            migrate(self._writer_connection)
        except BaseException:
            self._writer_connection.close()
            raise
        self._reader_connection = self._writer_connection.cursor()
        self._cursor_lock = threading.Condition()
        #: How many read now, in each thread.
        self._readers: Counter[int] = Counter()
        self._rewriting = False
        #: Grows when what was read before may not stand any more: rows were changed, cursors closed.
        self.epoch = 0
        self._kept: set[DuckDBPyConnection] = set()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._writer = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self._writer.start()

    def _open(self) -> None:
        self._writer_connection = _open(self.path, self._config)
        self._log_bytes = _NO_END
        # `now()` and any aware datetime become UTC, whatever the machine's zone is.
        self._writer_connection.execute("SET TimeZone = 'UTC'")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, change: Callable[[DuckDBPyConnection], T]) -> T:
        """Run `change(connection)` in a transaction on the writer thread and wait for its commit.

        What it raises is raised here, and then nothing of it was written. It must not begin, commit,
        or call `write` itself.
        """
        return self._queued(lambda: _in_transaction(self._writer_connection, change))

    def outdate(self) -> None:
        """Rows that were taken for unchangeable have been changed: what was added up of them is to be read
        again."""
        with self._cursor_lock:
            self.epoch += 1

    def rewrite(self) -> None:
        """Write all that the ledger holds into a new file in the place of the old, so that nothing that was
        deleted is in it any more. Writes wait meanwhile, reads only for the moment of the change.

        Raises LedgerError where that cannot be done now; the file is as it was then.
        """
        self._queued(self._rewrite)

    def _rewrite(self) -> None:
        copy = copy_of(self._writer_connection, self.path)
        with self._cursor_lock:
            self._rewriting = True
            try:
                if not self._cursor_lock.wait_for(lambda: not self._readers.total(), _READERS_S):
                    raise LedgerError("the ledger is being read all the time: it cannot be written anew now")
                self.lost = True  # should it not open again
                # An open cursor would keep the file.
                for cursor in (*self._kept, self._reader_connection, self._writer_connection):
                    cursor.close()
                self._kept.clear()
                # Its log must be in the old file: the new one would take it for its own.
                settled = not self._log.exists()
                if settled:
                    copy.replace(self.path)
                self._open()
                self._reader_connection = self._writer_connection.cursor()
                self.lost = False
                self.epoch += 1
                if not settled:
                    raise LedgerError("the ledger's log could not be closed: it cannot be written anew now")
            finally:
                discard(self.path)
                self._rewriting = False
                self._cursor_lock.notify_all()

    def _queued(self, work: Callable[[], T]) -> T:
        """What `work` gives, on the writer thread."""
        if threading.current_thread() is self._writer:
            raise LedgerError("a write inside a write would wait for itself: pass the connection on instead")
        future: Future[T] = Future()

        def job() -> None:
            try:
                self._mind_room()
                result = work()
                self._guard_log()
            except BaseException as error:
                self.lost = self.lost or isinstance(error, duckdb.FatalException)
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._closing:
            self._refuse_if_closed()
            self._jobs.put(job)
        return future.result()

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """The rows of a query, as dicts in the order of its columns. TIMESTAMPs are naive UTC datetimes."""
        with self.reading() as cursor:
            return rows_in(cursor.execute(sql, parameters))

    def cursor(self) -> DuckDBPyConnection:
        """A cursor to keep, for reading, with temporary tables of its own; the store closes it at its end."""
        with self._cursor_lock:
            self._refuse_if_closed()
            made = self._reader_connection.cursor()
            self._kept.add(made)
            return made

    def give_back(self, cursor: DuckDBPyConnection) -> None:
        """Close a cursor that was kept."""
        with self._cursor_lock:
            self._kept.discard(cursor)
        cursor.close()

    @contextmanager
    def reading(self) -> Iterator[DuckDBPyConnection]:
        """A cursor for several queries that belong together, with temporary tables of its own."""
        me = threading.get_ident()
        with self._cursor_lock:
            # Who reads already is waited for, and must not wait in turn.
            self._cursor_lock.wait_for(lambda: not self._rewriting or self._readers[me])
            self._refuse_if_closed()
            cursor = self._reader_connection.cursor()
            self._readers[me] += 1
        try:
            yield cursor
        except duckdb.FatalException:
            self.lost = True
            raise
        finally:
            cursor.close()
            with self._cursor_lock:
                self._readers[me] -= 1
                if not self._readers[me]:
                    del self._readers[me]
                self._cursor_lock.notify_all()

    def size(self) -> int:
        """Bytes on disk: the file and what is not yet moved into it."""
        files = (self.path, self._log)
        return sum(file.stat().st_size for file in files if file.exists())

    def checkpoint(self) -> None:
        """Move what was committed into the file itself; DuckDB does it on its own now and then."""
        # Fails only while other transactions are open: then the next one will do it.
        with self.reading() as cursor, suppress(duckdb.TransactionException):
            cursor.execute("CHECKPOINT")

    def _mind_room(self) -> None:
        """Where the disk runs out as DuckDB moves its log into the file, it gives the database up, though
        nothing is lost: as long as there is no room for that, the log grows.
        """
        with suppress(OSError):
            self._let_log_grow(shutil.disk_usage(self.path.parent).free < self.room_wanted())

    def room_wanted(self) -> int:
        """Bytes that must be free for the log to be moved into the file. Raises OSError."""
        return min(self.path.stat().st_size, _REWRITTEN_BYTES) + _MARGIN_BYTES

    def _let_log_grow(self, without_end: bool) -> None:
        most = _NO_END if without_end else _LOG_BYTES
        if most != self._log_bytes:
            self._writer_connection.execute(f"SET GLOBAL wal_autocheckpoint = '{most}B'")
            self._log_bytes = most

    def _guard_log(self) -> None:
        """Where the log has gone from disk, by DuckDB's own hand or another, move what it held into the file.

        DuckDB goes on writing into a log that somebody has deleted, and all of it would end with the process.
        """
        if not self._log.exists():
            with suppress(duckdb.Error):
                self._writer_connection.execute("CHECKPOINT")

    def close(self) -> None:
        """Finish the writes that wait, and give the file up. Safe to repeat."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._writer.join()
        with self._cursor_lock:
            # An open cursor would keep the file.
            for cursor in self._kept:
                cursor.close()
            self._reader_connection.close()
            self._writer_connection.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise LedgerClosed(f"the ledger {self.path} is closed: the controller is stopping")


def rows_in(result: DuckDBPyConnection) -> list[Row]:
    """What a query found, as dicts."""
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, values, strict=True)) for values in result.fetchall()]


def matching(**values: object) -> tuple[str, dict[str, Any]]:
    """The condition that columns have these values, and its parameters. None means any."""
    given = {name: value for name, value in values.items() if value is not None}
    return " AND ".join(f"{name} = ${name}" for name in given) or "true", given


def one_number(cursor: DuckDBPyConnection, sql: str, parameters: Parameters = ()) -> int:
    """The one number that a query finds, or that a change says of how many rows it was; 0 for NULL."""
    row = cursor.execute(sql, parameters).fetchone()
    return int(row[0] or 0) if row else 0


def _open(path: Path, config: dict[str, Any]) -> DuckDBPyConnection:
    if "?" in str(path.absolute()):  # it writes the log before the `?`, and the data after it
        raise LedgerError(
            f"the ledger {path} cannot be opened: DuckDB takes no `?` in a path ({path.absolute()});"
            " choose another data folder"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return duckdb.connect(str(path), config=config)
    except duckdb.IOException as error:
        if "lock on file" in str(error):
            raise LedgerHeld(
                f"the ledger {path} is held by another process{_holder(str(error))}: one controller "
                "may own it; stop that one, or start this one with another data folder"
            ) from error
        raise LedgerError(f"the ledger {path} cannot be opened: {_first_line(error)}") from error
    except (duckdb.Error, OSError) as error:
        raise LedgerError(f"the ledger {path} cannot be opened: {_first_line(error)}") from error


def _holder(message: str) -> str:
    """` (PID 4711)`, where DuckDB knows it."""
    start = message.find("(PID ")
    return f" {message[start : message.index(')', start) + 1]}" if start >= 0 else ""


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


@contextmanager
def registered(connection: DuckDBPyConnection, **tables: pa.Table) -> Iterator[None]:
    """Statements in the block find these tables by their names."""
    for name, table in tables.items():
        connection.register(name, table)
    try:
        yield
    finally:
        # After an error DuckDB 2 refuses even this; the rollback takes the views along.
        with suppress(duckdb.Error):
            for name in tables:
                connection.unregister(name)


def _in_transaction(connection: DuckDBPyConnection, change: Callable[[DuckDBPyConnection], T]) -> T:
    connection.begin()
    try:
        result = change(connection)
        connection.commit()
    except BaseException:
        # A failed commit has already ended the transaction.
        with suppress(duckdb.Error):
            connection.rollback()
        raise
    return result
