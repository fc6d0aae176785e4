"""What an engine's connection may do between and around answers, and what must never come of it."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.limits import Limits
from proxy.replica import Connection, Replica

from .harness import (
    SSE_HEAD,
    Engine,
    Proxy,
    ask,
    chunk,
    json_answer,
    listening,
    post,
    running_proxy,
    snapshot,
)


async def plain(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(b'{"own":1}'))


async def upstream_sockets(proxy: Proxy, replica: Replica) -> int:
    """How many idle connections a replica keeps, once everything that was closed is gone."""
    await asyncio.sleep(0.02)
    return sum(connection.usable for connection in replica._idle)


async def test_what_an_engine_sends_unasked_reaches_nobody(tmp_path: Path) -> None:
    """A second answer behind the first must not become the answer of whoever is next on the connection."""

    async def chatty(request: bytes, writer: asyncio.StreamWriter) -> None:
        stray = b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{stray"
        writer.write(json_answer(b'{"own":1}') + stray)

    async with (
        Engine(chatty).running() as engine,
        running_proxy(tmp_path, snapshot({1: engine.url})) as proxy,
    ):
        for _ in range(3):
            answer = await asyncio.wait_for(proxy.post(ask()), 2)
            assert answer.endswith(b'{"own":1}')
        assert [row.response for row in proxy.exchanges()] == [b'{"own":1}'] * 3


async def test_a_cut_head_is_no_answer(tmp_path: Path) -> None:
    async def half(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx-a: b\r\n")
        writer.close()

    async with Engine(half).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        answer = await asyncio.wait_for(proxy.post(ask()), 2)
        assert answer.startswith(b"HTTP/1.1 502 ")
        (row,) = proxy.exchanges()
        assert (row.outcome, row.error_code) == ("upstream_error", "upstream_cut")


async def test_a_connection_that_outlives_its_replica_is_closed(tmp_path: Path) -> None:
    """Also a shadow's: a version that left the snapshot must not keep sockets of every worker."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go.wait()
        await plain(request, writer)

    async with Engine(late).running() as old, Engine(plain).running() as new, Engine(plain).running() as dark:
        table = snapshot({1: old.url, 2: dark.url}, share_ppm=1_000_000)
        async with running_proxy(tmp_path, table) as proxy:
            busy = proxy.worker.upstreams.replica(old.url)
            idle = proxy.worker.shadows._upstreams.replica(dark.url)
            waiting = asyncio.ensure_future(proxy.post(ask()))
            await asked.wait()
            while not idle._idle:
                await asyncio.sleep(0.01)
            proxy.worker.adopt(snapshot({1: new.url}, version=2))
            go.set()
            assert (await waiting).endswith(b'{"own":1}')
            assert await upstream_sockets(proxy, busy) == 0
            assert await upstream_sockets(proxy, idle) == 0


async def test_a_connection_closed_at_birth_is_a_failed_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted and dropped before the request was written: nobody will ever report that end again."""
    create = asyncio.BaseEventLoop.create_connection

    async def doomed(loop: asyncio.BaseEventLoop, *given: Any, **more: Any) -> tuple[Any, Any]:
        transport, protocol = await create(loop, *given, **more)
        while isinstance(protocol, Connection) and protocol.usable:
            await asyncio.sleep(0.01)
        return transport, protocol

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", doomed)
    async with listening(drop) as url, running_proxy(tmp_path, snapshot({1: url})) as proxy:
        answer = await asyncio.wait_for(proxy.post(ask()), 2)
        assert answer.startswith(b"HTTP/1.1 502 ")


async def test_a_host_that_is_no_host_is_unreachable_at_once(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: f"http://{'a' * 70}.test"})) as proxy:
        answer = await asyncio.wait_for(proxy.post(ask()), 5)
        assert b"upstream_unreachable" in answer


async def test_an_engine_that_switches_protocols_has_failed(tmp_path: Path) -> None:
    async def switch(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nxx")

    async with (
        Engine(switch).running() as engine,
        running_proxy(tmp_path, snapshot({1: engine.url})) as proxy,
    ):
        failures: list[object] = []
        proxy.worker.loop.set_exception_handler(lambda loop, context: failures.append(context))
        answer = await asyncio.wait_for(proxy.post(ask()), 2)
        assert b"upstream_garbled" in answer
        assert not failures


async def test_an_answer_without_a_body_has_none(tmp_path: Path) -> None:
    head = b"HTTP/1.1 204 No Content\r\n\r\n"

    async def bare(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head)

    async with Engine(bare).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        answer = await asyncio.wait_for(proxy.post(ask()), 2)
        lines, _, body = answer.partition(b"\r\n\r\n")
        assert (lines[:12], body) == (head[:12], b"")
        assert b"transfer-encoding" not in lines


async def test_a_prefix_and_ipv6_are_kept(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: f"{engine.url}/pre/fix"})) as proxy:
            await proxy.send(post(ask()))
            assert engine.requests[0].startswith(b"POST /pre/fix/v1/chat/completions HTTP/1.1\r\n")
        replica = Replica("http://[::1]:9001", Limits())
        assert (replica.host, replica.port, replica.authority) == ("::1", 9001, b"[::1]:9001")


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_engine_gets_its_key_and_nobody_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, streaming: bool
) -> None:
    """By reference: the snapshot holds a variable's name. An engine that says the key back is not heard."""

    async def guarded(request: bytes, writer: asyncio.StreamWriter) -> None:
        told = request.lower().partition(b"authorization: ")[2].partition(b"\r\n")[0]
        if told == b"bearer engine-canary":
            writer.write(json_answer(b'{"own":1}'))
        else:
            writer.write(json_answer(b'{"error":"not %b"}' % told, "401 Unauthorized"))

    async with Engine(guarded).running() as engine:
        table = snapshot({1: engine.url})
        endpoint = replace(table.endpoints["chat", 1], credential="ENGINE_A_API_KEY")
        table = replace(table, endpoints={("chat", 1): endpoint})
        async with running_proxy(tmp_path, table) as proxy:
            monkeypatch.setenv("ENGINE_A_API_KEY", "engine-canary")
            client = {"authorization": "Bearer client-canary"}
            for _ in range(2):
                answer = await proxy.send(post(ask(stream=streaming), headers=client))
                assert answer.endswith(b'{"own":1}')
            for wrong in ("wrong-canary", "bad\r\nx: canary"):
                monkeypatch.setenv("ENGINE_A_API_KEY", wrong)
                for _ in range(2):
                    answer = await proxy.send(post(ask(stream=streaming), headers=client))
                    assert b"502" in answer[:20]
                    assert b"engine_refused_key" in answer
                    assert b"canary" not in answer
            rows = proxy.exchanges()
            assert [row.outcome for row in rows] == ["complete"] * 2 + ["upstream_error"] * 4
            assert not any(b"canary" in row.request + row.response for row in rows)
            assert "canary" not in caplog.text
            assert b"canary" not in table.to_json()
            assert not any(b"client-canary" in request for request in engine.requests)


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_engine_that_has_taken_its_key_refuses_the_request_by_a_403(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """A gateway that moderates. Where all are refused from then on, it is the key after all."""

    async def guarded(request: bytes, writer: asyncio.StreamWriter) -> None:
        refused = json_answer(b'{"error":"engine-canary"}', "403 Forbidden")
        writer.write(refused if b"flag me" in request else json_answer(b'{"own":1}'))

    async with Engine(guarded).running() as engine:
        table = snapshot({1: engine.url})
        endpoint = replace(table.endpoints["chat", 1], credential="ENGINE_A_API_KEY")
        table = replace(table, endpoints={("chat", 1): endpoint})
        async with running_proxy(tmp_path, table) as proxy:
            monkeypatch.setenv("ENGINE_A_API_KEY", "engine-canary")
            flagged = ask(stream=streaming, messages=[{"role": "user", "content": "flag me"}])
            for sent in (flagged, ask(stream=streaming), *[flagged] * 20):
                assert b"canary" not in await proxy.send(post(sent))
            rows = [(row.outcome, row.error_code) for row in proxy.exchanges()]
    key = ("upstream_error", "engine_refused_key")
    request = ("upstream_rejected", "engine_refused_request")
    assert rows == [key, ("complete", None), *[request] * 19, key]


def _self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """For a server on localhost; and the certificate, for whoever trusts it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context, certificate


async def test_a_replica_over_tls_is_verified(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is no engine: nothing is sent."""
    context, certificate = _self_signed(tmp_path)
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(json_answer(b'{"own":1}'))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with running_proxy(tmp_path, snapshot({1: url})) as proxy:
        assert b"upstream_unreachable" in await proxy.send(post(ask()))
        assert not seen
        trusting = ssl.create_default_context(cafile=str(certificate))
        proxy.worker.upstreams.replica(url).ssl = trusting
        assert (await proxy.send(post(ask()))).endswith(b'{"own":1}')
        assert seen
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("number", [300, 301, 302, 304, 307, 308, 399])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_redirect_is_a_failure_and_names_no_inner_address(
    tmp_path: Path, number: int, *, stream: bool
) -> None:
    """`http://` where a balancer wants `https://`, say: no guardrail may take that for an answer."""

    async def redirect(_: bytes, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 %d Moved\r\nlocation: http://10.0.0.7/x\r\ncontent-length: 0\r\n\r\n"
        writer.write(head % number)

    async with Engine(redirect).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            for _ in range(2):  # the second time its head is known
                answer = await proxy.post(ask(stream=stream))
                assert answer.startswith(b"HTTP/1.1 502 ")
                assert b"upstream_redirect" in answer
                assert b"10.0.0.7" not in answer
            rows = [(row.outcome, row.error_code) for row in proxy.exchanges()]
    assert rows == [("upstream_error", "upstream_redirect")] * 2


async def test_an_answer_that_drips_has_an_end(tmp_path: Path) -> None:
    async def drip(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        while True:
            writer.write(chunk(b": still here\n\n"))
            await asyncio.sleep(0.02)

    limits = Limits(total_seconds=0.3)
    async with Engine(drip).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            await asyncio.wait_for(proxy.post(ask(stream=True)), 2)
            (row,) = proxy.exchanges()
    assert (row.outcome, row.error_code) == ("timeout", "upstream_too_long")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\n\x1f\x8b\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_told_as_that(
    tmp_path: Path, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def garbled(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with Engine(garbled).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            for _ in range(2):
                got = await asyncio.wait_for(proxy.post(ask()), 2)
                assert b"does not answer in HTTP/1.1" in got
        (told,) = [line.getMessage() for line in caplog.records if engine.url in line.getMessage()]
    assert told.startswith(f"the engine at {engine.url} does not answer in HTTP/1.1: ")
