"""Quantiles from histograms against the same from all values."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from experiments.evidence import Histogram
from experiments.statistics.estimate import Estimate
from experiments.statistics.moments import Cluster
from experiments.statistics.quantiles import quantile_log_ratio, summarise
from experiments.verdict import sketch as sketches
from experiments.verdict.sketch import Phases, Sketch

RNG = np.random.default_rng(7)


def log_ratio(phases: Phases, level: float, *, alpha: float) -> Estimate:
    found = sketches.compared(sketches.within(phases, level))
    assert found is not None
    return found.estimate(alpha=alpha)


def levels(phases: Phases, level: float) -> tuple[float | None, float | None]:
    return sketches.levels(phases, sketches.within(phases, level), level)


def sketch(logs: np.ndarray, units: np.ndarray | None = None) -> Sketch:
    counted = Counter(int(x) for x in np.floor(logs * 1000))
    bins = tuple(sorted(counted))
    owners = np.arange(len(logs)) if units is None else units
    m = np.bincount(owners).astype(np.float64)
    y = np.bincount(owners, weights=logs)
    seen = m > 0
    cluster = Cluster.of(y[seen].astype(np.float64), m[seen])
    histogram = Histogram(
        metric="q", phase=1, arm="a", bins=bins, counts=tuple(counted[bin_] for bin_ in bins)
    )
    return Sketch(histogram=histogram, units=cluster)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_a_quantile_of_a_histogram_is_that_of_the_values_to_a_tenth_of_a_percent(level: float) -> None:
    logs = RNG.normal(6.0, 0.8, 20_000)
    assert sketch(logs).quantile(level) == pytest.approx(np.exp(np.quantile(logs, level)), rel=2e-3)


def test_independent_values_give_the_interval_of_order_statistics() -> None:
    one, zero = RNG.normal(6.1, 0.8, 8000), RNG.normal(6.0, 0.8, 8000)
    found = log_ratio([(sketch(one), sketch(zero))], 0.95, alpha=0.05)
    direct = quantile_log_ratio(summarise(list(np.exp(one)), 0.95), summarise(list(np.exp(zero)), 0.95))
    assert found.value == pytest.approx(direct.value, abs=2e-3)
    assert found.se == pytest.approx(direct.se, rel=0.1)


def test_the_exchanges_of_one_unit_count_for_less() -> None:
    units = np.repeat(np.arange(400), 20)
    logs = RNG.normal(0.0, 0.6, 400)[units] + RNG.normal(6.0, 0.5, 8000)
    dependent = sketch(logs, units)
    assert dependent.design_effect > 5.0
    wide = log_ratio([(dependent, dependent)], 0.95, alpha=0.05)
    narrow = log_ratio([(sketch(logs), sketch(logs))], 0.95, alpha=0.05)
    assert wide.se is not None
    assert narrow.se is not None
    assert wide.se > 1.8 * narrow.se


def test_intervals_of_sticky_units_cover() -> None:
    """Ten exchanges for each of 200 users in each arm, no difference: 95 % intervals, 300 experiments."""
    covered = 0
    for _ in range(300):
        units = np.repeat(np.arange(200), 10)
        arms = [
            sketch(RNG.normal(0.0, 0.5, 200)[units] + RNG.normal(6.0, 0.5, 2000), units) for _ in range(2)
        ]
        found = log_ratio([(arms[0], arms[1])], 0.95, alpha=0.05)
        assert found.interval is not None
        covered += 0.0 in found.interval
    assert covered >= 276  # 92 %: three standard errors below 95 %, were the interval exact


def test_too_little_is_said_and_nothing_is_made_up() -> None:
    none = Sketch(histogram=None, units=Cluster(n=0, y=0.0, m=0.0, yy=0.0, mm=0.0, ym=0.0))
    assert sketches.compared(sketches.within([(none, none)], 0.95)) is None
    few = sketch(RNG.normal(6.0, 0.8, 30))
    assert sketches.compared(sketches.within([(few, few)], 0.99)) is None
    assert levels([(none, none)], 0.5) == (None, None)
    assert levels([], 0.5) == (None, None)
    one, zero = levels([(few, none)], 0.5)
    assert one == few.quantile(0.5)
    assert zero is None


def test_phases_are_compared_within_themselves() -> None:
    """Everything is twice as slow in the second phase, where the candidate has more: no difference."""
    slow = math.log(2.0)
    first = (sketch(RNG.normal(6.0, 0.3, 1000)), sketch(RNG.normal(6.0, 0.3, 9000)))
    second = (sketch(RNG.normal(6.0 + slow, 0.3, 5000)), sketch(RNG.normal(6.0 + slow, 0.3, 5000)))
    found = log_ratio([first, second], 0.95, alpha=0.05)
    assert found.interval is not None
    assert 0.0 in found.interval
    assert abs(found.value or 0.0) < 0.05
    one, zero = levels([first, second], 0.95)
    assert one is not None
    assert zero is not None
    assert math.log(one / zero) == pytest.approx(found.value)  # pooled, the candidate seems a half slower
    assert levels([first], 0.95) == tuple(arm.quantile(0.95) for arm in first)


@pytest.mark.parametrize(("level", "slow"), [(0.95, 100), (0.5, 1000)])
def test_one_request_more_beyond_a_gap_is_no_evidence(level: float, slow: int) -> None:
    """An answer from a cache or not: of 2,000 requests two more or two fewer than the level are slow, so that
    one quantile is eight times the other, as it is in every other experiment of two equal versions."""

    def arm(beyond: int) -> Sketch:
        fast, late = RNG.normal(5.0, 0.1, 2000 - beyond), RNG.normal(5.0 + math.log(8.0), 0.1, beyond)
        return sketch(np.concatenate([fast, late]))

    found = sketches.compared(sketches.within([(arm(slow + 2), arm(slow - 2))], level))
    assert found is not None
    assert found.value > 1.0
    assert all(0.0 < found.z(null) < 0.5 for null in (0.0, math.log(1.1)))
    interval = found.estimate(alpha=0.05).interval
    assert interval is not None
    assert interval.lower < 0.0 < found.value < interval.upper
    clearly = log_ratio([(arm(slow + 150), arm(slow - 90))], level, alpha=0.05).interval
    assert clearly is not None
    assert clearly.lower > 1.5
