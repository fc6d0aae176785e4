"""What is kept of an answer while it passes, and what does its row say of how it ended?"""

from __future__ import annotations

from time import monotonic_ns
from typing import Final

from experiments.ledger.exchange import ExchangeRecord, Outcome

from .limits import Budget

#: Statuses that say "not now": they are failures of the arm, and another may do better.
_OVERLOADED: Final = (429, 503)

#: Chunk times travel as 32 bits: after 71 minutes they stand still.
_LATEST_US: Final = (1 << 32) - 1


def outcome_of(status: int) -> Outcome:
    """What a status alone says; the collector reads the body and knows better."""
    if status < 400:
        return "complete"
    if status in _OVERLOADED:
        return "overloaded"
    return "upstream_error" if status >= 500 else "upstream_rejected"


class Recording:
    """The bytes and times of one answer, as far as they are kept. `started` is of `time.monotonic_ns`.

    Where there is no room for more, by itself or within the worker's budget, what follows is not kept.
    """

    __slots__ = ("_budget", "_limit", "_parts", "_size", "_started", "ends", "record", "times")

    def __init__(self, record: ExchangeRecord, started: int, limit: int, budget: Budget) -> None:
        self._limit = limit
        self._budget = budget
        self._size = 0
        self._started = started
        self.record = record
        self.restart()

    def restart(self) -> None:
        """Forget the bytes of an attempt that was given up."""
        self._budget.give(self._size)
        self._parts: list[bytes] = []
        self._size = 0
        self.times: list[int] = []
        self.ends: list[int] = []
        self.record.clipped = False

    def elapsed_us(self) -> int:
        """Microseconds since the request had come."""
        return (monotonic_ns() - self._started) // 1000

    def add(self, data: bytes) -> None:
        """What one read has brought of the body."""
        if not data:
            return
        size = self._size + len(data)
        if size > self._limit or self.record.clipped or not self._budget.take(len(data)):
            self.record.clipped = True
            return
        self._size = size
        self._parts.append(data)
        self.times.append(min((monotonic_ns() - self._started) // 1000, _LATEST_US))
        self.ends.append(size)

    def finish(self, outcome: Outcome, code: str | None) -> ExchangeRecord:
        """The record, filled in."""
        record, parts = self.record, self._parts
        self._budget.give(self._size)
        self._size = 0
        record.outcome, record.error_code = outcome, code or record.error_code
        record.duration_us = self.elapsed_us()
        record.response = parts[0] if len(parts) == 1 else b"".join(parts)
        record.chunk_us, record.chunk_ends = tuple(self.times), tuple(self.ends)
        return record
