"""How many questions may be in flight now, how often may one be asked again, and what may a run spend?

Additive increase, multiplicative decrease (Chiu and Jain 1989): an engine that says 429 or 503 gets half as
many questions at a time, once for all that were under way; each round of answers then allows one more. An
engine that fails otherwise gets no more than before, for it may be failing for the load. No clock.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Final, Literal

Sign = Literal["answered", "overloaded", "failed"]

_CUT: Final = 0.5


class Pace:
    """At most `most` questions in flight, fewer while the engine is overloaded. `async with pace as turn:`
    takes a place; `pace.note(turn, sign)` says how it went."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turn = 0
        self._cut_at = 0  # turns begun before it were under way when the limit was last cut
        self._pause = 0  # so many answers more before it grows again
        self.lowest = most

    @property
    def limit(self) -> int:
        """How many may be in flight now."""
        return int(self._limit)

    async def __aenter__(self) -> int:
        while self._in_flight >= self.limit:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._wake()  # the place was given to a task that is gone
                raise
        self._in_flight += 1
        self._turn += 1
        return self._turn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_flight -= 1
        self._wake()

    def note(self, turn: int, sign: Sign) -> None:
        """How the attempt of this turn went."""
        if sign == "overloaded":
            if turn > self._cut_at:
                self._limit = max(1.0, self._limit * _CUT)
                self._cut_at = self._turn
                self.lowest = min(self.lowest, self.limit)
            self._pause = self.limit
        elif sign == "failed":
            self._pause = self.limit
        elif self._pause:
            self._pause -= 1
        elif self._limit < self._most:
            self._limit = min(float(self._most), self._limit + 1.0 / self._limit)
            self._wake()

    def _wake(self) -> None:
        free = self.limit - self._in_flight
        while free > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how long to wait after 429, 503 and broken connections. Times are seconds."""

    attempts: int = 4
    first_wait_s: float = 0.25
    longest_wait_s: float = 10.0

    def wait_s(self, attempt: int, retry_after: str | None, jitter: Random) -> float:
        """The pause before attempt number `attempt` (from 2): what the engine asks for, else doubling."""
        doubled: float = self.first_wait_s * 2 ** (attempt - 2) * jitter.uniform(0.5, 1.0)
        try:
            asked = float(retry_after) if retry_after else 0.0
        except ValueError:  # an HTTP date: rare enough to be answered with our own pace
            asked = 0.0
        return min(max(doubled, asked), self.longest_wait_s)


#: Providers count requests by the minute: judges and probes wait longer than a question to an engine.
PATIENT: Final = Retry(attempts=6, longest_wait_s=60.0)


class Retries:
    """A budget for all of a run: `floor`, and `share` of the attempts. An engine that is down is thus asked
    little more often than one that is up."""

    def __init__(self, *, floor: int = 50, share: float = 0.5) -> None:
        self._floor, self._share = floor, share
        self._attempts = self._spent = 0

    def attempted(self) -> None:
        """One more attempt was made."""
        self._attempts += 1

    def take(self) -> bool:
        """Whether one more may be repeated; if so, it is taken from the budget."""
        if self._spent >= self._floor + self._share * self._attempts:
            return False
        self._spent += 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars for a million tokens of the version under test, in and out."""

    usd_per_million_input: float = 0.0
    usd_per_million_output: float = 0.0

    def of(self, usage: object) -> float:
        """What an answer cost by the usage that the engine reports; 0 for none."""
        if not isinstance(usage, dict):
            return 0.0
        sent, made = (_tokens(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        return (sent * self.usd_per_million_input + made * self.usd_per_million_output) / 1e6


def _tokens(value: object) -> float:
    """A count as engines give it; 0 for what is none."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    return float(value) if known else 0.0  # type: ignore[arg-type]


FREE: Final = Prices()
