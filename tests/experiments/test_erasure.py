"""Who is forgotten leaves no word and no name, and every verdict stays what it was, in any later look too."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from experiments.api import create_app
from experiments.assignment import unit_id
from experiments.dossier import replay
from experiments.ledger.recorded import progress
from experiments.ledger.rewriting import copy_of
from experiments.ledger.store import Connection
from experiments.recorded import selection_of
from experiments.reporting import write_dossier
from experiments.steering.control import Author
from tests.journey import eventually
from tests.stack import MODEL, Stack, Traffic
from turnout.simulation import Profile, running_engine

from .plane import AB, SHADOW, TOKEN, Plane
from .test_dossier import MIRRORED, SPEC, before, look, traffic

OFFICER = Author(actor="officer", reason="ticket 4711")
#: Of the units that the traffic has.
SUBJECTS = [f"user-{n}" for n in (3, 17, 42, 60, 99)]


def hashed(plane: Plane) -> None:
    """The made up traffic names its units in clear; a proxy hashes them."""
    plane.controller.store.write(
        lambda c: c.execute("UPDATE exchanges SET unit = left(sha256(unit), 16) WHERE unit LIKE 'user-%'")
    )


@pytest.mark.parametrize("spec", [SPEC, SHADOW, MIRRORED, AB], ids=["canary", "shadow", "mirrored", "ab"])
def test_verdicts_follow_from_the_ledger_as_before(plane: Plane, tmp_path: Path, spec: str) -> None:
    """Of the last look before, and of the next one, which counts the same units though it reads them anew."""
    before(plane)
    plane.begin(spec)
    traffic(plane, 1)
    hashed(plane)
    look(plane)
    controller = plane.controller
    first = controller.watch.seen("faster")
    assert first is not None
    done = controller.erasure.forget(SUBJECTS, OFFICER)
    assert done.found.exchanges > 0
    assert done.found.bodies > 0
    assert not done.pending
    controller.revision += 1
    look(plane)
    again = controller.watch.seen("faster")
    assert again is not None
    assert again is not first
    for number, one in enumerate((first, again)):
        folder = tmp_path / str(number)
        folder.mkdir()
        experiment = controller.junction.experiment("faster")
        write_dossier(controller.store, experiment, folder, digest=one.document["digest"])
        assert all(check.same for check in replay(folder)), replay(folder)
    assert again.evidence.sums == first.evidence.sums
    assert again.evidence.pairs == first.evidence.pairs
    assert again.evidence.past == first.evidence.past
    assert not controller.erasure.forget(SUBJECTS, OFFICER, dry_run=True).found.bodies


def test_the_audit_says_that_it_was_done_and_not_of_whom(plane: Plane) -> None:
    before(plane)
    hashed(plane)
    with TestClient(create_app(plane.controller, loops=False)) as api:
        asked = {"units": ["user-3"], "reason": "ticket 4711", "actor": "officer", "dry_run": True}
        assert api.post("/api/forget", json=asked).status_code == 401
        told = {"authorization": f"Bearer {TOKEN}"}
        would = api.post("/api/forget", json=asked, headers=told).json()
        assert api.get("/api/decisions").json() == []
        done = api.post("/api/forget", json=asked | {"dry_run": False}, headers=told).json()
        assert would["found"] == done["found"]
        [row] = api.get("/api/decisions").json()
    assert (row["actor"], row["action"], row["reason"], row["state"]) == (
        "officer",
        "forget",
        "ticket 4711",
        "done",
    )
    assert row["changed"][0].startswith("1 unit forgotten: ")
    for name in ("user-3", unit_id("user-3")):
        assert name not in str(row)


def test_a_replay_has_selected_what_it_selected(plane: Plane) -> None:
    """Half of the units are in its sample: who is renamed stays in, or out."""
    before(plane)
    hashed(plane)
    store = plane.controller.store
    store.write(
        lambda c: c.execute("UPDATE exchanges SET assigned_version = 1, origin = 'live', role = 'primary'")
    )
    spec = AB.replace("metric: latency", "metric: completion_tokens").replace("mode: ab", "mode: shadow")
    plane.begin(spec.replace(
        "{weight: 50}", "{share: 50, sample: unit, recorded: {since: 30d}}"
    ))  # fmt: skip
    selection = selection_of(plane.controller.junction.experiment("faster"))
    assert selection is not None
    was = progress(store, selection)
    assert 0 < was.selected < 200
    plane.controller.erasure.forget([f"user-{n}" for n in range(40)], OFFICER)
    now = progress(store, selection)
    assert (now.selected, now.units + len(now.skipped) > 0) == (was.selected, True)


def test_judges_words_of_golden_answers_are_not_kept_elsewhere(plane: Plane) -> None:
    """`golden add` made an item of the exchange; its answers and what was said of them go with it."""
    before(plane)
    hashed(plane)
    store = plane.controller.store
    [one] = store.read("SELECT exchange_id FROM exchanges WHERE unit = ? LIMIT 1", [unit_id("user-3")])
    item = f"exchange-{one['exchange_id']}"
    store.write(
        lambda c: c.execute(
            "INSERT INTO golden_results VALUES ('r', ?, 'h', 0, 'judge', '1', 'scored', 1, NULL, 'quotes it',"
            " '\"the answer\"', 'complete', 'q', NULL)",
            [item],
        )
    )
    cache = plane.data / "judge-cache.sqlite"
    with closing(sqlite3.connect(cache)) as made:
        made.execute("CREATE TABLE scores (key TEXT PRIMARY KEY, score TEXT NOT NULL) WITHOUT ROWID")
        made.execute("INSERT INTO scores VALUES ('k', 'quotes it')")
        made.commit()
    assert plane.controller.erasure.forget(["user-3"], OFFICER).found.golden_answers == 1
    [row] = store.read("SELECT value, output, explanation FROM golden_results")
    assert row == {"value": 1.0, "output": None, "explanation": None}
    assert b"quotes it" not in cache.read_bytes()


@pytest.mark.slow
def test_while_requests_flow_nobody_is_kept_waiting(tmp_path: Path, empty_database: Path) -> None:
    """The command, on real processes: no request fails, no row is lost, and of what was asked before there
    is no byte in the data folder, though some of it lay in the spool."""
    with running_engine(Profile(name=MODEL)) as engine:
        stack = Stack(tmp_path / "data", mlflow=empty_database)
        with stack.up([engine.url]):
            url = f"{stack.settings.proxy_address}/v1/chat/completions"

            def ask(says: str) -> None:
                body = {
                    "model": MODEL,
                    "user": "ada@example.org",
                    "messages": [{"role": "user", "content": says}],
                }
                assert httpx.post(url, json=body, timeout=30, trust_env=False).status_code == 200

            with Traffic(stack.settings.proxy_port, pause=0.05) as busy:
                for number in range(40):
                    ask(f"Zq7marker {number}")
                time.sleep(1.5)
                stack.api.get("/api/health")
                ask("Zq7marker in the spool")
                done = stack.command("forget", "ada@example.org", "--reason", "ticket 4711")
                assert done.returncode == 0, done.stdout + done.stderr
                assert "1 unit forgotten" in done.stdout
                assert "written anew" in done.stdout
                busy.more(200)
                again = stack.command("forget", "ada@example.org", "--dry-run")
                assert "0 bodies" in again.stdout, again.stdout
                asker = threading.Thread(target=ask, args=("afterwards",))
                asker.start()
                asker.join()
                time.sleep(1)
            assert not busy.failures
        eventually(stack.spooled, within=10, until=lambda left: not left)
        for path in (tmp_path / "data").rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert b"Zq7marker" not in content, path
                assert b"ada@example.org" not in content or path.suffix == ".duckdb", path
        with stack.ledger() as ledger:
            [rows] = ledger.read("SELECT count(*) AS n, count(DISTINCT exchange_id) AS ids FROM exchanges")
            assert rows["n"] == rows["ids"] == len(busy.answers) + 42
            [kept] = ledger.read(
                "SELECT count(*) AS n FROM exchanges WHERE unit = ?", [unit_id("ada@example.org")]
            )
            assert kept["n"] == 1


def test_a_rollback_does_not_wait_for_the_file(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traffic is taken away at once, also while a large ledger is written anew; the record follows."""
    before(plane)
    plane.begin(AB)
    writing, done = threading.Event(), threading.Event()

    def slow(connection: Connection, path: Path) -> Path:
        writing.set()
        assert done.wait(30)
        return copy_of(connection, path)

    monkeypatch.setattr("experiments.ledger.store.copy_of", slow)
    officer = threading.Thread(target=plane.controller.erasure.forget, args=(["user-3"], OFFICER))
    officer.start()
    try:
        assert writing.wait(10)
        began = time.monotonic()
        plane.rollback()
        assert time.monotonic() - began < 5
        assert not plane.candidate_has_traffic
    finally:
        done.set()
        officer.join(30)
    plane.settle()
    assert plane.state() == "rolled_back"
    assert [action for _, action, _ in plane.rows()][-2:] == ["forget", "rollback"]
