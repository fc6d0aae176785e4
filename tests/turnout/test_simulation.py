"""The simulated engine: is it vLLM's wire, is it repeatable, does it misbehave as told, does it clean up?"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from turnout.simulation import (
    Answer,
    AnswerKey,
    AnswerKeyError,
    FaultError,
    Faults,
    Profile,
    ProfileError,
    SimulatedEngine,
    running_engine,
)
from turnout.simulation.answers import tokens

ASK = {"model": "chat", "messages": [{"role": "user", "content": "Where is my parcel?"}]}


@asynccontextmanager
async def serving(**options: object) -> AsyncIterator[tuple[SimulatedEngine, httpx.AsyncClient]]:
    profile = options.pop("profile", Profile(name="chat"))
    async with SimulatedEngine(profile, **options) as engine:  # type: ignore[arg-type]
        async with httpx.AsyncClient(base_url=engine.url, timeout=5) as client:
            yield engine, client


@asynccontextmanager
async def connected(
    engine: SimulatedEngine,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection, closed for good afterwards."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(engine.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def events(body: bytes) -> list[str]:
    assert body.endswith(b"\n\n")
    lines = body.decode().split("\n\n")[:-1]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def text_of(documents: list[dict]) -> str:
    return "".join(c["delta"].get("content") or "" for d in documents for c in d["choices"])


async def post(
    client: httpx.AsyncClient, path: str = "/v1/chat/completions", **fields: object
) -> httpx.Response:
    return await client.post(path, json={**ASK, **fields})


# -- vLLM's wire


async def test_every_answer_says_that_it_is_simulated() -> None:
    async with serving() as (_, client):
        for path in ("/health", "/version", "/v1/models", "/metrics", "/nowhere"):
            assert (await client.get(path)).headers["x-simulated"] == "1"
        assert (await client.get("/version")).json()["simulated"] is True
        answer = await post(client)
        assert answer.headers["x-simulated"] == "1"
        assert answer.json()["system_fingerprint"] == "simulated"
        streamed = await post(client, stream=True)
        assert streamed.headers["x-simulated"] == "1"
        assert b'"system_fingerprint":"simulated"' in streamed.content
        assert all("-simulated-" in event for event in events(streamed.content)[:-1])


async def test_a_stream_is_the_json_answer_in_pieces() -> None:
    async with serving() as (_, client):
        whole = (await post(client)).json()
        streamed = await post(client, stream=True)
        assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert streamed.headers["transfer-encoding"] == "chunked"
        *pieces, done = events(streamed.content)
        assert done == "[DONE]"
        documents = [json.loads(piece) for piece in pieces]
        assert documents[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert text_of(documents) == whole["choices"][0]["message"]["content"]
        assert documents[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"
        assert not any("usage" in document for document in documents)


async def test_usage_is_a_last_event_without_choices_and_only_if_asked_for() -> None:
    async with serving() as (_, client):
        whole = (await post(client)).json()["usage"]
        streamed = await post(client, stream=True, stream_options={"include_usage": True})
        last = json.loads(events(streamed.content)[-2])
        assert last["choices"] == []
        assert last["usage"] == {k: v for k, v in whole.items() if v is not None}
        assert whole["total_tokens"] == whole["prompt_tokens"] + whole["completion_tokens"]


@pytest.mark.parametrize("stream", [True, False])
async def test_max_tokens_ends_in_length(stream: bool) -> None:
    async with serving() as (_, client):
        options = {"stream_options": {"include_usage": True}} if stream else {}
        answer = await post(client, stream=stream, max_tokens=3, **options)
        documents = (
            [json.loads(event) for event in events(answer.content)[:-1]] if stream else [answer.json()]
        )
        assert documents[-1]["usage"]["completion_tokens"] == 3
        reasons = {c["finish_reason"] for d in documents for c in d["choices"]} - {None}
        assert reasons == {"length"}


async def test_stop_strings_cut_the_answer() -> None:
    async with serving() as (_, client):
        whole = (await post(client)).json()["choices"][0]["message"]["content"]
        fourth, second = whole.split()[3], whole.split()[1]
        choice = (await post(client, stop=[fourth, second])).json()["choices"][0]
        assert choice["message"]["content"] == whole[: whole.find(second)]
        assert choice["stop_reason"] == second
        assert choice["finish_reason"] == "stop"


async def test_several_choices_take_turns() -> None:
    async with serving() as (_, client):
        whole = (await post(client, n=3, max_tokens=4)).json()["choices"]
        assert [choice["index"] for choice in whole] == [0, 1, 2]
        assert len({choice["message"]["content"] for choice in whole}) > 1
        streamed = await post(client, n=3, max_tokens=4, stream=True)
        documents = [json.loads(event) for event in events(streamed.content)[:-1]]
        for index in range(3):
            mine = [d for d in documents if d["choices"][0]["index"] == index]
            assert text_of(mine) == whole[index]["message"]["content"]


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_order",
            "parameters": {"type": "object", "properties": {"order_id": {"type": "integer"}}},
        },
    }
]


async def test_tool_calls_whole_and_streamed() -> None:
    async with serving() as (engine, client):
        wanted = {"tools": TOOLS, "tool_choice": "required"}
        choice = (await post(client, **wanted)).json()["choices"][0]
        (call,) = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        assert isinstance(json.loads(call["function"]["arguments"])["order_id"], int)
        streamed = await post(client, stream=True, **wanted)
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events(streamed.content)[:-1]]
        pieces = [delta["tool_calls"][0]["function"] for delta in deltas if "tool_calls" in delta]
        assert pieces[0] == {"name": "get_order", "arguments": ""}
        assert "".join(piece["arguments"] for piece in pieces) == call["function"]["arguments"]
        assert engine.counters.with_tools == 2
        assert engine.counters.side_effects == 0


async def test_a_schema_is_answered_with_json_that_fits() -> None:
    schema = {
        "type": "object",
        "properties": {"category": {"enum": ["refund"]}, "urgent": {"type": "boolean"}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with serving() as (_, client):
        content = (await post(client, response_format=wanted)).json()["choices"][0]["message"]["content"]
        assert json.loads(content) == {"category": "refund", "urgent": True}


async def test_completions_and_logprobs() -> None:
    async with serving() as (_, client):
        body = {"model": "chat", "prompt": ["one", "two"], "max_tokens": 2, "logprobs": 1}
        answer = (await client.post("/v1/completions", json=body)).json()
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]
        first = answer["choices"][0]
        assert "".join(first["logprobs"]["tokens"]) == first["text"]
        streamed = await client.post("/v1/completions", json={**body, "prompt": "one", "stream": True})
        documents = [json.loads(event) for event in events(streamed.content)[:-1]]
        assert "".join(d["choices"][0]["text"] for d in documents) == first["text"]


async def test_embeddings_are_unit_vectors_in_both_encodings() -> None:
    async with serving() as (_, client):
        body = {"model": "chat", "input": ["a", "b", "a"]}
        plain = [e["embedding"] for e in (await client.post("/v1/embeddings", json=body)).json()["data"]]
        assert plain[0] == plain[2] != plain[1]
        assert sum(x * x for x in plain[0]) == pytest.approx(1.0)
        packed = await client.post("/v1/embeddings", json={**body, "encoding_format": "base64"})
        raw = base64.b64decode(packed.json()["data"][0]["embedding"])
        assert struct.unpack("<64f", raw) == pytest.approx(plain[0], abs=1e-6)


async def test_tokens_and_gauges() -> None:
    async with serving() as (engine, client):
        counted = (
            await client.post("/tokenize", json={"prompt": "hello world", "return_token_strs": True})
        ).json()
        assert counted["count"] == len(counted["tokens"]) == 2
        assert "".join(counted["token_strs"]) == "hello world"
        assert counted["max_model_len"] == 8192
        hanging = asyncio.ensure_future(post(client, model="slow-ttft-300"))
        await engine.until(lambda counters: counters.running == 1)
        metrics = (await client.get("/metrics")).text
        assert 'vllm:num_requests_running{engine="0",model_name="chat"} 1.0' in metrics
        assert "vllm:num_requests_waiting" in metrics
        assert "vllm:kv_cache_usage_perc" in metrics
        await hanging
        assert engine.counters.running == 0


async def test_what_exceeds_the_slots_waits() -> None:
    async with serving(profile=Profile(name="chat", slots=1, ttft_ms=60)) as (engine, client):
        both = asyncio.gather(post(client), post(client))
        await engine.until(lambda counters: (counters.running, counters.waiting) == (1, 1))
        assert [answer.status_code for answer in await both] == [200, 200]


@pytest.mark.parametrize(
    ("body", "status", "kind", "word"),
    [
        (b"{", 400, "Bad Request", "json_invalid"),
        (b"[]", 400, "Bad Request", "dict_type"),
        (b'{"model":"chat"}', 400, "Bad Request", "messages"),
        (b'{"model":"other","messages":[{"role":"user","content":"x"}]}', 404, "NotFoundError", "`other`"),
        (
            b'{"messages":[{"role":"user","content":"x"}],"max_tokens":0}',
            400,
            "BadRequestError",
            "at least 1",
        ),
        (b'{"messages":[{"role":"user","content":"x"}],"n":"2"}', 400, "Bad Request", "int_type"),
        (
            b'{"messages":[{"role":"user","content":"%b"}]}' % (b"long " * 9000),
            400,
            "BadRequestError",
            "maximum",
        ),
    ],
)
async def test_bad_requests_are_refused_in_vllms_shape(
    body: bytes, status: int, kind: str, word: str
) -> None:
    async with serving() as (_, client):
        answer = await client.post("/v1/chat/completions", content=body)
        problem = answer.json()["error"]
        assert answer.status_code == problem["code"] == status
        assert problem["type"] == kind
        assert word in problem["message"]


async def test_bytes_that_are_no_http_are_refused() -> None:
    async with serving() as (engine, _):
        for raw in (
            b"nonsense\r\n\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        ):
            async with connected(engine) as (reader, writer):
                writer.write(raw)
                assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_chunked_bodies_pipelining_and_the_verbatim_request() -> None:
    async with serving() as (engine, _):
        body = json.dumps(ASK).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
        chunked += b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:], b""))
        sized = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        async with connected(engine) as (reader, writer):
            for at in range(0, len(chunked), 11):
                writer.write(chunked[at : at + 11])
                await asyncio.sleep(0)
            writer.write(sized)
            answers = await reader.read()
            assert answers.count(b"HTTP/1.1 200 OK") == 2
            assert (engine.counters.last_request, engine.counters.last_body) == (sized, body)


# -- what it says


def test_tokens_join_to_the_text() -> None:
    for text in ("", " ", "a  b\n\nc", "naïve ☂ text", "x" * 50, " end "):
        assert "".join(tokens(text)) == text


async def test_the_answer_key_is_followed_and_nested_by_quality(support_key: AnswerKey) -> None:
    right: dict[float, set[str]] = {}
    for quality in (0.5, 0.8, 1.0):
        async with serving(profile=Profile(name="chat", quality=quality), key=support_key) as (_, client):
            right[quality] = set()
            for prompt in support_key.entries:
                body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0}
                message = (await post(client, **body)).json()["choices"][0]["message"]
                entry = support_key.entries[prompt]
                calls = [c["function"] for c in message.get("tool_calls") or ()]
                said = (message["content"] or "", [(c["name"], c["arguments"]) for c in calls])
                known = [
                    (a.text, [(c.name, c.arguments) for c in a.tool_calls])
                    for a in (entry.right, entry.wrong)
                ]
                assert said in known
                if said == known[0]:
                    right[quality].add(prompt)
    assert right[0.5] < right[0.8] < right[1.0] == set(support_key.entries)


async def test_repetitions_differ_but_at_temperature_zero_and_for_a_seed(support_key: AnswerKey) -> None:
    prompt = next(p for p, entry in support_key.entries.items() if entry.right.text)
    body = {"messages": [{"role": "user", "content": prompt}]}
    profile = Profile(name="chat", quality=0.5)

    async def said(**fields: object) -> list[str]:
        async with serving(profile=profile, key=support_key) as (_, client):
            answers = [await post(client, **body, **fields) for _ in range(12)]
            return [answer.json()["choices"][0]["message"]["content"] for answer in answers]

    assert len(set(await said(temperature=0))) == 1
    assert len(set(await said(seed=3))) == 1
    assert len(set(await said())) == 2
    assert await said() == await said()


def test_judging(support_key: AnswerKey) -> None:
    prompt, entry = next(iter(support_key.entries.items()))
    assert support_key.judge(f" {prompt}\n", entry.right) is True
    assert support_key.judge(prompt, entry.wrong) is False
    assert support_key.judge("unheard of", Answer(text="x")) is None


def test_a_broken_answer_key_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"source": {}}\n\n{"source": {"answer": "x"}}\n')
    with pytest.raises(AnswerKeyError, match=r"items\.jsonl:3"):
        AnswerKey.read([path])


async def test_verbosity_lengthens_the_answer() -> None:
    lengths = []
    for verbosity in (0.5, 1.0, 4.0):
        async with serving(profile=Profile(name="chat", verbosity=verbosity)) as (_, client):
            lengths.append((await post(client)).json()["usage"]["completion_tokens"])
    assert lengths[0] < lengths[1] < lengths[2]


async def test_rates_are_what_the_profile_says_and_repeat() -> None:
    profile = Profile(name="chat", error_rate=0.2, truncation_rate=0.3)

    async def outcomes() -> list[str]:
        async with serving(profile=profile) as (_, client):
            found = []
            for _ in range(200):
                answer = await post(client, stream=True)
                ended = answer.content.endswith(b"[DONE]\n\n")
                found.append("error" if answer.status_code == 500 else "whole" if ended else "cut")
            return found

    first = await outcomes()
    assert first.count("error") == pytest.approx(40, abs=15)
    assert first.count("cut") == pytest.approx(48, abs=18)
    assert await outcomes() == first


async def test_pace_follows_the_profile() -> None:
    async with serving(profile=Profile(name="chat", ttft_ms=100, tokens_per_s=200)) as (_, client):
        started = time.monotonic()
        body = {**ASK, "stream": True, "max_tokens": 20}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            head = time.monotonic() - started
            times = [time.monotonic() - started async for line in answer.aiter_lines() if "content" in line]
        assert head < 0.1 <= times[0]
        assert times[-1] - times[0] >= 0.09


def test_jitter_keeps_the_mean() -> None:
    profile = Profile(ttft_ms=100, tokens_per_s=100, jitter=0.5)
    paces = [profile.pace(arrival) for arrival in range(4000)]
    assert sum(first for first, _ in paces) / 4000 == pytest.approx(0.1, rel=0.05)
    assert sum(gap for _, gap in paces) / 4000 == pytest.approx(0.01, rel=0.05)
    assert min(first for first, _ in paces) > 0


@pytest.mark.parametrize(
    "fields", [{"quality": 1.1}, {"ttft_ms": -1.0}, {"name": ""}, {"nam": "x"}, {"slots": "2"}]
)
def test_a_profile_that_cannot_be_is_refused_by_field(fields: dict[str, object]) -> None:
    with pytest.raises(ProfileError, match=next(iter(fields))):
        Profile.from_fields(fields)


# -- faults


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


# -- life


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_closing_leaves_nothing_behind() -> None:
    async with serving():  # whatever is opened once is open now
        pass
    files, tasks = open_files(), len(asyncio.all_tasks())
    for _ in range(5):
        engine = SimulatedEngine(Profile(name="chat"))
        await engine.start()
        port = int(engine.url.rpartition(":")[2])
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for _, writer in streams[:5]:
            body = b'{"model":"hang","messages":[{"role":"user","content":"x"}]}'
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
        await engine.until(lambda counters: counters.requests == 5)
        await engine.close()
        await engine.close()
        assert engine.counters.open_sockets == 0
        assert engine.counters.aborted == 0
        for _, writer in streams:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
    assert (open_files(), len(asyncio.all_tasks())) == (files, tasks)


def test_a_threaded_engine_serves_synchronous_code_and_ends() -> None:
    with running_engine(Profile(name="chat")) as engine:
        counters = httpx.post(f"{engine.url}/v1/chat/completions", json=ASK)
        assert counters.status_code == 200
        seen = httpx.get(f"{engine.url}/simulation/counters").json()
        assert (seen["requests"], seen["paths"]) == (1, {"/v1/chat/completions": 1})
    with pytest.raises(httpx.ConnectError):
        httpx.get(engine.url)


def test_the_process_says_where_it_is_and_stops_on_sigterm(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"name": "from-file", "verbosity": 2.0}')
    command = [sys.executable, "-m", "turnout.simulation", "--profile", str(profile), "--seed", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["name"] == "from-file"
        assert httpx.get(f"{ready['url']}/v1/models").json()["data"][0]["id"] == "from-file"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


@pytest.mark.parametrize("wrong", [["--quality", "2"], ["--profile", "nowhere.json"], ["--faults", "nope"]])
def test_the_process_refuses_what_cannot_be(wrong: list[str]) -> None:
    command = [sys.executable, "-m", "turnout.simulation", *wrong]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("simulated engine: ")
