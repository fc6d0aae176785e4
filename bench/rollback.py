"""How long is a bad candidate asked, after the evidence or an operator has said no?

    python -m bench.rollback operator [--workers 1 4 8] [--times 5]
    python -m bench.rollback evidence [--harm errors latency] [--times 3]

Real processes (controller, proxy and its workers, SQLite MLflow behind an HTTP server), real HTTP, simulated
engines. `operator`: `rollback` while MLflow is down and no file can grow, from the call to its return; the
candidate's engine must not be asked once afterwards. `evidence`: a canary at a share of 10 % that turns bad
under load; measured is the time from the crossing of the bound in the data (found afterwards, by judging
the ledger anew after every answer of the candidate) to the last request that the candidate got. Exit code 1
if a rollback takes longer than 1 s, or evidence longer than 2 s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from experiments.evidence import Cut
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.store import Store, nanoseconds
from experiments.spec import analysis_of, read_spec
from experiments.verdict import conclude
from registry import Registry
from tests.journey import eventually
from tests.registry.server import MlflowServer
from tests.stack import Stack, Traffic
from tests.test_durability import no_file_grows
from turnout.simulation import Profile, SimulatedEngine, running_engine

AB = """
experiment: {name}
model: chat
mode: ab
candidate: 2
metrics: {{success: [{{metric: latency}}], guardrails: [{{metric: error_rate}}]}}
analysis: {{horizon: 1000000, min_duration: 1h}}
"""
CANARY = """
experiment: {name}
model: chat
mode: canary
candidate: 2
unit: request
traffic: {{ramp: [10], min_duration: 1h}}
metrics:
  guardrails:
    - {{metric: error_rate, tolerated_ratio: 1.25}}
    - {{metric: latency, margin: 25%}}
analysis: {{horizon: 1000000, min_duration: 1h, rollback_alpha: 5%}}
"""
PROFILE = Profile(name="chat", ttft_ms=20, jitter=0.3, error_rate=0.02)
HARMS = {"errors": replace(PROFILE, error_rate=0.10), "latency": replace(PROFILE, ttft_ms=40.0)}


@contextmanager
def stage(workers: int, profile: Profile) -> Iterator[tuple[Stack, MlflowServer, SimulatedEngine]]:
    """Everything up, version 1 in production, version 2 registered."""
    folder = Path(tempfile.mkdtemp(prefix="turnout-bench-"))
    Registry(f"sqlite:///{folder / 'server.db'}").ping()
    mlflow = MlflowServer(f"sqlite:///{folder / 'server.db'}", folder)
    try:
        mlflow.wait()
        with running_engine(profile) as first, running_engine(profile) as second:
            stack = Stack(folder / "data", workers=workers, tracking_uri=mlflow.url)
            with stack.up([first.url, second.url]):
                yield stack, mlflow, second
    finally:
        mlflow.stop()
        shutil.rmtree(folder, ignore_errors=True)


def until_asked(engine: SimulatedEngine, times: int) -> None:
    enough = engine.counters.requests + times
    eventually(lambda: engine.counters.requests, within=30, until=lambda count: count >= enough)


def operator(workers: int, times: int) -> bool:
    """Rollbacks of an A/B by hand, with MLflow away and the disk full."""
    took: list[float] = []
    in_force: list[float] = []
    asked_after = 0
    with stage(workers, Profile(name="chat")) as (stack, mlflow, candidate):
        for number in range(times):
            stack.begin(AB, name=f"e{number}")
            with Traffic(stack.settings.proxy_port, pause=0.005) as traffic:
                until_asked(candidate, 20)
                if number == times - 1:
                    mlflow.stop()
                with no_file_grows(stack):
                    done, seconds = stack.move("rollback", reason="a measurement")
                    counted = candidate.counters.requests
                    traffic.more(200)
                    asked_after += candidate.counters.requests - counted
                took.append(seconds)
                in_force.append(done["elapsed_ms"])
                eventually(stack.health, within=30, until=lambda found: not found["pending"])
    print(
        f"{workers} workers: in force on all of them after {median(in_force):.0f} ms (longest "
        f"{max(in_force):.0f}), command returned after median {1000 * median(took):.0f} ms, "
        f"longest {1000 * max(took):.0f} ms "
        f"of {times}; requests to the candidate afterwards: {asked_after}"
    )
    return max(took) <= 1.0 and asked_after == 0


def until_rolled_back(stack: Stack, name: str) -> None:
    eventually(
        lambda: stack.api.get(f"/api/experiments/{name}")["state"],
        within=120,
        until=lambda state: state == "rolled_back",
    )


def evidence(harm: str, times: int) -> bool:
    """A canary turns bad; the controller rolls back by itself."""
    last: dict[str, float] = {}
    exposed: list[int] = []
    with stage(2, PROFILE) as (stack, _, candidate):
        for number in range(times):
            name = f"{harm}{number}"
            candidate.profile = PROFILE
            stack.begin(CANARY, name=name)
            with Traffic(stack.settings.proxy_port, connections=8, pause=0.02) as traffic:
                traffic.until(600)
                candidate.profile = HARMS[harm]
                before = candidate.counters.requests
                until_rolled_back(stack, name)
                traffic.more(50)
            sent = max(one.sent for one in traffic.answers if one.version == 2)
            last[name] = time.time_ns() / 1e9 - (time.monotonic() - sent)
            exposed.append(candidate.counters.requests - before)
        stack.stop()
        with stack.ledger() as ledger:
            delays = [last[name] - crossed(ledger, name) for name in last]
    print(
        f"{harm}: from the crossing in the data to the last candidate request "
        f"{', '.join(f'{one:.2f} s' for one in delays)}; "
        f"candidate requests after it had turned bad: {exposed}"
    )
    return max(delays) <= 2.0


def crossed(ledger: Store, name: str) -> float:
    """When the answer had come with which the bound was crossed, had anybody looked after every one."""
    row = ledger.read("SELECT spec_yaml FROM experiments WHERE name = ?", [name])[0]
    spec = analysis_of(read_spec(row["spec_yaml"]), control_version=1, candidate_version=2)
    rows = ledger.read(
        "SELECT rowid AS at, started_at, duration_ms FROM exchanges"
        " WHERE experiment = ? AND assigned_arm = 'candidate' ORDER BY rowid",
        [name],
    )
    rollups = Rollups(ledger)
    try:
        for row in rows:
            ended_ns = nanoseconds(row["started_at"]) + round(row["duration_ms"] * 1e6)
            cut = Cut(exchanges=row["at"] + 1)
            found = conclude(spec, gather(ledger, spec, as_of_ns=ended_ns, cut=cut, rollups=rollups))
            if found.kind == "roll_back":
                return float(ended_ns / 1e9)
    finally:
        rollups.keep(())
    raise AssertionError(f"{name} was rolled back, and its rows do not say why")


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("what", choices=("operator", "evidence"))
    asked.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8])
    asked.add_argument("--harm", nargs="+", choices=sorted(HARMS), default=sorted(HARMS))
    asked.add_argument("--times", type=int, default=3)
    given = asked.parse_args()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    if given.what == "operator":
        passed = [operator(workers, given.times) for workers in given.workers]
    else:
        passed = [evidence(harm, given.times) for harm in given.harm]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
