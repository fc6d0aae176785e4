"""How are rows added that may have been added before? Once by their key, and all of them in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection


def append_new(
    connection: DuckDBPyConnection,
    table: str,
    schema: pa.Schema,
    rows: Sequence[Mapping[str, Any]],
    *,
    key: Sequence[str],
) -> int:
    """Add what `schema` names of the rows to the table; how many were new. A row whose key is there already
    stays as it is, and of two with one key among these the first counts."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        first.setdefault(tuple(row[name] for name in key), {name: row.get(name) for name in schema.names})
    if not first:
        return 0
    # As one table: row by row DuckDB takes milliseconds each, and whoever appends many waits for the ledger.
    connection.register("incoming_rows", pa.Table.from_pylist(list(first.values()), schema=schema))
    try:
        stored = connection.execute(
            f"INSERT INTO {table} BY NAME SELECT * FROM incoming_rows ON CONFLICT DO NOTHING "
            f"RETURNING {key[0]}"
        ).fetchall()
    finally:
        # After an error DuckDB 2 refuses even this; the rollback takes the view along.
        with suppress(duckdb.Error):
            connection.unregister("incoming_rows")
    return len(stored)
