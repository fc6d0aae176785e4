"""What is kept of an answer while it passes, and what does its row say of how it ended?"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from experiments.ledger.exchange import ExchangeRecord, Outcome

from .limits import Budget

#: Statuses that say "not now": they are failures of the arm, and another may do better.
_OVERLOADED: Final = (429, 503)

#: Chunk times travel as 32 bits: after 71 minutes they stand still.
_LATEST_US: Final = (1 << 32) - 1
#: So much of the budget is taken ahead for an answer that comes in small pieces.
_ROOM_BYTES: Final = 4 << 10


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

    __slots__ = ("_budget", "_came", "_held", "_limit", "_parts", "_size", "_started", "clipped")

    def __init__(self, started: int, limit: int, budget: Budget) -> None:
        self._started = started
        self._limit = limit
        self._budget = budget
        self._parts: list[bytes] = []
        self._size = 0
        self._held = 0  # of the budget: the size, rounded up
        self._came: list[int] = []
        self.clipped = False

    def add(self, data: bytes, came: int) -> None:
        """What one read has brought of the body, and when, by `time.monotonic_ns`."""
        if not data:
            return
        size = self._size + len(data)
        if self.clipped or (size > self._held and not self._hold(size)):
            self.clipped = True
            return
        self._size = size
        self._parts.append(data)
        self._came.append(came)

    def _hold(self, size: int) -> bool:
        """Whether there is room for so many bytes in all. Events are small: room is taken for several."""
        if size > self._limit:
            return False
        for room in (min(size + _ROOM_BYTES, self._limit), size):
            if self._budget.take(room - self._held):
                self._held = room
                return True
        return False

    def settle(self, record: ExchangeRecord) -> None:
        """Put into the record what was kept, and hold it no more."""
        parts, started = self._parts, self._started
        record.clipped = self.clipped
        record.response = parts[0] if len(parts) == 1 else b"".join(parts)
        times = [(came - started) // 1000 for came in self._came]
        if times and times[-1] > _LATEST_US:
            times = [min(time, _LATEST_US) for time in times]
        record.chunk_us, record.chunk_ends = tuple(times), tuple(accumulate(map(len, parts)))
        self.forget()

    def forget(self) -> None:
        """Hold nothing any more: an attempt that was given up."""
        self._budget.give(self._held)
        self._parts, self._came, self._size, self._held = [], [], 0, 0


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
