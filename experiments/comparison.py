"""How do the two arms compare on one goal? Chooses the method by the metric's kind and the design.

Independent arms by phase (never pooled), pairs within themselves. It turns sums into a `Comparison`;
what follows from it is the verdict's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special

from . import sketch
from .evidence import SMALLEST_SHARE, AnalysisSpec, Evidence, Goal, MetricSums, PairSums
from .scorecard import ArmResult, Band, Comparison, Effect
from .statistics import betting, confidence_sequence, failures, paired, proportion, strata
from .statistics.estimate import Estimate, Interval, log_two_sided
from .statistics.moments import Cluster

#: What shipping tolerates where the spec does not say: two points of a failure rate, 10 % of a mean.
DEFAULT_SHARE_MARGIN = 0.02
DEFAULT_RELATIVE_MARGIN = 0.10
#: Asymptotic sequences start here; the design's false-alarm rates are of this burn-in.
BURN_IN_UNITS = 100
BURN_IN_ARM = 20

_EMPTY = Cluster(n=0, y=0.0, m=0.0, yy=0.0, mm=0.0, ym=0.0)


def compare(spec: AnalysisSpec, evidence: Evidence, goal: Goal, *, harm_alpha: float) -> Comparison:
    """Everything about one goal. `harm_alpha` is the part of the roll-back alpha that this goal may use."""
    if spec.mode == "shadow":
        rows = [pair for pair in evidence.pairs if pair.metric == goal.metric.name]
        if goal.metric.kind == "binary":
            return _paired_failures(spec, goal, rows)
        return _paired_means(spec, goal, rows, harm_alpha)
    phases = _by_phase(spec, evidence, goal)
    if goal.metric.kind == "binary":
        return _failures(spec, evidence, goal, phases)
    if goal.metric.kind == "quantile":
        return _quantiles(spec, evidence, goal, phases, harm_alpha)
    return _means(spec, evidence, goal, phases, harm_alpha)


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


def _effective(strata_units: Sequence[tuple[int, int]]) -> float:
    return 4.0 * sum(strata.harmonic(one, zero) for one, zero in strata_units)


def _settled(strata_units: Sequence[tuple[int, int]]) -> bool:
    """Whether the burn-in of the asymptotic sequences is over."""
    ones, zeros = sum(one for one, _ in strata_units), sum(zero for _, zero in strata_units)
    return ones + zeros >= BURN_IN_UNITS and min(ones, zeros) >= BURN_IN_ARM


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
    return Comparison(
        arms=_both_arms(spec, phases, _level([one for one, _ in pairs]), _level([zero for _, zero in pairs])),
        effect=_effect(estimate, ratio=False),
        band=_band(spec, estimate, units, ratio=False),
        margin=margin,
        harm_log_e=failures.harm(counts, ratio=goal.tolerated_ratio) if counts else None,
        harm_method="truncated-beta",
        z_better=_share_z(pairs) if estimate.status == "ok" else None,
        z_noninferior=None if z_margin is None else -z_margin,
        z_equivalent=None if z_margin is None or z_gain is None else min(-z_margin, z_gain),
        missing_log_e=_missing_log_e(spec, evidence, phases),
    )


def _share(sums: MetricSums | None) -> proportion.Share:
    return (0, 0) if sums is None else (max(0, min(sums.failing_units, sums.units)), max(0, sums.units))


def _level(shares: Sequence[proportion.Share]) -> float | None:
    """Failing units of all units over the phases: for show; the comparison is within phases."""
    n = sum(n for _, n in shares)
    return sum(x for x, _ in shares) / n if n else None


def _share_z(pairs: Sequence[strata.Stratum]) -> float:
    """z of "the candidate fails less often"; from the exact test where the numbers are small."""
    z = strata.cmh(pairs)
    if z is None:
        return 0.0
    if len(pairs) == 1 and z != 0.0:
        exact = proportion.exact_p(*pairs[0], alternative="less" if z < 0.0 else "greater")
        if exact is not None:
            return math.copysign(max(0.0, -float(special.ndtri(max(exact[1], 1e-300)))), -z)
    return -z


def _cluster(sums: MetricSums | None) -> Cluster:
    if sums is None:
        return _EMPTY
    if not _countable(sums.y, sums.m, sums.yy, sums.mm, sums.ym) or (sums.m < 1.0 and sums.m != 0.0):
        # Says "insufficient data" from here on: a sum that is no number must not become an interval.
        return Cluster(n=sums.units, y=math.nan, m=1.0, yy=math.nan, mm=math.nan, ym=math.nan)
    return Cluster(n=sums.units, y=sums.y, m=sums.m, yy=sums.yy, mm=sums.mm, ym=sums.ym)


def _countable(*sums: float) -> bool:
    """Whether sums are finite and so far from a float's ends that their squares are finite too."""
    return all(math.isfinite(value) and abs(value) < 1e70 for value in sums)


def _means(
    spec: AnalysisSpec, evidence: Evidence, goal: Goal, phases: Phases, harm_alpha: float
) -> Comparison:
    layers = [strata.MeanStratum(candidate=_cluster(one), control=_cluster(zero)) for _, one, zero in phases]
    shared = _covariances(spec, evidence, goal, [phase for phase, _, _ in phases], layers)
    estimate = strata.mean_contrast(layers, alpha=spec.alpha, covariance=shared)
    control = _mean_of([layer.control for layer in layers])
    candidate = _mean_of([layer.candidate for layer in layers])
    ratio = goal.metric.on_log_scale
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    sign = 1.0 if goal.metric.direction == "decrease" else -1.0
    if ratio:
        harm, gain = (
            strata.mean_contrast(layers, shift=math.log1p(side * sign * margin), covariance=shared)
            for side in (1.0, -1.0)
        )
    else:
        away = sign * margin * (1.0 if control is None or control >= 0.0 else -1.0)
        harm, gain = (
            strata.mean_contrast(layers, control_factor=1.0 + side * away, covariance=shared)
            for side in (1.0, -1.0)
        )
    units = [(layer.candidate.n, layer.control.n) for layer in layers]
    return Comparison(
        arms=_both_arms(spec, phases, _shown(candidate, ratio), _shown(control, ratio)),
        effect=_effect(estimate, ratio=ratio),
        band=_band(spec, estimate, units, ratio=ratio),
        margin=_shown_margin(sign, margin, control, ratio),
        harm_log_e=_harm_log_e(spec, harm, sign, units, harm_alpha),
        harm_method="one-sided-asymptotic",
        z_better=_signed_z(estimate, -sign),
        z_noninferior=_signed_z(harm, -sign),
        z_equivalent=_lesser(_signed_z(harm, -sign), _signed_z(gain, sign)),
        missing_log_e=_missing_log_e(spec, evidence, phases),
    )


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
    estimate = sketch.log_ratio(pairs, level, alpha=spec.alpha)
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    sign = 1.0 if goal.metric.direction == "decrease" else -1.0
    harm, gain = (_shifted(estimate, math.log1p(side * sign * margin)) for side in (1.0, -1.0))
    units = [(one.units.n, zero.units.n) for one, zero in pairs]
    levels = [sketch.pooled(arm, level) for arm in zip(*pairs, strict=True)] or [None, None]
    return Comparison(
        arms=_both_arms(spec, phases, levels[0], levels[1]),
        effect=_effect(estimate, ratio=True),
        band=_band(spec, estimate, units, ratio=True),
        margin=1.0 + sign * margin,
        harm_log_e=_harm_log_e(spec, harm, sign, units, harm_alpha),
        harm_method="one-sided-asymptotic",
        z_better=_signed_z(estimate, -sign),
        z_noninferior=_signed_z(harm, -sign),
        z_equivalent=_lesser(_signed_z(harm, -sign), _signed_z(gain, sign)),
        missing_log_e=_missing_log_e(spec, evidence, phases),
    )


def _covariances(
    spec: AnalysisSpec,
    evidence: Evidence,
    goal: Goal,
    phases: Sequence[int],
    layers: Sequence[strata.MeanStratum],
) -> dict[tuple[int, str, int, str], float]:
    roles = {spec.candidate: "candidate", spec.control: "control"}
    index = {phase: position for position, phase in enumerate(phases)}
    found = {}
    for overlap in evidence.overlaps:
        known = overlap.arm_a in roles and overlap.arm_b in roles
        if overlap.metric != goal.metric.name or not known:
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


def _mean_of(clusters: Sequence[Cluster]) -> float | None:
    m = sum(cluster.m for cluster in clusters)
    value = sum(cluster.y for cluster in clusters) / m if m else math.nan
    return value if math.isfinite(value) else None


def _shown(value: float | None, ratio: bool) -> float | None:
    """A level on the scale that people know: a geometric mean for a mean of logarithms."""
    if value is None or not ratio:
        return value
    return math.exp(value) if value < 700.0 else None


def _shown_margin(sign: float, margin: float, control: float | None, ratio: bool) -> float | None:
    if ratio:
        return 1.0 + sign * margin
    return None if control is None else sign * margin * abs(control)


def _signed_z(estimate: Estimate, sign: float) -> float | None:
    """The z with the same one-sided p as the estimate's t, positive in the direction of `sign`."""
    if estimate.status != "ok" or estimate.value is None or not estimate.se:
        return None
    statistic = sign * estimate.value / estimate.se
    half = min(log_two_sided(statistic, estimate.df) - math.log(2.0), math.log(0.5))
    return math.copysign(-float(special.ndtri_exp(half)), statistic)


def _lesser(one: float | None, other: float | None) -> float | None:
    """Two one-sided tests reject together where the lesser of their z does (TOST)."""
    return None if one is None or other is None else min(one, other)


def _harm_log_e(
    spec: AnalysisSpec,
    harm: Estimate,
    sign: float,
    units: Sequence[tuple[int, int]],
    harm_alpha: float,
) -> float | None:
    z = _signed_z(harm, sign)
    if z is None or not _settled(units):
        return None
    return confidence_sequence.one_sided_log_e(
        z, _effective(units), alpha=harm_alpha, best_at=max(1.0, spec.horizon / 2.0)
    )


def _effect(estimate: Estimate, *, ratio: bool) -> Effect | None:
    if estimate.status != "ok" or estimate.value is None or estimate.interval is None:
        return None
    interval = estimate.interval
    return Effect(
        scale="ratio" if ratio else "difference",
        estimate=_through(estimate.value, ratio),
        lower=_through(interval.lower, ratio),
        upper=_through(interval.upper, ratio),
        level=interval.level,
        method=f"{estimate.method}-log" if ratio and "log" not in estimate.method else estimate.method,
        method_version=estimate.version,
        null=1.0 if ratio else 0.0,
        log_p=estimate.log_p,
    )


def _through(value: float, ratio: bool) -> float:
    return math.exp(min(value, 700.0)) if ratio else value


def _band(
    spec: AnalysisSpec, estimate: Estimate, units: Sequence[tuple[int, int]], *, ratio: bool
) -> Band | None:
    if estimate.status != "ok" or estimate.value is None or estimate.se is None or not _settled(units):
        return None
    found: Interval | None = confidence_sequence.band(
        estimate.value,
        estimate.se,
        _effective(units),
        alpha=spec.alpha,
        best_at=max(1.0, spec.horizon / 2.0),
    )
    if found is None:
        return None
    return Band(
        estimate=_through(estimate.value, ratio),
        lower=_through(found.lower, ratio),
        upper=_through(found.upper, ratio),
        level=found.level,
        method="asymptotic-cs",
    )


def _pair_arms(
    spec: AnalysisSpec, rows: Sequence[PairSums], candidate: float | None, control: float | None
) -> tuple[ArmResult, ArmResult]:
    def arm(name: str, version: int | None, value: float | None) -> ArmResult:
        return ArmResult(
            arm=name,
            version=version,
            units=sum(row.clusters for row in rows),
            n=sum(row.pairs for row in rows),
            missing=sum(row.missing for row in rows),
            value=value if value is not None and math.isfinite(value) else None,
        )

    return (
        arm(spec.control, spec.control_version, control),
        arm(spec.candidate, spec.candidate_version, candidate),
    )


def _paired_failures(spec: AnalysisSpec, goal: Goal, rows: Sequence[PairSums]) -> Comparison:
    """Each pair is its own stratum (the same request twice), so that phases add up without bias."""
    table = paired.PairTable(
        both=sum(max(0, row.n11) for row in rows),
        control_only=sum(max(0, row.n10) for row in rows),
        candidate_only=sum(max(0, row.n01) for row in rows),
        neither=sum(max(0, row.n00) for row in rows),
    )
    if not table.n:
        return Comparison(arms=_pair_arms(spec, rows, None, None))
    estimate = paired.newcombe_paired(table, alpha=spec.alpha)
    adjusted = paired.bonett_price(table, alpha=spec.alpha)
    margin = DEFAULT_SHARE_MARGIN if goal.margin is None else goal.margin
    units = [(table.n, table.n)]
    centre = (table.candidate_only - table.control_only) / (table.n + 2)
    return Comparison(
        arms=_pair_arms(
            spec,
            rows,
            (table.both + table.candidate_only) / table.n,
            (table.both + table.control_only) / table.n,
        ),
        effect=_effect(estimate, ratio=False),
        band=_pair_band(spec, estimate, table.n, ratio=False) if _settled(units) else None,
        margin=margin,
        harm_log_e=betting.pair_harm_log_e(table, ratio=goal.tolerated_ratio),
        harm_method="paired-betting",
        z_better=-paired.mid_p_z(table),
        z_noninferior=(margin - centre) / adjusted.se if adjusted.se else None,
        z_equivalent=(margin - abs(centre)) / adjusted.se if adjusted.se else None,
    )


def _paired_means(spec: AnalysisSpec, goal: Goal, rows: Sequence[PairSums], harm_alpha: float) -> Comparison:
    pairs = sum(row.pairs for row in rows)
    known = all(_countable(row.d, row.dd, row.md, row.mm, row.control_y) for row in rows)
    if pairs <= 0 or not known:
        return Comparison(arms=_pair_arms(spec, rows, None, None))
    sums = paired.PairedSums(
        clusters=sum(row.clusters for row in rows),
        d=sum(row.d for row in rows),
        m=float(pairs),
        dd=sum(row.dd for row in rows),
        md=sum(row.md for row in rows),
        mm=sum(row.mm for row in rows),
    )
    control = sum(row.control_y for row in rows) / pairs
    ratio = goal.metric.on_log_scale
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    sign = 1.0 if goal.metric.direction == "decrease" else -1.0
    estimate = paired.clustered_difference(sums, alpha=spec.alpha)
    # The control's level counts as known here: the same requests give both, and its error is second order.
    harm, gain = (
        _shifted(estimate, math.log1p(away) if ratio else away * abs(control))
        for away in (sign * margin, -sign * margin)
    )
    candidate = control + sums.d / pairs
    z_harm = _signed_z(harm, sign)
    settled = sums.clusters >= BURN_IN_ARM and pairs >= BURN_IN_UNITS
    log_e = None
    if settled and z_harm is not None:
        log_e = confidence_sequence.one_sided_log_e(
            z_harm, float(sums.clusters), alpha=harm_alpha, best_at=max(1.0, spec.horizon / 2.0)
        )
    return Comparison(
        arms=_pair_arms(spec, rows, _shown(candidate, ratio), _shown(control, ratio)),
        effect=_effect(estimate, ratio=ratio),
        band=_pair_band(spec, estimate, sums.clusters, ratio=ratio) if settled else None,
        margin=_shown_margin(sign, margin, control, ratio),
        harm_log_e=log_e,
        harm_method="one-sided-asymptotic",
        z_better=_signed_z(estimate, -sign),
        z_noninferior=None if z_harm is None else -z_harm,
        z_equivalent=_lesser(_signed_z(harm, -sign), _signed_z(gain, sign)),
    )


def _shifted(estimate: Estimate, by: float) -> Estimate:
    if estimate.status != "ok" or estimate.value is None:
        return estimate
    return Estimate(
        status="ok",
        method=estimate.method,
        value=estimate.value - by,
        se=estimate.se,
        df=estimate.df,
    )


def _pair_band(spec: AnalysisSpec, estimate: Estimate, clusters: int, *, ratio: bool) -> Band | None:
    return _band(spec, estimate, [(clusters, clusters)], ratio=ratio)
