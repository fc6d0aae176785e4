"""A candidate that is worse by exactly the margin passes no more often than was promised: of yes-or-no items
to the last table, of other shapes in seeded simulations (`python -m bench.golden_margin` has the grid)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy import stats

from bench.golden_margin import SHAPES, in_clusters, passed
from experiments.statistics.bounded import BoundedClusters
from experiments.statistics.estimate import quantile
from experiments.statistics.paired import PairTable, bonett_price


def passes(n: int, lost: int, gained: int, margin: float) -> bool:
    table = PairTable(both=n - lost - gained, control_only=lost, candidate_only=gained, neither=0)
    bounded = BoundedClusters.of(table.sums, low=-1.0, high=1.0)
    return bounded is not None and bounded.z(-margin) > quantile(0.975)


def as_bonett_and_price(n: int, lost: int, gained: int, margin: float) -> bool:
    table = PairTable(both=n - lost - gained, control_only=lost, candidate_only=gained, neither=0)
    interval = bonett_price(table).interval
    return interval is not None and interval.lower > -margin


def gains_needed(rule: Callable[[int, int, int, float], bool], n: int, margin: float) -> Iterator[int]:
    """With no item lost, with one, ...: so many must be gained to pass."""
    gained = 0
    for lost in range(n // 3):
        while not rule(n, lost, gained, margin):
            gained += 1
            if lost + gained > n:
                return
        yield gained


def chance(rule: Callable[[int, int, int, float], bool], n: int, margin: float, drop: float) -> float:
    """The chance that a candidate worse by `drop` passes, where it differs in as many items as is worst."""
    needed = list(gains_needed(rule, n, margin))

    def of(differing: float) -> float:
        lose, gain = (differing + drop) / 2.0, (differing - drop) / 2.0
        lost = stats.binom.pmf(range(len(needed)), n, lose)
        enough = [stats.binom.sf(g - 1, n - k, gain / (1.0 - lose)) for k, g in enumerate(needed)]
        return float(np.dot(lost, enough))

    return max(of(drop * more) for more in (1.0, 1.1, 1.2, 1.3, 1.5, 1.8, 2.2, 3.0, 4.0))


@pytest.mark.parametrize("n", [40, 60, 80, 150, 300])
@pytest.mark.parametrize("margin", [0.05, 0.1])
def test_of_yes_or_no_items_three_in_a_hundred_pass_at_the_margin_and_no_more(n: int, margin: float) -> None:
    assert chance(passes, n, margin, margin) <= 0.031


def test_where_twice_as_many_did() -> None:
    assert chance(as_bonett_and_price, 60, 0.1, 0.1) > 0.05
    assert chance(passes, 60, 0.1, 0.1) < 0.025


@pytest.mark.parametrize("name", ["some lost whole, the rest vary a little", "graded 1 to 5"])
def test_of_graded_items_no_more_than_that_pass_either(name: str) -> None:
    ours, _ = passed(np.random.default_rng(1), SHAPES[name], 80, 1, 0.1, 0.1, 250)
    assert ours <= 0.035 + 2.0 * (0.035 * 0.965 / 250) ** 0.5


@pytest.mark.parametrize("common", [0.5, 1.0])
def test_of_clusters_that_are_lost_as_one_no_more_than_that_pass(common: float) -> None:
    """Forty of three: by the t with a pseudo-item of each direction a tenth passed."""
    ours, _ = passed(np.random.default_rng(2), in_clusters(3, common, 0.0), 120, 3, 0.05, 0.05, 300)
    assert ours == 0.0, "forty clusters cannot show five points"
    ours, _ = passed(np.random.default_rng(3), in_clusters(3, common, 0.05), 120, 3, 0.1, 0.1, 300)
    assert ours <= 0.035 + 2.0 * (0.035 * 0.965 / 300) ** 0.5
