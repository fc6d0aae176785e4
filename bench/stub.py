"""What does the benchmark put behind a proxy? An engine that costs as little as Python can, and counts.

    python -m bench.stub PORT [PORT...]

`POST` with `"stream":true` gets 34 events, one every `delay_us` (`GET /set?delay_us=N`); any other POST one
JSON document of 744 bytes. `GET /count` says how many requests each port has had.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any, Final

import orjson
import uvloop

EVENTS: Final = 34
_ID: Final = "chatcmpl-0123456789abcdef0123456789abcdef"
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {"id": _ID, "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": [choice]}
    return b"data: %b\n\n" % orjson.dumps(body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json() -> bytes:
    message = {"role": "assistant", "content": "A canary release sends a small share of the traffic. " * 8}
    usage = {"prompt_tokens": 87, "completion_tokens": 48, "total_tokens": 135}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps({"id": _ID, "object": "chat.completion", "choices": [choice], "usage": usage})


def _answer(body: bytes) -> bytes:
    return _HEAD % (b"application/json", b"content-length: %d\r\n" % len(body)) + body


_WHOLE: Final = _answer(_json())
_USAGE: Final = (
    b'data: {"choices":[],"usage":{"prompt_tokens":87,"completion_tokens":32,"total_tokens":119}}\n\n'
)
_PIECES: Final = (
    _HEAD % (b"text/event-stream", b"transfer-encoding: chunked\r\n") + _chunk(_event({"content": "Hello"})),
    *[_chunk(_event({"content": " token"}))] * (EVENTS - 3),
    _chunk(_event({"content": "."}, "stop")),
    _chunk(_USAGE) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
)


class Stub:
    """All ports of one process."""

    def __init__(self) -> None:
        self.delay_us = 0
        self.counts: dict[int, int] = {}


class _Connection(asyncio.Protocol):
    def __init__(self, stub: Stub, port: int) -> None:
        self._stub, self._port = stub, port
        self._transport: Any = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            request, self._received = self._received[:whole], self._received[whole:]
            self._serve(request)

    def _serve(self, request: bytes) -> None:
        stub = self._stub
        if not request.startswith(b"POST"):
            told = re.match(rb"GET /set\?delay_us=(\d+)", request)
            if told:
                stub.delay_us = int(told[1])
            counts = {str(port): count for port, count in stub.counts.items()}
            self._transport.write(_answer(orjson.dumps(counts)))
            return
        stub.counts[self._port] += 1
        if b'"stream":true' in request:
            self._stream(0)
        else:
            self._transport.write(_WHOLE)

    def _stream(self, at: int) -> None:
        if self._transport is None:
            return
        self._transport.write(_PIECES[at])
        if at + 1 < len(_PIECES):
            loop = asyncio.get_running_loop()
            if self._stub.delay_us:
                loop.call_later(self._stub.delay_us / 1e6, self._stream, at + 1)
            else:
                loop.call_soon(self._stream, at + 1)


async def _main(ports: list[int]) -> None:
    loop, stub = asyncio.get_running_loop(), Stub()
    for port in ports:
        stub.counts[port] = 0
        await loop.create_server(lambda port=port: _Connection(stub, port), "127.0.0.1", port, backlog=1024)  # type: ignore[misc]
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main([int(port) for port in sys.argv[1:]]))
