"""How does a record outlive the process that wrote it, and reach the collector exactly once?

A worker owns a folder under the spool and appends to one file in it at a time; `os.writev` hands the
bytes to the kernel, which keeps them when the worker is killed. Files are sealed by renaming them, and
only sealed files are read. A lock that the worker holds for life tells the living from the dead, so
that what a killed worker left open can be adopted. Traffic comes first: a full disk costs records,
which are counted, and never a request.

    spool/<worker>/owner.lock        held while the worker lives
    spool/<worker>/0000000007.open   being appended to
    spool/<worker>/0000000006.seg    sealed: may be read, and is deleted once it is in the ledger
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .exchange import MAGIC, LossRecord, Record, RecordError, decode, encode

SEAL_BYTES = 8 << 20
#: Up to this, records that are ready at the same time are copied together for one write.
_TOGETHER_BYTES = 1 << 20


class SpoolError(RuntimeError):
    """The spool cannot be used at all."""


class SpoolWriter:
    """The one writer of a worker's folder. Synchronous: an append is one `writev` into the page cache."""

    def __init__(self, root: Path, worker: str, *, seal_bytes: int = SEAL_BYTES) -> None:
        self.worker = worker
        self.written = 0
        self.lost = 0
        self.trouble = "unknown"  # why the last record that was lost could not be written
        self._folder = root / worker
        self._seal_bytes = seal_bytes
        self._sequence = 0
        self._fd = -1
        self._size = 0
        self._unsealed: list[Path] = []
        self._unreported: LossRecord | None = None
        self._lock = self._claim(root)

    def _claim(self, root: Path) -> int:
        """Make the folder, already locked when it becomes visible under its name."""
        making = root / f".{self.worker}"
        try:
            making.mkdir(parents=True)
            lock = os.open(making / "owner.lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            making.rename(self._folder)
        except OSError as error:
            raise SpoolError(f"cannot use {self._folder} as a spool: {error}; is --data writable?") from error
        return lock

    def append(self, record: Record) -> bool:
        """Write one record. False: it was lost, and the ledger will be told once writing works again."""
        return self._append(encode(record), 1)

    def append_all(self, records: Sequence[Record]) -> None:
        """Write records that are ready at the same time, if possible at once."""
        if len(records) == 1:
            self.append(records[0])
            return
        encoded = [encode(record) for record in records]
        parts = [part for each in encoded for part in each]
        if sum(map(len, parts)) <= _TOGETHER_BYTES and self._append([b"".join(parts)], len(encoded), lost=0):
            return
        for each in encoded:  # much at once, or a full disk that may have room for some
            self._append(each, 1)

    def _append(self, parts: list[bytes], records: int, *, lost: int = 1) -> bool:
        if self._unreported is not None and self._write(encode(self._unreported)):
            self._unreported = None
        if self._write(parts):
            self.written += records
            if self._size >= self._seal_bytes:
                self.seal()
            return True
        for _ in range(lost):
            self.count_loss()
        return False

    def _write(self, parts: list[bytes]) -> bool:
        size = sum(map(len, parts))
        try:
            if self._fd < 0:
                self._open()
            if os.writev(self._fd, parts) == size:
                self._size += size
                return True
            self.trouble = "the disk took a part only"
        except OSError as error:
            self.trouble = error.strerror or str(error)
        # Nothing or a part was written: take the part back, so that the file ends with a whole record.
        if self._fd >= 0:
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self.seal()  # the part stays, and nothing may follow whose place it would shift
        return False

    def _open(self) -> None:
        if self._lock < 0:
            raise OSError("the folder was given up")
        path = self._folder / f"{self._sequence:010}.open"
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        self._size = 0

    def count_loss(self) -> None:
        """One more record that is not in the spool; the ledger is told with the next append that works."""
        now = time.time_ns()
        before = self._unreported
        self.lost += 1
        self._unreported = LossRecord(
            worker=self.worker,
            since_ns=before.since_ns if before else now,
            until_ns=now,
            count=before.count + 1 if before else 1,
        )

    def seal(self) -> None:
        """Hand what was written to the collector: on a timer, when the file is large, and at the end."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):
                os.close(fd)
            self._unsealed.append(self._folder / f"{self._sequence:010}.open")
            self._sequence += 1
        # What cannot be renamed now is tried again, or adopted after this worker's end.
        with suppress(OSError):
            while self._unsealed:
                path = self._unsealed[0]
                with suppress(FileNotFoundError):
                    path.rename(path.with_suffix(".seg"))
                del self._unsealed[0]

    def close(self) -> None:
        """Seal, and give up the folder. Safe to repeat."""
        if self._unreported is not None and self._write(encode(self._unreported)):
            self._unreported = None
        self.seal()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentContents:
    """A segment's records in the order of writing, and the bytes that were no record."""

    records: tuple[Record, ...]
    torn_bytes: int


def read_segment(path: Path) -> SegmentContents:
    """All whole records of a segment."""
    return contents_of(path.read_bytes())


def contents_of(buffer: bytes) -> SegmentContents:
    """All whole records in such bytes. A torn tail, or damage in the middle, is skipped and counted."""
    records: list[Record] = []
    torn = 0
    offset = 0
    while offset < len(buffer):
        try:
            record, offset = decode(buffer, offset)
            records.append(record)
        except (RecordError, ValueError, TypeError):
            following = buffer.find(MAGIC, offset + 1)
            resume = following if following >= 0 else len(buffer)
            torn += resume - offset
            offset = resume
    return SegmentContents(records=tuple(records), torn_bytes=torn)


def sealed_segments(root: Path) -> list[Path]:
    """The segments that may be read, oldest first per worker; what dead workers left is adopted first."""
    found: list[Path] = []
    if not root.is_dir():
        return found
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        _adopt(folder)
        found += sorted(folder.glob("*.seg"))
    return found


def _adopt(folder: Path) -> None:
    """Seal the files of a worker that is dead; remove its folder when nothing is left in it.

    What cannot be done is tried again: it holds up no other worker's segments.
    """
    try:
        lock = os.open(folder / "owner.lock", os.O_RDWR)
    except OSError:
        return  # already removed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.glob("*.open"):
            path.rename(path.with_suffix(".seg"))
        if not any(path.suffix == ".seg" for path in folder.iterdir()):
            (folder / "owner.lock").unlink()
            with suppress(OSError):
                folder.rmdir()
    except OSError:
        pass  # alive, or a disk that refuses
    finally:
        os.close(lock)
