"""What was appended is read back once and whole, whatever dies."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from zlib import crc32

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.ledger.exchange import (
    OUTCOMES,
    ExchangeRecord,
    FeedbackRecord,
    LossRecord,
    RecordError,
    decode,
    encode,
)
from experiments.ledger.spool import SpoolError, SpoolWriter, read_segment, sealed_segments


def record(number: int = 0, **changes: object) -> ExchangeRecord:
    base = ExchangeRecord(
        exchange_id=f"id-{number}",
        request_id=f"id-{number}",
        started_ns=number,
        path="/v1/x",
        model="m",
        worker="w",
        request=b'{"a":1}',
        response=b"answer",
        chunk_us=(1, 2),
        chunk_ends=(3, 6),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


TIMES = st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple)


@given(
    st.binary(max_size=50),
    st.binary(max_size=50),
    TIMES,
    st.text(max_size=9),
    st.none() | st.text(max_size=5),
    st.sampled_from(sorted(OUTCOMES)),
)
def test_every_record_survives_its_bytes(request_, response, times, model, unit, outcome) -> None:
    whole = record(
        request=request_,
        response=response,
        chunk_us=times,
        chunk_ends=times,
        model=model,
        unit=unit,
        outcome=outcome,
    )
    raw = b"".join(encode(whole))
    assert decode(b"xx" + raw, 2) == (whole, len(raw) + 2)
    for damage in range(0, len(raw), 7):
        broken = bytearray(raw)
        broken[damage] ^= 0xFF
        with pytest.raises((RecordError, ValueError)):
            decode(bytes(broken), 0)


def test_small_records() -> None:
    loss = LossRecord(worker="w", since_ns=1, until_ns=2, count=3)
    feedback = FeedbackRecord(request_id="r", name="n", value=0.5, at_ns=1, worker="w")
    for small in (loss, feedback):
        assert decode(b"".join(encode(small)), 0)[0] == small


def test_append_seal_read(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w1")
    for number in range(5):
        assert writer.append(record(number))
    assert sealed_segments(tmp_path) == []
    writer.seal()
    writer.append(record(5))
    writer.close()
    paths = sealed_segments(tmp_path)
    assert [path.name for path in paths] == ["0000000000.seg", "0000000001.seg"]
    assert [r.exchange_id for p in paths for r in read_segment(p).records] == [f"id-{n}" for n in range(6)]
    for path in paths:
        path.unlink()
    assert sealed_segments(tmp_path) == []
    assert list(tmp_path.iterdir()) == [], "a dead worker's empty folder is removed"


def test_two_writers_cannot_share_a_folder(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w1")
    writer.append(record())
    with pytest.raises(SpoolError, match="--data"):
        SpoolWriter(tmp_path, "w1")
    writer.close()


def test_a_large_file_is_sealed_at_once(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w1", seal_bytes=1000)
    writer.append(record(response=b"x" * 2000))
    assert len(sealed_segments(tmp_path)) == 1
    writer.close()


def test_damage_costs_the_damaged_record_only(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w1")
    for number in range(3):
        writer.append(record(number))
    writer.close()
    (path,) = sealed_segments(tmp_path)
    raw = bytearray(path.read_bytes())
    one = len(raw) // 3
    raw[one + 30] ^= 1
    path.write_bytes(bytes(raw) + b"TXR1 torn tail")
    contents = read_segment(path)
    assert [r.exchange_id for r in contents.records] == ["id-0", "id-2"]
    assert contents.torn_bytes == one + len(b"TXR1 torn tail")


def tear(patch: pytest.MonkeyPatch) -> None:
    """The disk takes the first bytes of what it is given, and no more."""
    writev = os.writev
    patch.setattr("os.writev", lambda fd, parts: writev(fd, [parts[0][:8]]))


def test_a_short_write_leaves_whole_records_and_counts_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path, "w1")
    writer.append(record(0))
    with monkeypatch.context() as patch:
        tear(patch)
        assert not writer.append(record(1))
        assert not writer.append(record(2, request=b"r" * 100_000))
    assert writer.append(record(3))
    writer.close()
    (path,) = sealed_segments(tmp_path)
    contents = read_segment(path)
    assert contents.torn_bytes == 0
    first, loss, last = contents.records
    assert (first.exchange_id, loss.count, last.exchange_id) == ("id-0", 2, "id-3")


CHILD = """
import sys
from pathlib import Path
from experiments.ledger.spool import SpoolWriter
from tests.experiments.ledger.test_spool import record
writer = SpoolWriter(Path(sys.argv[1]), "doomed", seal_bytes=5000)
number = 0
while True:
    writer.append(record(number))
    number += 1
    print(number, flush=True)
"""


def test_sigkill_loses_nothing_that_append_returned_for(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(500):
        acknowledged = int(child.stdout.readline())
    assert sealed_segments(tmp_path), "full files of a living worker may be read"
    # Between two files there is none for a moment: looked for more than once.
    assert any(list(tmp_path.glob("doomed/*.open")) for _ in range(10_000)), "the open one may not"
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()
    child.wait()
    child.stdout.close()
    acknowledged = int(rest[-1]) if rest else acknowledged
    numbers = [r.started_ns for p in sealed_segments(tmp_path) for r in read_segment(p).records]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) in (acknowledged, acknowledged + 1)


def test_every_field_of_a_record_travels_in_its_place() -> None:
    """Each field has a value of its own, so that none can stand for another."""
    filled = ExchangeRecord(**{field.name: field.name for field in fields(ExchangeRecord)})  # type: ignore[arg-type]
    head = orjson.loads(
        b"".join(encode(replace(filled, request=b"", response=b"", chunk_us=(), chunk_ends=())))[24:]
    )
    names = [field.name for field in fields(ExchangeRecord)]
    assert head == [name for name in names if name not in ("request", "response", "chunk_us", "chunk_ends")]


def with_fields_added(pieces: list[bytes]) -> bytes:
    """What a worker writes whose records have more fields than are known here."""
    raw = b"".join(pieces)
    size = int.from_bytes(raw[8:12], "little")
    head = orjson.loads(raw[24 : 24 + size])
    if isinstance(head, list):
        head += ["added", 7]
    else:
        head |= {"added": 7}
    longer = orjson.dumps(head)
    body = struct.pack("<I", len(longer)) + raw[12:24] + longer + raw[24 + size :]
    return raw[:4] + struct.pack("<I", crc32(body)) + body


def test_of_a_newer_worker_all_that_is_known_is_read_and_nothing_is_lost(tmp_path: Path) -> None:
    written = [
        record(1),
        LossRecord(worker="w", since_ns=1, until_ns=2, count=3),
        FeedbackRecord(request_id="r", name="n", value=0.5, at_ns=1, worker="w"),
        record(2, request=bytes(70_000)),
    ]
    segment = tmp_path / "1.seg"
    segment.write_bytes(b"".join(with_fields_added(encode(one)) for one in written))
    contents = read_segment(segment)
    assert (contents.records, contents.torn_bytes) == (tuple(written), 0)


def test_the_record_names_every_field_of_the_contract() -> None:
    assert {"assigned_arm", "served_arm", "arm_outcome", "phase", "snapshot", "unit"} <= {
        f.name for f in fields(record())
    }


def test_what_cannot_be_taken_back_ends_the_file_and_no_later_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torn record that stays must not shift where the next one is believed to end."""
    writer = SpoolWriter(tmp_path, "w1")
    writer.append(record(0))

    def refuse(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        tear(patch)
        patch.setattr("os.ftruncate", refuse)
        assert not writer.append(record(1))
    assert writer.append(record(2))
    with monkeypatch.context() as patch:
        tear(patch)
        assert not writer.append(record(3))
    writer.close()
    rows = [r for path in sealed_segments(tmp_path) for r in read_segment(path).records]
    assert [r.exchange_id for r in rows if isinstance(r, ExchangeRecord)] == ["id-0", "id-2"]


def test_a_close_that_fails_does_not_stop_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, "w1")
    writer.append(record(0))
    real = os.close

    def fails(fd: int) -> None:
        real(fd)
        raise OSError("no space left, said at closing")

    with monkeypatch.context() as patch:
        patch.setattr("os.close", fails)
        writer.seal()
    assert writer.append(record(1))
    writer.close()
    assert len([r for path in sealed_segments(tmp_path) for r in read_segment(path).records]) == 2


def test_a_file_that_could_not_be_handed_over_is_handed_over_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path, "w1")
    writer.append(record(0))

    def refuse(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        writer.seal()
    assert not sealed_segments(tmp_path)
    writer.seal()
    assert len(sealed_segments(tmp_path)) == 1
    writer.close()


def test_a_closed_spool_takes_nothing(tmp_path: Path) -> None:
    """Its folder may be adopted and gone any moment: a late record is a counted loss, not an orphan."""
    writer = SpoolWriter(tmp_path, "w1")
    writer.close()
    assert not writer.append(record(0))
    assert writer.lost == 1
    assert not list(tmp_path.rglob("*.open"))


def test_one_folder_that_cannot_be_adopted_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for worker in ("bad", "good"):
        writer = SpoolWriter(tmp_path, worker)
        writer.append(record(0))
        os.close(writer._lock)  # it is dead, and its file was left open
        os.close(writer._fd)
    rename = Path.rename

    def refuses(path: Path, target: Path) -> Path:
        if path.parent.name == "bad":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuses)
        assert [path.parent.name for path in sealed_segments(tmp_path)] == ["good"]
    assert [path.parent.name for path in sealed_segments(tmp_path)] == ["bad", "good"]
