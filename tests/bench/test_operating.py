"""Is the simulation about what the verdict uses? Its vectorised estimates against the public functions."""

from __future__ import annotations

import numpy as np
import pytest

from bench.operating import golden, rules, running, several, tables
from bench.operating.streams import Stream
from experiments.statistics import mean, strata
from experiments.statistics.moments import Cluster, Moments


def _moments(values: np.ndarray) -> Moments:
    return Moments(n=int(values.size), total=float(values.sum()), squares=float((values**2).sum()))


@pytest.mark.parametrize("at", [120, 999])
def test_running_differences_are_welchs(at: int) -> None:
    draw = next(Stream(name="judge", effect=0.05, requests=1000).draws(2, 1))
    found = running.differences(draw)
    for row in range(2):
        arm, y = draw.candidate[row, : at + 1], draw.outcome[row, : at + 1]
        expected = mean.welch(_moments(y[arm]), _moments(y[~arm]))
        assert found.estimate[row, at] == pytest.approx(expected.value)
        assert found.se[row, at] == pytest.approx(expected.se)


def _cluster(y: np.ndarray, user: np.ndarray) -> Cluster:
    _, index = np.unique(user, return_inverse=True)
    sums, sizes = np.bincount(index, weights=y), np.bincount(index).astype(float)
    return Cluster.of(sums, sizes)


@pytest.mark.parametrize("at", [503, 4999])
def test_running_ratios_over_users_are_the_delta_method(at: int) -> None:
    draw = next(Stream(name="users").draws(1, 2))
    assert draw.user is not None
    found = running.by_user(draw)
    arm, y, user = draw.candidate[0, : at + 1], draw.outcome[0, : at + 1], draw.user[0, : at + 1]
    expected = mean.ratio_difference(_cluster(y[arm], user[arm]), _cluster(y[~arm], user[~arm]))
    assert found.estimate[0, at] == pytest.approx(expected.value)
    assert found.se[0, at] == pytest.approx(expected.se)


def test_running_tables_are_cochran_mantel_haenszel() -> None:
    draw = next(Stream(name="ramp").draws(3, 3))
    assert draw.stage is not None
    found = running.by_table(draw)
    for row in range(3):
        rows = []
        for stage in range(3):
            inside = draw.stage == stage
            one = draw.outcome[row, inside & draw.candidate[row]]
            zero = draw.outcome[row, inside & ~draw.candidate[row]]
            rows.append(((int(one.sum()), one.size), (int(zero.sum()), zero.size)))
        assert found.z[row, -1] == pytest.approx(strata.cmh(rows))


def test_the_same_seed_gives_the_same_figures() -> None:
    stream = Stream(name="canary", share=0.1, error=(0.02, 0.08), requests=1500)
    one = rules.characteristic(rules.failure_harm(), stream, replications=60)
    assert one == rules.characteristic(rules.failure_harm(), stream, replications=60)
    assert one.rate > 0.5


def test_peeking_with_a_fixed_test_is_seen_to_be_wrong_and_ours_is_not() -> None:
    stream = Stream(name="pass70", requests=2000)
    found = rules.characteristics(
        {"peek": rules.naive(), "sequence": rules.sequence()}, stream, replications=200, burn_in=100
    )
    assert found["peek"].rate > 0.2
    assert found["sequence"].rate < 0.1


def test_tables_are_markdown() -> None:
    table = tables.Table(title="T", note="n", head=("a", "b"), rows=[("1", "2")])
    assert table.markdown().splitlines()[-1] == "| 1 | 2 |"


def test_paired_coverage_counts_every_table_once() -> None:
    found = golden.paired_coverage(40, both=0.9, only_control=0.02, only_candidate=0.05, replications=2000)
    assert found["bonett_price"].coverage >= 0.95
    assert found["bonett_price"].width < found["unpaired_newcombe"].width


def test_words_that_only_come_sooner_are_no_gain_once_the_window_is_over() -> None:
    quicker = next(case for case in several.LATES if "half the time" in case.name)
    plain = several.of_feedback(quicker, looks=1, runs=60)
    waited = several.of_feedback(quicker, window=0.5, looks=1, runs=60)
    assert waited["better"] < min(0.1, plain["better"])


def test_a_metric_less_the_past_is_held_to_its_level() -> None:
    found = several.of_past(several.PASTS[0], runs=80)
    assert found["width"] < 0.95
    assert max(found["better"], found["worse"]) <= 0.1


def test_of_several_metrics_that_are_the_same_few_are_called_better() -> None:
    assert several.of_metrics(success=3, guardrails=2, runs=30)["better"] <= 0.1
