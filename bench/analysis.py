"""How long does a look take: ten million exchanges of a million units, twelve metrics, then 10,000 rows more?

    .venv/bin/python -m bench.analysis [--exchanges 10000000] [--units 1002000] [--phases 5] [--refreshes 5]

The ledger is made by SQL (`bench.bigledger`, two minutes) in a temporary folder, or taken from
`--ledger FILE`, which is made if it is not there, and kept. Each case is measured in a process of its own, on
a copy: `first` is from the file to the verdict, then looks after 10,000 new rows each; `again` is the first
look of a controller that was started anew. Prints JSON: seconds of wall clock and of CPU, and the largest
resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.bigledger import START_US, Traffic, append, fill
from experiments.evidence import AnalysisSpec, Evidence, Goal
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.store import Store
from experiments.metrics import metric
from experiments.verdict import conclude

BATCH = 10_000
SUCCESS = ("latency", "tokens_per_second")
GUARDRAILS = (
    "error_rate", "truncation_rate", "latency>2s", "ttft>145ms", "latency.p95", "ttft.p99", "ttft",
    "inter_token_gap", "latency_mean", "completion_tokens",
)  # fmt: skip


def main() -> None:
    """Make the ledger, look, look again, start anew, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=10_000_000)
    parser.add_argument("--units", type=int, default=1_002_000)
    parser.add_argument("--phases", type=int, default=1)
    parser.add_argument("--refreshes", type=int, default=5)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--case", choices=("first", "again"))
    asked = parser.parse_args()
    traffic = Traffic(exchanges=asked.exchanges, units=asked.units, phases=asked.phases)
    if asked.case:
        with Store(asked.ledger, threads=2) as store:
            print(json.dumps(CASES[asked.case](store, traffic, asked.refreshes)))
        return
    with TemporaryDirectory(dir="/var/tmp") as place:
        ledger = asked.ledger or Path(place) / "ledger.duckdb"
        if not ledger.exists():
            made = time.perf_counter()
            with Store(ledger, threads=2) as store:
                fill(store, traffic)
            print(json.dumps({"ledger made in s": round(time.perf_counter() - made, 1)}), flush=True)
        copy = Path(place) / "copy.duckdb"
        shutil.copy(ledger, copy)
        for case in CASES:
            child = [sys.executable, "-m", "bench.analysis", "--ledger", str(copy), "--case", case]
            numbers = [
                f"--{name}={getattr(asked, name)}" for name in ("exchanges", "units", "phases", "refreshes")
            ]
            found = subprocess.run([*child, *numbers], check=True, stdout=subprocess.PIPE).stdout
            print(json.dumps({case: json.loads(found)}, indent=2), flush=True)


def analysis(traffic: Traffic) -> AnalysisSpec:
    """Twelve metrics of every kind."""
    return AnalysisSpec(
        experiment=traffic.experiment,
        mode="canary",
        unit="user",
        goals=(
            *(Goal(metric=metric(name), role="success") for name in SUCCESS),
            *(Goal(metric=metric(name), role="guardrail", margin=0.1) for name in GUARDRAILS),
        ),
        horizon=traffic.units * 2,
    )


class Looks:
    """Looks at the ledger as the controller takes them, each with its wall and CPU seconds."""

    def __init__(self, store: Store, traffic: Traffic) -> None:
        self._store, self._spec = store, analysis(traffic)
        self._rollups = Rollups(store)
        # With the first parameter of a process DuckDB imports pandas, which a controller has by then.
        store.read("SELECT ?", [1])

    def take(self) -> tuple[float, float, Evidence]:
        """One look, to the verdict."""
        wall, cpu = time.perf_counter(), time.process_time()
        evidence = gather(self._store, self._spec, as_of_ns=START_US * 1000 + 10**16, rollups=self._rollups)
        conclude(self._spec, evidence)
        return time.perf_counter() - wall, time.process_time() - cpu, evidence


def first(store: Store, traffic: Traffic, refreshes: int) -> dict[str, Any]:
    """The whole ledger, then some rows more, again and again."""
    looks = Looks(store, traffic)
    whole = looks.take()
    found = _told("the first look", whole) | {"largest resident MB, first look": _largest_mb()}
    more = []
    for step in range(refreshes):
        since = traffic.exchanges + step * BATCH
        append(store, traffic, since, since + BATCH)
        more.append(looks.take())
    if more:
        assert more[-1][2].recorded == whole[2].recorded + refreshes * BATCH
        found["10,000 rows more, wall ms"] = [round(1000 * one[0]) for one in more]
        found["10,000 rows more, wall ms (median)"] = round(1000 * median(one[0] for one in more))
        found["10,000 rows more, cpu ms (median)"] = round(1000 * median(one[1] for one in more))
    return found | {"largest resident MB": _largest_mb()}


def again(store: Store, traffic: Traffic, refreshes: int) -> dict[str, Any]:
    """What a controller's first look takes when another has looked before it, and rows came meanwhile."""
    since = traffic.exchanges + refreshes * BATCH
    append(store, traffic, since, since + BATCH)
    return _told("the first look", Looks(store, traffic).take()) | {"largest resident MB": _largest_mb()}


CASES = {"first": first, "again": again}


def _told(name: str, look: tuple[float, float, Evidence]) -> dict[str, Any]:
    wall, cpu, evidence = look
    return {
        "exchanges": evidence.recorded,
        "units": sum(arm.units for arm in evidence.arms),
        "phases": len({arm.phase for arm in evidence.arms}),
        f"{name}, wall s": round(wall, 2),
        f"{name}, cpu s": round(cpu, 2),
    }


def _largest_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
