"""First and later turns: alike, different, opposed; and what the verdict makes of each."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from experiments.evidence import AnalysisSpec, ArmCount, Evidence, Goal, MetricSums
from experiments.metrics import metric
from experiments.verdict import conclude
from experiments.verdict.turns import MOST_GOALS, by_turn, split_goals, turn_metrics

LATENCY = Goal(metric=metric("latency"), role="success")
ERRORS = Goal(metric=metric("error_rate"), role="guardrail", margin=0.02)
SPEC = AnalysisSpec(experiment="e", mode="ab", unit="session", goals=(LATENCY, ERRORS), horizon=4000, looks=1)
UNITS = 2000


def timed(name: str, arm: str, mean: float, sd: float = 0.5, n: int = UNITS) -> MetricSums:
    """Sums of n units with one value each, of this mean and spread exactly."""
    return MetricSums(
        metric=name, phase=1, arm=arm, units=n, exchanges=n, missing=0,
        y=n * mean, m=n, yy=n * (mean * mean + sd * sd), mm=n, ym=n * mean, observed=n,
    )  # fmt: skip


def failing(name: str, arm: str, failed: int, n: int = UNITS) -> MetricSums:
    return MetricSums(
        metric=name, phase=1, arm=arm, units=n, exchanges=n, missing=0,
        y=0.0, m=n, yy=0.0, mm=n, ym=0.0, failing_units=failed, observed=n,
    )  # fmt: skip


def evidence(first: float, later: float, failed: tuple[int, int] = (20, 20), n: int = UNITS) -> Evidence:
    """The candidate's change in log latency on first and later turns, its failing units on each."""
    whole = (first + later) / 2
    sums = []
    for arm, on in (("control", 0.0), ("candidate", 1.0)):
        sums += [
            timed("latency", arm, 6.0 + on * whole, n=n),
            timed("latency@first", arm, 6.0 + on * first, n=n),
            timed("latency@later", arm, 6.0 + on * later, n=n),
            failing("error_rate", arm, sum(failed) if on else 40, n=n),
            failing("error_rate@first", arm, failed[0] if on else 20, n=n),
            failing("error_rate@later", arm, failed[1] if on else 20, n=n),
        ]
    arms = tuple(
        ArmCount(phase=1, arm=arm, expected_share=0.5, units=n, exchanges=n)
        for arm in ("control", "candidate")
    )
    return Evidence(experiment="e", as_of_ns=10**15, started_ns=10**15 - 10**12, arms=arms, sums=tuple(sums))


def codes(found: Any) -> list[str]:
    return [reason.code for reason in found.reasons]


def test_turns_that_agree_ship_as_one() -> None:
    found = conclude(SPEC, evidence(-0.2, -0.2))
    assert [(one.metric, one.state) for one in found.turns] == [("latency", "alike"), ("error_rate", "alike")]
    assert found.kind == "ship"
    assert "turns" not in " ".join(codes(found))


def test_effects_of_another_size_are_told_and_ship_all_the_same() -> None:
    found = conclude(SPEC, evidence(-0.4, -0.05))
    assert found.turns[0].state == "differ"
    assert found.kind == "ship"
    assert codes(found).count("turns_differ") == 1
    assert "First turns: latency" in found.turns[0].text


def test_better_on_first_turns_and_worse_on_later_ones_is_not_shipped_on_the_average() -> None:
    found = conclude(SPEC, evidence(-0.5, 0.1))
    assert found.turns[0].state == "opposed"
    assert found.kind == "inconclusive"  # the last look
    assert "turns_opposed" in codes(found)
    earlier = conclude(replace(SPEC, looks=2, horizon=8000), evidence(-0.5, 0.1))
    assert (earlier.kind, codes(earlier).count("turns_opposed")) == ("keep_running", 1)
    between = conclude(replace(SPEC, horizon=9000), evidence(-0.5, 0.1))
    assert (codes(between).count("turns_differ"), codes(between).count("turns_opposed")) == (1, 0)


def test_a_guardrail_that_only_later_turns_break_is_seen() -> None:
    found = conclude(SPEC, evidence(-0.2, -0.2, failed=(4, 110)))
    assert [one.state for one in found.turns] == ["alike", "opposed"]
    assert found.kind in ("inconclusive", "roll_back")


@pytest.mark.parametrize("n", [0, 30])
def test_too_few_units_say_nothing(n: int) -> None:
    found = by_turn(SPEC, evidence(-0.5, 0.5, failed=(0, 0), n=n))
    assert {one.state for one in found} == {"insufficient_data"}


def test_without_later_turns_there_is_nothing_to_tell() -> None:
    whole = evidence(-0.2, -0.2)
    plain = replace(whole, sums=tuple(one for one in whole.sums if "@" not in one.metric))
    assert by_turn(SPEC, plain) == ()


def test_what_is_split() -> None:
    names = ["latency", "latency.p95", "feedback:stars", "error_rate", "latency", "ttft"]
    goals = [Goal(metric=metric(name), role="guardrail") for name in names]
    goals.append(Goal(metric=metric("cost"), role="exploratory"))
    spec = replace(SPEC, goals=tuple(goals))
    assert [goal.metric.name for goal in split_goals(spec)] == ["latency", "error_rate", "ttft"]
    assert [one.name for one in turn_metrics(spec)][:3] == [
        "latency@first",
        "latency@later",
        "error_rate@first",
    ]
    assert split_goals(replace(spec, mode="shadow")) == ()
    many = [Goal(metric=metric(f"latency>{ms}ms"), role="guardrail") for ms in range(100, 140)]
    assert len(split_goals(replace(SPEC, goals=tuple(many)))) == MOST_GOALS


def test_turns_that_are_alike_are_rarely_called_different_however_often_one_looks() -> None:
    """100 streams of equal effects, looked at ten times up to 2,000 units of each kind: at most alpha."""
    alarms = 0
    spec = replace(SPEC, goals=(LATENCY,))
    for seed in range(100):
        chance = Random(seed)
        totals = {
            (turn, arm): [0, 0.0, 0.0] for turn in ("first", "later") for arm in ("control", "candidate")
        }
        for _ in range(10):
            for total in totals.values():
                values = [chance.gauss(6.0, 0.5) for _ in range(100)]
                total[0] += 100
                total[1] += sum(values)
                total[2] += sum(value * value for value in values)
            sums = tuple(
                MetricSums(
                    metric=f"latency@{turn}", phase=1, arm=arm, units=n, exchanges=n, missing=0,
                    y=y, m=n, yy=yy, mm=n, ym=y, observed=n,
                )
                for (turn, arm), (n, y, yy) in totals.items()
            )  # fmt: skip
            (found,) = by_turn(spec, replace(evidence(0.0, 0.0), sums=sums))
            if found.state in ("differ", "opposed"):
                alarms += 1
                break
    assert alarms <= 100 * spec.alpha
