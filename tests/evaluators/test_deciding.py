"""What follows from several gates: all must hold to pass, and one that is surely worse fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.deciding import Bar, decide, decide_all, items_needed
from evaluators.estimates import PairedValue, paired_effect


def bar(lost: int, gained: int, n: int, margin: float = 0.1) -> Bar:
    """A gate of n items, of which the candidate lost some and gained others; the rest pass in both."""
    cells = [(1.0, 0.0)] * lost + [(0.0, 1.0)] * gained + [(1.0, 1.0)] * (n - lost - gained)
    values = [
        PairedValue(control=control, candidate=candidate, cluster=f"{number}")
        for number, (control, candidate) in enumerate(cells)
    ]
    return Bar(effect=paired_effect(values, alpha=0.05), margin=margin)


GOOD, BAD, UNSURE, EMPTY = bar(0, 2, 200), bar(40, 0, 200), bar(6, 2, 60), Bar(effect=None, margin=0.1)


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ([GOOD], "pass"),
        ([GOOD, GOOD], "pass"),
        ([BAD], "fail"),
        ([GOOD, BAD], "fail"),
        ([GOOD, UNSURE], "inconclusive"),
        ([GOOD, EMPTY], "inconclusive"),
        ([EMPTY], "inconclusive"),
        ([], "inconclusive"),
    ],
)
def test_all_gates_must_hold_and_one_may_fail(bars: list[Bar], expected: str) -> None:
    assert decide_all(bars, 0.05) == expected


def test_the_more_gates_the_surer_one_must_be_to_fail() -> None:
    """Holm: a single gate that is just worse fails alone, and not beside many that are not."""
    just = next(
        found for lost in range(1, 30) if decide_all([found := bar(lost, 0, 40, 0.0)], 0.05) == "fail"
    )
    assert decide_all([just, *[bar(1, 1, 40, 0.0)] * 30], 0.05) == "inconclusive"


@given(st.integers(0, 20), st.integers(0, 20), st.sampled_from([0.0, 0.05, 0.2]))
def test_one_gate_decides_as_it_would_alone(lost: int, gained: int, margin: float) -> None:
    found = bar(lost, gained, 60, margin)
    assert decide_all([found], 0.05) == decide(found.effect, margin)


@given(st.permutations([GOOD, BAD, UNSURE, GOOD]))
def test_the_order_of_gates_says_nothing(bars: list[Any]) -> None:
    assert decide_all(bars, 0.05) == "fail"


def test_a_smaller_margin_needs_more_items() -> None:
    effect = bar(4, 4, 60).effect
    assert effect is not None
    few, many = items_needed(effect, 60, 0.1), items_needed(effect, 60, 0.05)
    assert few is not None
    assert many is not None
    assert few < many
    assert items_needed(effect, 60, 0.0) is None, "no number of such items would decide it"
