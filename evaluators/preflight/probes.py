"""What is put to both versions? Questions chosen for what breaks: templates, tools, schemas, odd texts.

Small on purpose: a preflight takes minutes at most. Items of a golden set can be added, which makes it speak
of the model's own traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from evaluators.golden import GoldenItem

MAX_TOKENS: Final = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question: a chat body without model and sampling. `tools` and `schema` say what its answer is
    checked against."""

    name: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    schema: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self, model: str) -> dict[str, Any]:
        """The request, greedy, so that two askings of one version are to say the same."""
        body: dict[str, Any] = {"model": model, "messages": list(self.messages), "temperature": 0, "seed": 0}
        body["max_tokens"] = MAX_TOKENS
        if self.tools:
            body["tools"] = list(self.tools)
        if self.schema is not None:
            named = {"name": "answer", "schema": self.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body | dict(self.extra)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


_SYSTEM: Final = {
    "role": "system",
    "content": "You are the support assistant of a shop. Answer in one sentence.",
}
_ORDER: Final = {
    "type": "function",
    "function": {
        "name": "order_status",
        "description": "The status of an order.",
        "parameters": {
            "type": "object",
            "properties": {
                "order": {"type": "integer", "enum": [17, 18, 19]},
                "detail": {"type": "string", "enum": ["short", "full"]},
            },
            "required": ["order", "detail"],
            "additionalProperties": False,
        },
    },
}
_TICKET: Final = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "enum": ["billing", "shipping", "other"]},
        "urgent": {"type": "boolean"},
    },
    "required": ["topic", "urgent"],
    "additionalProperties": False,
}
_CALLED: Final = (
    _user("Where is order 17?"),
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_17",
                "type": "function",
                "function": {"name": "order_status", "arguments": '{"order": 17, "detail": "short"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_17", "content": '{"status": "sent"}'},
)
_ASK_TICKET: Final = "Sort this ticket: my invoice is wrong and I need it today."

PROBES: Final[tuple[Probe, ...]] = (
    Probe(name="plain", messages=(_user("How long may I return a tent?"),)),
    Probe(name="system", messages=(_SYSTEM, _user("How long may I return a tent?"))),
    Probe(
        name="turns",
        messages=(_SYSTEM, _user("Hello"), {"role": "assistant", "content": "Hello!"}, _user("Which sizes?")),
    ),
    Probe(name="languages", messages=(_user("Grüße aus Tromsø, 你好, مرحبا, 🏕️. Welche Zelte gibt es?"),)),
    Probe(name="code", messages=(_user("Explain:\n\tdef f(x):\n\t\treturn {'a': [x, 1.5e-3]}\n\n\n"),)),
    Probe(name="spaces", messages=(_user("  leading,   inner   and trailing spaces  "),)),
    Probe(name="special", messages=(_user("Repeat: <|im_start|>system <s> [INST] </s> <|end|>"),)),
    Probe(name="tool_result", messages=_CALLED, tools=(_ORDER,)),
    Probe(name="tool_auto", messages=(_SYSTEM, _user("Where is order 17?")), tools=(_ORDER,)),
    Probe(
        name="tool_named",
        messages=(_SYSTEM, _user("Where is order 18? In full.")),
        tools=(_ORDER,),
        extra={"tool_choice": {"type": "function", "function": {"name": "order_status"}}},
    ),
    Probe(name="schema", messages=(_SYSTEM, _user(_ASK_TICKET)), schema=_TICKET),
)

#: What only the tokenizer sees: no template around it.
TEXTS: Final[Mapping[str, str]] = {
    "prose": "The quick brown fox jumps over the lazy dog; prices are 1,234.50 EUR (incl. VAT).",
    "languages": "Grüße, œuvre, naïve, Ærø. 你好世界。 こんにちは。 مرحبا بالعالم. Привет, мир! 🏕️👩‍🔬",
    "code": "def f(x):\n\treturn {'a': [x, 1.5e-3]}  # 0x1F != 31\n",
    "json": '{"order": 17, "items": ["tent", "stove"], "paid": true, "note": null}',
    "spaces": "  a   b\t\tc\n\n\n d ",
    "digits": "4410 20261125 3.14159265358979 1e-10 0001",
}


def of_items(items: Iterable[GoldenItem], most: int) -> tuple[Probe, ...]:
    """The first items of a golden set as probes, with their own tools and schemas."""
    return tuple(
        Probe(name=f"golden:{item.id}", messages=item.messages, tools=item.tools, schema=_schema(item))
        for item, _ in zip(items, range(most), strict=False)
    )


def _schema(item: GoldenItem) -> Mapping[str, Any] | None:
    named = (item.response_format or {}).get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return schema if isinstance(schema, Mapping) else None
