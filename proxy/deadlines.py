"""Who has waited for too long? One timer for everything that waits, instead of one each.

Setting and lifting a deadline is then an assignment, which matters where it happens several times per
request. The price is that a deadline may strike up to one tick early, never late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Protocol


class Waiter(Protocol):
    """What may wait for something. `due` is an instant of `time.monotonic`, infinity while there is none."""

    due: float

    def overdue(self, now: float) -> None: ...


class Deadlines:
    """Looks at all of `waiters` every `tick` seconds, until closed."""

    def __init__(self, waiters: Iterable[Waiter], tick: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters = waiters
        self._tick = tick
        self._timer = self._loop.call_later(tick, self._look)

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._tick, self._look)
        now = monotonic()
        horizon = now + self._tick
        for waiter in [waiter for waiter in self._waiters if waiter.due <= horizon]:
            waiter.overdue(now)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()


def tick_for(*patiences: float) -> float:
    """How often to look, so that the shortest patience is kept within an eighth."""
    return max(0.005, min(0.5, min(patiences) / 8))
