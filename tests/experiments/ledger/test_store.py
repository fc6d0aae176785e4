"""One file, one owner, one writer: transactions, readers, and what happens around the edges."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from experiments.ledger import store as module
from experiments.ledger.schema import LedgerClosed, LedgerError, LedgerHeld
from experiments.ledger.store import Store, instant, nanoseconds


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "ledger.duckdb", threads=2) as opened:
        opened.write(lambda c: c.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
        yield opened


def count(store: Store) -> int:
    found: int = store.read("SELECT count(*) AS n FROM t")[0]["n"]
    return found


def test_a_write_gives_back_its_result_and_is_seen(store: Store) -> None:
    assert store.write(lambda c: c.execute("INSERT INTO t VALUES (1), (2) RETURNING n").fetchall()) == [
        (1,),
        (2,),
    ]
    assert store.read("SELECT n FROM t WHERE n > ? ORDER BY n", [1]) == [{"n": 2}]


def test_a_write_that_fails_leaves_nothing_behind_and_raises_at_the_caller(store: Store) -> None:
    def change(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("INSERT INTO t VALUES (1)")

    with pytest.raises(duckdb.ConstraintException):
        store.write(change)
    assert count(store) == 0
    store.write(lambda c: c.execute("INSERT INTO t VALUES (1)"))
    assert count(store) == 1


def test_writes_of_many_threads_go_one_after_another(store: Store) -> None:
    def increment(_: int) -> None:
        store.write(lambda c: c.execute("INSERT INTO t SELECT coalesce(max(n), 0) + 1 FROM t"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(increment, range(80)))
    assert store.read("SELECT count(*) AS n, max(n) AS last FROM t") == [{"n": 80, "last": 80}]


def test_readers_see_what_was_committed_while_a_write_is_under_way(store: Store) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def change(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        inside.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(store.write, change)
        assert inside.wait(30)
        assert count(store) == 0
        go_on.set()
        done.result()
    assert count(store) == 1


def test_many_readers_beside_a_writer(store: Store) -> None:
    with ThreadPoolExecutor(6) as threads:
        writes = [
            threads.submit(store.write, lambda c, n=n: c.execute("INSERT INTO t VALUES (?)", [n]))
            for n in range(60)
        ]
        reads = [threads.submit(count, store) for _ in range(200)]
        assert all(0 <= read.result() <= 60 for read in reads)
        for write in writes:
            write.result()
    assert count(store) == 60


def test_a_write_inside_a_write_is_refused_instead_of_hanging(store: Store) -> None:
    with pytest.raises(LedgerError, match="inside a write"):
        store.write(lambda _: store.write(lambda c: c.execute("INSERT INTO t VALUES (1)")))


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "a" / "ledger.duckdb"
    with Store(path) as store:
        store.write(lambda c: c.execute("INSERT INTO settings VALUES ('k', 'v')"))
    with Store(path) as store:
        assert store.read("SELECT * FROM settings") == [{"key": "k", "value": "v"}]


def test_another_process_is_told_in_one_line_who_has_it(store: Store) -> None:
    script = (
        "import sys; from pathlib import Path; from experiments.ledger.store import Store\n"
        "from experiments.ledger.schema import LedgerHeld\n"
        "try: Store(Path(sys.argv[1]))\n"
        "except LedgerHeld as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(store.path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.count("\n") == 1
    assert f"(PID {os.getpid()})" in said
    assert "held by another process" in said


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    path.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(LedgerError, match="cannot be opened") as caught:
        Store(path)
    assert not isinstance(caught.value, LedgerHeld)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be opened"):
        Store(tmp_path / "file" / "ledger.duckdb")


def test_a_path_that_duckdb_takes_for_another_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """What follows a `?` it takes for options of the address, where it puts its log."""
    folder = tmp_path / "what?"
    with pytest.raises(LedgerError, match=r"cannot be opened: DuckDB takes no `\?` .* another data folder"):
        Store(folder / "ledger.duckdb")
    assert not folder.exists()


def test_a_path_may_hold_anything_else(tmp_path: Path) -> None:
    folder = tmp_path / "a b'c\"d#e%20f%2Fg&h;ü[1]{2}*=\\x"
    for _ in range(2):
        with Store(folder / "ledger.duckdb") as store:
            store.write(lambda c: c.execute("CREATE OR REPLACE TABLE t AS SELECT 1"))
            assert store.size() > 0
    assert [file.name for file in folder.iterdir()] == ["ledger.duckdb"]


def test_deleted_side_files_do_no_harm(store: Store) -> None:
    store.write(lambda c: c.execute("INSERT INTO t VALUES (1)"))
    side = [path for path in store.path.parent.iterdir() if path != store.path]
    assert side, "the test deletes nothing"
    for path in side:
        path.unlink()
    store.write(lambda c: c.execute("INSERT INTO t VALUES (2)"))
    store.checkpoint()
    assert count(store) == 2
    store.close()
    with Store(store.path) as again:
        assert count(again) == 2


def test_after_closing_nothing_is_done(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(LedgerClosed):
        store.read("SELECT 1")
    with pytest.raises(LedgerClosed):
        store.write(lambda c: None)


def test_closing_finishes_what_waits(store: Store) -> None:
    with ThreadPoolExecutor(4) as threads:
        writes = [
            threads.submit(store.write, lambda c, n=n: c.execute("INSERT INTO t VALUES (?)", [n]))
            for n in range(4)
        ]
        writes[0].result()
        store.close()
    done = sum(write.exception() is None for write in writes)
    with Store(store.path) as again:
        assert count(again) == done


def test_opening_and_closing_leaves_no_threads_or_files(tmp_path: Path) -> None:
    Store(tmp_path / "warm.duckdb").close()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for n in range(5):
        Store(tmp_path / f"{n}.duckdb").close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


def test_times_are_utc_whatever_the_zone_of_a_parameter(store: Store) -> None:
    east = datetime(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=3)))
    store.write(lambda c: c.execute("CREATE TABLE w (x TIMESTAMP)"))
    store.write(lambda c: c.execute("INSERT INTO w VALUES (?)", [east]))
    found = store.read("SELECT x FROM w WHERE x <= ?", [east])[0]["x"]
    assert found == datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    assert nanoseconds(found) == nanoseconds(east)


def test_instants_and_nanoseconds_are_inverse() -> None:
    ns = 1_763_703_060_123_456_789
    assert instant(ns) == datetime(2025, 11, 21, 5, 31, 0, 123456, tzinfo=UTC).replace(tzinfo=None)
    assert nanoseconds(instant(ns)) == ns // 1000 * 1000
    assert nanoseconds(datetime(1970, 1, 1, tzinfo=UTC)) == 0


def test_size_counts_what_lies_on_disk(store: Store) -> None:
    assert store.size() == sum(path.stat().st_size for path in store.path.parent.iterdir())


def test_a_log_that_was_deleted_costs_nothing_once_something_else_is_written(tmp_path: Path) -> None:
    """Two processes: what the killed one had committed must not have ended with it."""
    code = f"""
import os, signal
from pathlib import Path
from types import SimpleNamespace
from experiments.ledger.store import Store
store = Store(Path({str(tmp_path / "ledger.duckdb")!r}))
store.checkpoint()
store.write(lambda c: c.execute("INSERT INTO settings VALUES ('before', '1')"))
os.unlink({str(tmp_path / "ledger.duckdb.wal")!r})
store.write(lambda c: c.execute("INSERT INTO settings VALUES ('after', '1')"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with Store(tmp_path / "ledger.duckdb") as store:
        assert {row["key"] for row in store.read("SELECT key FROM settings")} >= {"before", "after"}


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 24 MiB for a ledger, whose log is short in proportion."""
    monkeypatch.setattr(module, "_LOG_BYTES", 1 << 20)
    monkeypatch.setattr(module, "_MARGIN_BYTES", 2 << 20)
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(store: Store) -> duckdb.Error:
    """Write until that fails, 200 KB at a time; with what it failed."""
    for number in range(1000):
        row = [f"k{number}", os.urandom(100_000).hex()]
        try:
            store.write(lambda c, row=row: c.execute("INSERT INTO settings VALUES (?, ?)", row))  # type: ignore[misc]
        except duckdb.Error as error:
            return error
    raise AssertionError("the disk has no end")


def test_on_a_full_disk_a_write_fails_and_the_ledger_goes_on(small_disk: Path) -> None:
    with Store(small_disk / "ledger.duckdb", threads=2) as store:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - (12 << 20)))
        error = fill(store)
        assert "No space left" in str(error)
        assert not isinstance(error, duckdb.FatalException)
        before = store.read("SELECT count(*) AS n FROM settings")[0]["n"]
        ballast.unlink()
        store.write(lambda c: c.execute("INSERT INTO settings VALUES ('there is room', '1')"))
        assert store.read("SELECT count(*) AS n FROM settings")[0]["n"] == before + 1 > 30
        assert not store.lost


def test_a_ledger_that_duckdb_has_given_up_says_so(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "_mind_room", lambda self: self._let_log_grow(False))
    with Store(small_disk / "ledger.duckdb", threads=2) as store:
        assert isinstance(fill(store), duckdb.FatalException)
        assert store.lost
    with Store(small_disk / "ledger.duckdb", threads=2) as store:
        assert store.read("SELECT count(*) AS n FROM settings")[0]["n"] > 30


def test_the_file_is_written_anew_while_others_read_and_write(store: Store) -> None:
    """What was deleted is not in it; nobody's read or write fails, and none is lost."""
    store.write(lambda c: c.execute("CREATE TABLE words (w VARCHAR)"))
    store.write(lambda c: c.execute("INSERT INTO words SELECT 'Zq7marker' || i FROM range(500) r(i)"))
    store.checkpoint()
    store.write(lambda c: c.execute("DELETE FROM words"))
    stopping = threading.Event()

    def add(start: int) -> int:
        n = start
        while not stopping.is_set():
            store.write(lambda c, n=n: c.execute("INSERT INTO t VALUES (?)", [n]))
            n += 1
        return n - start

    def look() -> int:
        seen = 0
        while not stopping.is_set():
            with store.reading():  # a read within a read must not wait for itself
                now = count(store)
            assert now >= seen
            seen = now
        return seen

    with ThreadPoolExecutor(4) as threads:
        writers = [threads.submit(add, start) for start in (0, 1_000_000)]
        readers = [threads.submit(look) for _ in range(2)]
        for _ in range(5):
            store.rewrite()
        stopping.set()
        added = sum(one.result(timeout=30) for one in writers)
        [one.result(timeout=30) for one in readers]
    assert count(store) == added > 0
    assert b"Zq7marker" not in store.path.read_bytes()
    assert [path.name for path in store.path.parent.iterdir() if "rewritten" in path.name] == []


def test_a_rewriting_gives_up_where_somebody_reads_all_the_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.ledger.store._READERS_S", 0.2)
    store.write(lambda c: c.execute("INSERT INTO t VALUES (1)"))
    with store.reading() as cursor:
        with pytest.raises(LedgerError, match="being read"):
            store.rewrite()
        assert cursor.execute("SELECT count(*) FROM t").fetchone() == (1,)
    store.rewrite()
    store.write(lambda c: c.execute("INSERT INTO t VALUES (2)"))
    assert count(store) == 2


def test_rows_whose_numbers_would_change_stay_in_their_file(store: Store) -> None:
    """A look's cut is a row number: the same number must mean the same row for ever."""
    insert = "INSERT INTO feedback (request_id, name, value, \"at\", segment) VALUES (?, 'n', 1, now(), 's')"
    for name in "abc":
        store.write(lambda c, name=name: c.execute(insert, [name]))
    store.rewrite()
    assert [row["rowid"] for row in store.read("SELECT rowid FROM feedback")] == [0, 1, 2]
    store.write(lambda c: c.execute("DELETE FROM feedback WHERE request_id = 'b'"))
    with pytest.raises(LedgerError, match="other numbers"):
        store.rewrite()
    assert [row["request_id"] for row in store.read("SELECT request_id FROM feedback")] == ["a", "c"]


def test_without_room_the_ledger_stays_as_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    store.write(lambda c: c.execute("INSERT INTO t VALUES (1)"))
    store.checkpoint()
    with pytest.raises(LedgerError, match="are free"):
        store.rewrite()
    assert count(store) == 1


def test_what_a_killed_rewriting_left_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    Store(path).close()
    left = tmp_path / "ledger.duckdb.rewritten"
    left.write_bytes(b"half a copy")
    Store(path).close()
    assert not left.exists()
