"""How fast is a judge asked, and how often again, when it is overloaded or away?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from evaluators.errors import ModelUnavailable
from evaluators.pacing import PATIENT, Pace, Retry, Sign

T = TypeVar("T")


class Again(Exception):
    """An attempt that failed as another one may not. `sign` is what the pace learns of it."""

    def __init__(self, why: str, sign: Sign, retry_after: str | None = None) -> None:
        super().__init__(why)
        self.sign, self.retry_after = sign, retry_after


class Attempts:
    """At most `concurrency` attempts at a time, fewer while the judge says 429 or 503."""

    def __init__(self, concurrency: int, retry: Retry | None) -> None:
        self._pace = Pace(concurrency)
        self._retry, self._jitter = retry or PATIENT, Random()

    @property
    def lowest_concurrency(self) -> int:
        """How many attempts the judge bore at a time when it bore the fewest."""
        return self._pace.lowest

    async def make(self, once: Callable[[], Awaitable[T]]) -> T:
        """What `once` answers, as soon as it does not raise Again. Raises ModelUnavailable after the last
        attempt, and whatever else `once` raises at once."""
        attempt = 1
        while True:
            async with self._pace as turn:
                try:
                    found = await once()
                except Again as again:
                    self._pace.note(turn, again.sign)
                    if attempt >= self._retry.attempts:
                        raise ModelUnavailable(str(again)) from again
                    retry_after = again.retry_after
                else:
                    self._pace.note(turn, "answered")
                    return found
            attempt += 1
            await asyncio.sleep(self._retry.wait_s(attempt, retry_after, self._jitter))
