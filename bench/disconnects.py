"""A client that leaves: how soon does the engine learn of it, and what does its row say?

    python -m bench.disconnects [--times 1000]

A proxy as a process of its own, an engine in this one. Clients leave in every state, evenly: before the
first byte of a JSON answer and of a stream, amid a stream, amid a long JSON answer, and while the engine is
silent after some events. For each, the time from the client's close to the end of the engine's connection;
at the end, that each has one row with the outcome `client_gone` and nothing is left running.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

import httpx
import orjson
import uvloop

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import read_segment, sealed_segments
from experiments.snapshot import Endpoint, ModelRoute, Snapshot
from turnout.processes import free_port

AT_ONCE: Final = 8
PATIENCE_SECONDS: Final = 5.0
_STREAM: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_DELTA: Final = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
_LONG: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000000\r\n\r\n{"
#: What the engine does in each state, and whether the client asks for a stream.
STATES: Final = {
    "json, nothing yet": False,
    "stream, nothing yet": True,
    "stream, flowing": True,
    "stream, silent": True,
    "json, flowing": False,
}


class Engine(asyncio.Protocol):
    """One request per connection; `left` is set to the time at which the connection ended."""

    living: Final[dict[str, Engine]] = {}

    def __init__(self) -> None:
        self._transport: Any = None
        self._state = ""
        self.left: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.left.done():
            self.left.set_result(monotonic_ns())

    def data_received(self, data: bytes) -> None:
        body = orjson.loads(data.partition(b"\r\n\r\n")[2])
        self._state = body["state"]
        self.living[body["user"]] = self
        if self._state.startswith("stream") and "nothing" not in self._state:
            self._transport.write(_STREAM + b"%x\r\n%b\r\n" % (len(_DELTA), _DELTA))
        if self._state == "json, flowing":
            self._transport.write(_LONG)
        if self._state.endswith("flowing"):
            self._flow()

    def _flow(self) -> None:
        if self._transport is None:
            return
        piece = b"%x\r\n%b\r\n" % (len(_DELTA), _DELTA) if self._state.startswith("stream") else b" " * 100
        self._transport.write(piece)
        asyncio.get_running_loop().call_later(0.01, self._flow)


async def leave(port: int, state: str, number: int) -> float:
    """Ask, leave, and wait for the engine to see it; milliseconds, or infinity."""
    user = f"u{number}"
    body = orjson.dumps(
        {"model": "chat", "messages": [], "user": user, "stream": STATES[state], "state": state}
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    writer.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    while user not in Engine.living:  # noqa: ASYNC110 - the other side of a socket sets no event
        await asyncio.sleep(0.001)
    if "nothing" not in state:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(1)
        await asyncio.sleep((number % 10) / 250)
    else:
        await asyncio.sleep((number % 10) / 500)
    began = monotonic_ns()
    writer.close()
    engine = Engine.living.pop(user)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await engine.left - began) / 1e6
    except TimeoutError:
        return float("inf")


async def run(times: int) -> int:
    """Everything; the exit code says whether the bar holds."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Engine, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    endpoint = Endpoint(model="chat", version=1, served_name="chat", engine="vllm", replicas=(url,))
    route = ModelRoute(model="chat", production=1)
    table = Snapshot(version=1, published_ns=1, models={"chat": route}, endpoints={("chat", 1): endpoint})
    with tempfile.TemporaryDirectory(prefix="turnout-disconnects-") as name:
        data, port = Path(name), free_port()
        (data / "proxy-snapshot.json").write_bytes(table.to_json())
        command = [sys.executable, "-m", "proxy", "--data", name, "--port", str(port)]
        command += ["--control-url", "http://127.0.0.1:9"]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            await _ready(port)
            found = await _all(port, times)
            left_running = sum(not engine.left.done() for engine in Engine.living.values())
        finally:
            process.terminate()
            await process.wait()
        rows = [row for path in sealed_segments(data / "spool") for row in read_segment(path).records]
    outcomes = [row.outcome for row in rows if isinstance(row, ExchangeRecord)]
    right = outcomes.count("client_gone")
    everything = sorted(ms for times_ in found.values() for ms in times_)
    for state, taken in found.items():
        ordered = sorted(taken)
        print(f"{state:22} p50 {ordered[len(ordered) // 2]:7.2f} ms   most {ordered[-1]:7.2f} ms")
    p99 = everything[int(len(everything) * 0.99)]
    print(
        f"{len(everything)} disconnects: p99 {p99:.2f} ms; {right} rows of {len(outcomes)} say client_gone;"
    )
    print(f"{left_running} generations left running")
    return 0 if p99 <= 250 and right == len(outcomes) == times and not left_running else 1


async def _ready(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client, asyncio.timeout(30):
        while True:
            with suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


async def _all(port: int, times: int) -> dict[str, list[float]]:
    states, room = list(STATES), asyncio.Semaphore(AT_ONCE)
    found: dict[str, list[float]] = {state: [] for state in states}

    async def one(number: int) -> None:
        state = states[number % len(states)]
        async with room:
            found[state].append(await leave(port, state, number))

    await asyncio.gather(*(one(number) for number in range(times)))
    return found


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=1000)
    return uvloop.run(run(parser.parse_args().times))


if __name__ == "__main__":
    sys.exit(main())
