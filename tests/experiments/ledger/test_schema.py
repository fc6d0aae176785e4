"""Migrations run once, in order, each whole or not at all."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from experiments.ledger import rows, schema
from experiments.ledger.schema import MIGRATIONS, LedgerTooNew, migrate


def test_each_migration_runs_once() -> None:
    connection = duckdb.connect()
    assert migrate(connection) == [migration.__name__ for migration in MIGRATIONS]
    assert migrate(connection) == []


def test_an_older_file_gets_what_it_lacks() -> None:
    connection = duckdb.connect()
    migrate(connection, MIGRATIONS[:1])
    connection.execute("INSERT INTO segments VALUES ('s', now()::TIMESTAMP, 1, 0, 0)")
    assert migrate(connection) == [migration.__name__ for migration in MIGRATIONS[1:]]
    assert connection.execute("SELECT name FROM segments").fetchall() == [("s",)]


def test_the_ranges_of_before_several_experiments_are_kept() -> None:
    connection = duckdb.connect()
    before = next(i for i, one in enumerate(MIGRATIONS) if one is schema.routes_of_experiments)
    migrate(connection, MIGRATIONS[:before])
    connection.execute("""INSERT INTO routes VALUES ('chat', 'faster', '{"control": [[0, 9]]}')""")
    migrate(connection)
    found = connection.execute("SELECT experiment, model, ranges FROM routes").fetchall()
    assert found == [("faster", "chat", '{"control": [[0, 9]]}')]


def test_looks_of_before_know_whether_they_were_scheduled() -> None:
    connection = duckdb.connect()
    before = next(i for i, one in enumerate(MIGRATIONS) if one is schema.scheduled_looks)
    migrate(connection, MIGRATIONS[:before])
    for document in ('{"look": {"scheduled": true}}', '{"look": {"scheduled": false}}', "{}"):
        connection.execute("INSERT INTO looks VALUES ('e', now()::TIMESTAMP, 1, 'ship', ?, 0)", [document])
    migrate(connection)
    found = connection.execute("SELECT scheduled FROM looks ORDER BY rowid").fetchall()
    assert found == [(True,), (False,), (False,)]


def test_a_migration_that_fails_leaves_the_file_as_it_was() -> None:
    def broken(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("CREATE TABLE half (n INTEGER)")
        raise RuntimeError("power cut")

    connection = duckdb.connect()
    with pytest.raises(RuntimeError):
        migrate(connection, (*MIGRATIONS, broken))
    names = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    assert "half" not in names
    assert "exchanges" in names
    assert migrate(connection) == []


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    def tomorrow(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("CREATE TABLE flying_cars (n INTEGER)")

    connection = duckdb.connect()
    migrate(connection, (*MIGRATIONS, tomorrow))
    with pytest.raises(LedgerTooNew, match="tomorrow"):
        migrate(connection)


@pytest.mark.parametrize(
    ("table", "arrow"),
    [
        ("exchanges", rows.EXCHANGES),
        ("bodies", rows.BODIES),
        ("feedback", rows.FEEDBACK),
        ("losses", rows.LOSSES),
    ],
)
def test_the_collectors_columns_are_the_tables_columns(table: str, arrow: pa.Schema) -> None:
    """Names, order, and which may be null: what does not fit must be found before it reaches the database."""
    connection = duckdb.connect()
    schema.migrate(connection)
    found = connection.execute(
        "SELECT column_name, is_nullable FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index",
        [table],
    ).fetchall()
    assert found == [(field.name, field.nullable) for field in arrow]
