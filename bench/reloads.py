"""Does a reload fail a request? Good and broken routing tables, while requests run.

    python -m bench.reloads [--reloads 1000] [--requests 100000] [--connections 16]

A worker in a process of its own polls a controller that this script plays: it offers, in random order, valid
tables (other weights, other phases: half of all), torn ones, empty ones, ones with an arm whose version has
no endpoint, ones whose ranges have a hole, and older ones. Meanwhile the client keeps its connections busy,
each request from another user. At the end every row is held against the very table that it names: the arm
must be the one that this table gives the unit. Prints one line of JSON; exit code 1 if a request failed, a
row names a table that was never valid, or an arm is not its table's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import uvloop

from tests.proxy.harness import json_answer
from tests.proxy.offers import Offers

from .shadow import rows, until_ready, worker

ANSWER = json_answer(
    b'{"object":"chat.completion","choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
)
PAUSE_S = 0.02


class Engine(asyncio.Protocol):
    """Answers every request at once; a request is small enough to come in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


class Client(asyncio.Protocol):
    """One connection, one request at a time, until told to stop."""

    def __init__(self, number: int, tally: Counter[int], running: list[bool]) -> None:
        self._user = number
        self._tally = tally
        self._running = running
        self._held = b""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._send()

    def _send(self) -> None:
        self._user += 1000
        body = b'{"model":"chat","user":"%d","messages":[{"role":"user","content":"hi"}]}' % self._user
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        self._transport.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))

    def data_received(self, data: bytes) -> None:
        self._held += data
        if not self._held.endswith(b"}}"):
            return
        self._tally[int(self._held[9:12])] += 1
        self._held = b""
        if self._running[0]:  # a pause, so that the requests last as long as the reloads
            asyncio.get_running_loop().call_later(PAUSE_S, self._send)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running[0]:
            self._tally[0] += 1  # a connection that breaks is a request that failed
        self.ended.set_result(None)


async def load(port: int, offers: Offers, given: argparse.Namespace) -> tuple[Counter[int], float]:
    """Requests until there were enough of both."""
    await until_ready(port)
    tally: Counter[int] = Counter()
    running, begun = [True], time.monotonic()
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda n=n: Client(n, tally, running), "127.0.0.1", port))[1]  # type: ignore[misc]
        for n in range(given.connections)
    ]
    while not offers.done.is_set() or tally.total() < given.requests:
        if all(client.ended.done() for client in clients):
            break
        await asyncio.sleep(0.1)
    running[0] = False
    await asyncio.gather(*(client.ended for client in clients))
    return tally, time.monotonic() - begun


async def run(data: Path, given: argparse.Namespace) -> tuple[Offers, Counter[int], float]:
    loop = asyncio.get_running_loop()
    engine = await loop.create_server(Engine, "127.0.0.1", 0)
    offers = Offers(f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}", given.reloads)
    server = await asyncio.start_server(offers.serve, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with worker(data, offers.valid[1], address) as (port, _):
        tally, seconds = await load(port, offers, given)
    return offers, tally, seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        offers, tally, seconds = uvloop.run(run(Path(folder) / "data", given))
        found = rows(Path(folder) / "data")
    named = Counter(row.snapshot for row in found)
    strays = [
        row.exchange_id
        for row in found
        if row.snapshot not in offers.valid
        or row.unit is None
        or offers.valid[row.snapshot].route("chat", row.unit).arm != row.assigned_arm
        or row.phase != row.snapshot
    ]
    failed = tally.total() - tally[200]
    report = {
        "requests": tally.total(), "failed": failed, "seconds": round(seconds, 1), "rows": len(found),
        "offered": dict(offers.offered), "tables_in_force": len(named),
        "rows_not_of_their_table": len(strays),
    }  # fmt: skip
    passed = not failed and not strays and len(found) == tally.total() and offers.done.is_set()
    print(json.dumps({"passed": passed, **report}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
