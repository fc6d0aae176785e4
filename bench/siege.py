"""Do ordinary users feel it when 500 attackers hang on to a worker?

    python -m bench.siege [--rounds 5] [--seconds 6] [--rate 60]

A worker and an engine in processes of their own, no keys in force (with keys a stranger gets less far), and
attackers in a third process, who come back whenever they are thrown out: some say nothing, drip a head or a
body byte by byte, idle on a connection after one request, never read a long stream; others send heads of
megabytes, ambiguous framing, or JSON that is made to be slow to read. An open-loop client asks with and
without them, in turn. Prints one line of JSON: p50 and p99 of both, their differences with a bootstrap
interval over stretches of a second, failures, the worker's share of a core and its
memory, and how long each kind of attacker was
borne at most. Exit code 1 if a bar is missed: no failure, p99 at most 10 % or 2 ms above the calm, memory
growth at most 64 MB, whoever sends half a head gone within 10 s and whoever sends half a body within 60 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Final

import uvloop

from experiments.snapshot import Snapshot
from tests.proxy.harness import ask, post, snapshot
from tests.proxy.test_server import AMBIGUOUS

from .shadow import difference, engine, one_round, percentile, resident_mb, until_ready, worker

LARGEST_DELTA, LARGEST_DELTA_MS, LARGEST_GROWTH_MB = 0.10, 2.0, 64.0
#: Seconds that a kind may hold on at most, by the limits of the worker; a second more is the clock's.
BORNE: Final = {"silent": 11.0, "head by drips": 11.0, "body by drips": 61.0}

_RAMP_SECONDS: Final = 2.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_HEAD: Final = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
_KEPT: Final = post(ask(model="other"), headers={"connection": "keep-alive"})
_LONG: Final = post(ask(model="other", stream=True, simulated_fault="big-4000000"))
_AMBIGUOUS: Final = cycle(AMBIGUOUS.values())
_CROWDED: Final = tuple(
    post(b'{"model":"other","messages":[' + piece * (2_000_000 // len(piece)) + b"1]}")
    for piece in (b"{},", b"[],", b'{"a":1},', b"1,")
)


async def silent(connection: Connection) -> None:
    await connection[0].read()


async def head_by_drips(connection: Connection) -> None:
    for byte in _HEAD * 100:
        connection[1].write(bytes([byte]))
        await asyncio.sleep(1.0)


async def body_by_drips(connection: Connection) -> None:
    connection[1].write(_HEAD + b"content-length: 1000\r\n\r\n")
    for _ in range(1000):
        connection[1].write(b"{")
        await asyncio.sleep(1.0)


async def idle(connection: Connection) -> None:
    connection[1].write(_KEPT)
    await connection[0].read()


async def deaf(connection: Connection) -> None:
    connection[1].transport.pause_reading()  # type: ignore[attr-defined]
    connection[1].write(_LONG)
    await asyncio.sleep(600)


async def long_heads(connection: Connection) -> None:
    connection[1].write(_HEAD + b"x: " + b"y" * 2_000_000)
    await connection[0].read()
    await asyncio.sleep(2.0)


async def ambiguous(connection: Connection) -> None:
    connection[1].write(next(_AMBIGUOUS))
    await connection[0].read()
    await asyncio.sleep(1.0)


async def crowded_bodies(connection: Connection) -> None:
    connection[1].write(random.choice(_CROWDED))
    await connection[0].read()
    await asyncio.sleep(5.0)


#: How many of each, and what they do with a connection; when it ends they make another.
ATTACKERS: Final[dict[str, tuple[int, Callable[[Connection], Awaitable[None]]]]] = {
    "silent": (100, silent),
    "head by drips": (100, head_by_drips),
    "body by drips": (100, body_by_drips),
    "idle": (75, idle),
    "deaf": (50, deaf),
    "long heads": (25, long_heads),
    "ambiguous": (25, ambiguous),
    "crowded bodies": (25, crowded_bodies),
}


async def attack(port: int, kinds: list[str]) -> None:
    """All of them, until SIGTERM; then print the longest that each kind was borne, and how often it came."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    borne: dict[str, float] = dict.fromkeys(ATTACKERS, 0.0)
    came: Counter[str] = Counter()

    async def attacker(kind: str, behave: Callable[[Connection], Awaitable[None]]) -> None:
        await asyncio.sleep(random.uniform(0, _RAMP_SECONDS))
        while True:
            began = loop.time()
            with suppress(OSError):
                connection = await asyncio.open_connection("127.0.0.1", port)
                came[kind] += 1
                ended = asyncio.ensure_future(_until_lost(connection))
                behaving = asyncio.ensure_future(behave(connection))
                try:
                    await asyncio.wait({ended, behaving}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (ended, behaving):
                        task.cancel()
                    connection[1].transport.abort()
                    borne[kind] = max(borne[kind], loop.time() - began)

    tasks = [
        asyncio.ensure_future(attacker(kind, behave))
        for kind, (count, behave) in ATTACKERS.items()
        if kind in kinds
        for _ in range(count)
    ]
    await asyncio.sleep(_RAMP_SECONDS + 1.0)
    print("here", flush=True)
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    print(json.dumps({kind: [round(borne[kind], 1), came[kind]] for kind in kinds}))


async def _until_lost(connection: Connection) -> None:
    """Until the worker has closed the connection."""
    while not connection[1].transport.is_closing():  # noqa: ASYNC110 - a transport sets no event
        await asyncio.sleep(0.25)


async def stretches(port: int, given: argparse.Namespace) -> list[list[tuple[int, float]]]:
    """The honest client, a second at a time."""
    return [await one_round(port, given.rate, 1.0) for _ in range(given.seconds)]


def cpu_seconds(pid: int) -> float:
    """What the worker's processes have used of a core, by what the system says."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = [
        Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in (str(pid), *children)
    ]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


async def measure(port: int, pid: int, given: argparse.Namespace) -> dict[str, object]:
    await until_ready(port)
    await one_round(port, given.rate, 2.0)
    calm: list[list[tuple[int, float]]] = []
    besieged: list[list[tuple[int, float]]] = []
    memory, borne, came = [resident_mb(pid)], dict.fromkeys(given.kinds, 0.0), Counter[str]()
    used = [0.0, 0.0]
    for _ in range(given.rounds):
        used[0] -= cpu_seconds(pid)
        calm += await stretches(port, given)
        used[0] += cpu_seconds(pid)
        command = [sys.executable, "-m", "bench.siege", "--attack", str(port), "--kinds", *given.kinds]
        attackers = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert attackers.stdout is not None
        await attackers.stdout.readline()  # all of them are there
        used[1] -= cpu_seconds(pid)
        besieged += await stretches(port, given)
        used[1] += cpu_seconds(pid)
        memory.append(resident_mb(pid))
        attackers.terminate()
        said, _ = await attackers.communicate()
        for kind, (seconds, count) in json.loads(said).items():
            borne[kind] = max(borne[kind], seconds)
            came[kind] += count
        await asyncio.sleep(1.0)
    failures = [sum(status != 200 for stretch in side for status, _ in stretch) for side in (calm, besieged)]
    sides = [[[ms for _, ms in stretch] for stretch in side] for side in (calm, besieged)]
    report: dict[str, object] = {"requests": [sum(map(len, side)) for side in sides], "failures": failures}
    spent = given.rounds * given.seconds
    report |= {"worker_cpu_share": [round(one / spent, 3) for one in used]}
    report |= {"rss_mb": [round(one) for one in memory], "borne_s": borne, "came": dict(came)}
    passed = not failures[1] and max(memory) - memory[0] <= LARGEST_GROWTH_MB
    passed &= all(borne.get(kind, 0.0) <= most for kind, most in BORNE.items())
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        base = percentile([ms for stretch in sides[0] for ms in stretch], share)
        delta, low, high = difference(sides[0], sides[1], share)
        report[name] = {
            "calm_ms": round(base, 2),
            "delta_ms": round(delta, 2),
            "ci95_ms": [round(low, 2), round(high, 2)],
        }
        passed &= delta <= max(LARGEST_DELTA_MS, LARGEST_DELTA * base)
    return {"passed": passed, **report}


def _table(honest: str, other: str) -> Snapshot:
    """Two models: what attackers have an engine do shall not be what is measured."""
    both = snapshot({1: honest, 2: other})
    chat = both.models["chat"]
    attacked = replace(both.endpoints["chat", 2], model="other", version=1)
    return replace(
        both,
        models={"chat": chat, "other": replace(chat, model="other")},
        endpoints={("chat", 1): both.endpoints["chat", 1], ("other", 1): attacked},
    )


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=6, help="of a round, with and without attackers each")
    parser.add_argument("--rate", type=float, default=60.0, help="honest requests a second")
    parser.add_argument("--kinds", nargs="+", default=list(ATTACKERS), choices=list(ATTACKERS))
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        uvloop.run(attack(given.attack, given.kinds))
        return 0
    with (
        tempfile.TemporaryDirectory(prefix="turnout-siege-") as folder,
        engine() as honest,
        engine() as other,
        worker(Path(folder) / "data", _table(honest, other)) as (port, pid),
    ):
        report = uvloop.run(measure(port, pid, given))
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg(), **report}))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
