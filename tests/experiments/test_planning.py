"""Plans and A/A rehearsals on traffic whose numbers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments.drawn import Arms, Units, drawn
from experiments.evidence import AnalysisSpec, Evidence, Goal
from experiments.false_alarms import rehearse, unheard
from experiments.history import History, UnitTotals
from experiments.ledger.evidence import distinct
from experiments.ledger.history import history
from experiments.metrics import metric
from experiments.planning import plan
from experiments.verdict import conclude

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
        assert other.detectable == pytest.approx(one.detectable / 2, rel=0.05)
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
    tenth, fifth, *_ = plan(spec, judged(), first_share=0.1, last_share=0.1).goals[0].caught
    assert (tenth.factor, fifth.factor) == (0.9, 0.8)
    assert tenth.measured is not None
    assert fifth.measured is not None
    assert 400 < tenth.measured < 700
    assert fifth.measured < tenth.measured / 4
    short = plan(replace(spec, horizon=2000), judged(), first_share=0.1, last_share=0.1).goals[0].caught
    assert short[0].units is None, "a horizon of 200 scores on the candidate is too short for it"


@pytest.mark.parametrize("name", ["score:judge", "score:judge<0.5", "latency"])
def test_a_margin_that_is_promised_is_shown_as_often_as_promised(name: str) -> None:
    """Between equals, 100 units on the candidate: a score's test, or a share's, is less sure than a z."""
    spec, known, runs = guarded(name, horizon=5000, looks=1), made() if name == "latency" else judged(), 60
    (promised,) = plan(spec, known, first_share=0.02, last_share=0.02).goals
    assert promised.detectable is not None
    spec = replace(spec, goals=(replace(spec.goals[0], margin=promised.detectable),))
    units, random, shown = Units(known, spec.goals), np.random.default_rng(8), 0
    for _ in range(runs):
        evidence = drawn(spec, units, random, share=0.02).evidence(spec.horizon, 1)
        shown += conclude(spec, evidence).kind == "ship"
    assert abs(shown / runs - spec.power) < 0.05 + 3.0 * (0.8 * 0.2 / runs) ** 0.5


def test_what_cannot_be_planned_is_said() -> None:
    spec = declared()
    few = replace(made(), totals={})
    found = plan(spec, few, first_share=0.5, last_share=0.5)
    assert all(goal.problem for goal in found.goals)


@pytest.mark.parametrize("first", [0.05, 1.0])
def test_a_ramp_to_all_units_leaves_none_to_compare_with(first: float) -> None:
    found = plan(declared(), made(), first_share=first, last_share=1.0)
    assert all("end the ramp below" in str(goal.problem) for goal in found.goals)


def test_a_rehearsal_of_nothing_raises_no_more_alarms_than_it_may() -> None:
    rates = rehearse(declared(horizon=2000), made(), runs=40, looks=8, share=0.5)
    assert {rate.rule for rate in rates} == {"invalid", "roll_back", "success", "interval", "band"}
    assert not [rate for rate in rates if rate.too_often]


def test_a_rehearsal_looks_at_no_experiment_oftener_than_it_has_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the first unit there is nothing to be looked at, and least of all the sums of all units."""
    looked_at: list[int] = []
    evidence = Arms.evidence

    def noted(arms: Arms, units: int, at: int) -> Evidence:
        looked_at.append(units)
        return evidence(arms, units, at)

    monkeypatch.setattr(Arms, "evidence", noted)
    rehearse(declared(horizon=20), made(), runs=1, looks=60, share=0.5)
    assert looked_at == list(range(1, 21))


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


KINDS = (
    "latency",
    "latency_mean",
    "latency.p95",
    "tokens_per_second",
    "error_rate",
    "score:helpful",
    "score:helpful<0.5",
    "feedback:thumbs",
)


def every_kind() -> History:
    """Units with something of each kind; every second one was scored, every third one gave feedback."""
    random = np.random.default_rng(11)
    m = random.integers(1, 6, SIZE)
    logs = [random.normal(6.0, 0.5, n) for n in m]
    scored, heard = np.arange(SIZE) % 2 == 0, np.arange(SIZE) % 3 == 0
    score = random.random(SIZE) * scored
    none = (False,) * SIZE

    def totals(y: Any, n: Any, **more: Any) -> UnitTotals:
        return UnitTotals(y=tuple(map(float, y)), m=tuple(map(float, n)), **{"failed": none} | more)

    logged = totals([x.sum() for x in logs], m)
    bins = tuple(tuple(sorted(int(1000 * x) for x in each)) for each in logs)
    return replace(
        made(),
        totals={
            "latency": logged,
            "latency_mean": totals([np.exp(x).sum() for x in logs], m),
            "latency.p95": replace(logged, bins=bins),
            "tokens_per_second": totals(100 * m, [np.exp(x).sum() / 1000 for x in logs]),
            "error_rate": made().totals["error_rate"],
            "score:helpful": totals(score, scored),
            "score:helpful<0.5": totals(
                np.zeros(SIZE), scored, failed=tuple(map(bool, scored & (score < 0.1)))
            ),
            "feedback:thumbs": totals(random.random(SIZE) * heard, heard),
        },
    )


def of_every_kind(mode: Any, **more: Any) -> AnalysisSpec:
    names = [name for name in KINDS if mode != "shadow" or not name.startswith("feedback")]
    goals = [Goal(metric=metric(name), role="guardrail", margin=0.1) for name in names]
    if mode == "shadow":
        goals.append(Goal(metric=metric("preference:judge"), role="guardrail", margin=0.1))
    return replace(declared(horizon=2000), mode=mode, goals=tuple(goals), **more)


@pytest.mark.parametrize("mode", ["ab", "shadow"])
def test_every_kind_of_metric_is_planned(mode: str) -> None:
    found = plan(of_every_kind(mode), every_kind(), first_share=0.5, last_share=0.5)
    assert [goal.metric for goal in found.goals if goal.problem] == []
    for goal in found.goals:
        assert goal.detectable is not None
        assert 0.0 < goal.detectable < 1.0
        *_, twice, five = goal.caught
        assert five.units is not None
        assert twice.units is None or twice.units >= five.units
    assert (mode == "shadow") == any("no pair has been judged" in warning for warning in found.warnings)


def test_a_metric_that_every_second_unit_has_takes_twice_the_units() -> None:
    spec = of_every_kind("ab", horizon=4000)
    known = every_kind()
    scored = known.totals["score:helpful"]
    everybody = replace(scored, y=scored.y[::2] * 2, m=scored.m[::2] * 2, failed=scored.failed[::2] * 2)
    some, every = (
        next(
            goal
            for goal in plan(spec, history_, first_share=0.5, last_share=0.5).goals
            if goal.metric == "score:helpful"
        )
        for history_ in (known, replace(known, totals={**known.totals, "score:helpful": everybody}))
    )
    assert (some.coverage, every.coverage) == (0.5, 1.0)
    assert some.units_needed == pytest.approx(2 * (every.units_needed or 0), rel=0.01)


def test_a_quantiles_plan_is_what_the_quantile_then_has() -> None:
    """The margin that a p95 is said to show, against the interval that a rehearsal's last look has."""
    spec = of_every_kind("ab", horizon=4000)
    planned = next(
        goal
        for goal in plan(spec, every_kind(), first_share=0.5, last_share=0.5).goals
        if goal.metric == "latency.p95"
    )
    units = Units(every_kind(), spec.goals)
    widths = []
    for seed in range(5):
        evidence = drawn(spec, units, np.random.default_rng(seed), share=0.5).evidence(4000, 1)
        card = next(one for one in conclude(spec, evidence).metrics if one.metric == "latency.p95")
        assert card.effect is not None
        widths.append(np.log(card.effect.upper / card.effect.lower) / (2 * 1.96))
    assert planned.detectable is not None
    # One-sided at alpha, with the power shared by nine goals: z .95 + z .98.
    assert planned.detectable == pytest.approx((1.645 + 2.05) * float(np.mean(widths)), rel=0.15)


@pytest.mark.parametrize("mode", ["ab", "shadow"])
def test_a_rehearsal_has_every_kind_of_metric_and_raises_few_alarms(mode: str) -> None:
    rates = rehearse(of_every_kind(mode, horizon=1000), every_kind(), runs=40, looks=4, share=0.5)
    spoken = {rate.metric for rate in rates if rate.rule == "interval"}
    assert spoken == {goal.metric.name for goal in of_every_kind(mode).goals}
    # Of forty runs at .05 nine alarms or more come with probability 1e-4.
    assert [(rate.rule, rate.metric, rate.alarms) for rate in rates if rate.alarms > 8] == []
    # Intervals that are never wrong are not there: of nine metrics in forty runs some must be.
    assert sum(rate.alarms for rate in rates if rate.rule == "interval") > 0


def test_a_metric_that_no_unit_has_is_left_out_and_named() -> None:
    lacking = replace(every_kind(), totals={"latency": every_kind().totals["latency"]})
    spec = of_every_kind("ab", horizon=500)
    assert "latency.p95" in unheard(spec, lacking)
    assert {rate.metric for rate in rehearse(spec, lacking, runs=2, looks=1, share=0.5)} == {None, "latency"}
    assert rehearse(spec, replace(lacking, totals={}), runs=2, looks=1, share=0.5) == []


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
