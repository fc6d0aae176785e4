"""Scores of recorded answers as metrics: which count, for whom, and what a changed evaluator does."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from experiments.evidence import AnalysisSpec, Goal, Instrument
from experiments.ledger.evaluations import add_scores
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.store import Store, instant
from experiments.metrics import metric

from .experiment import END_NS, collect, declare, spec
from .samples import START_NS, record

OLD, NEW = "tone@1:aa", "tone@1:bb"


def score(
    store: Store,
    row: ExchangeRecord,
    value: float | None,
    version: str = OLD,
    by: str = "q.tone",
    status: str = "",
) -> None:
    entry = {
        "exchange_id": row.exchange_id,
        "evaluator": by,
        "evaluator_version": version,
        "status": status or ("error" if value is None else "scored"),
        "value": value,
    }
    store.write(lambda c: add_scores(c, [entry], at=instant(START_NS)))


def split(count: int = 12, **more: Any) -> list[ExchangeRecord]:
    """Three exchanges of each unit; units alternate between the arms."""
    return [
        record(
            n,
            experiment="e",
            phase=1,
            unit=f"u{n // 3}",
            assigned_arm=("control", "candidate")[n // 3 % 2],
            **more,
        )
        for n in range(count)
    ]


def test_a_score_is_a_mean_over_units_and_what_could_not_be_scored_is_missing(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    rows = split()
    collect(store, *rows)
    for row, value in zip(rows, [1.0, 0.5, None, 0.2, 0.2, 0.2, None, None, 0.4], strict=False):
        score(store, row, value)
    score(store, rows[0], 0.0, by="q.other")
    score(store, rows[11], None, status="skipped")
    found = {
        (one.metric, one.arm): one
        for one in gather(store, spec("ab", "score:q.tone", "score:q.tone<0.5"), as_of_ns=END_NS).sums
    }
    mean, share = found["score:q.tone", "control"], found["score:q.tone<0.5", "control"]
    assert (mean.units, mean.y, mean.m, mean.yy, mean.observed) == (2, 1.9, 3.0, 1.5**2 + 0.4**2, 3)
    assert (mean.missing, mean.missing_units) == (3, 2)
    assert (share.units, share.failing_units, share.missing_units) == (2, 1, 2)
    assert found["score:q.tone<0.5", "candidate"].failing_units == 1


def test_what_control_answered_for_a_failed_candidate_is_not_the_candidates(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    rows = split(6, arm_outcome="upstream_error")
    collect(store, *rows)
    for row in rows:
        score(store, row, 1.0)
    assert not any(one.m for one in gather(store, spec("ab", "score:q.tone"), as_of_ns=END_NS).sums)


def test_scores_of_two_versions_are_never_added_up(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    rows = split()
    collect(store, *rows)
    rollups, asked = Rollups(store), spec("ab", "score:q.tone", f"score:q.tone@{NEW}")

    def total(name: str) -> float:
        evidence = gather(store, asked, as_of_ns=END_NS, rollups=rollups)
        assert evidence == gather(store, asked, as_of_ns=END_NS)
        versions[:] = [one for one in evidence.instruments if one.metric == "score:q.tone"]
        return sum(one.y for one in evidence.sums if one.metric == name)

    versions: list[Instrument] = []
    for row in rows[:6]:
        score(store, row, 1.0)
    assert total("score:q.tone") == 6.0
    for row in rows[4:]:
        score(store, row, 0.25, NEW)
    assert total("score:q.tone") == 6.0  # the first version's, and the verdict says so
    assert [(one.version, one.scores, one.counted, one.complete) for one in versions] == [
        (OLD, 6, True, False),
        (NEW, 8, False, False),
    ]
    assert total(f"score:q.tone@{NEW}") == 2.0
    for row in rows[:4]:
        score(store, row, 0.25, NEW)
    assert total("score:q.tone") == 3.0  # all were scored again: the new version is one instrument
    assert [one.counted for one in versions] == [False, True]


@pytest.mark.parametrize("seed", [1, 2])
def test_scores_that_come_in_any_order_make_the_same_sums(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    declare(store, "ab", {1: 500_000})
    rows = split(120)
    asked = spec("ab", "score:q.tone", "score:q.tone<0.5", "schema_violations", "error_rate")
    rollups = Rollups(store)
    for start in range(0, len(rows), 40):
        late = rows[start : start + 40]
        for row in chance.sample(late, 10):  # what is said may arrive before the exchange
            score(store, row, chance.choice([None, chance.random()]), chance.choice([OLD, OLD, NEW]))
        collect(store, *late)
        for row in chance.sample(rows[: start + 40], 20):
            score(store, row, chance.random(), chance.choice([OLD, OLD, NEW]))
            score(store, row, float(chance.random() < 0.8), by="schema.response_format")
        step = gather(store, asked, as_of_ns=END_NS, rollups=rollups)
        assert step == gather(store, asked, as_of_ns=END_NS)
    assert any(one.failing_units for one in step.sums if one.metric == "schema_violations")


def mirrored(count: int) -> list[ExchangeRecord]:
    found = []
    for n in range(count):
        primary = record(2 * n, unit=f"u{n // 2}")
        copy = {"role": "shadow", "pair_id": primary.exchange_id, "experiment": "e", "phase": 1}
        found += [primary, record(2 * n + 1, unit=f"u{n // 2}", assigned_arm="candidate", **copy)]
    return found


def test_scores_of_both_halves_make_pairs(store: Store) -> None:
    declare(store, "shadow", {1: 0})
    rows = mirrored(8)
    collect(store, *rows)
    chance = random.Random(3)
    clusters: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for control, candidate in zip(rows[::2], rows[1::2], strict=True):
        pair = (chance.random(), chance.random())
        score(store, control, pair[0])
        if control is not rows[2]:
            score(store, candidate, pair[1])
            clusters[str(control.unit)].append(pair)
    evidence = gather(store, spec("shadow", "score:q.tone", "score:q.tone<0.5"), as_of_ns=END_NS)
    mean, share = evidence.pairs
    differences = [sum(b - a for a, b in pairs) for pairs in clusters.values()]
    assert (mean.clusters, mean.pairs, mean.missing) == (4, 7, 1)
    assert mean.d == pytest.approx(sum(differences), abs=1e-5)
    assert mean.dd == pytest.approx(sum(d * d for d in differences), abs=1e-5)
    sizes = [len(pairs) for pairs in clusters.values()]
    cubes = [sum(m**k * d ** (3 - k) for d, m in zip(differences, sizes, strict=True)) for k in range(4)]
    assert mean.cubes == pytest.approx(cubes, abs=0.02)
    first = [pairs[0] for pairs in clusters.values()]
    assert share.n10 == sum(a < 0.5 <= b for a, b in first)
    assert share.n11 + share.n10 + share.n01 + share.n00 == 4
    assert [(one.version, one.scores) for one in evidence.instruments[:1]] == [(OLD, 15)]


def test_a_preference_is_of_a_pair_against_a_half(store: Store) -> None:
    declare(store, "shadow", {1: 0})
    rows = mirrored(4)
    collect(store, *rows)
    for copy, value in zip(rows[1::2], [1.0, 1.0, 0.5, 0.0], strict=True):
        score(store, copy, value, by="pairs.pairwise")
    (found,) = gather(store, spec("shadow", "preference:pairs.pairwise"), as_of_ns=END_NS).pairs
    assert (found.pairs, found.clusters, found.d, found.control_y, found.missing) == (4, 2, 0.5, 2.0, 0)


def test_a_golden_set_that_was_changed_since_the_start_is_seen(store: Store) -> None:
    declare(store, "ab", {1: 500_000})

    def compare(number: int, digest: str, seconds: int, name: str = "support") -> None:
        at = instant(START_NS + seconds * 10**9)
        row = [f"c{number}", name, digest, "chat", "r1", "r2", 1, 2, "pass", at, "{}"]
        store.write(
            lambda c: c.execute(
                "INSERT INTO golden_comparisons VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", row
            )
        )

    def sets() -> list[tuple[str, str, bool]]:
        asked = AnalysisSpec(
            experiment="e", mode="ab", unit="user", control_version=1, candidate_version=2,
            goals=(Goal(metric=metric("error_rate"), role="guardrail"),),
        )  # fmt: skip
        found = gather(store, asked, as_of_ns=END_NS, golden_set="support").instruments
        return [(one.metric, one.version, one.counted) for one in found]

    compare(1, "draft", -200)
    compare(2, "final", -100)  # before the start a set is worked on
    compare(3, "final", 50)
    compare(4, "else", 60, "other")
    assert sets() == [("golden:support", "final", True)]
    compare(5, "edited", 70)
    assert sets() == [("golden:support", "final", True), ("golden:support", "edited", False)]
