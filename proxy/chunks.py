"""Which bytes are the body of an answer that comes in chunks (RFC 9112 §7.1), where none is cut in two?

Engines write each event as one chunk, in the shortest spelling, and most reads bring one, some a few. That
needs no parser. Whatever else a read brings is llhttp's: many chunks, which it reads faster, extensions,
trailers, leading zeros, capitals, pieces.
"""

from __future__ import annotations

from typing import Final

#: How chunks begin, by their sizes: events are small, so theirs are made once.
_BEGINNINGS: Final = tuple(b"%x\r\n" % size for size in range(4096))

_SIZES: Final = {begins[:-2]: size for size, begins in enumerate(_BEGINNINGS) if size}
_LONGEST_LINE: Final = len(_BEGINNINGS[-1])
_BY_LENGTH: Final = {len(begins) + size + 2: begins for size, begins in enumerate(_BEGINNINGS) if size}
#: How the chunk begins that has so many bytes in all.
_ALONE: Final = tuple(_BY_LENGTH.get(length) for length in range(max(_BY_LENGTH) + 1))
_LAST: Final = b"0\r\n\r\n"
#: Chunks with content; from here on llhttp is faster, with the head that it has to be given first.
_FEW: Final = 4


def beginning(size: int) -> bytes:
    """The line with which a chunk of so many bytes begins."""
    return _BEGINNINGS[size] if size < len(_BEGINNINGS) else b"%x\r\n" % size


def unchunked(data: bytes, at: int = 0) -> tuple[bytes, bool] | None:
    """The body in the chunks that a read consists of from `at` on, and whether the last one is among them.

    None: these are not a few whole chunks, each spelled as here, and nothing else.
    """
    size = len(data) - at
    begins = _ALONE[size] if size < len(_ALONE) else None
    if begins is not None:  # by far the most frequent
        begin = at + len(begins)
        if data[at:begin] == begins and data[-2:] == b"\r\n":
            return data[begin:-2], False
    return _several(data, at)


def _several(data: bytes, at: int) -> tuple[bytes, bool] | None:
    pieces: list[bytes] = []
    while at < len(data):
        line = data.find(b"\r\n", at, at + _LONGEST_LINE)
        length = _SIZES.get(data[at:line]) if line >= 0 else None
        if length is None:
            return (b"".join(pieces), True) if data[at : at + len(_LAST) + 1] == _LAST else None
        begin, end = line + 2, line + 2 + length
        if data[end : end + 2] != b"\r\n" or len(pieces) == _FEW:
            return None
        pieces.append(data[begin:end])
        at = end + 2
    return b"".join(pieces), False
