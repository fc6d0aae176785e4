"""What may go?

Bodies go by age and by size, per model, the oldest first. The numbers of an exchange stay: they are small,
and a verdict must be computable again. How the bodies came to be kept is `recording`'s business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from duckdb import DuckDBPyConnection

from .decisions import set_setting, setting
from .recording import RecordingPolicy
from .store import Store, instant, one_number

#: A segment's name is needed until its file is deleted, as a rule a moment after the commit.
_SEGMENT_LIFE_NS: Final = 30 * 86_400 * 10**9

#: A clock that is ahead by more than is a fault, a machine that slept, or a controller that was away: nothing
#: goes by it until it has said so for as long.
_IMPLAUSIBLE_NS: Final = 3600 * 10**9
_SEEN: Final = "retention_now_ns"

log = logging.getLogger("turnout.controller")

_TOO_MUCH: Final = """
    SELECT max(started_at) FROM (
        SELECT started_at, sum(bytes) OVER (ORDER BY started_at DESC, exchange_id) AS newer
        FROM bodies WHERE model = $model)
    WHERE newer > $bytes
"""


class Retention:
    """Prunes by a clock that it does not believe at once: what is deleted does not come back."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._at: float | None = None
        self._now_ns = 0
        self._doubted_at: float | None = None

    def prune(
        self, policies: Mapping[str, RecordingPolicy], *, now_ns: int, stuck: Collection[str] = ()
    ) -> dict[str, int]:
        """As `prune`; where the clock has jumped ahead, for an hour as if it had gone on."""
        believed_ns = self._believed(now_ns)
        gone = prune(self._store, policies, now_ns=believed_ns, stuck=stuck)
        self._store.write(lambda connection: set_setting(connection, _SEEN, str(believed_ns)))
        return gone

    def _believed(self, now_ns: int) -> int:
        at = self._clock()
        if self._at is None:  # the last controller's word; how long it was away nobody knows
            self._at, self._now_ns = at, int(setting(self._store, _SEEN) or now_ns)
        going_on_ns = self._now_ns + round((at - self._at) * 1e9)
        self._at = at
        if now_ns - going_on_ns <= _IMPLAUSIBLE_NS:
            self._doubted_at = None
            self._now_ns = now_ns
            return now_ns
        if self._doubted_at is None:
            self._doubted_at = at
            log.warning(
                "the clock is %.0f h ahead of what it was when bodies were last deleted: none is deleted by"
                " it until it has said so for an hour", (now_ns - going_on_ns) / 3.6e12,
            )  # fmt: skip
        if (at - self._doubted_at) * 1e9 >= _IMPLAUSIBLE_NS:
            self._doubted_at, going_on_ns = None, now_ns
        self._now_ns = going_on_ns
        return going_on_ns


def prune(
    store: Store, policies: Mapping[str, RecordingPolicy], *, now_ns: int, stuck: Collection[str] = ()
) -> dict[str, int]:
    """Delete what the policies no longer keep; how many bodies went, per model that lost any.

    `stuck` names the segments whose files are still there: without their names they would be read again.
    """
    gone: dict[str, int] = {}
    for model, policy in policies.items():
        if policy.keep_s is None and policy.keep_bytes is None:
            continue
        count = store.write(_pruning(model, policy, now_ns))
        if count:
            gone[model] = count
    forgotten = instant(now_ns - _SEGMENT_LIFE_NS)
    sql = "DELETE FROM segments WHERE collected_at < ? AND NOT list_contains(?::VARCHAR[], name)"
    store.write(lambda connection: connection.execute(sql, [forgotten, list(stuck)]))
    return gone


def _pruning(model: str, policy: RecordingPolicy, now_ns: int) -> Callable[[DuckDBPyConnection], int]:
    """The change that prunes one model and counts what went."""

    def change(connection: DuckDBPyConnection) -> int:
        deleted = 0
        if policy.keep_s is not None:
            oldest = instant(now_ns - round(policy.keep_s * 1e9))
            sql = "DELETE FROM bodies WHERE model = ? AND started_at < ?"
            deleted += one_number(connection, sql, [model, oldest])
        if policy.keep_bytes is not None:
            row = connection.execute(_TOO_MUCH, {"model": model, "bytes": policy.keep_bytes}).fetchone()
            if row and row[0] is not None:
                sql = "DELETE FROM bodies WHERE model = ? AND started_at <= ?"
                deleted += one_number(connection, sql, [model, row[0]])
        return deleted

    return change
