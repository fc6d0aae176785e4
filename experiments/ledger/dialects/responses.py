"""How does OpenAI's Responses API speak?

A stream is a sequence of typed events; the last one carries the whole response with its status. vLLM ends
every stream with `response.completed`, also one that ran into its limit, so the status decides and not the
event's name. Shapes: OpenAI's API reference, and vLLM 0.32 `entrypoints/openai/responses`.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from .answer import Answer, Choice, Dialect, Payload, Usage, count, index, last_asked, shown, text

_TEXT: Final = frozenset(("response.output_text.delta", "response.refusal.delta"))
_REASONING: Final = frozenset(("response.reasoning_text.delta", "response.reasoning_summary_text.delta"))
_ARGUMENTS: Final = frozenset(
    ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
)
_LAST: Final = frozenset(
    ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
)
_CALLS: Final = ("function_call", "custom_tool_call")


def _piece(answer: Answer, payload: Payload) -> bool:
    kind = payload["type"]
    if kind in _TEXT:
        return _said(answer.choice().text, payload)
    if kind in _REASONING:
        return _said(answer.choice().reasoning, payload)
    if kind in _ARGUMENTS:
        answer.choice().call(index(payload.get("output_index")), None, None, payload["delta"])
        return bool(payload["delta"])
    if kind == "response.output_item.added":
        return _added(answer, index(payload.get("output_index")), payload["item"])
    if kind in _LAST:
        _closed(answer, payload["response"])
    elif kind == "response.created":
        answer.choice()
    elif kind == "error":
        answer.error = "error_event"
    return False


def _said(parts: list[str], payload: Payload) -> bool:
    parts.append(text(payload["delta"]))
    return bool(payload["delta"])


def _added(answer: Answer, number: int, item: Payload) -> bool:
    """A new item of the output: only a call says more here than that it begins."""
    if item["type"] in _CALLS:
        answer.choice().call(number, item.get("call_id"), item.get("name"), None)
        return True
    if item["type"] not in ("message", "reasoning"):
        answer.items += 1
    return False


def _closed(answer: Answer, response: Payload) -> None:
    """The last event. What an engine sends whole and without deltas is read from it."""
    choice = answer.choice()
    if not choice.spoken:
        thought, choice.reasoning = choice.reasoning, []
        _whole(answer, response)
        choice.reasoning = thought or choice.reasoning
    _status(answer, choice, response)
    answer.usage = response.get("usage")
    answer.ended = True


def _status(answer: Answer, choice: Choice, response: Payload) -> None:
    status = text(response.get("status"))
    if status == "failed":
        answer.error = "response_failed"
    elif status == "cancelled":
        choice.finish = "abort"
    elif status == "incomplete":
        choice.finish = text((response.get("incomplete_details") or {}).get("reason")) or "incomplete"
    elif status == "completed":
        choice.finish = status


def _whole(answer: Answer, payload: Payload) -> None:
    choice = answer.choice()
    for number, item in enumerate(payload["output"]):
        if item["type"] == "message":
            choice.text += [text(part.get("text") or part.get("refusal")) for part in item["content"]]
        elif item["type"] == "reasoning":
            parts = item.get("content") or item.get("summary") or ()
            choice.reasoning += [text(part.get("text")) for part in parts]
        elif item["type"] in _CALLS:
            given = item.get("arguments", item.get("input"))
            choice.calls.pop(number, None)
            choice.call(number, item.get("call_id"), item.get("name"), given)
        else:
            answer.items += 1
    _status(answer, choice, payload)
    answer.usage = payload.get("usage")


def _usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("input_tokens_details")
    return Usage(
        prompt=count(usage.get("input_tokens")),
        completion=count(usage.get("output_tokens")),
        cached=count(details.get("cached_tokens")) if isinstance(details, dict) else None,
    )


def _asked(request: Payload) -> str | None:
    given: Any = request["input"]
    if isinstance(given, str):
        return given
    if any("role" in item for item in given):
        return last_asked(given)
    output = given[-1].get("output")  # of a tool that the application ran
    return shown(output) if isinstance(output, str | list) else orjson.dumps(given[-1]).decode()


def _later(request: Payload) -> bool:
    """The conversation is the engine's (named by its last response), or in the input, answers and calls."""
    given: Any = request["input"]
    if request.get("previous_response_id") or request.get("conversation"):
        return True
    return not isinstance(given, str) and any(
        item.get("role") == "assistant" or str(item.get("type")).endswith("_output") for item in given
    )


RESPONSES: Final = Dialect(piece=_piece, whole=_whole, asked=_asked, later=_later, usage=_usage)
