"""What must hold of every family of metrics, whatever the numbers: signs, scales, order, states, size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from experiments.statistics import (
    agreement,
    allocation,
    bayes,
    confidence_sequence,
    contingency,
    counts,
    covariate,
    evalues,
    failures,
    group_sequential,
    mean,
    mixtures,
    noninferiority,
    paired,
    paired_scores,
    pairwise,
    planning,
    predictable,
    prediction_powered,
    quantiles,
    ranks,
    sample_ratio,
)
from experiments.statistics.estimate import Estimate, Interval, StatisticsError
from experiments.statistics.moments import Cluster, Moments
from experiments.statistics.paired import PairTable
from experiments.statistics.prediction_powered import ClusterSums

HUGE = 10**9

#: Decimal values: sums of them keep enough digits for what is compared.
number = st.integers(-10_000, 10_000).map(lambda value: value / 100.0)
sample = st.lists(number, min_size=0, max_size=25)
full = st.lists(number, min_size=3, max_size=25)


def moments(raw: list[float]) -> Moments:
    return Moments(n=len(raw), total=math.fsum(raw), squares=math.fsum(v * v for v in raw))


def adjusted(rows: list[tuple[float, float]]) -> covariate.Adjusted:
    post, pre = [row[0] for row in rows], [row[1] for row in rows]
    return covariate.Adjusted(post=moments(post), pre=moments(pre), cross=math.fsum(a * b for a, b in rows))


def sound(found: Estimate, *, infinite: bool = False) -> None:
    """Ordered around the estimate and finite (or infinite where that is meant), or a state with a name."""
    if found.status != "ok":
        assert found.interval is None
        assert found.p is None
        return
    assert found.interval is not None
    lower, upper = found.interval.lower, found.interval.upper
    assert lower <= upper
    assert not math.isnan(lower)
    assert not math.isnan(upper)
    if not infinite:
        assert math.isfinite(lower)
        assert math.isfinite(upper)
    assert found.log_p is None or found.log_p <= 0.0


def near(one: Interval | None, other: Interval | None, rel: float = 1e-6, abs_: float = 1e-7) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one.lower == pytest.approx(other.lower, rel=rel, abs=abs_)
        assert one.upper == pytest.approx(other.upper, rel=rel, abs=abs_)


def turned(interval: Interval | None) -> Interval | None:
    return None if interval is None else Interval(lower=-interval.upper, upper=-interval.lower, level=0.95)


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
    @given(one=full, zero=full, random=st.randoms(use_true_random=False))
    def test_the_order_of_arrival_inside_a_look_does_not_matter(
        self, name: str, one: list[float], zero: list[float], random: object
    ) -> None:
        mixed = sorted(one), sorted(zero, reverse=True)
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
    def test_the_sequence_holds_the_sample_quantile_and_is_wider_than_one_look(
        self, n: int, level: float
    ) -> None:
        ordered = list(range(1, n + 1))
        band = quantiles.quantile_sequence(ordered, level, best_at=200)
        assert band.lower <= math.ceil(n * level)
        assert band.upper >= math.floor(n * level)

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
        assert 0.0 < signs.p <= 1.0
        dz, g = paired_scores.standardised(d), paired_scores.standardised(d, corrected=True)
        assert dz is not None
        assert g is not None
        assert abs(g) <= abs(dz)
        turned_round = paired_scores.rank_biserial([-v for v in d])
        here = paired_scores.rank_biserial(d)
        assert here is not None
        assert turned_round == pytest.approx(-here)

    def test_the_bootstrap_is_seeded_and_refuses_too_few(self) -> None:
        skewed = np.random.default_rng(6).lognormal(size=40).tolist()
        assert paired_scores.bootstrap_t(skewed) == paired_scores.bootstrap_t(skewed)
        assert paired_scores.bootstrap_t(skewed[:5]).status == "insufficient_data"
        assert paired_scores.bootstrap_t([]).status == "no_data"


class TestPreferences:
    @given(st.integers(0, HUGE), st.integers(0, HUGE), st.integers(0, HUGE))
    def test_win_rates_mirror(self, wins: int, ties: int, losses: int) -> None:
        there = pairwise.win_rate(pairwise.Wins(wins=wins, ties=ties, losses=losses))
        back = pairwise.win_rate(pairwise.Wins(wins=losses, ties=ties, losses=wins))
        sound(there)
        if there.value is not None and back.value is not None:
            assert there.value == pytest.approx(1.0 - back.value)

    def test_bradley_terry_recovers_strengths_whatever_the_order_of_names(self) -> None:
        truth = np.array([0.6, 0.1, -0.2, -0.5])
        wins = 1e6 / (1.0 + np.exp(-np.subtract.outer(truth, truth)))
        found = pairwise.bradley_terry(wins.tolist())
        assert found is not None
        assert found.log_strengths == pytest.approx(truth.tolist(), abs=1e-6)
        order = [2, 0, 3, 1]
        mixed = pairwise.bradley_terry(wins[np.ix_(order, order)].tolist())
        assert mixed is not None
        assert mixed.log_strengths == pytest.approx(truth[order].tolist(), abs=1e-6)
        assert found.probability(0, 3) == pytest.approx(1.0 / (1.0 + math.exp(-1.1)), abs=1e-6)
        sound(found.difference(0, 1))

    def test_a_version_that_never_lost_has_no_strength(self) -> None:
        assert pairwise.bradley_terry([[0, 5, 5], [0, 0, 3], [0, 2, 0]]) is None
        assert pairwise.bradley_terry([[0, 0], [0, 0]]) is None

    def test_a_place_that_wins_is_found(self) -> None:
        found = pairwise.BothOrders(candidate=10, control=10, first_place=40, second_place=2)
        assert pairwise.position_bias_p(found) < 1e-6
        assert found.wins == pairwise.Wins(wins=10, ties=42, losses=10)
        assert pairwise.BothOrders(candidate=0, control=0, first_place=0, second_place=0).consistency is None


class TestJudges:
    def test_a_useless_judge_costs_nothing_and_a_good_one_helps(self) -> None:
        rng = np.random.default_rng(7)
        y = rng.normal(size=100)
        for f, low, high in ((y + 0.2 * rng.normal(size=100), 0.0, 0.6), (rng.normal(size=100), 0.9, 1.05)):
            labelled = prediction_powered.Labelled(
                y=moments(y.tolist()), f=moments(f.tolist()), yf=float(y @ f)
            )
            rest = moments(rng.normal(size=5000).tolist())
            tuned = prediction_powered.mean(labelled, rest)
            alone = prediction_powered.mean(labelled, rest, lam=0.0)
            assert tuned.se is not None
            assert alone.se is not None
            assert low <= tuned.se / alone.se <= high
        nobody = prediction_powered.Labelled(y=moments([]), f=moments([]), yf=0.0)
        assert prediction_powered.mean(nobody, moments([1.0, 2.0])).status == "no_data"

    def test_over_clusters_of_one_it_is_the_same(self) -> None:
        rng = np.random.default_rng(3)
        y = rng.integers(-1, 2, 400).astype(float)
        f = np.where(rng.random(400) < 0.3, rng.integers(-1, 2, 400), y)
        labelled = prediction_powered.Labelled(
            y=moments(y[:40].tolist()), f=moments(f[:40].tolist()), yf=float(y[:40] @ f[:40])
        )
        plain = prediction_powered.mean(labelled, moments(f[40:].tolist()))
        clusters = [
            *(ClusterSums(m=1.0, y=float(a), f=float(b)) for a, b in zip(y[:40], f[:40], strict=True)),
            *(ClusterSums(rest_m=1.0, rest_f=float(b)) for b in f[40:]),
        ]
        found = prediction_powered.clustered_mean(clusters)
        assert (found.value, found.se) == (
            pytest.approx(plain.value, rel=0.03),
            pytest.approx(plain.se, rel=0.03),
        )
        assert found.df == plain.df == 39.0

    def test_without_a_judge_of_use_the_labels_speak_alone(self) -> None:
        clusters = [ClusterSums(m=2.0, y=float(k % 3), f=1.0) for k in range(30)]
        values = [float(k % 3) / 2.0 for k in range(30)]
        found = prediction_powered.clustered_mean([*clusters, ClusterSums(rest_m=100.0, rest_f=50.0)])
        assert found.value == pytest.approx(np.mean(values))
        assert found.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(30))

    def test_what_is_known_dilutes_the_difference_and_its_error(self) -> None:
        clusters = [ClusterSums(m=1.0, y=float(k % 2)) for k in range(40)]
        alone = prediction_powered.clustered_mean(clusters)
        known = [ClusterSums(known_m=1.0) for _ in range(40)]
        found = prediction_powered.clustered_mean([*clusters, *known])
        assert (alone.value, found.value) == (0.5, 0.25)
        assert alone.se is not None
        assert found.se is not None
        assert alone.se / 2.0 < found.se < alone.se, "which items are known is chance too"
        won = [ClusterSums(known_m=1.0, known_y=1.0) for _ in range(40)]
        assert prediction_powered.clustered_mean([*clusters, *won]).value == 0.75

    def test_nothing_labelled_is_no_data_and_one_cluster_too_few(self) -> None:
        rest = ClusterSums(rest_m=5.0, rest_f=1.0)
        assert prediction_powered.clustered_mean([rest]).status == "no_data"
        assert (
            prediction_powered.clustered_mean([ClusterSums(m=3.0, y=1.0), rest]).status == "insufficient_data"
        )

    @given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=3, max_size=3))
    def test_kappa_is_symmetric_and_at_most_one(self, table: list[list[int]]) -> None:
        for weights in ("none", "linear", "quadratic"):
            there = agreement.kappa(table, weights=weights)
            back = agreement.kappa(np.transpose(table).tolist(), weights=weights)
            sound(there)
            assert there.status == back.status
            if there.value is not None and back.value is not None:
                assert there.value <= 1.0 + 1e-12
                assert there.value == pytest.approx(back.value, abs=1e-9)

    def test_one_label_alone_is_no_agreement(self) -> None:
        assert agreement.kappa([[50, 0], [0, 0]]).status == "insufficient_data"
        assert agreement.kappa([[0, 0], [0, 0]]).status == "no_data"
        assert agreement.raw_agreement([[0, 0], [0, 0]]) is None


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
        for low, high in ((0.0, 1.0),):
            weight = (m - low) / (high - low)
            here = np.exp(predictable.betting_log_capital(values, m, hedge=True)[-1])
            there = [
                math.exp(float(predictable.betting_log_capital([*values, v], m, hedge=True)[-1]))
                for v in (low, high)
            ]
            assert (1.0 - weight) * there[0] + weight * there[1] == pytest.approx(here, rel=1e-9)

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
