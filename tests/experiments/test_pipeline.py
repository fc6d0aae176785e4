"""The way that a candidate has come, stage by stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.pipeline import pipeline
from experiments.views import timeline

from .test_virtual_day import CHAIN
from .virtual_day import Day


def test_each_stage_says_how_it_was_entered_how_it_went_and_what_is_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.steering.control.RECORD_S", 0.0)
    day = Day(tmp_path / "data", seed=1)
    day.start(CHAIN)

    def steps() -> list[dict[str, object]]:
        controller = day.plane.controller
        experiment = controller.junction.experiment("day")
        return pipeline(controller.store, experiment, day.plane.now_ns)

    assert [(step["stage"], step["state"]) for step in steps()] == [
        ("golden", "preflight"), ("shadow", "to_come"), ("canary", "to_come"), ("ab", "to_come"),
        ("promote", "to_come"),
    ]  # fmt: skip
    day.golden("pass")
    while day.plane.controller.junction.experiment("day").phase.stage < 1:
        day.pass_time(600, 60)
    day.pass_time(600, 60)
    golden, shadow, canary, *rest = steps()
    assert (golden["state"], shadow["state"], canary["state"]) == ("passed", "passed", "running")
    assert shadow["verdict"]["kind"] == "ship"  # type: ignore[index]
    assert "the golden set 'support' passed" in shadow["permission"]["reason"]  # type: ignore[index]
    assert canary["permission"]["reason"].startswith("shadow passed, canary begins")  # type: ignore[index]
    assert canary["permission"]["verdict_hash"]  # type: ignore[index]
    assert shadow["time_s"] > canary["time_s"] >= 600  # type: ignore[operator]
    assert {step["state"] for step in rest} == {"to_come"}
    controller = day.plane.controller
    seen = timeline(controller, controller.junction.experiment("day"), 600)["effects"]
    assert list(dict.fromkeys(effect["stage"] for effect in seen)) == ["shadow", "canary"]
    day.close()
