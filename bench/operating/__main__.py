"""`python -m bench.operating [--out docs] [--replications 2000]`: how often wrong, how soon right?

Prints the tables that docs/reference/operating-characteristics.md shows, with Monte-Carlo errors, and says
which of the bars are kept; with --out it writes that page and its plots. Seeded: the same numbers each time.
Minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import plots, tables


def main() -> int:
    """Runs everything; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.operating", description=__doc__)
    parser.add_argument("--out", type=Path, help="the docs folder to write the page and the plots into")
    parser.add_argument("--replications", type=int, default=2000)
    chosen = parser.parse_args()
    started = time.monotonic()
    found = tables.run(chosen.replications, say=lambda text: print(text, flush=True))
    missed = [bar for bar in found.bars if not bar.kept]
    if chosen.out is not None:
        tables.write(found, chosen.out / "reference" / "operating-characteristics.md")
        plots.write(found, chosen.out / "images")
    print(
        f"{len(found.bars) - len(missed)} bars kept, {len(missed)} missed, {time.monotonic() - started:.0f} s"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
