"""A day from the golden set to production, and days that end otherwise, under a virtual clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from experiments.ledger import trials

from .virtual_day import Day

HOUR = 3600
CHAIN = """
experiment: day
model: chat
candidate: 2
stages:
  golden: {require: pass, set: support}
  shadow: {share: 40, analysis: {horizon: 300, looks: 1}}
  canary: {ramp: [5, 25, 50], min_units: 20, min_duration: 30m, analysis: {horizon: 1200, looks: 2}}
  ab: {weight: 50}
metrics:
  success: [{metric: latency}]
  guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]
analysis: {horizon: 1500, looks: 3}
on_ship: promote
"""


@pytest.fixture(autouse=True)
def nobody_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.control.RECORD_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def through(day: Day, hours: int = 24, per_look: int = 60) -> None:
    """Looks every ten minutes with 60 requests between them, until it is over."""
    for _ in range(hours * 6):
        day.pass_time(600, per_look)
        if not day.plane.controller.junction.experiments()[0].is_open:
            return


def test_a_better_candidate_goes_from_the_golden_set_to_production_within_a_day(folder: Path) -> None:
    day = Day(folder, seed=1)
    day.start(CHAIN)
    day.pass_time(600, 60)
    assert day.state() == "preflight"
    assert day.exposed == 0
    day.golden("pass")
    through(day)
    assert day.state() == "promoted"
    assert day.plane.production == 2
    assert [one for one in day.stages() if one[0] != "ramp"] == [
        ("preflight", "shadow"),
        ("start", "shadow"),
        ("stage", "canary"),
        ("stage", "ab"),
        ("promote", ""),
    ]
    assert [one for one in day.stages() if one[0] == "ramp"] == [("ramp", "canary")] * 2
    kept = trials.verdicts(day.plane.controller.store, "day")
    assert kept[-1]["kind"] == "ship"
    day.close()


@pytest.mark.parametrize(
    ("faster", "failing", "golden", "ends"),
    [(0.8, 0.15, "pass", "rolled_back"), (1.0, 0.005, "pass", "kept"), (0.8, 0.005, "fail", "kept")],
    ids=["failing", "no better", "golden set failed"],
)
def test_other_days_leave_production_as_it_is(
    folder: Path, faster: float, failing: float, golden: str, ends: str
) -> None:
    day = Day(folder, seed=2, faster=faster, failing=failing)
    day.start(CHAIN)
    day.golden(golden)
    through(day, hours=30)
    assert day.state() == ends
    assert day.plane.production == 1
    if golden == "fail" or failing > 0.1:
        assert day.exposed == 0  # the shadow has shown it, to nobody
    day.close()


def test_a_day_without_traffic_ends_nothing_and_promotes_nothing(folder: Path) -> None:
    day = Day(folder, seed=3)
    day.start(CHAIN)
    day.golden("pass")
    for _ in range(24):
        day.pass_time(HOUR, 0)
    assert day.state() == "invalid"
    assert day.plane.production == 1
    day.pass_time(600, 60)
    assert day.state() == "running"
    day.close()


@pytest.mark.bars
@pytest.mark.parametrize("run", range(20))
def test_the_same_day_twenty_times(folder: Path, run: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole chain, 20 times with the same traffic: each time the same end after as many requests.

    With other traffic a day may end otherwise: no stage has a power of one.
    """
    began = time.monotonic()
    day = Day(folder, seed=1)
    day.start(CHAIN)
    day.golden("pass")
    through(day, hours=30)
    with capsys.disabled():
        print(f"\nrun {run}: {day.state()}, {day.requests} requests, {time.monotonic() - began:.1f} s")  # noqa: T201
    assert day.state() == "promoted"
    day.close()
