"""How does what was deleted leave the file?

DuckDB marks deleted rows and frees blocks, and overwrites neither: a search for a word finds it in the file
for months. So all that is left is copied into a new file, which then takes the old one's place. This module
copies and compares; `store` knows who uses the file meanwhile.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import duckdb
from duckdb import DuckDBPyConnection

from .schema import LedgerError

#: Tables whose row numbers are remembered (a look's cut, a page of looks): a copy must number them alike.
_NUMBERED: Final = ("exchanges", "feedback", "scores", "looks")
_ALIAS: Final = "turnout_rewritten"


def copy_of(connection: DuckDBPyConnection, path: Path) -> Path:
    """All that the database at `path` holds, in a new file beside it, and nothing else.

    Raises LedgerError where the disk has no room for it, or where rows would get other numbers.
    """
    copy = path.with_name(path.name + ".rewritten")
    discard(path)
    size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    if free < size:
        raise LedgerError(
            f"the ledger is to be written anew, which takes up to {size} bytes beside it, and {free} are free"
        )
    before = _counts(connection, None)
    quoted = str(copy).replace("'", "''")
    own = connection.execute("SELECT current_database()").fetchone()
    assert own is not None
    try:
        connection.execute(f"ATTACH '{quoted}' AS {_ALIAS}")
        try:
            connection.execute(f'COPY FROM DATABASE "{own[0]}" TO {_ALIAS}')
            after = _counts(connection, _ALIAS)
        finally:
            connection.execute(f"DETACH {_ALIAS}")
        if before != after:
            raise LedgerError("the ledger's copy does not hold what the ledger holds: it stays as it is")
    except duckdb.Error as error:
        discard(path)
        raise LedgerError(f"the ledger cannot be written anew: {str(error).partition(chr(10))[0]}") from error
    except BaseException:
        discard(path)
        raise
    return copy


def discard(path: Path) -> None:
    """Delete a copy that was not put to use."""
    for end in (".rewritten", ".rewritten.wal"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).unlink()


def _counts(connection: DuckDBPyConnection, database: str | None) -> dict[str, int]:
    """Rows by table. Raises LedgerError where a row's number is not its place."""
    names = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = coalesce(?, current_database())"
        " AND NOT temporary",
        [database],
    ).fetchall()
    prefix = "" if database is None else f"{database}.main."
    counts: dict[str, int] = {}
    for (name,) in names:
        row = connection.execute(
            f'SELECT count(*), coalesce(max(rowid) + 1, 0) FROM {prefix}"{name}"'
        ).fetchone()
        assert row is not None
        counts[name] = row[0]
        if name in _NUMBERED and row[0] != row[1]:
            raise LedgerError(f"rows of {name} would get other numbers: the ledger stays in its file")
    return counts
