"""How is a request mirrored so that the primary cannot feel it?

A copy starts when the request is dispatched, not when it succeeded, so that what control fails is in the
sample too. It has connections and caps of its own, nothing waits for it, and its answer goes to the spool
only. What is not sent is a row with the outcome `shed` and the reason: the accounting closes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from experiments.ledger.exchange import RATE_LIMITED, UNKEYED, ExchangeRecord, Outcome
from experiments.snapshot import LITELLM, Endpoint, Mirror, Snapshot

from . import wire
from .allowance import Allowance
from .application import Request
from .breaker import OPEN, Breaker, Breakers
from .copying import copy_body, copy_head, copy_record
from .heads import AnswerHead, seconds_asked
from .pressure import PressureGauge
from .recording import Recording, outcome_of
from .upstream import Outgoing, Upstreams

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger("turnout.proxy")

_TOO_MANY: Final = 429


class Shadows:
    """All mirrored copies of a worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._upstreams = Upstreams(worker.limits, worker.providers)
        self._allowances: defaultdict[str, Allowance] = defaultdict(Allowance)
        self._copies: set[Copy] = set()
        self._breakers = Breakers(worker.limits, worker.loop.time)
        self.gauge = PressureGauge(worker.loop.time)
        self.bytes = 0

    @property
    def in_flight(self) -> int:
        """Copies under way."""
        return len(self._copies)

    def send(
        self, mirror: Mirror, endpoint: Endpoint, ask: wire.Ask, request: Request, primary: ExchangeRecord
    ) -> None:
        """Start a copy, or record that it was shed. Never raises, never waits."""
        record = copy_record(mirror, endpoint, primary)
        self.start(mirror, endpoint, ask, request, record, self._worker.append)

    def start(
        self,
        mirror: Mirror,
        endpoint: Endpoint,
        ask: wire.Ask,
        request: Request,
        record: ExchangeRecord,
        ended: Callable[[ExchangeRecord], object],
    ) -> Copy | None:
        """Send a copy of `ask`; its record goes to `ended` when it is over. None: it was shed, and has ended.
        Never raises, never waits."""
        try:
            reason = self._shed_reason(mirror, endpoint, ask, record.model)
            if reason is None:
                # a provider has no such field, and would refuse every copy
                priority = None if endpoint.engine == LITELLM else mirror.priority
                body = copy_body(ask, endpoint.served_name, priority)
                head = copy_head(request.head.forwarded)
                copy = Copy(self, self._worker, mirror, record, request.started, ended)
                copy.call = self._upstreams.call(endpoint, ask.path, head, body, copy)
                copy.begun(len(ask.body))
                self._copies.add(copy)
                return copy
        except Exception:
            log.exception("request %s could not be mirrored", record.request_id)
            reason = "not_copied"
        record.outcome, record.error_code = "shed", reason
        ended(record)
        return None

    def others(self, experiment: str) -> tuple[int, int]:
        """Copies under way: of one experiment, and of all."""
        return self._allowances[experiment].in_flight, len(self._copies)

    def _shed_reason(self, mirror: Mirror, endpoint: Endpoint, ask: wire.Ask, model: str) -> str | None:
        limits = self._worker.limits
        if mirror.tools == "skip" and ask.has_tools:
            return "tools_skipped"
        if ask.continues:
            return "stored_elsewhere"
        allowance = self.allowance(mirror)
        refusal = allowance.refusal(mirror, len(ask.body))
        if refusal is not None:
            return refusal
        if allowance.rests_for(self._worker.loop.time()):
            return RATE_LIMITED
        if len(self._copies) >= limits.shadow_in_flight:
            return "worker_in_flight"
        if self.bytes + len(ask.body) > limits.shadow_bytes:
            return "worker_bytes"
        breaker = self.breaker(mirror)
        if breaker.is_open and not breaker.wants_probe():
            return OPEN
        # The production engine as well: the candidate may share its machine, and users wait there.
        production = self._worker.snapshot.production(model)
        replicas = (*endpoint.replicas, *(production.replicas if production else ()))
        if self.gauge.busy(replicas, waiting=mirror.waiting, kv_ppm=mirror.kv_ppm):
            return "engine_pressure"
        return None

    def rests_for(self, experiment: str) -> float:
        """For how many seconds no copy of an experiment is sent, since its provider takes no more of them."""
        return self._allowances[experiment].rests_for(self._worker.loop.time())

    def left_alone(self, mirror: Mirror) -> str:
        """What the last failure was of a candidate that its breaker keeps copies from."""
        return self.breaker(mirror).cause

    def allowance(self, mirror: Mirror) -> Allowance:
        """What the copies of an experiment have used."""
        return self._allowances[mirror.experiment]

    def breaker(self, mirror: Mirror) -> Breaker:
        """What is known of a candidate. Where nothing at all succeeds, a copy asks again now and then."""
        return self._breakers.of((mirror.experiment, mirror.phase, mirror.version))

    def hold(self, copy: Copy, size: int) -> None:
        """A copy holds so many bytes more."""
        copy.size += size
        copy.allowance.bytes += size
        self.bytes += size

    def overtaken(self, snapshot: Snapshot) -> None:
        """A new snapshot is in force. Copies of experiments that it does not have, and that still wait for a
        connection, are not sent."""
        self._upstreams.overtaken(snapshot)
        mirrors = [mirror for route in snapshot.models.values() for mirror in route.mirrors]
        mirrored = {mirror.experiment for mirror in mirrors}
        self._breakers.keep({(mirror.experiment, mirror.phase, mirror.version) for mirror in mirrors})
        for copy in list(self._copies):
            if copy.mirror.experiment not in mirrored and not copy.call.sent:
                copy.abandon("experiment_ended")
        for name in [name for name, one in self._allowances.items() if not one.in_flight]:
            if name not in mirrored:
                del self._allowances[name]
        self.gauge.watch(_watched(snapshot))

    def released(self, copy: Copy) -> None:
        """A copy has ended."""
        if copy in self._copies:
            self._copies.discard(copy)
            copy.allowance.in_flight -= 1
            self.hold(copy, -copy.size)

    async def close(self) -> None:
        """End what still runs: each copy leaves its row."""
        for copy in list(self._copies):
            copy.abandon("worker_stopped")
        await self._upstreams.close()


def _watched(snapshot: Snapshot) -> set[str]:
    """The replicas whose pressure some experiment wants to know."""
    return {
        url
        for model, route in snapshot.models.items()
        for mirror in route.mirrors
        if mirror.waiting or mirror.kv_ppm
        for version in (mirror.version, route.production)
        for url in snapshot.endpoints[model, version].replicas
    }


class Copy:
    """One mirrored exchange: receives the engine's answer and keeps it for the ledger."""

    #: There once it has begun, which is before anything is received.
    call: Outgoing
    _deadline: asyncio.TimerHandle

    def __init__(
        self,
        shadows: Shadows,
        worker: Worker,
        mirror: Mirror,
        record: ExchangeRecord,
        started: int,
        ended: Callable[[ExchangeRecord], object],
    ) -> None:
        self._shadows = shadows
        self._ended = ended
        self._worker = worker
        self._record = record
        self._started = started
        self._breaker = shadows.breaker(mirror)
        self._recording = Recording(started, worker.limits.recorded_bytes, worker.budget)
        self.request_size = 0
        self.mirror = mirror
        self.allowance = shadows.allowance(mirror)
        self.size = 0

    def begun(self, request_size: int) -> None:
        """It is on its way: from now on it counts."""
        self._breaker.admits(self)
        self._deadline = self._worker.loop.call_later(self.mirror.timeout_ms / 1000, self._overdue)
        self.request_size = request_size
        self.allowance.in_flight += 1
        self._shadows.hold(self, request_size)

    def answer(self, head: AnswerHead, body: bytes) -> None:
        self.head(head)
        self.end(body)

    def head(self, head: AnswerHead) -> None:
        record = self._record
        record.status = head.status
        record.first_byte_us = (monotonic_ns() - self._started) // 1000
        record.content_type = head.content_type
        if head.status == _TOO_MANY:
            self.allowance.limited(self._worker.loop.time(), seconds_asked(head))
        if outcome_of(head.status) == "complete":
            self._breaker.excused(self)

    def body(self, data: bytes, came: int, chunks: bytes = b"") -> None:
        self._shadows.hold(self, len(data))
        self._recording.add(data, came)
        if self._shadows.bytes > self._worker.limits.shadow_bytes:
            self.abandon("worker_bytes")
        elif self.allowance.bytes > self.mirror.max_bytes:
            self.abandon("experiment_bytes")

    def end(self, data: bytes) -> None:
        self._shadows.hold(self, len(data))
        self._recording.add(data, monotonic_ns())
        self._finish(outcome_of(self._record.status), None)

    def failed(self, outcome: Outcome, code: str) -> None:
        self._finish(outcome, code)

    def abandon(self, reason: str) -> None:
        """Give the copy up: the engine is told, and the row says why."""
        self.call.cancel()
        self._finish("shed", reason)

    def withdraw(self) -> None:
        """Nobody wants it any more, which says nothing of the candidate: the engine is told, and no row
        speaks of it."""
        self._deadline.cancel()
        self._breaker.excused(self)
        self.call.cancel()
        self._shadows.released(self)
        self._recording.forget()

    def _overdue(self) -> None:
        """Bytes that trickle keep every other deadline for ever: that is a failure of the candidate."""
        self.call.cancel()
        self._finish("timeout", "copy_timeout")

    def _finish(self, outcome: Outcome, code: str | None) -> None:
        self._deadline.cancel()
        self._shadows.released(self)
        record = self._record
        self._recording.settle(record)
        if record.status == _TOO_MANY and outcome != "shed":  # how much is asked is no quality of who is
            outcome, code = "shed", RATE_LIMITED
        self._breaker.ended(self, outcome, record.status, code)
        # Nor is a key that the operator has yet to mend, though until then a copy now and then is enough.
        record.outcome, record.error_code = "shed" if code in UNKEYED else outcome, code
        record.duration_us = (monotonic_ns() - self._started) // 1000
        if record.status == 200:
            self.allowance.answered()
            self.allowance.spend(self.mirror, self.request_size, record.response)
        self._ended(record)
