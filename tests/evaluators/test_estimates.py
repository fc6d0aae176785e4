"""The effect over items: what none of them has lost may be lost all the same, and few clusters are no many
items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.estimates import Effect, PairedValue, paired_effect
from experiments.statistics.bounded import BoundedClusters
from experiments.statistics.paired import Cluster, cluster_sums, independent_parts, paired_sums

differences = st.sampled_from((-1.0, -0.5, 0.0, 0.25, 1.0))
clusters = st.lists(
    st.lists(st.tuples(st.sampled_from((0.5, 1.0, 2.0)), differences), min_size=1, max_size=5),
    min_size=2,
    max_size=8,
)


def effect(found: Sequence[Sequence[float]], weights: Sequence[float] = (1.0,)) -> Effect:
    """Of clusters of differences; the weights in turn."""
    values = [
        PairedValue(control=max(0.0, -d), candidate=max(0.0, d), cluster=f"c{at}", weight=1.0)
        for at, cluster in enumerate(found)
        for d in cluster
    ]
    values = [
        PairedValue(
            control=one.control,
            candidate=one.candidate,
            cluster=one.cluster,
            weight=weights[at % len(weights)],
        )
        for at, one in enumerate(values)
    ]
    told = paired_effect(values, alpha=0.05)
    assert told is not None
    return told


@pytest.mark.parametrize(("lost", "n"), [(0, 72), (0, 20), (3, 100), (7, 60)])
def test_of_items_that_only_lose_it_is_the_exact_binomial(lost: int, n: int) -> None:
    from scipy import stats

    found = effect([[-1.0]] * lost + [[0.0]] * (n - lost))
    assert found.estimate == pytest.approx(-lost / n)
    assert found.lower == pytest.approx(-stats.beta.ppf(0.975, lost + 1, n - lost), abs=1e-3)


@given(st.lists(differences, min_size=2, max_size=40))
def test_items_that_stand_alone_are_told_as_a_shadows_users_are(found: list[float]) -> None:
    bounded = BoundedClusters.of(paired_sums(found), low=-1.0, high=1.0)
    assert bounded is not None
    ends = bounded.estimate(alpha=0.05).interval
    told = effect([[d] for d in found])
    assert ends is not None
    assert (told.lower, told.upper) == pytest.approx((ends.lower, ends.upper), abs=1e-6)


@given(clusters)
def test_clusters_are_made_of_one_part_to_as_many_as_they_have_pairs(
    found: list[list[tuple[float, float]]],
) -> None:
    parts = independent_parts(found)
    assert 1.0 <= parts <= max(map(len, found)) * 4.0
    bounded = BoundedClusters.of(cluster_sums(found), low=-1.0, high=1.0, parts=parts)
    assert bounded is not None
    assert 0.0 < bounded.n <= sum(map(len, found)) + 1e-9
    ends = bounded.estimate(alpha=0.05).interval
    assert ends is not None
    assert -1.0 <= ends.lower <= bounded.value + 1e-9
    assert bounded.value - 1e-9 <= ends.upper <= 1.0


def test_a_cluster_is_worth_as_many_items_as_were_seen_to_differ_apart() -> None:
    nothing: list[Cluster] = [[(1.0, 0.0)] * 4] * 10
    as_one: list[Cluster] = [[(1.0, float(k % 2))] * 4 for k in range(10)]
    apart: list[Cluster] = [[(1.0, float(k == at % 4)) for k in range(4)] for at in range(40)]
    assert independent_parts(nothing) == 1.0, "what was not seen to differ may be lost as one"
    assert independent_parts(as_one) == pytest.approx(1.0)
    assert independent_parts(apart) > 2.5
    assert independent_parts([[(3.0, 0.0)], [(1.0, 1.0)]]) == 1.0, "weights alone make no parts"
    assert independent_parts([]) == 1.0


def test_clusters_that_are_lost_whole_count_as_one_item_each() -> None:
    lost = [-float(k < 2) for k in range(12)]
    whole, single = effect([[one] * 5 for one in lost]), effect([[one] for one in lost])
    assert whole.estimate == single.estimate == pytest.approx(-1 / 6)
    assert whole.method == "paired-bounded"
    # Twelve clusters of five that answer as one say no more than twelve items.
    assert (whole.lower, whole.upper) == pytest.approx((single.lower, single.upper), abs=1e-6)


def test_items_that_differ_apart_from_their_clusters_are_worth_more_than_the_clusters() -> None:
    found = [[-1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0], *[[0.0] * 5] * 8] * 4
    apart, as_one = effect(found), effect([[math.fsum(one) / 5] for one in found])
    assert apart.lower > 0.7 * as_one.lower


def test_one_large_cluster_among_many_widens_the_interval() -> None:
    even = effect([[1.0]] * 98 + [[-1.0]] * 2)
    large = effect([[1.0]] * 98 + [[-1.0] * 2])
    assert even.estimate == large.estimate
    assert large.lower < even.lower


def test_heavy_items_are_fewer_items() -> None:
    found = [[-1.0], [0.0], [0.0], [1.0]] * 20
    equal, weighted = effect(found), effect(found, (1.0, 1.0, 1.0, 9.0, 1.0))
    assert weighted.upper - weighted.lower > equal.upper - equal.lower


def test_one_cluster_says_nothing_of_another() -> None:
    found = effect([[0.0] * 60])
    assert (found.lower, found.upper) == (-1.0, 1.0)
    assert not found.significant
