"""What have a worker's copies of one experiment used up, and is there room for another?

Caps in copies and bytes are about now, those in tokens and money about all copies since the worker first
saw the experiment. The controller adds up over all workers and pauses the experiment; what stands here
holds where no controller does.
"""

from __future__ import annotations

import re
from typing import Final

from experiments.snapshot import Mirror

#: The second pair are the names of responses and messages.
_COUNTS: Final = re.compile(rb'"(prompt|completion|input|output)_tokens"\s*:\s*(\d{1,12})')
#: Token counts stand at the end of an answer.
_TAIL: Final = 4096
#: Where an engine does not say: English has about four characters a token.
_BYTES_PER_TOKEN: Final = 4
_MILLION: Final = 1_000_000

#: How long no copy is sent after a 429 that does not say it; twice as long each time, until one is answered.
_REST_SECONDS: Final = 1.0
_REST_AT_MOST: Final = 60.0
#: One that says more (a day's quota) is asked again after so long all the same: it costs nothing.
_ASKED_AT_MOST: Final = 3600.0


class Allowance:
    """One experiment's use. Money is in millionths of the currency."""

    __slots__ = ("_rest", "_rests_until", "bytes", "cost", "in_flight", "tokens")

    def __init__(self) -> None:
        self._rest = _REST_SECONDS
        self._rests_until = 0.0
        self.in_flight = 0
        self.bytes = 0
        self.tokens = 0
        self.cost = 0

    def refusal(self, mirror: Mirror, size: int) -> str | None:
        """Why a copy of `size` bytes may not be sent now; None if it may."""
        if self.in_flight >= mirror.max_in_flight:
            return "experiment_in_flight"
        if self.bytes + size > mirror.max_bytes:
            return "experiment_bytes"
        if mirror.max_tokens and self.tokens >= mirror.max_tokens:
            return "experiment_tokens"
        if mirror.max_cost and self.cost >= mirror.max_cost:
            return "experiment_cost"
        return None

    def rests_for(self, now: float) -> float:
        """For how many seconds more no copy is to be sent, since the last one was too many."""
        return max(0.0, self._rests_until - now)

    def limited(self, now: float, asked: float) -> None:
        """A copy was answered with 429, which asks for so many seconds (0: it does not say)."""
        if not asked and self._rests_until > now:
            return  # one of those that were under way at the first of them
        if not asked:
            asked, self._rest = self._rest, min(2 * self._rest, _REST_AT_MOST)
        self._rests_until = max(self._rests_until, now + min(asked, _ASKED_AT_MOST))

    def answered(self) -> None:
        """A copy has got its answer."""
        self._rest = _REST_SECONDS

    def spend(self, mirror: Mirror, request: int, answer: bytes) -> None:
        """Book an answer. `request` is the copy's size; it stands in where the engine did not count."""
        found = {name: int(number) for name, number in _COUNTS.findall(answer[-_TAIL:])}
        prompt = found.get(b"prompt", found.get(b"input"))
        completion = found.get(b"completion", found.get(b"output"))
        if completion is None:  # of vectors only the prompt is counted: nothing was generated
            completion = len(answer) // _BYTES_PER_TOKEN if prompt is None else 0
        if prompt is None:
            prompt = request // _BYTES_PER_TOKEN
        self.tokens += prompt + completion
        self.cost += (prompt * mirror.prompt_price + completion * mirror.completion_price) // _MILLION
