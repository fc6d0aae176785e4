"""One request's whole journey: who asks, what, where to, the bytes there and back, and its record.

The record is appended before the last byte goes to the client, so that no answered request is missing
from the ledger, whatever is killed next. A fallback to control happens only while the client has not
got a byte; the row then keeps the arm that was assigned and how that arm ended.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from experiments.assignment import unit_id
from experiments.ledger.exchange import ExchangeRecord, Outcome
from experiments.snapshot import Endpoint, Route, Snapshot, UnknownModel, UnknownVersion

from . import auth, wire
from .copying import MARK
from .errors import Refusal, internal_error
from .identity import new_id
from .server import ClientConnection, Request
from .upstream import Call, Headers

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger("turnout.proxy")

#: What of the client's headers the engine gets. Credentials are Turnout's business and end here.
_FORWARDED: Final = (
    b"accept",
    b"content-type",
    b"user-agent",
    b"x-request-id",
    b"traceparent",
    b"tracestate",
    MARK,
)
_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"proxy-authenticate")
)
#: Statuses that say "not now": they are failures of the arm, and another may do better.
_OVERLOADED: Final = (429, 503)

#: Chunk times travel as 32 bits: after 71 minutes they stand still.
_LATEST_US: Final = (1 << 32) - 1

_UNREACHED: Final = {
    "upstream_unreachable": (502, "The engine behind this model cannot be reached."),
    "upstream_timeout": (504, "The engine behind this model did not answer in time."),
    "upstream_idle": (504, "The engine behind this model began to answer and fell silent."),
}


def outcome_of(status: int) -> Outcome:
    """What a status alone says; the collector reads the body and knows better."""
    if status in _OVERLOADED:
        return "overloaded"
    if status >= 500:
        return "upstream_error"
    return "upstream_rejected" if status >= 400 else "complete"


def request_head(headers: dict[bytes, bytes]) -> bytes:
    """The header lines for the engine."""
    lines = [b"%b: %b\r\n" % (name, headers[name]) for name in _FORWARDED if name in headers]
    if b"content-type" not in headers:
        lines.append(b"content-type: application/json\r\n")
    return b"".join(lines)


class Recording:
    """The bytes and times of one answer, as far as they are kept."""

    __slots__ = ("_limit", "_loop", "_parts", "_size", "_started", "ends", "record", "times")

    def __init__(self, worker: Worker, record: ExchangeRecord, started: float) -> None:
        self._loop = worker.loop
        self._limit = worker.limits.recorded_bytes
        self._started = started
        self.record = record
        self.restart()

    def restart(self) -> None:
        """Forget the bytes of an attempt that was given up."""
        self._parts: list[bytes] = []
        self._size = 0
        self.times: list[int] = []
        self.ends: list[int] = []
        self.record.clipped = False

    def elapsed_us(self) -> int:
        return int((self._loop.time() - self._started) * 1e6)

    def add(self, data: bytes) -> None:
        if self.record.clipped or self._size + len(data) > self._limit:
            self.record.clipped = True
            return
        self._parts.append(data)
        self._size += len(data)

    def mark(self) -> None:
        """The pieces of one read have come."""
        if self._size and (not self.ends or self.ends[-1] != self._size):
            self.times.append(min(self.elapsed_us(), _LATEST_US))
            self.ends.append(self._size)

    def finish(self, outcome: Outcome, code: str | None) -> ExchangeRecord:
        """The record, filled in."""
        record = self.record
        record.outcome, record.error_code = outcome, code
        record.duration_us = self.elapsed_us()
        record.response = b"".join(self._parts)
        record.chunk_us, record.chunk_ends = tuple(self.times), tuple(self.ends)
        return record


class Relay:
    """A primary exchange between its client and the engines. Receives from both, writes to both."""

    def __init__(self, worker: Worker, request: Request, client: ClientConnection) -> None:
        self._worker = worker
        self._request = request
        self._client = client
        self._snapshot: Snapshot = worker.snapshot
        self._call: Call | None = None
        self._pending: list[bytes] = []
        self._tail = b"\n"
        self._stripper: wire.UsageStripper | None = None
        self._outcome: Outcome = "complete"
        self._answered = False  # the client has got a byte
        self._recorded = False
        exchange_id = new_id(request.started_ns)
        record = ExchangeRecord(
            exchange_id=exchange_id,
            request_id=exchange_id,
            started_ns=request.started_ns,
            path=request.path,
            model="",
            worker=worker.name,
            snapshot=self._snapshot.version,
        )
        self._recording = Recording(worker, record, request.started)

    @property
    def record(self) -> ExchangeRecord:
        return self._recording.record

    def start(self) -> bool:
        """Route and send. False if the client was refused instead, and is already answered."""
        try:
            self._open()
        except Refusal as refusal:
            self._refuse(refusal)
            return False
        except Exception:
            log.exception("request %s could not be handled", self.record.request_id)
            self._refuse(internal_error())
            return False
        return True

    # who, what, where

    def _open(self) -> None:
        headers = self._request.headers
        record = self.record
        record.tenant = auth.tenant(self._snapshot, headers)
        content_type = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        if content_type != b"application/json":
            message = "Send the body as 'content-type: application/json'."
            raise Refusal(415, "unsupported_media_type", message)
        ask = wire.parse(self._request.path, self._request.body, self._worker.limits)
        record.stream = ask.stream
        self._ask = ask
        try:
            route = self._route(ask)
        except UnknownModel:
            if not self._snapshot.version:
                message = "This worker has no routing table yet: is the controller running? Try again soon."
                raise Refusal(503, "no_snapshot", message) from None
            known = ", ".join(sorted(self._snapshot.models)) or "none yet"
            message = f"The model {ask.model[:200]!r} is not in production here. Known models: {known}."
            raise Refusal(404, "model_not_found", message, "model") from None
        except UnknownVersion as error:
            raise Refusal(404, "version_not_found", f"{error}.") from None
        record.request = ask.body
        self._take(route)
        if record.origin == "live" and self._snapshot.model(route.model).mirrors:
            self._mirror(route)

    def _take(self, route: Route) -> None:
        """Note where the request goes, and send it there."""
        record = self.record
        record.model, record.recording = route.model, route.recording
        record.experiment, record.phase = route.experiment, route.phase
        record.assigned_arm = record.served_arm = route.arm
        record.assigned_version = record.served_version = route.endpoint.version
        self._endpoint = route.endpoint
        self._fallback: Endpoint | None = route.fallback if record.origin == "live" else None
        self._send(route.endpoint)

    def overtaken(self, snapshot: Snapshot) -> None:
        """A new snapshot is in force. What still waits for a connection is routed by it.

        A candidate that takes no connections is what one rolls back: once it does again, it must not get
        what has waited.
        """
        record = self.record
        if self._call is None or self._call.sent or record.origin != "live" or record.attempts > 1:
            return
        try:
            unit = self._unit_id(snapshot, self._ask)
            route = snapshot.route(record.model, unit)
        except (UnknownModel, UnknownVersion):
            return
        if route.endpoint != self._endpoint:
            self._call.cancel()
            self._snapshot, record.snapshot, record.unit = snapshot, snapshot.version, unit
            self._take(route)

    def _route(self, ask: wire.Ask) -> Route:
        headers = self._request.headers
        record = self.record
        if any(name in headers for name in auth.CONTROL_HEADERS):
            auth.require_admin(self._snapshot, headers)
            record.origin = "golden" if headers.get(b"x-turnout-origin") == b"golden" else "forced"
            arm, version = headers.get(b"x-turnout-arm"), headers.get(b"x-turnout-version")
            if arm is not None:
                return self._snapshot.forced_arm(ask.model, arm.decode("latin-1"))
            if version is not None:
                if not version.isdigit() or len(version) > 18:
                    raise Refusal(400, "invalid_type", "'x-turnout-version' is a whole number.")
                return self._snapshot.forced_version(ask.model, int(version))
        record.unit = self._unit_id(self._snapshot, ask)
        return self._snapshot.route(ask.model, record.unit)

    def _unit_id(self, snapshot: Snapshot, ask: wire.Ask) -> str | None:
        """The unit that a snapshot assigns, as the ledger names it. Raises UnknownModel."""
        raw = self._unit(snapshot.unit_kind(ask.model), ask)
        return None if raw is None else unit_id(raw)

    def _unit(self, kind: str, ask: wire.Ask) -> str | None:
        """The raw name of the unit, or None if the request has none of this kind."""
        headers = self._request.headers
        document = ask.document
        value: object = None
        if kind == "user":
            value = (
                _text(headers, b"x-turnout-user") or document.get("user") or document.get("safety_identifier")
            )
        elif kind == "session":
            metadata = document.get("metadata")
            value = _text(headers, b"x-turnout-session")
            if not value and isinstance(metadata, dict):
                value = metadata.get("session_id")
            value = value or document.get("prompt_cache_key")
        elif kind == "tenant":
            value = self.record.tenant
        elif kind == "request":
            value = self.record.exchange_id
        elif kind.startswith("header:"):
            value = _text(headers, kind[7:].lower().encode())
        if not isinstance(value, str) or not value:
            return None
        return value[: self._worker.limits.unit_characters]

    def _send(self, endpoint: Endpoint) -> None:
        body = wire.engine_body(self._ask, endpoint.served_name)
        self._stripper = wire.UsageStripper() if self._ask.stream and not self._ask.wants_usage else None
        path = self._request.path.encode("latin-1")
        self._call = self._worker.upstreams.call(
            endpoint, path, request_head(self._request.headers), body, self
        )

    def _mirror(self, route: Route) -> None:
        if route.endpoint.version != self._snapshot.model(route.model).production:
            return
        if MARK in self._request.headers:  # a copy already: copies of copies would never end
            return
        record = self.record
        for mirror, endpoint in self._snapshot.mirrors(route.model, record.unit, record.exchange_id):
            record.pair_id = record.exchange_id
            self._worker.shadows.send(mirror, endpoint, self._ask, self._request, record)

    # from the engine

    def head(self, status: int, headers: Headers) -> None:
        record = self.record
        record.status = status
        record.first_byte_us = self._recording.elapsed_us()
        outcome = outcome_of(status)
        if outcome in ("overloaded", "upstream_error") and self._take_fallback(outcome):
            return
        self._outcome = outcome
        length: int | None = None
        lines: list[bytes] = []
        for name, value in headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() else None
            elif name not in _HOP_BY_HOP and not name.startswith(b"x-turnout-"):
                lines.append(b"%b: %b\r\n" % (name, value))
                if name == b"content-type":
                    record.content_type = value.decode("latin-1")
        if not record.content_type.startswith("text/event-stream"):
            self._stripper = None
        elif self._stripper is not None:
            length = None  # an event may be taken out
        self._client.start(status, b"".join(lines) + self._turnout_headers(), length)

    def body(self, data: bytes) -> None:
        self._recording.add(data)
        self._pending.append(data)

    def flush(self) -> None:
        data = self._take_pending()
        if not data:
            return
        self._recording.mark()
        if not self._recorded and self.record.stream and self._at_done(data):
            self._append(self._outcome, None)  # for a client, [DONE] is the last byte
        self._forward(data)

    def end(self) -> None:
        data = self._take_pending()
        self._recording.mark()
        if not self._recorded:
            self._append(self._outcome, None)
        if self._stripper is not None:
            data = self._stripper.feed(data) + self._stripper.finish()
        if data:
            self._client.write(data)
        self._finished()
        self._client.end()

    def failed(self, outcome: Outcome, code: str) -> None:
        if self._take_fallback(outcome):
            return
        self._recording.mark()
        if not self._recorded:
            self._append(outcome, code)
        self._finished()
        if self._answered:  # the status is out: only a broken connection tells that this is not the end
            self._client.abort()
            return
        status, message = _UNREACHED.get(
            code, (502, "The engine behind this model broke off before answering.")
        )
        self._client.respond(status, Refusal(status, code, message).body(), self._turnout_headers())

    def _take_pending(self) -> bytes:
        pending, self._pending = self._pending, []
        return pending[0] if len(pending) == 1 else b"".join(pending)

    def _at_done(self, data: bytes) -> bool:
        """Whether `[DONE]` begins in this piece, also if it was cut in two."""
        text = self._tail + data
        self._tail = text[-16:]
        return b"[DONE]" in text and wire.DONE.search(text) is not None

    def _forward(self, data: bytes) -> None:
        if self._stripper is not None:
            data = self._stripper.feed(data)
        self._answered = True
        self._client.write(data)

    def _take_fallback(self, outcome: Outcome) -> bool:
        """Ask control instead of an arm that failed, while the client has got nothing."""
        fallback, self._fallback = self._fallback, None
        if fallback is None or self._answered or self._client.gone:
            return False
        if self._call is not None:
            self._call.cancel()
        self._recording.restart()
        self._pending = []
        record = self.record
        record.arm_outcome, record.attempts = outcome, 2
        record.served_arm, record.served_version = "control", fallback.version
        record.status, record.first_byte_us, record.content_type = 0, None, ""
        self._send(fallback)
        return True

    # from the client

    def client_gone(self) -> None:
        if self._call is not None:
            self._call.cancel()
        if not self._recorded:
            self._recording.mark()
            self._append("client_gone", None)
        self._finished()

    def client_paused(self) -> None:
        if self._call is not None:
            self._call.pause()

    def client_resumed(self) -> None:
        if self._call is not None:
            self._call.resume()

    # the record

    def _append(self, outcome: Outcome, code: str | None) -> None:
        self._recorded = True
        self._worker.append(self._recording.finish(outcome, code))

    def _finished(self) -> None:
        self._call = None
        self._worker.relays.discard(self)

    def _turnout_headers(self) -> bytes:
        record = self.record
        lines = b"x-turnout-request-id: %b\r\nx-turnout-snapshot: %d\r\n" % (
            record.request_id.encode(),
            record.snapshot,
        )
        if record.served_version is not None:
            lines += b"x-turnout-model-version: %d\r\n" % record.served_version
        if record.experiment is not None:
            experiment, arm = record.experiment.encode(), (record.served_arm or "").encode()
            lines += b"x-turnout-experiment: %b\r\nx-turnout-arm: %b\r\n" % (experiment, arm)
        return lines

    def _refuse(self, refusal: Refusal) -> None:
        if self._call is not None:
            self._call.cancel()
        if refusal.status != 401:  # a stranger must not be able to fill the ledger
            self._append("rejected", refusal.code)
        self._recorded = True
        self._finished()
        self._client.respond(refusal.status, refusal.body(), self._turnout_headers())


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("utf-8", "replace").strip()
