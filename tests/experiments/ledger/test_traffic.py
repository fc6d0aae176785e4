"""Where every exchange went, over time and by arm, and what one exchange was."""

from __future__ import annotations

import pytest

from experiments.errors import NotFound
from experiments.ledger import traffic
from experiments.ledger.exchange import LossRecord
from experiments.ledger.recording import RecordingPolicy
from experiments.ledger.store import Store, instant

from .conftest import Collect
from .samples import START_NS, chat_answer, chat_request, record

CONTROL = {"experiment": "e", "phase": 1, "assigned_arm": "control", "served_arm": "control", "unit": "u"}
CANDIDATE = CONTROL | {"assigned_arm": "candidate", "served_arm": "candidate", "unit": "v"}
FELL_BACK = CANDIDATE | {"served_arm": "control", "arm_outcome": "timeout"}


@pytest.fixture
def split(store: Store, collect: Collect) -> Store:
    collect(
        record(1, **CONTROL),
        record(2, **CONTROL, outcome="upstream_error", status=500),
        record(3, **CANDIDATE),
        record(4, **FELL_BACK),
        record(5, **CONTROL, outcome="rejected", status=400),
        record(6, **CONTROL | {"unit": None, "assigned_arm": None}),
        record(7, **CONTROL, origin="forced"),
        record(8, experiment="other", phase=1, assigned_arm="control", unit="u"),
        LossRecord(worker="w", since_ns=START_NS + 1000, until_ns=START_NS + 2000, count=52),
    )
    return store


def test_the_timeline_counts_by_bucket_arm_and_phase(store: Store, collect: Collect) -> None:
    second = 1000  # records are a millisecond apart
    collect(
        record(1 * second, **CONTROL, duration_us=100_000),
        record(9 * second, **CONTROL, duration_us=300_000),
        record(9 * second + 1, **FELL_BACK),
        record(11 * second, **CONTROL | {"phase": 2}),
    )
    found = traffic.timeline(store, "e", bucket_s=10)
    begin = instant(START_NS)
    assert [(row["at"], row["arm"], row["phase"], row["requests"], row["failures"]) for row in found] == [
        (begin, "candidate", 1, 1, 1),
        (begin, "control", 1, 2, 0),
        (instant(START_NS + 10 * 10**9), "control", 2, 1, 0),
    ]
    assert found[1]["p50_duration_ms"] == 200


def test_the_control_of_a_shadow_is_what_was_mirrored(store: Store, collect: Collect) -> None:
    primary = record(1)
    shadow = {"role": "shadow", "experiment": "e", "phase": 1, "assigned_arm": "candidate"}
    collect(
        primary,
        record(2, pair_id=primary.exchange_id, **shadow),
        record(3, pair_id="x", outcome="shed", status=0, **shadow),
    )
    rows = traffic.timeline(store, "e")
    found = [(row["arm"], row["phase"], row["requests"], row["mirrored"]) for row in rows]
    assert found == [("candidate", 1, 1, False), ("control", 1, 1, True)]


def test_one_exchange_with_its_body(store: Store, collect: Collect) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    exchange = record(1, request=chat_request("Ü?"), response=chat_answer("ja", tool_calls=[call]))
    collect(exchange)
    found = traffic.exchange(store, exchange.exchange_id)
    assert found is not None
    assert (found["prompt"], found["text"], found["outcome"]) == ("Ü?", "ja", "complete")
    assert found["tool_calls"] == [{"id": "c", "name": "f", "arguments": "{}"}]
    assert found["request"].encode() == exchange.request
    assert found["response"].encode() == exchange.response
    assert traffic.exchange(store, "nobody") is None


def test_an_exchange_without_a_body(store: Store, collect: Collect) -> None:
    collect(record(1), policies={"chat": RecordingPolicy(recording="numbers")})
    found = traffic.exchange(store, record(1).exchange_id)
    assert found is not None
    assert (found["request"], found["text"], found["tool_calls"]) == (None, None, [])


def test_exchanges_by_filter_newest_first(split: Store) -> None:
    def ids(**filters: object) -> list[int]:
        rows = traffic.exchanges(split, **filters)  # type: ignore[arg-type]
        return [int(row["exchange_id"][-12:], 16) for row in rows]

    assert ids(experiment="e") == [7, 6, 5, 4, 3, 2, 1]
    assert ids(experiment="e", arm="candidate") == [4, 3]
    assert ids(outcome="upstream_error") == [2]
    assert ids(model="nothing") == []
    assert ids(experiment="e", origin="forced") == [7]
    assert 7 not in ids(origin="live")
    assert ids(experiment="e", limit=2, offset=1) == [6, 5]
    assert ids(experiment="e' OR true --") == []


def test_a_shadows_pairs_are_found_with_both_halves(store: Store, collect: Collect) -> None:
    copy = {"role": "shadow", "experiment": "e", "phase": 1, "assigned_arm": "candidate"}
    primaries = [
        record(1),
        record(2, experiment="canary", phase=1, assigned_arm="candidate", unit="u"),
        record(3),
        record(4, origin="golden"),
    ]
    collect(
        *primaries,
        *(record(4 + n, pair_id=record(n).exchange_id, **copy) for n in (1, 2)),
        record(9, pair_id=record(3).exchange_id, outcome="shed", status=0, **copy),
        record(10),
    )

    def ids(**filters: object) -> list[int]:
        rows = traffic.exchanges(store, **filters)  # type: ignore[arg-type]
        return [int(row["exchange_id"][-12:], 16) for row in rows]

    assert ids(experiment="e") == [9, 6, 5, 2, 1]
    assert ids(experiment="e", arm="control") == [2, 1]
    assert ids(experiment="e", arm="candidate") == [9, 6, 5]
    assert ids(experiment="canary") == [2]
    assert ids(arm="control") == []
    assert ids(arm="candidate") == [9, 6, 5, 2]
    seen: list[int] = []
    while page := ids(experiment="e", limit=2, before=record(seen[-1]).exchange_id if seen else None):
        seen += page
    assert seen == [9, 6, 5, 2, 1]


def test_pages_have_each_exchange_once_while_others_come_in(store: Store, collect: Collect) -> None:
    start = record(0).started_ns
    # Three began in the same microsecond.
    collect(*(record(n, started_ns=start + n // 3 * 1000) for n in range(9)))
    seen: list[str] = []
    for number in range(9, 12):
        page = traffic.exchanges(store, before=seen[-1] if seen else None, limit=4)
        seen += [row["exchange_id"] for row in page]
        collect(record(number, started_ns=start + 1_000_000))
    assert sorted(seen) == [record(n).exchange_id for n in range(9)]
    with pytest.raises(NotFound, match="no exchange 'nobody'"):
        traffic.exchanges(store, before="nobody")


def test_how_the_ledger_is(split: Store) -> None:
    found = traffic.condition(split)
    assert (found["rows"], found["losses"], found["torn_bytes"], found["quarantined"]) == (8, 52, 0, 0)
    assert found["last_segment_at"] is not None
    assert found["bytes"] == split.size()
