"""What providers answer, in their own wires: Anthropic's, Gemini's, Bedrock's, OpenAI's."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WORDS = ("Der ", "Zug ", "fährt 🚂")
TEXT = "".join(WORDS)


def sse(*payloads: Any, named: bool = False) -> list[bytes]:
    """Each payload as an event."""
    return [
        (f"event: {each['type']}\n" if named else "").encode()
        + f"data: {each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)}\n\n".encode()
        for each in payloads
    ]


def anthropic_events() -> list[bytes]:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude",
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 1},
    }  # fmt: skip
    return sse(
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
            for word in WORDS
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
        named=True,
    )


def anthropic_answer() -> Any:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": TEXT}],
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }  # fmt: skip


def _gemini(text: str, finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
    if finish is None:
        return {"candidates": [candidate]}
    return {"candidates": [candidate | {"finishReason": finish}], "usageMetadata": usage}


def gemini_events() -> list[bytes]:
    return sse(*(_gemini(word) for word in WORDS[:-1]), _gemini(WORDS[-1], "STOP"))


def gemini_answer() -> Any:
    return _gemini(TEXT, "STOP")


def openai_chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def openai_events() -> list[bytes]:
    return sse(
        openai_chunk({"role": "assistant", "content": ""}),
        *(openai_chunk({"content": word}) for word in WORDS),
        openai_chunk({}, "stop"),
        openai_chunk({}) | {"choices": [], "usage": USAGE},
        "[DONE]",
    )


def openai_answer() -> Any:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}
    return {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
        "usage": USAGE,
    }  # fmt: skip


def aws_event(kind: str, payload: Any) -> bytes:
    """One message of AWS's binary event stream: lengths, CRC, headers, payload, CRC."""
    headers = b"".join(
        struct.pack("!B", len(name)) + name + b"\x07" + struct.pack("!H", len(value)) + value
        for name, value in (
            (b":event-type", kind.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    body = json.dumps(payload, ensure_ascii=False).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack("!I", zlib.crc32(message))


def bedrock_events() -> list[bytes]:
    usage = {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12}
    return [
        aws_event("messageStart", {"role": "assistant"}),
        *(
            aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}})
            for word in WORDS
        ),
        aws_event("contentBlockStop", {"contentBlockIndex": 0}),
        aws_event("messageStop", {"stopReason": "end_turn"}),
        aws_event("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]


def bedrock_answer() -> Any:
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": TEXT}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12},
        "metrics": {"latencyMs": 1},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One provider: its model string, the variables that point litellm at a local server, its answers.

    `ends` is how many of the stream's last pieces say that the answer is whole.
    """

    served_name: str
    credential: str
    base: str
    events: Callable[[], list[bytes]]
    answer: Callable[[], Any]
    ends: int
    stream_type: bytes = b"text/event-stream"


WIRES = {
    "anthropic": Wire(
        served_name="anthropic/claude-sonnet-4-5", credential="ANTHROPIC_API_KEY", base="ANTHROPIC_API_BASE",
        events=anthropic_events, answer=anthropic_answer, ends=2,
    ),
    "gemini": Wire(
        served_name="gemini/gemini-2.5-flash", credential="GEMINI_API_KEY", base="GEMINI_API_BASE",
        events=gemini_events, answer=gemini_answer, ends=1,
    ),
    "openai": Wire(
        served_name="openai/gpt-4.1-mini", credential="OPENAI_API_KEY", base="OPENAI_API_BASE",
        events=openai_events, answer=openai_answer, ends=3,
    ),
    "together_ai": Wire(
        served_name="together_ai/meta-llama/Llama-3.1-8B", credential="TOGETHERAI_API_KEY",
        base="TOGETHER_AI_API_BASE", events=openai_events, answer=openai_answer, ends=3,
    ),
    "fireworks_ai": Wire(
        served_name="fireworks_ai/accounts/fireworks/models/deepseek-v3p2",
        credential="FIREWORKS_API_KEY", base="FIREWORKS_API_BASE", events=openai_events,
        answer=openai_answer, ends=3,
    ),
    "bedrock": Wire(
        served_name="bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0", credential="BEDROCK_API_KEY",
        base="AWS_BEDROCK_RUNTIME_ENDPOINT", events=bedrock_events, answer=bedrock_answer, ends=2,
        stream_type=b"application/vnd.amazon.eventstream",
    ),
}  # fmt: skip


async def write_stream(
    writer: asyncio.StreamWriter, wire: Wire, pieces: Sequence[bytes], *, pause: float = 0.0
) -> None:
    """A chunked answer, whole as HTTP, of these pieces."""
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % wire.stream_type
    )
    for piece in pieces:
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(pause)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def asks_for_stream(request: bytes) -> bool:
    """Whether a provider was asked for a stream: by its body or, at Gemini and Bedrock, by the path."""
    line = request.partition(b"\r\n")[0]
    return b"stream" in line or b'"stream": true' in request or b'"stream":true' in request
