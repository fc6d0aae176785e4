"""Evidence made by hand: arms of so many units that fail so often, take so long and are scored so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.metrics import metric
from experiments.verdict import AnalysisSpec, ArmCount, Evidence, Goal, MetricSums

SECOND = 1_000_000_000
GOALS = (
    Goal(metric=metric("latency"), role="success", mde=0.05),
    Goal(metric=metric("error_rate"), role="guardrail"),
    Goal(metric=metric("latency"), role="guardrail", margin=0.1),
)


def spec(**changes: Any) -> AnalysisSpec:
    known: dict[str, Any] = {
        "experiment": "e",
        "mode": "canary",
        "unit": "user",
        "goals": GOALS,
        "control_version": 1,
        "candidate_version": 3,
    }
    return AnalysisSpec(**(known | changes))


def arms(control: int, candidate: int, share: float = 0.5, phase: int = 0) -> tuple[ArmCount, ...]:
    return (
        ArmCount(phase=phase, arm="control", expected_share=1 - share, units=control, exchanges=control),
        ArmCount(phase=phase, arm="candidate", expected_share=share, units=candidate, exchanges=candidate),
    )


def failing(arm: str, n: int, x: int, phase: int = 0, missing_units: int = 0) -> MetricSums:
    return MetricSums(
        metric="error_rate",
        phase=phase,
        arm=arm,
        units=n,
        exchanges=n,
        missing=missing_units,
        y=x,
        m=n,
        yy=x,
        mm=n,
        ym=x,
        failing_units=x,
        missing_units=missing_units,
    )


def timed(arm: str, n: int, mean: float, sd: float = 0.8, phase: int = 0) -> MetricSums:
    return MetricSums(
        metric="latency",
        phase=phase,
        arm=arm,
        units=n,
        exchanges=n,
        missing=0,
        y=n * mean,
        m=n,
        yy=(n - 1) * sd * sd + n * mean * mean,
        mm=n,
        ym=n * mean,
    )


def said(arm: str, n: int, *, mean: float, sd: float) -> MetricSums:
    """A judge's scores, one of each unit."""
    return replace(timed(arm, n, mean, sd), metric="score:judge")


def evidence(
    *,
    n: tuple[int, int] = (2500, 2500),
    x: tuple[int, int] = (20, 20),
    means: tuple[float, float] = (6.0, 6.0),
    share: float = 0.5,
    **changes: Any,
) -> Evidence:
    known: dict[str, Any] = {
        "experiment": "e",
        "as_of_ns": 3600 * SECOND,
        "started_ns": 0,
        "arms": arms(n[0], n[1], share),
        "sums": (
            failing("control", n[0], x[0]),
            failing("candidate", n[1], x[1]),
            timed("control", n[0], means[0]),
            timed("candidate", n[1], means[1]),
        ),
    }
    return Evidence(**(known | changes))


def codes(verdict: Any) -> list[str]:
    return [reason.code for reason in verdict.reasons]
