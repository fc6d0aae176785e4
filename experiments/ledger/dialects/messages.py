"""How does Anthropic's Messages API speak?

A stream is `message_start`, blocks of content, `message_delta` with the stop reason, `message_stop`. vLLM
adds `data: [DONE]`, which ends nothing here. Of the prompt's tokens `input_tokens` are those that touched
no cache: the prompt is the sum of the three counts. Shapes: Anthropic's API reference ("Streaming
messages", "Prompt caching"), and vLLM 0.32 `entrypoints/anthropic`.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from .answer import Answer, Choice, Dialect, Payload, Usage, answered_before, count, index, last_asked, text

_CALLS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")


def _piece(answer: Answer, payload: Payload) -> bool:
    kind = payload["type"]
    if kind == "content_block_delta":
        return _delta(answer.choice(), index(payload.get("index")), payload["delta"])
    if kind == "content_block_start":
        return _block(answer, index(payload.get("index")), payload["content_block"])
    if kind == "content_block_stop":
        _stopped(answer.choice(), index(payload.get("index")))
    elif kind == "message_start":
        answer.choice()
        _count(answer, payload["message"].get("usage"))
    elif kind == "message_delta":
        _count(answer, payload.get("usage"))
        choice = answer.choice()
        choice.finish = text(payload["delta"].get("stop_reason")) or choice.finish
    elif kind == "message_stop":
        answer.ended = True
    return False


def _delta(choice: Choice, number: int, delta: Payload) -> bool:
    kind = delta["type"]
    if kind == "text_delta":
        choice.text.append(text(delta["text"]))
        return bool(delta["text"])
    if kind == "thinking_delta":
        choice.reasoning.append(text(delta["thinking"]))
        return bool(delta["thinking"])
    if kind == "input_json_delta":
        choice.call(number, None, None, delta["partial_json"])
        return bool(delta["partial_json"])
    return False  # a signature, a citation


def _block(answer: Answer, number: int, block: Payload) -> bool:
    """A block of content, or the beginning of one; whether it held content."""
    choice, kind = answer.choice(), block["type"]
    if kind == "text":
        choice.text.append(text(block.get("text")))
        return bool(block.get("text"))
    if kind == "thinking":
        choice.reasoning.append(text(block.get("thinking")))
        return bool(block.get("thinking"))
    if kind in _CALLS:
        given: Any = block.get("input")
        choice.call(
            number, block.get("id"), block.get("name"), orjson.dumps(given).decode() if given else None
        )
        return True
    if kind != "redacted_thinking":
        answer.items += 1
    return False


def _stopped(choice: Choice, number: int) -> None:
    """A call without arguments has sent none: its input is the empty object."""
    parts = choice.calls.get(number)
    if parts is not None and not any(parts[2:]):
        parts.append("{}")


def _whole(answer: Answer, payload: Payload) -> None:
    choice = answer.choice()
    for number, block in enumerate(payload["content"]):
        _block(answer, number, block)
        _stopped(choice, number)
    choice.finish = text(payload.get("stop_reason")) or None
    _count(answer, payload.get("usage"))


def _count(answer: Answer, usage: Payload | None) -> None:
    """The counts at the end are totals; what they leave out was said at the start."""
    known = {name: value for name, value in (usage or {}).items() if value is not None}
    answer.usage = {**(answer.usage or {}), **known}


def _usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    fresh, read, written = (
        count(usage.get(name))
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    return Usage(
        prompt=None if fresh is None else fresh + (read or 0) + (written or 0),
        completion=count(usage.get("output_tokens")),
        cached=read,
    )


MESSAGES: Final = Dialect(
    piece=_piece,
    whole=_whole,
    asked=lambda request: last_asked(request["messages"]),
    later=lambda request: answered_before(request["messages"]),
    usage=_usage,
)
