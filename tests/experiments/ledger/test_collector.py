"""From spool to ledger: each record once, whatever is killed, torn, poisoned or in the way."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from experiments.ledger import collector as module
from experiments.ledger.collector import QUARANTINE, Collected, Collector
from experiments.ledger.exchange import FeedbackRecord, LossRecord, Record, encode
from experiments.ledger.recording import RecordingPolicy
from experiments.ledger.retention import prune
from experiments.ledger.spool import SpoolWriter, read_segment
from experiments.ledger.store import Store
from experiments.patterns import compiled

from .conftest import Collect
from .samples import START_NS, chat_request, chat_stream, even_chunks, record


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def write(spool: Path, *records: Record, worker: str = "w1") -> None:
    """What a worker that ended in peace leaves."""
    writer = SpoolWriter(spool, worker)
    for each in records:
        assert writer.append(each)
    writer.close()


def numbers(store: Store, table: str = "exchanges") -> int:
    found: int = store.read(f"SELECT count(*) AS n FROM {table}")[0]["n"]
    return found


def test_every_kind_of_record_arrives(store: Store, spool: Path) -> None:
    write(
        spool,
        record(1, experiment="e", unit="u", assigned_arm="control", stream=True,
               content_type="text/event-stream", **even_chunks(chat_stream(["a", "b"]), 40)),
        record(2),
        FeedbackRecord(request_id="r", name="stars", value=4.0, at_ns=START_NS, worker="w1"),
        LossRecord(worker="w1", since_ns=START_NS, until_ns=START_NS + 1000, count=3),
    )  # fmt: skip
    got = Collector(store, spool).collect_once()
    assert got == Collected(segments=1, records=4, exchanges=2, bodies=2, feedback=1, lost=3)
    first = store.read("SELECT * FROM exchanges ORDER BY started_at")[0]
    assert (first["outcome"], first["experiment"], first["assigned_arm"]) == ("complete", "e", "control")
    assert (first["prompt_tokens"], first["completion_tokens"], first["chunks"]) == (7, 2, 2)
    assert 1 < first["ttft_ms"] <= first["duration_ms"]
    assert first["segment"] == store.read("SELECT name FROM segments")[0]["name"]
    assert store.read("SELECT prompt, text FROM bodies ORDER BY started_at")[0] == {
        "prompt": "how did it go?",
        "text": "ab",
    }
    assert store.read("SELECT value FROM feedback") == [{"value": 4.0}]
    assert store.read("SELECT count FROM losses") == [{"count": 3}]


def test_the_spool_is_empty_afterwards_and_a_second_round_finds_nothing(store: Store, spool: Path) -> None:
    write(spool, record(1))
    collector = Collector(store, spool)
    collector.collect_once()
    assert list(spool.rglob("*.seg")) == []
    assert collector.collect_once() == Collected()
    assert numbers(store) == 1


def test_no_spool_yet_is_nothing_to_do(store: Store, spool: Path) -> None:
    assert Collector(store, spool).collect_once() == Collected()


def test_what_is_being_written_waits_and_what_the_dead_left_is_adopted(store: Store, spool: Path) -> None:
    alive, dead = SpoolWriter(spool, "alive"), SpoolWriter(spool, "dead")
    alive.append(record(1))
    dead.append(record(2))
    os.close(dead._lock)  # what the kernel does when a process dies
    collector = Collector(store, spool)
    assert collector.collect_once().exchanges == 1
    alive.seal()
    assert collector.collect_once().exchanges == 1
    alive.close()
    os.close(dead._fd)


def test_a_segment_that_is_in_the_ledger_is_only_deleted(store: Store, spool: Path) -> None:
    """The collector was killed between commit and delete."""
    write(spool, record(1))
    [segment] = spool.rglob("*.seg")
    content = segment.read_bytes()
    collector = Collector(store, spool)
    collector.collect_once()
    segment.parent.mkdir(exist_ok=True)
    (segment.parent / "owner.lock").touch()
    segment.write_bytes(content)
    assert collector.collect_once() == Collected()
    assert (numbers(store), segment.exists()) == (1, False)


def test_a_new_worker_with_the_name_of_a_dead_one_is_not_taken_for_it(store: Store, spool: Path) -> None:
    collector = Collector(store, spool)
    for number in (1, 2):
        write(spool, record(number), worker="w1")
        collector.collect_once()
        collector.collect_once()  # the empty folder goes
    assert numbers(store) == 2


def test_what_cannot_be_deleted_is_never_taken_in_again(
    store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(spool, record(1))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    collector = Collector(store, spool)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        for days in (0, 31, 62):
            collector.collect_once()
            assert list(collector.stuck.values()) == ["Permission denied"]
            prune(store, {}, now_ns=time.time_ns() + days * 86_400 * 10**9, stuck=collector.stuck)
        assert caplog.text.count("cannot delete the segment") == 1
    assert collector.collect_once().records == 0
    assert (numbers(store), list(spool.rglob("*.seg")), dict(collector.stuck)) == (1, [], {})
    prune(store, {}, now_ns=time.time_ns() + 31 * 86_400 * 10**9, stuck=collector.stuck)
    assert numbers(store, "segments") == 0


def test_a_torn_tail_is_counted_and_the_rest_arrives(
    store: Store, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(spool, record(1), record(2))
    [segment] = spool.rglob("*.seg")
    segment.write_bytes(segment.read_bytes()[:-10])
    torn = sum(map(len, encode(record(2)))) - 10
    got = Collector(store, spool).collect_once()
    assert (got.exchanges, got.torn_bytes) == (1, torn)
    assert store.read("SELECT torn_bytes FROM segments") == [{"torn_bytes": torn}]
    assert "are no record" in caplog.text


POISON = [
    {"status": "two hundred"},
    {"started_ns": 2**63 - 1},
    {"started_ns": -5},
    {"outcome": "splendid"},
    {"model": None},
    {"served_version": 2**40},
    {"unit": 7},
    {"duration_us": None},
]


@pytest.mark.parametrize("field", POISON, ids=lambda field: next(iter(field)))
def test_poison_is_set_aside_and_the_rest_arrives(
    store: Store, spool: Path, field: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    poison = record(2, **field)
    write(spool, record(1), poison, record(3))
    got = Collector(store, spool).collect_once()
    assert (got.exchanges, got.quarantined) == (2, 1)
    assert store.read("SELECT records, quarantined FROM segments") == [{"records": 2, "quarantined": 1}]
    [kept] = (spool / QUARANTINE).iterdir()
    assert read_segment(kept).records == (poison,)
    assert "set aside" in caplog.text
    assert list((spool).glob("*/*.seg")) == [kept]
    assert Collector(store, spool).collect_once() == Collected()


@pytest.mark.parametrize("recording", ["numbers", "redacted"])
def test_what_is_set_aside_has_no_body_that_is_not_to_be_kept(
    store: Store, spool: Path, recording: str
) -> None:
    write(spool, record(1, recording=recording, outcome="odd"), record(2, model=["odd"]))
    assert Collector(store, spool).collect_once().quarantined == 2
    [kept] = (spool / QUARANTINE).iterdir()
    assert [one.request for one in read_segment(kept).records] == [b"", b""]  # type: ignore[union-attr]
    assert not re.search(b"hello", kept.read_bytes())


def test_feedback_that_is_no_number_is_set_aside(store: Store, spool: Path) -> None:
    words = FeedbackRecord(request_id="r", name="s", value="NaN", at_ns=START_NS, worker="w")  # type: ignore[arg-type]
    write(spool, record(1), words)
    got = Collector(store, spool).collect_once()
    assert (got.exchanges, got.feedback, got.quarantined) == (1, 0, 1)


def test_rows_that_only_the_database_refuses_do_not_stop_the_others(
    store: Store, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`rows` knows every constraint of today's tables; this is for one that somebody adds tomorrow."""
    store.write(lambda c: c.execute("DROP TABLE feedback"))
    store.write(
        lambda c: c.execute(
            "CREATE TABLE feedback (request_id VARCHAR, name VARCHAR, value DOUBLE CHECK (value < 5),"
            ' "at" TIMESTAMP, segment VARCHAR, unit VARCHAR, key VARCHAR)'
        )
    )
    write(spool, record(1), worker="w1")
    bad = FeedbackRecord(request_id="r", name="stars", value=9.0, at_ns=START_NS, worker="w2")
    write(spool, bad, record(2), worker="w2")
    write(spool, record(3), worker="w3")
    got = Collector(store, spool).collect_once()
    assert (got.exchanges, got.quarantined, got.segments) == (2, 2, 3)
    [kept] = (spool / QUARANTINE).iterdir()
    assert len(read_segment(kept).records) == 2
    assert "set aside whole" in caplog.text
    assert list(spool.glob("w*/*.seg")) == []


def test_a_fault_of_the_store_loses_nothing(
    store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(spool, record(1))
    collector = Collector(store, spool)

    def full(*_: object) -> None:
        raise duckdb.IOException("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_fill", full)
        with pytest.raises(duckdb.IOException):
            collector.collect_once()
    assert (numbers(store), numbers(store, "segments")) == (0, 0)
    assert collector.collect_once().exchanges == 1


def test_an_unreadable_segment_stays_and_holds_up_nobody(
    store: Store, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(spool, record(1), worker="w1")
    (spool / "w1" / "0000000009.seg").mkdir()
    got = Collector(store, spool).collect_once()
    assert (got.exchanges, got.waiting) == (1, 1)
    assert "stays in the spool" in caplog.text


def test_large_spools_go_in_by_batches(store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_SEGMENTS", 3)
    for number in range(10):
        write(spool, record(number), worker=f"w{number}")
    sizes: list[int] = []
    insert = module._insert
    monkeypatch.setattr(
        module, "_insert", lambda connection, batch: (sizes.append(len(batch)), insert(connection, batch))
    )
    assert Collector(store, spool).collect_once().exchanges == 10
    assert sizes == [3, 3, 3, 1]


def test_recording_decides_what_is_kept(store: Store, spool: Path) -> None:
    secret = "mail ada@example.org now"
    stream = even_chunks(chat_stream(["ada@exam", "ple.org wrote"]), 50)
    stream |= {"content_type": "text/event-stream", "request": chat_request(secret)}
    write(
        spool,
        record(1, model="open", **stream),
        record(2, model="careful", **stream),
        record(3, model="silent", **stream),
        record(4, model="open", recording="numbers", **stream),
        record(5, model="open", recording="redacted", **stream),
    )
    careful = RecordingPolicy(recording="redacted", redact=(compiled(r"\w+@[\w.]+"),))
    policies = {"careful": careful, "silent": RecordingPolicy(recording="numbers")}
    got = Collector(store, spool, policies).collect_once()
    assert (got.exchanges, got.bodies) == (5, 2)
    kept = {row["model"]: row for row in store.read("SELECT * FROM bodies")}
    assert kept["open"]["text"] == "ada@example.org wrote"
    assert kept["careful"]["redacted"]
    assert (kept["careful"]["text"], kept["careful"]["prompt"]) == ("[redacted] wrote", "mail [redacted] now")
    # The stream itself is not kept: a pattern may be spread over its events.
    assert kept["careful"]["response"] is None
    assert "ada" not in repr(kept["careful"])


KILLED = """
import sys
from pathlib import Path
from experiments.ledger.collector import Collector
from experiments.ledger.store import Store
data = Path(sys.argv[1])
with Store(data / "ledger.duckdb", threads=1) as store:
    print("open", flush=True)
    Collector(store, data / "spool").collect_once()
print("done", flush=True)
"""


@pytest.mark.slow
def test_each_record_once_though_the_collector_is_killed_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    chance = random.Random(7)
    total = 0
    for worker in range(60):
        writer = SpoolWriter(tmp_path / "spool", f"w{worker}", seal_bytes=40_000)
        for _ in range(100):
            assert writer.append(record(total, **even_chunks(chat_stream(["a"] * 30), 200)))
            total += 1
        writer.close()
    kills = 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            process.wait(timeout=chance.uniform(0.0, 0.5))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        finally:
            process.communicate()
    assert kills >= 3, "the collector was too fast to be killed"
    with Store(tmp_path / "ledger.duckdb", threads=1) as store:
        Collector(store, tmp_path / "spool").collect_once()
        counted = "SELECT count(*) AS n, count(DISTINCT exchange_id) AS once FROM "
        assert store.read(counted + "exchanges") == [{"n": total, "once": total}]
        assert store.read(counted + "bodies") == [{"n": total, "once": total}]
    assert list((tmp_path / "spool").rglob("*.seg")) == []


# -- feedback ----------------------------------------------------------------------------------------------


def said(at_s: float, **fields: Any) -> FeedbackRecord:
    plain = {"name": "ok", "value": 1.0, "worker": "w", "at_ns": START_NS + int(at_s * 1e9)}
    return FeedbackRecord(**plain | fields)


def heard(store: Store) -> list[tuple[Any, ...]]:
    rows = store.read('SELECT request_id, value FROM feedback ORDER BY "at", value')
    return [(row["request_id"], row["value"]) for row in rows]


def test_feedback_about_a_unit_is_about_its_last_answer_before(store: Store, collect: Collect) -> None:
    first, second, other = record(1000, unit="u"), record(2000, unit="u"), record(2500, unit="v")
    copy = record(2600, unit="u", role="shadow", pair_id=second.exchange_id)
    collect(first, second, other, copy, said(1.5, unit="u", value=1.0), said(900_000, unit="u", value=2.0))
    collect(said(0.5, unit="u", value=3.0), said(3, unit="nobody", value=4.0))
    assert heard(store) == [
        ("unit:u", 3.0), (first.request_id, 1.0), ("unit:nobody", 4.0), (second.request_id, 2.0),
    ]  # fmt: skip


def test_a_key_counts_once_within_a_batch_and_across(store: Store, collect: Collect) -> None:
    collect(said(1, request_id="r", key="k"), said(2, request_id="r", key="k", value=9.0))
    collect(said(3, request_id="r", key="k", value=9.0), said(4, request_id="s", key="l"))
    collect(said(5, request_id="t"))
    collect(said(6, request_id="t"))
    assert heard(store) == [("r", 1.0), ("s", 1.0), ("t", 1.0), ("t", 1.0)]
