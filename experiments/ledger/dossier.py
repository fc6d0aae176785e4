"""Which rows is a verdict's evidence made of, and what evidence do rows in a folder make?

Rows go out as Parquet, without bodies; units and workers become pseudonyms that mean something in this
folder only.
"""

from __future__ import annotations

import glob
import secrets
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb

from ..evidence import AnalysisSpec, Cut, Evidence
from .evidence import distinct, gather
from .facts import FIRST_ROW, PAST
from .store import Store, instant, one_number

#: One file, by a pattern that finds it alone. Left to itself, DuckDB takes a folder `date=2026-11-28` in its
#: path for a column.
_PARQUET: Final = "read_parquet(?, hive_partitioning = false)"
#: What evidence reads of an exchange.
_COLUMNS: Final = (
    "exchange_id, request_id, pair_id, role, origin, started_at, model, experiment, phase, assigned_arm,"
    " served_arm, assigned_version, served_version, stream, status, outcome, arm_outcome, first_byte_ms,"
    " ttft_ms, duration_ms, gap_mean_ms, gap_p99_ms, gap_max_ms, prompt_tokens, completion_tokens,"
    " cached_tokens, finish_reason, error_code, outside, serial, turn"
)
_PSEUDONYMS: Final = (
    "CASE WHEN unit IS NOT NULL THEN left(sha256($salt || unit), 32) END AS unit,"
    " left(sha256($salt || worker), 16) AS worker"
)

_SPLIT: Final = """
    rowid < $cut AND experiment = $experiment AND phase >= $first AND role = 'primary' AND origin = 'live'
"""
_SHADOW: Final = """
    rowid < $cut AND (
        (experiment = $experiment AND phase >= $first AND role = 'shadow')
        OR (role = 'primary' AND origin = 'live' AND exchange_id IN (
            SELECT pair_id FROM exchanges
            WHERE rowid < $cut AND experiment = $experiment AND phase >= $first AND role = 'shadow')))
"""
#: Longer ago than any row.
_EVER_S: Final = 1e9
#: What a row of the ledger has besides and no evidence reads.
_FILLED: Final = """
    '-' AS path, 1 AS snapshot, 1 AS attempts, 0 AS request_bytes, 0 AS response_bytes, '-' AS segment
"""


def export_rows(store: Store, spec: AnalysisSpec, cut: Cut, folder: Path) -> None:
    """Write `rows`, `past`, `feedback`, `scores` and `phases` as `.parquet`: all rows before the cut that
    count, and those of before the experiment for which metrics are adjusted."""
    scope: dict[str, Any] = {
        "experiment": spec.experiment,
        "first": spec.first_phase,
        "cut": cut.exchanges,
        "salt": secrets.token_hex(16),
    }
    names = [metric.named for metric in distinct(spec) if metric.source == "feedback"]
    with store.reading() as cursor:
        cursor.execute(
            f"CREATE TEMP TABLE counted AS SELECT {_COLUMNS}, {_PSEUDONYMS} FROM exchanges"
            f" WHERE {_SHADOW if spec.mode == 'shadow' else _SPLIT} ORDER BY rowid",
            scope,
        )
        cursor.execute(
            f"CREATE TEMP TABLE past AS SELECT {_COLUMNS}, {_PSEUDONYMS} FROM"
            f" (SELECT x.* {PAST} AND $adjusted) ORDER BY rowid",
            {
                "experiment": spec.experiment,
                "salt": scope["salt"],
                "adjusted": any(goal.adjusted for goal in spec.goals),
                "before": one_number(cursor, FIRST_ROW, {"experiment": spec.experiment}),
                "history_us": round(spec.history_s * 1e6),
            },
        )
        cursor.execute(
            'CREATE TEMP TABLE said AS SELECT request_id, name, value, "at" FROM feedback'
            " WHERE rowid < $heard AND list_contains($names, name)"
            " AND request_id IN (SELECT request_id FROM counted) ORDER BY rowid",
            {"heard": cut.feedback, "names": names},
        )
        cursor.execute(
            "CREATE TEMP TABLE scored AS SELECT exchange_id, evaluator, evaluator_version, status, value,"
            ' "at" FROM scores WHERE rowid < $heard AND list_contains($names, evaluator)'
            " AND exchange_id IN (SELECT exchange_id FROM counted) ORDER BY rowid",
            {
                "heard": cut.scores,
                "names": [metric.named for metric in distinct(spec) if metric.source == "scores"],
            },
        )
        cursor.execute(
            "CREATE TEMP TABLE declared AS SELECT phase, started_at, candidate_ppm, share_ppm FROM phases"
            " WHERE experiment = ? ORDER BY phase",
            [spec.experiment],
        )
        for table, name in (
            ("counted", "rows"),
            ("past", "past"),
            ("said", "feedback"),
            ("scored", "scores"),
            ("declared", "phases"),
        ):
            target = str(folder / f"{name}.parquet").replace("'", "''")
            cursor.execute(f"COPY {table} TO '{target}' (FORMAT parquet, COMPRESSION zstd)")


def regather(folder: Path, spec: AnalysisSpec, told: Evidence) -> Evidence:
    """The evidence that the rows in the folder make, by the same SQL that made it of the ledger.

    What is not in the rows (the instants, the cut, what was lost, what a shadow did not copy, the golden
    sets, whether more will come) is as it was `told`.
    The folder need not be trusted: its SQL reaches nothing else. Raises LookupError if its rows cannot be
    read, or its SQL is none that they bear.
    """
    with TemporaryDirectory() as place, Store(Path(place) / "again.duckdb") as store:

        def load(connection: duckdb.DuckDBPyConnection) -> None:
            begun = instant(told.started_ns)
            files = {
                name: glob.escape(str(folder / f"{name}.parquet"))
                for name in ("rows", "past", "feedback", "scores", "phases")
            }
            connection.execute(
                "INSERT INTO experiments (name, model, mode, state, spec, spec_hash, created_at, started_at)"
                " SELECT ?, coalesce(any_value(model), '-'), ?, 'kept', '{}', '-', ?, ?"
                f" FROM {_PARQUET}",
                [spec.experiment, spec.mode, begun, begun, files["rows"]],
            )
            connection.execute(
                f"INSERT INTO phases BY NAME SELECT *, ? AS experiment FROM {_PARQUET}",
                [spec.experiment, files["phases"]],
            )
            for name in ("past", "rows"):  # in the order in which they had come
                if (folder / f"{name}.parquet").exists():  # older folders have no past
                    connection.execute(
                        f"INSERT INTO exchanges BY NAME SELECT *, {_FILLED} FROM {_PARQUET}",
                        [files[name]],
                    )
            connection.execute(
                f"INSERT INTO feedback BY NAME SELECT *, '-' AS segment FROM {_PARQUET}",
                [files["feedback"]],
            )
            if (folder / "scores.parquet").exists():  # folders of before scores counted have none
                connection.execute(f"INSERT INTO scores BY NAME FROM {_PARQUET}", [files["scores"]])
            # What metrics read is SQL of the folder's own, which may be anybody's: it is to see these rows
            # and neither a file nor the network.
            connection.execute("SET enable_external_access = false")

        try:
            store.write(load)
            # Of the past only what counts was written: how far back that was has been seen to.
            found = gather(store, replace(spec, history_s=_EVER_S), as_of_ns=told.as_of_ns)
        except (duckdb.Error, OverflowError) as error:  # the latter of an instant that no clock shows
            raise LookupError(f"the rows in {folder} cannot be read: {error}") from None
    goldens = [one for one in told.instruments if one.metric.startswith("golden:")]
    return replace(
        found,
        cut=told.cut,
        started_ns=told.started_ns,
        lost=told.lost,
        golden=told.golden,
        instruments=(*found.instruments, *goldens),
        exhausted=told.exhausted,
        not_copied=told.not_copied,
    )
