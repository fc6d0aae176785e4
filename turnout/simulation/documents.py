"""What do vLLM's answers look like? JSON documents and stream events, field by field.

Pure functions from what was asked and what is said; the shapes were read off the protocol classes and
the serving code of vLLM 0.32. Two differences are on purpose: ids start with `chatcmpl-simulated-`, and
`system_fingerprint` is "simulated".
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import orjson

from .answers import Answer, tokens

FINGERPRINT: Final = "simulated"
CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What all documents of one exchange share. `created` is unix seconds."""

    path: str
    model: str
    ident: str
    created: int
    logprobs: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    prompt_tokens: int = 0

    def stem(self, kind: str) -> dict[str, Any]:
        """The fields that every document opens with."""
        return {"id": self.ident, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One choice, ready to be written: its pieces are tokens of text, or of a call's arguments."""

    index: int
    answer: Answer
    pieces: tuple[str, ...]
    finish_reason: str
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        """The text after `max_tokens` and stop strings."""
        return "".join(self.pieces)


def choice(index: int, answer: Answer, limit: int, stops: Sequence[str]) -> Choice:
    """Cut an answer to `limit` tokens and at the first stop string; calls are cut in their arguments."""
    if answer.tool_calls:
        pieces = [piece for call in answer.tool_calls for piece in tokens(call.arguments)]
        reason = "tool_calls" if len(pieces) <= limit else "length"
        return Choice(index=index, answer=answer, pieces=tuple(pieces), finish_reason=reason)
    text, stopped = answer.text, None
    for stop in stops:
        at = text.find(stop) if stop else -1
        if at >= 0:
            text, stopped = text[:at], stop
    pieces = tokens(text)
    if len(pieces) > limit:
        return Choice(index=index, answer=answer, pieces=tuple(pieces[:limit]), finish_reason="length")
    return Choice(index=index, answer=answer, pieces=tuple(pieces), finish_reason="stop", stop_reason=stopped)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
    }


def _generated(choices: Sequence[Choice]) -> int:
    return sum(len(each.pieces) for each in choices)


def _calls(ident: str, each: Choice) -> list[dict[str, Any]]:
    return [
        {
            "id": f"chatcmpl-tool-{ident[-8:]}-{each.index}-{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(each.answer.tool_calls)
    ]


def _logprob(piece: str) -> float:
    return -((sum(piece.encode()) % 97) + 1) / 100


def _chat_logprobs(pieces: Sequence[str]) -> dict[str, Any]:
    content = [
        {"token": p, "logprob": _logprob(p), "bytes": list(p.encode()), "top_logprobs": []} for p in pieces
    ]
    return {"content": content}


def _text_logprobs(pieces: Sequence[str], offset: int = 0) -> dict[str, Any]:
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece)
    return {
        "text_offset": offsets,
        "token_logprobs": [_logprob(p) for p in pieces],
        "tokens": list(pieces),
        "top_logprobs": [{p: _logprob(p)} for p in pieces],
    }


def whole(frame: Frame, choices: Sequence[Choice]) -> bytes:
    """The answer to a request that does not stream."""
    chat = frame.path == CHAT
    entries = [_chat_choice(frame, each) if chat else _text_choice(frame, each) for each in choices]
    document = frame.stem("chat.completion" if chat else "text_completion") | {
        "choices": entries,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage(frame.prompt_tokens, _generated(choices)),
    }
    if chat:
        document |= {"prompt_logprobs": None, "prompt_token_ids": None}
    return orjson.dumps(document | {"kv_transfer_params": None})


def _chat_choice(frame: Frame, each: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if each.answer.tool_calls else each.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if each.answer.tool_calls:
        message["tool_calls"] = _calls(frame.ident, each)
    return {
        "index": each.index,
        "message": message | {"reasoning": None},
        "logprobs": _chat_logprobs(each.pieces) if frame.logprobs else None,
        "finish_reason": each.finish_reason,
        "stop_reason": each.stop_reason,
        "token_ids": None,
    }


def _text_choice(frame: Frame, each: Choice) -> dict[str, Any]:
    return {
        "index": each.index,
        "text": each.text,
        "logprobs": _text_logprobs(each.pieces) if frame.logprobs else None,
        "finish_reason": each.finish_reason,
        "stop_reason": each.stop_reason,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
    }


class Stream:
    """The events of one streamed answer, as the values of their `data:` fields."""

    __slots__ = ("_after", "_before", "_frame", "_sent")

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._sent: dict[int, int] = {}
        kind = "chat.completion.chunk" if frame.path == CHAT else "text_completion"
        stem = orjson.dumps(frame.stem(kind))[:-1]
        # The documents of one stream differ in one choice: the rest is rendered once.
        self._before = stem + b',"choices":['
        self._after = b"]"

    def _event(self, entry: dict[str, Any], *, more: dict[str, Any] | None = None) -> bytes:
        body = self._before + orjson.dumps(entry) + self._after
        extra = dict(more or {})
        if self._frame.continuous_usage:
            extra["usage"] = usage(self._frame.prompt_tokens, self._sent.get(entry["index"], 0))
        return body + (b"," + orjson.dumps(extra)[1:] if extra else b"}")

    def opening(self, each: Choice) -> bytes | None:
        """The event with the role; completions have none."""
        if self._frame.path != CHAT:
            return None
        delta = {"role": "assistant", "content": ""}
        entry = {"index": each.index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._event(entry, more={"prompt_token_ids": None, "prompt_text": None})

    def token(self, each: Choice, piece: str) -> bytes:
        """One token of text."""
        sent = self._sent[each.index] = self._sent.get(each.index, 0) + 1
        if self._frame.path == CHAT:
            lp = _chat_logprobs((piece,)) if self._frame.logprobs else None
            tail = {"logprobs": lp, "finish_reason": None, "token_ids": None}
            return self._event({"index": each.index, "delta": {"content": piece}, **tail})
        offset = sum(map(len, each.pieces[: sent - 1]))
        lp = _text_logprobs((piece,), offset) if self._frame.logprobs else None
        tail = {"logprobs": lp, "finish_reason": None, "stop_reason": None}
        nothing = {"prompt_token_ids": None, "token_ids": None}
        return self._event({"index": each.index, "text": piece, **tail, **nothing})

    def calls(self, each: Choice) -> Iterator[bytes]:
        """The tool calls: a name first, then the arguments piece by piece."""
        for number, call in enumerate(_calls(self._frame.ident, each)):
            function = call["function"]
            head = {"id": call["id"], "type": "function", "index": number}
            yield self._call(each, head | {"function": {"name": function["name"], "arguments": ""}})
            for piece in tokens(function["arguments"]):
                self._sent[each.index] = self._sent.get(each.index, 0) + 1
                yield self._call(each, {"index": number, "function": {"arguments": piece}})

    def _call(self, each: Choice, call: dict[str, Any]) -> bytes:
        tail = {"logprobs": None, "finish_reason": None, "token_ids": None}
        return self._event({"index": each.index, "delta": {"tool_calls": [call]}, **tail})

    def closing(self, each: Choice) -> bytes:
        """The event with the finish reason: the step in which the model says end-of-text."""
        said: dict[str, Any] = {"delta": {"content": ""}} if self._frame.path == CHAT else {"text": ""}
        tail = {"finish_reason": each.finish_reason, "stop_reason": each.stop_reason}
        entry = {"index": each.index, **said, "logprobs": None, **tail, "token_ids": None}
        # vLLM stamps the stream's last document: the usage event if there is one.
        more = None if self._frame.include_usage else {"system_fingerprint": FINGERPRINT}
        return self._event(entry, more=more)

    def usage(self, choices: Sequence[Choice]) -> bytes:
        """The event with the token counts and no choices."""
        counts = usage(self._frame.prompt_tokens, _generated(choices))
        del counts["prompt_tokens_details"]
        return (
            self._before
            + self._after
            + b',"system_fingerprint":"simulated","usage":'
            + orjson.dumps(counts)
            + b"}"
        )


def embeddings(frame: Frame, inputs: Sequence[str], dimensions: int, encoding: str) -> bytes:
    """Unit vectors that depend on the text alone; `encoding` is "float" or "base64" (little-endian f4)."""
    entries = []
    for index, text in enumerate(inputs):
        random = Random(text)
        raw = [random.gauss(0.0, 1.0) for _ in range(dimensions)]
        length = math.sqrt(sum(x * x for x in raw))
        vector: list[float] | str = [x / length for x in raw]
        if encoding == "base64":
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        entries.append({"index": index, "object": "embedding", "embedding": vector})
    counts = usage(frame.prompt_tokens, 0)
    return orjson.dumps(frame.stem("list") | {"data": entries, "usage": counts})


def error(status: int, kind: str, message: str, param: str | None = None) -> bytes:
    """An error in vLLM's shape: OpenAI's, with the status as a number in `code`."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": status}})


def models(name: str, created: int, max_model_len: int) -> bytes:
    """GET /v1/models."""
    card = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": FINGERPRINT,
        "root": name,
        "parent": None,
        "max_model_len": max_model_len,
        "permission": [],
    }
    return orjson.dumps({"object": "list", "data": [card]})
