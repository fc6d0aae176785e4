"""What an answer says and how it ended, for every way in which an engine can end one."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.ledger.transcript import ToolCall, Transcript, decode

from .samples import CHAT, chat_answer, chat_request, chat_stream, delta, sse, usage

STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"


def read(
    body: bytes, kind: str = STREAM, *, path: str = CHAT, request: bytes = b"{}", **more: Any
) -> Transcript:
    return decode(path, kind, 200, body, (5000,), (len(body),), request, **more)


def test_a_chat_stream_is_read_whole() -> None:
    said = read(chat_stream(["Hel", "lo ", "🚂"]), request=chat_request("Hi"))
    assert (said.outcome, said.error_code) == ("complete", None)
    assert (said.text, said.finish_reason, said.prompt) == ("Hello 🚂", "stop", "Hi")
    assert (said.prompt_tokens, said.completion_tokens, said.cached_tokens) == (7, 3, 0)
    assert (said.chunks, said.choices, said.ttft_us) == (3, 1, 5000)


def test_a_chat_answer_is_read_whole() -> None:
    said = read(chat_answer("All is well"), JSON)
    assert (said.outcome, said.text, said.completion_tokens) == ("complete", "All is well", 3)
    assert (said.chunks, said.ttft_us, said.gap_max_us) == (0, None, None)


#: What Mistral's reasoning models answer: https://docs.mistral.ai (ThinkChunk, TextChunk, ReferenceChunk).
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}], "closed": True}
PARTS = [THOUGHT, {"type": "text", "text": "It is "}, {"type": "reference", "reference_ids": [1]}]


def test_an_answer_in_parts_is_read_part_by_part() -> None:
    body = json.loads(chat_answer("x"))
    body["choices"][0]["message"]["content"] = [*PARTS, {"type": "text", "text": "four."}]
    said = read(json.dumps(body).encode(), JSON)
    assert (said.outcome, said.error_code) == ("complete", None)
    assert (said.text, said.reasoning) == ("It is four.", "hmm")


def test_a_stream_in_parts_is_read_part_by_part() -> None:
    pieces = [delta("", role="assistant"), delta([THOUGHT]), delta("It is "), delta(PARTS[1:2])]  # type: ignore[arg-type]
    said = read(sse(*pieces, delta("four.", finish="stop"), "[DONE]"))
    assert (said.outcome, said.text, said.reasoning) == ("complete", "It is It is four.", "hmm")
    assert said.chunks == 4


@pytest.mark.parametrize("content", [[5], [{"type": "text", "text": 5}], {"text": "x"}, 5])
def test_content_that_is_neither_a_text_nor_parts_is_malformed(content: Any) -> None:
    body = json.loads(chat_answer("x"))
    body["choices"][0]["message"]["content"] = content
    said = read(json.dumps(body).encode(), JSON)
    assert (said.outcome, said.error_code) == ("upstream_error", "malformed_answer")


def test_thinking_without_an_answer_is_empty() -> None:
    body = json.loads(chat_answer("x"))
    body["choices"][0]["message"]["content"] = [THOUGHT]
    assert read(json.dumps(body).encode(), JSON).outcome == "empty"


def test_times_are_those_of_the_chunks_that_completed_a_piece() -> None:
    pieces = [sse(delta("", role="assistant")), sse(delta("a")), sse(delta("b")), sse(delta("c"), delta("d"))]
    pieces.append(sse(delta(None, finish="stop"), "[DONE]"))
    ends = [sum(map(len, pieces[: i + 1])) for i in range(5)]
    times = (1000, 3000, 4000, 9000, 9500)
    said = decode(CHAT, STREAM, 200, b"".join(pieces), times, ends, b"{}")
    assert (said.ttft_us, said.chunks) == (3000, 4)
    # gaps: 1000, 5000, and 0 between the two that came together
    assert (said.gap_mean_us, said.gap_p99_us, said.gap_max_us) == (2000, 5000, 5000)


def test_a_piece_counts_when_its_last_byte_is_there() -> None:
    body = chat_stream(["x"])
    middle = body.index(b'"x"') + 1
    after = body.index(b"\n\n", middle) + 2
    said = decode(CHAT, STREAM, 200, body, (10, 20, 30), (middle, after, len(body)), b"{}")
    assert said.ttft_us == 20


def test_tool_calls_are_put_together_from_their_pieces() -> None:
    body = sse(
        delta(None, role="assistant", content=None),
        delta(
            tool_calls=[
                {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
            ]
        ),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
        delta(None, finish="tool_calls"),
        "[DONE]",
    )
    said = read(body)
    assert said.tool_calls == (
        ToolCall(id="c1", name="f", arguments='{"a": 1}'),
        ToolCall(id="c2", name="g", arguments="{}"),
    )
    assert (said.outcome, said.text, said.chunks) == ("complete", "", 4)


def test_tool_calls_of_a_json_answer() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = read(chat_answer(None, "tool_calls", tool_calls=[call, call | {"id": "c2"}]), JSON)
    assert [call.id for call in said.tool_calls] == ["c1", "c2"]
    assert said.outcome == "complete"


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": 0}])
def test_calls_in_parallel_are_told_apart_where_the_index_does_not(index: dict[str, Any]) -> None:
    """Gemini leaves it out, Ollama says 0 for each, an answer that is whole may say null."""
    calls = [
        {"id": id_, "function": {"name": name, "arguments": given}, **index}
        for id_, name, given in (("c1", "f", '{"a": 1}'), ("c2", "f", "{}"), ("c3", "g", "{}"))
    ]
    expected = (
        ToolCall(id="c1", name="f", arguments='{"a": 1}'),
        ToolCall(id="c2", name="f", arguments="{}"),
        ToolCall(id="c3", name="g", arguments="{}"),
    )
    end = [delta(None, finish="tool_calls"), "[DONE]"]
    again = {"id": "c2", "function": {"name": "f", "arguments": ""}, **index}  # said with each of its pieces
    pieces = [delta(tool_calls=[call]) for call in (*calls, again)]
    assert read(sse(*pieces, *end)).tool_calls == expected
    assert read(sse(delta(tool_calls=calls), *end)).tool_calls == expected
    assert read(chat_answer(None, "tool_calls", tool_calls=calls), JSON).tool_calls == expected


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_content_but_no_answer(name: str) -> None:
    thought = delta(None, **{name: "hmm"})
    end = [delta(None, finish="stop"), "[DONE]"]
    said = read(sse(thought, delta("yes"), *end))
    assert (said.reasoning, said.text, said.chunks, said.outcome) == ("hmm", "yes", 2, "complete")
    assert read(sse(thought, *end)).outcome == "empty"


def test_several_choices() -> None:
    body = sse(
        delta("a"),
        delta("b", index=1),
        delta(None, finish="stop"),
        delta(None, index=1, finish="length"),
        "[DONE]",
    )
    said = read(body)
    assert (said.text, said.choices, said.finish_reason, said.outcome) == ("a", 2, "stop", "length")


DONE = "[DONE]"
STOP = delta(None, finish="stop")
ERROR = {"error": {"message": "boom", "code": 500}}
ENDINGS = [
    ("whole", sse(delta("a"), STOP, DONE), "complete", None),
    ("whole without the last blank line", sse(delta("a"), STOP) + b"data: [DONE]", "complete", None),
    ("whole with CRLF", sse(delta("a"), STOP, DONE, newline="\r\n"), "complete", None),
    ("length", sse(delta("a"), delta(None, finish="length"), DONE), "length", None),
    ("clean end of file", sse(delta("a")), "truncated", "no_finish_reason"),
    ("cut inside an event", sse(delta("a")) + b'data: {"choi', "truncated", "no_finish_reason"),
    ("missing [DONE]", sse(delta("a"), STOP), "truncated", "no_end"),
    ("missing finish reason", sse(delta("a"), DONE), "truncated", "no_finish_reason"),
    (
        "one choice of two unfinished",
        sse(delta("a"), delta("b", index=1), STOP, DONE),
        "truncated",
        "no_finish_reason",
    ),
    ("[DONE] only", sse(DONE), "empty", None),
    ("nothing at all", b"", "truncated", "no_end"),
    ("no text", sse(delta("", role="assistant"), STOP, DONE), "empty", None),
    ("error event", sse(delta("a"), ERROR, DONE), "upstream_error", "error_event"),
    (
        "named error event",
        sse(delta("a")) + b"event: error\ndata: {}\n\n",
        "upstream_error",
        "error_event",
    ),
    ("garbage", sse(delta("a"), "{not json", STOP, DONE), "upstream_error", "malformed_stream"),
    ("JSON of the wrong shape", sse({"choices": [7]}, STOP, DONE), "upstream_error", "malformed_stream"),
    ("a list", sse("[1]", DONE), "upstream_error", "malformed_stream"),
    ("aborted", sse(delta("a"), delta(None, finish="abort"), DONE), "truncated", "finish_abort"),
]


@pytest.mark.parametrize(("body", "outcome", "code"), [e[1:] for e in ENDINGS], ids=[e[0] for e in ENDINGS])
def test_how_a_stream_ended(body: bytes, outcome: str, code: str | None) -> None:
    said = read(body)
    assert (said.outcome, said.error_code) == (outcome, code)


@pytest.mark.parametrize(
    ("body", "outcome", "code"),
    [
        (chat_answer("yes"), "complete", None),
        (chat_answer("yes", "length"), "length", None),
        (chat_answer(""), "empty", None),
        (chat_answer(None), "empty", None),
        (b"", "empty", None),
        (b"<html>", "upstream_error", "malformed_answer"),
        (b'{"choices": {}}', "empty", None),
        (b'{"choices": [{"message": null}]}', "upstream_error", "malformed_answer"),
        (b'{"choices": [{"index": "one", "message": {}}]}', "upstream_error", "malformed_answer"),
        (b'{"object": "chat.completion"}', "upstream_error", "malformed_answer"),
        (b'{"error": {"message": "no"}}', "upstream_error", "error_answer"),
    ],
)
def test_how_a_json_answer_ended(body: bytes, outcome: str, code: str | None) -> None:
    said = read(body, JSON)
    assert (said.outcome, said.error_code) == (outcome, code)


@pytest.mark.parametrize("wire", ["client_gone", "timeout", "upstream_error", "truncated"])
def test_what_the_wire_knows_is_not_overruled(wire: Any) -> None:
    said = read(chat_stream(["a", "b"]), outcome=wire)
    assert (said.outcome, said.text) == (wire, "ab")


def test_of_a_clipped_body_nothing_is_concluded_from_what_is_missing() -> None:
    assert read(sse(delta("a")), clipped=True).outcome == "complete"
    assert read(chat_answer("yes")[:20], JSON, clipped=True).outcome == "complete"


def test_a_refusal_by_the_engine_is_left_as_it_is() -> None:
    said = decode(CHAT, JSON, 404, b'{"error": {}}', (), (), chat_request("Hi"), outcome="upstream_rejected")
    assert (said.outcome, said.prompt) == ("upstream_rejected", "Hi")


def test_compressed_bodies_are_not_taken_for_garbage() -> None:
    assert read(b"\x1f\x8b\x08...", JSON).outcome == "complete"


def test_a_stream_is_known_by_its_looks_where_the_content_type_is_missing() -> None:
    assert read(chat_stream(["a"]), "").text == "a"


def test_completions() -> None:
    def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}

    request = json.dumps({"prompt": "Once"}).encode()
    said = read(
        sse(chunk("upon"), chunk(" a"), chunk("", "length"), DONE), path="/v1/completions", request=request
    )
    assert (said.text, said.outcome, said.prompt, said.chunks) == ("upon a", "length", "Once", 2)
    whole = json.dumps({**chunk("upon", "stop"), "usage": usage(1, 2, 1)}).encode()
    said = read(whole, JSON, path="/v1/completions")
    assert (said.text, said.outcome, said.cached_tokens) == ("upon", "complete", 1)


def test_embeddings() -> None:
    request = json.dumps({"input": ["a", "b"]}).encode()
    body = json.dumps({"data": [{"embedding": [0.1]}], "usage": usage(3, 0)}).encode()
    said = read(body, JSON, path="/v1/embeddings", request=request)
    assert (said.outcome, said.prompt, said.prompt_tokens, said.text) == ("complete", "a\nb", 3, None)
    assert read(b'{"data": []}', JSON, path="/v1/embeddings").outcome == "empty"


def test_an_unknown_path_is_recorded_as_the_wire_shows_it() -> None:
    assert read(b"whatever", path="/v1/moderations") == Transcript(outcome="complete")


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "u"),
        ([{"role": "user", "content": "first"}, {"role": "assistant", "content": "x"}], "first"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image_url"}]}],
            "t\n[image_url]",
        ),
        ([{"role": "system", "content": "s"}], "s"),
        ([], None),
        ({"role": "user"}, None),
        ([7], None),
    ],
)
def test_the_prompt_is_the_last_thing_the_user_said(messages: Any, prompt: str | None) -> None:
    assert read(chat_answer("a"), JSON, request=json.dumps({"messages": messages}).encode()).prompt == prompt


def test_half_a_surrogate_pair_does_no_harm() -> None:
    said = read(sse('{"choices": [{"index": 0, "delta": {"content": "a\\ud83d"}}]}', STOP, DONE))
    assert (said.outcome, said.text) == ("complete", "a?")


def test_counts_that_are_no_counts_are_unknown() -> None:
    odd = {"prompt_tokens": "7", "completion_tokens": -1, "prompt_tokens_details": {"cached_tokens": True}}
    said = read(sse(delta("a"), STOP, {"choices": [], "usage": odd}, DONE))
    assert (said.prompt_tokens, said.completion_tokens, said.cached_tokens) == (None, None, None)


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=20))
def test_where_the_chunks_were_cut_changes_no_word(cuts: list[int]) -> None:
    body = chat_stream(["Zug ", "fährt ", "ab 🚂", "漢字"])
    ends = sorted({min(cut, len(body)) for cut in cuts} | {len(body)})
    times = tuple(range(100, 100 * len(ends) + 1, 100))
    said = decode(CHAT, STREAM, 200, body, times, ends, b"{}")
    assert (said.text, said.outcome, said.chunks) == ("Zug fährt ab 🚂漢字", "complete", 4)
    assert said.ttft_us in times
    assert all(before < after for before, after in pairwise(times))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "delta", "message", "content", "index", "finish_reason", "usage", "tool_calls",
             "function", "arguments", "messages", "role", "text", "data", "prompt", "input", "error"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=2000, deadline=None)
@given(
    st.lists(JSON_VALUES, max_size=4),
    JSON_VALUES,
    st.sampled_from([CHAT, "/v1/completions", "/v1/embeddings"]),
    st.sampled_from([STREAM, JSON, ""]),
    st.booleans(),
)
def test_nothing_makes_it_raise(parts: list[Any], asked: Any, path: str, kind: str, clipped: bool) -> None:
    body = sse(*(json.dumps(part) for part in parts)) if kind == STREAM else json.dumps(parts[:1]).encode()
    said = decode(path, kind, 200, body, (1,), (len(body),), json.dumps(asked).encode(), clipped=clipped)
    assert said.text is None or said.text.encode() is not None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([STREAM, JSON]))
def test_no_bytes_make_it_raise(body: bytes, kind: str) -> None:
    assert read(body, kind, request=body).outcome in ("upstream_error", "truncated", "empty", "complete")
