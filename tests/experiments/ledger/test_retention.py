"""Bodies go by age and by size, the oldest first; the numbers stay."""

from __future__ import annotations

from experiments.ledger.recording import RecordingPolicy
from experiments.ledger.retention import Retention, prune
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


def test_a_clock_that_jumps_ahead_deletes_nothing_until_it_has_said_so_for_an_hour(
    store: Store, collect: Collect
) -> None:
    collect(*(record(n * HOUR) for n in range(10)))
    policies, running = {"chat": RecordingPolicy(keep_s=8.5 * 3600)}, [0.0]
    retention, year = Retention(store, clock=lambda: running[0]), 365 * 86_400 * 10**9
    assert retention.prune(policies, now_ns=NOW) == {"chat": 2}
    running[0] += 60
    assert retention.prune(policies, now_ns=NOW + year) == {}
    running[0] += 60
    assert retention.prune(policies, now_ns=NOW + 120 * 10**9) == {}  # it was set right
    running[0] += 3600
    assert retention.prune(policies, now_ns=NOW + 3720 * 10**9) == {"chat": 1}, "time goes on"
    # A controller that begins while it is wrong knows no better than its predecessor.
    again = Retention(store, clock=lambda: running[0])
    assert again.prune(policies, now_ns=NOW + year) == {}
    running[0] += 1800
    assert again.prune(policies, now_ns=NOW + year) == {"chat": 1}, "time goes on"
    running[0] += 1800
    assert again.prune(policies, now_ns=NOW + year + 3600 * 10**9) == {"chat": 6}, "a machine that slept"
    assert kept(store) == []
