"""Is it time to look, and how far must z be? Where a group-sequential plan stands.

Looks are planned at equal numbers of units up to the horizon and taken when their units have come, however
late; the bounds follow the information that really came. It reads no outcome: only numbers of units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..evidence import SMALLEST_SHARE, AnalysisSpec, Evidence, Goal, Look
from ..statistics import group_sequential, strata


@dataclass(frozen=True, slots=True, kw_only=True)
class LookState:
    """Where the group-sequential plan stands. `information` is the fraction of the horizon reached.

    `scheduled` says that this verdict is itself a look: `look_taken` makes it a past look for the next one.
    """

    planned: int
    done: int
    scheduled: bool
    final: bool
    units: int
    effective: float
    information: float
    z_bound: float | None


def look_taken(document: Mapping[str, Any]) -> Look | None:
    """The look that a stored verdict was (its JSON, parsed), or None if it was none."""
    look = document["look"]
    if not look["scheduled"]:
        return None
    known = {card["metric"]: card.get("information") for card in document["metrics"]}
    return Look(
        at_ns=document["as_of_ns"],
        units=look["units"],
        effective=look["effective"],
        information={name: value for name, value in known.items() if value is not None},
    )


def window_over(spec: AnalysisSpec, goal: Goal, units_a_day: float | None) -> float:
    """Of the units up to the horizon, those of which the goal's window will be over at the last look, as a
    share; 1 where there is no window, or nobody knows how many units come."""
    window = goal.metric.within_s
    if window is None or not units_a_day:
        return 1.0
    to_horizon = 86_400.0 * spec.horizon / units_a_day
    last = min(max(to_horizon, spec.min_duration_s), spec.max_duration_s)
    return min(1.0, max(0.0, last - window) / to_horizon)


def units_so_far(spec: AnalysisSpec, evidence: Evidence) -> tuple[int, float]:
    """Units so far, and what they are worth as units of an even split."""
    if spec.mode == "shadow":
        clusters: dict[str, int] = {}
        for pair in evidence.pairs:
            clusters[pair.metric] = clusters.get(pair.metric, 0) + pair.clusters
        units = max(clusters.values(), default=0)
        return units, float(units)
    phases: dict[int, dict[str, int]] = {}
    for count in evidence.arms:
        phases.setdefault(count.phase, {})[count.arm] = count.units
    units = sum(sum(arms.values()) for arms in phases.values())
    effective = 4.0 * sum(
        strata.harmonic(arms.get(spec.candidate, 0), arms.get(spec.control, 0)) for arms in phases.values()
    )
    return units, effective


def look_state(
    spec: AnalysisSpec, evidence: Evidence, past_looks: tuple[Look, ...]
) -> tuple[LookState, tuple[Look, ...]]:
    """Where the plan stands, and the looks taken before. A look is due once its units have come."""
    units, effective = units_so_far(spec, evidence)
    elapsed = (evidence.as_of_ns - evidence.started_ns) / 1e9
    planned = max(1, spec.looks)
    past = tuple(_increasing(past_looks))
    # A unit counts with its first pair: where a replay's horizon is all units that there are, the end is that
    # nothing is left to ask, and the last look is at the whole.
    unasked = spec.recorded and not evidence.exhausted and units == spec.horizon
    reached = min(planned, units * planned // max(1, spec.horizon))
    done = min(planned, max((look.units * planned // max(1, spec.horizon) for look in past), default=0))
    waited = elapsed >= spec.min_duration_s
    over = elapsed >= spec.max_duration_s or (evidence.exhausted and waited)
    final = (units >= spec.horizon and waited and not unasked) or over
    # At the end no unit may have come since the last look, only more of each: what that look left of alpha
    # is there yet.
    fresh = not past or effective > past[-1].effective or (over and past[-1].units < spec.horizon)
    ramping = _share_now(spec, evidence) < spec.full_share - SMALLEST_SHARE
    final = final and (over or not ramping)
    due = reached > done and waited and not ramping and not unasked
    scheduled = effective > 0.0 and fresh and (final or due)
    state = LookState(
        planned=planned,
        done=max(done, reached) if scheduled else done,
        scheduled=scheduled,
        final=final,
        units=units,
        effective=effective,
        information=units / max(1, spec.horizon),
        z_bound=None,
    )
    bound = bounds_now(spec, state, past, alpha=spec.alpha / max(1, len(spec.named("success"))), sides=2)
    return replace(state, z_bound=bound if math.isfinite(bound) else None), past


def bounds_now(
    spec: AnalysisSpec,
    look: LookState,
    past: tuple[Look, ...],
    *,
    alpha: float,
    sides: int,
    metric: str = "",
    information: float | None = None,
) -> float:
    """What z must pass at this look, if this much may be spent over all of them; infinite between looks.

    `information` is what is known of the `metric` now; where it, or a former look's, is not there or did not
    grow, the looks hang together by what their units are worth.
    """
    if not look.scheduled:
        return math.inf
    fractions = [min(1.0, each / spec.horizon) for each in (*(one.units for one in past), look.units)]
    known = [*(one.information.get(metric, 0.0) for one in past), information or 0.0]
    if not all(earlier < later for earlier, later in pairwise([0.0, *known])):
        known = [*(one.effective for one in past), look.effective]
    return group_sequential.bounds(fractions, alpha=alpha, sides=sides, information=known, final=look.final)[
        -1
    ]


def _share_now(spec: AnalysisSpec, evidence: Evidence) -> float:
    """The candidate's share in the latest phase that has traffic: a ramp that is not done ships nothing."""
    latest = max((count.phase for count in evidence.arms), default=0)
    return sum(
        count.expected_share
        for count in evidence.arms
        if count.phase == latest and count.arm == spec.candidate
    )


def _increasing(looks: Sequence[Look]) -> list[Look]:
    kept: list[Look] = []
    for look in looks:
        if look.effective > (kept[-1].effective if kept else 0.0):
            kept.append(look)
    return kept
