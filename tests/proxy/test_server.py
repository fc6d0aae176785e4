"""What a client may send, and what it reads when it may not."""

from __future__ import annotations

import asyncio
import gzip
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import read_segment
from proxy.limits import Limits
from turnout.processes import free_port

from .harness import Engine, ask, json_answer, post, running_proxy, snapshot


async def plain(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(b"{}"))


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def code(answer: bytes) -> str:
    return orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


PIECE = b"5\r\nhello\r\n0\r\n\r\n"
AMBIGUOUS = {
    "length and chunks": HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n" + PIECE,
    "two lengths": HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a length twice": HEAD + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "lengths in a list": HEAD + b"content-length: 5, 5\r\n\r\nhello",
    "+5": HEAD + b"content-length: +5\r\n\r\nhello",
    "-5": HEAD + b"content-length: -5\r\n\r\nhello",
    "0x5": HEAD + b"content-length: 0x5\r\n\r\nhello",
    "no digits": HEAD + b"content-length: \r\n\r\nhello",
    "a vertical tab": HEAD + b"content-length: \x0b5\r\n\r\nhello",
    "2^64 + 5": HEAD + b"content-length: 18446744073709551621\r\n\r\nhello",
    "unknown coding": HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding before": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n" + PIECE,
    "a coding after": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n" + PIECE,
    "coding twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n" + PIECE,
    "chunks in 1.0": HEAD.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n" + PIECE,
    "space before colon": HEAD + b"x-a : b\r\n\r\n",
    "obs-fold": HEAD + b"x-a: b\r\n c\r\n\r\n",
    "folded length": HEAD + b"content-length:\r\n 5\r\n\r\nhello",
    "NUL": HEAD + b"x-a: b\x00c\r\n\r\n",
    "bare LF": HEAD + b"x-a: b\ncontent-length: 5\r\n\r\nhello",
    "bare CR": HEAD + b"x-a: b\rcontent-length: 5\r\n\r\nhello",
    "LF ends the head": HEAD + b"content-length: 5\r\n\nhello",
    "a chunk too long": HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
    "a chunk of +5": HEAD + b"transfer-encoding: chunked\r\n\r\n+" + PIECE,
    "a chunk of 0x5": HEAD + b"transfer-encoding: chunked\r\n\r\n0x" + PIECE,
    "a chunk of 2^68": HEAD + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello",
    "LF in an extension": HEAD + b"transfer-encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
    "chunks by LF": HEAD + b"transfer-encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no path": b"GET\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "no host": HEAD.replace(b"host: x\r\n", b"") + b"content-length: 5\r\n\r\nhello",
    "two hosts": HEAD + b"host: y\r\ncontent-length: 5\r\n\r\nhello",
    "two keys": HEAD + b"authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    "two users": HEAD + b"x-turnout-user: ada\r\nX-Turnout-User: eve\r\n\r\n",
}


@pytest.mark.parametrize("raw", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_ambiguous_frames_are_refused_and_reach_no_engine(tmp_path: Path, raw: bytes) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        answer = await proxy.send(raw)
        assert (status(answer), code(answer)) == (400, "malformed_http")
        assert not engine.requests


async def test_a_list_in_several_lines_reaches_the_engine_whole(tmp_path: Path) -> None:
    lines = b"anthropic-beta: a\r\nTracestate: x=1\r\nanthropic-beta: b, c\r\ntracestate: y=2"
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        raw = post(ask()).replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % lines, 1)
        assert status(await proxy.send(raw)) == 200
        assert b"\r\nanthropic-beta: a, b, c\r\n" in engine.requests[0]
        assert b"\r\ntracestate: x=1, y=2\r\n" in engine.requests[0]


async def test_a_header_that_says_the_same_twice_is_not_ambiguous(tmp_path: Path) -> None:
    """As clients send it that are given a key, and have one of their own."""
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        twice = post(ask()).replace(b"\r\n\r\n", b"\r\nauthorization: a\r\nauthorization: a\r\n\r\n", 1)
        assert status(await proxy.send(twice)) == 200


@pytest.mark.parametrize(
    ("body", "expected", "param"),
    [
        (b"{", "malformed_json", None),
        (b"[]", "malformed_json", None),
        (b'{"model":"chat","messages":[],"x":NaN}', "malformed_json", None),
        (b"\xff\xfe", "malformed_json", None),
        ({"messages": []}, "invalid_type", "model"),
        ({"model": 3, "messages": []}, "invalid_type", "model"),
        ({"model": "chat"}, "invalid_type", "messages"),
        ({"model": "chat", "messages": "hi"}, "invalid_type", "messages"),
        ({"model": "chat", "messages": [], "stream": "yes"}, "invalid_type", "stream"),
        ({"model": "chat", "messages": [], "stream_options": 1}, "invalid_type", "stream_options"),
        ({"model": "chat", "messages": [], "n": 10_000}, "out_of_range", "n"),
        ({"model": "chat", "messages": [], "n": True}, "invalid_type", "n"),
        ({"model": "chat", "messages": [{}] * 5000}, "too_many_items", "messages"),
        ({"model": "chat", "messages": [], **{f"k{n}": 1 for n in range(1100)}}, "too_many_items", None),
        (
            {"model": "chat", "messages": [], "metadata": {f"k{n}": 1 for n in range(1100)}},
            "too_many_items",
            "metadata",
        ),
        (b'{"model":"chat","messages":[' + b"{}," * 400_000 + b"{}]}", "too_many_items", None),
        (b'{"model":"chat","messages":[' + b"1," * 2_200_000 + b"1]}", "too_many_items", None),
        (b'{"model":"chat","messages":' + b"[" * 1024 + b"]" * 1024 + b"}", "malformed_json", None),
        (b'{"model":"chat","messages":' + b"[" * 100_000 + b"}", "malformed_json", None),
        ({"model": "chat", "messages": [], "api_base": "http://evil"}, "routing_field_refused", "api_base"),
        (
            {"model": "chat", "messages": [], "extra_body": {"base_url": 1}},
            "routing_field_refused",
            "extra_body.base_url",
        ),
    ],
)
async def test_bad_bodies_get_a_stable_code_and_a_row(
    tmp_path: Path, body: object, expected: str, param: str | None
) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        answer = await proxy.post(body)
        error = orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (status(answer), error["code"], error["param"]) == (400, expected, param)
        assert error["type"] == "invalid_request_error"
        assert answer.partition(b"\r\n\r\n")[2].startswith(
            b'{"type":"error",'
        )  # as Anthropic's clients read it
        assert not engine.requests
        (row,) = proxy.exchanges()
        assert (row.outcome, row.error_code) == ("rejected", expected)


async def test_an_unknown_model_is_a_404_that_names_the_known(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:
        answer = await proxy.post(ask(model="nope"))
        assert (status(answer), code(answer)) == (404, "model_not_found")
        assert b"Known models: chat" in answer


async def test_size_caps(tmp_path: Path) -> None:
    limits = Limits(body_bytes=1000)
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            huge = HEAD + b"content-length: 500000000\r\n\r\n"
            assert status(await proxy.send(huge)) == 413
            chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"ff\r\n" + b"x" * 255 + b"\r\n") * 8
            assert code(await proxy.send(chunked)) == "body_too_large"
            assert status(await proxy.send(HEAD + b"x: y\r\n" * 300 + b"\r\n")) == 431
            assert status(await proxy.send(HEAD + b"x: " + b"y" * 70_000 + b"\r\n\r\n")) == 431
            assert status(await proxy.send(HEAD + b"x: " + b"y" * 1_000_000)) == 431
            assert status(await proxy.send(b"GET /" + b"y" * 1_000_000)) == 431
            assert status(await proxy.send(post(ask()))) == 200


async def test_slow_requests_are_ended(tmp_path: Path) -> None:
    limits = Limits(head_seconds=0.05, body_seconds=0.05, keep_alive_seconds=0.05)
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            assert await asyncio.wait_for(proxy.send(b""), 2) == b""
            assert code(await asyncio.wait_for(proxy.send(HEAD), 2)) == "request_too_slow"
            half = HEAD + b"content-length: 10\r\n\r\nhalf"
            assert code(await asyncio.wait_for(proxy.send(half), 2)) == "request_too_slow"
            kept = post(ask(), headers={"connection": "keep-alive"})
            assert status(await asyncio.wait_for(proxy.send(kept), 2)) == 200


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def echo(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(json_answer(request.partition(b"\r\n\r\n")[2]))

    async with Engine(echo).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        several = b"".join(post(ask(seed=n), headers={"connection": "keep-alive"}) for n in range(3))
        answer = await proxy.send(several + post(ask(seed=3)))
        at = [answer.index(b'"seed":%d' % n) for n in range(4)]
        assert at == sorted(at)
        assert len(proxy.exchanges()) == 4


async def test_one_byte_at_a_time_is_the_same_request(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for byte in post(ask()):
            writer.write(bytes([byte]))
            await writer.drain()
        assert status(await reader.read()) == 200
        writer.close()


async def test_expect_continue_and_http_1_0(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        request = post(ask(), headers={"expect": "100-continue"})
        head, _, body = request.partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert status(await reader.read()) == 200
        writer.close()
        old = post(ask()).replace(b"HTTP/1.1", b"HTTP/1.0")
        answer = await proxy.send(old)
        assert answer.endswith(b"\r\n\r\n{}")


async def test_paths_and_methods(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:

        async def get(path: str, method: str = "GET") -> bytes:
            return await proxy.send(
                f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
            )

        assert status(await get("/healthz")) == 200
        assert status(await get("/readyz")) == 200
        models = orjson.loads((await get("/v1/models")).partition(b"\r\n\r\n")[2])
        assert [entry["id"] for entry in models["data"]] == ["chat"]
        assert code(await get("/v1/nope")) == "path_not_found"
        assert code(await get("/v1/chat/completions")) == "method_not_allowed"
        assert code(await get("/v1/models", "DELETE")) == "method_not_allowed"
        for path in ("/metrics", "/metrics/workers"):  # they are there, though not for this
            assert code(await get(path, "POST")) == "method_not_allowed"


async def test_one_model_can_be_asked_for_as_clients_do(tmp_path: Path) -> None:
    keys = {sha256(b"the key").hexdigest(): "acme"}
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"}, keys=keys)) as proxy:

        async def get(name: str, key: str = "authorization: Bearer the key\r\n") -> bytes:
            request = f"GET /v1/models/{name} HTTP/1.1\r\nhost: x\r\n{key}connection: close\r\n\r\n"
            return await proxy.send(request.encode())

        whole = orjson.loads((await get("chat")).partition(b"\r\n\r\n")[2])
        assert (whole["id"], whole["object"]) == ("chat", "model")
        assert (await get("c%68at")).endswith(orjson.dumps(whole))
        for other in ("nope", "", "chat/", "..%2Fchat"):
            assert code(await get(other)) == "model_not_found"
        assert b"Known models: chat." in await get("nope")
        assert code(await get("chat", key="")) == "missing_api_key"


async def test_no_snapshot_is_not_ready(tmp_path: Path) -> None:
    table = snapshot({1: "http://127.0.0.1:9"}, version=0)
    async with running_proxy(tmp_path, table) as proxy:
        answer = await proxy.send(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert status(answer) == 503


async def test_a_slow_reader_holds_little_memory(tmp_path: Path) -> None:
    """What the client does not read is not read from the engine either."""
    sent = 0

    async def flood(_: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b"data: " + b"x" * 65_536 + b"\n\n")
            await writer.drain()
            sent += 65_536

    limits = Limits(recorded_bytes=1 << 20)
    async with Engine(flood).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
            writer.write(post(ask(stream=True)))
            before = -1
            while before != sent or sent == 0:
                before = sent
                await asyncio.sleep(0.3)
            (client,) = proxy.worker._clients
            assert client._transport.get_write_buffer_size() <= 512 << 10
            writer.transport.abort()
            await asyncio.wait_for(engine.gone.wait(), 1)
            assert proxy.exchanges()[0].clipped


KEPT = {"connection": "keep-alive"}


async def test_head_has_no_body_and_the_connection_stays_in_step(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:
        asked = b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\nHEAD /nope HTTP/1.1\r\nhost: x\r\n\r\n"
        answer = await proxy.send(asked + b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert [part[:12] for part in answer.split(b"\r\n\r\n")] == [
            b"HTTP/1.1 200",
            b"HTTP/1.1 404",
            b"HTTP/1.1 200",
            b'{"ok":true}',
        ]


async def test_trailers_are_no_headers_and_are_capped(tmp_path: Path) -> None:
    body = orjson.dumps(ask())
    chunked = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (
        len(body),
        body,
    )
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        assert status(await proxy.send(chunked + b"x-turnout-arm: candidate\r\n\r\n")) == 200
        assert code(await proxy.send(chunked + b"x-a: " + b"y" * 400_000)) == "head_too_large"
        assert code(await proxy.send(chunked + b"x: y\r\n" * 300 + b"\r\n")) == "head_too_large"


async def test_a_body_in_crumbs_holds_what_its_bytes_are_counted_as(tmp_path: Path) -> None:
    """In pieces of two bytes, a body of 16 MiB would take half a gigabyte, of which little is counted."""
    crumbs, size = b"2\r\nxx\r\n" * 1000, 200_000
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        async with asyncio.timeout(20):
            for _ in range(size // 2000):
                writer.write(crumbs)
                await writer.drain()
            (client,) = proxy.worker._clients
            while client._body_bytes < size:
                await asyncio.sleep(0.01)
        assert sys.getsizeof(client._body) < 3 * size
        writer.transport.abort()


async def test_answers_that_nobody_reads_do_not_pile_up(tmp_path: Path) -> None:
    limits = Limits(stalled_reader_seconds=0.3, pipelined=1000, write_buffer=16 << 10)
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"}), limits) as proxy:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        question = b"GET /" + b"z" * 300 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
        (client,) = proxy.worker._clients
        held = 0
        with suppress(ConnectionError):
            async with asyncio.timeout(5):
                while proxy.worker._clients:
                    writer.write(question * 50)
                    await asyncio.sleep(0.001)
                    held = max(held, client._transport.get_write_buffer_size())
        assert held < 64 << 10
        assert not proxy.worker._clients, "who never reads is given up"
        writer.transport.abort()


async def test_a_last_answer_that_nobody_reads_does_not_hold_the_connection(tmp_path: Path) -> None:
    async def large(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(b"x" * 6_000_000))

    limits = Limits(stalled_reader_seconds=0.2, write_buffer=16 << 20)
    async with Engine(large).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(post(ask()))
            async with asyncio.timeout(5):
                while not proxy.exchanges():
                    await asyncio.sleep(0.02)
                while proxy.worker._clients:
                    await asyncio.sleep(0.02)
            writer.transport.abort()


async def test_draining_lets_a_request_that_has_begun_arrive(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        request = post(ask(), headers=KEPT)
        writer.write(request[:-5])
        await asyncio.sleep(0.05)
        proxy.worker.draining = True
        (client,) = proxy.worker._clients
        client.close_if_idle()
        writer.write(request[-5:])
        answer = await asyncio.wait_for(reader.read(), 2)
        assert status(answer) == 200
        assert b"connection: close" in answer
        writer.close()


async def test_a_pipelined_body_is_left_in_the_socket(tmp_path: Path) -> None:
    """What waits behind a running answer is bounded by one read, not by sixteen bodies."""
    go = asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await plain(request, writer)

    async with Engine(late).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        large = ask(padding="x" * 8_000_000)
        writer.write(post(ask(), headers=KEPT) + post(large, headers=KEPT) * 2 + post(ask(seed=4)))
        await asyncio.sleep(0.5)
        (client,) = proxy.worker._clients
        assert client._body_bytes + sum(len(request.body) for request in client._waiting) < 2 << 20
        go.set()
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.count(b"HTTP/1.1 200") == 4
        writer.close()


async def test_a_request_half_there_behind_an_answer_has_its_deadline(tmp_path: Path) -> None:
    limits = Limits(head_seconds=0.1, body_seconds=0.1, keep_alive_seconds=30)
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"}), limits) as proxy:
        whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        async with asyncio.timeout(2):
            assert b"request_too_slow" in await proxy.send(post(ask(), headers=KEPT) + HEAD)
            assert b"request_too_slow" in await proxy.send(whole + HEAD + b"content-length: 9\r\n\r\nx")


async def test_expect_behind_an_answer_is_met_when_its_turn_comes(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await plain(request, writer)

    async with Engine(late).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        head, _, body = post(ask(), headers={"expect": "100-continue"}).partition(b"\r\n\r\n")
        writer.write(post(ask(), headers=KEPT) + head + b"\r\n\r\n")
        await asyncio.sleep(0.05)
        go.set()
        async with asyncio.timeout(2):
            await reader.readuntil(b"100 Continue\r\n\r\n")
            writer.write(body)
            assert b" 200 " in await reader.read()
        writer.close()


async def test_what_still_runs_when_the_drain_time_is_over_has_its_row(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(_: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(30)

    async with Engine(never).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), Limits(drain_seconds=0.1)) as proxy:
            waiting = asyncio.ensure_future(proxy.post(ask()))
            await asked.wait()
        with suppress(ConnectionError):
            await waiting
        assert [row.outcome for row in left_in(tmp_path)] == ["client_gone"]


def left_in(data: Path) -> list[ExchangeRecord]:
    """The rows of a worker that has ended, all of them sealed."""
    assert not list(data.rglob("*.open"))
    records = [record for path in data.rglob("*.seg") for record in read_segment(path).records]
    return [record for record in records if isinstance(record, ExchangeRecord)]


async def test_a_strangers_body_is_not_waited_for(tmp_path: Path) -> None:
    table = snapshot({1: "http://127.0.0.1:9"}, keys={sha256(b"sk-good").hexdigest(): "acme"})
    half = b"content-length: 9000000\r\n\r\n" + b"x" * 100_000
    async with running_proxy(tmp_path, table) as proxy:
        for given, expected in (
            (b"", "missing_api_key"),
            (b"authorization: Bearer no\r\n", "invalid_api_key"),
        ):
            assert code(await asyncio.wait_for(proxy.send(HEAD + given + half), 2)) == expected
        assert proxy.worker.budget.held == 0
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(HEAD + b"authorization: Bearer sk-good\r\n" + half)
        while proxy.worker.budget.held < 100_000:
            await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_a_body_is_never_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    packed = post(bomb, headers={"content-encoding": "gzip"})
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:
        answer = await proxy.send(packed)
        assert (status(answer), code(answer)) == (415, "unsupported_media_type")
        assert b"content-encoding" in answer
        assert status(await proxy.post(ask(model="nope"), headers={"content-encoding": "identity"})) == 404


async def test_a_crowd_at_the_door_does_not_take_the_descriptors_of_those_inside(tmp_path: Path) -> None:
    """120 clients come to a worker that may open 250 files: who is in is served, who is too many is told."""
    async with Engine(plain).running() as engine:
        (tmp_path / "proxy-snapshot.json").write_bytes(snapshot({1: engine.url}).to_json())
        port = free_port()
        command = f"ulimit -n 250; exec {sys.executable} -m proxy --data {tmp_path} --port {port}"
        process = await asyncio.create_subprocess_shell(command, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        try:
            crowd = []
            async with asyncio.timeout(20):
                while len(crowd) < 120:
                    with suppress(ConnectionError):
                        crowd.append(await asyncio.open_connection("127.0.0.1", port))
                        continue
                    await asyncio.sleep(0.1)
                inside, outside = crowd[0], crowd[-1]
                inside[1].write(post(ask()))
                assert status(await inside[0].read()) == 200
                outside[1].write(post(ask()))
                assert code(await outside[0].read()) == "too_many_connections"
            for _, writer in crowd:
                writer.close()
        finally:
            process.terminate()
            said = await process.stderr.read()
            await process.wait()
        assert b"61 clients at most; raise `ulimit -n`" in said
        assert b"Too many open files" not in said
