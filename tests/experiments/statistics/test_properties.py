"""What must hold of every method, whatever the numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special

from experiments.statistics import (
    betting,
    confidence_sequence,
    failures,
    group_sequential,
    incomplete_beta,
    mean,
    multiplicity,
    paired,
    proportion,
    sample_ratio,
    strata,
)
from experiments.statistics.estimate import Estimate, StatisticsError
from experiments.statistics.moments import Cluster, Moments

from .samples import HUGE, moments


@st.composite
def shares(draw: st.DrawFn, largest: int = HUGE) -> proportion.Share:
    n = draw(st.integers(0, largest))
    return draw(st.integers(0, n)), n


values = st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=20)


def sound(found: Estimate) -> None:
    """Finite, ordered and around the estimate; or a state with a name and no interval."""
    if found.status != "ok":
        assert found.interval is None
        assert found.log_p is None
        return
    assert found.value is not None
    assert found.interval is not None
    assert math.isfinite(found.value)
    assert found.interval.lower <= found.value <= found.interval.upper
    assert math.isfinite(found.interval.lower)
    assert math.isfinite(found.interval.upper)
    assert found.log_p is None or found.log_p <= 0.0


class TestProportions:
    @settings(deadline=None)
    @given(shares(), shares())
    def test_swapping_the_arms_flips_the_sign(
        self, candidate: proportion.Share, control: proportion.Share
    ) -> None:
        for method in (proportion.newcombe, proportion.score_interval, proportion.agresti_caffo):
            there, back = method(candidate, control), method(control, candidate)
            sound(there)
            assert there.status == back.status
            if there.interval is not None and back.interval is not None:
                assert there.value == -(back.value or 0.0)
                assert there.interval.lower == pytest.approx(-back.interval.upper, abs=1e-8)

    @settings(deadline=None)
    @given(shares(200), shares(200))
    def test_the_restricted_shares_keep_the_difference_and_are_likeliest(
        self, candidate: proportion.Share, control: proportion.Share
    ) -> None:
        assume(candidate[1] and control[1])
        d = 0.07
        p1, p0 = proportion.restricted(candidate, control, d)
        assert p1 - p0 == pytest.approx(d, abs=1e-9)

        def likelihood(p: float) -> float:
            total = 0.0
            for (x, n), q in ((candidate, p + d), (control, p)):
                for count, chance in ((x, q), (n - x, 1.0 - q)):
                    if count:
                        total += count * math.log(max(chance, 1e-300))
            return total

        grid = np.linspace(0.0, 1.0 - d, 200)
        assert likelihood(p0) >= max(likelihood(float(p)) for p in grid) - 1e-6

    def test_empty_and_extreme_arms(self) -> None:
        assert proportion.newcombe((0, 0), (1, 2)).status == "no_data"
        certain = proportion.newcombe((0, 200), (0, 200)).interval
        assert certain is not None
        assert certain.lower < 0.0 < certain.upper
        with pytest.raises(StatisticsError, match="no share"):
            proportion.wilson(3, 2)

    def test_one_stratum_is_newcombe_and_an_empty_one_changes_nothing(self) -> None:
        alone = proportion.newcombe((9, 100), (4, 90))
        assert strata.share_difference([((9, 100), (4, 90)), ((0, 0), (3, 50))]) == alone

    def test_two_equal_strata_are_as_good_as_one_twice_as_large(self) -> None:
        two = strata.share_difference([((90, 1000), (40, 1000))] * 2).interval
        one = proportion.newcombe((180, 2000), (80, 2000)).interval
        assert two is not None
        assert one is not None
        assert two.lower == pytest.approx(one.lower, abs=2e-4)
        assert two.upper == pytest.approx(one.upper, abs=2e-4)


class TestMeans:
    @given(values, values)
    def test_swapping_the_arms_flips_the_sign(self, candidate: list[float], control: list[float]) -> None:
        there, back = (
            mean.welch(moments(a), moments(b)) for a, b in ((candidate, control), (control, candidate))
        )
        sound(there)
        assert there.status == back.status
        if there.value is not None and back.value is not None:
            assert there.value == pytest.approx(-back.value)

    @given(values, values, st.floats(0.001, 1000.0))
    def test_scaling_the_metric_scales_the_answer(
        self, candidate: list[float], control: list[float], scale: float
    ) -> None:
        plain = mean.welch(moments(candidate), moments(control))
        scaled = mean.welch(moments([v * scale for v in candidate]), moments([v * scale for v in control]))
        assume(plain.status == scaled.status == "ok")
        assert plain.interval is not None
        assert scaled.interval is not None
        width = plain.interval.upper - plain.interval.lower
        assert scaled.interval.lower == pytest.approx(
            plain.interval.lower * scale, rel=1e-3, abs=1e-3 * width * scale
        )

    def test_a_constant_added_leaves_the_difference(self) -> None:
        one, zero = [1.0, 2.0, 4.0], [0.5, 3.0, 1.0]
        plain = mean.welch(moments(one), moments(zero))
        moved = mean.welch(moments([v + 100 for v in one]), moments([v + 100 for v in zero]))
        assert plain.value == pytest.approx(moved.value)
        assert plain.se == pytest.approx(moved.se)

    @pytest.mark.parametrize("raw", [[], [1.0], [2.0, 2.0, 2.0], [math.nan, 1.0], [math.inf, 1.0]])
    def test_awkward_samples_have_a_state(self, raw: list[float]) -> None:
        found = mean.welch(
            Moments(n=len(raw), total=sum(raw), squares=sum(v * v for v in raw)),
            Moments(n=len(raw), total=sum(raw), squares=sum(v * v for v in raw)),
        )
        assert found.status in ("no_data", "insufficient_data", "not_finite")
        assert found.interval is None

    def test_p_far_below_a_float(self) -> None:
        one = Moments(n=HUGE, total=HUGE * 2.0, squares=HUGE * 5.0)
        zero = Moments(n=HUGE, total=HUGE * 1.0, squares=HUGE * 2.0)
        found = mean.welch(one, zero)
        assert found.p == 0.0
        assert found.log_p is not None
        # ln p is close to -df / 2 ln(1 + t^2 / df), here t^2 / df = 0.25.
        assert found.log_p == pytest.approx(-1e9 * math.log(1.25), rel=1e-6)

    def test_a_ratio_with_one_observation_per_unit_is_a_mean(self) -> None:
        one, zero = [1.0, 2.0, 4.0, 3.0], [0.5, 3.0, 1.0]

        def cluster(raw: list[float]) -> Cluster:
            n = len(raw)
            return Cluster(n=n, y=sum(raw), m=n, yy=sum(v * v for v in raw), mm=n, ym=sum(raw))

        ratio = mean.ratio_difference(cluster(one), cluster(zero))
        plain = mean.welch(moments(one), moments(zero))
        assert (ratio.value, ratio.se, ratio.df) == pytest.approx((plain.value, plain.se, plain.df))

    def test_units_seen_in_two_strata_are_accounted_for(self) -> None:
        # The same 50 users in both phases, with the same values: no more is known than after one phase.
        rng = np.random.default_rng(5)
        one, zero = rng.normal(1.0, 1.0, 50), rng.normal(0.0, 1.0, 50)

        def cluster(raw: np.ndarray) -> Cluster:
            n = len(raw)
            return Cluster(n=n, y=raw.sum(), m=n, yy=(raw**2).sum(), mm=n, ym=raw.sum())

        layer = strata.MeanStratum(candidate=cluster(one), control=cluster(zero))
        shared = {
            (0, arm, 1, arm): strata.shared_covariance(
                cluster(raw), cluster(raw), yy=(raw**2).sum(), ym=raw.sum(), my=raw.sum(), mm=len(raw)
            )
            for arm, raw in (("candidate", one), ("control", zero))
        }
        once = strata.mean_contrast([layer]).se
        twice = strata.mean_contrast([layer, layer], covariance=shared).se
        assert twice == pytest.approx(once, rel=0.02)
        naive = strata.mean_contrast([layer, layer]).se
        assert naive is not None
        assert twice is not None
        assert naive < 0.75 * twice


class TestSequences:
    @given(st.integers(0, HUGE), st.integers(0, HUGE), st.floats(0.001, 0.999), st.floats(1.0, 5.0))
    def test_log_e_is_finite_at_any_count(self, one: int, zero: int, share: float, ratio: float) -> None:
        assert math.isfinite(float(failures.imbalance_log_e(one, zero, share)))
        assert math.isfinite(float(failures.harm_log_e(one, zero, share, ratio=ratio)))
        assert math.isfinite(float(sample_ratio.log_e([one, zero], (share, 1 - share), concentration=100.0)))

    @pytest.mark.parametrize("ratio", [1.0, 1.25])
    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_the_expectation_of_e_after_a_step_is_what_it_was(self, share: float, ratio: float) -> None:
        # A martingale at the edge of the null: the next failure is the candidate's with the tolerated share.
        edge = failures.tolerated_share(share, ratio)
        for one, zero in ((0, 0), (3, 7), (40, 200)):
            now = float(failures.harm_log_e(one, zero, share, ratio=ratio))
            up = float(failures.harm_log_e(one + 1, zero, share, ratio=ratio))
            down = float(failures.harm_log_e(one, zero + 1, share, ratio=ratio))
            assert edge * math.exp(up - now) + (1 - edge) * math.exp(down - now) == pytest.approx(1.0)
            below = edge * 0.7
            assert below * math.exp(up - now) + (1 - below) * math.exp(down - now) < 1.0

    def test_the_small_tail_joins_the_direct_value(self) -> None:
        for b in (900.0, 1500.0, 2500.0):
            direct = float(incomplete_beta.log_upper_tail(50.0, b, 0.3))
            tail = float(
                incomplete_beta._log_small_tail(np.asarray(b), np.asarray(50.0), math.log(0.7), math.log(0.3))
            )
            if direct > -600.0:
                assert tail == pytest.approx(direct, rel=1e-9)
            else:
                assert math.isfinite(tail)

    def test_pairs_pay_nothing_on_average_at_the_edge(self) -> None:
        # Five kinds of pairs with P(candidate fails) = 1.25 P(control fails): E(e) after one pair is 1.
        chances = {(1, 1): 0.02, (0, 1): 0.055, (1, 0): 0.04, (0, 0): 0.885}
        expected = 0.0
        for (zero, one), chance in chances.items():
            table = paired.PairTable(
                both=one * zero,
                control_only=zero * (1 - one),
                candidate_only=one * (1 - zero),
                neither=(1 - one) * (1 - zero),
            )
            expected += chance * math.exp(betting.pair_harm_log_e(table, ratio=1.25))
        assert expected == pytest.approx(1.0)

    @given(st.floats(-1e4, 1e4), st.floats(1.0, 1e9))
    def test_asymptotic_e_values_are_finite(self, z: float, n: float) -> None:
        assert math.isfinite(confidence_sequence.log_e(z, n, alpha=0.05, best_at=2500))
        assert math.isfinite(confidence_sequence.one_sided_log_e(z, n, alpha=0.05, best_at=2500))

    def test_the_band_ends_where_e_reaches_its_threshold(self) -> None:
        z = confidence_sequence.critical_value(700, alpha=0.05, best_at=2500)
        assert confidence_sequence.log_e(z, 700, alpha=0.05, best_at=2500) == pytest.approx(math.log(20))

    def test_kelly_finds_a_mean_that_is_another(self) -> None:
        rng = np.random.default_rng(1)
        x = (rng.random(2000) < 0.6).astype(float).tolist()
        assert betting.kelly_log_capital(x, 0.5)[-1] > math.log(20)
        assert betting.kelly_log_capital(x, 0.6)[-1] < math.log(20)


class TestGroupSequential:
    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.floats(0.05, 1.5), min_size=1, max_size=6, unique=True), st.sampled_from([1, 2]))
    def test_all_looks_together_spend_alpha(self, fractions: list[float], sides: int) -> None:
        looks = sorted(fractions)
        assume(all(b - a > 0.01 for a, b in itertools.pairwise(looks)))
        z = group_sequential.bounds(looks, alpha=0.05, sides=sides)
        finite = [(bound, at) for bound, at in zip(z, looks, strict=True) if math.isfinite(bound)]
        spent = group_sequential.crossing_probability(
            [bound for bound, _ in finite], [at for _, at in finite], sides=sides
        )
        assert spent == pytest.approx(0.05, abs=2e-3)

    def test_a_look_without_news_spends_nothing(self) -> None:
        z = group_sequential.bounds([0.5, 0.5, 1.0], alpha=0.05, information=[50.0, 50.0, 100.0])
        assert z[1] == math.inf
        assert z[2] == pytest.approx(group_sequential.bounds([0.5, 1.0], alpha=0.05)[1], abs=1e-6)

    def test_an_end_without_news_spends_what_is_left_by_itself(self) -> None:
        *_, before, last = group_sequential.bounds(
            [0.4, 0.8, 0.8], alpha=0.05, information=[40.0, 80.0, 80.0]
        )
        spent = group_sequential.obrien_fleming(0.025, 0.8)
        assert special.ndtr(-last) == pytest.approx(0.025 - spent)
        assert last < before
        assert group_sequential.bounds([1.0, 1.0], alpha=0.05, information=[9.0, 9.0])[1] == math.inf

    def test_an_early_end_loses_no_alpha(self) -> None:
        assert group_sequential.bounds([0.4], alpha=0.05)[0] == pytest.approx(1.959964, abs=1e-5)
        assert group_sequential.bounds([0.4], alpha=0.05, final=False)[0] > 3.0


class TestMultiplicity:
    @given(st.lists(st.floats(0.0, 1.0), max_size=8))
    def test_adjusted_values_are_ordered_as_their_methods(self, p: list[float]) -> None:
        plain, holm, hommel = multiplicity.bonferroni(p), multiplicity.holm(p), multiplicity.hommel(p)
        for raw, least, middle, most in zip(p, hommel, holm, plain, strict=True):
            assert raw <= least + 1e-12
            assert least <= middle + 1e-12
            assert middle <= most + 1e-12
