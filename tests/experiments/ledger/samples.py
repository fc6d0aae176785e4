"""Records and bodies for the ledger's tests: what engines send and what a proxy writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from experiments.ledger.exchange import ExchangeRecord

START_NS = 1_763_703_060 * 10**9
CHAT = "/v1/chat/completions"


def sse(*payloads: dict[str, Any] | str, newline: str = "\n") -> bytes:
    """Payloads as a stream of `data:` events."""
    texts = (p if isinstance(p, str) else json.dumps(p, ensure_ascii=False) for p in payloads)
    return "".join(f"data: {text}{newline}{newline}" for text in texts).encode()


def delta(
    text: str | None = None, *, index: int = 0, finish: str | None = None, **more: Any
) -> dict[str, Any]:
    """One chunk of a chat stream."""
    content = {} if text is None else {"content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "choices": [{"index": index, "delta": content | more, "finish_reason": finish}],
    }


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def chat_stream(words: Iterable[str], finish: str = "stop") -> bytes:
    """A whole chat stream as vLLM sends it with usage switched on."""
    words = list(words)
    return sse(
        delta("", role="assistant"),
        *(delta(word) for word in words),
        delta("", finish=finish),
        {"object": "chat.completion.chunk", "choices": [], "usage": usage(7, len(words))},
        "[DONE]",
    )


def chat_answer(text: str | None, finish: str = "stop", **message: Any) -> bytes:
    """A whole chat answer as JSON."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text} | message,
        "finish_reason": finish,
    }
    tokens = len((text or "").split())
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage(7, tokens)}).encode()


def chat_request(prompt: str, *, turn: int = 1) -> bytes:
    """A request with `turn - 1` answers before it."""
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}] * (turn - 1)
    messages = [*earlier, {"role": "user", "content": prompt}]
    return json.dumps({"model": "chat", "messages": messages}).encode()


def even_chunks(body: bytes, size: int, *, first_us: int = 1000, step_us: int = 1000) -> dict[str, Any]:
    """The fields of a record whose body came in pieces of `size` bytes, one every `step_us`."""
    ends = [*range(size, len(body), size), len(body)]
    times = tuple(first_us + i * step_us for i in range(len(ends)))
    return {"response": body, "chunk_us": times, "chunk_ends": tuple(ends), "duration_us": times[-1]}


def record(number: int, **fields: Any) -> ExchangeRecord:
    """A plain exchange; every field can be set."""
    name = f"019a0000-0000-7000-8000-{number:012x}"
    body = chat_answer("it went well")
    plain: dict[str, Any] = {
        "exchange_id": name,
        "request_id": name,
        "started_ns": START_NS + number * 1_000_000,
        "path": CHAT,
        "model": "chat",
        "worker": "w1",
        "status": 200,
        "content_type": "application/json",
        "duration_us": 250_000,
        "first_byte_us": 240_000,
        "request": chat_request("how did it go?"),
        "response": body,
        "chunk_us": (250_000,),
        "chunk_ends": (len(body),),
    }
    return ExchangeRecord(**(plain | fields))
