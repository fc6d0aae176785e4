"""Plans and A/A rehearsals on traffic whose numbers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments.evidence import AnalysisSpec, Goal
from experiments.false_alarms import rehearse
from experiments.history import History, UnitTotals
from experiments.ledger.evaluations import add_scores
from experiments.ledger.evidence import distinct
from experiments.ledger.history import history
from experiments.ledger.store import instant
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


def judged(passed: float = 0.9, scored: float = 1.0) -> History:
    """One answer of each unit, of which a judge was shown a share and passed a share."""
    random = np.random.default_rng(5)
    m = (random.random(SIZE) < scored).astype(float)
    y = (random.random(SIZE) < passed) * m
    failed = tuple(bool(one) for one in (m - y) > 0)
    totals = {
        "score:judge": UnitTotals(y=tuple(y), m=tuple(m), failed=(False,) * SIZE),
        "score:judge<0.5": UnitTotals(y=(0.0,) * SIZE, m=tuple(m), failed=failed),
    }
    return replace(made(), totals=totals)


def guarded(name: str, **more: Any) -> AnalysisSpec:
    goal = Goal(metric=metric(name), role="guardrail", margin=0.05)
    return AnalysisSpec(
        experiment="e", mode="canary", unit="user", goals=(goal,), **{"horizon": 100_000} | more
    )


@pytest.mark.parametrize("name", ["score:judge", "score:judge<0.5"])
def test_a_judge_that_is_shown_a_fifth_of_the_answers_needs_five_times_the_units(name: str) -> None:
    every = plan(guarded(name), judged(), first_share=0.1, last_share=0.5).goals[0]
    fifth = plan(guarded(name), judged(scored=0.2), first_share=0.1, last_share=0.5).goals[0]
    assert every.coverage == 1.0
    assert fifth.coverage == pytest.approx(0.2, abs=0.02)
    assert every.detectable is not None
    assert fifth.detectable == pytest.approx(every.detectable * 5**0.5, rel=0.1)
    one, other = every.caught[0], fifth.caught[0]
    assert one.units is not None
    assert other.units is not None
    assert other.units == pytest.approx(5 * one.units, rel=0.25)
    assert other.measured == pytest.approx(one.measured, rel=0.2)


def test_nine_answers_in_ten_that_were_as_good_are_caught_after_hundreds_of_scores() -> None:
    """Of 90 % passed 81 % are left, and 85.5 % are tolerated: a tenth of one answer's standard deviation."""
    spec = guarded("score:judge", rollback_alpha=0.05, horizon=20_000)
    tenth, fifth = plan(spec, judged(), first_share=0.1, last_share=0.1).goals[0].caught
    assert (tenth.factor, fifth.factor) == (0.9, 0.8)
    assert tenth.measured is not None
    assert fifth.measured is not None
    assert 400 < tenth.measured < 700
    assert fifth.measured < tenth.measured / 4
    short = plan(replace(spec, horizon=2000), judged(), first_share=0.1, last_share=0.1).goals[0].caught
    assert short[0].units is None, "a horizon of 200 scores on the candidate is too short for it"


def test_what_cannot_be_planned_is_said() -> None:
    spec = declared()
    few = replace(made(), totals={})
    found = plan(spec, few, first_share=0.5, last_share=0.5)
    assert all(goal.problem for goal in found.goals)


def test_a_rehearsal_of_nothing_raises_no_more_alarms_than_it_may() -> None:
    rates = rehearse(declared(horizon=2000), made(), runs=40, looks=8, share=0.5)
    assert {rate.rule for rate in rates} == {"invalid", "roll_back", "success", "interval", "band"}
    assert not [rate for rate in rates if rate.too_often]


def test_a_rehearsal_takes_scores_of_a_part_of_the_units_too() -> None:
    spec = guarded("score:judge", horizon=2000)
    rates = rehearse(spec, judged(scored=0.3), runs=20, looks=4, share=0.5)
    assert {(rate.rule, rate.metric) for rate in rates if rate.metric} == {
        ("interval", "score:judge"),
        ("band", "score:judge"),
    }
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


def test_the_scores_and_the_feedback_of_production_are_in_the_history(plane: Plane) -> None:
    from experiments.spec import analysis_of

    experiment = plane.begin(SPEC)
    traffic(plane, 1)
    store = plane.controller.store
    asked = distinct(analysis_of(experiment.spec, control_version=1, candidate_version=2))
    window = {"since_ns": plane.now_ns - 10**15, "until_ns": plane.now_ns + 10**15, "limit": 1000}
    found = history(store, "chat", asked, **window).totals
    of_control = "JOIN exchanges x USING ({}) WHERE x.assigned_arm = 'control' AND x.role = 'primary'"
    (scored,) = store.read(
        "SELECT count(*) AS n, sum(scores.value) AS total, count(*) FILTER (scores.value < 0.5) AS low"
        f" FROM scores {of_control.format('exchange_id')} AND scores.status = 'scored'"
        " AND x.arm_outcome IS NULL"
    )
    (felt,) = store.read(
        f"SELECT count(DISTINCT request_id) AS n FROM feedback {of_control.format('request_id')}"
    )
    assert scored["n"] > 0
    assert felt["n"] > 0
    assert sum(found["score:q.tone"].m) == scored["n"]
    assert sum(found["score:q.tone"].y) == pytest.approx(scored["total"])
    assert 0 < sum(found["score:q.tone<0.5"].failed) <= scored["low"]
    assert sum(found["feedback:stars"].m) == felt["n"]
    sizes = {len(totals.m) for totals in found.values()}
    assert len(sizes) == 1, "units of which nothing was said are counted too"


def test_the_version_of_a_judge_that_scored_last_is_the_one_to_plan_with(plane: Plane) -> None:
    from experiments.spec import analysis_of

    experiment = plane.begin(SPEC)
    traffic(plane, 1)
    store = plane.controller.store
    (one,) = store.read("SELECT exchange_id FROM exchanges WHERE assigned_arm = 'control' LIMIT 1")
    again = {
        "exchange_id": one["exchange_id"],
        "evaluator": "q.tone",
        "evaluator_version": "another",
        "status": "scored",
        "value": 0.25,
    }
    store.write(lambda connection: add_scores(connection, [again], at=instant(plane.now_ns)))
    asked = distinct(analysis_of(experiment.spec, control_version=1, candidate_version=2))
    found = history(
        store, "chat", asked, since_ns=plane.now_ns - 10**15, until_ns=plane.now_ns + 10**15, limit=1000
    )
    assert sum(found.totals["score:q.tone"].m) == 1.0
    assert sum(found.totals["score:q.tone"].y) == 0.25
