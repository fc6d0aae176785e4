"""A client that leaves: how soon does the engine learn of it, and what does its row say?

    python -m bench.disconnects [--times 1008]

A proxy as a process of its own, its engines in this one. Clients leave in every state that a request can be
in, evenly (`STATES`): while they send, while the proxy connects, before the answer, amid it, and after its
last byte. For each, the time from the client's close to the end of the engine's connection, or of the attempt
to connect; at the end, that every row says what became of its request and nothing is left running.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

import httpx
import orjson
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import read_segment, sealed_segments
from experiments.snapshot import Endpoint, ModelRoute, Snapshot
from turnout.processes import free_port

AT_ONCE: Final = 8
PATIENCE_SECONDS: Final = 5.0
LARGEST_P99_MS: Final = 250.0
_STREAM: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_DELTA: Final = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
_DONE: Final = b"data: [DONE]\n\n"
_LONG: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000000\r\n\r\n{"
_WHOLE: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_INTERIM: Final = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"


@dataclass(frozen=True, slots=True)
class State:
    """Where a request is when its client leaves.

    `outcome` is what its row must say; None: it never was a request, has no row, and is counted as unread.
    """

    stream: bool = False
    model: str = "chat"
    outcome: str | None = "client_gone"
    #: what the client has sent when it leaves: its share of the request
    sent: float = 1.0
    #: what the client has read when it leaves
    until: bytes = b""
    #: what the engine says at once; and what it then goes on saying
    says: bytes = b""
    goes_on: bytes = b""
    #: whether the engine is still at work then, or connected to
    engaged: bool = True


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STATES: Final = {
    "head half sent": State(outcome=None, sent=0.2, engaged=False),
    "body half sent": State(outcome=None, sent=0.9, engaged=False),
    "engine takes no connection": State(model="full"),
    "engine's TLS handshake": State(model="tls"),
    "json, nothing yet": State(),
    "stream, nothing yet": State(stream=True),
    "between a 103 and the answer": State(says=_INTERIM),
    "stream, head only": State(stream=True, says=_STREAM),
    "stream, flowing": State(stream=True, says=_STREAM, goes_on=_chunk(_DELTA), until=_DELTA),
    "stream, silent": State(stream=True, says=_STREAM + _chunk(_DELTA), until=_DELTA),
    "stream, reader stalled": State(stream=True, says=_STREAM, goes_on=_chunk(b":" + b"x" * 400_000 + b"\n")),
    "json, flowing": State(says=_LONG, goes_on=b" " * 100, until=b"{"),
    "stream, after its last event": State(
        stream=True, says=_STREAM + _chunk(_DELTA) + _chunk(_DONE), until=_DONE, outcome="complete"
    ),
    "json, after its last byte": State(says=_WHOLE, until=b"\r\n\r\n{}", outcome="complete", engaged=False),
}


class Engine(asyncio.Protocol):
    """One request per connection; `left` is set to the time at which the connection ended."""

    living: Final[dict[str, Engine]] = {}
    #: connections to the TLS port: what comes there are handshakes, which name nobody
    shaking: Final[list[Engine]] = []

    def __init__(self, *, secure: bool = False) -> None:
        self._transport: Any = None
        self._secure = secure
        self._state = State()
        self.left: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.stalled = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._secure:
            self.shaking.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.left.done():
            self.left.set_result(monotonic_ns())

    def pause_writing(self) -> None:
        self.stalled.set()

    def data_received(self, data: bytes) -> None:
        if self._secure:
            return
        body = orjson.loads(data.partition(b"\r\n\r\n")[2])
        self._state = STATES[body["state"]]
        self.living[body["user"]] = self
        self._transport.write(self._state.says)
        if self._state.goes_on:
            self._go_on()

    def _go_on(self) -> None:
        if self._transport is not None and not self.stalled.is_set():
            self._transport.write(self._state.goes_on)
            asyncio.get_running_loop().call_later(0.01, self._go_on)


class Full:
    """A listening socket whose queue is full: whoever connects hears nothing at all."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._waiting: list[socket.socket] = []

    def __enter__(self) -> Full:
        with suppress(TimeoutError):
            while True:
                self._waiting.append(socket.create_connection(("127.0.0.1", self.port), timeout=0.2))
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self._waiting, self._listener):
            one.close()

    def attempts(self) -> int:
        """How many connections are being tried: sockets in SYN_SENT."""
        target = f"0100007F:{self.port:04X} 02"
        return Path("/proc/net/tcp").read_text().count(target)


@dataclass(slots=True)
class Report:
    """What was found: milliseconds by state, rows whose outcome is wrong, what still ran."""

    times: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STATES})
    disconnects: int = 0
    wrong: list[str] = field(default_factory=list)
    left_running: int = 0

    @property
    def p99_ms(self) -> float:
        """Over all states in which an engine had something to end."""
        ordered = sorted(ms for times in self.times.values() for ms in times)
        return ordered[int(len(ordered) * 0.99)]

    @property
    def passed(self) -> bool:
        return self.p99_ms <= LARGEST_P99_MS and not self.wrong and not self.left_running


class Leaving:
    """Clients of one proxy that leave."""

    def __init__(self, port: int, full: Full) -> None:
        self._port, self._full = port, full
        self._room = asyncio.Semaphore(AT_ONCE)
        self._alone = asyncio.Lock()  # where an engine cannot tell who it is that connects
        self.report = Report()

    async def all(self, times: int) -> None:
        names = list(STATES)
        await asyncio.gather(*(self._one(names[number % len(names)], number) for number in range(times)))

    async def _one(self, name: str, number: int) -> None:
        async with self._room:
            if STATES[name].model == "chat":
                await self._leave(name, number)
            else:
                async with self._alone:
                    await self._leave(name, number)

    async def _leave(self, name: str, number: int) -> None:
        """Ask, leave, and wait for the engine to see it; infinity if it does not."""
        state, user = STATES[name], f"u{number}"
        body = {"model": state.model, "messages": [], "user": user, "stream": state.stream, "state": name}
        raw = orjson.dumps(body)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        request = head + b"content-length: %d\r\n\r\n%b" % (len(raw), raw)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1024)
        if "stalled" in name:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request[: int(len(request) * state.sent)])
        ended = await self._there(state, user)
        if state.until:
            await reader.readuntil(state.until)
        if "stalled" in name:
            await Engine.living[user].stalled.wait()
        await asyncio.sleep((number % 10) / 500)
        began = monotonic_ns()
        writer.close()
        self.report.disconnects += 1
        Engine.living.pop(user, None)
        if not state.engaged:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                took = (await ended() - began) / 1e6
        except TimeoutError:
            took = float("inf")
            self.report.left_running += 1
        self.report.times[name].append(took)

    async def _there(self, state: State, user: str) -> Callable[[], Awaitable[int]]:
        """Wait until the request is where it shall be; what tells when the engine is rid of it."""

        async def until(met: Callable[[], object]) -> int:
            while not met():  # noqa: ASYNC110 - the other side of a socket sets no event
                await asyncio.sleep(0.001)
            return monotonic_ns()

        if state.outcome is None:
            await asyncio.sleep(0.005)
        elif state.model == "full":
            await until(self._full.attempts)
            return lambda: until(lambda: not self._full.attempts())
        elif state.model == "tls":
            await until(lambda: Engine.shaking)
            shaking = Engine.shaking.pop()
            return lambda: asyncio.shield(shaking.left)
        else:
            await until(lambda: user in Engine.living)
            engine = Engine.living[user]
            return lambda: asyncio.shield(engine.left)
        return lambda: until(lambda: True)


async def run(times: int) -> Report:
    """Everything, on a proxy and engines of its own."""
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(Engine, "127.0.0.1", 0)
    secure = await loop.create_server(lambda: Engine(secure=True), "127.0.0.1", 0)
    with Full() as full, tempfile.TemporaryDirectory(prefix="turnout-disconnects-") as name:
        urls = {
            "chat": f"http://127.0.0.1:{plain.sockets[0].getsockname()[1]}",
            "tls": f"https://127.0.0.1:{secure.sockets[0].getsockname()[1]}",
            "full": f"http://127.0.0.1:{full.port}",
        }
        data, port = Path(name), free_port()
        (data / "proxy-snapshot.json").write_bytes(_table(urls).to_json())
        command = [sys.executable, "-m", "proxy", "--data", name, "--port", str(port)]
        command += ["--control-url", "http://127.0.0.1:9"]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            await _ready(port)
            leaving = Leaving(port, full)
            await leaving.all(times)
            unread = await _unread(port)
        finally:
            process.terminate()
            await process.wait()
        rows = [row for path in sealed_segments(data / "spool") for row in read_segment(path).records]
    for server in (plain, secure):
        server.close()
    report = leaving.report
    report.wrong = _wrong(times, [row for row in rows if isinstance(row, ExchangeRecord)], unread)
    return report


def _table(urls: dict[str, str]) -> Snapshot:
    return Snapshot(
        version=1,
        published_ns=1,
        models={name: ModelRoute(model=name, production=1) for name in urls},
        endpoints={
            (name, 1): Endpoint(model=name, version=1, served_name=name, engine="vllm", replicas=(url,))
            for name, url in urls.items()
        },
    )


def _wrong(times: int, rows: list[ExchangeRecord], unread: int) -> list[str]:
    """What of the ledger is not as it must be: each request one row with its outcome, and no other rows."""
    names = list(STATES)
    expected = Counter((name, STATES[name].outcome) for name in (names[n % len(names)] for n in range(times)))
    found: Counter[tuple[str, str | None]] = Counter(
        (orjson.loads(row.request)["state"], row.outcome) for row in rows
    )
    without = sum(count for (_, outcome), count in expected.items() if outcome is None)
    wrong = [f"{unread} counted as unread, of {without}"] if unread != without else []
    for key in expected.keys() | found.keys():
        if key[1] is not None and expected[key] != found[key]:
            wrong.append(f"{key[0]}: {found[key]} rows say {key[1]}, of {expected[key]}")
    return wrong


async def _unread(port: int) -> int:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "turnout_requests_unread_total" and sample.labels == {"reason": "client_gone"}
    )


async def _ready(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client, asyncio.timeout(30):
        while True:
            with suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


def _print(report: Report) -> None:
    for state, taken in report.times.items():
        ordered = sorted(taken)
        if ordered:
            print(f"{state:30} p50 {ordered[len(ordered) // 2]:7.2f} ms   most {ordered[-1]:7.2f} ms")
        else:
            print(f"{state:30} no engine has anything to end")
    print(f"{report.disconnects} disconnects: p99 {report.p99_ms:.2f} ms; {report.left_running} left running")
    print(f"wrong in the ledger: {'; '.join(report.wrong) or 'nothing'}")


def main() -> int:
    """Entry point; the exit code says whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=72 * len(STATES))
    report = uvloop.run(run(parser.parse_args().times))
    _print(report)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
