"""How long is a bad candidate asked, after the evidence or an operator has said no?

    python -m bench.rollback operator [--workers 1 4 8] [--times 5]
    python -m bench.rollback evidence [--harm errors latency quality] [--times 3]
    python -m bench.rollback exposed [--times 30]

Real processes (controller, proxy and its workers, SQLite MLflow behind an HTTP server), real HTTP, simulated
engines.

`operator`: `rollback` of an experiment's candidate and of production, from the call to its return; in every
repetition no file can grow and MLflow takes connections and answers none (the last time it is gone). The
version that was left must not be asked once afterwards.
`evidence`: a canary at a share of 10 % that turns bad under load (quality: of the answers, as users' feedback
tells it, 95 % were good, then 85 %). Measured is the time from the crossing of the bound in the data (found
afterwards, by judging the ledger anew after every answer of the candidate) to the candidate's last request.
`exposed`: errors of 10 % against 2 % from the first request on; how many of a canary's users meet them,
against the design's 71.

Exit code 1 if a rollback takes longer than 1 s, evidence longer than 2 s, or the median exposure is not
within 25 %.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import httpx

from bench.release import PREDICTED, WITHIN
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
GUARDED_ERRORS = CANARY.replace("    - {{metric: latency, margin: 25%}}\n", "")
GUARDED_QUALITY = CANARY.replace(
    "metric: latency, margin: 25%", "metric: 'feedback:good', margin: 5%"
).replace("horizon: 1000000", "horizon: 20000")
#: The share of answers that users find good: of a good version, and of one that has turned bad.
GOOD, BAD = 0.95, 0.85
PROFILE = Profile(name="chat", ttft_ms=20, jitter=0.3, error_rate=0.02)
HARMS = {
    "errors": replace(PROFILE, error_rate=0.10),
    "latency": replace(PROFILE, ttft_ms=40.0),
    "quality": PROFILE,
}


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


@dataclass(slots=True)
class Rollbacks:
    """What rollbacks of one kind took, in seconds, and how often the version left was asked afterwards."""

    stack: Stack
    left: SimulatedEngine
    took: list[float] = field(default_factory=list)
    in_force_ms: list[float] = field(default_factory=list)
    asked_after: int = 0

    def once(self, traffic: Traffic, **body: Any) -> None:
        """One more, on a full disk. What is owed is not waited for."""
        until_asked(self.left, 20)
        with no_file_grows(self.stack):
            done, seconds = self.stack.move("rollback", reason="a measurement", **body)
            counted = self.left.counters.requests
            traffic.more(200)
            self.asked_after += self.left.counters.requests - counted
        assert not done["unacknowledged"], done
        self.took.append(seconds)
        self.in_force_ms.append(done["elapsed_ms"])

    def told(self, what: str) -> bool:
        print(
            f"{what}: in force everywhere after median {median(self.in_force_ms):.0f} ms (longest "
            f"{max(self.in_force_ms):.0f}), command returned after median {1000 * median(self.took):.0f} ms "
            f"(longest {1000 * max(self.took):.0f}) of {len(self.took)}; requests afterwards: "
            f"{self.asked_after}",
            flush=True,
        )
        return max(self.took) <= 1.0 and self.asked_after == 0


def operator(workers: int, times: int) -> bool:
    """Rollbacks by hand, of an A/B's candidate and of production, with MLflow away and the disk full."""
    with stage(workers, Profile(name="chat")) as (stack, mlflow, second):
        released, returned = Rollbacks(stack, second), Rollbacks(stack, second)
        with Traffic(stack.settings.proxy_port, pause=0.005) as traffic:
            for number in range(times):
                stack.begin(AB, name=f"e{number}")
                with mlflow.hanging():
                    released.once(traffic)
                settled(stack)
                stack.move("promote", version=2, force=True, reason="a measurement")
                with mlflow.hanging():
                    returned.once(traffic, production=True)
                settled(stack)
            stack.begin(AB, name="gone")
            mlflow.stop()
            released.once(traffic)
            settled(stack)
        assert not traffic.failures, traffic.failures[:3]
    passed = released.told(f"{workers} workers, an experiment's candidate")
    return returned.told(f"{workers} workers, production") and passed


def settled(stack: Stack) -> None:
    """What a rollback owes is paid once MLflow and the disk are there again."""
    eventually(stack.health, within=60, until=lambda found: not found["pending"])


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
            candidate.profile, good = PROFILE, [GOOD]
            stack.begin(GUARDED_QUALITY if harm == "quality" else CANARY, name=name)
            traffic = Traffic(stack.settings.proxy_port, connections=8, pause=0.02)
            with traffic, felt(stack, traffic, good) if harm == "quality" else nullcontext():
                traffic.until(600)
                candidate.profile, good[0] = HARMS[harm], BAD
                before = candidate.counters.requests
                until_rolled_back(stack, name)
                traffic.more(50)
            sent = max(one.sent for one in traffic.answers if one.version == 2)
            last[name] = time.time_ns() / 1e9 - (time.monotonic() - sent)
            exposed.append(candidate.counters.requests - before)
        stack.stop()
        with stack.ledger() as ledger:
            crossing = crossed_by_feedback if harm == "quality" else crossed
            delays = [last[name] - crossing(ledger, name) for name in last]
    print(
        f"{harm}: from the crossing in the data to the last candidate request "
        f"{', '.join(f'{one:.2f} s' for one in delays)}; "
        f"candidate requests after it had turned bad: {exposed}",
        flush=True,
    )
    return max(delays) <= 2.0


@contextmanager
def felt(stack: Stack, traffic: Traffic, good: list[float]) -> Iterator[None]:
    """Users say of each answer whether it was any good: `good` holds the candidate's share of good ones."""
    random, stopping = Random(1), threading.Event()

    def work() -> None:
        told = 0
        with httpx.Client(base_url=stack.settings.proxy_address, trust_env=False) as client:
            while not stopping.is_set():
                for answer in traffic.answers[told:]:
                    told += 1
                    value = float(random.random() < (good[0] if answer.version == 2 else GOOD))
                    said = {"request_id": answer.request_id, "name": "good", "value": value}
                    client.post("/v1/feedback", json=said).raise_for_status()
                stopping.wait(0.02)

    users = threading.Thread(target=work, name="users", daemon=True)
    users.start()
    try:
        yield
    finally:
        stopping.set()
        users.join(10)


def exposed(times: int) -> bool:
    """How many users meet a canary that is bad from its first request on."""
    with stage(2, PROFILE) as (stack, _, candidate):
        candidate.profile = HARMS["errors"]
        for number in range(times):
            stack.begin(GUARDED_ERRORS, name=f"bad{number}")
            with Traffic(stack.settings.proxy_port, connections=4, pause=0.04):
                until_rolled_back(stack, f"bad{number}")
        stack.stop()
        with stack.ledger() as ledger:
            rows = ledger.read(
                "SELECT count(*) AS n FROM exchanges WHERE assigned_arm = 'candidate' GROUP BY experiment"
            )
    found = sorted(row["n"] for row in rows)
    middle = median(found)
    print(
        f"exposed: median {middle:.0f} of {len(found)} canaries, predicted {PREDICTED} "
        f"({middle / PREDICTED - 1:+.0%}); {found}",
        flush=True,
    )
    return len(found) == times and abs(middle / PREDICTED - 1) <= WITHIN


def crossed(ledger: Store, name: str) -> float:
    """When the answer had come with which the bound was crossed, had anybody looked after every one."""
    rows = ledger.read(
        "SELECT rowid AS at, started_at, duration_ms FROM exchanges"
        " WHERE experiment = ? AND assigned_arm = 'candidate' ORDER BY rowid",
        [name],
    )
    return first_crossing(
        ledger,
        name,
        (
            (nanoseconds(row["started_at"]) + round(row["duration_ms"] * 1e6), Cut(exchanges=row["at"] + 1))
            for row in rows
        ),
    )


def crossed_by_feedback(ledger: Store, name: str) -> float:
    """When the word had come with which the bound was crossed, had anybody looked after every one."""
    rows = ledger.read(
        'SELECT f.rowid AS at, f."at" AS came FROM feedback f JOIN exchanges x USING (request_id)'
        " WHERE x.experiment = ? AND x.assigned_arm = 'candidate' ORDER BY f.rowid",
        [name],
    )
    every = ledger.read("SELECT max(rowid) + 1 AS n FROM exchanges")[0]["n"]
    cuts = ((nanoseconds(row["came"]), Cut(exchanges=every, feedback=row["at"] + 1)) for row in rows)
    return first_crossing(ledger, name, cuts)


def first_crossing(ledger: Store, name: str, cuts: Iterable[tuple[int, Cut]]) -> float:
    """The instant (unix seconds) of the first of the cuts at which the verdict is to roll back."""
    row = ledger.read("SELECT spec_yaml FROM experiments WHERE name = ?", [name])[0]
    spec = analysis_of(read_spec(row["spec_yaml"]), control_version=1, candidate_version=2)
    rollups = Rollups(ledger)
    try:
        for at_ns, cut in cuts:
            found = conclude(spec, gather(ledger, spec, as_of_ns=at_ns, cut=cut, rollups=rollups))
            if found.kind == "roll_back":
                return at_ns / 1e9
    finally:
        rollups.keep(())
    raise AssertionError(f"{name} was rolled back, and its rows do not say why")


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("what", choices=("operator", "evidence", "exposed"))
    asked.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8])
    asked.add_argument("--harm", nargs="+", choices=sorted(HARMS), default=sorted(HARMS))
    asked.add_argument("--times", type=int, default=3)
    given = asked.parse_args()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    if given.what == "operator":
        passed = [operator(workers, given.times) for workers in given.workers]
    elif given.what == "exposed":
        passed = [exposed(given.times)]
    else:
        passed = [evidence(harm, given.times) for harm in given.harm]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
