"""Every endpoint is routed and recorded; streams where the API streams; costly wishes are capped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from proxy import wire
from proxy.limits import Limits

from .harness import SSE_HEAD, Engine, chunk, json_answer, post, running_proxy, snapshot
from .test_relay import dechunk, parts

BODIES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
    },
    "/v1/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": ["x"]},
    "/v1/responses": {"input": "x", "tools": [{"type": "function", "name": "f"}]},
    "/v1/messages": {"messages": [], "max_tokens": 5, "system": "s"},
    "/v1/rerank": {"query": "q", "documents": ["a", "b"]},
    "/v1/score": {"text_1": "a", "text_2": ["b"]},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1, 2]},
}
LAST = {
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/responses": b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n',
    "/v1/messages": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}


def test_every_endpoint_has_a_case() -> None:
    assert BODIES.keys() == wire.APIS.keys()
    assert LAST.keys() == {path for path, api in wire.APIS.items() if api.streams}


@pytest.mark.parametrize("path", sorted(BODIES))
async def test_a_body_passes_untouched_and_is_recorded(tmp_path: Path, path: str) -> None:
    answer = b'{"some":  "answer", "n": 1.10}'

    async def plain(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(answer))

    raw = orjson.dumps({"model": "chat", **BODIES[path], "user": "ada", "unheard_of": {"model": 1.5}})
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        for _ in range(2):
            status, _, body = parts(await proxy.post(raw, path))
            assert (status, body) == (200, answer)
        assert engine.requests[0].startswith(b"POST %b HTTP/1.1\r\n" % path.encode())
        assert engine.requests[0].endswith(b"\r\n\r\n" + raw)
        assert [(r.path, r.request, r.response, r.outcome) for r in proxy.exchanges()] == [
            (path, raw, answer, "complete")
        ] * 2


@pytest.mark.parametrize("path", sorted(LAST))
async def test_the_row_is_there_before_the_last_event_is_out(tmp_path: Path, path: str) -> None:
    first = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    last = LAST[path]

    async def never_ends(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunk(first) + chunk(last[:9]))
        await asyncio.sleep(0.02)
        writer.write(chunk(last[9:]))
        await asyncio.sleep(30)

    async with Engine(never_ends).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post({"model": "chat", "stream": True, **BODIES[path]}, path))
            received = await reader.readuntil(b"\r\n\r\n")
            received = b""
            while last not in dechunk(received + b"0\r\n\r\n"):
                received += await reader.readuntil(b"\r\n")
            (row,) = proxy.exchanges()
            assert (row.outcome, row.stream, row.response) == ("complete", True, first + last)
            writer.close()


async def test_only_where_it_is_known_are_token_counts_asked_for(tmp_path: Path) -> None:
    async def events(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunk(b"event: x\ndata: {}\n\n") + b"0\r\n\r\n")

    async with Engine(events).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            for path in LAST:
                raw = orjson.dumps({"model": "chat", "stream": True, **BODIES[path]})
                await proxy.post(raw, path)
                asked = b"include_usage" in engine.requests[-1]
                assert asked == wire.APIS[path].counts_on_request
                assert asked or engine.requests[-1].endswith(raw)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("max_tokens", 1 << 40, "out_of_range"),
        ("max_completion_tokens", "many", "invalid_type"),
        ("max_output_tokens", -1, "out_of_range"),
        ("top_logprobs", 100_000, "out_of_range"),
        ("logprobs", 100_000, "out_of_range"),
        ("prompt_logprobs", -1, "out_of_range"),
        ("best_of", 0, "out_of_range"),
        ("stop", ["x"] * 1000, "too_many_items"),
        ("stop_token_ids", [1] * 1000, "too_many_items"),
        ("api_base", "http://evil", "routing_field_refused"),
        ("metadata", {"base_url": 1}, "routing_field_refused"),
    ],
)
@pytest.mark.parametrize("path", sorted(BODIES))
def test_what_costs_much_or_leads_elsewhere_is_refused_everywhere(
    path: str, field: str, value: object, code: str
) -> None:
    raw = orjson.dumps({"model": "chat", **BODIES[path], field: value})
    with pytest.raises(wire.Refusal) as refused:
        wire.parse(path, raw, Limits())
    assert (refused.value.status, refused.value.code) == (400, code)


def test_what_is_ordinary_passes() -> None:
    fields = {"n": 4, "max_tokens": 0, "logprobs": True, "top_logprobs": 20, "stop": ["a"], "best_of": None}
    wire.parse("/v1/chat/completions", orjson.dumps({"model": "m", "messages": [], **fields}), Limits())
