"""Traffic goes on, and every answered request is in the ledger once, whatever is killed, filled or torn."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from experiments.client import ControlError
from tests.journey import eventually
from tests.registry.server import MlflowServer
from tests.stack import MODEL, Stack, Traffic, resident_mib
from turnout.processes import free_port
from turnout.simulation import Profile, SimulatedEngine, running_engine

REQUESTS = int(os.environ.get("TURNOUT_TEST_REQUESTS", "20000"))

AB = """
experiment: {name}
model: chat
mode: ab
candidate: {candidate}
unit: user
traffic: {{weight: 50}}
metrics: {{success: [{{metric: latency}}], guardrails: [{{metric: error_rate}}]}}
analysis: {{horizon: 100000, min_duration: 1h}}
"""

Engines = tuple[SimulatedEngine, SimulatedEngine]


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with running_engine(Profile(name=MODEL)) as first, running_engine(Profile(name=MODEL)) as second:
        yield first, second


def urls(engines: Engines) -> list[str]:
    return [engine.url for engine in engines]


def steady(stack: Stack) -> Traffic:
    """Some 500 requests a second: the machine has time left for what the test is about."""
    return Traffic(stack.settings.proxy_port, pause=0.03)


def settled(stack: Stack, traffic: Traffic) -> int:
    """The rows of a stack that has ended: each once, each answer among them, nothing left in the spool."""
    with stack.ledger() as ledger:
        rows = [row["exchange_id"] for row in ledger.read("SELECT exchange_id FROM exchanges")]
    answered = [answer.request_id for answer in traffic.answers]
    assert len(set(rows)) == len(rows), "rows twice"
    assert len(set(answered)) == len(answered)
    assert not set(answered) - set(rows), f"{len(set(answered) - set(rows))} answers without a row"
    assert not stack.spooled()
    return len(rows)


@pytest.mark.slow
def test_killed_workers_and_controllers_lose_and_double_nothing(
    tmp_path: Path, empty_database: Path, engines: Engines
) -> None:
    """5 SIGKILLs of a worker and 2 of the controller in the middle of 20,000 requests."""
    stack = Stack(tmp_path / "data", mlflow=empty_database)
    with stack.up(urls(engines)):
        began = time.monotonic()
        with Traffic(stack.settings.proxy_port, total=REQUESTS, pause=0.01) as traffic:
            for victims in (
                ("worker",),
                ("worker",),
                ("controller", "worker"),
                ("worker",),
                ("controller", "worker"),
            ):
                traffic.more(REQUESTS // 40)
                if "controller" in victims:
                    stack.kill("controller")
                kill_a_worker(stack)
                if "controller" in victims:
                    assert any("controller" in event for event in stack.revive())
            assert len(traffic.answers) < REQUESTS, "all of it happened under load"
            traffic.join()
        took = time.monotonic() - began
        eventually(
            lambda: min(map(resident_mib, stack.worker_pids)), within=10, until=lambda least: least > 30
        )
        memory = [resident_mib(pid) for pid in [stack.processes.pid("controller"), *stack.worker_pids]]
    assert stack.log("proxy").count("ended with -9") == 5, "five workers were killed"
    assert not traffic.refused
    assert len(traffic.answers) > 0.98 * REQUESTS
    rows = settled(stack, traffic)
    sys.stdout.write(
        f"{len(traffic.answers)} answered in {took:.1f} s, {rows} rows, 0 lost, 0 doubled, "
        f"{len(traffic.broken)} cut by the kills; "
        f"MiB of the controller and the workers: {', '.join(f'{one:.0f}' for one in memory)}\n"
    )


def kill_a_worker(stack: Stack) -> None:
    """SIGKILL one that is at work, and wait until another has taken its place."""
    eventually(lambda: min(map(resident_mib, stack.worker_pids)), within=10, until=lambda least: least > 30)
    victim = stack.worker_pids[0]
    os.kill(victim, signal.SIGKILL)
    eventually(
        lambda: stack.worker_pids, within=10, until=lambda found: victim not in found and len(found) == 2
    )


@pytest.mark.slow
def test_traffic_needs_neither_controller_nor_database_files_nor_mlflow(
    tmp_path: Path, empty_database: Path, engines: Engines
) -> None:
    first, second = engines
    shutil.copy(empty_database, tmp_path / "server.db")
    mlflow = MlflowServer(f"sqlite:///{tmp_path / 'server.db'}", tmp_path)
    stack = Stack(tmp_path / "data", tracking_uri=mlflow.url)
    try:
        mlflow.wait()
        with stack.up(urls(engines)), steady(stack) as traffic:
            stack.move("promote", version=2, force=True, reason="a former production to go back to")
            stack.begin(AB, name="away", candidate="1")

            assert "ledger.duckdb.wal" in delete_side_files(stack.data)
            # The next commit moves what was in the deleted log into the database, the one after it begins a
            # new log: from then on a kill costs nothing.
            eventually((stack.data / "ledger.duckdb.wal").exists, within=15)
            stack.kill("controller")
            time.sleep(3)  # not a race: this is how long it is away
            assert any("controller" in event for event in stack.revive())
            eventually(stack.workers, within=10, until=lambda known: len(known) == 2)

            mlflow.stop()
            eventually(
                lambda: stack.health()["registry"]["error"],
                within=20,
                until=lambda error: error and "does not answer" in error,
            )
            traffic.more(200)
            promoting_is_refused(stack)
            rollbacks_work_without_mlflow(stack, first, second, traffic)
            stack.kill("controller")
            stack.revive()
            eventually(stack.workers, within=10, until=lambda known: len(known) == 2)
            counted = second.counters.requests
            traffic.more(200)
            assert second.counters.requests == counted, "what was rolled back stays so over a restart"
            owed = "rollback of chat: alias production -> 1 in MLflow"
            eventually(lambda: stack.health()["pending"], within=15, until=lambda pending: pending == [owed])
    finally:
        mlflow.stop()
    assert traffic.failures == []
    settled(stack, traffic)


def delete_side_files(data: Path) -> set[str]:
    """What lies beside a database: logs, locks, journals. The databases themselves stay."""
    removed = set()
    for pattern in ("*.wal", "*.lock", "*.tmp", "*-wal", "*-shm", "*-journal"):
        for file in data.glob(pattern):
            with suppress(OSError):
                file.unlink()
                removed.add(file.name)
    return removed


def promoting_is_refused(stack: Stack) -> None:
    with pytest.raises(ControlError, match="does not answer") as refused:
        stack.move("promote", version=1, force=True, reason="cannot be")
    assert refused.value.status == 503
    said = stack.command("promote", MODEL, "--version", "1", "--force", "--reason", "cannot be")
    assert said.returncode == 1
    assert "MLflow" in said.stderr
    assert "Traceback" not in said.stderr


def rollbacks_work_without_mlflow(
    stack: Stack, first: SimulatedEngine, second: SimulatedEngine, traffic: Traffic
) -> None:
    """The candidate (version 1) is released, then production goes from version 2 to its former, 1."""
    for engine, body, pending in (
        (first, {}, []),
        (second, {"production": True}, ["alias production -> 1 in MLflow"]),
    ):
        done, seconds = stack.move("rollback", reason="MLflow is away", **body)
        counted = engine.counters.requests
        assert len(done["acknowledged_by"]) == 2
        assert done["pending"] == pending
        traffic.more(200)
        assert engine.counters.requests == counted
        # The records are waited for a little; traffic had turned long before.
        assert seconds < 2.5


# -- a full disk -------------------------------------------------------------------------------------------


@contextmanager
def no_file_grows(stack: Stack) -> Iterator[None]:
    """Every write to a file fails, as on a disk that is full and then some. Needs no privilege."""
    pids = [stack.processes.pid("controller"), *stack.worker_pids]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def filled_up(stack: Stack) -> Iterator[None]:
    """Not a byte is left on the file system; what is freed meanwhile is taken again."""
    ballast = stack.data / "ballast"
    with ballast.open("wb", buffering=0) as out:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while True:
                    out.write(b"\0" * size)
        try:
            yield
        finally:
            ballast.unlink()


FullDisk = Callable[[Stack], "contextmanager[None]"]


@pytest.fixture(params=["limit", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Callable]]:
    """A folder, and how to make every write there fail for a while."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limit":
        yield folder, no_file_grows
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root; the other case needs no privilege")
    try:
        yield folder, filled_up
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_traffic_goes_on_and_the_loss_is_counted(
    disk: tuple[Path, Callable], empty_database: Path, engines: Engines
) -> None:
    folder, full = disk
    _, candidate = engines
    stack = Stack(folder / "data", mlflow=empty_database)
    with stack.up(urls(engines)):
        stack.begin(AB, name="full", candidate="2")
        with steady(stack) as traffic:
            traffic.until(300)
            with full(stack):
                traffic.more(600)
                done, seconds = stack.move("rollback", reason="the disk is full")
                counted = candidate.counters.requests
                traffic.more(200)
                assert candidate.counters.requests == counted
                # A segment that goes into the ledger frees its own bytes: then there is room for the records.
                assert done["pending"] in ([], ["the records in the ledger"])
                assert len(done["acknowledged_by"]) == 2
                assert seconds < 3.0
            traffic.more(300)
            eventually(stack.health, within=15, until=lambda found: not found["pending"])
            eventually(stack.health, within=15, until=lambda found: found["losses"] > 0)
        assert traffic.failures == []
        assert stack.api.get("/api/experiments/full")["accounting"]["lost"] > 0
        assert stack.api.get("/api/experiments/full")["state"] == "rolled_back"
    with stack.ledger() as ledger:
        rows = {row["exchange_id"] for row in ledger.read("SELECT exchange_id FROM exchanges")}
        lost = ledger.read("SELECT sum(count)::BIGINT AS lost FROM losses")[0]["lost"]
    missing = {answer.request_id for answer in traffic.answers} - rows
    sys.stdout.write(f"{len(traffic.answers)} answered, {len(rows)} rows, {lost} counted as lost\n")
    assert len(missing) == lost > 0, "to the row"


# -- being told to stop ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_being_told_to_stop_loses_nothing(tmp_path: Path, empty_database: Path, engines: Engines) -> None:
    """SIGTERM to a worker, then to the proxy as a whole, under load: what was begun ends, and has its row."""
    stack = Stack(tmp_path / "data", mlflow=empty_database)
    with stack.up(urls(engines)):
        with steady(stack) as traffic:
            for _ in range(3):
                traffic.more(500)
                worker = stack.worker_pids[0]
                os.kill(worker, signal.SIGTERM)
                eventually(lambda: worker not in stack.worker_pids, within=10)  # noqa: B023
                eventually(lambda: len(stack.worker_pids), within=10, until=lambda count: count == 2)
            assert traffic.failures == []
            traffic.more(500)
            workers = stack.worker_pids
            stack.kill("proxy", signal.SIGTERM)
            eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), within=15)
            # Whoever comes now waits for the next one, which `turnout up` starts.
            eventually(stack.processes.tend, within=10)
            traffic.more(500)
        assert traffic.failures == []
    settled(stack, traffic)


# -- one controller, and what is torn ----------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_bad_is_told_and_traffic_goes_on(
    tmp_path: Path, empty_database: Path, engines: Engines
) -> None:
    first, _ = engines
    stack = Stack(tmp_path / "data", mlflow=empty_database)
    with running_engine(Profile(name=MODEL)) as mortal, stack.up([first.url, mortal.url]):
        with steady(stack) as traffic:
            a_second_controller_refuses(stack)
            a_bad_spec_is_answered_with_every_problem(stack)
            torn_settings_change_nothing(stack)
            torn_snapshots_are_replaced(stack)
            assert traffic.failures == []
            a_worker_that_finds_a_torn_snapshot_asks_for_another(stack)
            assert not traffic.refused
            a_dead_candidate_costs_nobody_an_answer(stack, mortal, traffic)
        assert not traffic.refused
        production_that_is_dead_is_told(stack, mortal)
    settled(stack, traffic)


def a_second_controller_refuses(stack: Stack) -> None:
    command = [sys.executable, "-m", "experiments", "--data", str(stack.data), "--port", str(free_port())]
    said = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert said.returncode == 1
    last = said.stderr.strip().splitlines()
    assert len(last) == 1, said.stderr
    assert "is held by another process" in last[0]
    assert str(stack.processes.pid("controller")) in last[0]


def a_bad_spec_is_answered_with_every_problem(stack: Stack) -> None:
    spec = AB.replace("weight: 50", "weight: lots").replace("mode: ab", "mode: abc")
    with pytest.raises(ControlError, match=r"spec\.yaml:\d+") as refused:
        stack.begin(spec, name="bad", candidate="2")
    assert refused.value.status == 400


def torn_settings_change_nothing(stack: Stack) -> None:
    file = stack.data / "turnout.yaml"
    file.write_text("models: {chat: {recording: numbers}}\n")
    eventually(lambda: "numbers" in (stack.data / "snapshot.json").read_text(), within=5)
    file.write_text("models: {chat: {recor")
    error = eventually(lambda: stack.health()["config_error"], within=5)
    assert "turnout.yaml:1" in error
    assert "numbers" in (stack.data / "snapshot.json").read_text()
    file.write_text("models: {chat: {recording: full}}\n")
    eventually(stack.health, within=5, until=lambda found: found["config_error"] is None)


def torn_snapshots_are_replaced(stack: Stack) -> None:
    """Half a file on disk, and the controller that might have read it is killed."""
    version = stack.health()["snapshot"]
    tear(stack.data / "snapshot.json")
    stack.kill("controller")
    stack.revive()
    eventually(stack.workers, within=15, until=lambda known: len(known) == 2)
    assert stack.health()["snapshot"] > version
    assert "snapshot.json cannot be used" in stack.log("controller")


def a_worker_that_finds_a_torn_snapshot_asks_for_another(stack: Stack) -> None:
    tear(stack.data / "proxy-snapshot.json")
    old = stack.worker_pids
    os.kill(old[0], signal.SIGKILL)
    eventually(lambda: [pid for pid in stack.worker_pids if pid not in old], within=10)
    eventually(lambda: "proxy-snapshot.json cannot be used" in stack.log("proxy"), within=10)
    eventually(lambda: len(stack.health()["workers"]), within=10, until=lambda count: count == 3)


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def a_dead_candidate_costs_nobody_an_answer(stack: Stack, mortal: SimulatedEngine, traffic: Traffic) -> None:
    stack.begin(AB, name="mortal", candidate="2")
    enough = mortal.counters.requests + 50
    eventually(lambda: mortal.counters.requests, within=5, until=lambda count: count >= enough)
    mortal.misbehave("rst")
    traffic.more(300)
    arm = eventually(
        lambda: stack.api.get("/api/experiments/mortal")["accounting"]["by_arm"]["candidate"],
        within=10,
        until=lambda arm: arm["fell_back"] >= 50,
    )
    # Failures until the workers' breakers are open, then units that go to control unasked.
    assert arm["failed"] >= 20


def production_that_is_dead_is_told(stack: Stack, mortal: SimulatedEngine) -> None:
    stack.move("rollback")  # unless the controller has done it already
    stack.move("promote", version=2, force=True, reason="to see what a dead production says")
    with Traffic(stack.settings.proxy_port, total=4, connections=1) as traffic:
        traffic.join()
    assert len(traffic.refused) == 4
    assert all(answer.startswith(b"http/1.1 502") for answer in traffic.refused)
    assert all(b'"code":"upstream_cut"' in answer for answer in traffic.refused)
