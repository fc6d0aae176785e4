"""What is kept of an answer while it passes, and what does its row say of how it ended?"""

from __future__ import annotations

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
    """The pieces of one answer and when they came, as far as they are kept.

    Where there is no room for more, by itself or within the worker's budget, what follows is not kept.
    """

    __slots__ = ("_budget", "_limit", "_parts", "_size", "_started", "clipped", "ends", "times")

    def __init__(self, started: int, limit: int, budget: Budget) -> None:
        self._started = started
        self._limit = limit
        self._budget = budget
        self._parts: list[bytes] = []
        self._size = 0
        self.times: list[int] = []
        self.ends: list[int] = []
        self.clipped = False

    def add(self, data: bytes, came: int) -> None:
        """What one read has brought of the body, and when, by `time.monotonic_ns`."""
        if not data:
            return
        size = self._size + len(data)
        if size > self._limit or self.clipped or not self._budget.take(len(data)):
            self.clipped = True
            return
        self._size = size
        self._parts.append(data)
        self.times.append(min((came - self._started) // 1000, _LATEST_US))
        self.ends.append(size)

    def settle(self, record: ExchangeRecord) -> None:
        """Put into the record what was kept, and hold it no more."""
        parts = self._parts
        record.clipped = self.clipped
        record.response = parts[0] if len(parts) == 1 else b"".join(parts)
        record.chunk_us, record.chunk_ends = tuple(self.times), tuple(self.ends)
        self.forget()

    def forget(self) -> None:
        """Hold nothing any more: an attempt that was given up."""
        self._budget.give(self._size)
        self._parts, self._size = [], 0


def keep_whole(record: ExchangeRecord, body: bytes, limit: int) -> None:
    """Put into the record an answer that came whole, in one read: at the instant of its first byte."""
    size = len(body)
    if size > limit:
        record.clipped = True
    elif size:
        came = record.first_byte_us or 0
        record.response = body
        record.chunk_us = (came if came < _LATEST_US else _LATEST_US,)
        record.chunk_ends = (size,)
