"""Units stay in their arm on every worker; a rollback or a promotion holds from the command's return on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.assignment import unit_id
from experiments.snapshot import Snapshot
from tests.journey import eventually
from tests.stack import MODEL, Answer, Stack, Traffic
from turnout.simulation import Profile, SimulatedEngine, running_engine

#: A candidate whose answers of 400 tokens take two seconds: long enough to be rolled back in their middle.
LONG_TOKENS = 400
PROFILE = Profile(name=MODEL, tokens_per_s=200)

AB = """
experiment: {name}
model: chat
mode: ab
candidate: 2
unit: user
traffic: {{weight: 50}}
metrics: {{success: [{{metric: latency}}], guardrails: [{{metric: error_rate}}]}}
analysis: {{horizon: 100000, min_duration: 1h}}
"""
CANARY = """
experiment: {name}
model: chat
mode: canary
candidate: 2
unit: user
traffic: {{ramp: [5, 50], min_units: 20, min_duration: 2s}}
metrics: {{guardrails: [{{metric: error_rate}}]}}
analysis: {{horizon: 100000, min_duration: 1h}}
"""

Engines = tuple[SimulatedEngine, SimulatedEngine]


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with running_engine(PROFILE) as first, running_engine(PROFILE) as second:
        yield first, second


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, engines: Engines
) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("rollback") / "data", mlflow=empty_database)
    with made.up([engine.url for engine in engines]):
        yield made


def arms(answers: list[Answer]) -> dict[str, str]:
    """The one arm of each unit."""
    seen: dict[str, set[str | None]] = defaultdict(set)
    for answer in answers:
        seen[answer.unit].add(answer.arm)
    assert all(len(found) == 1 for found in seen.values()), "a unit in two arms"
    return {unit: str(found.pop()) for unit, found in seen.items()}


def declared(stack: Stack, units: int) -> dict[str, str | None]:
    """Where the snapshot on disk, a pure function, sends each unit."""
    snapshot = Snapshot.from_json((stack.data / "snapshot.json").read_bytes())
    names = [f"unit-{number}" for number in range(units)]
    return {name: snapshot.route(MODEL, unit_id(name)).arm for name in names}


def near(count: int, units: int, share: float) -> bool:
    """Whether that many of the units are what a share is to give. The salt is drawn anew in each run: chance
    goes as far in one of a billion."""
    return abs(count - share * units) < 6 * (units * share * (1 - share)) ** 0.5


def ask_each(stack: Stack, units: int) -> list[Answer]:
    """Four requests of every unit."""
    with Traffic(stack.settings.proxy_port, total=4 * units, units=units, connections=24) as traffic:
        traffic.join()
    assert not traffic.failures
    return traffic.answers


def ask_each_worker(stack: Stack, units: int) -> list[Answer]:
    """Requests of every unit to each worker, while the other one sleeps: new connections find the one that
    is awake."""
    answers: list[Answer] = []
    for asleep in stack.worker_pids:
        os.kill(asleep, signal.SIGSTOP)
        try:
            answers += ask_each(stack, units)
        finally:
            os.kill(asleep, signal.SIGCONT)
    return answers


@pytest.mark.slow
def test_units_keep_their_arm_on_every_worker_and_over_restarts(stack: Stack) -> None:
    units = 300
    stack.begin(AB, name="sticky")
    before = ask_each_worker(stack, units)
    expected = declared(stack, units)
    assert arms(before) == expected
    assert near(list(expected.values()).count("candidate"), units, 0.5)
    stack.stop()
    try:
        with stack.ledger() as ledger:
            found = ledger.read("SELECT unit FROM exchanges GROUP BY unit HAVING count(DISTINCT worker) = 2")
    finally:
        stack.start("controller")
        stack.start("proxy")
    after = ask_each(stack, units)
    stack.api.post("/api/experiments/sticky/stop", {"reason": "done"})
    assert arms(after) == expected
    assert len(found) == units, "both workers answered every unit"


@pytest.mark.slow
def test_a_ramp_moves_units_one_way_only(stack: Stack) -> None:
    units = 1000
    stack.begin(CANARY, name="ramp")
    with Traffic(stack.settings.proxy_port, units=units, connections=24) as traffic:
        traffic.until(2 * units)
        shares = eventually(
            lambda: stack.api.get("/api/experiments/ramp")["phases"],
            within=30,
            until=lambda found: len(found) == 2,
        )
        eventually(stack.workers, within=5, until=lambda known: len(known) == 2)
        traffic.more(2 * units)
    assert not traffic.failures
    assert [phase["candidate_pct"] for phase in shares] == [5, 50]
    by_snapshot: dict[int, list[Answer]] = defaultdict(list)
    for answer in traffic.answers:
        by_snapshot[answer.snapshot].append(answer)
    first, *_, last = sorted(by_snapshot)
    small, large = arms(by_snapshot[first]), arms(by_snapshot[last])
    candidates = {unit for unit, arm in small.items() if arm == "candidate"}
    grown = {unit for unit, arm in large.items() if arm == "candidate"}
    assert candidates <= grown, "none back"
    assert large == declared(stack, units)
    assert near(len(grown) - len(candidates), units, 0.45)
    sys.stdout.write(f"candidate units {len(candidates)} -> {len(grown)} of {units}\n")
    stack.move("rollback")


@pytest.mark.slow
def test_two_experiments_side_by_side_share_no_unit_and_end_with_one_rollback(stack: Stack) -> None:
    units = 400
    for name, part in (("left", "[0, 50]"), ("right", "[50, 100]")):
        stack.begin(AB + "exclusive: {{group: sides, units: {part}}}\n", name=name, part=part)
    snapshot = Snapshot.from_json((stack.data / "snapshot.json").read_bytes())
    expected = {}
    for unit in (f"unit-{number}" for number in range(units)):
        route = snapshot.route(MODEL, unit_id(unit))
        expected[unit] = (route.experiment, route.arm)
    answers = ask_each(stack, units)
    assert {(one.unit, one.experiment, one.arm) for one in answers} == {
        (unit, *where) for unit, where in expected.items()
    }

    def books() -> list[dict[str, int]]:
        found = (stack.api.get(f"/api/experiments/{name}")["accounting"] for name in ("left", "right"))
        return [{arm: of["assigned"] for arm, of in one["by_arm"].items()} for one in found]

    closed = eventually(
        books, within=30, until=lambda found: sum(map(sum, map(dict.values, found))) == 4 * units
    )
    for name, arms_of in zip(("left", "right"), closed, strict=True):
        assert arms_of == {
            arm: 4 * list(expected.values()).count((name, arm)) for arm in ("control", "candidate")
        }
        assert near(list(expected.values()).count((name, "candidate")), units, 0.25)
    done, seconds = stack.move("rollback", reason="either of them")
    assert {answer.arm for answer in ask_each(stack, units)} == {None}
    assert len(done["acknowledged_by"]) == 2
    assert seconds < 1.0
    states = {row["name"]: row["state"] for row in stack.api.get("/api/experiments")}
    assert (states["left"], states["right"]) == ("rolled_back", "rolled_back")


def gets_traffic(engine: SimulatedEngine) -> None:
    """An engine is in the middle of its work."""
    enough = engine.counters.requests + 50
    eventually(lambda: engine.counters.requests, within=5, until=lambda count: count >= enough)


def falls_silent(engine: SimulatedEngine, version: int, traffic: Traffic) -> None:
    """From now on, the return of a command, nothing that is sent reaches an engine, by its own count, however
    much traffic goes on.

    What was sent before may still lie in a socket that the engine has not read: one request for each
    connection at most."""
    returned, counted = time.monotonic(), engine.counters.requests
    traffic.more(300)
    late = engine.counters.requests - counted
    assert late <= traffic.connections
    assert not [one for one in traffic.answers if one.version == version and one.sent > returned]
    traffic.more(100)
    assert engine.counters.requests - counted == late
    assert not traffic.failures


@pytest.mark.slow
def test_a_rollback_holds_from_its_return_on_and_streams_in_flight_end_whole(
    stack: Stack, engines: Engines
) -> None:
    _, candidate = engines
    port = stack.settings.proxy_port
    took: list[float] = []
    with Traffic(port) as traffic:
        for number in range(4):
            stack.begin(AB, name=f"rollback-{number}")
            chosen = next(k for k, arm in enumerate(declared(stack, 100).values()) if arm == "candidate")
            gets_traffic(candidate)
            with Traffic(
                port, total=4, connections=4, units=1, tokens=LONG_TOKENS,
                first_unit=chosen, only_streams=True, fields={"ignore_eos": True},
            ) as long:  # fmt: skip
                eventually(lambda: long.begun, within=5, until=lambda n: n == 4)
                done, seconds = stack.move("rollback", reason="a test")
                assert not long.answers, "they were to be in flight"
                falls_silent(candidate, 2, traffic)
                assert len(done["acknowledged_by"]) == 2
                assert not done["unacknowledged"]
                long.join()
            assert not long.failures
            assert {answer.version for answer in long.answers} == {2}
            took.append(seconds)
        stack.begin(AB, name="rollback-by-command")
        gets_traffic(candidate)
        said = stack.command("rollback", MODEL, "--reason", "by hand")
        falls_silent(candidate, 2, traffic)
        assert said.returncode == 0, said.stderr
    sys.stdout.write(f"rollback: {', '.join(f'{1000 * one:.0f} ms' for one in sorted(took))}\n")
    assert max(took) < 1.0


@pytest.mark.slow
def test_a_promotion_and_its_rollback_hold_from_their_return_on(stack: Stack, engines: Engines) -> None:
    first, second = engines
    with Traffic(stack.settings.proxy_port) as traffic:
        traffic.until(100)
        for engine, version, verb, body in (
            (first, 1, "promote", {"version": 2, "force": True, "reason": "a test"}),
            (second, 2, "rollback", {"reason": "a test"}),
        ):
            done, seconds = stack.move(verb, **body)
            falls_silent(engine, version, traffic)
            assert len(done["acknowledged_by"]) == 2
            assert seconds < (1.0 if verb == "rollback" else 5.0)
            sys.stdout.write(f"{verb}: {1000 * seconds:.0f} ms\n")
        said = stack.command("promote", MODEL, "--version", "2", "--force", "--reason", "by hand")
        falls_silent(first, 1, traffic)
        assert said.returncode == 0, said.stderr
    assert [row["action"] for row in stack.api.get("/api/decisions?limit=3")] == [
        "promote",
        "rollback",
        "promote",
    ]
