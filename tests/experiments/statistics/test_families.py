"""What must hold of every family of metrics, whatever the numbers: signs, scales, order, states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics import (
    counts,
    covariate,
    failures,
    mean,
    noninferiority,
    paired,
    paired_scores,
    quantiles,
    ranks,
)
from experiments.statistics.bounded import BoundedClusters
from experiments.statistics.estimate import Estimate, Interval
from experiments.statistics.moments import Cluster
from experiments.statistics.paired import PairTable

from .samples import full, moments, near, number, sample, sound, turned


def adjusted(rows: list[tuple[float, float]]) -> covariate.Adjusted:
    post, pre = [row[0] for row in rows], [row[1] for row in rows]
    return covariate.Adjusted(post=moments(post), pre=moments(pre), cross=math.fsum(a * b for a, b in rows))


def quantile_of(one: list[float], zero: list[float]) -> Estimate:
    return quantiles.quantile_difference(quantiles.summarise(one, 0.5), quantiles.summarise(zero, 0.5))


DIFFERENCES: dict[str, Callable[[list[float], list[float]], Estimate]] = {
    "welch": lambda one, zero: mean.welch(moments(one), moments(zero)),
    "median": quantile_of,
    "shift": ranks.shift_interval,
}


class TestDifferences:
    @pytest.mark.parametrize("name", DIFFERENCES)
    @settings(deadline=None, max_examples=60)
    @given(one=sample, zero=sample)
    def test_swapping_the_arms_flips_the_sign(self, name: str, one: list[float], zero: list[float]) -> None:
        there, back = DIFFERENCES[name](one, zero), DIFFERENCES[name](zero, one)
        sound(there)
        assert there.status == back.status
        near(there.interval, turned(back.interval), abs_=1e-3)

    @pytest.mark.parametrize("name", DIFFERENCES)
    @settings(deadline=None, max_examples=40)
    @given(one=full, zero=full, factor=st.sampled_from([0.25, 4.0, 1024.0]))
    def test_scaling_a_metric_scales_estimate_and_interval(
        self, name: str, one: list[float], zero: list[float], factor: float
    ) -> None:
        plain = DIFFERENCES[name](one, zero)
        scaled = DIFFERENCES[name]([v * factor for v in one], [v * factor for v in zero])
        assert plain.status == scaled.status
        if plain.interval is not None and plain.value is not None:
            assert scaled.value == pytest.approx(plain.value * factor, abs=1e-3 * factor)
            near(
                scaled.interval,
                Interval(
                    lower=plain.interval.lower * factor, upper=plain.interval.upper * factor, level=0.95
                ),
                abs_=1e-3 * factor,
            )

    @pytest.mark.parametrize("name", DIFFERENCES)
    @settings(deadline=None, max_examples=40)
    @given(one=full, zero=full, constant=st.sampled_from([-7.0, 128.0]))
    def test_adding_a_constant_leaves_differences(
        self, name: str, one: list[float], zero: list[float], constant: float
    ) -> None:
        plain = DIFFERENCES[name](one, zero)
        moved = DIFFERENCES[name]([v + constant for v in one], [v + constant for v in zero])
        assert plain.status == moved.status
        near(plain.interval, moved.interval, rel=1e-5, abs_=1e-3)

    @pytest.mark.parametrize("name", DIFFERENCES)
    @settings(deadline=None, max_examples=30)
    @given(one=full, zero=full, random=st.randoms())
    def test_the_order_of_arrival_inside_a_look_does_not_matter(
        self, name: str, one: list[float], zero: list[float], random: Random
    ) -> None:
        mixed = random.sample(one, len(one)), random.sample(zero, len(zero))
        near(DIFFERENCES[name](one, zero).interval, DIFFERENCES[name](*mixed).interval, rel=1e-9, abs_=1e-6)

    @pytest.mark.parametrize("name", DIFFERENCES)
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_what_is_no_finite_number_has_a_state(self, name: str, bad: float) -> None:
        found = DIFFERENCES[name]([1.0, bad, 3.0] * 40, [1.0, 2.0, 4.0] * 40)
        assert found.status in ("not_finite", "no_data", "insufficient_resolution", "ok")
        if found.status == "ok":
            # Order statistics and ranks may bear an infinite value far from where they look.
            sound(found, infinite=True)
            assert not math.isnan(bad)


class TestCovariates:
    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.tuples(number, number), max_size=15), st.lists(st.tuples(number, number), max_size=15))
    def test_swapping_and_states(
        self, one: list[tuple[float, float]], zero: list[tuple[float, float]]
    ) -> None:
        there, back = (
            covariate.cuped(adjusted(one), adjusted(zero)),
            covariate.cuped(adjusted(zero), adjusted(one)),
        )
        sound(there)
        assert there.status == back.status
        near(there.interval, turned(back.interval), abs_=1e-5)

    def test_a_good_covariate_narrows_the_interval_and_a_useless_one_hardly_widens_it(self) -> None:
        rng = np.random.default_rng(1)
        pre = rng.normal(size=(2, 400))
        useful = pre + 0.3 * rng.normal(size=(2, 400))
        for post, ratio in ((useful, (0.0, 0.5)), (rng.normal(size=(2, 400)), (0.98, 1.02))):
            arms = [adjusted(list(zip(post[i].tolist(), pre[i].tolist(), strict=True))) for i in (0, 1)]
            plain = mean.welch(arms[0].post, arms[1].post)
            found = covariate.cuped(*arms)
            assert found.se is not None
            assert plain.se is not None
            assert ratio[0] <= found.se / plain.se <= ratio[1]

    def test_ratios_without_a_covariate_are_plain_ratios(self) -> None:
        rng = np.random.default_rng(2)
        rows = rng.gamma(3.0, 1.0, size=(2, 4, 60))
        arms, plain = [], []
        for arm in rows:
            arms.append(
                covariate.AdjustedRatio(
                    n=60,
                    means=tuple(arm.mean(axis=1).tolist()),
                    covariances=tuple(tuple(row) for row in np.cov(arm).tolist()),
                )
            )
            y, m = arm[0], arm[1]
            plain.append(Cluster(n=60, y=y.sum(), m=m.sum(), yy=y @ y, mm=m @ m, ym=y @ m))
        found = covariate.cuped_ratio(*arms, theta=0.0)
        near(found.interval, mean.ratio_difference(*plain).interval, rel=1e-9, abs_=1e-9)


class TestCounts:
    events = st.builds(
        counts.Events, count=st.integers(0, 3_000), exposure=st.sampled_from([0.0, 1.0, 250.0, 1e9])
    )

    @settings(deadline=None, max_examples=80)
    @given(events, events)
    def test_swapping_the_arms_inverts_the_ratio(self, one: counts.Events, zero: counts.Events) -> None:
        for method in ("exact", "mid-p", "score", "wald", "mover"):
            there = counts.compare_rates(one, zero, method=method)
            back = counts.compare_rates(zero, one, method=method)
            sound(there, infinite=True)
            assert there.status == back.status
            if there.interval is None or back.interval is None or method == "mover":
                continue
            assert there.interval.lower * back.interval.upper == pytest.approx(1.0, rel=1e-5) or (
                there.interval.lower == 0.0 and back.interval.upper == math.inf
            )

    def test_exact_p_and_interval_say_the_same(self) -> None:
        one, zero = counts.Events(count=14, exposure=1000), counts.Events(count=60, exposure=9000)
        interval = counts.exact_interval(one, zero)
        assert interval is not None
        for ratio in (interval.lower, interval.upper):
            share = ratio * 1000 / (ratio * 1000 + 9000)
            tails = (stats.binom.sf(13, 74, share), stats.binom.cdf(14, 74, share))
            assert min(tails) == pytest.approx(0.025, rel=1e-6)

    def test_no_control_events_leave_the_ratio_open(self) -> None:
        one, zero = counts.Events(count=7, exposure=1000), counts.Events(count=0, exposure=9000)
        for method in (counts.exact_interval, counts.mid_p_interval, counts.score_interval):
            interval = method(one, zero)
            assert interval is not None
            assert interval.upper == math.inf
            assert interval.lower > 1.0

    def test_the_anytime_ratio_holds_the_fixed_one(self) -> None:
        band = failures.rate_ratio_sequence(14, 60, 0.1)
        fixed = counts.exact_interval(
            counts.Events(count=14, exposure=1000), counts.Events(count=60, exposure=9000)
        )
        assert fixed is not None
        assert band.lower < fixed.lower
        assert fixed.upper < band.upper
        assert failures.rate_ratio_sequence(0, 0, 0.3).upper == math.inf
        assert failures.rate_ratio_sequence(0, 9, 0.3).lower == 0.0
        assert failures.rate_ratio_sequence(9, 0, 0.3).upper == math.inf

    def test_the_band_on_the_ratio_ends_where_the_e_process_crosses(self) -> None:
        band = failures.rate_ratio_sequence(30, 40, 0.2, alpha=0.05)
        for ratio in (band.lower, band.upper):
            edge = failures.tolerated_share(0.2, ratio)
            prior = failures.CONCENTRATION
            log_e = float(
                stats.betabinom.logpmf(30, 70, prior * 0.2, prior * 0.8) - stats.binom.logpmf(30, 70, edge)
            )
            assert log_e == pytest.approx(math.log(20.0), abs=1e-6)


class TestRanks:
    @settings(deadline=None, max_examples=50)
    @given(full, full)
    def test_agrees_with_scipy(self, one: list[float], zero: list[float]) -> None:
        found = ranks.brunner_munzel(one, zero)
        share = ranks.superiority(one, zero)
        assert share is not None
        wins = np.subtract.outer(one, zero)
        assert share == pytest.approx(float((wins > 0).mean() + 0.5 * (wins == 0).mean()))
        if found is not None:
            other = stats.brunnermunzel(one, zero)
            assert found.statistic == pytest.approx(other.statistic, rel=1e-9, abs=1e-9)
            assert found.p == pytest.approx(other.pvalue, rel=1e-6, abs=1e-12)
            assert share in found.interval
        test = ranks.mann_whitney(one, zero)
        if test is not None:
            expected = stats.mannwhitneyu(one, zero, method="asymptotic")
            assert test.p == pytest.approx(min(1.0, expected.pvalue), rel=1e-9)

    def test_a_location_test_is_blind_where_the_tail_grows_and_the_quantile_is_not(self) -> None:
        rng = np.random.default_rng(3)
        zero = np.exp(rng.normal(size=6000))
        one = np.exp(rng.normal(size=6000)) * np.where(rng.random(6000) < 0.04, 6.0, 1.0)
        rank = ranks.brunner_munzel(one, zero)
        tail = quantiles.quantile_log_ratio(quantiles.summarise(one, 0.99), quantiles.summarise(zero, 0.99))
        assert rank is not None
        assert tail.p is not None
        assert tail.p < 1e-4 < rank.p


class TestQuantiles:
    def test_too_little_beyond_the_quantile_is_a_state(self) -> None:
        rng = np.random.default_rng(4)
        for level, n, state in (
            (0.95, 73, "ok"),
            (0.95, 72, "insufficient_data"),
            (0.99, 380, "insufficient_data"),
        ):
            assert quantiles.summarise(rng.normal(size=n), level).status == state
        assert quantiles.summarise([], 0.5).status == "no_data"
        assert quantiles.summarise([1.0] * 500, 0.5).status == "insufficient_resolution"

    def test_clusters_widen_as_their_design_effect(self) -> None:
        rng = np.random.default_rng(5)
        user = np.repeat(np.arange(300), 10)
        alike = np.repeat(rng.normal(size=300), 10)
        together = quantiles.summarise(alike, 0.5, units=user.tolist())
        assert together.inflation == pytest.approx(10.0, rel=0.05)
        alone = quantiles.summarise(rng.normal(size=3000), 0.5, units=user.tolist())
        assert alone.inflation == pytest.approx(1.0, rel=0.25)

    @settings(deadline=None, max_examples=30)
    @given(st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.99]))
    @example(5, 0.5)  # the least and the greatest of five leave the median out in one of sixteen
    def test_the_sequence_holds_the_sample_quantile_and_is_wider_than_one_look(
        self, n: int, level: float
    ) -> None:
        ordered = list(range(1, n + 1))
        band = quantiles.quantile_sequence(ordered, level, best_at=200)
        assert band.lower <= math.ceil(n * level)
        assert band.upper >= math.floor(n * level)
        # The values are their ranks: whatever is drawn, these leave the quantile out at one n by chance.
        below = 0.0 if math.isinf(band.lower) else stats.binom.cdf(band.lower - 1, n, level)
        above = 0.0 if math.isinf(band.upper) else stats.binom.sf(band.upper - 1, n, level)
        assert below + above < 0.05

    def test_the_anytime_test_is_symmetric_and_far_shifts_are_found(self) -> None:
        one, zero = list(range(1, 400)), list(range(200, 600))
        there = quantiles.quantile_test_log_e(one, zero, 0.5, best_at=200)
        assert there == pytest.approx(quantiles.quantile_test_log_e(zero, one, 0.5, best_at=200), abs=1e-6)
        assert there > math.log(20)
        assert quantiles.quantile_test_p(one, one, 0.5, best_at=200) == 1.0
        assert quantiles.quantile_test_log_e([], zero, 0.5, best_at=200) == 0.0


class TestPairs:
    cells = st.integers(0, 400)

    @settings(deadline=None, max_examples=80)
    @given(cells, cells, cells, cells)
    def test_swapping_the_versions_flips_the_sign(self, a: int, b: int, c: int, d: int) -> None:
        table = PairTable(both=a, control_only=b, candidate_only=c, neither=d)
        other = PairTable(both=a, control_only=c, candidate_only=b, neither=d)
        for method in (
            paired.bonett_price,
            paired.newcombe_paired,
            paired_scores.may_johnson,
            lambda t: paired_scores.tango(t, continuity=0.125),
        ):
            there, back = method(table), method(other)
            sound(there)
            near(there.interval, turned(back.interval), abs_=1e-5)

    @settings(deadline=None, max_examples=40)
    @given(full)
    def test_paired_tests_agree_with_scipy(self, d: list[float]) -> None:
        assume(max(d) > min(d))
        t = paired.clustered_difference(paired.paired_sums(d))
        expected = stats.ttest_1samp(d, 0.0)
        assert t.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-9)
        signs = paired_scores.sign_test(d)
        up, down = sum(v > 0 for v in d), sum(v < 0 for v in d)
        assert (signs.positive, signs.negative) == (up, down)
        tail = float(stats.binom.cdf(min(up, down), up + down, 0.5))
        assert signs.p == pytest.approx(min(1.0, 2.0 * tail))
        dz, g = paired_scores.standardised(d), paired_scores.standardised(d, corrected=True)
        assert dz is not None
        assert g is not None
        assert abs(g) <= abs(dz)
        turned_round = paired_scores.rank_biserial([-v for v in d])
        here = paired_scores.rank_biserial(d)
        assert here is not None
        assert turned_round == pytest.approx(-here)

    @given(st.integers(2, 3000), st.floats(0.01, 0.5))
    def test_pairs_that_never_differ_bound_by_how_much_they_could(self, n: int, margin: float) -> None:
        """A score that falls from 1 to 0 in a share p of the pairs is seen in none of n with (1 - p)^n."""
        alike = BoundedClusters.of(paired.paired_sums([0.0] * n), low=-1.0, high=1.0)
        assert alike is not None
        found = alike.estimate(alpha=0.05)
        sound(found)
        unseen = stats.binomtest(0, n).proportion_ci(0.95, method="exact").high
        near(found.interval, Interval(lower=-unseen, upper=unseen, level=0.95))
        log_p = float(stats.norm.logsf(alike.z(-margin)))
        assert log_p == pytest.approx(min(stats.binom.logpmf(0, n, margin), -math.log(2.0)), rel=1e-6)
        assert alike.z(margin) == pytest.approx(-alike.z(-margin))
        assert alike.z(0.0) == 0.0
        assert alike.log_e(-margin, above=False) < 0.0

    def test_what_uneven_clusters_that_are_all_alike_are_worth(self) -> None:
        sizes = [1] * 30 + [60]
        sums = paired.paired_sums([0.0] * 90, [c for c, size in enumerate(sizes) for _ in range(size)])
        alike = BoundedClusters.of(sums, low=-1.0, high=1.0)
        assert alike is not None
        assert alike.n == pytest.approx(90**2 / (30 + 3600))
        assert BoundedClusters.of(paired.paired_sums([0.0] * 9, [1] * 9), low=-1.0, high=1.0) is None
        assert BoundedClusters.of(paired.paired_sums([0.0, 2.1]), low=-1.0, high=1.0) is None
        assert BoundedClusters.of(paired.paired_sums([-1.0, 3.0]), low=-1.0, high=1.0) is None

    @pytest.mark.parametrize("value", [-0.3, 0.0, 0.2])
    def test_they_turn_with_the_arms_and_leave_out_what_they_could_not_have_come_from(
        self, value: float
    ) -> None:
        one, other = (
            BoundedClusters.of(paired.paired_sums([side * value] * 80), low=-1.0, high=1.0)
            for side in (1.0, -1.0)
        )
        assert one is not None
        assert other is not None
        there, back = one.estimate(alpha=0.05).interval, other.estimate(alpha=0.05).interval
        assert there is not None
        assert back is not None
        assert (there.lower, there.upper) == pytest.approx((-back.upper, -back.lower))
        assert one.z(there.lower) == pytest.approx(1.959964, abs=1e-5)
        assert one.z(there.upper) == pytest.approx(-1.959964, abs=1e-5)
        for null in (-0.6, -0.1, 0.4):
            assert one.log_e(null, above=True) == pytest.approx(other.log_e(-null, above=False))
            # No bettor turns 1 into more than 1 / p: at p's very z the capital is at most its inverse.
            p = float(stats.norm.sf(abs(one.z(null))))
            assert one.log_e(null, above=value > null) <= -math.log(p) + 1e-9

    def test_the_bootstrap_is_seeded_and_refuses_too_few(self) -> None:
        skewed = np.random.default_rng(6).lognormal(size=40).tolist()
        assert paired_scores.bootstrap_t(skewed) == paired_scores.bootstrap_t(skewed)
        assert paired_scores.bootstrap_t(skewed[:5]).status == "insufficient_data"
        assert paired_scores.bootstrap_t([]).status == "no_data"


class TestMargins:
    @given(st.floats(-2.0, 2.0), st.floats(0.05, 1.0), st.floats(0.1, 1.0))
    def test_non_inferiority_is_where_the_interval_ends(self, value: float, se: float, margin: float) -> None:
        found = mean.t_estimate(value, se * se, 50.0, alpha=0.05, method="x")
        test = noninferiority.above(found, -margin)
        interval = mean.t_estimate(value, se * se, 50.0, alpha=0.1, method="x").interval
        assert test is not None
        assert interval is not None
        assert (test.p < 0.05) == (interval.lower > -margin) or math.isclose(
            interval.lower, -margin, abs_tol=1e-6
        )
        both = noninferiority.equivalence(found, -margin, margin)
        assert both is not None
        assert both.p >= test.p - 1e-12

    def test_without_a_standard_error_nothing_is_shown(self) -> None:
        empty = mean.welch(moments([]), moments([]))
        assert noninferiority.above(empty, 0.0) is None
        assert noninferiority.equivalence(empty, -1.0, 1.0) is None
        assert noninferiority.relative_margin(empty, 1.0, 0.1, higher_is_better=True).status == "no_data"


def test_few_units_that_are_all_alike_are_taken_to_vary_as_control_does() -> None:
    y, m = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 2.0]), np.array([1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    control = Cluster(n=6, y=y.sum(), m=m.sum(), yy=y @ y, mm=m @ m, ym=y @ m)
    alike = Cluster(n=3, y=6.0, m=6.0, yy=12.0, mm=12.0, ym=12.0)
    assert alike.variance == 0.0
    lent = alike.no_less_spread_than(control)
    assert lent.variance * lent.n == pytest.approx(control.variance * control.n)
    assert lent.ratio == alike.ratio
    assert control.no_less_spread_than(alike) == control
    one = replace(alike, n=1)
    assert one.no_less_spread_than(control) == one
