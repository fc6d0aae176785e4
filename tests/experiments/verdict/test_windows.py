"""Feedback with a window: compared once it is over, heeded at once if it tells of harm, and planned for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from experiments.evidence import AnalysisSpec, Goal, Look
from experiments.metrics import closed, metric
from experiments.planning import plan
from experiments.verdict import Evidence, MetricSums, conclude
from experiments.verdict.comparison import compare
from experiments.verdict.looks import look_taken, window_over

from ..handmade import arms, spec
from ..test_planning import made

DAY_S = 86_400.0
GOAL = Goal(metric=metric("feedback:stars@1d"), role="guardrail", margin=0.1)


def stars(name: str, arm: str, n: int, mean: float, sd: float = 1.0) -> MetricSums:
    yy = n * (mean * mean + sd * sd)
    return MetricSums(
        metric=name, phase=0, arm=arm, units=n, exchanges=n, missing=0,
        y=n * mean, m=n, yy=yy, mm=n, ym=n * mean, observed=n,
    )  # fmt: skip


def told(whole: tuple[float, float], over: tuple[float, float] | None, n: int = 1000) -> Evidence:
    """All that has come of control and candidate, and that of which the window is over, half of it."""
    names = {GOAL.metric.name: (n, whole)} | ({closed(GOAL.metric).name: (n // 2, over)} if over else {})
    sums = [
        stars(name, arm, units, mean)
        for name, (units, means) in names.items()
        for arm, mean in zip(("control", "candidate"), means, strict=True)
    ]
    return Evidence(
        experiment="e", as_of_ns=10**9, started_ns=0, arms=arms(3000, 3000), sums=tuple(sums), recorded=6000
    )


def test_what_is_compared_is_what_had_its_whole_window() -> None:
    declared = spec(goals=(GOAL,))
    found = compare(declared, told((3.0, 4.0), (3.0, 3.0)), GOAL, harm_alpha=0.01)
    assert found.effect is not None
    assert found.effect.estimate == pytest.approx(0.0)
    assert [arm.units for arm in found.arms] == [500, 500]
    verdict = conclude(declared, told((3.0, 4.0), (3.0, 3.0)))
    assert "1,000 of 2,000 answers with it wait" in next(
        reason.text for reason in verdict.reasons if reason.code == "windows_open"
    )
    assert not [r for r in conclude(declared, told((3.0, 3.0), None)).reasons if r.code == "windows_open"]


def test_harm_does_not_wait_for_the_window() -> None:
    declared = spec(goals=(GOAL,))
    assert conclude(declared, told((3.0, 2.0), (3.0, 3.0))).kind == "roll_back"
    assert conclude(declared, told((3.0, 3.0), (3.0, 2.0))).kind != "roll_back"


def test_evidence_without_windows_is_compared_as_it_is() -> None:
    found = compare(spec(goals=(GOAL,)), told((3.0, 4.0), None), GOAL, harm_alpha=0.01)
    assert found.effect is not None
    assert found.effect.estimate == pytest.approx(1.0)


def test_looks_at_what_comes_late_hang_together_by_how_much_of_it_has_come() -> None:
    goal = replace(GOAL, role="success", mde=0.1)
    declared = spec(mode="ab", goals=(goal,), horizon=6000, looks=2)
    early = replace(told((3.0, 3.0), (3.0, 3.0), n=100), arms=arms(1500, 1500))
    first = look_taken(conclude(declared, early).document())
    assert first is not None
    assert first.information == {GOAL.metric.name: pytest.approx(100.0)}

    def bound(past: Look) -> float:
        card = conclude(declared, told((3.0, 3.0), (3.0, 3.0)), past_looks=(past,)).metrics[0]
        assert card.z_bound is not None
        return card.z_bound

    # Had half of it come by the first look, the second would have less left to err by.
    assert bound(first) > bound(replace(first, information={GOAL.metric.name: 500.0}))


def declared(**more: Any) -> AnalysisSpec:
    known: dict[str, Any] = {"goals": (GOAL,), "horizon": 4000, "looks": 1}
    return AnalysisSpec(experiment="e", mode="ab", unit="user", **known | more)


@pytest.mark.parametrize(
    ("window", "more", "share"),
    [
        ("12h", {}, 0.5),
        ("1d", {}, 0.0),
        ("1d", {"min_duration_s": 1.5 * DAY_S}, 0.5),
        ("1d", {"min_duration_s": 3 * DAY_S}, 1.0),
        ("7d", {"min_duration_s": 9 * DAY_S}, 0.0),  # it ends before, after seven days
    ],
)
def test_a_window_that_is_open_at_the_last_look_counts_for_nothing(
    window: str, more: dict[str, Any], share: float
) -> None:
    goal = replace(GOAL, metric=metric(f"feedback:stars@{window}"))
    assert window_over(declared(**more), goal, 4000.0) == pytest.approx(share)
    assert window_over(declared(**more), goal, None) == 1.0


def test_a_plan_reckons_with_the_window() -> None:
    past = made()

    def planned(name: str, **more: Any) -> Any:
        goal = replace(GOAL, metric=metric(name))
        history = replace(past, totals={name: past.totals["latency"]})
        return plan(declared(goals=(goal,), **more), history, first_share=0.5, last_share=0.5).goals[0]

    whole, half = planned("feedback:stars"), planned("feedback:stars@12h")
    assert half.detectable == pytest.approx(whole.detectable * 2**0.5, rel=0.01)
    assert half.units_needed > whole.units_needed
    assert "min_duration" in planned("feedback:stars@1d").problem
    assert planned("feedback:stars@1d", min_duration_s=2 * DAY_S).detectable == whole.detectable
