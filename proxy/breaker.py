"""When does a worker stop sending a candidate's units to it, because nothing at all succeeds there?

No statistics: a run of failures without a single success, or answers that do not begin. It opens within
`breaker_failures` requests, without asking anybody; the controller learns of it from the rows. An open
breaker closes when one of the copies succeeds with which `probing` asks the candidate again. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from itertools import islice
from typing import Final

from experiments.ledger.exchange import FAILURES, Outcome

from .limits import Limits

#: What the row of a unit says that was sent to control because of an open breaker.
OPEN: Final = "breaker_open"
#: Who waits so long for an answer to begin and then leaves has been failed; who leaves sooner has changed its
#: mind.
_GIVEN_UP_SECONDS: Final = 5.0
#: A refusal that the engine's address or name is to blame for, not the client's request.
_MISDIRECTED: Final = (401, 403, 404)

#: A candidate in a phase: experiment, phase, version.
Key = tuple[str, int, int]


def failed(outcome: Outcome, status: int) -> bool:
    """Whether this end is the candidate's failure. What a client asked wrongly is not."""
    if outcome == "upstream_rejected":
        return status in _MISDIRECTED
    return outcome in FAILURES


class Breaker:
    """What a worker knows of one candidate in one phase. `who` stands for a request, by identity."""

    __slots__ = (
        "_clock", "_limit", "_probe_at", "_probe_s", "_stall_s", "_waiting", "cause", "failures", "is_open",
    )  # fmt: skip

    def __init__(self, *, limit: int, stall_s: float, probe_s: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._stall_s = stall_s
        self._probe_s = probe_s
        self._clock = clock
        self._waiting: dict[object, float] = {}
        self._probe_at = 0.0
        self.failures = 0
        self.is_open = False
        #: what the last failure was: a status, or how the request ended
        self.cause = ""

    def admits(self, who: object) -> bool:
        """Whether a request may go to the candidate; it is then waited for until `excused` or `ended`."""
        now = self._clock()
        if not self.is_open and len(self._waiting) + self.failures >= self._limit:
            need = self._limit - self.failures
            oldest = next(islice(self._waiting.values(), max(need - 1, 0), None), now)
            if oldest <= now - self._stall_s:
                self._open()
        if self.is_open:
            return False
        self._waiting[who] = now
        return True

    def excused(self, who: object) -> None:
        """An answer that is no failure has begun, and may take its time now; or the request says nothing of
        the candidate."""
        self._waiting.pop(who, None)

    def ended(self, who: object, outcome: Outcome, status: int, code: str | None = None) -> None:
        """How a request ended that was admitted."""
        now = self._clock()
        waited = now - self._waiting.pop(who, now)
        given_up = outcome == "client_gone" and waited >= min(_GIVEN_UP_SECONDS, self._stall_s)
        if given_up or failed(outcome, status):
            self.failures += 1
            self.cause = code or (f"status {status}" if status >= 400 else outcome)
            if self.failures >= self._limit and not self.is_open:
                self._open()
        elif outcome in ("complete", "length"):
            self.failures = 0
            self.is_open = False

    def wants_probe(self) -> bool:
        """Whether it is time to ask the candidate again; the next time is then a while away."""
        now = self._clock()
        if not self.is_open or now < self._probe_at:
            return False
        self._probe_at = now + self._probe_s
        return True

    def _open(self) -> None:
        self.is_open = True
        self._probe_at = self._clock() + self._probe_s


class Breakers:
    """A breaker for each candidate and phase that anything was sent to."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._closed = partial(
            Breaker,
            limit=limits.breaker_failures,
            stall_s=limits.breaker_stall_seconds,
            probe_s=limits.breaker_probe_seconds,
            clock=clock,
        )
        self._known: dict[Key, Breaker] = {}

    def of(self, key: Key) -> Breaker:
        """The breaker of a candidate; a closed one if it is new."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._closed()
        return found

    def keep(self, keys: Container[Key]) -> None:
        """Forget all others."""
        self._known = {key: breaker for key, breaker in self._known.items() if key in keys}

    def open_ones(self) -> list[str]:
        """The experiments whose candidate gets nothing from this worker."""
        return sorted({name for (name, _, _), breaker in self._known.items() if breaker.is_open})
