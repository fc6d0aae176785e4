"""The effect over items in clusters: the jackknife is one, and few clusters are no many items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evaluators.estimates import Effect, PairedValue, paired_effect
from experiments.statistics.paired import (
    Cluster,
    clustered_difference,
    design_effect,
    jackknife_difference,
    paired_sums,
)

differences = st.sampled_from((-1.0, -0.5, 0.0, 0.25, 1.0))
clusters = st.lists(
    st.lists(st.tuples(st.sampled_from((0.5, 1.0, 2.0)), differences), min_size=1, max_size=5),
    min_size=2,
    max_size=8,
)


def mean(found: Sequence[Cluster]) -> float:
    pairs = [pair for cluster in found for pair in cluster]
    return math.fsum(weight * d for weight, d in pairs) / math.fsum(weight for weight, _ in pairs)


@given(clusters)
def test_the_standard_error_is_that_of_leaving_each_cluster_out(
    found: list[list[tuple[float, float]]],
) -> None:
    left_out = [mean([*found[:k], *found[k + 1 :]]) for k in range(len(found))]
    whole, count = mean(found), len(found)
    expected = math.sqrt((count - 1) / count * math.fsum((one - whole) ** 2 for one in left_out))
    assume(expected > 1e-6)
    estimate = jackknife_difference(found)
    assert estimate.value == pytest.approx(whole)
    assert estimate.se == pytest.approx(expected)


@given(st.lists(st.lists(differences, min_size=3, max_size=3), min_size=2, max_size=8))
def test_with_clusters_of_one_size_it_is_the_cluster_robust_t(found: list[list[float]]) -> None:
    plain = clustered_difference(
        paired_sums(
            [d for group in found for d in group], [k for k, group in enumerate(found) for _ in group]
        )
    )
    estimate = jackknife_difference([[(1.0, d) for d in group] for group in found])
    assert (estimate.interval is None) == (plain.interval is None)
    if plain.interval is not None and estimate.interval is not None:
        assert estimate.interval.lower == pytest.approx(plain.interval.lower)
        assert estimate.interval.upper == pytest.approx(plain.interval.upper)


def test_the_design_effect_is_how_many_items_a_cluster_is_worth() -> None:
    alone: list[Cluster] = [[(1.0, float(k % 2))] for k in range(10)]
    as_one: list[Cluster] = [[(1.0, float(k % 2))] * 4 for k in range(10)]
    assert design_effect(alone) == 1.0
    assert design_effect(as_one) == pytest.approx(4.0)
    assert design_effect([[(1.0, 0.0)] * 4] * 10) == 1.0, (
        "without a difference there is nothing to tell it by"
    )
    assert design_effect([]) == 1.0


def effect(lost: Sequence[bool], size: int) -> Effect:
    found = paired_effect(
        [
            PairedValue(control=1.0, candidate=0.0 if lost[k // size] else 1.0, cluster=f"c{k // size}")
            for k in range(size * len(lost))
        ],
        alpha=0.05,
    )
    assert found is not None
    return found


def test_clusters_that_are_lost_whole_count_as_one_item_each() -> None:
    lost = [k < 2 for k in range(12)]
    whole, single = effect(lost, 5), effect(lost, 1)
    assert whole.estimate == single.estimate == pytest.approx(-1 / 6)
    assert whole.method == "paired-t-jackknife-adjusted"
    # Twelve clusters of five that answer as one say no more than twelve items.
    assert whole.upper - whole.lower > 0.95 * (single.upper - single.lower)


def test_one_cluster_says_nothing_of_another() -> None:
    found = effect([False], 60)
    assert found.lower < -0.2
    assert not found.significant
