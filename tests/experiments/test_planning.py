"""Plans and A/A rehearsals on traffic whose numbers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments.evidence import AnalysisSpec, Goal
from experiments.false_alarms import rehearse
from experiments.history import History, UnitTotals
from experiments.ledger.evidence import distinct
from experiments.ledger.history import history
from experiments.metrics import metric
from experiments.planning import plan

from .plane import Plane
from .test_dossier import SPEC, traffic

SIZE = 4000


def made(error: float = 0.05) -> History:
    random = np.random.default_rng(3)
    m = random.integers(1, 6, SIZE).astype(float)
    y = (random.normal(6.0, 0.3, SIZE) + random.normal(0, 0.3, SIZE)) * m
    failed = random.random(SIZE) < error
    none = (False,) * SIZE
    return History(
        model="chat",
        exchanges=int(m.sum()),
        units=SIZE,
        without_unit=0,
        seconds=86_400.0,
        totals={
            "latency": UnitTotals(y=tuple(y), m=tuple(m), failed=none),
            "error_rate": UnitTotals(y=(0.0,) * SIZE, m=tuple(m), failed=tuple(map(bool, failed))),
        },
    )


def declared(**more: Any) -> AnalysisSpec:
    goals = (
        Goal(metric=metric("latency"), role="success", mde=0.05),
        Goal(metric=metric("error_rate"), role="guardrail", margin=0.02),
    )
    return AnalysisSpec(experiment="e", mode="ab", unit="user", goals=goals, **{"horizon": 4000} | more)


def test_four_times_the_units_show_half_the_effect() -> None:
    small = plan(declared(), made(), first_share=0.5, last_share=0.5)
    large = plan(declared(horizon=16_000), made(), first_share=0.5, last_share=0.5)
    for one, other in zip(small.goals, large.goals, strict=True):
        assert one.detectable is not None
        assert other.detectable == pytest.approx(one.detectable / 2)
    assert (small.days, large.days) == (1.0, 4.0)


def test_a_margin_that_cannot_be_shown_is_warned_of_with_the_units_that_it_takes() -> None:
    found = plan(declared(horizon=500), made(), first_share=0.5, last_share=0.5)
    errors = found.goals[1]
    assert not errors.enough
    assert errors.units_needed is not None
    assert any("error_rate" in warning and "units are needed" in warning for warning in found.warnings)
    enough = plan(declared(horizon=errors.units_needed + 10), made(), first_share=0.5, last_share=0.5)
    assert enough.goals[1].enough


def test_the_worse_the_candidate_the_sooner_it_is_caught() -> None:
    spec = declared(horizon=100_000)
    twice, five = plan(spec, made(), first_share=0.1, last_share=0.5).goals[1].caught
    assert twice.units is not None
    assert five.units is not None
    assert five.units < twice.units
    assert five.days == pytest.approx(five.units / SIZE, rel=0.01)


def test_what_cannot_be_planned_is_said() -> None:
    spec = declared()
    few = replace(made(), totals={})
    found = plan(spec, few, first_share=0.5, last_share=0.5)
    assert all(goal.problem for goal in found.goals)


def test_a_rehearsal_of_nothing_raises_no_more_alarms_than_it_may() -> None:
    rates = rehearse(declared(horizon=2000), made(), runs=40, looks=8, share=0.5)
    assert {rate.rule for rate in rates} == {"invalid", "roll_back", "success", "interval", "band"}
    assert not [rate for rate in rates if rate.too_often]


def test_a_rehearsal_notices_a_rule_that_cries_wolf() -> None:
    """At an alpha of a half every second interval excludes no difference: were .05 said, it would be seen."""
    rates = rehearse(declared(horizon=2000, alpha=0.5), made(), runs=40, looks=2, share=0.5)
    interval = next(rate for rate in rates if (rate.rule, rate.metric) == ("interval", "latency"))
    assert replace(interval, nominal=0.05).too_often


def test_the_ledgers_own_units_are_the_history(plane: Plane) -> None:
    from experiments.spec import analysis_of

    experiment = plane.begin(SPEC)
    traffic(plane, 1)
    spec = analysis_of(experiment.spec, control_version=1, candidate_version=2)
    found = history(
        plane.controller.store,
        "chat",
        distinct(spec),
        since_ns=plane.now_ns - 10**15,
        until_ns=plane.now_ns + 10**15,
        limit=1000,
    )
    controls = plane.controller.store.read(
        "SELECT count(*) AS n, count(DISTINCT unit) AS units, sum(completion_tokens) AS tokens FROM exchanges"
        " WHERE assigned_arm = 'control'"
    )[0]
    assert (found.exchanges, found.units) == (controls["n"], controls["units"])
    assert sum(found.totals["completion_tokens"].y) == controls["tokens"]
    assert 0.0 < found.totals["error_rate"].failing_share < 0.5
