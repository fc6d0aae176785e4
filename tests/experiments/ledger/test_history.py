"""What units were like before anything was tried: of each kind of metric, and by one instrument."""

from __future__ import annotations

import math

import pytest

from experiments.history import History
from experiments.ledger.history import history
from experiments.ledger.store import Store
from experiments.metrics import metric

from .experiment import collect
from .samples import START_NS, record
from .test_said import NEW, OLD, mirrored, score

DAY_NS = 86_400 * 10**9


def of(store: Store, *names: str, limit: int = 100) -> History:
    return history(
        store,
        "chat",
        [metric(name) for name in names],
        since_ns=START_NS - DAY_NS,
        until_ns=START_NS + DAY_NS,
        limit=limit,
    )


def test_scores_are_those_of_the_version_that_has_made_the_most(store: Store) -> None:
    rows = [record(n, unit=f"u{n // 2}") for n in range(6)]
    collect(store, *rows)
    for row, value in zip(rows, [0.25, 0.75, 1.0, None, 0.5, 0.5], strict=True):
        score(store, row, value, version=OLD)
    score(store, rows[0], 0.0, version=NEW)
    found = of(store, "score:q.tone", "score:q.tone<0.5")
    mean, share = found.totals["score:q.tone"], found.totals["score:q.tone<0.5"]
    assert sorted(zip(mean.y, mean.m, strict=True)) == [(1.0, 1.0), (1.0, 2.0), (1.0, 2.0)]
    assert sorted(share.failed) == [False, False, True]


def test_a_quantile_has_the_bins_of_each_units_values(store: Store) -> None:
    rows = [record(n, unit=f"u{n // 2}", duration_us=1000 * (n + 1)) for n in range(4)]
    collect(store, *rows)
    found = of(store, "latency.p50").totals["latency.p50"]
    expected = sorted(math.floor(1000 * math.log(ms)) for ms in (1, 2, 3, 4))
    assert sorted(bin_ for unit in found.bins for bin_ in unit) == expected
    assert [len(unit) for unit in found.bins] == [2, 2]
    assert found.histogram is not None
    assert sum(found.histogram.counts) == 4


def test_a_preference_is_what_was_said_of_the_copies(store: Store) -> None:
    rows = mirrored(4)
    collect(store, *rows)
    for copy, value in zip(rows[1::2], [1.0, 1.0, 0.5, 0.0], strict=True):
        score(store, copy, value, by="pairs.pairwise")
    found = of(store, "preference:pairs.pairwise").totals["preference:pairs.pairwise"]
    assert sorted(zip(found.y, found.m, strict=True)) == [(0.5, 2.0), (2.0, 2.0)]


def test_where_no_pair_was_judged_a_preference_is_as_uncertain_as_it_can_be(store: Store) -> None:
    collect(store, *(record(n, unit=f"u{n}") for n in range(10)))
    found = of(store, "preference:pairs.pairwise", "latency").of(metric("preference:pairs.pairwise"))
    assert found is not None
    assert found.cluster.ratio == 0.5
    assert found.cluster.variance * found.cluster.n == pytest.approx(0.25, rel=0.2)


def test_a_sample_of_units_is_the_same_units_for_every_metric(store: Store) -> None:
    rows = [record(n, unit=f"u{n}") for n in range(40)]
    collect(store, *rows)
    for n, row in enumerate(rows):
        score(store, row, n / 100)
    found = of(store, "score:q.tone", "latency", limit=10)
    assert [m for m in found.totals["score:q.tone"].m] == [1.0] * 10
    assert (found.units, len(found.totals["latency"].m)) == (40, 10)
