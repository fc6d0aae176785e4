"""The simulated engine: is it vLLM's wire, does it start and stop as told, does it clean up?"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from turnout.simulation import Profile, SimulatedEngine, running_engine

from .simulated import ASK, TOOLS, connected, events, post, serving


def text_of(documents: list[dict]) -> str:
    return "".join(c["delta"].get("content") or "" for d in documents for c in d["choices"])


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


async def test_a_client_that_came_just_before_the_end_sees_it() -> None:
    engine = SimulatedEngine()
    await engine.start()
    with socket.create_connection(("127.0.0.1", int(engine.url.rpartition(":")[2])), 5) as client:
        for _ in range(2):  # it is accepted, and its protocol has not been told
            await asyncio.sleep(0)
        assert engine.counters.connections == 0
        await engine.close()
        assert engine.counters.connections == 1
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


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
