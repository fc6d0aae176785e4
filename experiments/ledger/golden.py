"""Which golden runs were made, with which results, and how did two of them compare?

Storage only: the client that runs a set makes the ids and the statistics. Writes take the connection of a
`Store.write` and are safe to repeat; JSON columns go in and come out as Python values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
import pyarrow as pa
from duckdb import DuckDBPyConnection

from .appending import append_new
from .schema import NEWEST_EVALUATION, NEWEST_RUN, NEXT_EVALUATION, NEXT_RUN
from .store import Row, Store, matching

_RUN_JSON: Final = ("parameters", "summary")
_TEXT: Final = pa.string()
_RESULTS: Final = pa.schema(
    [
        ("run_id", _TEXT), ("item_id", _TEXT), ("item_hash", _TEXT), ("repeat", pa.int32()),
        ("evaluator", _TEXT), ("evaluator_version", _TEXT), ("status", _TEXT), ("value", pa.float64()),
        ("label", _TEXT), ("explanation", _TEXT), ("output", _TEXT), ("outcome", _TEXT),
        ("request_id", _TEXT), ("detail", _TEXT),
    ]
)  # fmt: skip


def begin_run(connection: DuckDBPyConnection, run: Mapping[str, Any], *, at: datetime) -> bool:
    """Enter a run as `running`; False if its id is there already, and then nothing is changed."""
    found = connection.execute(
        f"""
        INSERT INTO golden_runs (run_id, set_name, set_hash, model, version, status, started_at, parameters,
            number)
        VALUES (?, ?, ?, ?, ?, 'running', ?, ?, {NEXT_RUN}) ON CONFLICT DO NOTHING RETURNING run_id
        """,
        [
            *(run[name] for name in ("run_id", "set_name", "set_hash", "model", "version")),
            at,
            _json(run.get("parameters") or {}),
        ],
    ).fetchall()
    return bool(found)


def finish_run(
    connection: DuckDBPyConnection,
    run_id: str,
    *,
    status: str,
    summary: Mapping[str, Any],
    ended_at: datetime,
) -> None:
    """How a run ended. One that is complete stays as it is, whoever comes late to it."""
    connection.execute(
        "UPDATE golden_runs SET status = ?, summary = ?, ended_at = ?"
        " WHERE run_id = ? AND status <> 'complete'",
        [status, _json(summary), ended_at, run_id],
    )


def set_mlflow_run(connection: DuckDBPyConnection, run_id: str, mlflow_run_id: str) -> None:
    """Where the run is to be found in MLflow."""
    connection.execute("UPDATE golden_runs SET mlflow_run_id = ? WHERE run_id = ?", [mlflow_run_id, run_id])


def unlogged(store: Store) -> list[str]:
    """The runs that are complete and of which no run in MLflow is known, the oldest first."""
    rows = store.read(
        "SELECT run_id FROM golden_runs WHERE status = 'complete' AND mlflow_run_id IS NULL"
        " ORDER BY started_at, run_id"
    )
    return [row["run_id"] for row in rows]


def is_latest(store: Store, run: Row) -> bool:
    """Whether of the runs of its version that are complete this one was begun last."""
    query = f"""
        SELECT run_id FROM golden_runs
        WHERE model = ? AND version = ? AND status = 'complete' ORDER BY {NEWEST_RUN} LIMIT 1
    """
    return store.read(query, [run["model"], run["version"]]) == [{"run_id": run["run_id"]}]


def add_results(connection: DuckDBPyConnection, run_id: str, results: Sequence[Mapping[str, Any]]) -> int:
    """Append results; how many were new. One that is there already stays as it is."""
    rows = [
        {**result, "run_id": run_id, **{name: _json(result.get(name)) for name in ("output", "detail")}}
        for result in results
    ]
    return append_new(
        connection, "golden_results", _RESULTS, rows, key=("run_id", "item_id", "repeat", "evaluator")
    )


def runs(
    store: Store,
    *,
    model: str | None = None,
    version: int | None = None,
    set_hash: str | None = None,
    status: str | None = None,
    run_id: str | None = None,
    limit: int = 100,
) -> list[Row]:
    """Runs, newest first, each with the number of its `results`. None means any."""
    wanted, values = matching(model=model, version=version, set_hash=set_hash, status=status, run_id=run_id)
    rows = store.read(
        f"""
        SELECT g.* EXCLUDE (number),
            (SELECT count(*) FROM golden_results r WHERE r.run_id = g.run_id) AS results
        FROM golden_runs g WHERE {wanted} ORDER BY {NEWEST_RUN} LIMIT $limit
        """,
        values | {"limit": limit},
    )
    return [_parsed(row, _RUN_JSON) for row in rows]


def run(store: Store, run_id: str) -> Row | None:
    """One run, None if there is none of that id."""
    return next(iter(runs(store, run_id=run_id)), None)


def status(store: Store, run_id: str) -> str | None:
    """How far a run is, None if there is none of that id."""
    rows = store.read("SELECT status FROM golden_runs WHERE run_id = ?", [run_id])
    return rows[0]["status"] if rows else None


def results(store: Store, run_id: str) -> list[Row]:
    """A run's results by item, repeat and evaluator."""
    rows = store.read(
        "SELECT * EXCLUDE (run_id) FROM golden_results WHERE run_id = ? ORDER BY item_id, repeat, evaluator",
        [run_id],
    )
    return [_parsed(row, ("output", "detail")) for row in rows]


def save_comparison(connection: DuckDBPyConnection, comparison: Mapping[str, Any], *, at: datetime) -> bool:
    """Enter a comparison; False if its id is there already, and then nothing is changed."""
    names = (
        "comparison_id", "set_name", "set_hash", "model", "control_run", "candidate_run", "control_version",
        "candidate_version", "verdict",
    )  # fmt: skip
    found = connection.execute(
        f"""
        INSERT INTO golden_comparisons (comparison_id, set_name, set_hash, model, control_run, candidate_run,
            control_version, candidate_version, verdict, "at", result, number)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {NEXT_EVALUATION})
        ON CONFLICT DO NOTHING RETURNING comparison_id
        """,
        [*(comparison[name] for name in names), at, _json(comparison["result"])],
    ).fetchall()
    return bool(found)


def comparisons(
    store: Store,
    *,
    model: str | None = None,
    control_version: int | None = None,
    candidate_version: int | None = None,
    set_hash: str | None = None,
    set_name: str | None = None,
    comparison_id: str | None = None,
    limit: int = 100,
) -> list[Row]:
    """Comparisons, newest first. None means any."""
    wanted, values = matching(
        model=model,
        control_version=control_version,
        candidate_version=candidate_version,
        set_hash=set_hash,
        set_name=set_name,
        comparison_id=comparison_id,
    )
    rows = store.read(
        f"SELECT * EXCLUDE (number) FROM golden_comparisons WHERE {wanted}"
        f" ORDER BY {NEWEST_EVALUATION}, comparison_id LIMIT $limit",
        values | {"limit": limit},
    )
    return [_parsed(row, ("result",)) for row in rows]


def _json(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _parsed(row: Row, names: Sequence[str]) -> Row:
    return row | {name: orjson.loads(row[name]) for name in names if row[name] is not None}


def latest_sets(store: Store, model: str) -> dict[int, str]:
    """By version of the model, the golden set that it last went through: name, '@' and the set's hash."""
    rows = store.read(
        f"""
        SELECT version, set_name || '@' || set_hash AS golden FROM golden_runs
        WHERE model = ? AND status = 'complete'
        QUALIFY row_number() OVER (PARTITION BY version ORDER BY {NEWEST_RUN}) = 1
        """,
        [model],
    )
    return {row["version"]: row["golden"] for row in rows}


def latest_comparisons(store: Store, model: str) -> list[Row]:
    """Of each version of the model that was compared on a golden set, the last comparison, in brief."""
    return store.read(
        f"""
        SELECT candidate_version, control_version, set_name, set_hash, verdict FROM golden_comparisons
        WHERE model = ?
        QUALIFY row_number() OVER (
            PARTITION BY candidate_version, set_name ORDER BY {NEWEST_EVALUATION}, comparison_id) = 1
        """,
        [model],
    )
