"""What follows from the effects of all gates, and how many more items would decide?

Pass needs every gate to be non-inferior: each alone is tested at the full alpha, for all of them must hold
(the intersection-union principle). Fail needs one to be worse: there Holm's adjustment over the gates keeps
the chance of failing a version that is worse in none of them at alpha. Anything else is inconclusive. A judge
decides nothing until people's labels hold it to account: it can only keep the verdict inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from evaluators.estimates import Effect, paired_effect
from evaluators.golden import Policy
from evaluators.metrics import MetricRow
from evaluators.pairing import Pair, imputed
from evaluators.summary import ITEMS, Gate, Summary
from experiments.statistics.multiplicity import holm
from experiments.verdict import Reason

_MOST_ITEMS: Final = 100_000  # beyond it "needs N more items" is no advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One gate: the effect (None: none can be had), and the drop that is tolerated."""

    effect: Effect | None
    margin: float


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

    The half-width of the interval goes with 1/sqrt(n), so a width w at n items becomes h at n (w/h)^2.
    """
    below, above = effect.estimate - effect.lower, effect.upper - effect.estimate
    rooms = [(below, effect.estimate + margin), (above, -effect.estimate)]
    needs = [n * (width / room) ** 2 for width, room in rooms if room > 0]
    if not needs or min(needs) - n > _MOST_ITEMS:
        return None
    return max(1, math.ceil(min(needs)) - n)


def conclude(
    policy: Policy,
    gates: Sequence[tuple[MetricRow, Sequence[Pair]]],
    coverage: float,
    own: Summary,
    reasons: list[Reason],
) -> tuple[Gate, str, int | None]:
    """The verdict, its sentence, and the items that would decide; blocking reasons are added to `reasons`.

    The first gate is the items'; the others are evaluators whose mean has a margin.
    """

    def blocked(verdict: Gate, code: str, text: str) -> tuple[Gate, str, None]:
        reasons.append(Reason(code=code, severity="block", text=text))
        return verdict, f"{verdict.capitalize()}: {text}", None

    items, _ = gates[0]
    judged = [row.evaluator for row, _ in gates if row.kind != "code"]
    gates = [(row, pairs) for row, pairs in gates if row.kind == "code"]
    if items.effect is None:
        return blocked("inconclusive", "no_pairs", "no item was scored in both versions.")
    if policy.min_pass_rate is not None and own.gate == "fail":
        return blocked("fail", "below_floor", own.sentence.removeprefix("Fail: "))
    if coverage < policy.coverage_floor:
        needed = f"{policy.coverage_floor:.0%} are needed"
        text = f"{coverage:.1%} of the answers are scored in both versions, {needed}."
        return blocked("inconclusive", "coverage", text)
    bars = [Bar(effect=row.effect, margin=row.margin or 0.0) for row, _ in gates]
    decision = decide_all(bars, policy.alpha)
    if {_extreme(policy, gates, worst=worst) for worst in (True, False)} != {decision}:
        text = "what the missing answers would have been decides: at worst and at best they say otherwise."
        return blocked("inconclusive", "missing_decides", text)
    if policy.min_pass_rate is not None and own.gate == "inconclusive":
        return blocked("inconclusive", "floor_undecided", own.sentence.removeprefix("Inconclusive: "))
    if decision == "fail":
        row = next(row for row, _ in gates if _worse(row))
        return "fail", f"Fail: {_numbers(row)}; the candidate is worse.", None
    if judged:
        text = (
            f"the judge of {', '.join(judged)} gates, but no human labels of these runs hold it to account."
        )
        return blocked("inconclusive", "judge_unlabelled", text)
    if decision == "pass":
        worse = " It is worse, but within what is tolerated." if items.effect.upper < 0 else ""
        also = "".join(f"; {_numbers(row)}" for row, _ in gates[1:])
        margin = _points(policy.margin)
        return "pass", f"Pass: {_numbers(items)}{also}; no drop beyond the margin of {margin}.{worse}", None
    return _undecided(gates, reasons)


def _undecided(
    gates: Sequence[tuple[MetricRow, Sequence[Pair]]], reasons: list[Reason]
) -> tuple[Gate, str, int | None]:
    undecided = [row for row, _ in gates if decide(row.effect, row.margin or 0.0) != "pass"]
    needs = [
        None if row.effect is None else items_needed(row.effect, row.n, row.margin or 0.0)
        for row in undecided
    ]
    more = None if None in needs else max((need for need in needs if need is not None), default=None)
    row = undecided[0]
    advice = (
        f"needs about {more} more items" if more is not None else "no number of such items would decide it"
    )
    margin = _points(row.margin or 0.0)
    text = f"{_numbers(row)}; the margin of {margin} lies inside the interval; {advice}."
    reasons.append(Reason(code="underpowered", severity="block", text=text))
    return "inconclusive", f"Inconclusive: {text}", more


def _extreme(policy: Policy, gates: Sequence[tuple[MetricRow, Sequence[Pair]]], *, worst: bool) -> Gate:
    """The decision with all that is missing at its worst (or best) for the candidate."""
    bars = [
        Bar(effect=paired_effect(imputed(pairs, worst=worst), alpha=policy.alpha), margin=row.margin or 0.0)
        for row, pairs in gates
    ]
    return decide_all(bars, policy.alpha)


def _worse(row: MetricRow) -> bool:
    return row.effect is not None and row.effect.upper < 0 and row.effect.lower <= -(row.margin or 0.0)


def _numbers(row: MetricRow) -> str:
    if row.effect is None:
        return f"{row.evaluator} was scored in no item of both versions"
    effect = row.effect
    estimate, lower, upper = (
        _points(end, sign=True) for end in (effect.estimate, effect.lower, effect.upper)
    )
    interval = f"difference {estimate} ({effect.level:.0%} interval {lower} to {upper})"
    if row.evaluator != ITEMS:
        return f"{row.evaluator}: mean {row.candidate:.3f} against {row.control:.3f}, {interval}"
    return (
        f"{row.candidate:.1%} of {row.n} items pass with the candidate, {row.control:.1%} with the "
        f"control, {interval}"
    )


def _points(share: float, *, sign: bool = False) -> str:
    return f"{100 * share:{'+' if sign else ''}.1f} points"
