"""How is one connection to a replica of an endpoint kept, used again, and read?

What arrives is handed to the call that the connection serves at the moment. A head that llhttp has accepted
once is recognised by its bytes (`heads`), and so are whole chunks behind it (`chunks`); everything else is
the parser's. Which replica is asked, how long it may take and what follows from a failure is for `upstream`
to say.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httptools

from .chunks import unchunked
from .heads import AnswerHead, Framed, KnownAnswers, answer_head, framed, raw_head
from .limits import Limits

if TYPE_CHECKING:
    from .upstream import Call

log = logging.getLogger("turnout.proxy")

#: Idle connections kept per replica.
_KEEP: Final = 256
#: How long a replica that takes no connections is left alone at most.
_LONGEST_REST_SECONDS: Final = 30.0
#: Between two complaints about a replica.
_SILENT_SECONDS: Final = 10.0
#: A host that has gone without a word (a power cut, a firewall that has forgotten the connection) is noticed
#: within a minute: it is silent to a request, or to the probes of a connection on which nothing is sent. They
#: also keep firewalls from forgetting. What a system does not have of it is left out.
_TCP_OPTIONS: Final = tuple(
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),  # seconds
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 60_000),  # milliseconds
    )
    if hasattr(socket, name)
)
#: Statuses whose answers have no body, whatever their heads say.
_BARE: Final = (204, 304)


class _GarbledError(ValueError):
    """An answer that cannot be handed on; the message says why."""


class Replica:
    """One base URL: where to connect, what is idle, how much is outstanding."""

    def __init__(self, url: str, limits: Limits, heads: KnownAnswers | None = None) -> None:
        self.url = url
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if secure else 80)
        self.prefix = parts.path.rstrip("/").encode()
        self.authority = parts.netloc.encode()
        self.ssl = ssl.create_default_context() if secure else None
        self.limits = limits
        self.heads = heads or KnownAnswers()
        self.outstanding = 0
        #: by `time.monotonic`: until then others are asked, if there are others
        self.resting_until = 0.0
        self._failures = 0  # to connect, since it last could be
        self._tell_again = 0.0
        self.openings: dict[str, bytes] = {}
        self._retired = False
        self._idle: list[Connection] = []

    def opening(self, path: str) -> bytes:
        """How requests to a path begin, made on first use: paths are the few of `wire.APIS`."""
        parts = self.prefix, path.encode("latin-1"), self.authority
        opening = self.openings[path] = b"POST %b%b HTTP/1.1\r\nhost: %b\r\n" % parts
        return opening

    def take(self) -> Connection | None:
        """The most recently used idle connection: the least likely to have been closed meanwhile. None: the
        caller connects, and alone where that has failed before."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                return connection
        if self._failures:
            self.rest(self.limits.connect_seconds)
        return None

    def give(self, connection: Connection) -> None:
        """Keep a connection for the next call."""
        connection.fresh = False
        if len(self._idle) < _KEEP and not self._retired:
            self._idle.append(connection)
        else:
            connection.close()

    def forget(self, connection: Connection) -> None:
        """The connection was closed by the other side while idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def connect(self) -> Connection:
        """A new connection. Raises OSError (a timeout is one), or ValueError for a name that is no host.

        After a failure the replica rests, for longer each time.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: Connection(self), self.host, self.port, ssl=self.ssl
                )
            if not connection.usable:  # it ended before it was used: nobody will hear of that end again
                raise ConnectionResetError("it was closed at once")
            for option in _TCP_OPTIONS:
                connection.transport.get_extra_info("socket").setsockopt(*option)
        except Exception as error:
            self._failures += 1
            self.rest(min(2.0 ** (self._failures - 1), _LONGEST_REST_SECONDS))
            self.complain("cannot be reached: %s", self._why(error))
            raise
        self._failures, self.resting_until = 0, 0.0
        return connection

    def _why(self, error: Exception) -> object:
        if isinstance(error, TimeoutError):
            return f"no connection within {self.limits.connect_seconds:g} s"
        if isinstance(error, ConnectionError) and error.errno is not None:
            return os.strerror(error.errno)  # asyncio has other words for it than uvloop
        return error

    def rest(self, seconds: float) -> None:
        """Leave it alone for a while, as long as there are others."""
        self.resting_until = monotonic() + seconds

    def complain(self, what: str, *details: object) -> None:
        """Tell the log what is wrong with it, but not for each request."""
        now = monotonic()
        if now >= self._tell_again:
            self._tell_again = now + _SILENT_SECONDS
            log.warning("the engine at %s " + what, self.url, *details)

    def close(self) -> None:
        """Close what is idle; what is busy is closed when its call has ended."""
        self._retired = True
        while self._idle:
            self._idle.pop().close()


class Connection(asyncio.Protocol):
    """One connection to a replica: serves one call at a time."""

    __slots__ = (
        "_answering", "_framed", "_head", "_headers", "_interim", "_newcomer", "_parser",
        "_pieces", "_raw_head", "_unparsed", "call", "fresh", "on_body", "replica", "transport",
    )  # fmt: skip

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.call: Call | None = None
        self.fresh = True
        self.transport: Any = None
        self._pieces: list[bytes] = []  # of the body, in one read
        self.on_body = self._pieces.append
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._head: AnswerHead | None = None
        self._newcomer: Framed | None = None  # what is being parsed, if its head may be worth remembering
        self._raw_head = b""  # the head of what is being parsed, if it came whole
        self._unparsed = b""  # the head of an answer in chunks, while none of it is the parser's
        self._framed = False
        self._interim = False
        self._answering = False

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def run(self, call: Call, request: bytes) -> None:
        """Send a request; the answer goes to `call`."""
        self.call = call
        self._answering = False
        self.transport.write(request)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        self.transport.pause_reading()

    def resume(self) -> None:
        if self.usable:
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        call = self.call
        if call is None:  # bytes nobody asked for: the connection cannot be trusted any more
            self.close()
            return
        try:
            if self._recognised(data, call):
                return
            if self._unparsed:  # behind whole chunks, the parser would be where it is behind the head
                data, self._unparsed = self._unparsed + data, b""
            self._parser.feed_data(data)
            if self.call is call:
                call.body(self._body())
        except Exception as error:
            self._give_up(call, error)

    def _give_up(self, call: Call, error: Exception) -> None:
        """An answer cannot be handed on: it is no HTTP/1.1, or that is a defect of ours."""
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
        garbled = isinstance(cause, (_GarbledError, httptools.HttpParserError, httptools.HttpParserUpgrade))
        if garbled:
            self.replica.complain("does not answer in HTTP/1.1: %s", cause)
        else:
            log.error("an answer could not be relayed", exc_info=cause)
        serving = self.call is call
        if serving:
            self.call = None
            self.close()
        if serving or not garbled:  # else it has heard its end before what is garbled behind that
            call.broken("upstream_garbled")

    def _recognised(self, data: bytes, call: Call) -> bool:
        """Take what needs no parser; False: it is for the parser, and so is the rest of this answer."""
        if self._answering:
            return bool(self._unparsed) and self._whole_chunks(data, 0, call)
        self._answering = True
        heads = self.replica.heads
        known = heads.expected(data)
        if known is None:
            stream = heads.stream(data)
            if stream is not None:
                head, raw = stream
                return self._begun(head, raw, data, call)
            self._newcomer = framed(data)
            known = heads.find(data, self._newcomer)
            if known is None:
                self._raw_head = raw_head(data)
                return False
            self._newcomer = None
        self.call = None
        self._release()
        head, body = known
        call.answered(head, body)
        return True

    def _begun(self, head: AnswerHead, raw: bytes, data: bytes, call: Call) -> bool:
        """Take the known head of a stream, and what has come behind it."""
        self._framed = True
        self._head, self._interim = head, False
        call.head(head)
        if self.call is not call:
            return True
        self._unparsed = raw
        if not self._whole_chunks(data, len(raw), call):
            self._unparsed = b""  # the parser gets it with the rest
            return False
        return True

    def _whole_chunks(self, data: bytes, at: int, call: Call) -> bool:
        """Take what has come from `at` on of a body in chunks, if it is whole ones."""
        read = unchunked(data, at)
        if read is None:
            return False
        body, ended = read
        if ended:
            self._unparsed = b""
            self.call = self._head = None
            self._release()
            call.finish(body)
        else:
            call.body(body, data[at:])
        return True

    def _release(self) -> None:
        """Keep the connection for the next call, if this one has ended well."""
        # An answer that came before the request was taken whole leaves the connection out of step.
        if self.transport.get_write_buffer_size():
            self.close()
        else:
            self.replica.give(self)

    def connection_lost(self, exc: Exception | None) -> None:
        call, self.call = self.call, None
        if call is None:
            self.replica.forget(self)
        elif not self._answering and not self.fresh:
            call.stale()
        elif call.got_head and not self._framed and exc is None:
            call.finish(b"")  # a body that the end of the connection delimits
        else:
            call.broken("upstream_cut")

    # httptools

    def on_message_begin(self) -> None:
        self._headers = []
        self._framed = False
        if self.call is None:  # an answer nobody asked for would become the next caller's
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.call is not None and self.call.got_head:
            return  # it was recognised, and told
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        if self.call is not None and not self._interim:
            if status in _BARE:
                self._framed = True
            for name, value in self._headers:
                if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                    raise _GarbledError(f"transfer-encoding {value.decode('latin-1')!r} was not asked for")
            self._head = head = answer_head(status, self._headers)
            self._remember_stream(head)
            self.call.head(head)
        self._raw_head = b""

    def _remember_stream(self, head: AnswerHead) -> None:
        """What the parser has said of the head of a stream holds whenever these bytes come again."""
        raw, lines = self._raw_head, len(self._headers) + 2
        if (
            raw
            and (head.status, head.length, self._framed) == (200, None, True)
            and self._parser.should_keep_alive()
            and raw.count(b"\r\n") == raw.count(b"\n") == lines  # they are this head, and no other
        ):
            self.replica.heads.learn_stream(raw, head)

    def _body(self) -> bytes:
        """What of the body has come since this was asked last."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def on_message_complete(self) -> None:
        call, head = self.call, self._head
        if call is None or head is None or self._interim:
            return
        self.call = self._head = None
        keep_alive = self._parser.should_keep_alive()
        message, self._newcomer = self._newcomer, None
        if message and keep_alive and head.status not in _BARE and head.length == len(message[1]):
            self.replica.heads.learn(message[0], replace(head, length=None))  # of the next one it is another
        if self._framed and keep_alive:
            self._release()
        else:
            self.close()
        call.finish(self._body())
