"""`turnout experiment watch`: a line for each change, and its end with the experiment's."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from rich.console import Console

from experiments.client import ControlError
from turnout import scorecard, watching
from turnout.settings import Settings

EXPERIMENT: dict[str, Any] = {
    "name": "faster", "mode": "canary", "model": "chat", "state": "running", "ended_at": None,
    "units": 10, "horizon": 100,
    "arms": [{"arm": "control", "version": 1, "weight_pct": 95.0}], "verdict": None,
    "waiting_for": "10 of 50",
    "accounting": {
        "eligible": 12, "recorded": 11, "missing": 1, "lost": 0, "not_copied": None,
        "by_arm": {"control": {"assigned": 10, "outcomes": {"timeout": 2, "complete": 7}, "missing": 1}},
        "outside": {"no_unit": 2, "excluded": 0},
    },
}  # fmt: skip
STARTED: dict[str, Any] = {
    "decision_id": "1", "at": "2026-11-25T21:00:00.000Z", "actor": "ada", "action": "start",
    "changed": ["it runs"], "reason": None, "verdict_kind": None, "state": "done",
}  # fmt: skip


class Client:
    """Answers look after look; the last one again and again."""

    def __init__(self, *looks: Any) -> None:
        self.looks = list(looks)

    def get(self, path: str, params: Any = None) -> Any:
        if path.startswith("/api/decisions"):
            return self.decisions
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        found, self.decisions = look
        return found

    def close(self) -> None:
        pass


def changed(**fields: Any) -> dict[str, Any]:
    return {**deepcopy(EXPERIMENT), **fields}


def watched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *looks: Any) -> list[str]:
    client = Client(*looks)
    monkeypatch.setattr(watching, "ControlClient", lambda address: client)
    watching.watch(Settings(), "faster", every_s=0.0)
    return capsys.readouterr().out.splitlines()


def test_each_change_is_a_line_and_the_end_is_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rolled = {
        **STARTED,
        "decision_id": "2",
        "actor": "controller",
        "action": "rollback",
        "changed": ["it ended"],
    }
    failed = {**STARTED, "decision_id": "3", "action": "promote", "state": "failed"}
    lines = watched(
        monkeypatch,
        capsys,
        (changed(), [STARTED]),
        (changed(), [STARTED]),
        ControlError("no controller answers", status=0, code="controller_unreachable"),
        (changed(units=11), [STARTED]),
        (changed(units=11), [failed, STARTED]),
        (changed(state="rolled_back", ended_at="now"), [rolled, failed, STARTED]),
    )
    assert lines == [
        "faster (canary on chat) is running: control v1 95 %, 10 of 100 units: no verdict yet",
        "no controller answers",
        "faster (canary on chat) is running: control v1 95 %, 11 of 100 units: no verdict yet",
        "21:00:00 ada promote failed: it runs ",
        "21:00:00 controller it ended ",
        "faster (canary on chat) is rolled back: control v1 95 %, 10 of 100 units: no verdict yet",
    ]


def test_what_the_controller_refuses_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    with pytest.raises(typer.Exit):
        watched(monkeypatch, capsys, ControlError("no experiment", status=404, code="unknown_experiment"))


def test_the_screen_holds_no_control_character_of_anybodys() -> None:
    nasty = "x\x1b[2J\u202e"
    experiment = changed(name=nasty, waiting_for=nasty)
    experiment["verdict"] = {"kind": "ship", "sentence": nasty, "metrics": []}
    console = Console(record=True, width=200, force_terminal=False)
    with console.capture() as captured:
        console.print(watching._screen(experiment, [{**STARTED, "reason": nasty}], nasty))
    shown = captured.get()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "12 eligible" in shown


def test_the_accounting_is_an_equation_and_a_gap_stands_out() -> None:
    assert scorecard.accounting(EXPERIMENT) == (
        "12 eligible = control 10 (7 complete, 2 timeout, 1 missing) + no unit 2; 1 rows are MISSING"
    )
