"""The simulated engine's faults: does it misbehave as told, to the byte, and count what a client did?"""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest

from turnout.simulation import FaultError, Faults, Profile, SimulatedEngine

from .simulated import ASK, TOOLS, connected, events, post, serving


def test_faults_add_up_and_unknown_ones_are_refused() -> None:
    assert Faults.parse("slow-ttft-250+crlf") == Faults(token_delay=0.25, crlf=True)
    assert Faults.parse("ok") == Faults.parse("") == Faults()
    assert Faults.parse("rst-at-3").and_also(Faults.parse("cut-at-9")) == Faults(rst_at=3, cut_at=9)
    for wrong in ("nope", "rst-at-", "slice", "ok+nope", "999"):
        with pytest.raises(FaultError, match=r"faults\.py"):
            Faults.parse(wrong)


@pytest.mark.parametrize(
    "spelling", ["slice-1", "slice-7", "crlf", "comments", "no-space", "bom", "bandwidth-100000"]
)
async def test_spellings_carry_the_same_events(spelling: str) -> None:
    async with serving() as (_, client):
        plain = events((await post(client, model="ok", stream=True)).content)
        odd = (await post(client, model=spelling, stream=True)).content
        lines = odd.removeprefix(b"\xef\xbb\xbf").decode().replace("\r\n", "\n").split("\n\n")
        data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        assert [json.loads(d)["choices"] for d in data[:-1]] == [json.loads(p)["choices"] for p in plain[:-1]]
        assert data[-1] == "[DONE]"


async def test_faults_by_field_by_header_and_for_the_engine() -> None:
    async with serving() as (engine, client):
        assert (await post(client, simulated_fault="429")).status_code == 429
        answer = await client.post("/v1/chat/completions", json=ASK, headers={"x-simulated-fault": "503"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await post(client, simulated_fault="nope")).status_code == 400
        engine.misbehave("413")
        assert (await post(client)).status_code == 413
        engine.misbehave("")
        assert (await post(client)).status_code == 200


async def raw(engine: SimulatedEngine, model: str, stream: bool = True) -> tuple[bytes, bool]:
    """All bytes of one exchange, and whether it ended in a reset."""
    async with connected(engine) as (reader, writer):
        body = json.dumps({**ASK, "model": model, "stream": stream}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        received = b""
        try:
            while piece := await reader.read(65536):
                received += piece
        except ConnectionResetError:
            return received, True
        return received, False


@pytest.mark.parametrize("stream", [True, False])
async def test_cuts_and_resets_strike_at_the_byte(stream: bool) -> None:
    async with serving() as (engine, _):
        for at in (0, 1, 37, 200):
            for fault, resets in (("cut-at", False), ("rst-at", True)):
                received, reset = await raw(engine, f"{fault}-{at}", stream)
                assert reset is resets
                head, _, body = received.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                assert not body.endswith(b"0\r\n\r\n")
                assert len(dechunk(body) if stream else body) == at
        assert engine.counters.aborted == 0


def dechunk(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        out, body = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return out


async def test_endings_that_lack_something() -> None:
    async with serving() as (engine, client):
        ends = {}
        for fault in ("ok", "eof-clean", "no-done", "no-finish", "error-event"):
            received, _ = await raw(engine, fault)
            assert received.endswith(b"0\r\n\r\n")
            ends[fault] = (
                b'finish_reason":"stop"' in received,
                b"[DONE]" in received,
                b'data: {"error"' in received,
            )
        assert ends == {
            "ok": (True, True, False),
            "eof-clean": (False, False, False),
            "no-done": (True, False, False),
            "no-finish": (False, True, False),
            "error-event": (False, True, True),
        }
        received, reset = await raw(engine, "rst")
        assert (received, reset) == (b"", True)
        assert not (await raw(engine, "garbage"))[0].startswith(b"HTTP")
        cut = (await raw(engine, "eof-clean", stream=False))[0]
        assert cut.endswith(b"0\r\n\r\n")
        empty = (await post(client, model="empty")).json()
        assert (empty["choices"][0]["message"]["content"], empty["usage"]["completion_tokens"]) == ("", 0)
        assert (
            len((await post(client, model="big-1000000")).json()["choices"][0]["message"]["content"]) == 10**6
        )


async def test_secrets_come_back_when_asked_to() -> None:
    async with serving() as (_, client):
        answer = await client.post(
            "/v1/chat/completions",
            json={**ASK, "model": "echo-auth"},
            headers={"authorization": "Bearer sk-1"},
        )
        assert answer.status_code == 401
        assert "Bearer sk-1" in answer.text


async def test_connections_are_kept_or_not_as_told() -> None:
    async with serving() as (engine, client):
        for model, connections in (("ok", 1), ("ok", 1), ("no-keepalive", 1), ("ok", 2), ("stale", 2)):
            answer = await post(client, model=model)
            assert answer.status_code == 200
            assert ("connection" in answer.headers) is (model == "no-keepalive")
            assert engine.counters.connections == connections
        await engine.until(lambda counters: counters.open_sockets == 0)
        await post(client, model="stale-drop")
        with pytest.raises(httpx.RemoteProtocolError):
            await post(client)


async def test_an_early_answer_comes_before_the_body() -> None:
    async with serving() as (engine, _), connected(engine) as (reader, writer):
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n")
        writer.write(b'{"model":"early-response","messages":[')
        answer = await asyncio.wait_for(reader.read(), 2)
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_counted_with_its_token(stream: bool) -> None:
    async with serving(profile=Profile(name="chat", tokens_per_s=100)) as (engine, _):
        async with connected(engine) as (reader, writer):
            body = json.dumps({**ASK, "stream": stream}).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            if stream:
                await reader.readuntil(b'"content":"')
                await reader.readuntil(b'"delta":{"content":"')
            else:
                await engine.until(lambda counters: counters.running == 1)
            left = time.monotonic()
            writer.close()
            await engine.until(lambda counters: counters.aborted == 1)
            (abort,) = engine.counters.aborts
            assert abort.at - left < 0.1
            assert (abort.stream, abort.model) == (stream, "chat")
            assert (0 < abort.token < 10) if stream else (abort.token == 0)
            assert (engine.counters.running, engine.counters.answered) == (0, 0)


async def test_what_a_server_would_act_on_is_counted() -> None:
    async with serving() as (engine, client):
        await post(client, store=True)
        await post(client, tools=[{"type": "mcp", "server_label": "x"}])
        await post(client, store=False, tools=TOOLS)
        assert engine.counters.side_effects == 2
