"""A day from the golden set to production, and days that end otherwise, under a virtual clock."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from experiments.ledger import trials
from experiments.statistics.paired import PairTable, bonett_price

from .virtual_day import SECOND, Day

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
  guardrails: [{metric: error_rate, tolerated_ratio: 1.25, margin: 4%}]
analysis: {horizon: 1500, looks: 3, rollback_alpha: 0.1%}
on_ship: promote
"""


@pytest.fixture(autouse=True)
def nobody_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.steering.control.RECORD_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


#: The planning number: the stage with the least power is the shadow, whose one look at 300 pairs must show
#: errors within their margin. Two versions that each fail once in 200 pass it with this chance at least.
LEAST_POWER = 0.999


def power_of_the_shadow(margin: float, pairs: int = 300, rate: float = 0.005) -> float:
    """That the guardrail's bound is passed: all tables of pairs that only one side fails, by their chance."""
    mean, passed = pairs * rate, 0.0
    for one in range(25):
        for other in range(25):
            table = PairTable(
                both=0, control_only=one, candidate_only=other, neither=max(0, pairs - one - other)
            )
            centre, found = (other - one) / (pairs + 2), bonett_price(table, alpha=0.05)
            if found.se and (margin - centre) / found.se >= 1.6449:
                passed += _poisson(one, mean) * _poisson(other, mean)
    return passed


def _poisson(count: int, mean: float) -> float:
    return math.exp(-mean + count * math.log(mean) - math.lgamma(count + 1))


def test_the_day_is_planned_so_that_chance_hardly_stops_it() -> None:
    assert power_of_the_shadow(0.04) >= LEAST_POWER
    # With the margin that is the default, two points, one day in twelve ended at the shadow.
    assert power_of_the_shadow(0.02) == pytest.approx(0.916, abs=0.002)


def through(day: Day, hours: int = 24, per_look: int = 60) -> None:
    """Looks every ten minutes with 60 requests between them, until it is over."""
    for _ in range(hours * 6):
        day.pass_time(600, per_look)
        if not day.plane.controller.junction.experiments()[0].is_open:
            return


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_better_candidate_goes_from_the_golden_set_to_production_within_a_day(
    folder: Path, seed: int
) -> None:
    day = Day(folder, seed=seed)
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


def test_a_day_without_traffic_ends_nothing_and_promotes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "experiments.steering.watch.AWAKE_NS", HOUR * SECOND
    )  # it looks once an hour, and is awake
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
@pytest.mark.parametrize("seed", range(4, 24))
def test_twenty_different_days(folder: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole chain with other traffic each time. No stage has a power of one: see `LEAST_POWER`."""
    began = time.monotonic()
    day = Day(folder, seed=seed)
    day.start(CHAIN)
    day.golden("pass")
    through(day, hours=30)
    with capsys.disabled():
        print(f"\nseed {seed}: {day.state()}, {day.requests} requests, {time.monotonic() - began:.1f} s")  # noqa: T201
    assert day.state() == "promoted"
    day.close()
