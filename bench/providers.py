"""How long does the loop that relays stand still while litellm is imported beside it?

    python -m bench.providers

What a worker does when the first endpoint of that kind appears while it serves (one that knows of it at its
start imports before it listens). Something wakes every 2 ms meanwhile; how late it is, is what a request
would have waited. Prints one line of JSON, in milliseconds; exit code 1 if it ever stood still for 250 ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import uvloop

from proxy.limits import Limits
from proxy.providers import Providers

_TICK_SECONDS = 0.002
LARGEST_STALL_MS = 250.0


async def measure() -> dict[str, object]:
    """The lateness of each tick until litellm is there."""
    loop, late = asyncio.get_running_loop(), []
    began, used = loop.time(), time.process_time()
    providers = Providers(Limits())
    ready = asyncio.ensure_future(providers.ready(120.0))
    while not ready.done():
        before = loop.time()
        await asyncio.sleep(_TICK_SECONDS)
        late.append((loop.time() - before - _TICK_SECONDS) * 1e3)
    took, used = loop.time() - began, time.process_time() - used
    await providers.close()
    late.sort()
    return {
        "import_s": round(took, 1),
        "import_cpu_s": round(used, 1),
        "late_ms": {
            "p50": round(late[len(late) // 2], 1),
            "p99": round(late[int(len(late) * 0.99)], 1),
            "most": round(late[-1], 1),
        },
        "over_20_ms": sum(one > 20 for one in late),
    }


def main() -> int:
    """Entry point."""
    report = uvloop.run(measure())
    print(json.dumps({"load": os.getloadavg(), **report}))
    late = report["late_ms"]
    assert isinstance(late, dict)
    return 0 if late["most"] <= LARGEST_STALL_MS else 1


if __name__ == "__main__":
    sys.exit(main())
