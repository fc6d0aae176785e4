"""Which bytes are the body of an answer that comes in chunks (RFC 9112 §7.1), where none is cut in two?

Engines write each event as one chunk, in the shortest spelling, and most reads bring one. That needs no
parser. Whatever else a read brings is llhttp's, which is faster from two on: several chunks, extensions,
trailers, leading zeros, capitals, pieces.
"""

from __future__ import annotations

from typing import Final

#: How chunks begin, by their sizes: events are small, so theirs are made once.
_BEGINNINGS: Final = tuple(b"%x\r\n" % size for size in range(4096))

_BY_LENGTH: Final = {len(begins) + size + 2: begins for size, begins in enumerate(_BEGINNINGS) if size}
#: How the chunk begins that has so many bytes in all.
_ALONE: Final = tuple(_BY_LENGTH.get(length) for length in range(max(_BY_LENGTH) + 1))
_LAST: Final = b"0\r\n\r\n"


def beginning(size: int) -> bytes:
    """The line with which a chunk of so many bytes begins."""
    return _BEGINNINGS[size] if size < len(_BEGINNINGS) else b"%x\r\n" % size


def unchunked(data: bytes, at: int = 0) -> tuple[bytes, bool] | None:
    """The body in what a read consists of from `at` on, and whether it ends there.

    None: that is not nothing, one chunk, the last one, or both, spelled as here.
    """
    size = len(data) - at
    begins = _ALONE[size] if size < len(_ALONE) else None
    if begins is not None:
        begin = at + len(begins)
        if data[at:begin] == begins and data[-2:] == b"\r\n":
            return data[begin:-2], False
    if size >= len(_LAST) and data[-5:] == _LAST:
        return _ended(data[at:-5])
    return None if size else (b"", False)


def _ended(data: bytes) -> tuple[bytes, bool] | None:
    """The same of what is followed by the last chunk."""
    read = unchunked(data)
    return None if read is None or read[1] else (read[0], True)
