"""`turnout apply`: what it shows, what it asks, how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.client import ControlClient
from tests.experiments.plane import AB, SHADOW, TOKEN, Plane
from tests.journey import eventually
from tests.stack import Stack
from turnout.cli import app
from turnout.simulation import SimulatedEngine

SETTINGS = "models:\n  chat: {recording: numbers}\n"
UNSEEN = SHADOW.replace("faster", "unseen").replace("candidate: 2", "candidate: 3")


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    folder = tmp_path / "deploy"
    (folder / "goldens").mkdir(parents=True)
    (folder / "turnout.yaml").write_text(SETTINGS)
    (folder / "ab.yaml").write_text(AB)
    (folder / "README.md").write_text("Not a file of ours.\n")
    (folder / ".hidden.yaml").write_text("nor: this\n")
    (folder / "goldens" / "set.yaml").write_text("nor: this\n")
    return folder


def apply(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["apply", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def test_from_the_first_look_to_nothing_to_do(plane: Plane, deploy: Path) -> None:
    said = apply(deploy, "--dry-run", code=3)
    assert "~ turnout.yaml: configure, recording of 'chat': full -> numbers" in said
    assert "+ faster: create, experiment 'faster' runs" in said
    assert "    +experiment: faster" in said
    assert "1 to configure, 1 to create." in said
    assert plane.rows() == []
    said = apply(deploy, "--yes", "--reference", "1a2b3c")
    assert "Applied: 2 of 2 steps." in said
    assert plane.state() == "running"
    assert (plane.data / "turnout.yaml").read_text() == SETTINGS
    assert "2 unchanged" in apply(deploy, "--dry-run")
    assert "Nothing to do." in apply(deploy, "--yes")
    (deploy / "ab.yaml").unlink()
    assert "? faster: missing, running, in no file" in apply(deploy, "--dry-run")
    assert "- faster: stop" in apply(deploy, "--dry-run", "--prune", code=3)
    assert "Experiment 'faster' is over" in apply(deploy, "--prune", "--yes")


def test_everything_wrong_is_told_with_its_place(plane: Plane, deploy: Path) -> None:
    (deploy / "ab.yaml").write_text(AB.replace("weight: 50", "weight: 500"))
    (deploy / "turnout.yaml").write_text("")
    for arguments in ((deploy, "--dry-run"), (deploy, "--yes")):
        said = apply(*arguments, code=1)
        assert f"{deploy}/ab.yaml:5: traffic.weight: found 500, expected a percentage" in said
        assert f"{deploy}/turnout.yaml: found nothing, expected a mapping" in said
    assert plane.rows() == []


def test_a_refused_step_ends_with_one_and_changes_nothing(plane: Plane, deploy: Path) -> None:
    (deploy / "other.yaml").write_text(AB.replace("faster", "other").replace("candidate: 2", "candidate: 9"))
    for flag in ("--dry-run", "--yes"):
        said = apply(deploy, flag, code=1)
        assert "! other: refused, model 'chat' has no version 9" in said
    assert plane.rows() == []


def test_a_folder_that_says_nothing_is_no_wish(plane: Plane, tmp_path: Path, deploy: Path) -> None:
    assert "cannot be read" in apply(tmp_path / "typo", "--yes", code=2)
    (tmp_path / "bare").mkdir()
    assert "holds no *.yaml" in apply(tmp_path / "bare", "--prune", "--yes", code=2)
    (deploy / "latin.yaml").write_bytes(b"experiment: caf\xe9\n")
    (deploy / "folder.yaml").mkdir()
    said = apply(deploy, "--yes", code=2)
    assert "latin.yaml is no UTF-8 text (byte 15)" in said
    assert "folder.yaml cannot be read" in said
    assert plane.rows() == []


def test_the_evaluators_file_is_read_as_the_evaluators_will(plane: Plane, deploy: Path) -> None:
    """Which checks there are only they know: the controller would have taken it."""
    rules = {"name": "short", "model": "chat", "rate": 0.1, "checks": [{"type": "lenght", "max": 20}]}
    (deploy / "evaluators.yaml").write_text(json.dumps({"online": [rules]}))
    for flag in ("--dry-run", "--yes"):
        said = apply(deploy, flag, code=1)
        assert "lenght" in said
        assert "+ faster: create" in said, "what else there is, is told all the same"
    assert plane.rows() == []
    rules["checks"] = [{"type": "length", "max": 20}]
    (deploy / "evaluators.yaml").write_text(json.dumps({"online": [rules]}))
    assert "Applied: 3 of 3 steps." in apply(deploy, "--yes")
    assert json.loads((plane.data / "evaluators.yaml").read_text()) == {"online": [rules]}


def test_nobody_to_ask_is_no_yes(plane: Plane, deploy: Path) -> None:
    assert "give --yes" in apply(deploy, code=2)
    assert plane.rows() == []


def test_a_plan_that_was_looked_at_is_the_one_that_is_applied(plane: Plane, deploy: Path) -> None:
    def planned(*arguments: object, code: int = 0) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(apply(deploy, "--json", *arguments, code=code))
        return document

    plan = planned("--dry-run", code=3)
    assert [step["verb"] for step in plan["steps"]] == ["configure", "create"]
    (deploy / "ab.yaml").write_text(AB.replace("weight: 50", "weight: 10"))
    assert "another one by now" in apply(deploy, "--yes", "--plan", plan["plan"], code=1)
    (deploy / "ab.yaml").write_text(AB)
    assert "another one by now" in apply(deploy, "--yes", "--plan", "", code=1)
    done = planned("--yes", "--plan", plan["plan"][:12])
    assert [one["action"] for one in done["done"]] == ["configure", "start"]


def test_without_a_controller_the_next_step_is_said(monkeypatch: pytest.MonkeyPatch, deploy: Path) -> None:
    monkeypatch.setenv("TURNOUT_CONTROL_URL", "http://127.0.0.1:9")
    assert "turnout up" in apply(deploy, "--yes", code=1)


def test_the_api_asks_for_a_plan_before_it_applies(plane: Plane) -> None:
    url = os.environ["TURNOUT_CONTROL_URL"]
    client = ControlClient(url, TOKEN)
    with pytest.raises(Exception, match="ask for one with dry_run"):
        client.post("/api/apply", {"files": [{"path": "a.yaml", "text": AB}]})
    client.close()
    assert plane.rows() == []


# -- with a controller of its own --------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path, empty_database: Path, engine: SimulatedEngine) -> Iterator[Stack]:
    made = Stack(tmp_path / "data", mlflow=empty_database)
    try:
        made.start("controller")
        made.register(engine.url, engine.url, engine.url)
        yield made
    finally:
        made.stop()


def on_a_terminal(stack: Stack, answer: bytes, *arguments: str) -> tuple[int, str]:
    """`turnout ...` with somebody there who answers."""
    ours, theirs = pty.openpty()
    given = {key: value for key, value in os.environ.items() if not key.startswith("TURNOUT_")}
    given |= {"TURNOUT_DATA": str(stack.data), "TURNOUT_CONTROL_PORT": str(stack.settings.control_port)}
    command = [str(Path(sys.executable).with_name("turnout")), *arguments]
    try:
        with subprocess.Popen(
            command, env=given, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            os.write(ours, answer)
            said, _ = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    return process.returncode, said


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_with_the_rest(stack: Stack, deploy: Path) -> None:
    names = ["faster"]
    for number in range(8):
        names.append(f"unseen-{number}")
        (deploy / f"{number}.yaml").write_text(UNSEEN.replace("unseen", names[-1]))
    code, said = on_a_terminal(stack, b"n\n", "apply", str(deploy))
    assert code == 1
    assert "Apply it?" in said
    assert stack.api.get("/api/experiments") == []
    ended: list[subprocess.CompletedProcess[str]] = []
    applying = threading.Thread(target=lambda: ended.append(stack.command("apply", str(deploy), "--yes")))
    applying.start()
    eventually(lambda: len(stack.api.get("/api/experiments")), within=30, until=lambda count: count >= 2)
    stack.kill("controller", signal.SIGKILL)
    applying.join()
    assert ended[0].returncode == 1
    assert "may have done what it was asked" in ended[0].stderr
    stack.revive()
    started = {one["name"] for one in stack.api.get("/api/experiments")}
    assert len(started) >= 2
    code, said = on_a_terminal(stack, b"y\n", "apply", str(deploy))
    assert code == 0, said
    if len(started) < len(names):
        assert "was cut short after" in said
    experiments = stack.api.get("/api/experiments")
    assert {one["name"]: one["state"] for one in experiments} == dict.fromkeys(names, "running")
    rows = stack.api.get("/api/decisions", {"limit": 1000})
    starts = [row["experiment"] for row in rows if row["action"] == "start"]
    assert sorted(starts) == sorted(names)
    assert [row["state"] for row in rows if row["action"] == "configure"] == ["done"]
