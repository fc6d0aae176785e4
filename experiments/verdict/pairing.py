"""How do a shadow's two answers to the same requests compare on one goal? Pairs, within themselves.

Each pair is its own stratum (the same request twice), so that phases add up without bias. Pairs of one unit
hang together. It turns sums into a `Comparison`, as `comparison` does for independent arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ..evidence import AnalysisSpec, Evidence, Goal, PairSums
from ..statistics import betting, confidence_sequence, paired
from ..statistics.bounded import BoundedClusters
from ..statistics.estimate import Estimate
from . import sketch
from .contrast import (
    BURN_IN_ARM,
    BURN_IN_UNITS,
    DEFAULT_RELATIVE_MARGIN,
    DEFAULT_SHARE_MARGIN,
    NO_UNITS,
    band_of,
    countable,
    effect_of,
    lesser,
    level_shown,
    margin_shown,
    quantile_comparison,
    settled,
    shifted,
    sign_of,
    signed_z,
)
from .scorecard import ArmResult, Band, Comparison

#: What floats leave of a level's limits.
_EDGE: Final = 1e-9


def compare_pairs(
    spec: AnalysisSpec, evidence: Evidence, goal: Goal, rows: Sequence[PairSums], harm_alpha: float
) -> Comparison:
    """Everything about one goal of a shadow."""
    match goal.metric.kind:
        case "binary":
            return _paired_failures(spec, goal, rows)
        case "ratio":
            return _paired_ratios(spec, goal, rows, harm_alpha)
        case "quantile":
            return _paired_quantiles(spec, evidence, goal, rows, harm_alpha)
        case _:
            return _paired_means(spec, goal, rows, harm_alpha)


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
    arms = _pair_arms(
        spec,
        rows,
        (table.both + table.candidate_only) / table.n,
        (table.both + table.control_only) / table.n,
    )
    bounded = BoundedClusters.of(table.sums, low=-1.0, high=1.0)
    if bounded is None:
        return Comparison(arms=arms)
    margin = min(DEFAULT_SHARE_MARGIN if goal.margin is None else goal.margin, 1.0 - _EDGE)
    noninferior = -bounded.z(margin)
    found = replace(
        bounded.estimate(alpha=spec.alpha), log_p=math.log(max(paired.mcnemar_mid_p(table), 5e-324))
    )
    return Comparison(
        arms=arms,
        effect=effect_of(found, ratio=False),
        band=_bounded_band(spec, bounded) if settled([(table.n, table.n)]) else None,
        margin=margin,
        harm_log_e=betting.pair_harm_log_e(table, ratio=goal.tolerated_ratio),
        harm_method="paired-betting",
        z_better=-paired.mid_p_z(table),
        z_noninferior=noninferior,
        z_equivalent=min(noninferior, bounded.z(-margin)),
    )


def _paired_means(spec: AnalysisSpec, goal: Goal, rows: Sequence[PairSums], harm_alpha: float) -> Comparison:
    pairs = sum(row.pairs for row in rows)
    known = all(countable(row.d, row.dd, row.md, row.mm, row.control_y) for row in rows)
    if pairs <= 0 or not known:
        return Comparison(arms=_pair_arms(spec, rows, None, None))
    cubes = [row.cubes for row in rows if row.clusters]
    sums = paired.PairedSums(
        clusters=sum(row.clusters for row in rows),
        d=sum(row.d for row in rows),
        m=float(pairs),
        dd=sum(row.dd for row in rows),
        md=sum(row.md for row in rows),
        mm=sum(row.mm for row in rows),
        cubes=tuple(map(sum, zip(*cubes, strict=True))) if all(cubes) else (),
    )
    control = sum(row.control_y for row in rows) / pairs
    candidate = control + sums.d / pairs
    ratio = goal.metric.on_log_scale
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    levels = (level_shown(candidate, ratio), level_shown(control, ratio))
    bounded = _bounded(goal, sums, (candidate, control))
    if bounded is not None:
        return _bounded_means(spec, goal, rows, levels, bounded)
    estimate = paired.clustered_difference(sums, alpha=spec.alpha, wary=True)
    # The control's level counts as known here: the same requests give both, and its error is second order.
    harm, gain = (
        shifted(estimate, math.log1p(away) if ratio else away * abs(control))
        for away in (sign_of(goal) * margin, -sign_of(goal) * margin)
    )
    return _paired_contrast(spec, goal, rows, levels, estimate, harm, gain, harm_alpha)


def _bounded(goal: Goal, sums: paired.PairedSums, levels: tuple[float, float]) -> BoundedClusters | None:
    """The clusters, where a difference has limits and they hold; None elsewhere."""
    limits = goal.metric.limits
    if limits is None or not all(-_EDGE <= level <= 1.0 + _EDGE for level in levels):  # of another scale
        return None
    return BoundedClusters.of(sums, low=limits[0], high=limits[1])


def _bounded_means(
    spec: AnalysisSpec,
    goal: Goal,
    rows: Sequence[PairSums],
    levels: tuple[float | None, float | None],
    bounded: BoundedClusters,
) -> Comparison:
    """Scores: that no large drop was seen is evidence, the more pairs there are, and no more than that."""
    sign = sign_of(goal)
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    away = sign * min(margin, 1.0 - _EDGE) * min(1.0, abs(levels[1] or 0.0))
    noninferior = -sign * bounded.z(away)
    estimate = bounded.estimate(alpha=spec.alpha)
    return Comparison(
        arms=_pair_arms(spec, rows, *levels),
        effect=effect_of(estimate, ratio=False),
        band=_bounded_band(spec, bounded) if _pairs_settled(rows) else None,
        margin=away,
        harm_log_e=bounded.log_e(away, above=sign > 0.0),
        harm_method="betting",
        z_better=-sign * bounded.z(0.0),
        z_noninferior=noninferior,
        z_equivalent=min(noninferior, sign * bounded.z(-away)),
    )


def _bounded_band(spec: AnalysisSpec, bounded: BoundedClusters) -> Band:
    found = bounded.band(alpha=spec.alpha)
    return Band(
        estimate=bounded.value, lower=found.lower, upper=found.upper, level=found.level, method="betting-cs"
    )


def _pair_band(spec: AnalysisSpec, estimate: Estimate, clusters: int, *, ratio: bool) -> Band | None:
    return band_of(spec, estimate, [(clusters, clusters)], ratio=ratio)


def _paired_ratios(spec: AnalysisSpec, goal: Goal, rows: Sequence[PairSums], harm_alpha: float) -> Comparison:
    known = [row for row in rows if row.clusters and len(row.products) == 10]
    if not known or not all(countable(*row.totals, *row.products) for row in known):
        return Comparison(arms=_pair_arms(spec, rows, None, None))
    upper = [sum(column) for column in zip(*(row.products for row in known), strict=True)]
    places = {pair: k for k, pair in enumerate((j, k) for j in range(4) for k in range(j, 4))}
    sums = paired.PairedRatio(
        clusters=sum(row.clusters for row in known),
        totals=tuple(sum(column) for column in zip(*(row.totals for row in known), strict=True)),
        products=tuple(tuple(upper[places[min(j, k), max(j, k)]] for k in range(4)) for j in range(4)),
    )
    y1, w1, y0, w0 = sums.totals
    levels = (y1 / w1 if w1 > 0.0 else None, y0 / w0 if w0 > 0.0 else None)
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    away = sign_of(goal) * margin * (1.0 if y0 >= 0.0 else -1.0)
    return _paired_contrast(
        spec,
        goal,
        rows,
        levels,
        paired.ratio_contrast(sums, alpha=spec.alpha),
        paired.ratio_contrast(sums, control_factor=1.0 + away),
        paired.ratio_contrast(sums, control_factor=1.0 - away),
        harm_alpha,
    )


def _paired_quantiles(
    spec: AnalysisSpec, evidence: Evidence, goal: Goal, rows: Sequence[PairSums], harm_alpha: float
) -> Comparison:
    name, level = goal.metric.name, goal.metric.quantile or 0.5
    halves = {one.arm: one for one in evidence.histograms if one.metric == name}
    both = next((one for one in evidence.pair_quantiles if one.metric == name), None)
    if both is None or halves.keys() != {spec.candidate, spec.control}:
        return Comparison(arms=_pair_arms(spec, rows, None, None))
    one, zero = (
        sketch.Sketch(histogram=halves[arm], units=NO_UNITS) for arm in (spec.candidate, spec.control)
    )
    arms = _pair_arms(spec, rows, one.quantile(level), zero.quantile(level))
    found = sketch.paired(one, zero, both, level)
    if found is None:
        return Comparison(arms=arms)
    clusters = float(sum(row.clusters for row in rows))
    return quantile_comparison(
        spec, goal, arms, found, clusters if _pairs_settled(rows) else None, harm_alpha
    )


def _paired_contrast(
    spec: AnalysisSpec,
    goal: Goal,
    rows: Sequence[PairSums],
    levels: tuple[float | None, float | None],
    estimate: Estimate,
    harm: Estimate,
    gain: Estimate,
    harm_alpha: float,
) -> Comparison:
    """What estimates over clusters of pairs say: `harm` and `gain` are those against the margin either way.
    `levels` are the candidate's and the control's, as people know them."""
    ratio, sign = goal.metric.on_log_scale, sign_of(goal)
    margin = DEFAULT_RELATIVE_MARGIN if goal.margin is None else goal.margin
    units = [(sum(row.clusters for row in rows),) * 2]
    return Comparison(
        arms=_pair_arms(spec, rows, *levels),
        effect=effect_of(estimate, ratio=ratio),
        band=_pair_band(spec, estimate, units[0][0], ratio=ratio) if _pairs_settled(rows) else None,
        margin=margin_shown(sign, margin, levels[1], ratio),
        harm_log_e=_pair_harm_log_e(spec, harm, sign, rows, harm_alpha),
        harm_method="one-sided-asymptotic",
        z_better=signed_z(estimate, -sign),
        z_noninferior=signed_z(harm, -sign),
        z_equivalent=lesser(signed_z(harm, -sign), signed_z(gain, sign)),
        alike=estimate.status == "insufficient_data" and units[0][0] > 1,
    )


def _pairs_settled(rows: Sequence[PairSums]) -> bool:
    return (
        sum(row.clusters for row in rows) >= BURN_IN_ARM and sum(row.pairs for row in rows) >= BURN_IN_UNITS
    )


def _pair_harm_log_e(
    spec: AnalysisSpec, harm: Estimate, sign: float, rows: Sequence[PairSums], harm_alpha: float
) -> float | None:
    z = signed_z(harm, sign)
    if z is None or not _pairs_settled(rows):
        return None
    clusters = float(sum(row.clusters for row in rows))
    return float(confidence_sequence.harm_log_e(z, clusters, alpha=harm_alpha, horizon=spec.horizon))
