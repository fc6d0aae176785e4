"""Preferences, judges and agreement: what mirrors, what a judge adds to labels, what says too little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.statistics import agreement, pairwise, prediction_powered
from experiments.statistics.prediction_powered import ClusterSums

from .samples import HUGE, moments, sound


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
        assert agreement.kappa_interval([[50, 0], [0, 0]]) is None
        assert agreement.kappa_interval([[0, 0], [0, 0]]) is None

    def test_thirty_labels_that_all_agree_are_not_sure_of_it(self) -> None:
        found = agreement.kappa_interval([[15, 0], [0, 15]])
        assert found is not None
        assert 0.5 < found.lower < 0.9
        assert found.upper == 1.0

    @pytest.mark.parametrize(("passed", "right"), [(0.5, 0.9), (0.95, 0.9), (0.95, 0.97), (0.8, 0.75)])
    @pytest.mark.parametrize("n", [30, 60])
    def test_its_interval_holds_the_truth_and_lies_between_one_and_minus_one(
        self, n: int, passed: float, right: float
    ) -> None:
        """By the large-sample one it is 85 to 94 of 100, where there is one, and up to 1.1."""
        p = np.array(
            [[passed * right, passed * (1 - right)], [(1 - passed) * (1 - right), (1 - passed) * right]]
        )
        chance = float(p.sum(axis=1) @ p.sum(axis=0))
        truth = (float(np.trace(p)) - chance) / (1.0 - chance)
        held = 0
        for table in np.random.default_rng(4).multinomial(n, p.ravel(), 300).reshape(-1, 2, 2):
            found = agreement.kappa_interval(table.tolist())
            assert found is None or -1.0 <= found.lower <= found.upper <= 1.0
            held += found is None or found.lower <= truth <= found.upper
        assert held / 300 >= 0.93 - 2.0 * math.sqrt(0.93 * 0.07 / 300)
        assert agreement.raw_agreement([[0, 0], [0, 0]]) is None
