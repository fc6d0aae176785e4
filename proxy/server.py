"""How do bytes from a client become requests, and answers bytes? HTTP/1.1 on asyncio and httptools.

Framing is the C parser's (llhttp, strict); caps on size, count and time are ours. One connection serves
one request at a time; what a client pipelines waits. A client that goes away is noticed in every state,
because the socket is read all the time, except from one that has sent a large request ahead of its turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic, monotonic_ns, time_ns
from typing import Any, Final

import httptools

from .application import Application, Request, Responder
from .chunks import beginning
from .errors import Refusal, internal_error, status_line
from .heads import LISTS, Framed, RequestHead, framed, framing_fault, named, path_of, single

log = logging.getLogger("turnout.proxy")

#: Body bytes sent ahead of their turn, above which the socket is left alone until the turn comes.
_AHEAD: Final = 256 << 10
#: How long a refused client may still be sending before the connection is reset.
_LINGER_SECONDS: Final = 2.0
#: Above this an answer's head and body are not joined for one write.
_JOINED: Final = 64 << 10
#: Answers without a body, whose readers look for none.
_BODILESS: Final = (204, 304)


def _malformed(what: str) -> Refusal:
    return Refusal(400, "malformed_http", f"This is not HTTP/1.1: {what}.")


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_admitted", "_application", "_body", "_body_bytes", "_budget", "_busy",
        "_chunked", "_closing", "_deaf", "_head", "_head_bytes", "_head_done", "_header_count",
        "_headers", "_held", "_in_message", "_keep_alive", "_limits", "_linger", "_loop", "_newcomer",
        "_otherwise", "_parser", "_paused", "_pending", "_responder", "_serving", "_transport", "_unsaid",
        "_url", "_waiting", "due",
    )  # fmt: skip

    def __init__(self, application: Application) -> None:
        self._application = application
        self._limits = application.limits
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._parser: Any = httptools.HttpRequestParser(self)
        self._budget = application.budget
        self._held = 0  # of the budget: bodies that have come, until they are answered
        self._serving = 0  # of these, the body that is being answered
        self._waiting: deque[Request] = deque()
        self._responder: Responder | None = None
        self._busy = False
        self._closing = False
        self._paused = False  # the client does not read what it has been sent
        self._deaf = False  # the socket is not read from
        self._chunked = False
        self._newcomer: Framed | None = None  # what is being parsed, if its head may be worth remembering
        self._pending = b""  # the head of an answer, until the first bytes of its body
        self._keep_alive = False
        self._unsaid = False  # the connection stays, and the client takes that for granted
        self._head: RequestHead | None = None  # of the request that is being answered, if it was read
        self._linger = False
        self.due = inf
        self._otherwise: Callable[[], None] | None = None
        self._reset_message()

    def _reset_message(self) -> None:
        self._in_message = False
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_count = self._head_bytes = self._body_bytes = 0
        self._head_done = self._admitted = False
        self._body = bytearray()  # a list of crumbs would take many times what is counted

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer)
        if self._application.opened(self):
            self._wait(self._limits.head_seconds)
        else:
            self._refuse(Refusal(503, "too_many_connections", "This worker is full; try again shortly."))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._in_message and not self._closing:
            self._application.unread("client_gone")
        self._closing = True
        self.due = inf
        self._waiting.clear()
        self._budget.give(self._held)
        self._held = 0
        responder, self._responder = self._responder, None
        if responder is not None:
            responder.client_gone()
        self._application.closed(self)

    def pause_writing(self) -> None:
        self._paused = True
        if self._responder is not None:
            self._responder.client_paused()

    def resume_writing(self) -> None:
        self._paused = False
        if self._responder is not None:
            self._responder.client_resumed()
        elif not self._busy and not self._closing:
            self._between()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._newcomer = None
        if not (self._busy or self._in_message or self._waiting or self._paused):
            heads = self._application.heads
            known = heads.expected(data)
            if known is None:
                self._newcomer = framed(data)
                known = heads.find(data, self._newcomer)
            if known is not None:
                head, body = known  # no call with a star: that is a way of its own through the interpreter
                if self._taken(head, body):
                    return
        while data and not self._closing:
            data = self._read(data)

    def _read(self, data: bytes) -> bytes:
        """What is not recognised is the parser's. What comes back is to be read again, without an offer."""
        within, before = self._in_message, (self._head_done, self._body_bytes)
        offered: int | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            offered = upgrade.args[0]
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, Refusal):
                log.error("a request could not be read", exc_info=cause)
                cause = internal_error()
            self._refuse(cause)
            return b""
        except httptools.HttpParserError as error:
            self._refuse(_malformed(str(error)))
            return b""
        if offered is not None:
            return self._decline_upgrade(data[offered:])
        if within and self._in_message and before == (self._head_done, self._body_bytes):
            # Neither the head nor the body got on: a long header, trailer or chunk extension is being
            # collected. Bytes of the read in which it began are not counted: one read is bounded anyway.
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(self._head_too_large())
        else:
            self._head_bytes = 0
        if self._closing:
            return b""
        if self._head_done and not (self._admitted or self._busy):
            self._admit()
        if self._busy and (self._waiting or self._in_message) and self._ahead() > _AHEAD:
            self._deaf = True
            self._transport.pause_reading()
        return b""

    def _admit(self) -> None:
        """Whether to wait for the rest of a body: a stranger's is not kept. Asked once per request."""
        self._admitted = True
        try:
            self._application.admit(self._headers)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if b"expect" in self._headers and not self._body_bytes:  # who has begun to send waits for nothing
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _taken(self, head: RequestHead, body: bytes) -> bool:
        """Serve a request that came in one piece and whose head is known; False: it is for the parser."""
        size = len(body)
        if size > self._limits.body_bytes or not self._budget.take(size):
            return False
        self._held += size
        self._serve(Request(head, body, time_ns(), monotonic_ns()))
        return True

    def _remember(self, head: RequestHead, body: bytes) -> None:
        """What the parser has said of a head holds whenever these bytes come again."""
        message, self._newcomer = self._newcomer, None
        if (
            message is not None
            and message[1] == body
            and head.keep_alive
            and head.method == "POST"
            and b"content-length" in head.headers
            and head.headers.keys().isdisjoint((b"transfer-encoding", b"expect"))
        ):
            self._application.heads.learn(message[0], head)

    def _ahead(self) -> int:
        """Body bytes of requests whose turn has not come."""
        return self._body_bytes + sum(len(request.body) for request in self._waiting)

    def _decline_upgrade(self, rest: bytes) -> bytes:
        """Go on without it, which RFC 9110 §7.8 allows: the head is to be read again without the offer.

        llhttp ends the message at the head of an offer; what follows would be taken for a new request.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(Refusal(405, "method_not_allowed", "This is no forward proxy: CONNECT is refused."))
            return b""
        offer = (b"connection", b"upgrade", b"http2-settings")
        lines = [b"%b: %b\r\n" % line for line in self._headers.items() if line[0] not in offer]
        left = named(self._headers.get(b"connection", b"")) - {b"upgrade"}
        lines.append(b"connection: %b\r\n" % b", ".join(left))
        version = self._parser.get_http_version().encode()
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self._url, version, b"".join(lines))
        self._parser, self._newcomer = httptools.HttpRequestParser(self), None
        return head + rest

    # httptools

    def on_message_begin(self) -> None:
        self._reset_message()
        self._in_message = True
        if not self._busy:
            self._wait(self._limits.head_seconds)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        if self._header_count > self._limits.header_count:
            raise self._head_too_large()
        if self._head_done:
            return  # a trailer is no header: what a front has removed must not come back behind the body
        name = name.lower()
        if name not in self._headers:
            self._headers[name] = value
        elif name in LISTS:
            self._headers[name] += b", " + value
        elif self._headers[name] != value and single(name):
            raise _malformed(f"the header {name.decode('latin-1')!r} is there with two values")

    def on_headers_complete(self) -> None:
        self._head_done = True
        version = self._parser.get_http_version()
        if version == "1.0":
            self._headers.pop(b"expect", None)  # to be ignored: such a client reads no interim answer
        fault = framing_fault(version, self._headers)
        if fault is not None:
            raise _malformed(fault)
        sized = len(self._url) + sum(len(n) + len(v) + 4 for n, v in self._headers.items())
        if sized > self._limits.head_bytes:
            raise self._head_too_large()
        declared = self._headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limits.body_bytes:
            raise self._body_too_large()
        expectation = self._headers.get(b"expect")
        if expectation is not None and expectation.lower() != b"100-continue":
            raise Refusal(417, "expectation_failed", "Only 'Expect: 100-continue' is understood.")
        if not self._busy:
            self._wait(self._limits.body_seconds)

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes:
            raise self._body_too_large()
        if not self._budget.take(len(data)):
            raise Refusal(
                503, "too_many_bytes", "This worker holds as many bytes as it may; try again shortly."
            )
        self._held += len(data)
        self._body += data

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return  # `_decline_upgrade` follows
        head = RequestHead(
            method=self._parser.get_method().decode("ascii", "replace"),
            path=path_of(self._url),
            headers=self._headers,
            keep_alive=self._parser.should_keep_alive(),
            chunked_ok=self._parser.get_http_version() != "1.0",
        )
        request = Request(head, bytes(self._body), time_ns(), monotonic_ns())
        self._remember(head, request.body)
        self._reset_message()
        if len(self._waiting) >= self._limits.pipelined:
            raise Refusal(400, "too_many_pipelined", "Too many requests were sent ahead of their answers.")
        self._waiting.append(request)
        self._next()

    def _head_too_large(self) -> Refusal:
        limits = self._limits
        message = f"The head has over {limits.head_bytes} bytes or {limits.header_count} headers: send less."
        return Refusal(431, "head_too_large", message)

    def _body_too_large(self) -> Refusal:
        message = f"The body has over {self._limits.body_bytes} bytes, which is this proxy's limit."
        return Refusal(413, "body_too_large", message)

    # one request at a time

    def _next(self) -> None:
        while self._waiting and not (self._busy or self._closing or self._paused):
            request = self._waiting.popleft()
            if self._deaf:
                self._busy = True
                self._listen()
            self._serve(request)

    def _serve(self, request: Request) -> None:
        head = request.head
        self._busy = True
        self._serving = len(request.body)
        self.due = inf
        self._keep_alive = head.keep_alive
        self._unsaid = head.stays_unsaid
        self._head = head
        responder = self._application.handle(request, self)
        if responder is not None and self._busy:
            self._responder = responder

    def _between(self) -> None:
        """Between two answers: on to the next request, or as much patience as the client's state deserves."""
        if not (self._paused or self._waiting or self._in_message):
            self.due = monotonic() + self._limits.keep_alive_seconds
            self._otherwise = None
        elif self._paused:
            self._await_reader(self._transport.get_write_buffer_size())
        elif self._waiting:
            self._loop.call_soon(self._next)
        elif not self._head_done:
            self._wait(self._limits.head_seconds)
        else:
            self._wait(self._limits.body_seconds)
            self._listen()
            if not self._admitted:
                self._admit()

    def _listen(self) -> None:
        """Read on from a socket that was left alone, once what was sent ahead has its turn."""
        if self._deaf and not (self._busy and self._ahead() > _AHEAD):
            self._deaf = False
            self._transport.resume_reading()

    def _await_reader(self, unread: int) -> None:
        """Wait for a client that has answers to read; one that reads nothing for long is given up."""

        def look() -> None:
            left = self._transport.get_write_buffer_size()
            if left < unread:
                self._await_reader(left)
            else:
                self.abort()

        self._wait(self._limits.stalled_reader_seconds, look)

    def _wait(self, seconds: float, otherwise: Callable[[], None] | None = None) -> None:
        self.due = monotonic() + seconds
        self._otherwise = otherwise

    def overdue(self, now: float) -> None:
        """What was waited for has not come."""
        self.due = inf
        (self._otherwise or self._too_slow)()

    def _too_slow(self) -> None:
        if self._in_message:
            self._refuse(Refusal(408, "request_too_slow", "The request did not arrive in time."))
        else:
            self.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what is no acceptable request, and close; behind a running answer, only close."""
        if self._transport is None or self._closing:
            return
        self._application.unread(refusal.code)
        if self._busy or self._waiting:
            self.abort()
            return
        self._budget.give(self._held)
        self._held, self._body = 0, bytearray()
        self._busy, self._keep_alive, self._head, self._linger = True, False, None, True
        self.decline(refusal)

    # answers

    @property
    def gone(self) -> bool:
        return self._closing

    def respond(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """A whole JSON answer of Turnout's own. `headers` are complete lines."""
        lines = b"content-type: application/json\r\n" + headers
        self.start(status, lines, length=len(body))
        self.end(b"" if self._head and self._head.method == "HEAD" else body)

    def decline(self, refusal: Refusal, headers: bytes = b"") -> None:
        """The answer is a refusal."""
        self.respond(refusal.status, refusal.body(), headers)

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        """Begin an answer. Without a length the body is chunked, or ends with the connection in HTTP/1.0."""
        bare = status in _BODILESS
        self._chunked = length is None and not bare and (self._head is None or self._head.chunked_ok)
        if bare:
            framing = b""
        elif length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self._chunked:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing, self._keep_alive = b"", False
        if self._application.draining:
            self._keep_alive = False
        connection = b"" if self._unsaid else b"connection: keep-alive\r\n"
        if not self._keep_alive:
            connection = b"connection: close\r\n"
        self._pending = b"".join((status_line(status), headers, framing, connection, b"\r\n"))

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """A whole answer, in one write unless it is long."""
        if self._closing:
            return
        size = len(body)
        if size < _JOINED and status not in _BODILESS and self._unsaid and not self._application.draining:
            answer = status_line(status), headers, b"content-length: ", str(size).encode(), b"\r\n\r\n", body
            self._transport.write(b"".join(answer))
            self._done()
            return
        self.start(status, headers, size)
        self.end(body)

    def write(self, data: bytes, chunks: bytes = b"") -> None:
        """A piece of the body; the head goes out with the first. `chunks`: the same in chunks, if it is."""
        if self._closing or not data:
            return
        if self._chunked:
            data = chunks or b"".join((beginning(len(data)), data, b"\r\n"))
        if self._pending:
            data, self._pending = self._pending + data, b""
        self._transport.write(data)

    def end(self, data: bytes = b"") -> None:
        """With this last piece of the body the answer is whole; on to the next request."""
        if self._closing:
            return
        if self._chunked:
            data = b"%b%b\r\n0\r\n\r\n" % (beginning(len(data)), data) if data else b"0\r\n\r\n"
        if self._pending:
            data, self._pending = self._pending + data, b""
        if data:
            self._transport.write(data)
        self._done()

    def _done(self) -> None:
        """An answer is written."""
        self._responder = None
        self._busy = False
        self._budget.give(self._serving)
        self._held -= self._serving
        self._serving = 0
        if not self._keep_alive or self._application.leaving:
            self._closing = True
            self._leave()
        else:
            self._between()

    def _leave(self) -> None:
        """Close; where the client may still be sending, let it read the answer before the reset comes."""
        if self._linger and self._transport.can_write_eof():
            self._transport.write_eof()
            self._wait(_LINGER_SECONDS, self.abort)
        else:
            self._transport.close()
            self._await_reader(self._transport.get_write_buffer_size())

    def abort(self) -> None:
        """End the connection so that the client can tell that the answer is not whole."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self) -> None:
        """For leaving: a connection between two requests need not be waited for."""
        if not (self._busy or self._waiting or self._in_message or self._closing):
            self._closing = True
            self._transport.close()
