"""Do tests of units of unequal sizes, and of few units, keep their level? Seeded simulations of `compare`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.operating import uneven
from experiments.statistics.moments import Cluster
from experiments.statistics.strata import MeanStratum, mean_contrast
from experiments.verdict.sketch import Sketch, within


def at_most(nominal: float, runs: int) -> float:
    return nominal + 3.0 * math.sqrt(nominal * (1.0 - nominal) / runs)


@pytest.mark.parametrize("case", uneven.CASES, ids=lambda case: case.name)
def test_equal_versions_are_rarely_told_apart_whatever_the_units_sizes(case: uneven.Case) -> None:
    same = uneven.costs(case, runs=300)
    assert same.better <= at_most(0.025, 300)
    assert same.worse <= at_most(0.025, 300)
    worse = uneven.costs(case, factor=1.1, runs=300)
    assert worse.safe <= at_most(0.05, 300)


def test_a_quantile_of_few_units_does_not_miss_the_slow_ones() -> None:
    """Of 100 units on the candidate three are slow, or none or six: that is 5 % of the requests, or not."""
    same = uneven.quantiles("latency.p95", units=2000, share=0.05, runs=100)
    assert same.better <= at_most(0.025, 100)
    worse = uneven.quantiles("latency.p95", units=2000, share=0.05, factor=1.1, runs=100)
    assert worse.safe <= at_most(0.05, 100)


@pytest.mark.parametrize("case", uneven.CASES[:4], ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["latency", "latency_mean", "tokens_per_second"])
def test_a_shadow_of_equal_versions_is_rarely_told_apart_whatever_the_units_sizes(
    name: str, case: uneven.Case
) -> None:
    same = uneven.shadows(name, case, runs=200, seed=34)
    assert same.better <= at_most(0.025, 200)
    assert same.worse <= at_most(0.025, 200)
    worse = uneven.shadows(name, case, factor=1.0 / 0.9, runs=200, seed=34)
    assert worse.safe <= at_most(0.05, 200)


def test_a_quantile_of_pairs_is_not_that_of_one_unit() -> None:
    same = uneven.shadows("latency.p50", uneven.CASES[1], runs=40)
    assert (same.better, same.worse) == (0.0, 0.0)


def cluster(y: list[float], m: list[float]) -> Cluster:
    return Cluster.of(np.array(y), np.array(m))


def test_units_of_one_size_are_compared_as_ever() -> None:
    random = np.random.default_rng(5)
    arms = [cluster(random.normal(5.0, 1.0, 80).tolist(), [3.0] * 80) for _ in range(2)]
    assert all(math.isclose(arm.missed, 1.0) and arm.worth == 80 for arm in arms)
    found = mean_contrast([MeanStratum(candidate=arms[0], control=arms[1])])
    assert found.se == pytest.approx(math.sqrt(sum(arm.variance for arm in arms)))


def test_what_a_large_units_residual_misses_is_told_from_the_sums() -> None:
    """Units of which all requests are alike: over many draws the widened variance is the truth."""
    random, m = np.random.default_rng(6), np.array([60.0, *([1.0] * 59)])
    draws = random.normal(size=(4000, 60))
    ratios, variances = [], []
    for mu in draws:
        one = cluster((mu * m).tolist(), m.tolist())
        ratios.append(one.ratio)
        variances.append(one.variance * one.missed)
    assert np.mean(variances) == pytest.approx(np.var(ratios), rel=0.1)
    assert one.worth == pytest.approx(119.0**2 / 3659.0)


def test_an_arm_with_one_unit_that_has_all_says_nothing_and_fails_nowhere() -> None:
    whale = cluster([1e9, 1.0, 1.0], [1e9, 1.0, 1.0])
    rest = cluster([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0])
    found = mean_contrast([MeanStratum(candidate=whale, control=rest)])
    assert found.interval is None or found.interval.lower < found.interval.upper
    nobody = Sketch(histogram=None, units=cluster([], []))
    assert within([(nobody, nobody)], 0.95) == [None]
