"""E-values grow only against the null: their expectation under it is one, and their bands hold the mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics import evalues, mixtures, predictable


class TestEValues:
    def test_calibration_survives_p_far_below_the_smallest_float(self) -> None:
        assert evalues.p_to_log_e(-5000.0) == pytest.approx(5000.0 - 2.0 * math.log(5000.0), rel=1e-9)
        assert evalues.p_to_log_e(0.0) == pytest.approx(math.log(0.5))
        assert evalues.p_to_log_e(-1e-3) == pytest.approx(evalues.p_to_log_e(-1.0001e-4), abs=1e-3)
        assert evalues.e_to_p(1e9) == 0.0
        assert evalues.e_to_p(-3.0) == 1.0

    def test_calibrators_and_mixtures_have_expectation_one_under_the_null(self) -> None:
        # Over s = -ln p the calibrator times p falls as 1 / s^2: what lies beyond the grid is 1 / its end.
        grid = np.geomspace(1e-6, 1e5, 20_001)
        of_s = np.exp([evalues.p_to_log_e(-float(value)) - value for value in grid])
        assert np.trapezoid(of_s, grid) + 1e-5 == pytest.approx(1.0, abs=1e-3)
        x = np.linspace(-60.0, 60.0, 200_001)
        density = stats.norm.pdf(x, scale=5.0)
        for mixture in (
            mixtures.NormalMixture(rho=7.0),
            mixtures.NormalMixture(rho=7.0, one_sided=True),
        ):
            e = np.exp([mixture.log_value(float(s), 25.0) for s in x[::100]])
            assert np.trapezoid(e * density[::100], x[::100]) == pytest.approx(1.0, abs=1e-4)
        log_e = evalues.msprt_log_e(x, 25.0, sigma=1.0, tau=0.3)
        assert np.trapezoid(np.exp(log_e) * density, x) == pytest.approx(1.0, abs=1e-6)

    def test_the_beta_mixture_is_a_martingale_on_bernoulli_counts(self) -> None:
        p, n = 0.3, 40
        mixture = mixtures.BetaBinomial.tuned(p * (1 - p) * 20, g=p, h=1 - p)
        counted = np.arange(n + 1)
        e = np.exp([mixture.log_value(float(k - n * p), p * (1 - p) * n) for k in counted])
        assert float(e @ stats.binom.pmf(counted, n, p)) == pytest.approx(1.0, abs=1e-9)

    def test_the_safe_table_is_an_e_variable_under_equal_shares(self) -> None:
        total = 0.0
        blocks = 5
        for outcome in range(4**blocks):
            y1 = [(outcome >> (2 * k)) & 1 for k in range(blocks)]
            y0 = [(outcome >> (2 * k + 1)) & 1 for k in range(blocks)]
            ones = sum(y1) + sum(y0)
            chance = 0.3**ones * 0.7 ** (2 * blocks - ones)
            total += chance * math.exp(float(evalues.safe_two_by_two_log_e(y1, y0)[-1]))
        assert 0.5 < total <= 1.0 + 1e-12

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40), st.floats(0.05, 0.95))
    def test_betting_capital_is_a_martingale_in_its_last_step(self, values: list[float], m: float) -> None:
        # With the next value's mean at m, the two bettors' capital does not grow on average.
        here = np.exp(predictable.betting_log_capital(values, m, hedge=True)[-1])
        low, high = (
            math.exp(float(predictable.betting_log_capital([*values, v], m, hedge=True)[-1]))
            for v in (0.0, 1.0)
        )
        assert (1.0 - m) * low + m * high == pytest.approx(here, rel=1e-9)

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=60))
    def test_bounded_sequences_are_ordered_and_hold_the_mean(self, values: list[float]) -> None:
        for found in (predictable.empirical_bernstein(values), predictable.hoeffding(values)):
            assert np.all(found.lower <= found.upper + 1e-12)
        whole = predictable.betting_interval(values)
        grid = predictable.betting_sequence(values, breaks=200)
        assert whole.lower <= np.mean(values) <= whole.upper
        assert grid.lower[-1] <= whole.lower + 0.011
        assert grid.upper[-1] >= whole.upper - 0.011

    def test_the_regression_t_reaches_its_radius_at_alpha(self) -> None:
        g = evalues.best_g(n=200, coefficients=5, alpha=0.05)
        radius = evalues.regression_t_radius(n=200, coefficients=5, g=g, alpha=0.05)
        assert evalues.regression_t_log_e(radius, n=200, coefficients=5, g=g) == pytest.approx(math.log(20.0))
        assert evalues.regression_t_radius(n=6, coefficients=5, g=g, alpha=1e-6) == math.inf
