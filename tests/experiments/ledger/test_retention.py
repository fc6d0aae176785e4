"""Bodies go by age and by size, the oldest first; the numbers stay."""

from __future__ import annotations

from experiments.ledger.recording import RecordingPolicy
from experiments.ledger.retention import prune
from experiments.ledger.store import Store

from .conftest import Collect
from .samples import START_NS, record

HOUR = 3600 * 1000  # records are a millisecond apart
NOW = START_NS + 10 * 3600 * 10**9


def kept(store: Store, model: str = "chat") -> list[int]:
    rows = store.read("SELECT exchange_id FROM bodies WHERE model = ? ORDER BY started_at", [model])
    return [int(row["exchange_id"][-12:], 16) // HOUR for row in rows]


def test_by_age(store: Store, collect: Collect) -> None:
    collect(*(record(n * HOUR) for n in range(10)), record(HOUR, model="other"))
    gone = prune(store, {"chat": RecordingPolicy(keep_s=4.5 * 3600)}, now_ns=NOW)
    assert gone == {"chat": 6}
    assert kept(store) == [6, 7, 8, 9]
    assert kept(store, "other") == [1]
    assert store.read("SELECT count(*) AS n FROM exchanges") == [{"n": 11}]


def test_by_size(store: Store, collect: Collect) -> None:
    collect(*(record(n * HOUR) for n in range(10)), record(HOUR, model="other"))
    [[each]] = [list(row.values()) for row in store.read("SELECT DISTINCT bytes FROM bodies")]
    policies = {"chat": RecordingPolicy(keep_bytes=3 * each + 1)}
    assert prune(store, policies, now_ns=NOW) == {"chat": 7}
    assert kept(store) == [7, 8, 9]
    assert prune(store, policies, now_ns=NOW) == {}


def test_without_bounds_everything_stays(store: Store, collect: Collect) -> None:
    collect(record(0))
    assert prune(store, {"chat": RecordingPolicy()}, now_ns=NOW + 10**18) == {}
    assert kept(store) == [0]


def test_segments_are_remembered_for_a_month(store: Store, collect: Collect) -> None:
    collect(record(0))
    [row] = store.read("SELECT epoch_ns(collected_at) AS ns FROM segments")
    day = 86_400 * 10**9
    prune(store, {}, now_ns=row["ns"] + 29 * day)
    assert store.read("SELECT count(*) AS n FROM segments") == [{"n": 1}]
    prune(store, {}, now_ns=row["ns"] + 31 * day)
    assert store.read("SELECT count(*) AS n FROM segments") == [{"n": 0}]
