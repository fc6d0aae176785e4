"""How is a request mirrored so that the primary cannot feel it?

A copy starts when the request is dispatched, not when it succeeded, so that what control fails is in the
sample too. It has connections and caps of its own, nothing waits for it, and its answer goes to the spool
only. What is not sent for lack of room is a row with the outcome `shed`: the accounting closes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.ledger.exchange import ExchangeRecord, Outcome
from experiments.snapshot import Endpoint, Mirror, Snapshot

from . import wire
from .identity import new_id
from .relay import Recording, outcome_of, request_head
from .server import Request
from .upstream import Call, Headers, Upstreams

if TYPE_CHECKING:
    from .worker import Worker


class Shadows:
    """All mirrored copies of a worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._upstreams = Upstreams(worker.limits)
        self._in_flight: dict[str, int] = {}
        self._copies: set[Copy] = set()
        self.bytes = 0

    def send(
        self, mirror: Mirror, endpoint: Endpoint, ask: wire.Ask, request: Request, primary: ExchangeRecord
    ) -> None:
        """Start a copy, or record that it was shed. Never raises, never waits."""
        record = ExchangeRecord(
            exchange_id=new_id(request.started_ns),
            request_id=primary.request_id,
            pair_id=primary.request_id,
            role="shadow",
            started_ns=request.started_ns,
            path=primary.path,
            model=primary.model,
            worker=primary.worker,
            experiment=mirror.experiment,
            phase=mirror.phase,
            assigned_arm=mirror.arm,
            served_arm=mirror.arm,
            assigned_version=endpoint.version,
            served_version=endpoint.version,
            unit=primary.unit,
            tenant=primary.tenant,
            snapshot=primary.snapshot,
            stream=ask.stream,
            recording=primary.recording,
        )
        reason = self._shed_reason(mirror, ask)
        if reason is None:
            copy = Copy(self, self._worker, record, len(ask.body), mirror.experiment, request.started)
            self._copies.add(copy)
            self._in_flight[mirror.experiment] = self._in_flight.get(mirror.experiment, 0) + 1
            self.bytes += copy.size
            body = wire.engine_body(ask, endpoint.served_name)
            head = request_head(request.headers)
            copy.call = self._upstreams.call(endpoint, request.path.encode("latin-1"), head, body, copy)
        else:
            record.outcome, record.error_code = "shed", reason
            self._worker.append(record)

    def _shed_reason(self, mirror: Mirror, ask: wire.Ask) -> str | None:
        limits = self._worker.limits
        if mirror.tools == "skip" and ask.has_tools:
            return "tools_skipped"
        if self._in_flight.get(mirror.experiment, 0) >= mirror.max_in_flight:
            return "experiment_in_flight"
        if len(self._copies) >= limits.shadow_in_flight:
            return "worker_in_flight"
        if self.bytes + len(ask.body) > limits.shadow_bytes:
            return "worker_bytes"
        return None

    def overtaken(self, snapshot: Snapshot) -> None:
        """A new snapshot is in force. Copies of experiments that it does not have, and that still wait for a
        connection, are not sent."""
        mirrored = {mirror.experiment for route in snapshot.models.values() for mirror in route.mirrors}
        for copy in list(self._copies):
            if copy.experiment not in mirrored and copy.call is not None and not copy.call.sent:
                copy.abandon("experiment_ended")

    def released(self, copy: Copy) -> None:
        """A copy has ended."""
        if copy in self._copies:
            self._copies.discard(copy)
            self._in_flight[copy.experiment] -= 1
            if not self._in_flight[copy.experiment]:
                del self._in_flight[copy.experiment]
            self.bytes -= copy.size

    def retire(self, in_use: Callable[[str], bool]) -> None:
        """Close the idle connections of replicas that the snapshot no longer has."""
        self._upstreams.retire(in_use)

    async def close(self) -> None:
        """End what still runs: each copy leaves its row."""
        for copy in list(self._copies):
            copy.abandon("worker_stopped")
        await self._upstreams.close()


class Copy:
    """One mirrored exchange: receives the engine's answer and keeps it for the ledger."""

    def __init__(
        self,
        shadows: Shadows,
        worker: Worker,
        record: ExchangeRecord,
        size: int,
        experiment: str,
        started: float,
    ) -> None:
        self._shadows = shadows
        self._worker = worker
        self._recording = Recording(worker, record, started)
        self.size = size
        self.experiment = experiment
        self.call: Call | None = None

    def head(self, status: int, headers: Headers) -> None:
        record = self._recording.record
        record.status = status
        record.first_byte_us = self._recording.elapsed_us()
        record.content_type = next((v.decode("latin-1") for n, v in headers if n == b"content-type"), "")

    def body(self, data: bytes) -> None:
        self.size += len(data)
        self._shadows.bytes += len(data)
        self._recording.add(data)

    def flush(self) -> None:
        self._recording.mark()
        if self._shadows.bytes > self._worker.limits.shadow_bytes:
            self.abandon("worker_bytes")

    def end(self) -> None:
        self._recording.mark()
        self._finish(outcome_of(self._recording.record.status), None)

    def failed(self, outcome: Outcome, code: str) -> None:
        self._finish(outcome, code)

    def abandon(self, reason: str) -> None:
        """Give the copy up: the engine is told, and the row says why."""
        if self.call is not None:
            self.call.cancel()
        self._finish("shed", reason)

    def _finish(self, outcome: Outcome, code: str | None) -> None:
        self._shadows.released(self)
        self._worker.append(self._recording.finish(outcome, code))
