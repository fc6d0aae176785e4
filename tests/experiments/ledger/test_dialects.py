"""Each API in its own words: what is read, where its end mark is, and what a cut makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.ledger.dialects import DIALECTS
from experiments.ledger.transcript import ToolCall, Transcript, decode

from . import wires
from .samples import CHAT, chat_stream
from .wires import MESSAGES, RESPONSES, named

STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"


def read(path: str, body: bytes, kind: str = STREAM, request: object = None, **more: Any) -> Transcript:
    raw = b"{}" if request is None else json.dumps(request).encode()
    return decode(path, kind, 200, body, (7000,), (len(body),), raw, **more)


# -- /v1/messages


def test_a_messages_stream_is_read_whole() -> None:
    said = read(MESSAGES, wires.messages_stream("Guten ", "Tag 🚂"))
    assert (said.outcome, said.error_code, said.text) == ("complete", None, "Guten Tag 🚂")
    assert (said.finish_reason, said.choices, said.chunks, said.ttft_us) == ("end_turn", 1, 2, 7000)
    # 3 that touched no cache, 5 read from it, 2 written to it
    assert (said.prompt_tokens, said.cached_tokens, said.completion_tokens) == (10, 5, 2)


def test_thinking_and_tools_of_a_messages_stream() -> None:
    said = read(MESSAGES, wires.messages_tool_stream())
    assert (said.reasoning, said.text, said.finish_reason) == ("hmm, ok", "Looking.", "tool_use")
    assert said.tool_calls == (
        ToolCall(id="t1", name="find", arguments='{"city": "Köln"}'),
        ToolCall(id="t2", name="now", arguments="{}"),
    )
    assert said.outcome == "complete"


def test_a_messages_answer() -> None:
    content = [
        {"type": "thinking", "thinking": "hmm", "signature": "s"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t1", "name": "find", "input": {"a": 1}},
    ]
    body = {"type": "message", "role": "assistant", "content": content, "stop_reason": "tool_use"}
    usage = {"input_tokens": 4, "output_tokens": 9, "cache_read_input_tokens": None}
    said = read(MESSAGES, json.dumps(body | {"usage": usage}).encode(), JSON)
    assert (said.outcome, said.text, said.reasoning) == ("complete", "Hi", "hmm")
    assert (said.prompt_tokens, said.completion_tokens, said.cached_tokens) == (4, 9, None)
    assert said.tool_calls == (ToolCall(id="t1", name="find", arguments='{"a":1}'),)


# -- /v1/responses


def test_a_responses_stream_is_read_whole() -> None:
    said = read(RESPONSES, wires.responses_stream("Guten ", "Tag 🚂"))
    assert (said.outcome, said.text, said.finish_reason) == ("complete", "Guten Tag 🚂", "completed")
    assert (said.prompt_tokens, said.cached_tokens, said.completion_tokens) == (9, 4, 2)
    assert (said.chunks, said.ttft_us) == (2, 7000)


def test_reasoning_and_calls_of_a_responses_stream() -> None:
    said = read(RESPONSES, wires.responses_tool_stream())
    assert (said.reasoning, said.text) == ("hmm", "")
    assert said.tool_calls == (ToolCall(id="c1", name="find", arguments='{"city": "Köln"}'),)
    assert said.outcome == "complete"


def test_what_was_not_streamed_is_read_from_the_last_event() -> None:
    whole = wires.response("completed", [wires.message_item("All at once")])
    said = read(RESPONSES, named({"type": "response.completed", "response": whole}))
    assert (said.outcome, said.text, said.chunks) == ("complete", "All at once", 0)


def test_reasoning_that_was_streamed_is_not_read_from_the_last_event_again() -> None:
    """Where the tokens ended before the answer began, there is nothing else."""
    item = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hmm"}]}
    whole = wires.response("incomplete", [item], reason="max_output_tokens")
    last = {"type": "response.incomplete", "response": whole}
    said = read(RESPONSES, named({"type": "response.reasoning_text.delta", "delta": "hmm"}, last))
    assert (said.outcome, said.reasoning, said.text) == ("length", "hmm", "")
    assert read(RESPONSES, named(last)).reasoning == "hmm"


@pytest.mark.parametrize(
    ("response", "outcome", "code", "finish"),
    [
        (wires.response("completed", [wires.message_item("x")]), "complete", None, "completed"),
        (
            wires.response("incomplete", [wires.message_item("x")], reason="max_output_tokens"),
            "length",
            None,
            "max_output_tokens",
        ),
        (
            wires.response("incomplete", [wires.message_item("x")], reason="content_filter"),
            "complete",
            None,
            "content_filter",
        ),
        (wires.response("failed", []), "upstream_error", "response_failed", None),
        (wires.response("cancelled", [wires.message_item("x")]), "truncated", "finish_abort", "abort"),
        (wires.response("completed", []), "empty", None, "completed"),
        (wires.response("completed", [{"type": "web_search_call"}]), "complete", None, "completed"),
    ],
)
def test_the_status_of_a_response_decides(
    response: dict[str, Any], outcome: str, code: str | None, finish: str | None
) -> None:
    whole = read(RESPONSES, json.dumps(response).encode(), JSON)
    # vLLM ends every stream with this event, whatever the status is
    streamed = read(RESPONSES, named({"type": "response.completed", "response": response}))
    for said in (whole, streamed):
        assert (said.outcome, said.error_code, said.finish_reason) == (outcome, code, finish)


# -- vectors, scores, tokens


@pytest.mark.parametrize(
    ("path", "request_", "answer", "prompt", "text", "tokens"),
    [
        (
            "/v1/rerank",
            {"query": "which?", "documents": ["a"]},
            {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"prompt_tokens": 4}},
            "which?",
            None,
            4,
        ),
        (
            "/v1/score",
            {"text_1": "left", "text_2": ["right"]},
            {"data": [{"score": 0.5}], "usage": {"prompt_tokens": 4}},
            "left",
            None,
            4,
        ),
        ("/v1/score", {"queries": ["l", "m"]}, {"data": [{"score": 0.5}]}, "l\nm", None, None),
        ("/tokenize", {"prompt": "Zug"}, {"count": 1, "tokens": [7]}, "Zug", None, None),
        ("/tokenize", {"prompt": ""}, {"count": 0, "tokens": []}, "", None, None),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "hi"}]},
            {"count": 1, "tokens": [7]},
            "hi",
            None,
            None,
        ),
        ("/detokenize", {"tokens": [7, 8]}, {"prompt": "Zug"}, "[2 token ids or lists of them]", "Zug", None),
    ],
)
def test_answers_that_are_no_prose(
    path: str, request_: object, answer: object, prompt: str, text: str | None, tokens: int | None
) -> None:
    said = read(path, json.dumps(answer).encode(), JSON, request_)
    assert (said.outcome, said.prompt, said.text, said.prompt_tokens) == ("complete", prompt, text, tokens)


@pytest.mark.parametrize(
    ("path", "body", "outcome"),
    [
        ("/v1/rerank", {"results": []}, "empty"),
        ("/v1/score", {"data": []}, "empty"),
        ("/v1/rerank", {"data": []}, "upstream_error"),
        ("/tokenize", {"count": 3}, "upstream_error"),
        ("/detokenize", {"prompt": 3}, "upstream_error"),
        ("/v1/score", {"error": {"message": "no"}}, "upstream_error"),
    ],
)
def test_answers_that_are_none(path: str, body: object, outcome: str) -> None:
    assert read(path, json.dumps(body).encode(), JSON).outcome == outcome


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize", "/detokenize"])
def test_what_does_not_stream_is_no_stream(path: str) -> None:
    assert read(path, chat_stream(["a"])).error_code == "malformed_stream"


# -- what was asked


@pytest.mark.parametrize(
    ("path", "request_", "prompt"),
    [
        (RESPONSES, {"input": "Hi"}, "Hi"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}, "Hi"),
        (RESPONSES, {"input": [{"type": "function_call_output", "output": "42"}]}, "42"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, '{"type":"item_reference","id":"x"}'),
        (RESPONSES, {"input": []}, None),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, "Hi"),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "[tool_result]"),
        (MESSAGES, {"messages": 7}, None),
    ],
)
def test_what_was_asked(path: str, request_: object, prompt: str | None) -> None:
    assert read(path, b"{}", JSON, request_).prompt == prompt


# -- how streams end

ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
OPENAI_ERROR = {"type": "error", "code": "server_error", "message": "busy"}


def _without(stream: bytes, *kinds: str) -> bytes:
    return b"".join(
        block + b"\n\n"
        for block in stream.split(b"\n\n")
        if block and not any(f'"type": "{kind}"'.encode() in block for kind in kinds)
    )


ANTHROPIC, OPENAI = wires.messages_stream("a", "b"), wires.responses_stream("a", "b")
ENDINGS: list[tuple[str, str, bytes, str, str | None]] = [
    ("messages whole", MESSAGES, ANTHROPIC, "complete", None),
    ("messages, and [DONE]", MESSAGES, ANTHROPIC + b"data: [DONE]\n\n", "complete", None),
    ("messages without the last blank line", MESSAGES, ANTHROPIC[:-2], "complete", None),
    ("messages without message_stop", MESSAGES, _without(ANTHROPIC, "message_stop"), "truncated", "no_end"),
    (
        "messages, [DONE] in place of message_stop",
        MESSAGES,
        _without(ANTHROPIC, "message_stop") + b"data: [DONE]\n\n",
        "truncated",
        "no_end",
    ),
    (
        "messages without stop reason",
        MESSAGES,
        _without(ANTHROPIC, "message_delta"),
        "truncated",
        "no_finish_reason",
    ),
    (
        "messages cut after the start",
        MESSAGES,
        ANTHROPIC[: ANTHROPIC.index(b"\n\n") + 2],
        "truncated",
        "no_finish_reason",
    ),
    ("messages at the limit", MESSAGES, wires.messages_stream("a", stop="max_tokens"), "length", None),
    ("messages with an error", MESSAGES, ANTHROPIC[:300] + named(ERROR), "upstream_error", "error_event"),
    ("messages of nothing", MESSAGES, b"", "truncated", "no_end"),
    ("messages without content", MESSAGES, wires.messages_stream(), "empty", None),
    ("responses whole", RESPONSES, OPENAI, "complete", None),
    ("responses, and [DONE]", RESPONSES, OPENAI + b"data: [DONE]\n\n", "complete", None),
    (
        "responses without the last event",
        RESPONSES,
        _without(OPENAI, "response.completed"),
        "truncated",
        "no_finish_reason",
    ),
    (
        "responses with an error",
        RESPONSES,
        OPENAI[:400] + b"\n\n" + named(OPENAI_ERROR),
        "upstream_error",
        None,
    ),
    (
        "responses with an error without a name",
        RESPONSES,
        b"data: " + json.dumps(OPENAI_ERROR).encode() + b"\n\n",
        "upstream_error",
        "error_event",
    ),
    ("responses of nothing", RESPONSES, b"", "truncated", "no_end"),
]


@pytest.mark.parametrize(
    ("path", "body", "outcome", "code"), [e[1:] for e in ENDINGS], ids=[e[0] for e in ENDINGS]
)
def test_how_a_stream_ended(path: str, body: bytes, outcome: str, code: str | None) -> None:
    said = read(path, body)
    assert said.outcome == outcome
    assert code is None or said.error_code == code


WHOLE: dict[str, Callable[[], bytes]] = {
    CHAT: lambda: chat_stream(["Zug ", "fährt 🚂", "漢字"]),
    MESSAGES: wires.messages_tool_stream,
    RESPONSES: wires.responses_tool_stream,
    "/v1/completions": wires.completions_stream,
}


@pytest.mark.parametrize("path", WHOLE)
def test_a_cut_stream_is_never_complete(path: str) -> None:
    body = WHOLE[path]()
    assert read(path, body).outcome == "complete"
    # The bytes of the end mark itself; a blank line that is missing after them is no cut.
    end = len(body.rstrip())
    for cut in range(end):
        said = read(path, body[:cut])
        assert said.outcome in ("truncated", "upstream_error"), (cut, said)


@pytest.mark.parametrize("path", WHOLE)
def test_partitions_and_spellings_make_no_difference(path: str) -> None:
    """The heavy version is bench/partitions.py."""
    random = Random(path)
    body = WHOLE[path]()
    plain = read(path, body)
    for _ in range(150):
        spelt = wires.respelt(body, random)
        ends = sorted({random.randint(1, len(spelt)) for _ in range(random.randint(0, 40))} | {len(spelt)})
        said = decode(path, STREAM, 200, spelt, tuple(range(len(ends))), ends, b"{}")
        assert wires.content(said) == wires.content(plain)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "delta", "message", "content", "index", "usage", "output", "response", "status", "item",
             "content_block", "partial_json", "text", "tokens", "results", "data", "query", "input", "prompt"]
        ),
        inner,
        max_size=5,
    )
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["content_block_start", "content_block_delta", "message_start",
                                  "message_delta", "response.completed", "response.output_item.added",
                                  "response.output_text.delta", "message", "tool_use", "function_call"])},
        optional={"delta": inner, "message": inner, "response": inner, "item": inner, "content_block": inner},
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(JSON_VALUES, max_size=4),
    JSON_VALUES,
    st.sampled_from(sorted(DIALECTS)),
    st.booleans(),
    st.booleans(),
)
def test_nothing_makes_it_raise(
    parts: list[Any], asked: Any, path: str, streamed: bool, clipped: bool
) -> None:
    body = wires.bare(*parts) if streamed else json.dumps(parts[0] if parts else None).encode()
    said = read(path, body, STREAM if streamed else JSON, asked, clipped=clipped)
    assert said.text is None or said.text.encode() is not None
