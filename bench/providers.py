"""How late is the loop that relays while providers are asked? Their process starts, then it has work.

    python -m bench.providers [--rate 20] [--seconds 10]

What a worker has when an endpoint of that kind appears while it serves: litellm in a process of its own,
which is started and then asked at a steady rate, for streams and whole answers of a simulated engine. In the
loop that would relay everybody else's requests something wakes every 2 ms meanwhile; how late it is, is what
such a request would have waited. Prints one line of JSON, in milliseconds, calm, while the process starts and
while it answers; exit code 1 if the latest 1 % were 20 ms later than without it, or a call failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter

import orjson
import uvloop

from experiments.ledger.exchange import Outcome
from experiments.snapshot import LITELLM, Endpoint
from proxy.heads import AnswerHead
from proxy.limits import Limits
from proxy.provider_process import ProviderProcess

from .shadow import engine

_TICK_SECONDS = 0.002
LARGEST_MS = 20.0
_ENDPOINT = Endpoint(
    model="chat", version=1, served_name="openai/chat", engine=LITELLM, replicas=(), credential="BENCH_KEY"
)


class Heard:
    """A receiver: how calls ended."""

    def __init__(self, ends: Counter[str]) -> None:
        self._ends = ends

    def answer(self, head: AnswerHead, body: bytes) -> None:
        self._ends[f"answer {head.status}"] += 1

    def head(self, head: AnswerHead) -> None: ...

    def body(self, data: bytes, came: int, chunks: bytes = b"") -> None: ...

    def end(self, data: bytes) -> None:
        self._ends["stream"] += 1

    def failed(self, outcome: Outcome, code: str) -> None:
        self._ends[code] += 1


async def lateness(until: asyncio.Future[None]) -> dict[str, float]:
    """How late each tick was, until something has ended."""
    late: list[float] = []
    while not until.done():
        before = time.perf_counter()
        await asyncio.sleep(_TICK_SECONDS)
        late.append((time.perf_counter() - before - _TICK_SECONDS) * 1e3)
    await until
    late.sort()
    return {
        "p50": round(late[len(late) // 2], 2),
        "p99": round(late[int(len(late) * 0.99)], 2),
        "most": round(late[-1], 2),
    }


async def calls(providers: ProviderProcess, rate: float, seconds: float, ends: Counter[str]) -> None:
    """Half of them streams."""
    count = int(rate * seconds)
    messages = [{"role": "user", "content": "Where is my order? " * 25}]
    for number in range(count):
        body = orjson.dumps({"model": "chat", "messages": messages, "stream": number % 2 == 0})
        providers.call(_ENDPOINT, b"/v1/chat/completions", body, Heard(ends))
        await asyncio.sleep(1 / rate)
    while sum(ends.values()) < count:  # noqa: ASYNC110 - each call has its deadline
        await asyncio.sleep(0.01)


async def measure(rate: float, seconds: float) -> dict[str, object]:
    report: dict[str, object] = {"calm_ms": await lateness(asyncio.ensure_future(asyncio.sleep(seconds / 2)))}
    providers, began = ProviderProcess(Limits()), time.monotonic()
    providers.start()
    report["starting_ms"] = await lateness(asyncio.ensure_future(providers.ready(120.0)))
    report["start_s"] = round(time.monotonic() - began, 1)
    ends: Counter[str] = Counter()
    report["answering_ms"] = await lateness(asyncio.ensure_future(calls(providers, rate, seconds, ends)))
    await providers.close()
    return report | {"calls": dict(ends)}


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with engine() as url:
        os.environ["OPENAI_API_BASE"] = f"{url}/v1"
        os.environ["BENCH_KEY"] = "sk-bench"
        report = uvloop.run(measure(given.rate, given.seconds))
    print(json.dumps({"load": os.getloadavg(), **report}))
    calm, later = report["calm_ms"], [report["starting_ms"], report["answering_ms"]]
    assert isinstance(calm, dict)
    prompt = all(isinstance(one, dict) and one["p99"] <= calm["p99"] + LARGEST_MS for one in later)
    failed = set(report["calls"]) - {"answer 200", "stream"}  # type: ignore[call-overload]
    return 0 if prompt and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
