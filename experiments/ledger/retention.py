"""What may go?

Bodies go by age and by size, per model, the oldest first. The numbers of an exchange stay: they are small,
and a verdict must be computable again. How the bodies came to be kept is `recording`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from duckdb import DuckDBPyConnection

from .recording import RecordingPolicy
from .store import Store, instant

#: A segment's name is needed until its file is deleted, a moment after the commit.
_SEGMENT_LIFE_NS: Final = 30 * 86_400 * 10**9

_TOO_MUCH: Final = """
    SELECT max(started_at) FROM (
        SELECT started_at, sum(bytes) OVER (ORDER BY started_at DESC, exchange_id) AS newer
        FROM bodies WHERE model = $model)
    WHERE newer > $bytes
"""


def prune(store: Store, policies: Mapping[str, RecordingPolicy], *, now_ns: int) -> dict[str, int]:
    """Delete what the policies no longer keep; how many bodies went, per model that lost any."""
    gone: dict[str, int] = {}
    for model, policy in policies.items():
        if policy.keep_s is None and policy.keep_bytes is None:
            continue
        count = store.write(_pruning(model, policy, now_ns))
        if count:
            gone[model] = count
    forgotten = instant(now_ns - _SEGMENT_LIFE_NS)
    store.write(
        lambda connection: connection.execute("DELETE FROM segments WHERE collected_at < ?", [forgotten])
    )
    return gone


def _pruning(model: str, policy: RecordingPolicy, now_ns: int) -> Callable[[DuckDBPyConnection], int]:
    """The change that prunes one model and counts what went."""

    def change(connection: DuckDBPyConnection) -> int:
        deleted = 0
        if policy.keep_s is not None:
            oldest = instant(now_ns - round(policy.keep_s * 1e9))
            sql = "DELETE FROM bodies WHERE model = ? AND started_at < ?"
            deleted += _delete(connection, sql, model, oldest)
        if policy.keep_bytes is not None:
            row = connection.execute(_TOO_MUCH, {"model": model, "bytes": policy.keep_bytes}).fetchone()
            if row and row[0] is not None:
                sql = "DELETE FROM bodies WHERE model = ? AND started_at <= ?"
                deleted += _delete(connection, sql, model, row[0])
        return deleted

    return change


def _delete(connection: DuckDBPyConnection, sql: str, model: str, until: object) -> int:
    row = connection.execute(sql, [model, until]).fetchone()
    return int(row[0]) if row else 0
