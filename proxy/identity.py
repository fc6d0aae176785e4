"""What is a request called? A UUIDv7 (RFC 9562 §5.7): unique without talking, and sorted by time."""

from __future__ import annotations

import os
import socket


def new_id(now_ns: int) -> str:
    """A UUIDv7 for an instant in unix nanoseconds."""
    milliseconds = now_ns // 1_000_000 & (1 << 48) - 1
    random = int.from_bytes(os.urandom(10))
    value = milliseconds << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def worker_name() -> str:
    """A name that no worker had before: it names the worker's spool folder and its rows."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower())[:32]
    return f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
