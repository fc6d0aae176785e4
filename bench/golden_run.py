"""Does a golden run cost more time than its questions? And is a killed one gone on with, nothing asked twice?

    python -m bench.golden_run [--items 2000] [--concurrency 8] [--latency-ms 20] [--rounds 3] [--real]
    python -m bench.golden_run --kills 20

A process of its own stands for proxy, engine and control API: every answer takes the given time. With --real
both go through a real proxy to a simulated engine, and the run is kept by a real controller. The bare
client speaks HTTP by hand over as many connections, and does nothing with the answers. Golden run and bare
client take turns; the bar is 90 % of the bare client's throughput. With --kills a run is killed with SIGKILL
at random points and started again; at the end every (item, repeat, evaluator) must be stored once, and no
question asked more often than there were kills with it in flight. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, ClassVar, cast

import httpx
import uvloop

from evaluators.admission import golden_headers
from evaluators.golden import GoldenSet
from evaluators.ledger import GoldenLedger
from evaluators.loading import load_golden_set
from evaluators.runner import RunLimits
from evaluators.runs import Effort, finished_run
from evaluators.target import ProxyTarget
from experiments.client import ControlClient
from tests.stack import Stack
from turnout.processes import free_port

TOKEN = "secret-token"
VERSION = {"version": 2, "aliases": ["candidate"], "endpoint": {"served_name": "m"}}


class StandIn(asyncio.Protocol):
    """Proxy, engine and control API in one: chat answers after `latency_s`, golden runs kept in memory."""

    latency_s = 0.02
    asked: ClassVar[Counter[str]] = Counter()
    answered = 0
    runs: ClassVar[dict[str, dict[str, Any]]] = {}
    rows: ClassVar[dict[tuple[Any, ...], dict[str, Any]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.buffer = cast(asyncio.Transport, transport), b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].decode().lower()
            length = (
                int(head.split("content-length: ")[1].split("\r\n")[0]) if "content-length: " in head else 0
            )
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            method, path = head.split(" ")[:2]
            if path == "/v1/chat/completions":
                question = json.loads(body)["messages"][-1]["content"]
                StandIn.asked[question] += 1
                asyncio.get_running_loop().call_later(self.latency_s, self._chat)
            else:
                self._send(self._control(method, path, json.loads(body) if body else {}))

    def _chat(self) -> None:
        if self.transport.is_closing():  # whoever asked was killed
            return
        StandIn.answered += 1
        message = {"role": "assistant", "content": "right"}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._send({"object": "chat.completion", "choices": [choice], "usage": usage}, version=True)

    def _control(self, method: str, path: str, body: dict[str, Any]) -> Any:
        if path == "/counts":
            keys = len({key[1:] for key in self.rows})
            return {"asked": self.asked.total(), "answered": self.answered,
                    "rows": len(self.rows), "keys": keys, "runs": len(self.runs)}  # fmt: skip
        if path.startswith("/api/models/"):
            return {"name": "chat", "production": 1, "versions": [VERSION]}
        if path.startswith("/api/golden/runs?"):
            return list(reversed(self.runs.values()))
        if path == "/api/golden/runs":
            run = {**body, "status": "running", "summary": None, "mlflow_run_id": None}
            return self.runs.setdefault(body["run_id"], run)
        run_id = path.removeprefix("/api/golden/runs/").split("/")[0]
        if method == "get":
            return {
                "run": self.runs[run_id],
                "results": [row for key, row in self.rows.items() if key[0] == run_id],
            }
        if path.endswith("/finish"):
            self.runs[run_id] |= {"status": body["status"], "mlflow_run_id": "m"}
            return self.runs[run_id]
        for row in body["results"]:
            self.rows.setdefault((run_id, row["item_id"], row["repeat"], row["evaluator"]), row)
        return {"stored": len(body["results"]), "ignored": 0}

    def _send(self, value: Any, *, version: bool = False) -> None:
        content = json.dumps(value).encode()
        mark = b"x-turnout-model-version: 2\r\nx-turnout-request-id: r\r\n" if version else b""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + mark
            + b"content-length: %d\r\n\r\n" % len(content) + content
        )  # fmt: skip


def serve(latency_s: float, ready: Connection) -> None:
    async def main() -> None:
        StandIn.latency_s = latency_s
        server = await asyncio.get_running_loop().create_server(StandIn, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def write_set(folder: Path, items: int) -> Path:
    rows = (
        {"id": f"q{k}", "input": {"messages": [{"role": "user", "content": f"q{k}"}]}, "reference": "right",
         "checks": [{"type": "exact"}, {"type": "contains"}]}
        for k in range(items)
    )  # fmt: skip
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "set.yaml").write_text("name: bench\n")
    return folder


@dataclass(frozen=True, slots=True)
class Place:
    """Where the questions go, and where the run is kept."""

    proxy_port: int
    control_port: int
    token: str = TOKEN


async def bare(place: Place, golden: GoldenSet, concurrency: int) -> float:
    """Questions a second of a client that only sends and reads."""
    bodies = [json.dumps(item.body("chat")).encode() for item in golden.items]
    headers = golden_headers(place.token, version=2)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + lines.encode() + b"content-length: %d\r\n\r\n"
    )

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.proxy_port)
        while bodies:
            body = bodies.pop()
            writer.write(head % len(body) + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not answer.startswith(b"http/1.1 200 "):
                raise RuntimeError(answer.decode())
            await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()

    started = time.monotonic()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return len(golden.items) / (time.monotonic() - started)


async def golden_run(
    place: Place, golden: GoldenSet, concurrency: int, journal: Path, *, repeats: int = 1
) -> float:
    """Answers a second of a golden run, all of it: opening, asking, scoring, storing, summing up."""
    ledger = GoldenLedger(ControlClient(f"http://127.0.0.1:{place.control_port}", place.token))
    subject = ledger.subject("chat", "2")
    target = ProxyTarget(
        base_url=f"http://127.0.0.1:{place.proxy_port}",
        model="chat",
        version=2,
        token=place.token,
        concurrency=concurrency,
        timeout_s=30,
    )
    effort = Effort(repeats=repeats, limits=RunLimits(concurrency=concurrency), journal=journal)
    started = time.monotonic()  # the process's own start (imports, TLS, connections' pools) is not the run's
    async with target:
        await finished_run(golden, subject, ledger, target, effort)
    return repeats * len(golden.items) / (time.monotonic() - started)


def throughput(arguments: argparse.Namespace, place: Place, folder: Path) -> dict[str, Any]:
    golden = load_golden_set(folder)
    rates: dict[str, list[float]] = {"bare": [], "golden": []}
    spent = 0.0
    for _ in range(arguments.rounds):
        rates["bare"].append(asyncio.run(bare(place, golden, arguments.concurrency)))
        before = time.process_time()
        run = golden_run(place, golden, arguments.concurrency, folder / "journal")
        rates["golden"].append(uvloop.run(run))  # as the command does
        spent += time.process_time() - before
    shares = [g / b for g, b in zip(rates["golden"], rates["bare"], strict=True)]
    return {
        "real": arguments.real,
        "concurrency": arguments.concurrency,
        "cpu_ms_per_question": round(1000 * spent / (arguments.rounds * len(golden.items)), 3),
        **{f"{name}_per_s": [round(rate, 1) for rate in found] for name, found in rates.items()},
        "share": [round(share, 3) for share in shares],
        "median_share": round(statistics.median(shares), 3),
        "ok": statistics.median(shares) >= 0.9,
    }


def kills(arguments: argparse.Namespace, place: Place, folder: Path) -> dict[str, Any]:
    """Kill a run at random points, go on each time, and count."""
    port = place.control_port
    draw, repeats = Random(arguments.seed), 2
    planned = repeats * arguments.items
    points = sorted(draw.sample(range(1, planned), arguments.kills))
    context = multiprocessing.get_context("fork")
    done = 0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        while True:
            process = context.Process(target=_one_run, args=(place, folder, arguments.concurrency, repeats))
            process.start()
            while process.exitcode is None and done < len(points):
                if client.get("/counts").json()["asked"] >= points[done]:
                    os.kill(process.pid or 0, signal.SIGKILL)
                    process.join()
                    done += 1
                    break
                time.sleep(0.005)
            else:
                process.join()
                break
    counts = httpx.get(f"http://127.0.0.1:{port}/counts", trust_env=False).json()
    exact = counts["rows"] == counts["keys"] == 2 * planned and counts["runs"] == 1
    return {
        "kills": done,
        "planned_rows": 2 * planned,
        **counts,
        "again_allowed": done * arguments.concurrency,
        "asked_again": counts["asked"] - planned,
        "ok": exact and counts["asked"] - planned <= done * arguments.concurrency and process.exitcode == 0,
    }


def _one_run(place: Place, folder: Path, concurrency: int, repeats: int) -> None:
    golden = load_golden_set(folder)
    uvloop.run(golden_run(place, golden, concurrency, folder / "journal", repeats=repeats))


@contextmanager
def stand_in(latency_s: float) -> Iterator[Place]:
    """One process in place of all that a golden run speaks to."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(latency_s, sending), daemon=True)
    server.start()
    port = receiving.recv()
    try:
        yield Place(port, port)
    finally:
        server.terminate()
        server.join()


@contextmanager
def real(latency_s: float, folder: Path) -> Iterator[Place]:
    """Proxy and controller as `turnout up` starts them, and a simulated engine in a process of its own."""
    port = free_port()
    profile = json.dumps({"name": "chat", "ttft_ms": latency_s * 1000})
    engine = subprocess.Popen(
        [sys.executable, "-m", "turnout.simulation", "--port", str(port), "--profile", profile],
        stdout=subprocess.DEVNULL,
    )
    stack = Stack(folder / "data", workers=1)
    url = f"http://127.0.0.1:{port}"
    try:
        with stack.up([url, url]):
            yield Place(
                stack.settings.proxy_port, stack.settings.control_port, stack.settings.read_token() or ""
            )
    finally:
        engine.terminate()
        engine.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, default in (("items", 2000), ("concurrency", 8), ("rounds", 3), ("kills", 0), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--real", action="store_true", help="a real proxy, controller and simulated engine")
    arguments = parser.parse_args()
    latency_s = arguments.latency_ms / 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        golden = write_set(folder, arguments.items)
        with real(latency_s, folder) if arguments.real else stand_in(latency_s) as place:
            measured = (kills if arguments.kills else throughput)(arguments, place, golden)
    print(json.dumps(measured))
    return 0 if measured["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
