"""What does a second of the controller cost when the ledger is large and little is new?

    .venv/bin/python -m bench.ticks [--exchanges 10000000] [--experiments 3] [--new 100] [--ticks 10]

Experiments share the ledger's exchanges evenly. After the first reading, which is told apart, each tick gets
some new rows, and does what the controller's loops do with them every second: a look at every experiment, to
the verdict, and the tally that watch and protection ask. Prints JSON: milliseconds of CPU and wall clock.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.analysis import analysis
from bench.bigledger import START_US, Traffic, append, fill
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.store import Store
from experiments.ledger.tally import Tally
from experiments.verdict import conclude


def main() -> None:
    """Make the ledger, read it once, then tick."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=10_000_000)
    parser.add_argument("--units", type=int, default=1_002_000)
    parser.add_argument("--experiments", type=int, default=3)
    parser.add_argument("--new", type=int, default=100)
    parser.add_argument("--ticks", type=int, default=10)
    asked = parser.parse_args()
    parts = [
        Traffic(
            exchanges=asked.exchanges // asked.experiments,
            units=asked.units // asked.experiments,
            phases=1,
            experiment=f"bench{number}",
        )
        for number in range(asked.experiments)
    ]
    with (
        TemporaryDirectory(dir="/var/tmp") as place,
        Store(Path(place) / "ledger.duckdb", threads=2) as store,
    ):
        for part in parts:
            fill(store, part)
        tick = Tick(store, parts)
        found = {"first": tick.take()}
        steps = []
        for step in range(asked.ticks):
            for part in parts:
                since = part.exchanges + step * asked.new
                append(store, part, since, since + asked.new // asked.experiments)
            steps.append(tick.take())
        names = steps[0]
        found["then (median)"] = {name: round(median(each[name] for each in steps), 1) for name in names}
        print(json.dumps({"exchanges": asked.exchanges, "experiments": asked.experiments, **found}, indent=2))


class Tick:
    """What the controller's loops do every second."""

    def __init__(self, store: Store, parts: list[Traffic]) -> None:
        self._store, self._specs = store, [analysis(part) for part in parts]
        self._rollups, self._tally = Rollups(store), Tally(store)

    def take(self) -> dict[str, float]:
        """Milliseconds of CPU by what it was for, and of wall clock."""
        began = time.perf_counter()
        steps = {"looks": self._look, "tally": self._ask}
        found = {f"{name}, cpu ms": _cpu_ms(step) for name, step in steps.items()}
        return {
            **found,
            "all, cpu ms": round(sum(found.values()), 1),
            "all, wall ms": round(1000 * (time.perf_counter() - began), 1),
        }

    def _look(self) -> None:
        for spec in self._specs:
            as_of_ns = START_US * 1000 + 10**16
            conclude(spec, gather(self._store, spec, as_of_ns=as_of_ns, rollups=self._rollups))

    def _ask(self) -> None:
        for spec in self._specs:
            self._tally.last_request_ns(spec.experiment)
            self._tally.trips(spec.experiment, 1)
            self._tally.copied_tokens(spec.experiment)


def _cpu_ms(step: Callable[[], None]) -> float:
    began = time.process_time()
    step()
    return round(1000 * (time.process_time() - began), 1)


if __name__ == "__main__":
    main()
