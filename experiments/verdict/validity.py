"""Are the arms a fair sample at all, and were they measured by one instrument?

Numbers of units against the weights that were declared; versions of evaluators and of golden sets. A
comparison of arms that lost or gained units by themselves, or of two instruments, means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..evidence import SMALLEST_SHARE, AnalysisSpec, ArmCount, Evidence, Instrument
from ..statistics import sample_ratio

#: An e-value of 100 against a sound experiment is alpha = .01.
VALIDITY_THRESHOLD: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """Whether the arms have the units they should. `state`: ok, crossed, no_data or not_applicable."""

    e_value: float | None
    threshold: float
    observed: dict[str, int]
    expected: dict[str, float]
    state: str


def sample_ratio_of(spec: AnalysisSpec, evidence: Evidence) -> SampleRatio:
    observed: dict[str, int] = {}
    expected: dict[str, float] = {}
    phases: dict[int, list[ArmCount]] = {}
    for count in evidence.arms:
        phases.setdefault(count.phase, []).append(count)
        observed[count.arm] = observed.get(count.arm, 0) + count.units
    total = sum(observed.values())
    counted, stray = [], False
    for arms in phases.values():
        here = sum(arm.units for arm in arms)
        weight = sum(arm.expected_share for arm in arms)
        for arm in arms:
            stray = stray or (arm.expected_share < SMALLEST_SHARE and arm.units > 0)
            share = arm.expected_share / weight if weight > 0.0 else 0.0
            expected[arm.arm] = expected.get(arm.arm, 0.0) + share * (here / total if total else 0.0)
        drawn = [arm for arm in arms if arm.expected_share >= SMALLEST_SHARE]
        if len(drawn) > 1:
            shares = tuple(arm.expected_share / sum(a.expected_share for a in drawn) for arm in drawn)
            counted.append(sample_ratio.ArmCounts(units=tuple(arm.units for arm in drawn), shares=shares))
    log_e = math.inf if stray else sample_ratio.mismatch(counted)
    state = "not_applicable" if spec.mode == "shadow" else "no_data" if not total else "ok"
    if state == "ok" and log_e >= math.log(VALIDITY_THRESHOLD):
        state = "crossed"
    return SampleRatio(
        e_value=math.exp(min(log_e, 690.0)) if state in ("ok", "crossed") else None,
        threshold=VALIDITY_THRESHOLD,
        observed=observed,
        expected=expected,
        state=state,
    )


def changed_instruments(spec: AnalysisSpec, evidence: Evidence) -> list[tuple[str, bool]]:
    """What was measured by more than one instrument, in words, and whether the verdict depends on it."""
    deciding = {goal.metric.name for goal in spec.goals if goal.role != "exploratory"}
    by_metric: dict[str, list[Instrument]] = {}
    for one in evidence.instruments:
        by_metric.setdefault(one.metric, []).append(one)
    found = []
    for name, versions in by_metric.items():
        counted = next((one for one in versions if one.counted), versions[0])
        if len(versions) < 2 or counted.complete:
            continue
        told = ", ".join(f"{one.version} ({one.scores:,})" for one in versions)
        if name.startswith("golden:"):
            text = (
                f"The golden set {name.removeprefix('golden:')!r} was changed since the experiment began: "
                f"compared as {told}. What passed is not what is asked now; a new experiment begins with it."
            )
            found.append((text, spec.golden_required))
        else:
            text = (
                f"{name}: the evaluator was changed, scores are by {told}. Numbers of two instruments are "
                f"not added up; those of {counted.version} are shown. Let one version score all of them."
            )
            found.append((text, name in deciding))
    return found
