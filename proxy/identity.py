"""What is a request called? A UUIDv7 (RFC 9562 §5.7): unique without talking, and sorted by time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator


def _digits() -> Iterator[str]:
    """Nineteen random hexadecimal digits at a time; the kernel is asked for some hundred names at once."""
    while True:
        text = os.urandom(4085).hex()
        for at in range(0, len(text) - 18, 19):
            yield text[at : at + 19]


_random = _digits()
#: The two bits 10 and two of the random ones.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def new_id(now_ns: int) -> str:
    """A UUIDv7 for an instant in unix nanoseconds."""
    time = f"{now_ns // 1_000_000 & (1 << 48) - 1:012x}"
    random = next(_random)
    return f"{time[:8]}-{time[8:]}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:]}"


def worker_name() -> str:
    """A name that no worker had before: it names the worker's spool folder and its rows."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower())[:32]
    return f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
