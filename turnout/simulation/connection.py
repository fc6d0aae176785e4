"""How do bytes come in and go out? HTTP/1.1 by hand, because the engine must be able to break it.

A connection reads whole requests, keeps them verbatim, and gives them one at a time to `respond`; a
`Response` writes head and body and commits the faults that lie in bytes. Nothing here knows what the
bodies say.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, cast

from .faults import NONE, Faults

MAX_HEAD: Final = 1 << 20
MAX_BODY: Final = 256 << 20
_HEAD_END: Final = b"\r\n\r\n"
#: closing with this set sends RST in place of FIN
_RESET: Final = struct.pack("ii", 1, 0)


class Severed(Exception):
    """The engine itself has ended the connection, as a fault asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request; `raw` is head and body as they came."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    raw: bytes
    complete: bool = True

    @property
    def closes(self) -> bool:
        """Whether the client wants no further answer on this connection."""
        return self.headers.get(b"connection", b"").lower() == b"close"


class BadRequest(Exception):
    """Bytes that are no HTTP request."""


class Listener(Protocol):
    """What a connection needs of the engine."""

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...

    def peek(self, head: Request) -> bool:
        """Whether to answer now, before the rest of the body."""
        ...

    def respond(self, request: Request, response: Response) -> Awaitable[None]: ...


def _head(raw: bytes) -> tuple[str, str, dict[bytes, bytes]]:
    first, *lines = raw.split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadRequest("the request line is no HTTP/1.1")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise BadRequest("a header line has no name")
        headers[name.lower()] = value.strip()
    if parts[2] == b"HTTP/1.0":
        headers.setdefault(b"connection", b"close")
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise BadRequest("both content-length and transfer-encoding")
    if not headers.get(b"content-length", b"0").isdigit():
        raise BadRequest("content-length is no number")
    return parts[0].decode("ascii", "replace"), parts[1].decode("ascii", "replace"), headers


class Connection(asyncio.Protocol):
    """One client's connection. Requests are answered in order; what follows waits in the buffer."""

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self._listener = listener
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._continued = False
        self._chunk_at = 0
        self._chunked_body = bytearray()
        self._discarding = False
        self.drops_next = False

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, while there is a connection."""
        if self._transport is None:
            raise Severed
        return self._transport

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The exchange that is running."""
        return self._task

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._listener.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._task is not None:
            self._task.cancel()
        self._listener.closed(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._buffer += data
        if self.drops_next:
            self.close()
        elif self._task is None:
            self._take()

    def _take(self) -> None:
        """Start on the next request if the buffer holds enough of it."""
        try:
            request = self._next()
        except (BadRequest, ValueError) as problem:
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n" + str(problem).encode()
            )
            self.close()
            return
        if request is not None:
            self._task = self._loop.create_task(self._exchange(request))

    def _next(self) -> Request | None:
        end = self._buffer.find(_HEAD_END, 0, MAX_HEAD)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD:
                raise BadRequest("the head is too large")
            return None
        method, path, headers = _head(bytes(self._buffer[:end]))
        start = end + len(_HEAD_END)
        chunked = b"transfer-encoding" in headers
        length = int(headers.get(b"content-length", b"0"))
        if length > MAX_BODY:
            raise BadRequest("the body is too large")
        stop = self._dechunk(start) if chunked else start + length
        if stop is not None and stop <= len(self._buffer):
            body = bytes(self._chunked_body) if chunked else bytes(self._buffer[start:stop])
            raw = bytes(self._buffer[:stop])
            del self._buffer[:stop]
            self._continued, self._chunk_at = False, 0
            self._chunked_body.clear()
            return Request(method=method, path=path, headers=headers, body=body, raw=raw)
        raw = bytes(self._buffer[: start + (64 << 10)])
        partial = Request(
            method=method, path=path, headers=headers, body=raw[start:], raw=raw, complete=False
        )
        if self._listener.peek(partial):
            return partial
        if headers.get(b"expect", b"").lower() == b"100-continue" and not self._continued:
            self._continued = True
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _dechunk(self, start: int) -> int | None:
        """Read on in a chunked body; where it ends, if it has come whole."""
        at = self._chunk_at or start
        while True:
            line = self._buffer.find(b"\r\n", at)
            if line < 0:
                return None
            size = int(bytes(self._buffer[at:line]).partition(b";")[0], 16)
            after = line + 2 + size
            if size > MAX_BODY:
                raise BadRequest("a chunk is too large")
            if len(self._buffer) < after + 2:
                return None
            if size == 0:
                return after + 2
            self._chunked_body += self._buffer[line + 2 : after]
            at = self._chunk_at = after + 2

    async def _exchange(self, request: Request) -> None:
        response = Response(self)
        try:
            await self._listener.respond(request, response)
        except Severed:
            return
        self._task = None
        if not request.complete:
            self._linger()
        elif response.closes or request.closes:
            self.close()
        elif self._transport is not None and self._buffer:
            self._take()

    def _linger(self) -> None:
        """Answered before the body came: closing with bytes unread would reset, and eat the answer."""
        self._discarding = True
        self._buffer.clear()
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(1.0, self.close)

    async def drain(self) -> None:
        """Wait while the client reads too slowly. A client that leaves cancels the exchange."""
        await self._writable.wait()

    def close(self) -> None:
        """FIN, after what was written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once, without its client in mind."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """RST in place of FIN."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()


class Response:
    """Writes one answer. `faults` may be set until the head is written."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._chunked = False
        self._written = 0
        self.faults: Faults = NONE
        self.status = 0
        self.closes = False
        #: the body's bytes, if they are wanted
        self.kept: bytearray | None = None

    def _begin(self, status: int, content_type: str, framing: bytes, headers: Iterable[bytes]) -> None:
        self.status = status
        self.closes = self.closes or self.faults.no_keepalive
        self._connection.drops_next = self.faults.stale_drop
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(),
            b"server: turnout-simulation",
            b"x-simulated: 1",
            b"content-type: " + content_type.encode(),
            framing,
            *headers,
        ]
        if self.closes:
            lines.append(b"connection: close")
        self._connection.transport.write(b"\r\n".join(lines) + _HEAD_END)

    async def whole(
        self, status: int, body: bytes, content_type: str = "application/json", headers: Iterable[bytes] = ()
    ) -> None:
        """A body of known length."""
        self._begin(status, content_type, b"content-length: %d" % len(body), headers)
        if self.faults.end_delay:
            await self.write(body[:-1])
            await asyncio.sleep(self.faults.end_delay)
            body = body[-1:]
        await self.write(body)
        await self._finish()

    def begin(self, content_type: str) -> None:
        """The head of a body in chunks; `write` and `end` follow."""
        self._chunked = True
        self._begin(200, content_type, b"transfer-encoding: chunked", ())

    async def end(self) -> None:
        """The end of a body in chunks."""
        if self.faults.end_delay:
            await asyncio.sleep(self.faults.end_delay)
        self._connection.transport.write(b"0\r\n\r\n")
        await self._finish()

    async def _finish(self) -> None:
        await self._connection.drain()
        self.closes = self.closes or self.faults.stale

    async def write(self, data: bytes) -> None:
        """A piece of the body, subject to the faults that strike at a byte. Raises Severed."""
        faults = self.faults
        limits = [at for at in (faults.rst_at, faults.cut_at, faults.hang_at) if at is not None]
        if limits and self._written + len(data) >= min(limits):
            await self._emit(data[: min(limits) - self._written])
            await self._strike(min(limits))
        else:
            await self._emit(data)

    async def _strike(self, at: int) -> None:
        if at == self.faults.hang_at:
            await asyncio.Event().wait()
        elif at == self.faults.rst_at:
            # What was written before must have left: a reset discards what waits in the kernel.
            await asyncio.sleep(0.01)
            self._connection.reset()
        else:
            self._connection.close()
        raise Severed

    async def _emit(self, data: bytes) -> None:
        faults = self.faults
        size = faults.slice or (max(1, faults.bandwidth // 20) if faults.bandwidth else 0)
        if not size:
            await self._send(data)
            return
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            await self._send(piece)
            await asyncio.sleep(len(piece) / faults.bandwidth if faults.bandwidth else 0)

    async def _send(self, piece: bytes) -> None:
        if not piece:
            return
        self._written += len(piece)
        if self.kept is not None:
            self.kept += piece
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece
        self._connection.transport.write(framed)
        await self._connection.drain()

    async def severed(self, raw: bytes = b"", *, reset: bool = False) -> None:
        """End the connection without an answer, after some raw bytes. Raises Severed."""
        if raw:
            self._connection.transport.write(raw)
        if reset:
            self._connection.reset()
        else:
            self._connection.close()
        raise Severed
