"""The wire under a golden run: every way in which HTTP/1.1 lets an answer end, and the ways it must not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from evaluators.wire import ConnectionBroken, Wire

OK = b"HTTP/1.1 200 OK\r\nX-Who: me\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Answers the n-th request with the n-th of `answers` as it stands; b"" hangs up without a word."""

    def __init__(self, *answers: bytes, hang_up: bool = False) -> None:
        self.answers, self.hang_up = list(answers), hang_up
        self.connections = 0
        self.requests: list[bytes] = []
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while self.answers:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(length))
            writer.write(self.answers.pop(0))
            await writer.drain()
            if self.hang_up:
                break
        writer.close()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Wire]:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    async with listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/x?y=1"
        wire = Wire(server.url, {"x-key": "abc"})
        try:
            yield wire
        finally:
            await wire.close()
            await asyncio.sleep(0.01)  # the server sees it


async def test_a_connection_is_kept_and_the_request_is_as_it_should_be() -> None:
    server = Server(OK, OK)
    async with serving(server) as wire:
        seen: dict[str, str] = {}
        answer = await wire.post(b'{"a": 1}', seen)
        again = await wire.post(b"{}", {})
    assert (answer.status, answer.content, answer.headers["x-who"]) == (200, b"ok", "me")
    assert seen["x-who"] == "me"
    assert again.content == b"ok"
    assert server.connections == 1
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    host = server.url.split("/")[2].encode()
    assert head.split(b"\r\n") == [
        b"POST /v1/x?y=1 HTTP/1.1",
        b"host: " + host,
        b"x-key: abc",
        b"content-length: 8",
    ]
    assert body == b'{"a": 1}'


@pytest.mark.parametrize(
    ("sent", "status", "content", "connections"),
    [
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            200,
            b"ok",
            1,
        ),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, 200, b"ok", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", 1),
        (b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno", 503, b"no", 2),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok", 2),
    ],
)
async def test_how_an_answer_may_be_framed(
    sent: bytes, status: int, content: bytes, connections: int
) -> None:
    server = Server(sent, OK)
    async with serving(server) as wire:
        answer = await wire.post(b"{}", {})
        assert (await wire.post(b"{}", {})).content == b"ok"
    assert (answer.status, answer.content) == (status, content)
    assert server.connections == connections
    assert "link" not in answer.headers, "an interim answer's headers are not the answer's"


async def test_the_end_of_the_connection_may_end_an_answer() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\n\r\nall there is", OK, hang_up=True)
    async with serving(server) as wire:
        assert (await wire.post(b"{}", {})).content == b"all there is"
        assert (await wire.post(b"{}", {})).content == b"ok"


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\nx-who: m", False),
        (b"HTTP/1.1 200 OK\r\nx-who: me\r\ncontent-length: 9\r\n\r\ncut", True),
        (b"HTTP/1.1 200 OK\r\nx-who: me\r\ntransfer-encoding: chunked\r\n\r\n5\r\ncut", True),
        (b"220 mail.example.org ESMTP\r\n", False),
        (b"HTTP/1.1 200 OK\r\nx-who: me\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n", True),
    ],
)
async def test_an_answer_that_breaks_off_says_what_was_seen_of_it(sent: bytes, known: bool) -> None:
    async with serving(Server(sent, hang_up=True)) as wire:
        seen: dict[str, str] = {}
        with pytest.raises(ConnectionBroken):
            await wire.post(b"{}", seen)
    assert (seen.get("x-who") == "me") is known


async def test_what_nobody_asked_for_is_no_answer_to_the_next_question() -> None:
    server = Server(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", OK)
    async with serving(server) as wire:
        assert (await wire.post(b"{}", {})).content == b"ok"
        await asyncio.sleep(0.02)
        assert (await wire.post(b"{}", {})).content == b"ok"
    assert server.connections == 2


async def test_a_call_that_is_given_up_leaves_no_answer_behind() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha", OK)
    async with serving(server) as wire:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await wire.post(b"{}", {})
        assert (await wire.post(b"{}", {})).content == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://", "http://h:port/"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        Wire(url, {})


@pytest.mark.parametrize("value", ["a\r\nx-admin: b", "a\nb", "naïve", "\x00"])
def test_a_header_cannot_bring_another(value: str) -> None:
    with pytest.raises(ValueError, match="x-key"):
        Wire("http://127.0.0.1:80", {"x-key": value})
