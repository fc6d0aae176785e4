"""How do the two arms compare on one goal? Chooses the method by the metric's kind and the design.

Independent arms by phase (never pooled), pairs within themselves. It turns sums into a `Comparison`;
what follows from it is the verdict's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import scipy

from ..evidence import SMALLEST_SHARE, AnalysisSpec, Evidence, Goal, MetricSums, Overlap
from ..metrics import closed
from ..statistics import failures, proportion, strata
from ..statistics.bounded import BoundedArm, arms_interval, arms_z
from ..statistics.estimate import Estimate
from ..statistics.moments import Cluster
from . import sketch
from .adjustment import less_the_past
from .contrast import (
    DEFAULT_RELATIVE_MARGIN,
    DEFAULT_SHARE_MARGIN,
    NO_UNITS,
    band_of,
    countable,
    effect_of,
    effective_units,
    harm_log_e,
    lesser,
    level_shown,
    margin_shown,
    quantile_comparison,
    settled,
    sign_of,
    signed_z,
)
from .pairing import compare_pairs
from .scorecard import ArmResult, Comparison


def compare(spec: AnalysisSpec, evidence: Evidence, goal: Goal, *, harm_alpha: float) -> Comparison:
    """Everything about one goal. `harm_alpha` is the part of the roll-back alpha that this goal may use."""
    if spec.mode == "shadow":
        rows = [pair for pair in evidence.pairs if pair.metric == goal.metric.name]
        return compare_pairs(spec, evidence, goal, rows, harm_alpha)
    phases = _by_phase(spec, evidence, goal)
    if goal.metric.kind == "binary":
        return _failures(spec, evidence, goal, phases)
    if goal.metric.kind == "quantile":
        return _quantiles(spec, evidence, goal, phases, harm_alpha)
    if goal.metric.within_s is not None:
        return _within_windows(spec, evidence, goal, phases, harm_alpha)
    return _means(spec, evidence, goal, phases, harm_alpha)


def _within_windows(
    spec: AnalysisSpec, evidence: Evidence, goal: Goal, phases: Phases, harm_alpha: float
) -> Comparison:
    """Requests are compared that have had the same time, their whole window: of the latest ones the arm has
    most that is told of soonest, and where people are as quick to complain as they are slow to praise, that
    makes a difference. Harm is looked for in all that has come: it must not wait for the window."""
    found = _means(spec, evidence, goal, phases, harm_alpha)
    over = replace(goal, metric=closed(goal.metric))
    waited = _by_phase(spec, evidence, over)
    if not waited:  # units of the past, that are drawn whole
        return found
    return replace(_means(spec, evidence, over, waited, harm_alpha), harm_log_e=found.harm_log_e)


def candidate_shares(spec: AnalysisSpec, evidence: Evidence) -> dict[int, float]:
    """The candidate's share among candidate and control in each phase in which both had traffic."""
    expected: dict[int, dict[str, float]] = {}
    for count in evidence.arms:
        expected.setdefault(count.phase, {})[count.arm] = count.expected_share
    found = {}
    for phase, shares in expected.items():
        one, zero = shares.get(spec.candidate, 0.0), shares.get(spec.control, 0.0)
        if min(one, zero) >= SMALLEST_SHARE:
            found[phase] = one / (one + zero)
    return found


#: Candidate's and control's sums in one phase.
Phases = list[tuple[int, MetricSums | None, MetricSums | None]]


def _by_phase(spec: AnalysisSpec, evidence: Evidence, goal: Goal) -> Phases:
    rows: dict[int, dict[str, MetricSums]] = {}
    for sums in evidence.sums:
        if sums.metric == goal.metric.name:
            rows.setdefault(sums.phase, {})[sums.arm] = sums
    return [(phase, arms.get(spec.candidate), arms.get(spec.control)) for phase, arms in sorted(rows.items())]


def _arm(name: str, version: int | None, rows: Sequence[MetricSums | None], value: float | None) -> ArmResult:
    seen = [row for row in rows if row is not None]
    return ArmResult(
        arm=name,
        version=version,
        units=sum(row.units for row in seen),
        # Observed, not eligible: feedback and streams concern a part of the exchanges only.
        n=sum(
            row.observed if row.observed is not None else round(row.m)
            for row in seen
            if 0.0 < row.m < 2.0**53
        ),
        missing=sum(row.missing for row in seen),
        value=value if value is not None and math.isfinite(value) else None,
    )


def _both_arms(
    spec: AnalysisSpec, phases: Phases, candidate: float | None, control: float | None
) -> tuple[ArmResult, ArmResult]:
    return (
        _arm(spec.control, spec.control_version, [zero for _, _, zero in phases], control),
        _arm(spec.candidate, spec.candidate_version, [one for _, one, _ in phases], candidate),
    )


def _missing_log_e(spec: AnalysisSpec, evidence: Evidence, phases: Phases) -> float:
    shares = candidate_shares(spec, evidence)
    return failures.imbalance(
        failures.FailureCount(candidate=one.missing_units, control=zero.missing_units, share=shares[phase])
        for phase, one, zero in phases
        if one is not None and zero is not None and phase in shares
    )


def _failures(spec: AnalysisSpec, evidence: Evidence, goal: Goal, phases: Phases) -> Comparison:
    """Units that failed, by their first failure. Within a phase, a unit that failed earlier stays in the
    denominator of both arms alike, which only makes later phases a little less telling."""
    shares = candidate_shares(spec, evidence)
    table = [(phase, _share(one), _share(zero)) for phase, one, zero in phases]
    pairs = [(one, zero) for _, one, zero in table]
    estimate = strata.share_difference(pairs, alpha=spec.alpha)
    counts = [
        failures.FailureCount(candidate=one[0], control=zero[0], share=shares[phase])
        for phase, one, zero in table
        if phase in shares
    ]
    margin = DEFAULT_SHARE_MARGIN if goal.margin is None else goal.margin
    z_margin, z_gain = strata.margin_z(pairs, margin), strata.margin_z(pairs, -margin)
    units = [(one[1], zero[1]) for one, zero in pairs]
    weights = [strata.harmonic(*both) for both in units]
    levels = [_share_of(arm, weights) for arm in zip(*pairs, strict=True)] or [None, None]
    return Comparison(
        arms=_both_arms(spec, phases, levels[0], levels[1]),
        effect=effect_of(estimate, ratio=False),
        band=band_of(spec, estimate, units, ratio=False),
        margin=margin,
        harm_log_e=failures.harm(counts, ratio=goal.tolerated_ratio) if counts else None,
        harm_method="truncated-beta",
        z_better=_share_z(pairs) if estimate.status == "ok" else None,
        z_noninferior=None if z_margin is None else -z_margin,
        z_equivalent=None if z_margin is None or z_gain is None else min(-z_margin, z_gain),
        information=strata.cmh_information(pairs),
        missing_log_e=_missing_log_e(spec, evidence, phases),
    )


def _share(sums: MetricSums | None) -> proportion.Share:
    return (0, 0) if sums is None else (max(0, min(sums.failing_units, sums.units)), max(0, sums.units))


def _standard(weights: Sequence[float], levels: Sequence[float], pooled: tuple[float, float]) -> float | None:
    """One arm's level over the phases, each weighed as the comparison weighs it, which is the same in both
    arms: pooled, the arm that got its units later would have another level where all levels drift along a
    ramp, and could seem the better one while it is the worse in every phase. Where no phase compares, it is
    the two totals' ratio."""
    total = sum(weights)
    if not total:
        return pooled[0] / pooled[1] if pooled[1] else None
    return sum(weight / total * level for weight, level in zip(weights, levels, strict=True) if weight)


def _share_of(shares: Sequence[proportion.Share], weights: Sequence[float]) -> float | None:
    """One arm's share of failing units: for show; the comparison is within phases."""
    pooled = sum(x for x, _ in shares), sum(n for _, n in shares)
    return _standard(weights, [x / n if n else 0.0 for x, n in shares], pooled)


def _share_z(pairs: Sequence[strata.Stratum]) -> float:
    """z of "the candidate fails less often"; from the exact test where the numbers are small."""
    z = strata.cmh(pairs)
    if z is None:
        return 0.0
    if len(pairs) == 1 and z != 0.0:
        exact = proportion.exact_p(*pairs[0], alternative="less" if z < 0.0 else "greater")
        if exact is not None:
            return math.copysign(max(0.0, -float(scipy.special.ndtri(max(exact[1], 1e-300)))), -z)
    return -z


def _cluster(sums: MetricSums | None) -> Cluster:
    if sums is None:
        return NO_UNITS
    if not countable(sums.y, sums.m, sums.yy, sums.mm, sums.ym) or (sums.m < 1.0 and sums.m != 0.0):
        # Says "insufficient data" from here on: a sum that is no number must not become an interval.
        return Cluster(n=sums.units, y=math.nan, m=1.0, yy=math.nan, mm=math.nan, ym=math.nan)
    return Cluster(n=sums.units, y=sums.y, m=sums.m, yy=sums.yy, mm=sums.mm, ym=sums.ym)


def _means(
    spec: AnalysisSpec, evidence: Evidence, goal: Goal, phases: Phases, harm_alpha: float
) -> Comparison:
    layers = [strata.MeanStratum(candidate=_cluster(one), control=_cluster(zero)) for _, one, zero in phases]
    weights = strata.mean_weights(layers)
    control = _mean_of([layer.control for layer in layers], weights)
    candidate = _mean_of([layer.candidate for layer in layers], weights)
    overlaps = [overlap for overlap in evidence.overlaps if overlap.metric == goal.metric.name]
    theta = 0.0
    if goal.adjusted:
        theta, layers, overlaps = less_the_past(
            spec, evidence, goal, [phase for phase, _, _ in phases], layers, overlaps
        )
    shared = _covariances(spec, overlaps, [phase for phase, _, _ in phases], layers)
    # Few units show too little spread just when a skewed metric's mean goes astray, which would be taken for
    # a gain or for safety; and for harm, looked at from the first ones on. Control has many.
    spread = [
        replace(layer, candidate=layer.candidate.no_less_spread_than(layer.control)) for layer in layers
    ]
    layers = [layer.wary for layer in layers]
    estimate = strata.mean_contrast(layers, alpha=spec.alpha, covariance=shared)
    if theta:
        estimate = replace(estimate, method=f"{estimate.method}-cuped")
    ratio = goal.metric.on_log_scale
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    sign = sign_of(goal)

    def against(side: float, arms: Sequence[strata.MeanStratum]) -> Estimate:
        """The contrast with what is worse (1) or better (-1) than control by the margin."""
        if ratio:
            return strata.mean_contrast(arms, shift=math.log1p(side * sign * margin), covariance=shared)
        away = sign * margin * (1.0 if control is None or control >= 0.0 else -1.0)
        return strata.mean_contrast(arms, control_factor=1.0 + side * away, covariance=shared)

    harm, gain = against(1.0, layers), against(-1.0, layers)
    units = [(layer.candidate.n, layer.control.n) for layer in layers]
    limited = _limited(goal, layers, weights, candidate, control)
    noninferior = _held(harm, -sign, limited, 1.0 + sign * margin)
    return Comparison(
        arms=_both_arms(spec, phases, level_shown(candidate, ratio), level_shown(control, ratio)),
        effect=effect_of(
            arms_interval(estimate, *limited, alpha=spec.alpha) if limited else estimate, ratio=ratio
        ),
        band=band_of(spec, estimate, units, ratio=ratio),
        margin=margin_shown(sign, margin, control, ratio),
        harm_log_e=harm_log_e(spec, against(1.0, spread), sign, units, harm_alpha),
        harm_method="one-sided-asymptotic",
        z_better=_held(estimate, -sign, limited),
        z_noninferior=noninferior,
        z_equivalent=lesser(noninferior, _held(gain, sign, limited, 1.0 - sign * margin)),
        # What is said later: of the latest units least, so that their number tells too much of early looks.
        information=(effective_units(units) or None) if goal.metric.source else None,
        missing_log_e=_missing_log_e(spec, evidence, phases),
    )


def _limited(
    goal: Goal,
    layers: Sequence[strata.MeanStratum],
    weights: Sequence[float],
    candidate: float | None,
    control: float | None,
) -> tuple[BoundedArm, BoundedArm] | None:
    """Candidate's and control's units, where their values have limits; None elsewhere."""
    if goal.metric.limits is None or candidate is None or control is None or not sum(weights):
        return None
    if not all(0.0 <= level <= 1.0 for level in (candidate, control)):  # of another scale
        return None
    found = []
    for level, arms in ((candidate, [s.candidate for s in layers]), (control, [s.control for s in layers])):
        parts = [((w / sum(weights)) ** 2, arm) for w, arm in zip(weights, arms, strict=True) if w > 0.0]
        n = 1.0 / sum(part * arm.mm / arm.m**2 for part, arm in parts)
        found.append(
            BoundedArm(
                n=n, mean=level, variance=n * sum(part * arm.variance * arm.missed for part, arm in parts)
            )
        )
    return found[0], found[1]


def _held(
    estimate: Estimate, sign: float, limited: tuple[BoundedArm, BoundedArm] | None, factor: float = 1.0
) -> float | None:
    """The z of the estimate, no surer than values with limits let it be: where few units are on an arm, rare
    ones at a limit are those that it lacks, and its spread with them."""
    z = signed_z(estimate, sign)
    if z is None or limited is None or estimate.value is None or estimate.se is None:
        return z
    found = sign * arms_z(estimate.value, estimate.se, *limited, factor=max(0.0, factor))
    return min(z, found, key=abs)


def _quantiles(
    spec: AnalysisSpec, evidence: Evidence, goal: Goal, phases: Phases, harm_alpha: float
) -> Comparison:
    level = goal.metric.quantile or 0.5
    kept = {(h.phase, h.arm): h for h in evidence.histograms if h.metric == goal.metric.name}
    pairs = [
        (
            sketch.Sketch(histogram=kept.get((phase, spec.candidate)), units=_cluster(one)),
            sketch.Sketch(histogram=kept.get((phase, spec.control)), units=_cluster(zero)),
        )
        for phase, one, zero in phases
    ]
    layers = sketch.within(pairs, level)
    found = sketch.compared(layers)
    arms = _both_arms(spec, phases, *sketch.levels(pairs, layers, level))
    missing = _missing_log_e(spec, evidence, phases)
    if found is None:
        return Comparison(arms=arms, missing_log_e=missing)
    units = [(one.units.n, zero.units.n) for one, zero in pairs]
    known = settled(units)
    return replace(
        quantile_comparison(spec, goal, arms, found, effective_units(units) if known else None, harm_alpha),
        missing_log_e=missing,
    )


def _covariances(
    spec: AnalysisSpec,
    overlaps: Sequence[Overlap],
    phases: Sequence[int],
    layers: Sequence[strata.MeanStratum],
) -> dict[tuple[int, str, int, str], float]:
    roles = {spec.candidate: "candidate", spec.control: "control"}
    index = {phase: position for position, phase in enumerate(phases)}
    found = {}
    for overlap in overlaps:
        if overlap.arm_a not in roles or overlap.arm_b not in roles:
            continue
        if overlap.phase_a not in index or overlap.phase_b not in index:
            continue
        i, j = index[overlap.phase_a], index[overlap.phase_b]
        a, b = roles[overlap.arm_a], roles[overlap.arm_b]
        one = layers[i].candidate if a == "candidate" else layers[i].control
        other = layers[j].candidate if b == "candidate" else layers[j].control
        found[i, a, j, b] = strata.shared_covariance(
            one, other, yy=overlap.yy, ym=overlap.ym, my=overlap.my, mm=overlap.mm
        )
    return found


def _mean_of(clusters: Sequence[Cluster], weights: Sequence[float]) -> float | None:
    """One arm's mean: for show, and what a relative margin is of."""
    pooled = sum(cluster.y for cluster in clusters), sum(cluster.m for cluster in clusters)
    value = _standard(weights, [cluster.ratio for cluster in clusters], pooled)
    return value if value is not None and math.isfinite(value) else None
