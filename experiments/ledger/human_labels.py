"""What did people say of golden runs' answers, and which answers were they to look at?

Storage only: the client draws, makes the worksheet and works out what follows. Writes take the connection of
a `Store.write` and are safe to repeat. A label is never changed: the next one of the same labeller on the
same task stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
import pyarrow as pa
from duckdb import DuckDBPyConnection

from .appending import append_new
from .store import Row, Store, matching

_DRAW: Final = ("draw_id", "control_run", "candidate_run", "evaluator", "seed", "size", "declared_by")
_SHEET: Final = (
    "control_run", "candidate_run", "evaluator", "set_name", "seed", "needed", "open", "items",
)  # fmt: skip
_LABELS: Final = pa.schema(
    [
        *(
            (name, pa.string())
            for name in (
                "label_id", "task", "labeller", "grade", "note", "set_name", "item_id", "item_hash",
                "evaluator", "evaluator_version", "judge", "criterion", "draw_id",
            )
        ),
        ("at", pa.timestamp("us")),
    ]
)  # fmt: skip


def declare(connection: DuckDBPyConnection, draw: Mapping[str, Any], *, at: datetime) -> bool:
    """Enter a draw; False if its id is there already, or one of these runs and this check that it does not
    enlarge, and then nothing is changed."""
    found = connection.execute(
        """
        INSERT INTO label_draws
            (draw_id, control_run, candidate_run, evaluator, seed, size, declared_by, "at")
        SELECT $draw_id, $control_run, $candidate_run, $evaluator, $seed, $size, $declared_by, $at
        WHERE NOT EXISTS (
            SELECT 1 FROM label_draws
            WHERE control_run = $control_run AND candidate_run = $candidate_run AND evaluator = $evaluator
                AND (seed <> $seed OR size >= $size))
        ON CONFLICT DO NOTHING RETURNING draw_id
        """,
        {name: draw[name] for name in _DRAW} | {"at": at},
    ).fetchall()
    return bool(found)


def draws(
    store: Store,
    *,
    draw_id: str | None = None,
    control_run: str | None = None,
    candidate_run: str | None = None,
    evaluator: str | None = None,
) -> list[Row]:
    """Draws, in the order in which they were declared. None means any."""
    wanted, values = matching(
        draw_id=draw_id, control_run=control_run, candidate_run=candidate_run, evaluator=evaluator
    )
    return store.read(f"SELECT * FROM label_draws WHERE {wanted} ORDER BY rowid", values)


def keep_worksheet(connection: DuckDBPyConnection, sheet: Mapping[str, Any], *, at: datetime) -> None:
    """Keep what people may be asked about two runs by one check, in the place of what was kept of it."""
    connection.execute(
        """
        INSERT OR REPLACE INTO label_worksheets
            (control_run, candidate_run, evaluator, set_name, seed, needed, open_items, items,
             tasks, "at")
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [*(sheet[name] for name in _SHEET), orjson.dumps(sheet["tasks"]).decode(), at],
    )


def worksheet(store: Store, *, control_run: str, candidate_run: str, evaluator: str) -> Row | None:
    """What people may be asked about two runs by one check, None if nobody has handed it in."""
    rows = store.read(
        """
        SELECT * EXCLUDE (open_items, tasks), open_items AS "open", tasks FROM label_worksheets
        WHERE control_run = ? AND candidate_run = ? AND evaluator = ?
        """,
        [control_run, candidate_run, evaluator],
    )
    return rows[0] | {"tasks": orjson.loads(rows[0]["tasks"])} if rows else None


def add_labels(connection: DuckDBPyConnection, labels: Sequence[Mapping[str, Any]], *, at: datetime) -> int:
    """Append labels; how many were new. One whose id is there already stays as it is."""
    rows = [{**label, "at": at} for label in labels]
    return append_new(connection, "human_labels", _LABELS, rows, key=("label_id",))


def labels(
    store: Store, *, set_name: str | None = None, evaluator: str | None = None, limit: int = 100_000
) -> list[Row]:
    """What each labeller said last of each task, in the order in which it was said. None means any."""
    wanted, values = matching(set_name=set_name, evaluator=evaluator)
    return store.read(
        f"""
        SELECT * EXCLUDE (number) FROM human_labels WHERE {wanted}
        QUALIFY row_number() OVER (PARTITION BY task, labeller ORDER BY number DESC) = 1
        ORDER BY number LIMIT $limit
        """,
        values | {"limit": limit},
    )
