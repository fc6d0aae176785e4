"""Does the collector keep up? A spool filled at a steady rate, one core for everything after the spool.

    python -m bench.collector [--rate 5000] [--seconds 60] [--streams 0.3] [--core 0]

A writer process appends exchanges through the proxy's own `SpoolWriter` at the given rate, as a worker
does: chat answers, and streams of 20 to 60 pieces. This process is pinned to one core and empties the
spool as the controller does. Afterwards every exchange must be in the ledger exactly once, and the spool
empty within 30 s of the writer's end. Prints one line of JSON; exit code 1 if a bar is missed.

The core is shared with whatever else runs on the machine: `cpu_us_per_exchange` is what the collector
itself took, and 1,000,000 / that is the rate that it can hold on a core of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from experiments.ledger.collector import Collector
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import SpoolWriter
from experiments.ledger.store import Store
from proxy.identity import new_id
from proxy.worker import SEAL_SECONDS
from tests.experiments.ledger.samples import CHAT, chat_answer, chat_request, chat_stream, even_chunks

EMPTY_WITHIN_S = 30.0
#: as the controller's `collect_every_s`
PAUSE_S = 0.25
_WORDS = ("the ", "signal ", "is ", "set ", "for ", "track ", "two, ", "Gleis ", "🚂 ", "and ")


def _templates(random: Random, streams: float) -> list[dict[str, object]]:
    """Bodies to choose from: building a new one for each exchange would measure the writer."""
    found: list[dict[str, object]] = []
    for number in range(200):
        prompt = f"case {number}: " + "".join(random.choices(_WORDS, k=80))
        fields: dict[str, object] = {"request": chat_request(prompt), "status": 200, "first_byte_us": 900}
        if random.random() < streams:
            body = chat_stream(random.choices(_WORDS, k=random.randint(20, 60)))
            fields |= {**even_chunks(body, 190), "content_type": "text/event-stream", "stream": True}
        else:
            body = chat_answer("".join(random.choices(_WORDS, k=40)))
            fields |= {"response": body, "chunk_us": (900,), "chunk_ends": (len(body),)}
            fields |= {"content_type": "application/json", "duration_us": 950}
        found.append(fields)
    return found


def _write(root: Path, rate: int, seconds: float, streams: float, core: int | None) -> None:
    """A worker's rows at a steady rate; a batch every 10 ms."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    templates = _templates(Random(1), streams)
    writer = SpoolWriter(root, "bench")
    begun = sealed = time.monotonic()
    written = 0
    while written < rate * seconds:
        now = time.monotonic()
        while written < min((now - begun) * rate, rate * seconds):
            started = time.time_ns()
            name = new_id(started)
            writer.append(
                ExchangeRecord(
                    exchange_id=name, request_id=name, started_ns=started, path=CHAT, model="chat",
                    worker="bench", experiment="exp", phase=1, assigned_arm="control",
                    served_arm="control", assigned_version=1, served_version=1, unit=f"{written % 1024:016x}",
                    tenant="bench", snapshot=1, **templates[written % len(templates)],  # type: ignore[arg-type]
                )
            )  # fmt: skip
            written += 1
        if now - sealed > SEAL_SECONDS:
            writer.seal()
            sealed = now
        time.sleep(0.01)
    writer.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=5000, help="exchanges a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--streams", type=float, default=0.3, help="share of streamed answers")
    parser.add_argument("--core", type=int, default=0, help="the collector's core; the writer takes the next")
    return parser


def main() -> int:
    given = _parser().parse_args()
    total = int(given.rate * given.seconds)
    cores = sorted(os.sched_getaffinity(0))
    other = cores[(cores.index(given.core) + 1) % len(cores)] if len(cores) > 1 else None
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        root = Path(folder)
        arguments = (root / "spool", given.rate, given.seconds, given.streams, other)
        writer = multiprocessing.get_context("spawn").Process(target=_write, args=arguments)
        os.sched_setaffinity(0, {given.core})
        with Store(root / "ledger.duckdb", threads=1) as store:
            writer.start()
            report = _collect(store, root / "spool", writer)
            writer.join()
            report |= _account(store, total)
        report["ledger_mb"] = round((root / "ledger.duckdb").stat().st_size / 1e6)
    kept = report["exchanges"] == report["distinct"] == total
    report |= {"rate": given.rate, "seconds": given.seconds, "streams": given.streams}
    # On a machine that is busy otherwise the writer falls behind: then nothing has been shown.
    sustained = report["written_in_s"] <= given.seconds * 1.1 + 3.0
    report["passed"] = kept and sustained and report["emptied_after_s"] <= EMPTY_WITHIN_S
    print(json.dumps(report))
    return 0 if report["passed"] else 1


def _collect(store: Store, spool: Path, writer: multiprocessing.process.BaseProcess) -> dict[str, Any]:
    """Empty the spool in the controller's rhythm until the writer has ended and nothing is left."""
    collector = Collector(store, spool)
    collected, behind, ended, resident = 0, 0, None, []
    held: dict[str, int] = {}
    begun, cpu = time.monotonic(), time.process_time()
    while True:
        if ended is None and not writer.is_alive():
            ended = time.monotonic()
        waiting = sum(path.stat().st_size for path in spool.rglob("*.seg"))
        behind = max(behind, waiting)
        got = collector.collect_once().exchanges
        collected += got
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
        held = max(held, _held(store), key=lambda each: sum(each.values()))
        if ended is not None and not got and not any(spool.rglob("*.seg")):
            break
        time.sleep(PAUSE_S)
    now = time.monotonic()
    return {
        "written_in_s": round((ended or now) - begun, 1),
        "emptied_after_s": round(now - (ended or now), 1),
        "cpu_us_per_exchange": round((time.process_time() - cpu) / max(1, collected) * 1e6, 1),
        "most_waiting_mb": round(behind / 1e6, 1),
        "rss_mb_max": round(max(resident) / 1e6),
        "rss_mb_end": round(resident[-1] / 1e6),
        "database_mb_max": {tag: round(size / 1e6) for tag, size in held.items()},
    }


def _held(store: Store) -> dict[str, int]:
    """What DuckDB's buffers hold, in bytes, by what it is for."""
    rows = store.read(
        "SELECT tag, memory_usage_bytes AS held FROM duckdb_memory() WHERE held > 0 ORDER BY 2 DESC"
    )
    return {row["tag"]: row["held"] for row in rows}


def _account(store: Store, total: int) -> dict[str, float]:
    [row] = store.read(
        """SELECT count(*) AS exchanges, count(DISTINCT exchange_id) AS "distinct",
                  count(*) FILTER (outcome = 'complete') AS complete FROM exchanges"""
    )
    return {"written": total, **row}


if __name__ == "__main__":
    sys.exit(main())
