"""Which exchanges have not been told to a tracing backend yet, and how far has that come?

Exchanges are only added, so that the number of a row is its place in the order in which they were collected.
"""

from __future__ import annotations

from typing import Final

from duckdb import DuckDBPyConnection

from .decisions import set_setting, setting
from .store import Row, Store, rows_so_far

_POSITION: Final = "traces_told"


def position(store: Store) -> int | None:
    """The number of the first row that was not told; None if nothing ever was."""
    found = setting(store, _POSITION)
    return None if found is None else int(found)


def save_position(connection: DuckDBPyConnection, number: int) -> None:
    """Write how far it has come."""
    set_setting(connection, _POSITION, str(number))


def end(store: Store) -> int:
    """The number that the next exchange will get."""
    with store.reading() as cursor:
        return rows_so_far(cursor)


def since(store: Store, number: int, limit: int) -> list[Row]:
    """At most `limit` rows from that number on, in order, without their bodies."""
    return store.read(
        "SELECT * FROM exchanges WHERE rowid >= $low AND rowid < $high ORDER BY rowid",
        {"low": number, "high": number + limit},
    )
