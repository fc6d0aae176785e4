"""What is a request called? A UUIDv7 (RFC 9562 §5.7): unique without talking, and sorted by time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain


def _batches() -> Iterator[Iterator[str]]:
    """The random parts of UUIDs, 72 bits each; 256 in a row have 24 of them in common."""
    while True:
        digits = os.urandom(6 + 256 * 6).hex(" ", 6).split()
        shared = digits.pop()
        yield map(f"-7{shared[:3]}-8{shared[3:6]}-".__add__, digits)


#: No step of it is Python's but one in hundreds.
_next_tail = chain.from_iterable(_batches()).__next__


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
