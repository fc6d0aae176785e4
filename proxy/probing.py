"""Does a candidate answer again that an open breaker keeps units from? It is asked with copies."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from experiments.ledger.exchange import Outcome
from experiments.snapshot import Endpoint

from . import wire
from .application import Request
from .breaker import Breaker
from .copying import copy_body, copy_head
from .heads import AnswerHead
from .recording import outcome_of
from .upstream import Outgoing

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger("turnout.proxy")


class Probes:
    """All that a worker asks so."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.under_way: set[Probe] = set()

    def send(self, breaker: Breaker, endpoint: Endpoint, ask: wire.Ask, request: Request) -> None:
        """Ask an open breaker's candidate, if it is time. Never raises, never waits."""
        if not breaker.wants_probe():
            return
        try:
            worker, probe = self._worker, Probe(self, breaker)
            body = copy_body(ask, endpoint.served_name, None, tools=False)
            head = copy_head(request.head.forwarded)
            probe.call = worker.upstreams.call(endpoint, ask.path, head, body, probe)
            probe.deadline = worker.loop.call_later(worker.limits.breaker_stall_seconds, probe.give_up)
            self.under_way.add(probe)
        except Exception:
            log.exception("version %d could not be probed", endpoint.version)

    def close(self) -> None:
        """Give up what is asked at the moment."""
        for probe in list(self.under_way):
            probe.give_up()


class Probe:
    """One copy. It is not recorded: it is nobody's exchange."""

    call: Outgoing
    deadline: asyncio.TimerHandle

    def __init__(self, probes: Probes, breaker: Breaker) -> None:
        self._probes = probes
        self._breaker = breaker
        self._status = 0

    def answer(self, head: AnswerHead, body: bytes) -> None:
        self.head(head)
        self.end(body)

    def head(self, head: AnswerHead) -> None:
        self._status = head.status

    def body(self, data: bytes, came: int, chunks: bytes = b"") -> None:
        """What it says does not matter."""

    def end(self, data: bytes) -> None:
        self._ended(outcome_of(self._status))

    def failed(self, outcome: Outcome, code: str) -> None:
        self._ended(outcome)

    def _ended(self, outcome: Outcome) -> None:
        self._over()
        self._breaker.ended(self, outcome, self._status)

    def give_up(self) -> None:
        """It has had its time."""
        self._over()
        self.call.cancel()

    def _over(self) -> None:
        self.deadline.cancel()
        self._probes.under_way.discard(self)
