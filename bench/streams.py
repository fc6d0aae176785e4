"""How fast does an engine speak, as its clients see it? Closed loops of streams, from several processes.

Each connection asks, reads its stream to the end and asks again, a set number of times: so what is compared
is the same work, not the same seconds. One process reads some ten thousand events a second; an engine on a
GPU sends more, so the connections are shared out among processes that begin together.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from math import ceil
from time import monotonic_ns
from typing import Any, Final

import orjson
import uvloop

from turnout.load import prompt

#: Processes need so long to start and to connect; then all begin at once.
_BEGIN_AFTER_NS: Final = 1_500_000_000
_PATIENCE_SECONDS: Final = 240.0
#: The last events hold the usage, and `[DONE]`.
_TAIL: Final = 1200
_COUNTED: Final = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to ask, and where. No two prompts begin alike while `first` moves on: no prefix cache answers."""

    host: str
    port: int
    model: str
    key: str = ""
    connections: int = 1
    each: int = 1
    tokens: int = 128
    words: int = 128
    first: int = 0

    @property
    def requests(self) -> int:
        return self.connections * self.each

    def request(self, number: int) -> bytes:
        """Request number `number`, as bytes on the wire. Its answer has exactly `tokens` tokens."""
        body = orjson.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": prompt(number, self.words)}],
                "max_tokens": self.tokens,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
                "user": f"bench-{number}",
            }
        )
        return post("/v1/chat/completions", self.host, self.key, body)


def post(path: str, host: str, key: str, body: bytes) -> bytes:
    """A request on the wire."""
    lines = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    lines += f"Authorization: Bearer {key}\r\n" if key else ""
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(slots=True)
class Seen:
    """What clients have seen; times in nanoseconds. A gap is between two reads that bring events."""

    firsts: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    wholes: list[int] = field(default_factory=list)
    tokens: int = 0
    failed: int = 0
    began: int = 0
    ended: int = 0

    def add(self, other: Seen) -> None:
        """What another process's clients have seen."""
        self.firsts += other.firsts
        self.gaps += other.gaps
        self.wholes += other.wholes
        self.tokens += other.tokens
        self.failed += other.failed
        self.began = min(self.began, other.began) if self.began else other.began
        self.ended = max(self.ended, other.ended)

    def figures(self) -> dict[str, float]:
        """In numbers: per second, and milliseconds (nearest rank)."""
        seconds = max(1, self.ended - self.began) / 1e9
        found = {
            "answers": len(self.wholes),
            "failed": self.failed,
            "tokens": self.tokens,
            "seconds": seconds,
            "tokens_per_s": self.tokens / seconds,
            "requests_per_s": len(self.wholes) / seconds,
        }
        for name, values in (("ttft", self.firsts), ("gap", self.gaps), ("whole", self.wholes)):
            ordered = sorted(values)
            for percent in (50, 99):
                place = max(0, ceil(len(ordered) * percent / 100) - 1)
                found[f"{name}_p{percent}_ms"] = ordered[place] / 1e6 if ordered else float("nan")
        return found


class Client(asyncio.Protocol):
    """One connection that asks as long as there are requests; `done` after the last, or if it broke."""

    def __init__(self, requests: Iterator[bytes], seen: Seen, done: asyncio.Future[None]) -> None:
        self._requests, self._seen, self.done = requests, seen, done
        self._transport: Any = None
        self._asked = self._first = self._last = 0
        self._gaps: list[int] = []
        self._head, self._tail = b"", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._seen.failed += 1
            self.done.set_result(None)

    def ask(self) -> None:
        """The next request, if there is one."""
        request = next(self._requests, None)
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._first = self._last = 0
        self._gaps, self._head, self._tail = [], b"", b""
        self._asked = monotonic_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        if not self._head:
            self._head = data[:64]
        self._tail = (self._tail + data)[-_TAIL:]
        if b"data: " in data:
            if self._last:
                self._gaps.append(now - self._last)
            else:
                self._first = now
            self._last = now
        if self._over():
            self._count(now)
            self.ask()

    def _over(self) -> bool:
        """The stream's last chunk, or all that a refusal says."""
        if self._head.startswith(b"HTTP/1.1 200"):
            return self._tail.endswith(b"0\r\n\r\n")
        return b"\r\n\r\n" in self._tail and self._tail.endswith((b"}", b"\n"))

    def _count(self, now: int) -> None:
        seen, counted = self._seen, _COUNTED.findall(self._tail)
        if not self._first or not counted or b"[DONE]" not in self._tail:
            seen.failed += 1
            return
        seen.firsts.append(self._first - self._asked)
        seen.gaps += self._gaps
        seen.wholes.append(now - self._asked)
        seen.tokens += int(counted[-1])


async def _ask(load: Load, connections: Iterable[int], begin: int) -> Seen:
    """These connections' requests, from the instant `begin` on."""
    loop, seen, clients = asyncio.get_running_loop(), Seen(), []
    for connection in connections:
        numbers = range(load.first + connection * load.each, load.first + (connection + 1) * load.each)
        client = Client(iter([load.request(number) for number in numbers]), seen, loop.create_future())
        await loop.create_connection(lambda client=client: client, load.host, load.port)  # type: ignore[misc]
        clients.append(client)
    await asyncio.sleep(max(0, begin - monotonic_ns()) / 1e9)
    seen.began = monotonic_ns()
    for client in clients:
        client.ask()
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await asyncio.gather(*(client.done for client in clients))
    seen.ended = monotonic_ns()
    return seen


def _process(load: Load, connections: list[int], begin: int) -> Seen:
    return uvloop.run(_ask(load, connections, begin))


def shares(connections: int, processes: int) -> list[list[int]]:
    """The connections of each process: as even as can be, and no process without one."""
    count = min(connections, processes)
    return [list(range(connections))[start::count] for start in range(count)]


class Clients:
    """Processes that wait to be clients; a context manager."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, load: Load, meter: Callable[[], float] = lambda: 0.0) -> tuple[Seen, float]:
        """Ask all of it: what was seen, and by how much `meter` rose from the first request to the last."""
        begin = monotonic_ns() + _BEGIN_AFTER_NS
        given = shares(load.connections, self._processes)
        asked = [self._pool.submit(_process, load, each, begin) for each in given]
        time.sleep(max(0, begin - monotonic_ns()) / 1e9)
        before, total = meter(), Seen()
        for each in asked:
            total.add(each.result())
        return total, meter() - before
