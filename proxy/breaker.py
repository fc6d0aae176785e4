"""When does a worker stop sending a candidate's units to it, because nothing at all succeeds there?

No statistics: a run of failures without a single success, or answers that do not begin. It opens within
`breaker_failures` requests, without asking anybody; the controller learns of it from the rows. An open
breaker asks the candidate again with copies that no user waits for, and closes when one succeeds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Final

from experiments.ledger.exchange import FAILURES, Outcome
from experiments.snapshot import Endpoint, Route, Snapshot

from . import wire
from .application import Request
from .copying import copy_body, copy_head
from .heads import AnswerHead
from .limits import Limits
from .recording import outcome_of
from .upstream import Outgoing

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger("turnout.proxy")

#: What the row of a unit says that was sent to control because of an open breaker.
OPEN: Final = "breaker_open"
#: Who waits so long for an answer to begin and then leaves has been failed; who leaves sooner has changed its
#: mind.
_GIVEN_UP_SECONDS: Final = 5.0
#: A refusal that the engine's address or name is to blame for, not the client's request.
_MISDIRECTED: Final = (401, 403, 404)

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


def breaker_of(limits: Limits, clock: Callable[[], float]) -> Breaker:
    """A closed breaker."""
    return Breaker(
        limit=limits.breaker_failures,
        stall_s=limits.breaker_stall_seconds,
        probe_s=limits.breaker_probe_seconds,
        clock=clock,
    )


class Breakers:
    """A worker's breakers, one for each candidate and phase that it has sent anything to."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._known: dict[Key, Breaker] = {}
        self._probes: set[_Probe] = set()

    def of(self, route: Route) -> Breaker:
        """The breaker of a route to a candidate."""
        key = (route.experiment or "", route.phase, route.endpoint.version)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = breaker_of(self._worker.limits, self._worker.loop.time)
        return found

    def probe(self, breaker: Breaker, endpoint: Endpoint, ask: wire.Ask, request: Request) -> None:
        """If it is time, ask an open breaker's candidate with a copy. Never raises, never waits."""
        if not breaker.wants_probe():
            return
        try:
            probe = _Probe(breaker, self._probes, self._worker)
            body = copy_body(ask, endpoint.served_name, None, tools=False)
            head = copy_head(request.head.forwarded)
            self._probes.add(probe)
            probe.call = self._worker.upstreams.call(endpoint, ask.path, head, body, probe)
        except Exception:
            log.exception("version %d could not be probed", endpoint.version)

    def overtaken(self, snapshot: Snapshot) -> None:
        """A new snapshot is in force: forget candidates and phases that it does not have."""
        splits = [split for route in snapshot.models.values() for split in route.splits]
        there = {(split.experiment, split.phase, arm.version) for split in splits for arm in split.arms}
        self._known = {key: breaker for key, breaker in self._known.items() if key in there}

    def open_ones(self) -> list[str]:
        """The experiments whose candidate gets nothing from this worker."""
        return sorted({name for (name, _, _), breaker in self._known.items() if breaker.is_open})

    def close(self) -> None:
        """Give up what is asked at the moment."""
        for probe in list(self._probes):
            probe.give_up()


class _Probe:
    """A copy that asks whether the candidate answers again. It is not recorded: it is nobody's exchange."""

    def __init__(self, breaker: Breaker, probes: set[_Probe], worker: Worker) -> None:
        self._breaker = breaker
        self._probes = probes
        self._status = 0
        self._deadline: asyncio.TimerHandle = worker.loop.call_later(
            worker.limits.breaker_stall_seconds, self.give_up
        )
        self.call: Outgoing | None = None

    def answer(self, head: AnswerHead, body: bytes) -> None:
        self.head(head)
        self.end(body)

    def head(self, head: AnswerHead) -> None:
        self._status = head.status

    def body(self, data: bytes, came: int, chunks: bytes = b"") -> None:
        pass

    def end(self, data: bytes) -> None:
        self.failed(outcome_of(self._status), "")

    def failed(self, outcome: Outcome, code: str) -> None:
        self._deadline.cancel()
        self._probes.discard(self)
        self._breaker.ended(self, outcome, self._status)

    def give_up(self) -> None:
        """It has had its time."""
        self._deadline.cancel()
        self._probes.discard(self)
        if self.call is not None:
            self.call.cancel()
