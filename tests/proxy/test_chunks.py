"""Whole chunks are read as llhttp reads them, and nothing else is taken for them."""

from __future__ import annotations

from random import Random

import httptools
import pytest

from proxy.chunks import beginning, unchunked

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Read:
    """What llhttp makes of an answer in chunks."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.ended = False
        httptools.HttpResponseParser(self).feed_data(HEAD + data)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.ended = True


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("size", [1, 9, 15, 16, 255, 256, 4095])
def test_one_chunk_of_any_usual_size_is_read(size: int) -> None:
    data = b"\r\n" * (size // 2) + b"x" * (size % 2)
    assert unchunked(chunk(data)) == (data, False)
    assert beginning(size) + data + b"\r\n" == chunk(data)


def test_the_last_chunk_ends_it() -> None:
    assert unchunked(b"0\r\n\r\n") == (b"", True)
    assert unchunked(chunk(b"a") + b"0\r\n\r\n") == (b"a", True)
    assert unchunked(chunk(b"a") + chunk(b"b" * 4095) + b"0\r\n\r\n") == (b"a" + b"b" * 4095, True)
    assert unchunked(chunk(b"abc") * 4) == (b"abc" * 4, False)
    assert unchunked(chunk(b"abc") * 4 + b"0\r\n\r\n") == (b"abc" * 4, True)
    assert unchunked(chunk(b"0\r\n\r\n")) == (b"0\r\n\r\n", False)
    assert unchunked(chunk(b"0\r\n\r\n") + b"0\r\n\r\n") == (b"0\r\n\r\n", True)
    assert unchunked(b"") == (b"", False)
    assert unchunked(b"head" + chunk(b"a"), 4) == (b"a", False)
    assert unchunked(b"x: 0\r\n\r\n", 8) == (b"", False)
    assert unchunked(b"x: 0\r\n\r\nab", 8) is None


@pytest.mark.parametrize(
    "data",
    [
        b"1", b"1\r", b"1\r\n", b"1\r\na", b"1\r\na\r", b"1\r\na\rx", b"1\r\nab\r\n", b"01\r\na\r\n",
        b"A\r\n0123456789\r\n", b"1;x=y\r\na\r\n", b" 1\r\na\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n",
        b"-1\r\n\r\n", b"1\na\n", b"\r\n", b"\r\na\r\n", b"0\r\n", b"0\r\nx: y\r\n\r\n", b"00\r\n\r\n",
        b"noa\r\n", b"0\r\n\r\nHTTP/1.1 200 OK\r\n", b"1\r\na\r\n0\r\n\r\n0\r\n\r\n", chunk(b"a") * 5,
        chunk(b"a") + b"1\r\n", b"no\r\n", b"no\r\n\r\n", b"no" + b"x" * 19, chunk(b"x" * 4096),
        b"1\r\na\n\r",
    ],
)  # fmt: skip
def test_everything_else_is_the_parsers(data: bytes) -> None:
    assert unchunked(data) is None


def test_what_is_read_is_what_llhttp_reads() -> None:
    """Of 20,000 random texts of chunks, some of them damaged, each one that is taken."""
    rng, taken = Random(5), 0
    for _ in range(20_000):
        pieces = [rng.randbytes(rng.choice((1, 2, 15, 16, 40))) for _ in range(rng.randrange(3))]
        data = bytearray(b"".join(map(chunk, pieces)) + rng.choice((b"", b"0\r\n\r\n")))
        if data and rng.random() < 0.6:
            data[rng.randrange(len(data))] = rng.choice(b"0123456789afAF\r\n;x")
        read = unchunked(bytes(data))
        if read is not None:
            told = Read(bytes(data))
            assert read == (told.body, told.ended)
            taken += 1
    assert 2_000 < taken < 15_000
