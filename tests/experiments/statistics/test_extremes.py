"""At the ends of what can be: a billion units, the smallest p, arguments that no plan has."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from experiments.statistics import (
    allocation,
    confidence_sequence,
    contingency,
    counts,
    failures,
    mean,
    planning,
    predictable,
    quantiles,
    sample_ratio,
)
from experiments.statistics.estimate import StatisticsError
from experiments.statistics.moments import Moments

from .samples import HUGE


class TestSize:
    """No overflow and no made-up certainty at a billion units."""

    def test_a_billion_units(self) -> None:
        one, zero = (HUGE // 50, HUGE), (HUGE // 50 + 60_000, HUGE)
        assert contingency.wald_difference(one, zero).p is not None
        assert contingency.risk_ratio_interval(one, zero).interval is not None
        assert math.isfinite(float(failures.harm_log_e(HUGE, HUGE // 2, 0.5, ratio=1.25)))
        assert math.isfinite(float(sample_ratio.log_e([HUGE, HUGE + 1], (0.5, 0.5), concentration=100.0)))
        events = counts.Events(count=HUGE, exposure=1e12), counts.Events(count=HUGE + 10_000, exposure=1e12)
        assert counts.score_p(*events) is not None
        assert counts.e_test_p(*events) is None
        band = failures.rate_ratio_sequence(HUGE, HUGE, 0.5)
        assert 0.999 < band.lower < 1.0 < band.upper < 1.001
        assert confidence_sequence.log_e(1e4, HUGE, alpha=0.05, best_at=1e6) > 1e6
        assert sample_ratio.binomial_test(HUGE, HUGE).exact == pytest.approx(1.0, abs=1e-3)

    def test_p_far_below_the_smallest_float_keeps_its_logarithm(self) -> None:
        strong = mean.welch(
            Moments(n=HUGE, total=HUGE * 1.1, squares=HUGE * (1.21 + 1.0)),
            Moments(n=HUGE, total=float(HUGE), squares=HUGE * 2.0),
        )
        assert strong.p == 0.0
        assert strong.log_p is not None
        assert -1e7 < strong.log_p < -1e6


class TestWhatCannotBe:
    """Arguments that no plan has are refused by name; what data may hold never raises."""

    @pytest.mark.parametrize(
        "asked",
        [
            lambda: planning.units_for_shares(0.1, 0.02, ratio=0.0),
            lambda: planning.units_for_t(0.1, variance=-1.0),
            lambda: planning.more_units(math.nan, 100, 0.1),
            lambda: planning.more_units(0.1, 100, math.nan),
            lambda: planning.label_plan(0.8, label_cost=0.0, judge_cost=0.1, effective_n=100),
            lambda: planning.label_plan(0.8, label_cost=1.0, judge_cost=-0.1, effective_n=100),
            lambda: quantiles.subgaussian_quantile_sequence([1.0, 2.0], 1.9, best_at=100),
            lambda: predictable.stakes([0.5], alpha=0.0),
        ],
    )
    def test_it_is_refused(self, asked: Callable[[], object]) -> None:
        with pytest.raises(StatisticsError):
            asked()

    def test_a_mean_that_is_no_number_leads_nothing(self) -> None:
        arms = [allocation.Pulls(n=100, mean=mean_, variance=0.1) for mean_ in (math.nan, 0.2, math.inf, 0.4)]
        assert allocation.leader(arms) == 3
        assert allocation.leader(arms[:1]) == 0
        assert allocation.best_arm(arms).stop is False or allocation.best_arm(arms).winner == 3

    def test_the_power_of_billions_of_units_is_a_number(self) -> None:
        assert planning.power_of_t(4e9, 1e-4, variance=1.0) == pytest.approx(0.8854, abs=1e-3)
        assert planning.power_of_t(2.1e7, 1e-3, variance=1.0) == pytest.approx(
            planning.power_of_t(1.9e7, 1e-3 * math.sqrt(2.1 / 1.9), variance=1.0), abs=1e-6
        )

    def test_a_quantile_of_nothing_is_a_state(self) -> None:
        nothing = quantiles.summarise([], 0.95, units=[])
        assert nothing.status == "no_data"
        assert math.isnan(nothing.unit_variance)
        assert quantiles.quantile_estimate(nothing).status == "no_data"
