"""How are rows added that may have been added before? Once by their key, and all of them in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from .store import registered


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
    with registered(connection, incoming=pa.Table.from_pylist(list(first.values()), schema=schema)):
        stored = connection.execute(
            f"INSERT INTO {table} BY NAME SELECT * FROM incoming ON CONFLICT DO NOTHING RETURNING {key[0]}"
        ).fetchall()
    return len(stored)
