"""What do vLLM's answers look like beyond chat and completions? Messages, Responses, scores.

Pure, like `documents`; the shapes were read off vLLM 0.32: `entrypoints/anthropic`, `entrypoints/openai/
responses`, `entrypoints/pooling/scoring`, `entrypoints/serve/tokenize`. A streamed event is its name, its
data, and whether it is a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from .answers import tokens
from .documents import Choice, Frame, usage
from .profile import draw

MESSAGES: Final = "/v1/messages"
RESPONSES: Final = "/v1/responses"
RERANK: Final = "/v1/rerank"
SCORE: Final = "/v1/score"

_STOPS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class NamedEvent(NamedTuple):
    """One event of a stream. `last`: with it the stream has said why it ends, or that it has."""

    name: str
    data: bytes
    is_token: bool = False
    last: str = ""


def _event(name: str, *, is_token: bool = False, last: str = "", **fields: Any) -> NamedEvent:
    return NamedEvent(name, orjson.dumps({"type": name, **fields}), is_token, last)


# -- /v1/messages ------------------------------------------------------------------------------------------


def _message(
    frame: Frame, content: list[dict[str, Any]], reason: str | None, generated: int
) -> dict[str, Any]:
    return {
        "id": frame.ident,
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": frame.model,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": frame.prompt_tokens, "output_tokens": generated},
    }


def _tool_ident(frame: Frame, number: int) -> str:
    return f"chatcmpl-tool-{frame.ident[-8:]}-{number}"


def message(frame: Frame, said: Choice) -> bytes:
    """A whole answer of the Messages API."""
    content: list[dict[str, Any]] = [
        {
            "type": "tool_use",
            "id": _tool_ident(frame, number),
            "name": call.name,
            "input": orjson.loads(call.arguments),
        }
        for number, call in enumerate(said.answer.tool_calls)
    ]
    if not content and said.text:
        content = [{"type": "text", "text": said.text}]
    return orjson.dumps(_message(frame, content, _STOPS[said.finish_reason], len(said.pieces)))


def message_events(frame: Frame, said: Choice) -> Iterator[NamedEvent]:
    """The same as a stream."""
    yield _event("message_start", message=_message(frame, [], None, 0))
    blocks = _tool_blocks(frame, said) if said.answer.tool_calls else [_text_block(said)]
    for index, (block, deltas) in enumerate(blocks):
        if not deltas and block["type"] == "text":
            continue
        yield _event("content_block_start", index=index, content_block=block)
        for delta in deltas:
            yield _event("content_block_delta", is_token=True, index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    counts = {"input_tokens": frame.prompt_tokens, "output_tokens": len(said.pieces)}
    delta = {"stop_reason": _STOPS[said.finish_reason], "stop_sequence": said.stop_reason}
    yield _event("message_delta", last="reason", delta=delta, usage=counts)
    yield _event("message_stop", last="end")


_Block = tuple[dict[str, Any], list[dict[str, Any]]]


def _text_block(said: Choice) -> _Block:
    deltas = [{"type": "text_delta", "text": piece} for piece in said.pieces]
    return {"type": "text", "text": ""}, deltas


def _tool_blocks(frame: Frame, said: Choice) -> list[_Block]:
    return [
        (
            {"type": "tool_use", "id": _tool_ident(frame, number), "name": call.name, "input": {}},
            [{"type": "input_json_delta", "partial_json": piece} for piece in tokens(call.arguments)],
        )
        for number, call in enumerate(said.answer.tool_calls)
    ]


# -- /v1/responses -----------------------------------------------------------------------------------------


def _response(
    frame: Frame, output: list[dict[str, Any]], status: str, generated: int | None
) -> dict[str, Any]:
    counts = None
    if generated is not None:
        counts = {
            "input_tokens": frame.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": frame.prompt_tokens + generated,
        }
    return {
        "id": frame.ident,
        "created_at": frame.created,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": frame.model,
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "status": status,
        "usage": counts,
    }


def _items(frame: Frame, said: Choice) -> list[dict[str, Any]]:
    if said.answer.tool_calls:
        return [
            {
                "type": "function_call",
                "id": f"fc_{frame.ident[-8:]}_{number}",
                "call_id": _tool_ident(frame, number),
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
            for number, call in enumerate(said.answer.tool_calls)
        ]
    part: dict[str, Any] = {"type": "output_text", "text": said.text, "annotations": []}
    ident = f"msg_{frame.ident[-8:]}"
    return [{"type": "message", "id": ident, "role": "assistant", "status": "completed", "content": [part]}]


def _status(said: Choice) -> str:
    return "incomplete" if said.finish_reason == "length" else "completed"


def response(frame: Frame, said: Choice) -> bytes:
    """A whole answer of the Responses API."""
    return orjson.dumps(_response(frame, _items(frame, said), _status(said), len(said.pieces)))


def response_events(frame: Frame, said: Choice) -> Iterator[NamedEvent]:
    """The same as a stream; as vLLM does, it ends with `response.completed` whatever the status."""
    begun = _response(frame, [], "in_progress", None)
    items = _items(frame, said)
    yield from _numbered(
        (
            _event("response.created", response=begun),
            _event("response.in_progress", response=begun),
            *(event for place, item in enumerate(items) for event in _item_events(place, item, said)),
            _event(
                "response.completed",
                last="both",
                response=_response(frame, items, _status(said), len(said.pieces)),
            ),
        )
    )


def _item_events(place: int, item: dict[str, Any], said: Choice) -> Iterator[NamedEvent]:
    at = {"item_id": item["id"], "output_index": place}
    if item["type"] == "function_call":
        empty = item | {"arguments": "", "status": "in_progress"}
        yield _event("response.output_item.added", output_index=place, item=empty)
        for piece in tokens(item["arguments"]):
            yield _event("response.function_call_arguments.delta", is_token=True, **at, delta=piece)
        yield _event("response.function_call_arguments.done", **at, arguments=item["arguments"])
    else:
        [part] = item["content"]
        at["content_index"] = 0
        begun = item | {"content": [], "status": "in_progress"}
        yield _event("response.output_item.added", output_index=place, item=begun)
        yield _event("response.content_part.added", **at, part=part | {"text": ""})
        for piece in said.pieces:
            yield _event("response.output_text.delta", is_token=True, **at, delta=piece, logprobs=[])
        yield _event("response.output_text.done", **at, text=part["text"], logprobs=[])
        yield _event("response.content_part.done", **at, part=part)
    yield _event("response.output_item.done", output_index=place, item=item)


def _numbered(events: Sequence[NamedEvent]) -> Iterator[NamedEvent]:
    for number, event in enumerate(events):
        yield event._replace(data=event.data[:-1] + b',"sequence_number":%d}' % number)


# -- scores and tokens -------------------------------------------------------------------------------------


def relevance(query: str, text: str) -> float:
    """A score in [0, 1) that depends on the two texts alone."""
    return draw("relevance", query, text)


def reranked(frame: Frame, query: str, documents: Sequence[str], top: int | None) -> bytes:
    """The documents by their score, the best first."""
    scores = [(relevance(query, text), index, text) for index, text in enumerate(documents)]
    best = sorted(scores, key=lambda entry: (-entry[0], entry[1]))[: top or None]
    results = [
        {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": score}
        for score, index, text in best
    ]
    counts = {"prompt_tokens": frame.prompt_tokens, "total_tokens": frame.prompt_tokens}
    return orjson.dumps({"id": frame.ident, "model": frame.model, "usage": counts, "results": results})


def scored(frame: Frame, left: Sequence[str], right: Sequence[str]) -> bytes:
    """One score for each pair; a single text on the left is paired with each on the right."""
    lefts = left if len(left) == len(right) else [left[0]] * len(right)
    entries = [
        {"index": index, "object": "score", "score": relevance(a, b)}
        for index, (a, b) in enumerate(zip(lefts, right, strict=True))
    ]
    return orjson.dumps(frame.stem("list") | {"data": entries, "usage": usage(frame.prompt_tokens, 0)})
