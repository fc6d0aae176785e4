"""Ratios and quantiles of a shadow's pairs: the sums against the same made row by row, and what they say."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
import pytest

from experiments.evidence import AnalysisSpec, Goal
from experiments.ledger.evidence import gather
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.store import Store
from experiments.metrics import metric
from experiments.verdict import conclude

from .experiment import END_NS, collect, declare
from .samples import START_NS, chat_answer, record

Pair = tuple[ExchangeRecord, ExchangeRecord, int, int]


def mirrored(seed: int, count: int, slower: float) -> list[Pair]:
    """(control, candidate) with their numbers of tokens; what makes a request slow does so in both."""
    chance = random.Random(seed)
    found = []
    for n in range(count):
        tokens = chance.randrange(5, 60)
        long = tokens * 4000 * math.exp(chance.gauss(0, 0.3))
        times = [int(long * factor * math.exp(chance.gauss(0, 0.05))) for factor in (1.0, slower)]
        unit = f"u{n // 3}"
        answers = [tokens, max(1, tokens + chance.randrange(-2, 3))]
        rows = [
            record(2 * n, unit=unit, response=chat_answer("w " * answers[0]), duration_us=times[0]),
            record(
                2 * n + 1,
                unit=unit,
                role="shadow",
                pair_id=record(2 * n).exchange_id,
                experiment="e",
                phase=1 + n * 2 // count,
                assigned_arm="candidate",
                response=chat_answer("w " * answers[1]),
                duration_us=times[1],
            ),
        ]
        found.append((rows[0], rows[1], *answers))
    return found


def shadow(*goals: Goal) -> AnalysisSpec:
    return AnalysisSpec(
        experiment="e", mode="shadow", unit="user", goals=goals, control_version=1, candidate_version=2
    )


@pytest.fixture
def pairs(store: Store) -> list[Pair]:
    found = mirrored(7, 600, slower=1.1)
    declare(store, "shadow", {1: 0, 2: 0})
    collect(store, *(row for pair in found for row in pair[:2]))
    return found


def test_sums_of_a_ratio_are_over_the_clusters_of_complete_pairs(store: Store, pairs: list[Pair]) -> None:
    goal = Goal(metric=metric("tokens_per_second"), role="guardrail", margin=0.2)
    evidence = gather(store, shadow(goal), as_of_ns=END_NS)
    assert [sums.phase for sums in evidence.pairs] == [1, 2]
    clusters: dict[tuple[int, str | None], np.ndarray] = defaultdict(lambda: np.zeros(4))
    for control, candidate, tokens, theirs in pairs:
        row = [theirs, candidate.duration_us / 1e6, tokens, control.duration_us / 1e6]
        clusters[candidate.phase, control.unit] += np.array(row)
    for found in evidence.pairs:
        here = np.array([total for (phase, _), total in clusters.items() if phase == found.phase])
        assert found.totals == pytest.approx(here.sum(axis=0))
        assert found.products == pytest.approx((here.T @ here)[np.triu_indices(4)])
    (card,) = conclude(shadow(goal), evidence).metrics
    whole = np.array(list(clusters.values())).sum(axis=0)
    control, candidate = card.arms
    assert (candidate.value, control.value) == pytest.approx((whole[0] / whole[1], whole[2] / whole[3]))
    assert card.effect is not None
    assert card.effect.estimate == pytest.approx(whole[0] / whole[1] - whole[2] / whole[3])
    assert card.effect.upper < 0.0  # a tenth slower, seen in 200 users: the pair's length cancels out
    assert card.effect.upper - card.effect.lower < 0.02 * control.value


def test_a_quantile_of_pairs_is_known_better_than_of_two_arms(store: Store, pairs: list[Pair]) -> None:
    goal = Goal(metric=metric("latency.p50"), role="guardrail", margin=0.2)
    evidence = gather(store, shadow(goal), as_of_ns=END_NS)
    (both,) = evidence.pair_quantiles
    clusters: dict[str | None, np.ndarray] = defaultdict(lambda: np.zeros(3, int))
    for control, candidate, *_ in pairs:
        halves = (candidate, both.bins[0]), (control, both.bins[1])
        below = [math.floor(math.log(row.duration_us / 1000) * 1000) <= bin_ for row, bin_ in halves]
        clusters[control.unit] += np.array([*below, 1])
    a, b, m = np.array(list(clusters.values())).T
    names = ("a", "b", "m", "aa", "bb", "ab", "am", "bm", "mm")
    expected = (a.sum(), b.sum(), m.sum(), a @ a, b @ b, a @ b, a @ m, b @ m, m @ m)
    assert [getattr(both, name) for name in names] == pytest.approx(expected, abs=3)  # bins of rounded logs
    (card,) = conclude(shadow(goal), evidence).metrics
    times = [np.array([pair[side].duration_us for pair in pairs]) / 1000 for side in (1, 0)]
    control, candidate = card.arms
    assert (candidate.value, control.value) == pytest.approx([np.median(t) for t in times], rel=2e-3)
    assert card.effect is not None
    assert card.effect.scale == "ratio"
    assert card.effect.lower < 1.1 < card.effect.upper
    logs = np.log(times)
    alone = 1.2533 * np.sqrt((logs.var(axis=1) / len(pairs)).sum())  # normal medians, as if independent
    assert math.log(card.effect.upper / card.effect.lower) / 2 / 1.96 < 0.6 * alone


@pytest.mark.parametrize("backwards", [False, True])
def test_of_pairs_of_one_instant_the_same_one_counts_however_they_came(store: Store, backwards: bool) -> None:
    declare(store, "shadow", {1: 0})
    rows = []
    for n, outcome in enumerate(["complete", "upstream_error"]):
        control = record(2 * n, unit="u", started_ns=START_NS)
        copy = {"role": "shadow", "pair_id": control.exchange_id, "experiment": "e", "phase": 1}
        rows += [control, record(2 * n + 1, unit="u", started_ns=START_NS, outcome=outcome, **copy)]
    collect(store, *(rows[::-1] if backwards else rows))
    goal = Goal(metric=metric("error_rate"), role="guardrail")
    (found,) = gather(store, shadow(goal), as_of_ns=END_NS).pairs
    assert (found.n00, found.n01) == (1, 0)
