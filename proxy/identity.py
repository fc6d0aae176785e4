"""What is a request called? A UUIDv7 (RFC 9562 §5.7): unique without talking, and sorted by time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from functools import lru_cache


def _tails() -> Iterator[str]:
    """The random parts of UUIDs, 72 bits each; the kernel is asked for hundreds at once."""
    while True:
        text = os.urandom(4086).hex()
        for at in range(0, len(text), 18):
            yield f"-7{text[at : at + 3]}-8{text[at + 3 : at + 6]}-{text[at + 6 : at + 18]}"


_next_tail = _tails().__next__


@lru_cache(maxsize=4)
def _instant(milliseconds: int) -> str:
    """The part of a UUID that many requests have in common when there are many."""
    time = f"{milliseconds & (1 << 48) - 1:012x}"
    return f"{time[:8]}-{time[8:]}"


def new_id(now_ns: int) -> str:
    """A UUIDv7 for an instant in unix nanoseconds."""
    return _instant(now_ns // 1_000_000) + _next_tail()


def worker_name() -> str:
    """A name that no worker had before: it names the worker's spool folder and its rows."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower())[:32]
    return f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
