"""Which chat messages does a foreign input amount to? A text is one user message; a list must be messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool"))
#: What foreign messages carry beside OpenAI's fields, and no engine reads.
_IGNORED: Final = frozenset(("id", "source", "type", "metadata", "internal", "model"))


class NotMessages(ValueError):
    """The value is neither a text nor a list of chat messages; the text says what it is."""


def messages_of(value: Any, *, system: str | None = None) -> list[dict[str, Any]]:
    """Chat messages of a text, of a list of messages, or of a text that is such a list in JSON."""
    found = _parsed(value)
    if isinstance(found, str):
        found = [{"role": "user", "content": found}]
    if not isinstance(found, list) or not found:
        raise NotMessages(f"{type(value).__name__} is neither a text nor a list of messages")
    made = [_message(one) for one in found]
    return [{"role": "system", "content": system}, *made] if system else made


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            inner = json.loads(value)
        except ValueError:
            return value
        is_chat = isinstance(inner, list) and all(isinstance(one, Mapping) and "role" in one for one in inner)
        return inner if inner and is_chat else value
    return value


def _message(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or value.get("role") not in _ROLES:
        raise NotMessages(f"{json.dumps(value, ensure_ascii=False, default=str)[:120]} is no chat message")
    message = {key: inner for key, inner in value.items() if key not in _IGNORED and inner is not None}
    content = message.get("content")
    if isinstance(content, Mapping) and isinstance(content.get("text"), str):
        message["content"] = content["text"]  # {"type": "input_text", "text": ...}
    elif isinstance(content, list):
        message["content"] = [_part(part) for part in content]
    return message


def _part(part: Any) -> Any:
    if isinstance(part, Mapping) and part.get("type") in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text", "")}
    return part
