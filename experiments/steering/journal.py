"""How is a rollback remembered when the disk is full and the database does not answer?

A file of a fixed size, written out when the controller starts, so that writing into it needs no space. Two
slots are used in turn, each with a number and a checksum: a torn write costs the slot being written and
never the one before it. Knows nothing of what it keeps.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any, Final

import orjson

SLOT_BYTES: Final = 256 * 1024
_HEADER: Final = struct.Struct(">8sQII")  # magic, number, length, checksum
_MAGIC: Final = b"TURNOUT1"


class JournalFull(ValueError):
    """More than a slot holds."""


class Journal:
    """A small list of JSON objects that survives crashes and needs no free disk. One process at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._number, self._entries = self._load()

    def _load(self) -> tuple[int, list[dict[str, Any]]]:
        self._allocate()
        raw = self._file.read_bytes()
        found = [_read(raw[start : start + SLOT_BYTES]) for start in (0, SLOT_BYTES)]
        return max((slot for slot in found if slot is not None), key=lambda slot: slot[0], default=(0, []))

    def _allocate(self) -> None:
        """Zeros that are really written: blocks that are merely promised may be missing when it counts."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as out:
            missing = 2 * SLOT_BYTES - out.tell()
            if missing > 0:
                out.write(bytes(missing))
                out.flush()
                os.fsync(out.fileno())

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What is kept, the oldest first."""
        with self._lock:
            return list(self._entries)

    def add(self, entry: dict[str, Any]) -> None:
        """Keep one more. Raises OSError, JournalFull; then it is not kept."""
        with self._lock:
            self._write([*self._entries, entry])

    def remove(self, key: str, value: Any) -> None:
        """Drop the entries whose `key` is `value`. Raises OSError."""
        with self._lock:
            kept = [entry for entry in self._entries if entry.get(key) != value]
            if len(kept) != len(self._entries):
                self._write(kept)

    def _write(self, entries: list[dict[str, Any]]) -> None:
        body = orjson.dumps(entries)
        if _HEADER.size + len(body) > SLOT_BYTES:
            raise JournalFull(f"{len(entries)} entries do not fit into {SLOT_BYTES} bytes")
        number = self._number + 1
        header = _HEADER.pack(_MAGIC, number, len(body), zlib.crc32(body))
        with self._file.open("r+b") as out:
            out.seek(number % 2 * SLOT_BYTES)
            out.write(header + body)
            out.flush()
            os.fsync(out.fileno())
        self._number, self._entries = number, entries


def _read(slot: bytes) -> tuple[int, list[dict[str, Any]]] | None:
    if len(slot) < _HEADER.size:
        return None
    magic, number, length, checksum = _HEADER.unpack_from(slot)
    body = slot[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or len(body) != length or zlib.crc32(body) != checksum:
        return None
    return number, orjson.loads(body)
