"""What HTTP asks of a server besides framing: old versions, expectations, targets, what ends at a hop."""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from experiments.snapshot import Snapshot
from proxy.limits import Limits

from .harness import (
    ADMIN,
    SSE_HEAD,
    Engine,
    Proxy,
    ask,
    chunk,
    json_answer,
    nobody,
    post,
    running_proxy,
    snapshot,
)
from .test_server import code, plain, status

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECTING = {"expect": "100-continue"}


def cut(raw: bytes) -> tuple[bytes, bytes]:
    """Head and body."""
    head, end, body = raw.partition(b"\r\n\r\n")
    return head + end, body


async def in_two(proxy: Proxy, first: bytes, rest: bytes) -> bytes:
    """What is answered to a request that comes in two pieces."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(first)
    await asyncio.sleep(0.05)
    writer.write(rest)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


def old(raw: bytes) -> bytes:
    return raw.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


# HTTP/1.0


@pytest.mark.parametrize("size", [2, 100_000])  # an answer in one write, and one in two
async def test_who_asks_in_http_1_0_is_told_that_the_connection_stays(tmp_path: Path, size: int) -> None:
    """Without the word, `ab -k` waits for its end: 75 s."""

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(b"x" * size))

    async with Engine(answer).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            raw = old(post(ask(), headers={"connection": "keep-alive"}))
            for _ in range(3):  # the third time its head is known
                writer.write(raw)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                assert b"\r\nconnection: keep-alive\r\n" in head
                await reader.readexactly(size)
            writer.write(old(post(ask())))
            assert b"\r\nconnection: close\r\n" in await asyncio.wait_for(reader.read(), 5)
            writer.close()


async def test_a_stream_in_http_1_0_ends_with_the_connection(tmp_path: Path) -> None:
    async def events(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with Engine(events).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            raw = old(post(ask(stream=True), headers={"connection": "keep-alive"}))
            head, body = cut(await asyncio.wait_for(proxy.send(raw), 5))
            assert b"\r\nconnection: close\r\n" in head
            assert body == b"data: [DONE]\n\n"


async def test_http_1_1_is_told_nothing_of_what_it_takes_for_granted(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(post(ask(), headers={"connection": "keep-alive"}))
        assert b"\r\nconnection:" not in await reader.readuntil(b"\r\n\r\n")
        writer.close()


# expectations


async def test_http_1_0_gets_no_interim_answer(tmp_path: Path) -> None:
    """RFC 9110 §10.1.1: it would be taken for the answer."""
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        answer = await in_two(proxy, *cut(old(post(ask(), headers=EXPECTING))))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert CONTINUE not in answer


def guarded(url: str) -> Snapshot:
    return snapshot({1: url}, keys={sha256(b"sk-good").hexdigest(): "acme"})


@pytest.mark.parametrize("behind", [False, True])
async def test_a_stranger_is_not_asked_to_go_on(tmp_path: Path, behind: bool) -> None:
    """Also where the head has come behind a request that is still being answered."""
    go = asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await plain(request, writer)

    async with Engine(late).running() as engine:
        async with running_proxy(tmp_path, guarded(engine.url)) as proxy:
            good = {"authorization": "Bearer sk-good", "connection": "keep-alive"}
            before = post(ask(), headers=good) if behind else b""
            head, _ = cut(post(ask(), headers=EXPECTING | {"authorization": "Bearer no"}))
            asked = asyncio.ensure_future(proxy.send(before + head))
            await asyncio.sleep(0.05)
            go.set()
            answer = await asyncio.wait_for(asked, 5)
            assert answer.count(b"HTTP/1.1 200") == int(behind)
            assert b"100 Continue" not in answer
            assert answer.endswith(b'"code":"invalid_api_key"}}')


async def test_who_is_known_is_asked_to_go_on_once(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, guarded(engine.url)) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            raw = post(ask(), headers=EXPECTING | {"authorization": "Bearer sk-good"})
            head, body = cut(raw)
            for piece in (head[:30], head[30:]):
                writer.write(piece)
                await asyncio.sleep(0.02)
            assert await reader.readexactly(len(CONTINUE)) == CONTINUE
            for piece in (body[:10], body[10:]):
                writer.write(piece)
                await asyncio.sleep(0.02)
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            # Who does not wait needs no word.
            assert (await in_two(proxy, raw[:-5], raw[-5:])).startswith(b"HTTP/1.1 200")
            assert (await proxy.send(raw)).startswith(b"HTTP/1.1 200")
            writer.close()


async def test_an_offer_to_upgrade_is_asked_to_go_on_once(tmp_path: Path) -> None:
    offer = EXPECTING | {"connection": "Upgrade, close", "upgrade": "h2c"}
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        answer = await in_two(proxy, *cut(post(ask(), headers=offer)))
        assert answer.startswith(CONTINUE + b"HTTP/1.1 200")
        assert answer.count(CONTINUE) == 1


async def test_an_offer_to_upgrade_changes_nothing_else(tmp_path: Path) -> None:
    offer = {"connection": "keep-alive, Upgrade, traceparent", "upgrade": "h2c", "traceparent": "00-1"}
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for raw, told in ((post(ask(), headers=offer), False), (old(post(ask(), headers=offer)), True)):
            writer.write(raw)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert (b"\r\nconnection: keep-alive\r\n" in head) == told
            await reader.readexactly(2)
        writer.close()
        assert all(b"traceparent" not in request for request in engine.requests)


async def test_a_fault_behind_an_offer_to_upgrade_is_told_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offer = post(ask(), headers={"connection": "Upgrade", "upgrade": "h2c"}).partition(b"\r\n\r\n")[0]
    chunked = re.sub(rb"content-length: \d+", b"transfer-encoding: chunked", offer) + b"\r\n\r\n"
    twice = post(ask()).replace(b"host: x", b"host: x\r\nhost: y", 1)
    cases = {
        chunked + chunk(b"x" * 600): (413, "body_too_large"),
        chunked + chunk(b"x") + b"0\r\n\r\n" + twice: (400, "malformed_http"),
    }
    async with running_proxy(tmp_path, snapshot({1: nobody()}), Limits(body_bytes=500)) as proxy:
        for raw, (number, name) in cases.items():
            answer = await asyncio.wait_for(proxy.send(raw), 5)
            last = answer[answer.rindex(b"HTTP/1.1 ") :]
            assert (status(last), code(last)) == (number, name)
    assert not caplog.records


async def test_offers_to_upgrade_may_come_by_the_thousand(tmp_path: Path) -> None:
    offer = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    async with running_proxy(tmp_path, snapshot({1: nobody()})) as proxy:
        answer = await asyncio.wait_for(proxy.send(offer * 2000 + last), 20)
    assert answer.count(b"HTTP/1.1 200 OK") == 2001


async def test_who_expects_and_is_slow_to_read_is_asked_to_go_on_once(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await asyncio.sleep(0.02)
        (client,) = proxy.worker._clients
        client.pause_writing()  # as the transport does while earlier answers are not read
        head, body = cut(post(ask(), headers=EXPECTING))
        writer.write(head)
        await asyncio.sleep(0.05)
        client.resume_writing()
        writer.write(body)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(CONTINUE + b"HTTP/1.1 200")
        writer.close()


# targets, hops, admins


async def test_the_absolute_form_of_a_target_is_its_path_and_leads_nowhere(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        raw = post(ask(), path="http://192.0.2.1:9/v1/chat/completions?x=1")
        assert status(await proxy.send(raw)) == 200
        assert engine.requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert proxy.exchanges()[0].path == "/v1/chat/completions"
        elsewhere = post(ask(), path="http://192.0.2.1:9/latest/meta-data")
        assert code(await proxy.send(elsewhere)) == "path_not_found"


async def test_what_connection_names_is_passed_on_neither_way(tmp_path: Path) -> None:
    async def hop(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(b"{}", extra=b"connection: keep-alive, x-hop\r\nx-hop: 1\r\nx-other: 2\r\n"))

    async with Engine(hop).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        raw = post(ask(), headers={"traceparent": "00-1", "tracestate": "a=1", "x-request-id": "r"})
        named = b"connection: traceparent\r\nconnection: Tracestate , close\r\nhost: x"
        for _ in range(3):
            answer = await proxy.send(
                raw.replace(b"connection: close\r\n", b"").replace(b"host: x", named, 1)
            )
            assert b"x-hop" not in answer
            assert b"x-other: 2\r\n" in answer
        for request in engine.requests:
            assert b"trace" not in request.partition(b"\r\n\r\n")[0].lower()
            assert b"x-request-id: r\r\n" in request


async def test_token_counts_are_kept_from_the_client_whatever_the_case_of_the_media_type(
    tmp_path: Path,
) -> None:
    async def stream(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD.replace(b"text/event-stream", b"Text/Event-Stream"))
        for event in (b'data: {"choices":[],"usage":{"completion_tokens":1}}\n\n', b"data: [DONE]\n\n"):
            writer.write(chunk(event))
        writer.write(b"0\r\n\r\n")

    async with (
        Engine(stream).running() as engine,
        running_proxy(tmp_path, snapshot({1: engine.url})) as proxy,
    ):
        answer = await proxy.post(ask(stream=True))
        assert b"usage" not in answer
        assert b"[DONE]" in answer
        assert b"usage" in proxy.exchanges()[0].response


@pytest.mark.parametrize("token", ["wrong", "", ADMIN])
@pytest.mark.parametrize("key", ["sk-good", "no"])
async def test_what_a_request_gets_does_not_hang_on_how_it_was_cut(
    tmp_path: Path, token: str, key: str
) -> None:
    """A wrong admin token is refused, also where none is needed."""
    expected = "admin_required" if token != ADMIN else "invalid_api_key" if key == "no" else None
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, guarded(engine.url)) as proxy:
            raw = post(ask(), headers={"x-turnout-admin": token, "authorization": f"Bearer {key}"})
            for answer in (await proxy.send(raw), await in_two(proxy, raw[:-5], raw[-5:])):
                if expected is None:
                    assert status(answer) == 200
                else:
                    assert orjson.loads(cut(answer)[1])["error"]["code"] == expected
            assert all(row.origin == "live" for row in proxy.exchanges())
