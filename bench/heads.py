"""What does a head cost the proxy that differs in each request, against one that it has seen before?

    python -m bench.heads

A client's connection without its socket: from the bytes of a request to the call that would relay it. CPU
microseconds per request, the least of seven runs, for a head that comes again, one with a trace context that
is new each time, and one that comes in two reads.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Final

from proxy.application import Request
from proxy.heads import KnownHeads, RequestHead
from proxy.limits import Budget, Limits
from proxy.server import ClientConnection

_REQUESTS: Final = 20_000
_RUNS: Final = 7
_BODY: Final = b'{"model":"chat","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 580)
_HEAD: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nuser-agent: OpenAI/Python 2.8.0\r\n"
    b"accept: application/json\r\ncontent-type: application/json\r\nauthorization: Bearer sk-test\r\n"
    b"traceparent: 00-%032x-00f067aa0ba902b7-01\r\ncontent-length: %d\r\n\r\n"
)


class Answered:
    """An application that answers at once."""

    draining = leaving = False

    def __init__(self) -> None:
        self.limits = Limits()
        self.budget = Budget(1 << 30)
        self.heads: KnownHeads[RequestHead] = KnownHeads()

    def handle(self, request: Request, client: ClientConnection) -> None:
        client.answer(200, b"", b"{}")

    def opened(self, client: ClientConnection) -> bool:
        return True

    def closed(self, client: ClientConnection) -> None: ...
    def admit(self, headers: dict[bytes, bytes]) -> None: ...
    def unread(self, reason: str) -> None: ...


class Nowhere(asyncio.Transport):
    """Takes what is written."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


def microseconds(take: Callable[[bytes], None], pieces: list[bytes]) -> float:
    """CPU per request."""
    least = float("inf")
    for _ in range(_RUNS):
        began = time.thread_time_ns()
        for piece in pieces:
            take(piece)
        least = min(least, time.thread_time_ns() - began)
    return round(least / _REQUESTS / 1e3, 1)


async def main() -> None:
    """Print one line of JSON."""
    connection = ClientConnection(Answered())
    connection.connection_made(Nowhere())
    differing = [_HEAD % (number, len(_BODY)) + _BODY for number in range(_REQUESTS)]
    same = [differing[0]] * _REQUESTS
    halves = [half for request in same for half in (request[:400], request[400:])]
    take = connection.data_received
    found = {"known": same, "new": differing, "in two reads": halves}
    print(json.dumps({name: microseconds(take, pieces) for name, pieces in found.items()}))


if __name__ == "__main__":
    asyncio.run(main())
