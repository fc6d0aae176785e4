"""What providers answer when a tool is called, and to a request for vectors: in their own wires."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .provider_wires import USAGE, aws_event, openai_chunk, sse

TOOL = "weather"
ARGUMENTS = {"city": "Zürich"}
#: as it is streamed, cut within a key and within a character's escape
PIECES = ('{"ci', 'ty": "Z\\u00', 'fcrich"}')
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


def _anthropic_events() -> list[bytes]:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude",
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 1},
    }  # fmt: skip
    called = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": {}}
    return sse(
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": called},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": piece},
            }
            for piece in PIECES
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
        named=True,
    )


def _anthropic_answer() -> Any:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "tool_use",
        "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 5},
        "content": [{"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": ARGUMENTS}],
    }  # fmt: skip


def _gemini_answer() -> Any:
    content = {"role": "model", "parts": [{"functionCall": {"name": TOOL, "args": ARGUMENTS}}]}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
    return {
        "candidates": [{"content": content, "index": 0, "finishReason": "STOP"}],
        "usageMetadata": usage,
    }


def _gemini_events() -> list[bytes]:
    return sse(_gemini_answer())


def _openai_events() -> list[bytes]:
    function = {"name": TOOL, "arguments": ""}
    called = {"index": 0, "id": "call_1", "type": "function", "function": function}
    return sse(
        openai_chunk({"role": "assistant", "content": None, "tool_calls": [called]}),
        *(openai_chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in PIECES),
        openai_chunk({}, "tool_calls"),
        openai_chunk({}) | {"choices": [], "usage": USAGE},
        "[DONE]",
    )


def _openai_answer() -> Any:
    function = {"name": TOOL, "arguments": json.dumps(ARGUMENTS)}
    called = [{"id": "call_1", "type": "function", "function": function}]
    message = {"role": "assistant", "content": None, "tool_calls": called}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    return {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
        "usage": USAGE,
    }  # fmt: skip


def _bedrock_events() -> list[bytes]:
    usage = {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12}
    start = {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t1", "name": TOOL}}}
    return [
        aws_event("messageStart", {"role": "assistant"}),
        aws_event("contentBlockStart", start),
        *(
            aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": {"input": piece}}})
            for piece in PIECES
        ),
        aws_event("contentBlockStop", {"contentBlockIndex": 0}),
        aws_event("messageStop", {"stopReason": "tool_use"}),
        aws_event("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]


def _bedrock_answer() -> Any:
    content = [{"toolUse": {"toolUseId": "t1", "name": TOOL, "input": ARGUMENTS}}]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12},
        "metrics": {"latencyMs": 1},
    }


#: events and answer of a tool call, by the wire's name
TOOL_CALLS: dict[str, tuple[Callable[[], list[bytes]], Callable[[], Any]]] = {
    "anthropic": (_anthropic_events, _anthropic_answer),
    "gemini": (_gemini_events, _gemini_answer),
    "openai": (_openai_events, _openai_answer),
    "together_ai": (_openai_events, _openai_answer),
    "fireworks_ai": (_openai_events, _openai_answer),
    "bedrock": (_bedrock_events, _bedrock_answer),
}

VECTORS = ([0.25, -0.5, 1.0], [1.0, 0.0, -0.25])


def _openai_vectors(request: bytes) -> Any:
    """In base64 where it is asked for, as OpenAI gives them."""
    packed = b'"base64"' in request
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            if packed
            else vector,
        }
        for index, vector in enumerate(VECTORS)
    ]
    return {
        "object": "list",
        "data": data,
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


@dataclass(frozen=True, slots=True)
class Vectors:
    """A provider of embeddings: its model, whose wire and variables it uses, its answer to a request."""

    served_name: str
    wire: str
    answer: Callable[[bytes], Any]


EMBEDDERS = {
    "openai": Vectors("openai/text-embedding-3-small", "openai", _openai_vectors),
    "together_ai": Vectors("together_ai/BAAI/bge-base-en-v1.5", "together_ai", _openai_vectors),
    "fireworks_ai": Vectors("fireworks_ai/nomic-ai/nomic-embed-text-v1.5", "fireworks_ai", _openai_vectors),
    "gemini": Vectors(
        "gemini/gemini-embedding-001",
        "gemini",
        lambda _: {"embeddings": [{"values": vector} for vector in VECTORS]},
    ),
}
