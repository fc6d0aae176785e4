"""How is a question posted to the proxy, over connections that are kept?

HTTP/1.1 on asyncio and httptools, as the data path speaks it: at twenty milliseconds an answer the client's
own work decides whether a golden run keeps the engine busy, and a general client takes several times as long
over a request (bench/golden_run.py). Knows nothing of questions. No proxies of the environment, no redirects,
no cookies, no compression. The caller times a call as a whole, and its cancellation closes the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

#: Answers without a body, whatever their headers say.
_BARE: Final = frozenset((204, 304))


class ConnectionBroken(ConnectionError):
    """The connection ended, or spoke no HTTP, before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names are in lower case; of one that comes twice the last counts."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Wire:
    """POSTs to one URL with one set of headers. At most as many connections as calls at a time.

    Raises ValueError for an address that is none, and for a header that would end its line.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address: expected http://HOST:PORT")
        if bad := [name for name, value in headers.items() if not (value.isascii() and value.isprintable())]:
            raise ValueError(f"the value of {', '.join(bad)} has characters that no header has")
        self._host, self._secure = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        host = parts.netloc.rpartition("@")[2]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{lines}content-length: ".encode()
        self._idle: list[_Connection] = []

    async def post(self, body: bytes, seen: dict[str, str]) -> Answer:
        """The answer. `seen` is filled with its headers as soon as they are there, for those who wait for
        the rest in vain. Raises OSError."""
        connection = self._free() or await self._connect()
        try:
            answer = await connection.post(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), seen)
        except BaseException:
            connection.close()
            raise
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()
        await asyncio.sleep(0)  # a transport closes in the loop's next round, which may be its last

    def _free(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        secured = ssl.create_default_context() if self._secure else None
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(_Connection, self._host, self._port, ssl=secured)
        return protocol


class _Connection(asyncio.Protocol):
    """One connection; one call at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._kept = True  # whether the other side keeps it after this answer

    @property
    def usable(self) -> bool:
        return self._kept and self._transport is not None and not self._transport.is_closing()

    async def post(self, request: bytes, seen: dict[str, str]) -> Answer:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers, self._pieces, self._status, self._framed = seen, list[bytes](), 0, False
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        self._waiting = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:  # bytes that nobody asked for: they would become the next call's answer
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"no HTTP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._status and not self._framed and exc is None:
            self._kept = False
            self._finish()  # a body that the end of the connection delimits
        else:
            self._fail(str(exc or "the connection was closed before the answer was whole"))

    # httptools

    def on_message_begin(self) -> None:
        if self._waiting is None:  # a second answer to one question
            self._kept, self._headers = False, {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer: the next one counts
            self._headers.clear()
            return
        self._status = status
        framing = self._headers.keys() & {"content-length", "transfer-encoding"}
        self._framed = status in _BARE or bool(framing)

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._status and self._waiting is not None:
            self._kept = self._parser.should_keep_alive()
            self._finish()

    def _finish(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(self._status, self._headers, b"".join(self._pieces)))

    def _fail(self, why: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(ConnectionBroken(why))
