"""What does Turnout's data path cost, beside nginx and whatever else is installed, in one run?

    python -m bench.proxy [--rounds 3] [--seconds 3] [--reference NAME=PORT=COMMAND] [--out FILE.json]

The proxies run on core 0, the stub engine and the load on core 1, one after the other; so only ratios within
a run mean anything. Turnout runs as `bench.row` prepares it: keys, a 20 % split by user, every exchange on
disk, metrics. nginx only passes on. A reference is any other proxy of http://127.0.0.1:9001 and 9002 that
listens on PORT. CPU is what the kernel says that the processes of a proxy ran, per request or event.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from bench import row
from bench.stub import EVENTS

STUB: Final = (9001, 9002)
_NGINX: Final = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_buffer_size 1m;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream engines {{ server 127.0.0.1:9001 weight=8; server 127.0.0.1:9002 weight=2;
    keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:8101 backlog=1024; location / {{ proxy_pass http://engines;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""
_BODY: Final = {
    "model": row.MODEL,
    "messages": [
        {"role": "system", "content": "You are a careful assistant for a software team. " * 3},
        {"role": "user", "content": "Explain what a canary release is and which guardrails matter. " * 6},
    ],
    "max_tokens": 64,
    "user": "u-000000",
}
COLUMNS: Final = {
    "rps": "requests/s, 64 connections",
    "p99_ms": "p99 ms there",
    "cpu_request": "CPU µs per request",
    "cpu_event": "CPU µs per event",
    "cpu_event_paced": "CPU µs per event, one per 10 ms",
    "first_us": "time to first event, p50 µs",
    "p50_200": "p50 µs at 200/s",
    "p99_200": "p99 µs at 200/s",
    "p50_1000": "p50 µs at 1,000/s",
    "p99_1000": "p99 µs at 1,000/s",
    "pss_mb": "PSS MB",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A proxy to measure; without a command it is the stub itself."""

    name: str
    port: int
    command: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    samples: list[dict[str, float]] = field(default_factory=list)


def subjects(folder: Path, references: list[str]) -> Iterator[Subject]:
    """Everything there is to measure on this machine."""
    yield Subject(name="direct", port=STUB[0])
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx:
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder))
        yield Subject(name="nginx", port=8101, command=(nginx, "-c", str(folder / "nginx.conf")))
    for reference in references:
        name, port, command = reference.split("=", 2)
        yield Subject(name=name, port=int(port), command=tuple(shlex.split(command)))
    data = folder / "data"
    row.prepare(data)
    made = row.row(data)
    yield Subject(
        name="turnout",
        port=row.PORT,
        command=tuple(shlex.split(str(made["cmd"]))),
        headers=(f"Authorization: Bearer {row.KEY}",),
    )


def _processes(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
            found += map(int, children.split())
    return found


def cpu_us(pid: int) -> float:
    """What a process and its children have run."""
    total = 0
    for one in _processes(pid):
        with suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                total += int(Path(f"/proc/{one}/task/{task}/schedstat").read_text().split()[0])
    return total / 1e3


def pss_mb(pid: int) -> float:
    """What a process and its children hold of memory, shared pages counted by their share."""
    total = 0
    for one in _processes(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def on_core(core: int, command: list[str]) -> list[str]:
    """The command, kept to one core where the machine has two."""
    return ["taskset", "-c", str(core), *command] if (os.cpu_count() or 1) > 1 else command


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the block ends; waits until it answers."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=2)
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not answer on port {port}") from None
                time.sleep(0.1)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def load(subject: Subject, kind: str, body: Path, seconds: float, *options: str) -> dict[str, Any]:
    """One run of the client."""
    command = [sys.executable, "-m", "bench.load", kind, str(subject.port), str(body)]
    command += ["--seconds", str(seconds), *options]
    for header in subject.headers:
        command += ["--header", header]
    done = subprocess.run(on_core(1, command), capture_output=True, check=True, timeout=60 + seconds)
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found


def measure(subject: Subject, bodies: dict[str, Path], seconds: float, pid: int | None) -> dict[str, float]:
    """One sample of everything."""

    def cpu() -> float:
        return cpu_us(pid) if pid else 0.0

    httpx.get(f"http://127.0.0.1:{STUB[0]}/set?delay_us=0")
    load(subject, "closed", bodies["whole"], 1)
    before = cpu()
    full = load(subject, "closed", bodies["whole"], seconds)
    sample = {
        "rps": full["per_second"],
        "p99_ms": full["latency"][1] / 1e3,
        "cpu_request": (cpu() - before) / full["answers"],
        "failed": full["failed"],
    }
    for rate in (200, 1000):
        steady = load(subject, "open", bodies["whole"], seconds, "--rate", str(rate))
        sample[f"p50_{rate}"], sample[f"p99_{rate}"] = steady["latency"]
        sample["failed"] += steady["failed"]
    for name, delay in (("cpu_event", 0), ("cpu_event_paced", 10_000)):
        httpx.get(f"http://127.0.0.1:{STUB[0]}/set?delay_us={delay}")
        before = cpu()
        streams = load(subject, "closed", bodies["stream"], seconds)
        sample[name] = (cpu() - before) / max(1, streams["answers"] * (EVENTS + 1))
        sample["failed"] += streams["failed"]
    first = load(subject, "open", bodies["stream"], seconds, "--rate", "20")
    sample["first_us"] = first["first"][0]
    sample["pss_mb"] = pss_mb(pid) if pid else 0.0
    return sample


def table(measured: list[Subject]) -> str:
    """Medians, as Markdown."""
    nginx = next((one for one in measured if one.name == "nginx"), None)
    head = ["", *COLUMNS.values(), "× nginx"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for one in measured:
        medians = [statistics.median(sample[name] for sample in one.samples) for name in COLUMNS]
        share = medians[0] / statistics.median(s["rps"] for s in nginx.samples) if nginx else 0.0
        cells = [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in medians]
        lines.append("| " + " | ".join([one.name, *cells, f"{share:.2f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--reference", action="append", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as name:
        folder = Path(name)
        bodies = {"whole": folder / "whole.json", "stream": folder / "stream.json"}
        bodies["whole"].write_bytes(orjson.dumps(_BODY))
        bodies["stream"].write_bytes(orjson.dumps({**_BODY, "stream": True}))
        measured = list(subjects(folder, given.reference))
        stub = on_core(1, [sys.executable, "-m", "bench.stub", *map(str, STUB)])
        with running(stub, STUB[0]):
            for number in range(given.rounds):
                for subject in measured:
                    if subject.command:
                        with running(on_core(0, list(subject.command)), subject.port) as process:
                            sample = measure(subject, bodies, given.seconds, process.pid)
                    else:
                        sample = measure(subject, bodies, given.seconds, None)
                    subject.samples.append(sample)
                    print(f"round {number + 1}: {subject.name}: {sample['rps']:,.0f} requests/s", flush=True)
        if given.out:
            given.out.write_bytes(orjson.dumps({one.name: one.samples for one in measured}))
        print(table(measured))


if __name__ == "__main__":
    main()
