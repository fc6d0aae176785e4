"""How fast does what listens on a port answer? The benchmark's client: closed loops, open loops, streams.

    python -m bench.load {closed,open} PORT BODY --seconds S [--connections N] [--rate R] [--header H]

Prints one JSON line; latencies are in microseconds. BODY is a file; the digits of its `u-000000` are made
another user for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

import orjson
import uvloop

_USERS: Final = 1024
_WARM_SECONDS: Final = 1.0


@dataclass(slots=True)
class Seen:
    """What the clients have seen."""

    latencies: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    events: int = 0
    failed: int = 0

    def quantiles(self, values: list[int]) -> list[float]:
        """Median and 99th percentile, in microseconds."""
        ordered = sorted(values)
        return [ordered[int(len(ordered) * share)] / 1e3 for share in (0.5, 0.99)] if ordered else []


class _Client(asyncio.Protocol):
    """One connection, one request at a time; `ended` is called after each answer."""

    def __init__(self, seen: Seen, ended: Callable[[_Client], None]) -> None:
        self._seen, self._ended = seen, ended
        self._transport: Any = None
        self._began = self._last = 0
        self._head, self._left = b"", -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._began:
            self._seen.failed += 1

    def ask(self, request: bytes, began: int = 0) -> None:
        """Send; with `began`, the time is counted from then, so that waiting for a connection counts too."""
        self._began = began or monotonic_ns()
        self._last, self._head, self._left = 0, b"", -1
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now, seen = monotonic_ns(), self._seen
        events = data.count(b"data: ")
        if events:
            seen.events += events
            (seen.gaps if self._last else seen.firsts).append(now - (self._last or self._began))
            self._last = now
        if self._left < 0:
            self._head += data
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                seen.failed += 1
            told = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._left = int(told) - len(body) if told else 1 << 62
        else:
            self._left -= len(data)
        if self._left == 0 or data.endswith(b"0\r\n\r\n"):
            seen.latencies.append(now - self._began)
            self._began = 0
            self._ended(self)


def _requests(body: bytes, headers: list[str]) -> list[bytes]:
    lines = "".join(f"{line}\r\n" for line in ("Host: bench", "Content-Type: application/json", *headers))
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode()
    return [head + body.replace(b"u-000000", b"u-%06d" % number) for number in range(_USERS)]


async def closed(port: int, requests: list[bytes], connections: int, seconds: float) -> tuple[Seen, float]:
    """`connections` clients that ask again as soon as they are answered."""
    loop, users = asyncio.get_running_loop(), cycle(requests)
    seen, running = Seen(), True

    def again(client: _Client) -> None:
        if running:
            client.ask(next(users))

    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(seen, again), "127.0.0.1", port)
        client.ask(next(users))
    began = monotonic_ns()
    await asyncio.sleep(seconds)
    took = (monotonic_ns() - began) / 1e9
    running = False
    return seen, took


async def open_loop(port: int, requests: list[bytes], rate: float, seconds: float) -> tuple[Seen, float]:
    """`rate` requests a second, whatever the answers do."""
    loop, users = asyncio.get_running_loop(), cycle(requests)
    seen = Seen()
    idle: deque[_Client] = deque()
    for _ in range(64):
        _, client = await loop.create_connection(lambda: _Client(seen, idle.append), "127.0.0.1", port)
        idle.append(client)
    for warm in (True, False):
        seen.latencies.clear()
        seen.firsts.clear()
        began = monotonic_ns()
        for number in range(int(rate * (_WARM_SECONDS if warm else seconds))):
            due = began + int(number * 1e9 / rate)
            while (wait := due - monotonic_ns()) > 0:  # noqa: ASYNC110 - this is a clock
                await asyncio.sleep(wait / 1e9 if wait > 2_000_000 else 0)
            while not idle:  # noqa: ASYNC110 - and so is its being late
                await asyncio.sleep(0)
            idle.popleft().ask(next(users), due)
        await asyncio.sleep(0.3)
    return seen, seconds


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("closed", "open"))
    parser.add_argument("port", type=int)
    parser.add_argument("body", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--header", action="append", default=[])
    given = parser.parse_args(argv)
    requests = _requests(given.body.read_bytes(), given.header)
    if given.kind == "closed":
        seen, took = uvloop.run(closed(given.port, requests, given.connections, given.seconds))
    else:
        seen, took = uvloop.run(open_loop(given.port, requests, given.rate, given.seconds))
    told = {
        "answers": len(seen.latencies),
        "per_second": len(seen.latencies) / took,
        "events_per_second": seen.events / took,
        "latency": seen.quantiles(seen.latencies),
        "first": seen.quantiles(seen.firsts),
        "gap": seen.quantiles(seen.gaps),
        "failed": seen.failed,
    }
    sys.stdout.write(orjson.dumps(told).decode() + "\n")


if __name__ == "__main__":
    main()
