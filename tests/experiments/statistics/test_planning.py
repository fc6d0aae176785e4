"""How many units a trial needs, to which arm they go, and what is lost by taking the other one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from experiments.statistics import allocation, bayes, group_sequential, planning
from experiments.statistics.moments import Moments


class TestPlanning:
    @settings(deadline=None, max_examples=25)
    @given(st.floats(0.05, 0.9), st.floats(0.01, 0.08), st.sampled_from([0.7, 0.8, 0.95]))
    def test_the_units_have_the_power(self, control: float, rise: float, power: float) -> None:
        n = planning.units_for_shares(control, rise, power=power)
        assert planning.power_of_shares(n, control, rise) == pytest.approx(power, abs=1e-4)
        total = planning.units_for_t(rise, variance=0.2, power=power)
        assert planning.power_of_t(total, rise, variance=0.2) == pytest.approx(power, abs=1e-6)
        back = planning.detectable_by_t(total, variance=0.2, power=power)
        assert back == pytest.approx(rise, rel=1e-5)

    def test_looks_cost_what_the_literature_says(self) -> None:
        for looks, cost in ((5, 1.025), (10, 1.038), (20, 1.046)):
            fractions = [(k + 1) / looks for k in range(looks)]
            assert group_sequential.inflation(fractions) == pytest.approx(cost, abs=0.001)

    @pytest.mark.parametrize("sides", [1, 2])
    @pytest.mark.parametrize("power", [0.501, 0.9999, 1 - 1e-6])  # the last: 0.9999 shared by a hundred
    @pytest.mark.parametrize("alpha", [1e-11, 1e-6, 0.499])
    def test_looks_cost_little_with_any_risk(self, alpha: float, power: float, sides: int) -> None:
        fractions = [0.2, 0.4, 0.6, 0.8, 1.0]
        cost = group_sequential.inflation(fractions, alpha=alpha, power=power, sides=sides)
        assert 1.0 - 1e-4 < cost < 1.4

    def test_longer_running_reaches_the_power(self) -> None:
        more = planning.more_units(0.02, 1000, 0.03)
        assert more.factor is not None
        assert planning.detectable(0.02 / math.sqrt(1.0 + more.factor)) == pytest.approx(0.03, rel=1e-4)
        assert planning.more_units(0.001, 1000, 0.03).factor == 0.0
        assert planning.more_units(1.0, 1000, 1e-9).factor is None
        sequential = planning.more_units(0.02, 1000, 0.03, best_at=2000)
        assert sequential.factor is not None
        assert sequential.factor > more.factor

    def test_guardrails_keep_alpha_and_share_the_error_of_power(self) -> None:
        found = planning.allocate_risks(2, 3)
        assert (found.alpha_success, found.alpha_guardrail) == (0.025, 0.05)
        assert found.power == pytest.approx(0.95)
        assert planning.allocate_risks(1, 0).power == pytest.approx(0.8)
        assert planning.allocate_risks(0, 4).power == pytest.approx(0.95)


class TestAllocation:
    @settings(deadline=None, max_examples=20)
    @given(st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=5), st.sampled_from(["maximise", "minimise"]))
    def test_shares_are_shares_and_the_best_arm_has_its_half(self, means: list[float], goal: str) -> None:
        arms = [Moments(n=4000, total=4000 * m, squares=4000 * (m * m + 0.01)) for m in means]
        found = allocation.thompson(arms, goal="minimise" if goal == "minimise" else "maximise", draws=2000)
        assert sum(found.shares) == pytest.approx(1.0)
        assert min(found.shares) >= allocation.FLOOR - 1e-12
        ordered = sorted(means, reverse=goal == "maximise")
        if abs(ordered[0] - ordered[1]) > 0.05:
            best = means.index(ordered[0])
            assert found.top_two[best] == pytest.approx(0.5, abs=0.01)

    def test_floors_that_do_not_fit_are_equal_shares(self) -> None:
        assert allocation.floored([1.0, 0.0, 0.0], 0.5) == [1 / 3] * 3
        assert allocation.floored([], 0.1) == []
        assert sum(allocation.floored([0.9, 0.1], 0.05)) == pytest.approx(1.0)

    def test_draws_and_quadrature_agree(self) -> None:
        arms = [Moments(n=200, total=200 * m, squares=200 * (m * m + 1.0)) for m in (0.0, 0.05, 0.1)]
        drawn = allocation.thompson(arms, draws=200_000).best
        means, sds = [a.mean for a in arms], [math.sqrt(a.variance / 200) for a in arms]
        nodes, weights = np.polynomial.hermite_e.hermegauss(200)
        exact = []
        for i, (m, sd) in enumerate(zip(means, sds, strict=True)):
            others = [j for j in range(3) if j != i]
            below = np.prod([ndtr((m + sd * nodes - means[j]) / sds[j]) for j in others], axis=0)
            exact.append(float(weights @ below) / math.sqrt(2.0 * math.pi))
        assert drawn == pytest.approx(exact, abs=0.005)

    def test_of_two_arms_both_are_always_among_the_best_two(self) -> None:
        """Why an experiment with one candidate has no use for top-two sampling (ADR 20)."""
        for far in (0.0, 0.1, 10.0):
            arms = [Moments(n=200, total=200 * m, squares=200 * (m * m + 1.0)) for m in (0.0, far)]
            assert allocation.thompson(arms).shares == (0.5, 0.5)

    def test_two_arms_share_by_their_spread(self) -> None:
        arms = [
            allocation.Pulls(n=20, mean=0.5, variance=0.1),
            allocation.Pulls(n=20, mean=0.7, variance=0.4),
        ]
        assert allocation.optimal_shares(arms) == pytest.approx([1 / 3, 2 / 3], abs=1e-4)

    def test_the_propensity_takes_the_bias_of_following_out(self) -> None:
        rng = np.random.default_rng(8)
        plain, weighted = [], []
        for _ in range(400):
            y = (rng.random((2, 100)) < 0.5).astype(float)
            first = rng.random(100) < 0.5
            better = y[0][first].mean() > y[0][~first].mean()
            share = 0.9 if better else 0.1
            second = rng.random(100) < share
            outcomes = np.concatenate([y[0][first], y[1][second]])
            weights = np.concatenate([np.full(first.sum(), 0.5), np.full(second.sum(), share)])
            plain.append(outcomes.mean())
            found = allocation.weighted_mean(allocation.weighted_sums(outcomes, weights))
            weighted.append(found.value)
        assert np.mean(plain) < 0.496
        assert abs(np.mean(weighted) - 0.5) < 0.005


class TestPosteriors:
    @given(st.floats(-5.0, 5.0), st.floats(0.01, 10.0))
    def test_losses_differ_by_the_mean_and_the_flat_interval_is_the_fixed_one(
        self, value: float, se: float
    ) -> None:
        found = bayes.posterior(value, se)
        assert found is not None
        kept, taken = found.expected_loss
        assert kept - taken == pytest.approx(value, abs=1e-9)
        assert found.interval().upper == pytest.approx(value + 1.959963984540054 * se)
        pulled = bayes.posterior(value, se, prior=bayes.Posterior(mean=0.0, sd=1.0))
        assert pulled is not None
        assert abs(pulled.mean) <= abs(value)

    def test_nothing_follows_from_no_standard_error(self) -> None:
        assert bayes.posterior(1.0, 0.0) is None
        assert bayes.posterior(math.nan, 1.0) is None
