"""What follows from the effects of all gates, and how many more items would decide?

Pass needs every gate to be non-inferior: each alone is tested at the full alpha, for all of them must hold
(the intersection-union principle). Fail needs one to be worse: there Holm's adjustment over the gates keeps
the chance of failing a version that is worse in none of them at alpha. Anything else is inconclusive. A judge
decides nothing until people's labels hold it to account (`evaluators.labels`): it can only keep the verdict
inconclusive. From then on its gate is the effect that the labels make of it, never its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from evaluators.estimates import Effect, paired_effect
from evaluators.golden import Policy
from evaluators.labels.correction import Correction
from evaluators.metrics import MetricRow
from evaluators.pairing import Pair, imputed
from evaluators.summary import ITEMS, Gate, Summary
from experiments.figures import percent, points, quantity
from experiments.statistics.multiplicity import holm
from experiments.verdict import Reason

_MOST_ITEMS: Final = 100_000  # beyond it "needs N more items" is no advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One gate: the effect (None: none can be had), and the drop that is tolerated."""

    effect: Effect | None
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One gate of a comparison: its row, its effect, and what that were with all that is missing at its worst
    and at its best for the candidate. A judge has a `correction`, whose effect stands for its own."""

    row: MetricRow
    effect: Effect | None
    worst: Effect | None
    best: Effect | None
    correction: Correction | None = None

    @property
    def margin(self) -> float:
        return self.row.margin or 0.0

    @property
    def coverage(self) -> float:
        """The share of its items that are known in both versions; of a judge, those with answers to label."""
        of = (self.row.n, self.row.missing)
        known, missing = of if self.correction is None else (self.correction.items, self.correction.missing)
        return known / (known + missing) if known else 0.0

    def bar(self, worst: bool | None = None) -> Bar:
        """What it says, or would say at the worst or best."""
        effect = self.effect if worst is None else self.worst if worst else self.best
        return Bar(effect=effect, margin=self.margin)


def gauge(row: MetricRow, pairs: Sequence[Pair], correction: Correction | None, *, alpha: float) -> Gauge:
    """The gate of a row; a judge's by its correction."""
    if correction is not None:
        return Gauge(
            row=row,
            effect=correction.effect,
            worst=correction.worst,
            best=correction.best,
            correction=correction,
        )
    worst, best = (paired_effect(imputed(pairs, worst=at), alpha=alpha) for at in (True, False))
    return Gauge(row=row, effect=row.effect, worst=worst, best=best)


def decide(effect: Effect | None, margin: float) -> Gate:
    """The three-way decision; that it is worse must be said by the test as well as by the interval."""
    if effect is None:
        return "inconclusive"
    if effect.lower > -margin:
        return "pass"
    if effect.upper < 0 and effect.significant:
        return "fail"
    return "inconclusive"


def decide_all(bars: Sequence[Bar], alpha: float) -> Gate:
    """The decision over all gates; inconclusive without any."""
    adjusted = holm([_p(bar) for bar in bars])
    for bar, p in zip(bars, adjusted, strict=True):
        inferior = bar.effect is not None and bar.effect.upper < 0 and bar.effect.lower <= -bar.margin
        if inferior and p < alpha:
            return "fail"
    passed = [bar.effect is not None and bar.effect.lower > -bar.margin for bar in bars]
    return "pass" if passed and all(passed) else "inconclusive"


def _p(bar: Bar) -> float:
    return 1.0 if bar.effect is None or bar.effect.p_value is None else bar.effect.p_value


def items_needed(effect: Effect, n: int, margin: float) -> int | None:
    """About how many more items would decide, if they came out as these did; None if that is no advice.

    By the method that decides, if the effect says what it was had from. Of labels: the half-width of the
    interval goes with 1/sqrt(n), so a width w at n items becomes h at n (w/h)^2.
    """
    if effect.clusters is not None:
        factor = effect.clusters.enough(-margin, alpha=1.0 - effect.level, most=1.0 + _MOST_ITEMS / n)
        return None if factor is None else max(1, math.ceil(n * factor) - n)
    below, above = effect.estimate - effect.lower, effect.upper - effect.estimate
    rooms = [(below, effect.estimate + margin), (above, -effect.estimate)]
    needs = [n * (width / room) ** 2 for width, room in rooms if room > 0]
    if not needs or min(needs) - n > _MOST_ITEMS:
        return None
    return max(1, math.ceil(min(needs)) - n)


def conclude(
    policy: Policy,
    gauges: Sequence[Gauge],
    coverage: float,
    own: Summary,
    reasons: list[Reason],
) -> tuple[Gate, str, int | None]:
    """The verdict, its sentence, and the items that would decide; blocking reasons are added to `reasons`.

    The first gate is the items', where they pass or fail by themselves; the others are evaluators whose mean
    has a margin.
    """

    def blocked(verdict: Gate, code: str, text: str) -> tuple[Gate, str, None]:
        reasons.append(Reason(code=code, severity="block", text=text))
        return verdict, f"{verdict.capitalize()}: {text}", None

    # A judge that is not held to account is no instrument: the rest may fail the candidate without it.
    lacking = [text for one in gauges if one.correction and (text := _lacks(one.correction))]
    gauges = [one for one in gauges if one.correction is None or not _lacks(one.correction)]
    first = next(iter(gauges), None)
    if first is not None and first.effect is None:
        return blocked("inconclusive", "no_pairs", "no item was scored in both versions.")
    if policy.min_pass_rate is not None and own.gate == "fail":
        return blocked("fail", "below_floor", own.sentence.removeprefix("Fail: "))
    if first is not None and coverage < policy.coverage_floor:
        needed = f"{percent(policy.coverage_floor)} are needed"
        text = f"{percent(coverage)} of the answers are scored in both versions, {needed}."
        return blocked("inconclusive", "coverage", text)
    decision = decide_all([one.bar() for one in gauges], policy.alpha)
    extremes = {decide_all([one.bar(worst) for one in gauges], policy.alpha) for worst in (True, False)}
    if extremes != {decision}:
        text = "what the missing answers would have been decides: at worst and at best they say otherwise."
        return blocked("inconclusive", "missing_decides", text)
    if policy.min_pass_rate is not None and own.gate == "inconclusive":
        return blocked("inconclusive", "floor_undecided", own.sentence.removeprefix("Inconclusive: "))
    if decision == "fail":
        worse = next(one for one in gauges if _worse(one))
        return "fail", f"Fail: {_numbers(worse)}; the candidate is worse.", None
    if lacking:
        return blocked("inconclusive", "judge_unlabelled", f"{'; '.join(lacking)}.")
    if decision == "pass" and first is not None and first.effect is not None:
        remark = " It is worse, but within what is tolerated." if first.effect.upper < 0 else ""
        also = "".join(f"; {_numbers(one)}" for one in gauges[1:])
        margin = _points(first.margin)
        return "pass", f"Pass: {_numbers(first)}{also}; no drop beyond the margin of {margin}.{remark}", None
    return _undecided(gauges, reasons)


def _lacks(found: Correction) -> str | None:
    """What keeps a judge from gating, and what to do about it; None if nothing does."""
    if len(found.judges) > 1:
        return (
            f"{found.evaluator} was judged by {' and by '.join(found.judges)}: two instruments are no "
            "comparison; run it again with --fresh"
        )
    if not found.items:
        return f"{found.evaluator} has no item with answers in both versions"
    if found.labelled == found.drawn >= found.needed:
        return None
    size = max(found.needed, found.drawn)
    return (
        f"the judge of {found.evaluator} gates once people have labelled {size:,} drawn items, of which "
        f"{size - found.labelled:,} are missing: turnout golden label"
    )


def _undecided(gauges: Sequence[Gauge], reasons: list[Reason]) -> tuple[Gate, str, int | None]:
    undecided = [one for one in gauges if decide(one.effect, one.margin) != "pass"]
    needs = [
        None if one.effect is None else items_needed(one.effect, _size(one), one.margin) for one in undecided
    ]
    known = [need for need in needs if need is not None]
    first = undecided[0]
    unit = "items" if first.correction is None else "labelled items"
    more = max(known) if known and len(known) == len(needs) else None
    advice = (
        f"needs about {more:,} more {unit}"
        if more is not None
        else f"no number of such {unit} would decide it"
    )
    text = f"{_numbers(first)}; the margin of {_points(first.margin)} lies inside the interval; {advice}."
    reasons.append(Reason(code="underpowered", severity="block", text=text))
    return "inconclusive", f"Inconclusive: {text}", more


def _size(one: Gauge) -> int:
    """What the interval's width goes with: items, or labelled ones while some are left to label."""
    return one.row.n if one.correction is None else one.correction.labelled or one.row.n


def _worse(one: Gauge) -> bool:
    return one.effect is not None and one.effect.upper < 0 and one.effect.lower <= -one.margin


def _numbers(one: Gauge) -> str:
    row, effect = one.row, one.effect
    if effect is None:
        return f"{row.evaluator} was scored in no item of both versions"
    estimate, lower, upper = (
        _points(end, sign=True) for end in (effect.estimate, effect.lower, effect.upper)
    )
    interval = f"difference {estimate} ({100 * effect.level:.4g} % interval {lower} to {upper})"
    if one.correction is not None:
        return f"{row.evaluator}: {interval} by {_source(one.correction)}{_opinion(row)}"
    if row.evaluator != ITEMS:
        candidate, control = (
            quantity(mean, "", abs(effect.estimate)) for mean in (row.candidate or 0.0, row.control or 0.0)
        )
        return f"{row.evaluator}: mean {candidate} against {control}, {interval}"
    return (
        f"{percent(row.candidate or 0.0)} of {row.n:,} items pass with the candidate, "
        f"{percent(row.control or 0.0)} with the control, {interval}"
    )


def _source(found: Correction) -> str:
    if found.labelled == found.open:
        return f"people's labels of all {found.open:,} items whose answers differ"
    return f"{found.labelled:,} labelled items and the judge's {found.items:,}"


def _opinion(row: MetricRow) -> str:
    return "" if row.effect is None else f" (the judge alone says {_points(row.effect.estimate, sign=True)})"


def _points(share: float, *, sign: bool = False) -> str:
    told = points(share, 1)
    return f"{told if sign else told.removeprefix('+')} points"
