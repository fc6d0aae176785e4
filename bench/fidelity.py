"""Does the proxy change a byte that is not its business? Random exchanges, compared on all sides.

    python -m bench.fidelity [--pairs 300] [--seed 1]

Each pair is put through a worker over real sockets: what the engine gets must be the client's bytes, what
the client gets the engine's, and the record both, but for the documented differences
(docs/reference/proxy.md). All endpoints; one pair in fifty is of 8 MB. Exit code 1 at the first difference.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.proxy.pairs import bench, pair


async def run(pairs: int, seed: int) -> int:
    """The exit code."""
    seen: Counter[str] = Counter()
    begun, size = time.perf_counter(), 0
    with tempfile.TemporaryDirectory(prefix="turnout-fidelity-") as folder:
        for number in range(pairs):
            # A proxy for every 20 pairs, so that the spool that is read back stays small.
            if number % 20 == 0:
                data = Path(folder) / str(number)
            async with bench(data / str(number)) as checked:
                one = pair(Random(f"{seed}:{number}"), large=number % 50 == 49)
                try:
                    await checked.check(one)
                except AssertionError as error:
                    print(f"pair {number} of seed {seed}, {one.path}, {one.framing}, cut {one.cut}: {error}")
                    return 1
            seen[one.path + (" stream" if one.stream else "") + (" cut" if one.cut else "")] += 1
            size += len(one.request) + len(one.body)
    took = time.perf_counter() - begun
    print(f"{pairs} pairs, {size / 1e6:.0f} MB, 0 differences, {took:.0f} s")
    for name, count in sorted(seen.items()):
        print(f"{count:5d} {name}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return asyncio.run(run(given.pairs, given.seed))


if __name__ == "__main__":
    sys.exit(main())
