"""A worker in this process, in front of an engine whose every byte a test writes itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import orjson

from experiments.assignment import CONTROL, initial_ranges
from experiments.ledger.exchange import ExchangeRecord, Record
from experiments.ledger.spool import read_segment
from experiments.snapshot import Arm, Endpoint, Mirror, ModelRoute, Snapshot, Split
from proxy.doorway import Doorway
from proxy.limits import Limits
from proxy.server import ClientConnection
from proxy.supervisor import listen
from proxy.worker import Worker
from turnout.processes import free_port

ADMIN = "let-me-in"
ADMIN_SHA256 = sha256(ADMIN.encode()).hexdigest()


@dataclass
class Engine:
    """A raw HTTP server: `answer` gets each request's bytes and the writer; what it writes is the answer."""

    answer: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
    requests: list[bytes] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                answering = asyncio.ensure_future(self.answer(request, writer))
                watching = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
                left = not answering.done() or isinstance(answering.exception(), ConnectionError)
                answering.cancel()
                watching.cancel()
                await asyncio.gather(answering, watching, return_exceptions=True)
                if left:
                    self.gone.set()
                if left or writer.is_closing():
                    return
                answering.result()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if writer.can_write_eof() and not writer.is_closing():
                await _flushed(writer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        async with listening(self._connection) as self.url:
            yield self


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """Let what was written reach the other side before the connection is ended."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(connected: Connected) -> AsyncIterator[str]:
    """A server on a free port, and its URL; at the end every connection is ended and waited for."""
    tasks: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await connected(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(tracked, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def json_answer(body: bytes, status: str = "200 OK", extra: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + extra + b"\r\n" + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def nobody() -> str:
    """The URL of a port where nothing listens."""
    return f"http://127.0.0.1:{free_port()}"


def snapshot(
    urls: dict[int, str | tuple[str, ...]],
    *,
    candidate_ppm: int | None = None,
    share_ppm: int | None = None,
    version: int = 1,
    served_name: str = "chat",
    unit: str = "user",
    keys: dict[str, str] | None = None,
    max_in_flight: int = 16,
    recording: str = "full",
) -> Snapshot:
    """Model `chat`: version 1 in production; version 2 in an experiment if a weight or a share is given."""
    splits: tuple[Split, ...] = ()
    if candidate_ppm is not None:
        ranges = initial_ranges({"candidate": candidate_ppm})
        arms = (
            Arm(name=CONTROL, version=1, ranges=ranges[CONTROL]),
            Arm(name="candidate", version=2, ranges=ranges["candidate"]),
        )
        splits = (Split(experiment="exp", phase=1, salt="salt", unit=unit, arms=arms),)
    mirrors = ()
    if share_ppm is not None:
        mirrors = (
            Mirror(
                experiment="dark", phase=1, salt="dark", unit=unit, arm="candidate", version=2,
                share_ppm=share_ppm, max_in_flight=max_in_flight,
            ),
        )  # fmt: skip
    route = ModelRoute(model="chat", production=1, splits=splits, mirrors=mirrors, recording=recording)  # type: ignore[arg-type]
    endpoints = {
        ("chat", number): Endpoint(
            model="chat",
            version=number,
            served_name=served_name,
            engine="vllm",
            replicas=(url,) if isinstance(url, str) else url,
        )
        for number, url in urls.items()
    }
    return Snapshot(
        version=version, published_ns=1, models={"chat": route}, endpoints=endpoints,
        admin_sha256=ADMIN_SHA256, keys=keys or {},
    )  # fmt: skip


@dataclass
class Proxy:
    """A running worker and what its spool holds."""

    worker: Worker
    port: int
    data: Path

    def records(self) -> list[Record]:
        """Everything spooled so far, in order."""
        self.worker.spool.seal()
        paths = sorted((self.data / "spool").rglob("*.seg"))
        return [record for path in paths for record in read_segment(path).records]

    def exchanges(self) -> list[ExchangeRecord]:
        return [record for record in self.records() if isinstance(record, ExchangeRecord)]

    async def send(self, raw: bytes) -> bytes:
        """One connection: send bytes, read to the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        answer = await reader.read()
        writer.close()
        return answer

    async def post(
        self, body: object, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
    ) -> bytes:
        return await self.send(post(body, path, headers))


def post(body: object, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None) -> bytes:
    """A request that closes its connection."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    lines = {"host": "x", "content-type": "application/json", "connection": "close", **(headers or {})}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{text}content-length: {len(raw)}\r\n\r\n".encode() + raw


def ask(**fields: object) -> dict[str, object]:
    """A small chat request."""
    return {"model": "chat", "user": "ada", "messages": [{"role": "user", "content": "hi"}], **fields}


@asynccontextmanager
async def running_proxy(data: Path, table: Snapshot, limits: Limits | None = None) -> AsyncIterator[Proxy]:
    """A worker with a snapshot in force, and no controller."""
    worker = Worker(data, "http://127.0.0.1:1", limits or Limits())
    worker.adopt(table)
    listener = listen("127.0.0.1", 0)
    doorway = Doorway(worker.loop, listener, lambda: ClientConnection(worker))
    try:
        yield Proxy(worker, listener.getsockname()[1], data)
    finally:
        await worker.stop(doorway, [])
