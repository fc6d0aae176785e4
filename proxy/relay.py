"""One request's whole journey: who asks, what, where to, the bytes there and back, and its record.

The record is appended before the last byte goes to the client, so that no answered request is missing
from the ledger, whatever is killed next. What it says otherwise is noted once the bytes are on their way:
neither the engine nor the client waits for that. A fallback to control happens only while the client has
not got a byte; the row then keeps the arm that was assigned and how that arm ended.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from experiments.assignment import unit_id
from experiments.ledger.exchange import ExchangeRecord, Origin, Outcome
from experiments.snapshot import Endpoint, Exclusion, Route, Snapshot, Table, UnknownModel, UnknownVersion

from . import auth, wire
from .application import Request
from .breaker import OPEN, Breaker, failed
from .ending import EndOfStream
from .errors import Refusal, internal_error, unknown_model
from .heads import MARK, AnswerHead
from .identity import new_id
from .recording import Recording, keep_whole, outcome_of
from .server import ClientConnection
from .stripping import UsageStripper
from .units import raw_unit
from .upstream import Outgoing

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger("turnout.proxy")

_UNREACHED: Final = {
    "engine_refused_key": (
        502,
        "The engine behind this model does not take the key that Turnout has for it.",
    ),
    "engine_refused_request": (
        403,
        "The engine behind this model refuses this request with 403, and takes others with the same key.",
    ),
    "upstream_unreachable": (502, "The engine behind this model cannot be reached."),
    "upstream_timeout": (504, "The engine behind this model did not answer in time."),
    "upstream_idle": (504, "The engine behind this model began to answer and fell silent."),
    "upstream_too_long": (504, "The engine behind this model did not come to an end in time."),
    "upstream_redirect": (502, "The engine behind this model is not at the address that is registered."),
    "upstream_garbled": (502, "The engine behind this model does not answer in HTTP/1.1."),
    "provider_garbled": (502, "The provider of this model gave no answer that can be read."),
    "provider_oversized": (502, "The provider of this model gave a larger answer than Turnout holds."),
    "provider_credential_missing": (502, "Turnout has no credential for this model's provider."),
    "provider_credential_refused": (502, "The provider refused the credential that Turnout has for it."),
    "provider_not_asked": (
        502,
        "This request could not be put to the model's provider: a field of it, or a credential, is not as it "
        "should be.",
    ),
}


@lru_cache(maxsize=1024)
def _origin_lines(snapshot: int, version: int | None, experiment: str | None, arm: str | None) -> bytes:
    """The header lines that say where an answer comes from."""
    lines = b"x-turnout-snapshot: %d\r\n" % snapshot
    if version is not None:
        lines += b"x-turnout-model-version: %d\r\n" % version
    if experiment is not None and arm is not None:
        named = experiment.encode(), arm.encode()
        lines += b"x-turnout-experiment: %b\r\nx-turnout-arm: %b\r\n" % named
    return lines


class Relay:
    """A primary exchange between its client and the engines. Receives from both, writes to both."""

    __slots__ = (
        "_answered", "_ask", "_began", "_breaker", "_call", "_client", "_ending", "_endpoint", "_fallback",
        "_head", "_id", "_marks", "_noted", "_origin", "_outcome", "_recorded", "_recording", "_request",
        "_rest", "_snapshot", "_stripper", "_tenant", "_unit", "_worker", "record",
    )  # fmt: skip

    #: There from the moment that the request is on its way to an engine, or refused.
    record: ExchangeRecord

    def __init__(self, worker: Worker, request: Request, client: ClientConnection) -> None:
        self._worker = worker
        self._request = request
        self._client = client
        self._snapshot: Snapshot = worker.snapshot
        self._noted = False  # the record is there
        self._id = ""
        self._tenant: str | None = None
        self._unit: str | None = None
        self._origin: Origin = "live"
        self._call: Outgoing | None = None
        self._fallback: Endpoint | None = None
        self._head: AnswerHead | None = None
        self._began: int | None = None  # the answer, by `time.monotonic_ns`
        self._marks = b""  # the header lines that say where the answer comes from, once they are made
        self._rest = b""  # of the body: what is to be delivered once the record is written
        self._ending: EndOfStream | None = None
        self._stripper: UsageStripper | None = None
        self._outcome: Outcome = "complete"
        self._answered = False  # the client has got a byte
        self._recorded = False
        self._breaker: Breaker | None = None
        self._recording: Recording | None = None  # of an answer that comes in pieces

    def start(self) -> bool:
        """Route and send. False if the client was refused instead, and is already answered."""
        try:
            self._open()
        except Refusal as refusal:
            self._refuse(refusal)
            return False
        except Exception:
            log.exception("request %s could not be handled", self._named())
            self._refuse(internal_error())
            return False
        return True

    # who, what, where

    def _open(self) -> None:
        head = self._request.head
        self._tenant = auth.tenant(self._snapshot, head)
        if not head.is_json:
            message = "Send the body as 'content-type: application/json', without a content-encoding."
            raise Refusal(415, "unsupported_media_type", message)
        ask = self._ask = wire.parse(head.path, self._request.body, self._worker.limits)
        try:
            route = self._route(ask)
        except UnknownModel:
            if not self._snapshot.version:
                message = "This worker has no routing table yet: is the controller running? Try again soon."
                raise Refusal(503, "no_snapshot", message) from None
            raise unknown_model(ask.model, self._snapshot.models) from None
        except UnknownVersion as error:
            raise Refusal(404, "version_not_found", f"{error}.") from None
        self._take(route)
        if route.mirrored and self._origin == "live":
            try:
                self._mirror(route)
            except Exception:  # the request is on its way: it does not fail by its copies
                log.exception("request %s could not be mirrored", self._named())

    def _take(self, route: Route) -> None:
        """Send the request where it goes, then note that."""
        self._endpoint = endpoint = route.endpoint
        control, self._fallback = route.fallback, None
        shed_by: Breaker | None = None
        if control is not None and self._origin == "live":
            breaker = self._worker.breakers.of((route.experiment or "", route.phase, endpoint.version))
            if breaker.admits(self):
                self._fallback, self._breaker = control, breaker
            else:  # a candidate at which nothing succeeds is not asked: control answers, the row says why
                self._endpoint, shed_by = control, breaker
        self._send(self._endpoint)
        self._note(route)
        if shed_by is not None:
            record = self.record
            record.served_arm, record.served_version = "control", self._endpoint.version
            record.arm_outcome, record.error_code = "shed", OPEN
            self._worker.probes.send(shed_by, endpoint, self._ask, self._request)
        self._marks = self._marked()  # the engine has its request: nobody waits for this

    def _note(self, route: Route) -> None:
        """The record of a request that is on its way. By position: names cost as much as all else here."""
        request, arm, version = self._request, route.arm, route.endpoint.version
        name = self._named()
        self._noted = True
        self.record = record = ExchangeRecord(
            name, name, request.started_ns, request.head.path, route.model, self._worker.name, "primary",
            self._origin, None, route.experiment, route.phase, arm, arm, version, version, self._unit,
            self._tenant, self._snapshot.version, self._ask.stream,
        )  # fmt: skip
        record.recording, record.outside, record.request = route.recording, route.outside, self._ask.body
        record.traceparent = request.head.traceparent

    def _note_refused(self) -> None:
        """The record of a request that went nowhere."""
        request, name = self._request, self._named()
        self._noted = True
        self.record = record = ExchangeRecord(
            name, name, request.started_ns, request.head.path, "", self._worker.name
        )
        record.origin, record.tenant, record.snapshot = self._origin, self._tenant, self._snapshot.version
        record.traceparent = request.head.traceparent

    def _named(self) -> str:
        """The exchange's id, made when it is first needed."""
        if not self._id:
            self._id = new_id(self._request.started_ns)
        return self._id

    def overtaken(self, snapshot: Snapshot) -> None:
        """A new snapshot is in force. What still waits for a connection is routed by it.

        A candidate that takes no connections is what one rolls back: once it does again, it must not get
        what has waited.
        """
        record = self.record
        if self._call is None or self._call.sent or self._origin != "live" or record.attempts > 1:
            return
        try:
            unit, route = self._assigned(snapshot.table(self._ask.model), self._ask)
        except (UnknownModel, UnknownVersion):
            return
        if route.endpoint != self._endpoint:
            if self._breaker is not None:
                self._breaker.excused(self)  # it was never asked
                self._breaker = None
            self._call.cancel()
            self._snapshot, self._unit = snapshot, unit
            self._take(route)
            self.record.pair_id = record.pair_id

    def _route(self, ask: wire.Ask) -> Route:
        if self._request.head.overrides:
            headers = self._request.headers
            auth.require_admin(self._snapshot, headers)
            self._origin = "golden" if headers.get(b"x-turnout-origin") == b"golden" else "forced"
            arm, version = headers.get(b"x-turnout-arm"), headers.get(b"x-turnout-version")
            if arm is not None:
                return self._snapshot.forced_arm(ask.model, arm.decode("latin-1"))
            if version is not None:
                if not version.isdigit() or len(version) > 18:
                    raise Refusal(400, "invalid_type", "'x-turnout-version' is a whole number.")
                return self._snapshot.forced_version(ask.model, int(version))
        self._unit, route = self._assigned(self._snapshot.table(ask.model), ask)
        return route

    def _assigned(self, table: Table, ask: wire.Ask) -> tuple[str | None, Route]:
        """The unit as the ledger names it, and where the hash sends it, unless the experiment's rules keep
        this request out of it."""
        unit: str | None = None
        if table.unit == "request":
            unit = unit_id(self._named())
            route = table.route(unit)
        else:
            raw = raw_unit(table.unit, self._request.head.headers, ask.document, self._tenant)
            if raw is None:
                route = table.route(None)
            else:
                most = self._worker.limits.unit_characters
                unit, route = table.assign(raw if len(raw) <= most else raw[:most])
        if route.exclude is not None:
            rules, excluded = route.exclude
            if self._kept_out(rules, ask):
                route = excluded
        return unit, route

    def _kept_out(self, rules: Exclusion, ask: wire.Ask) -> bool:
        return rules.covers(self._tenant, self._request.headers, ask.document.get("metadata"))

    def _send(self, endpoint: Endpoint) -> None:
        ask = self._ask
        body = wire.engine_body(ask, endpoint.served_name)
        head = self._request.head.forwarded
        self._call = self._worker.upstreams.call(endpoint, ask.path, head, body, self)
        if ask.stream:
            self._ending = EndOfStream(ask.path)
            self._stripper = UsageStripper() if ask.hides_usage else None

    def _mirror(self, route: Route) -> None:
        if route.endpoint.version != self._snapshot.model(route.model).production:
            return
        if MARK in self._request.head.headers:  # a copy already: copies of copies would never end
            return
        record = self.record
        for mirror, endpoint in self._snapshot.mirrors(route.model, record.unit, record.exchange_id):
            if mirror.exclude is not None and self._kept_out(mirror.exclude, self._ask):
                continue
            record.pair_id = record.exchange_id
            self._worker.shadows.send(mirror, endpoint, self._ask, self._request, record)

    # from the engine

    def head(self, head: AnswerHead) -> None:
        self._accepts(head)

    def _accepts(self, head: AnswerHead) -> bool:
        """Note what the head says. False: it is not for the client, control is asked instead."""
        record = self.record
        record.status = status = head.status
        self._began = monotonic_ns()
        record.content_type = head.content_type
        if status >= 400:
            self._outcome = outcome = outcome_of(status)
            if failed(outcome, status) and self._take_fallback(outcome):
                return False
        elif self._breaker is not None:
            self._breaker.excused(self)
        self._head = head
        if not head.is_stream:
            self._stripper = None
        return True

    def answer(self, head: AnswerHead, body: bytes) -> None:
        if self._accepts(head):
            self._rest = body
            worker = self._worker
            record = self._settled(self._outcome, None)
            keep_whole(record, body, worker.limits.recorded_bytes)
            worker.conclude(record, self)

    def body(self, data: bytes, came: int, chunks: bytes = b"") -> None:
        kept = self._recorded
        if not kept and self._ending is not None and self._ending.within(data):
            self._keep(data, came)
            self._append(self._outcome, None)  # for a client, the last event is the last byte
            kept = True
        piece = data if self._stripper is None else self._stripper.feed(data)
        if not self._answered and piece:
            self._begin()
        self._client.write(piece, chunks if piece is data else b"")
        if not kept:
            self._keep(data, came)

    def end(self, data: bytes) -> None:
        self._rest = data
        if self._recorded:
            self.deliver()
        else:
            self._keep(data, monotonic_ns())
            self._worker.conclude(self._settled(self._outcome, None), self)

    def deliver(self) -> None:
        """The rest of the answer, whose record is written."""
        client, head, data = self._client, self._head, self._rest
        self._finished()
        if not self._answered and head is not None and not head.is_stream:
            client.answer(head.status, self._headers(head.lines), data)
            return
        if self._stripper is not None:
            data = self._stripper.feed(data) + self._stripper.finish()
        if not self._answered:
            self._begin()
        client.end(data)

    def _begin(self) -> None:
        """The head of the answer; it goes out with the first bytes of the body."""
        head = self._head
        if head is not None:
            self._answered = True
            length = None if self._stripper is not None else head.length  # an event may be taken out
            self._client.start(head.status, self._headers(head.lines), length)

    def failed(self, outcome: Outcome, code: str) -> None:
        if self._take_fallback(outcome, code):
            return
        if not self._recorded:
            self._append(outcome, code)
        self._finished()
        if self._answered:  # the status is out: only a broken connection tells that this is not the end
            self._client.abort()
            return
        broke_off = (502, "The engine behind this model broke off before answering.")
        status, message = _UNREACHED.get(code, broke_off)
        self._client.decline(Refusal(status, code, message), self._headers())

    def _take_fallback(self, outcome: Outcome, code: str | None = None) -> bool:
        """Ask control instead of an arm that failed, while the client has got nothing. `code` says with what
        it failed, unless control fails with another."""
        fallback, self._fallback = self._fallback, None
        if fallback is None or self._answered or self._recorded or self._client.gone:
            return False
        if self._call is not None:
            self._call.cancel()
        if self._recording is not None:
            self._recording.forget()
            self._recording = None
        record = self.record
        self._tell_breaker(outcome)
        record.arm_outcome, record.error_code, record.attempts = outcome, code, 2
        record.served_arm, record.served_version = "control", fallback.version
        self._outcome, self._began, self._marks = "complete", None, b""
        record.status, record.content_type = 0, ""
        self._send(fallback)
        return True

    def abort(self) -> None:
        """Break off: the answer cannot be delivered whole."""
        self._finished()
        self._client.abort()

    # from the client

    def client_gone(self) -> None:
        if self._call is not None:
            self._call.cancel()
        if not self._recorded:
            self._append("client_gone", None)
        self._finished()

    def client_paused(self) -> None:
        if self._call is not None:
            self._call.pause()

    def client_resumed(self) -> None:
        if self._call is not None:
            self._call.resume()

    # the record

    def _tell_breaker(self, outcome: Outcome) -> None:
        if self._breaker is not None:
            self._breaker.ended(self, outcome, self.record.status)
            self._breaker = None

    def _keep(self, data: bytes, came: int) -> None:
        """A piece of the answer, for the ledger; when it came, by `time.monotonic_ns`."""
        recording = self._recording
        if recording is None:
            limits, budget = self._worker.limits, self._worker.budget
            recording = Recording(self._request.started, limits.recorded_bytes, budget)
            self._recording = recording
        recording.add(data, came)

    def _settled(self, outcome: Outcome, code: str | None) -> ExchangeRecord:
        """The record, filled in: nothing changes it any more."""
        record = self.record
        self._recorded = True
        if self._breaker is not None:
            self._tell_breaker(outcome)
        if self._recording is not None:
            self._recording.settle(record)
        record.outcome = outcome
        if code is not None:
            record.error_code = code
        started = self._request.started
        if self._began is not None:
            record.first_byte_us = (self._began - started) // 1000
        record.duration_us = (monotonic_ns() - started) // 1000
        return record

    def _append(self, outcome: Outcome, code: str | None) -> None:
        self._worker.append(self._settled(outcome, code))

    def _finished(self) -> None:
        self._call = None
        self._worker.relays.discard(self)

    def _headers(self, lines: bytes = b"") -> bytes:
        """An answer's own header lines, and behind them Turnout's."""
        return lines + (self._marks or self._marked())

    def _marked(self) -> bytes:
        """The header lines that say what the exchange is called and where its answer comes from."""
        record = self.record
        origin = _origin_lines(record.snapshot, record.served_version, record.experiment, record.served_arm)
        return b"x-turnout-request-id: %b\r\n%b" % (record.request_id.encode(), origin)

    def _refuse(self, refusal: Refusal) -> None:
        if self._call is not None:
            self._call.cancel()
        if not self._noted:
            self._note_refused()
        if refusal.status == 401:  # a stranger must not be able to fill the ledger
            self._worker.unread(refusal.code)
        else:
            self._append("rejected", refusal.code)
        self._recorded = True
        self._finished()
        self._client.decline(refusal, self._headers())
