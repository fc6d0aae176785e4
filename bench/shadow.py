"""Does a shadow hurt? Primaries with and without a copy of each to a candidate that misbehaves, interleaved.

    python -m bench.shadow [--rate 150] [--rounds 80] [--seconds 0.25] [--faults off hang rst bandwidth-1 5xx]

Two workers in processes of their own serve the same engine; one of them mirrors every request to the
candidate. An open-loop client sends to one, then to the other, in short rounds (ABBA), so that whatever
else the machine does falls on both; the fault `off` mirrors on neither side and shows what the machine alone
does. Latency is from the moment a request was due. For each fault: p50 and p99 of both sides, their
differences with a bootstrap interval over rounds, failures, the mirroring worker's memory at the beginning
and the end, and whether rows close: each primary has one copy, sent or shed.
Prints one line of JSON a fault; exit code 1 if a bar is missed (difference <= max(2 ms, 5 %), no failure,
growth <= 64 MB, nothing unaccounted).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import read_segment
from experiments.snapshot import Snapshot
from tests.proxy.harness import post, snapshot
from turnout.processes import free_port

LARGEST_DELTA_MS, LARGEST_DELTA, LARGEST_GROWTH_MB = 2.0, 0.05, 64.0
PROMPT = {
    "model": "chat",
    "user": "ada",
    "messages": [{"role": "user", "content": "where is my order? " * 400}],
}
REQUEST = post(PROMPT)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours, ended at the end."""
    quiet = subprocess.DEVNULL
    started = subprocess.Popen([sys.executable, "-m", *arguments], stdout=quiet, stderr=quiet)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(timeout=40)


@contextmanager
def engine(faults: str = "") -> Iterator[str]:
    """A simulated engine's URL."""
    port = free_port()
    more = ("--faults", faults) if faults else ()
    with process("turnout.simulation", "--port", str(port), "--name", "chat", "--ttft-ms", "5", *more):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def worker(data: Path, table: Snapshot, control_url: str = "http://127.0.0.1:1") -> Iterator[tuple[int, int]]:
    """A worker with its last good snapshot, and no controller by default: port and process id."""
    data.mkdir()
    (data / "proxy-snapshot.json").write_bytes(table.to_json())
    port = free_port()
    with process("proxy", "--data", str(data), "--port", str(port), "--control-url", control_url) as one:
        yield port, one.pid


async def until_ready(port: int) -> None:
    for _ in range(400):
        try:
            status, _ = await once(port, b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 0.0)
            if status == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.05)
    raise SystemExit("a worker did not become ready")


async def once(port: int, request: bytes, due: float) -> tuple[int, float]:
    """The status of one exchange, and milliseconds since it was due."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return int(answer[9:12] or 0), (time.perf_counter() - due) * 1000


async def one_round(port: int, rate: float, seconds: float) -> list[tuple[int, float]]:
    """Requests at a steady rate, whether or not earlier ones are answered."""
    begun, running = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        running.append(asyncio.ensure_future(once(port, REQUEST, due)))
    return list(await asyncio.gather(*running))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def difference(plain: list[list[float]], mirrored: list[list[float]], share: float) -> tuple[float, ...]:
    """The difference of a percentile in ms, and its 95 % bootstrap interval over pairs of rounds."""

    def of(rounds: list[int]) -> float:
        sides = ([v for i in rounds for v in side[i]] for side in (mirrored, plain))
        above, below = (percentile(side, share) for side in sides)
        return above - below

    chance = random.Random(1)
    count = len(plain)
    draws = sorted(of([chance.randrange(count) for _ in range(count)]) for _ in range(400))
    return of(list(range(count))), draws[10], draws[389]


def resident_mb(pid: int) -> float:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (str(pid), *children)]
    return sum(pages) * resource.getpagesize() / 1e6


def rows(data: Path) -> list[ExchangeRecord]:
    paths = sorted((*(data / "spool").rglob("*.seg"), *(data / "spool").rglob("*.open")))
    found = [record for path in paths for record in read_segment(path).records]
    return [record for record in found if isinstance(record, ExchangeRecord)]


async def measure(ports: tuple[int, int], pid: int, given: argparse.Namespace) -> dict[str, object]:
    for port in ports:
        await until_ready(port)
        await one_round(port, given.rate, 1.0)
    latencies: tuple[list[list[float]], list[list[float]]] = ([], [])
    failures, memory = 0, [resident_mb(pid)]
    for number in range(given.rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            ends = await one_round(ports[side], given.rate, given.seconds)
            failures += sum(status != 200 for status, _ in ends)
            latencies[side].append([ms for _, ms in ends])
        memory.append(resident_mb(pid))
    report: dict[str, object] = {"requests": sum(map(len, latencies[0] + latencies[1])), "failures": failures}
    report["rss_mb"] = [round(memory[0]), round(max(memory)), round(memory[-1])]
    within = failures == 0 and max(memory) - memory[0] <= LARGEST_GROWTH_MB
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        base = percentile([v for one in latencies[0] for v in one], share)
        delta, low, high = difference(*latencies, share)
        report[name] = {
            "plain_ms": round(base, 2),
            "delta_ms": round(delta, 2),
            "ci95_ms": [round(low, 2), round(high, 2)],
        }
        within &= delta <= max(LARGEST_DELTA_MS, LARGEST_DELTA * base)
    return report | {"within": within}


def one_fault(fault: str, given: argparse.Namespace) -> bool:
    with (
        tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder,
        engine() as good,
        engine("" if fault == "off" else fault) as bad,
    ):
        data = Path(folder)
        dark = snapshot({1: good, 2: bad}, share_ppm=1_000_000)
        route = dark.models["chat"]
        plain = replace(dark, models={"chat": replace(route, mirrors=())})
        if fault == "off":
            dark = plain
        with worker(data / "plain", plain) as (first, _), worker(data / "dark", dark) as (second, pid):
            report = uvloop.run(measure((first, second), pid, given))
        found = rows(data / "dark")
    copies = {row.pair_id: row for row in found if row.role == "shadow"}
    primaries = {row.exchange_id for row in found if row.role == "primary"}
    ends = Counter(row.error_code if row.outcome == "shed" else row.outcome for row in copies.values())
    closes = fault == "off" or (set(copies) == primaries and len(found) == 2 * len(primaries))
    report |= {"primaries": len(primaries), "copies": dict(ends), "closes": closes}
    passed = bool(report["within"]) and closes
    print(json.dumps({"fault": fault, "passed": passed, **report}), flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second")
    parser.add_argument("--rounds", type=int, default=80, help="of each side")
    parser.add_argument("--seconds", type=float, default=0.25, help="of a round")
    parser.add_argument("--faults", nargs="+", default=["off", "hang", "rst", "bandwidth-1", "5xx"])
    given = parser.parse_args()
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}), flush=True)
    return 0 if all([one_fault(fault, given) for fault in given.faults]) else 1


if __name__ == "__main__":
    sys.exit(main())
