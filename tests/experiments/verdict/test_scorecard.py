"""What the cards of a verdict's metrics say on evidence made by hand, one by one and of several at once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from experiments.figures import percent, quantity
from experiments.metrics import metric
from experiments.verdict import Goal, MetricSums, conclude

from ..handmade import evidence, failing, said, spec, timed


class TestCards:
    def test_n_counts_what_was_observed_not_what_was_eligible(self) -> None:
        def rated(arm: str, m: float) -> MetricSums:
            return MetricSums(
                metric="feedback:thumbs",
                phase=0,
                arm=arm,
                units=int(m),
                exchanges=2500,
                missing=0,
                y=m / 2,
                m=m,
                yy=m / 2,
                mm=m,
                ym=m / 2,
            )

        goals = (Goal(metric=metric("feedback:thumbs"), role="exploratory"),)
        some = conclude(spec(goals=goals), evidence(sums=(rated("control", 9), rated("candidate", 0))))
        assert [arm.n for arm in some.metrics[0].arms] == [9, 0]
        assert some.metrics[0].state == "no_data"
        assert some.metrics[0].text.endswith("no data from the candidate yet")


class TestSeveralMetrics:
    def measured(self, zs: dict[str, float], role: Any, **more: Any) -> Any:
        """A verdict at the horizon on means whose differences are so many standard errors good."""
        names = {f"score:e.m{i}": z for i, z in enumerate(zs.values())}
        n, rows, goals = 2500, [], []
        for name, z in names.items():
            goals.append(Goal(metric=metric(name), role=role, **more))
            for arm, mean in (("control", 10.0), ("candidate", 10.0 + z * math.sqrt(2 / n))):
                rows.append(replace(timed(arm, n, mean, sd=1.0), metric=name, observed=n))
        found = conclude(spec(goals=tuple(goals)), evidence(sums=tuple(rows)))
        return {alias: card for alias, card in zip(zs, found.metrics, strict=True)}, found

    def test_exploratory_metrics_are_adjusted_among_themselves_and_decide_nothing(self) -> None:
        zs = {"a": 2.1, "b": 0.1, "c": 4.5, "d": 0.2}
        cards, found = self.measured(zs, "exploratory")
        assert {name: card.state for name, card in cards.items()} == {
            "a": "ok", "b": "ok", "c": "better", "d": "ok",
        }  # fmt: skip
        p = [2 * stats.norm.sf(z) for z in zs.values()]
        expected = stats.false_discovery_control(p)
        assert [card.adjusted_p for card in cards.values()] == pytest.approx(list(expected), rel=0.05)
        assert found.kind != "ship"
        alone, _ = self.measured({"a": 2.1}, "exploratory")
        assert alone["a"].state == "better"

    def test_success_metrics_step_up_after_the_first_has_passed(self) -> None:
        both, _ = self.measured({"first": 3.0, "second": 2.1}, "success")
        assert {name: card.state for name, card in both.items()} == {"first": "better", "second": "better"}
        neither, found = self.measured({"first": 2.1, "second": 2.1}, "success")
        assert {card.state for card in neither.values()} == {"ok"}  # alpha / 2 is not passed by either
        assert found.kind == "inconclusive"

    def test_what_is_hoped_to_be_the_same_ships_when_both_sides_are_excluded(self) -> None:
        same, found = self.measured({"a": 0.5}, "success", equivalent=True, margin=0.01)
        assert (found.kind, same["a"].state) == ("ship", "equivalent")
        assert found.reasons[0].text.startswith("The same within its margin: ")
        for z in (5.0, -5.0):  # too much better is not the same either
            other, found = self.measured({"a": z}, "success", equivalent=True, margin=0.01)
            assert (found.kind, other["a"].state) == ("inconclusive", "ok")


def test_only_a_goal_that_has_a_margin_shows_one() -> None:
    sums = timed("control", 2500, mean=0.0, sd=1.0), timed("candidate", 2500, mean=0.0, sd=1.0)

    def margin(role: Any, **about: Any) -> float | None:
        goal = Goal(metric=metric("latency"), role=role, **about)
        return conclude(spec(goals=(goal,)), evidence(sums=sums)).metrics[0].margin

    assert margin("guardrail", margin=0.2) == pytest.approx(1.2)
    assert margin("success", margin=0.05, equivalent=True) == pytest.approx(1.05)
    assert margin("success") is None
    assert margin("exploratory") is None


def test_scores_that_are_all_alike_are_said_to_be_and_what_to_ask_instead() -> None:
    goal = Goal(metric=metric("score:judge"), role="guardrail", margin=0.05)
    alike = said("control", 2500, mean=1.0, sd=0.0), said("candidate", 2500, mean=1.0, sd=0.0)
    text = conclude(spec(goals=(goal,)), evidence(sums=alike)).metrics[0].text
    assert "1 in both arms" in text
    assert "score:judge<0.5" in text


class TestWords:
    @pytest.mark.parametrize(
        ("share", "text"),
        [
            (0.0, "0.0 %"),
            (0.1 + 0.2 - 0.3, "0.00 %"),
            (1.0, "100.0 %"),
            (0.098, "9.8 %"),
            (0.0004, "0.04 %"),
            (0.0000413, "0.0041 %"),
            (0.00003, "0.0030 %"),
            (0.99996, "99.9960 %"),
        ],
    )
    def test_a_share_is_neither_nothing_nor_all_unless_it_is(self, share: float, text: str) -> None:
        assert percent(share) == text

    def test_rare_failures_are_told_apart_in_words(self) -> None:
        counts = (failing("control", 1_000_000, 20), failing("candidate", 1_000_000, 45))
        goals = (Goal(metric=metric("error_rate"), role="guardrail"),)
        card = conclude(spec(goals=goals), evidence(sums=counts)).metrics[0]
        assert card.text == (
            "errors: 0.0045 % against 0.0020 %, +0.0025 points "
            "(95 % interval +0.00093 points to +0.0042 points)"
        )

    @pytest.mark.parametrize(
        ("value", "apart", "text"),
        [
            (0.0, math.inf, "0.00 USD"),
            (0.1 + 0.2 - 0.3, math.inf, "0.00 USD"),
            (0.000412, math.inf, "0.00041 USD"),
            (0.97, math.inf, "0.97 USD"),
            (0.97, 0.1 + 0.2 - 0.3, "0.97 USD"),
            (0.9124, -0.0003, "0.91240 USD"),
            (12.5, 0.004, "12.5000 USD"),
            (1234.0, 7.0, "1,234 USD"),
        ],
    )
    def test_a_level_has_the_digits_that_it_needs(self, value: float, apart: float, text: str) -> None:
        assert quantity(value, "USD", apart) == text

    def test_small_scores_are_told_apart_in_words(self) -> None:
        rows = [
            replace(timed(arm, 2500, mean, sd=0.0001), metric="score:price", observed=2500)
            for arm, mean in (("control", 0.0004), ("candidate", 0.0006))
        ]
        goals = (Goal(metric=metric("score:price"), role="exploratory"),)
        card = conclude(spec(goals=goals), evidence(sums=tuple(rows))).metrics[0]
        assert "score 'price': 0.00060 against 0.00040, +0.0002 (" in card.text

    @pytest.mark.parametrize(
        ("alpha", "level"), [(0.025, "97.5 %"), (0.005, "99.5 %"), (0.05 / 3, "98.33 %")]
    )
    def test_an_interval_says_the_level_that_was_declared(self, alpha: float, level: str) -> None:
        counts = (failing("control", 1000, 20), failing("candidate", 1000, 45))
        goals = (Goal(metric=metric("error_rate"), role="guardrail"),)
        card = conclude(spec(goals=goals, alpha=alpha), evidence(sums=counts)).metrics[0]
        assert f"({level} interval" in card.text
