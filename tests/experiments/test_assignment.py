"""A unit keeps its arm; a ramp moves units one way only."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.assignment import (
    CONTROL,
    PPM,
    AssignmentError,
    arm_at,
    initial_ranges,
    point,
    reweigh,
    unit_id,
)

UNITS = [unit_id(f"user-{n}") for n in range(100_000)]


def test_golden_vectors_hold_on_every_python_and_in_every_release() -> None:
    names = ("ada", "grace", "", "ü", "\ud800")
    assert unit_id("ada") == "fdee430d40bd57de"
    assert [point("salt", unit_id(n)) for n in names] == [558497, 883575, 660181, 852852, 544159]


def test_ramp_from_5_to_50_moves_45_percent_of_units_and_none_back() -> None:
    before = initial_ranges({"candidate": 50_000})
    after = reweigh(before, {"candidate": 500_000})
    moves = {"to": 0, "back": 0}
    for unit in UNITS:
        at = point("exp", unit)
        pair = arm_at(before, at), arm_at(after, at)
        moves["to"] += pair == (CONTROL, "candidate")
        moves["back"] += pair == ("candidate", CONTROL)
    assert moves["back"] == 0
    assert abs(moves["to"] / len(UNITS) - 0.45) < 0.005


def test_splits_with_different_salts_are_independent() -> None:
    half = initial_ranges({"candidate": PPM // 2})
    same = sum(arm_at(half, point("a", u)) == arm_at(half, point("b", u)) for u in UNITS)
    assert abs(same / len(UNITS) - 0.5) < 0.01


def test_sql_over_the_ledger_gives_the_same_points() -> None:
    bits = "('0x' || substr(sha256(? || ':' || ?), 1, 15))::UBIGINT::HUGEINT"
    query = f"SELECT ({bits} * 1000000) // (1::HUGEINT << 60)"
    with duckdb.connect() as database:
        for unit in UNITS[:50]:
            assert database.execute(query, ["salt", unit]).fetchone() == (point("salt", unit),)


ARMS = ("candidate", "candidate-2", "candidate-3")
WEIGHTS = st.lists(st.integers(0, PPM), min_size=3, max_size=3).map(
    lambda cuts: dict(
        zip(ARMS, [b - a for a, b in zip([0, *sorted(cuts)], sorted(cuts), strict=False)], strict=False)
    )
)


def overlap(a, b) -> int:
    return sum(max(0, min(x[1], y[1]) - max(x[0], y[0])) for x in a for y in b)


@settings(max_examples=200)
@given(st.lists(WEIGHTS, min_size=1, max_size=5))
def test_ranges_always_partition_and_movement_is_the_least(ramp) -> None:
    ranges = initial_ranges({})
    for weights in ramp:
        former, ranges = ranges, reweigh(ranges, weights)
        pieces = sorted(part for owned in ranges.values() for part in owned)
        edges = [0, *(high for _, high in pieces)]
        assert [low for low, _ in pieces] == edges[:-1]
        assert edges[-1] == PPM
        for arm, weight in weights.items():
            assert sum(high - low for low, high in ranges[arm]) == weight
            size = sum(high - low for low, high in former.get(arm, ()))
            assert overlap(former.get(arm, ()), ranges[arm]) >= min(size, weight)
        grown = {a: w - sum(h - low for low, h in former.get(a, ())) for a, w in weights.items()}
        control = sum(high - low for low, high in former[CONTROL])
        if sum(g for g in grown.values() if g > 0) <= control:
            for a in weights:
                for b in weights:
                    assert a == b or overlap(former.get(a, ()), ranges[b]) == 0


@pytest.mark.parametrize(
    "weights", [{"candidate": -1}, {"candidate": PPM + 1}, {"a": 600_000, "b": 600_000}, {CONTROL: 1}]
)
def test_impossible_weights_are_refused(weights) -> None:
    with pytest.raises(AssignmentError):
        initial_ranges(weights)
