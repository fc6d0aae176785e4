"""How much of a metric's noise was there before the experiment? Sums over units, less what the past explains.

CUPED for means and ratios over units, phase by phase: a unit's own values before the experiment began are the
covariate (`statistics.covariate`). It turns sums into sums; the comparison goes on as without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..evidence import AnalysisSpec, Evidence, Goal, Overlap, PastOverlap
from ..statistics import strata
from ..statistics.covariate import Remembered, residual_coefficient
from ..statistics.moments import Past

Layers = list[strata.MeanStratum]


def less_the_past(
    spec: AnalysisSpec,
    evidence: Evidence,
    goal: Goal,
    phases: Sequence[int],
    layers: Layers,
    overlaps: list[Overlap],
) -> tuple[float, Layers, list[Overlap]]:
    """theta, and the phases' sums and the products of units in two of them, less theta times the past.

    theta is 0.0, and all is as it was, where no unit was there before.
    """
    arms = {True: spec.candidate, False: spec.control}
    past = {(one.phase, one.arm): one for one in evidence.past if one.metric == goal.metric.name}
    ratios = {
        phase: _ratio([past[phase, arm] for arm in arms.values() if (phase, arm) in past]) for phase in phases
    }
    remembered = {
        (phase, arm): Remembered(now=now, past=past[phase, arm], ratio=ratios[phase])
        for phase, layer in zip(phases, layers, strict=True)
        for now, arm in ((layer.candidate, spec.candidate), (layer.control, spec.control))
        if (phase, arm) in past
    }
    weights = {
        phase: strata.harmonic(layer.candidate.n, layer.control.n)
        for phase, layer in zip(phases, layers, strict=True)
    }
    theta = residual_coefficient([(weights[phase], arm) for (phase, _), arm in remembered.items()])
    if not theta:
        return 0.0, layers, overlaps
    adjusted = [
        strata.MeanStratum(
            **{
                role: remembered[phase, arm].adjusted(theta) if (phase, arm) in remembered else now
                for role, arm, now in (
                    ("candidate", spec.candidate, layer.candidate),
                    ("control", spec.control, layer.control),
                )
            }
        )
        for phase, layer in zip(phases, layers, strict=True)
    ]
    known = {
        (one.phase_a, one.arm_a, one.phase_b, one.arm_b): one
        for one in evidence.past_overlaps
        if one.metric == goal.metric.name
    }
    return theta, adjusted, [_less(one, known, ratios, theta) for one in overlaps]


def _ratio(arms: Sequence[Past]) -> float:
    b = sum(arm.b for arm in arms)
    return sum(arm.a for arm in arms) / b if b else 0.0


def _less(
    overlap: Overlap,
    known: dict[tuple[int, str, int, str], PastOverlap],
    ratios: dict[int, float],
    theta: float,
) -> Overlap:
    past = known.get((overlap.phase_a, overlap.arm_a, overlap.phase_b, overlap.arm_b))
    if past is None:
        return overlap
    p, q = ratios.get(overlap.phase_a, 0.0), ratios.get(overlap.phase_b, 0.0)
    squares = past.aa - (p + q) * past.ab + p * q * past.bb
    return replace(
        overlap,
        yy=overlap.yy
        - theta * (past.ya - q * past.yb)
        - theta * (past.ay - p * past.by)
        + theta * theta * squares,
        ym=overlap.ym - theta * (past.am - p * past.bm),
        my=overlap.my - theta * (past.ma - q * past.mb),
    )
