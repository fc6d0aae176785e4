"""The rule by which a comparison decides, held to what it promises, on drawn outcomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evaluators.comparison import Comparison, compare
from evaluators.deciding import Bar, decide, decide_all, items_needed
from evaluators.estimates import Effect, PairedValue, paired_effect
from evaluators.golden import GoldenSet

from .sets import make_set, row
from .test_comparison import results

ALPHA = 0.05
Value = float | None
FLOORS = (0.0, 0.9, 0.98)


@cache
def golden_set(n: int, floor: float, margin: float) -> GoldenSet:
    with TemporaryDirectory() as folder:
        yaml = f"coverage_floor: {floor}\nmargin: {margin}\n"
        return make_set(Path(folder), [row(f"q{k:02}") for k in range(n)], yaml)


def compared(pairs: Sequence[tuple[Value, Value]], *, floor: float = 0.0, margin: float = 0.1) -> Comparison:
    golden = golden_set(len(pairs), floor, margin)
    control, candidate = (
        results(golden, {item.id: pair[side] for item, pair in zip(golden.items, pairs, strict=True)})
        for side in (0, 1)
    )
    return compare(golden, control, candidate)


yes_no = st.sampled_from([1.0, 0.0])
counts = st.integers(0, 30)


@st.composite
def outcomes(draw: st.DrawFn) -> list[tuple[Value, Value]]:
    """Pairs of which most pass in both versions, some in one, and a few are missing in either."""
    lost, gained, missing = draw(st.integers(0, 14)), draw(st.integers(0, 6)), draw(st.integers(0, 4))
    same = draw(st.integers(20, 60))
    gone = [
        draw(st.sampled_from([(None, 1.0), (1.0, None), (None, 0.0), (0.0, None)])) for _ in range(missing)
    ]
    return [*[(1.0, 1.0)] * same, *[(1.0, 0.0)] * lost, *[(0.0, 1.0)] * gained, *gone]


@settings(max_examples=60, deadline=None)
@given(outcomes())
def test_a_verdict_stands_whatever_the_missing_answers_were(pairs: list[tuple[Value, Value]]) -> None:
    """Every way to fill in what is missing, not only the two extremes that the rule looks at."""
    found = compared(pairs, margin=0.1)
    gone = [(number, side) for number, pair in enumerate(pairs) for side in (0, 1) if pair[side] is None]
    verdicts = set()
    for values in itertools.product((0.0, 1.0), repeat=len(gone)):
        filled = [list(pair) for pair in pairs]
        for (number, side), value in zip(gone, values, strict=True):
            filled[number][side] = value
        verdicts.add(decide(effect([(a or 0.0, b or 0.0) for a, b in filled]), 0.1))
    if found.verdict != "inconclusive":
        assert verdicts == {found.verdict}
    elif any(reason.code == "missing_decides" for reason in found.reasons):
        assert len(verdicts) > 1 or verdicts != {decide(found.gate.effect, 0.1)}
    else:
        assert verdicts == {"inconclusive"}


@settings(max_examples=60, deadline=None)
@given(outcomes(), st.sampled_from(FLOORS))
def test_too_little_coverage_never_decides(pairs: list[tuple[Value, Value]], floor: float) -> None:
    found = compared(pairs, floor=floor)
    scored = sum(None not in pair for pair in pairs) / len(pairs)
    assert math.isclose(found.coverage, scored)
    codes = [reason.code for reason in found.reasons]
    assert ("coverage" in codes) == (scored < floor)
    if scored < floor:
        assert found.verdict == "inconclusive"


@settings(max_examples=60, deadline=None)
@given(outcomes())
def test_an_undecided_comparison_says_in_its_sentence_what_would_decide(
    pairs: list[tuple[Value, Value]],
) -> None:
    found = compared(pairs)
    underpowered = [one.code for one in found.reasons if one.severity == "block"] == ["underpowered"]
    assert (found.more_items is not None) <= underpowered
    if found.more_items is not None:
        assert f"needs about {found.more_items} more items" in found.sentence
        assert found.more_items >= 1


def bar(lost: int, gained: int, n: int, margin: float) -> Bar:
    cells = [(1.0, 0.0)] * lost + [(0.0, 1.0)] * gained + [(1.0, 1.0)] * (n - lost - gained)
    return Bar(effect=effect(cells), margin=margin)


def effect(cells: Sequence[tuple[float, float]]) -> Effect | None:
    values = [
        PairedValue(control=control, candidate=candidate, cluster=f"{number}")
        for number, (control, candidate) in enumerate(cells)
    ]
    return paired_effect(values, alpha=ALPHA)


bars = st.builds(
    bar, st.integers(0, 20), st.integers(0, 20), st.integers(40, 120), st.sampled_from([0.0, 0.05, 0.2])
)


def holm_rejects(p: Sequence[float], place: int) -> bool:
    """Holm's procedure as it is written: step by step from the smallest, until one is too large."""
    order = sorted(range(len(p)), key=lambda k: p[k])
    for step, k in enumerate(order):
        if p[k] * (len(p) - step) >= ALPHA:
            return False
        if k == place:
            return True
    return False


@given(st.lists(bars, max_size=6))
def test_a_gate_fails_by_holms_procedure_and_passes_only_with_all_others(gates: list[Bar]) -> None:
    p = [1.0 if one.effect is None or one.effect.p_value is None else one.effect.p_value for one in gates]
    worse = [
        one.effect is not None and one.effect.upper < 0 and one.effect.lower <= -one.margin for one in gates
    ]
    fails = any(worse[k] and holm_rejects(p, k) for k in range(len(gates)))
    holds = [one.effect is not None and one.effect.lower > -one.margin for one in gates]
    expected = "fail" if fails else "pass" if gates and all(holds) else "inconclusive"
    assert decide_all(gates, ALPHA) == expected


@given(st.lists(bars, min_size=1, max_size=5), bars)
def test_a_further_gate_can_take_a_pass_away_and_never_give_one(gates: list[Bar], one: Bar) -> None:
    alone, beside = decide_all(gates, ALPHA), decide_all([*gates, one], ALPHA)
    assert beside != "pass" or alone == "pass"
    if beside == "fail" and decide(one.effect, one.margin) != "fail":
        assert alone == "fail", "a gate that is not worse makes no other one fail"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(30, 80), st.sampled_from([0.05, 0.1, 0.2]))
def test_as_many_more_items_as_it_says_of_the_same_kind_do_decide(
    lost: int, gained: int, n: int, margin: float
) -> None:
    found = bar(lost, gained, n, margin).effect
    assert found is not None
    assume(decide(found, margin) == "inconclusive")
    more = items_needed(found, n, margin)
    assume(more is not None)
    assert more is not None
    times = math.ceil(1.25 * (n + more) / n)  # the two pseudo-pairs weigh less among more items
    assert decide(bar(times * lost, times * gained, times * n, margin).effect, margin) != "inconclusive"
    if times > 3:  # and far fewer would not: the advice is no exaggeration
        few = max(1, times // 3)
        assert decide(bar(few * lost, few * gained, few * n, margin).effect, margin) == "inconclusive"
