"""Evidence taken in bit by bit is that of all rows at once, and what was known once can be had again."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from experiments.evidence import Cut
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.exchange import FeedbackRecord
from experiments.ledger.store import Store

from .experiment import END_NS, collect, declare, random_split, spec
from .samples import START_NS, record


def test_without_later_turns_nothing_is_split_and_the_first_one_splits_everything(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    rows = random_split(31)
    declared, rollups = (
        spec("canary", "error_rate", "latency", "latency.p95", "feedback:stars"),
        Rollups(store),
    )
    opening = [row for row in rows if b"assistant" not in row.request]
    collect(store, *opening)
    early = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    assert {one.metric for one in early.sums} == {one.metric.name for one in declared.goals}
    collect(store, *(row for row in rows if b"assistant" in row.request))
    late = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    split = {f"{name}@{turn}" for name in ("error_rate", "latency") for turn in ("first", "later")}
    assert {one.metric for one in late.sums} == split | {one.metric.name for one in declared.goals}
    assert late == gather(store, declared, as_of_ns=END_NS)
    assert early == gather(store, declared, as_of_ns=END_NS, cut=early.cut)


def test_what_came_later_is_not_yet_known(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    rows = [record(n, experiment="e", phase=1, unit="u", assigned_arm="control") for n in range(5)]
    collect(store, *rows)
    everything = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS)
    evidence = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS, cut=Cut(exchanges=3))
    assert (everything.recorded, everything.cut) == (5, Cut(exchanges=5))
    assert (evidence.recorded, evidence.sums[0].exchanges) == (3, 3)


def test_the_same_ledger_gives_the_same_evidence(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *random_split(8))
    once, again = (gather(store, spec("canary", "error_rate"), as_of_ns=END_NS) for _ in range(2))
    assert once == again
    assert once.recorded > 0


ALL = (
    "error_rate", "latency>100ms", "truncation_rate", "latency", "latency.p95", "latency_mean", "ttft",
    "inter_token_gap", "completion_tokens", "tokens_per_second", "cached_share", "feedback:stars",
)  # fmt: skip


@pytest.mark.parametrize("seed", [11, 12])
def test_taken_in_bit_by_bit_and_out_of_order_the_evidence_is_the_same_to_the_bit(
    store: Store, seed: int
) -> None:
    chance = random.Random(seed)
    rows: list[Any] = random_split(seed, 300)
    said = [
        FeedbackRecord(
            request_id=chance.choice(rows).request_id,
            name=chance.choice(["stars", "clicks"]),
            value=chance.uniform(-5, 5),
            at_ns=START_NS + chance.randrange(10**9),
            worker="w",
        )
        for _ in range(150)
    ]
    records = rows + said
    chance.shuffle(records)
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    declared = spec("canary", *ALL)
    rollups = Rollups(store)
    cuts = []
    for start in range(0, len(records), 50):
        collect(store, *records[start : start + 50])
        step = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
        assert step == gather(store, declared, as_of_ns=END_NS)
        cuts.append(step)
    assert any(one.y for one in cuts[-1].sums if one.metric == "feedback:stars")
    for then in cuts:  # and what was known then can be had again now
        assert gather(store, declared, as_of_ns=END_NS, cut=then.cut) == then


def test_a_cut_is_the_same_rows_after_a_checkpoint_and_a_new_start(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    rows = random_split(21)
    collect(store, *rows[:200])
    then = gather(store, spec("canary", *ALL), as_of_ns=END_NS)
    store.checkpoint()
    collect(store, *rows[200:])
    store.close()
    with Store(store.path) as again:
        again.checkpoint()
        assert gather(again, spec("canary", *ALL), as_of_ns=END_NS) != then
        assert gather(again, spec("canary", *ALL), as_of_ns=END_NS, cut=then.cut) == then


def test_a_look_that_fails_leaves_no_half_taken_sums(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    rows = random_split(22)
    collect(store, *rows[:100])
    rollups = Rollups(store)
    declared = spec("canary", "latency")
    gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    collect(store, *rows[100:])
    with pytest.raises(ZeroDivisionError), rollups.of(declared) as (rollup, cursor):
        cursor.begin()
        rollup.take_in(Cut(exchanges=250), END_NS)
        raise ZeroDivisionError
    assert gather(store, declared, as_of_ns=END_NS, rollups=rollups) == gather(
        store, declared, as_of_ns=END_NS
    )


def test_other_experiments_rows_change_nothing(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *random_split(31, 100))
    rollups, declared = Rollups(store), spec("canary", *ALL)
    before = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    collect(store, *(record(1000 + n, experiment="other", phase=1, unit=f"u{n}") for n in range(5)))
    after = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    assert after == replace(before, cut=after.cut)
    assert after.cut != before.cut
