"""Does a worker stay as it was? Memory, file descriptors and tasks under load that leaves and fails.

    python -m bench.soak [--minutes 10] [--rate 200]

A worker with everything on (keys, a split by user, a copy of one request in ten, every exchange on disk) in
front of a simulated engine, all in processes of their own. At a steady rate come JSON answers and streams, on
connections that are kept and on new ones; of the clients 20 % leave at any moment, of the requests 5 % meet a
fault of the engine. Once a second the worker says what it holds (`/metrics`), and its rows are read and
removed, as a collector would. At the end: memory by the minute, descriptors and tasks before and after, and
whether every answered request has its row, once. Exit code 1 if a bar is missed: at most 120 MB, flat within
5 MB from the second minute on, descriptors and tasks back to the start, no honest request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Final

import httpx
import orjson
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import read_segment, sealed_segments
from tests.proxy.harness import snapshot

from .shadow import engine, until_ready, worker

LEAVING, FAULTY, COPIED_PPM = 0.20, 0.05, 100_000
LARGEST_MB, LARGEST_SWING_MB = 120.0, 5.0
FAULTS: Final = (
    "5xx", "503", "rst", "rst-at-60", "cut-at-60", "garbage", "eof-clean", "error-event", "no-keepalive",
    "stale-drop", "slow-head-300", "early-response",
)  # fmt: skip
KEY: Final = "sk-soak"
_KEPT: Final = 64
#: How long an answer may take before it counts as failed; what is left at the end gets as long.
_PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Held:
    """What the worker holds: megabytes, and how many of each."""

    memory_mb: float
    open_files: int
    tasks: int


@dataclass(slots=True)
class Report:
    """What was seen. `ends` counts requests by what their client saw; `rows` by their outcome."""

    before: Held
    after: Held | None = None
    held: list[Held] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)
    recorded: Counter[str] = field(default_factory=Counter)

    @property
    def by_minute(self) -> list[float]:
        """Mean memory of each whole minute, or of what there is of the first, in megabytes."""
        size = min(60, len(self.held))
        minutes = [self.held[at : at + size] for at in range(0, len(self.held) - size + 1, size)]
        return [sum(one.memory_mb for one in minute) / size for minute in minutes]

    @property
    def missing(self) -> int:
        """Answered requests without a row, and rows that are there twice."""
        twice = sum(count - 1 for count in self.recorded.values())
        return len(self.answered - self.recorded.keys()) + twice

    @property
    def returned(self) -> bool:
        """Whether descriptors and tasks are those of the start."""
        after = self.after
        return after is not None and (after.open_files, after.tasks) == (
            self.before.open_files,
            self.before.tasks,
        )

    @property
    def flat(self) -> bool:
        later = self.by_minute[1:] or self.by_minute
        return max(later) - min(later) <= 2 * LARGEST_SWING_MB and max(later) <= LARGEST_MB

    @property
    def failed(self) -> int:
        """Requests that met no fault of the engine, and failed all the same."""
        return sum(count for end, count in self.ends.items() if end.startswith("failed"))

    @property
    def passed(self) -> bool:
        return self.flat and self.returned and not self.missing and not self.failed


class Clients:
    """Those who ask: they leave, keep their connections or not, and meet faults."""

    def __init__(self, port: int, report: Report) -> None:
        self._port, self._report = port, report
        self._chance = Random(1)
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def run(self, rate: float, seconds: float) -> None:
        """At a steady rate, whether or not earlier requests are answered."""
        begun, running = time.monotonic(), set()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            one = asyncio.ensure_future(self._one(number))
            running.add(one)
            one.add_done_callback(running.discard)
        await asyncio.gather(*running)  # each has its own patience
        for _, writer in self._kept:
            writer.close()

    async def _one(self, number: int) -> None:
        draw = self._chance.random
        leaves, faulty, stream = draw() < LEAVING, draw() < FAULTY, draw() < 0.5
        body: dict[str, object] = {"model": "chat", "user": f"u{number % 1024}", "stream": stream}
        body["messages"] = [{"role": "user", "content": "Where is my order? " * 25}]
        if faulty:
            body["simulated_fault"] = self._chance.choice(FAULTS)
        kept = self._take() if not leaves and draw() < 0.5 else None
        reader, writer = kept or await asyncio.open_connection("127.0.0.1", self._port)
        raw = orjson.dumps(body)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n" % (KEY.encode(), len(raw))
        request = head + raw
        if leaves:
            writer.write(request[: None if draw() < 0.9 else int(len(request) * draw())])
            await asyncio.sleep(draw() * 0.03)
            writer.transport.abort()
            self._report.ends["left"] += 1
            return
        writer.write(request)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                status = await self._read(reader)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            writer.transport.abort()
            self._report.ends[f"{'faulty' if faulty else 'failed'}: {type(error).__name__}"] += 1
            return
        self._report.ends[
            f"{'answered' if status == 200 else 'faulty' if faulty else 'failed'}: {status}"
        ] += 1
        if len(self._kept) < _KEPT and draw() < 0.5:
            self._kept.append((reader, writer))
        else:
            writer.close()

    def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that was kept, if there is one that the worker has not ended for its idleness."""
        while self._kept:
            reader, writer = self._kept.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _read(self, reader: asyncio.StreamReader) -> int:
        """Read one answer to its end; its status."""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if b"content-length" in lines:
            await reader.readexactly(int(lines[b"content-length"]))
        else:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        self._report.answered.add(lines[b"x-turnout-request-id"].decode())
        return int(head[9:12])


async def held(client: httpx.AsyncClient) -> Held:
    """What the worker says that it holds."""
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    found = {sample.name: sample.value for family in families for sample in family.samples}
    return Held(
        found["turnout_resident_bytes"] / 1e6, int(found["turnout_open_files"]), int(found["turnout_tasks"])
    )


def collect(spool: Path, report: Report) -> None:
    """Read and remove what is sealed."""
    for path in sealed_segments(spool):
        for row in read_segment(path).records:
            if isinstance(row, ExchangeRecord):
                report.rows[row.outcome] += 1
                if row.role == "primary":
                    report.recorded[row.request_id] += 1
        path.unlink()


async def observe(client: httpx.AsyncClient, spool: Path, report: Report) -> None:
    """Once a second, until cancelled."""
    while True:
        await asyncio.sleep(1.0)
        report.held.append(await held(client))
        await asyncio.to_thread(collect, spool, report)


async def soak(folder: Path, seconds: float, rate: float) -> Report:
    """Load for so long, at so many requests a second; then everybody leaves, and so does the engine."""
    with ExitStack() as processes:
        engines = processes.enter_context(ExitStack())
        url = engines.enter_context(engine())
        table = snapshot({1: url, 2: url}, candidate_ppm=200_000, share_ppm=COPIED_PPM)
        table = replace(table, keys={sha256(KEY.encode()).hexdigest(): "soak"})
        port, _ = processes.enter_context(worker(folder / "data", table))
        await until_ready(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await held(client)  # what the first scrape loads is there from now on
            report = Report(await held(client))
            observing = asyncio.ensure_future(observe(client, folder / "data" / "spool", report))
            await Clients(port, report).run(rate, seconds)
            observing.cancel()
            await asyncio.wait([observing])
            await asyncio.to_thread(engines.close)  # the connections that were kept to it end
            report.after = await settled(client, report.before)
    collect(folder / "data" / "spool", report)
    return report


async def settled(client: httpx.AsyncClient, before: Held) -> Held:
    """What the worker holds once it is as before, or after all patience."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        now = await held(client)
        as_before = (now.open_files, now.tasks) == (before.open_files, before.tasks)
        if as_before or time.monotonic() > deadline:
            return now
        await asyncio.sleep(0.5)


def document(report: Report) -> dict[str, object]:
    """The report, for JSON."""
    return {
        "passed": report.passed,
        "memory_mb_by_minute": [round(one, 1) for one in report.by_minute],
        "before": asdict(report.before),
        "after": report.after and asdict(report.after),
        "clients_saw": dict(report.ends),
        "rows": dict(report.rows),
        "answered": len(report.answered),
        "without_a_row_or_twice": report.missing,
    }


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnout-soak-") as folder:
        report = uvloop.run(soak(Path(folder), given.minutes * 60, given.rate))
    print(json.dumps(document(report) | {"load": os.getloadavg()}, indent=1))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
