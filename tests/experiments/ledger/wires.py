"""Streams of each API, as its engines write them, and the other spellings that the standard allows."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

from experiments.ledger.transcript import Transcript

from .samples import sse

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"


def named(*payloads: dict[str, Any]) -> bytes:
    """Events that bear their payload's type as their name."""
    return b"".join(
        f"event: {each['type']}\ndata: {json.dumps(each, ensure_ascii=False)}\n\n".encode()
        for each in payloads
    )


def bare(*payloads: object) -> bytes:
    """Events without names."""
    return b"".join(f"data: {json.dumps(each)}\n\n".encode() for each in payloads)


def _start() -> dict[str, Any]:
    usage = {
        "input_tokens": 3,
        "output_tokens": 0,
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 2,
    }
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage}
    return {"type": "message_start", "message": message | {"stop_reason": None}}


def _block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _stop(reason: str, tokens: int) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens}},
        {"type": "message_stop"},
    ]


def messages_stream(*words: str, stop: str = "end_turn") -> bytes:
    """A text, with a ping in between."""
    deltas = [{"type": "text_delta", "text": word} for word in words]
    block = _block(0, {"type": "text", "text": ""}, *deltas)
    return named(_start(), block[0], {"type": "ping"}, *block[1:], *_stop(stop, len(words)))


def messages_tool_stream() -> bytes:
    """Thinking, a text, a call with arguments in pieces, and one without arguments."""
    thinking = [
        {"type": "thinking_delta", "thinking": "hmm, "},
        {"type": "thinking_delta", "thinking": "ok"},
        {"type": "signature_delta", "signature": "EqQB"},
    ]
    pieces = [
        {"type": "input_json_delta", "partial_json": piece} for piece in ("", '{"city"', ': "Kö', 'ln"}')
    ]
    return named(
        _start(),
        *_block(0, {"type": "thinking", "thinking": "", "signature": ""}, *thinking),
        *_block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Looking."}),
        *_block(2, {"type": "tool_use", "id": "t1", "name": "find", "input": {}}, *pieces),
        *_block(3, {"type": "tool_use", "id": "t2", "name": "now", "input": {}}),
        *_stop("tool_use", 20),
    )


def message_item(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "content": content, "status": "completed"}


def response(status: str, output: list[dict[str, Any]], *, reason: str | None = None) -> dict[str, Any]:
    usage = {
        "input_tokens": 9,
        "output_tokens": 2,
        "total_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    details = None if reason is None else {"reason": reason}
    return {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": details,
        "output": output,
        "usage": usage,
    }


def _numbered(*events: dict[str, Any]) -> bytes:
    return named(*(event | {"sequence_number": number} for number, event in enumerate(events)))


def responses_stream(*words: str) -> bytes:
    """A text in pieces."""
    begun = response("in_progress", []) | {"usage": None}
    part = {"type": "output_text", "text": "", "annotations": []}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    text = "".join(words)
    return _numbered(
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": message_item("") | {"content": [], "status": "in_progress"},
        },
        {"type": "response.content_part.added", **at, "part": part},
        *({"type": "response.output_text.delta", **at, "delta": word} for word in words),
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.content_part.done", **at, "part": part | {"text": text}},
        {"type": "response.output_item.done", "output_index": 0, "item": message_item(text)},
        {"type": "response.completed", "response": response("completed", [message_item(text)])},
    )


def responses_tool_stream() -> bytes:
    """Reasoning, and a call whose arguments come in pieces."""
    arguments = '{"city": "Köln"}'
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "find", "arguments": ""}
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    whole = call | {"arguments": arguments}
    at = {"item_id": "fc_1", "output_index": 1}
    return _numbered(
        {"type": "response.created", "response": response("in_progress", [])},
        {"type": "response.output_item.added", "output_index": 0, "item": thought},
        {"type": "response.reasoning_text.delta", "item_id": "rs_1", "output_index": 0, "delta": "hmm"},
        {"type": "response.output_item.done", "output_index": 0, "item": thought},
        {"type": "response.output_item.added", "output_index": 1, "item": call},
        {"type": "response.function_call_arguments.delta", **at, "delta": arguments[:9]},
        {"type": "response.function_call_arguments.delta", **at, "delta": arguments[9:]},
        {"type": "response.function_call_arguments.done", **at, "arguments": arguments},
        {"type": "response.output_item.done", "output_index": 1, "item": whole},
        {"type": "response.completed", "response": response("completed", [thought, whole])},
    )


def completions_stream() -> bytes:
    """The older completions."""

    def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
        return {
            "object": "text_completion",
            "choices": [{"index": 0, "text": text, "finish_reason": finish}],
        }

    return sse(chunk("Es war "), chunk("einmal 👨\u200d👩\u200d👧"), chunk("", "stop"), "[DONE]")


def respelt(stream: bytes, random: Random) -> bytes:
    """The same events in another spelling: line ends, spaces after the colon, comments, ids, a mark."""
    newline = random.choice((b"\n", b"\r\n", b"\r"))
    out = [b"\xef\xbb\xbf"] if random.random() < 0.2 else []
    for block in stream.removesuffix(b"\n\n").split(b"\n\n"):
        if random.random() < 0.2:
            out.append(random.choice((b": keep-alive", b"id: 7", b"retry: 3000", b":")) + newline)
            out.append(newline if random.random() < 0.5 else b"")
        for line in block.split(b"\n"):
            field, _, value = line.partition(b": ")
            out.append(field + (b":" if random.random() < 0.3 else b": ") + value + newline)
        out.append(newline)
    return b"".join(out)


def content(said: Transcript) -> Transcript:
    """What was said, without when it came."""
    return replace(said, ttft_us=None, gap_mean_us=None, gap_p99_us=None, gap_max_us=None)
