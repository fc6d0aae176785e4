"""Which preflights were made, and what do evaluators say of recorded exchanges?

Storage only: evaluators work out what is stored, outside. Writes take the connection of a `Store.write` and
are safe to repeat. A score is of an exchange by an evaluator in a version: a new judge makes new rows, and
the old ones stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
import pyarrow as pa
from duckdb import DuckDBPyConnection

from .appending import append_new
from .schema import NEWEST_EVALUATION, NEXT_EVALUATION
from .store import Row, Store, matching

_TEXT: Final = pa.string()
_SCORES: Final = pa.schema(
    [
        ("exchange_id", _TEXT), ("evaluator", _TEXT), ("evaluator_version", _TEXT), ("status", _TEXT),
        ("value", pa.float64()), ("label", _TEXT), ("explanation", _TEXT), ("cost_usd", pa.float64()),
        ("tokens", pa.int64()), ("latency_ms", pa.float64()), ("at", pa.timestamp("us")),
    ]
)  # fmt: skip

#: An exchange is in the sample if its number, drawn from a hash of its id, lies below the rate: the same
#: exchanges for every evaluator, whoever asks and however often. The mirrored half of a pair waits until the
#: other half is there with its body; what either of them failed at is counted by the experiment, for a pair
#: of which only the control's failures were left in would speak for the candidate.
_PENDING: Final = """
    SELECT e.exchange_id, e.pair_id, e.role, e.experiment, e.assigned_arm, e.served_version, e.started_at
    FROM exchanges e JOIN bodies b ON b.exchange_id = e.exchange_id
    WHERE e.model = $model AND e.origin IN ('live', 'replay') AND e.role = $role
        AND e.outcome IN ('complete', 'length') AND b.request IS NOT NULL AND NOT b.clipped
        AND ($since IS NULL OR e.started_at >= CAST($since AS TIMESTAMP))
        AND CAST('0x' || substr(md5('score:' || coalesce(e.pair_id, e.exchange_id)), 1, 8) AS BIGINT)
            < $rate * 4294967296
        AND ($role = 'primary' OR EXISTS (
            SELECT 1 FROM exchanges p JOIN bodies pb ON pb.exchange_id = p.exchange_id
            WHERE p.exchange_id = e.pair_id AND p.outcome IN ('complete', 'length')
                AND pb.request IS NOT NULL AND NOT pb.clipped))
        AND NOT EXISTS (
            SELECT 1 FROM scores s WHERE s.exchange_id = e.exchange_id
                AND s.evaluator = $evaluator AND s.evaluator_version = $version)
    ORDER BY e.started_at DESC, e.exchange_id LIMIT $limit
"""


def save_preflight(connection: DuckDBPyConnection, preflight: Mapping[str, Any], *, at: datetime) -> bool:
    """Enter a preflight; False if its id is there already, and then nothing is changed."""
    names = ("preflight_id", "model", "control_version", "candidate_version", "verdict")
    found = connection.execute(
        f"""
        INSERT INTO preflights
            (preflight_id, model, control_version, candidate_version, verdict, "at", result, number)
        VALUES (?, ?, ?, ?, ?, ?, ?, {NEXT_EVALUATION}) ON CONFLICT DO NOTHING RETURNING preflight_id
        """,
        [*(preflight[name] for name in names), at, orjson.dumps(preflight["result"]).decode()],
    ).fetchall()
    return bool(found)


def latest_preflights(store: Store, model: str) -> list[Row]:
    """Of each version of the model that had a preflight, the last one, in brief."""
    return store.read(
        f"""
        SELECT candidate_version, control_version, verdict FROM preflights WHERE model = ? QUALIFY
            row_number() OVER (PARTITION BY candidate_version ORDER BY {NEWEST_EVALUATION}, preflight_id) = 1
        """,
        [model],
    )


def latest_fingerprints(store: Store) -> dict[tuple[str, int], str]:
    """What the last preflight that could tell found a version to be, on either side; by model and version."""
    rows = store.read(
        f"""
        SELECT model, version, print FROM (
            SELECT model, control_version AS version, "at", number, preflight_id,
                json_extract_string(result, '$.control_fingerprint') AS print FROM preflights
            UNION ALL SELECT model, candidate_version, "at", number, preflight_id,
                json_extract_string(result, '$.candidate_fingerprint') FROM preflights)
        WHERE print IS NOT NULL
        QUALIFY
            row_number() OVER (PARTITION BY model, version ORDER BY {NEWEST_EVALUATION}, preflight_id) = 1
        """
    )
    return {(row["model"], row["version"]): row["print"] for row in rows}


def preflights(
    store: Store,
    *,
    model: str | None = None,
    control_version: int | None = None,
    candidate_version: int | None = None,
    preflight_id: str | None = None,
    limit: int = 100,
) -> list[Row]:
    """Preflights, newest first. None means any."""
    wanted, values = matching(
        model=model,
        control_version=control_version,
        candidate_version=candidate_version,
        preflight_id=preflight_id,
    )
    rows = store.read(
        f"SELECT * EXCLUDE (number) FROM preflights WHERE {wanted}"
        f" ORDER BY {NEWEST_EVALUATION}, preflight_id LIMIT $limit",
        values | {"limit": limit},
    )
    return [row | {"result": orjson.loads(row["result"])} for row in rows]


def pending(
    store: Store,
    *,
    model: str,
    evaluator: str,
    version: str,
    rate: float,
    role: str = "primary",
    since: datetime | None = None,
    limit: int = 100,
) -> list[Row]:
    """Sampled exchanges with a body that this version of the evaluator has no score of, newest first. A pair
    is sampled as one: both of its exchanges, or neither."""
    return store.read(
        _PENDING,
        {
            "model": model,
            "evaluator": evaluator,
            "version": version,
            "rate": rate,
            "role": role,
            "since": since,
            "limit": limit,
        },
    )


def add_scores(connection: DuckDBPyConnection, scores: Sequence[Mapping[str, Any]], *, at: datetime) -> int:
    """Append scores; how many were new. One that is there already stays as it is.

    Words about a body that has gone (its unit was forgotten while a judge read it) are not kept.
    """
    rows = [{**score, "at": at} for score in scores]
    with_body = _with_body(connection, [row["exchange_id"] for row in rows if row.get("explanation")])
    for row in rows:
        if row["exchange_id"] not in with_body:
            row["explanation"] = None
    key = ("exchange_id", "evaluator", "evaluator_version")
    return append_new(connection, "scores", _SCORES, rows, key=key)


def _with_body(connection: DuckDBPyConnection, exchanges: Sequence[str]) -> set[str]:
    """Those of which the request or the answer is kept."""
    if not exchanges:
        return set()
    query = "SELECT exchange_id FROM bodies WHERE exchange_id IN (SELECT unnest(?))"
    return {name for (name,) in connection.execute(query, [list(exchanges)]).fetchall()}


def scores(
    store: Store, *, exchange_id: str | None = None, evaluator: str | None = None, limit: int = 100
) -> list[Row]:
    """Scores, newest first. None means any."""
    wanted, values = matching(exchange_id=exchange_id, evaluator=evaluator)
    return store.read(
        f"SELECT * FROM scores WHERE {wanted}"
        ' ORDER BY "at" DESC, exchange_id, evaluator, evaluator_version LIMIT $limit',
        values | {"limit": limit},
    )


def spent(store: Store, *, evaluator: str, since: datetime) -> Row:
    """What an evaluator's scores since then have cost: `scores` and `cost_usd`, all its versions together."""
    rows = store.read(
        """
        SELECT count(*) AS scores, coalesce(sum(cost_usd), 0.0) AS cost_usd FROM scores
        WHERE evaluator = ? AND "at" >= ?
        """,
        [evaluator, since],
    )
    return rows[0]


def summary(store: Store, *, model: str) -> list[Row]:
    """By evaluator, its version and the served version: how many of each status, the mean of the scored; how
    many replies of a judge were no verdict, what it cost, and its median time in milliseconds."""
    return store.read(
        """
        SELECT s.evaluator, s.evaluator_version, e.served_version AS version, count(*) AS n,
            count(*) FILTER (WHERE s.status = 'scored') AS scored,
            count(*) FILTER (WHERE s.status = 'error') AS errors,
            count(*) FILTER (WHERE s.label = 'unparseable') AS unparseable,
            avg(s.value) FILTER (WHERE s.status = 'scored') AS mean, sum(s.cost_usd) AS cost_usd,
            median(s.latency_ms) AS latency_p50_ms
        FROM scores s JOIN exchanges e ON e.exchange_id = s.exchange_id
        WHERE e.model = ? GROUP BY ALL ORDER BY 1, 2, 3
        """,
        [model],
    )
