"""What is an answer while it is put together, and what must a dialect know to put one together?

A dialect reads one API's payloads into an `Answer`. It may raise any of `MISREAD` on what it does not
understand: `transcript` turns that into an outcome. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MISREAD: Final = (AttributeError, KeyError, TypeError, ValueError, IndexError)
Payload = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Choice:
    """One choice: `calls` maps an index to [id, name, arguments, arguments, ...]."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    finish: str | None = None

    def call(self, index: int, id_: object, name: object, arguments: object) -> None:
        """A tool call, or a piece of one: id and name come once, the arguments bit by bit."""
        parts = self.calls.setdefault(index, ["", ""])
        parts[0] = parts[0] or text(id_)
        parts[1] = parts[1] or text(name)
        parts.append(text(arguments))

    @property
    def spoken(self) -> bool:
        """Whether there is text or a call: reasoning alone is no answer."""
        return bool(self.calls) or any(self.text)


@dataclass(slots=True, kw_only=True)
class Answer:
    """`items` counts what was answered and is no text: vectors, scores, calls of the engine's own tools."""

    choices: dict[int, Choice] = field(default_factory=dict)
    usage: Payload | None = None
    error: str | None = None  # the engine's own error, inside an answer with status 200
    problem: str | None = None  # why it cannot be understood
    ended: bool = False
    items: int = 0

    def choice(self, index: int = 0) -> Choice:
        """The choice of that number, made if need be."""
        found = self.choices.get(index)
        if found is None:
            found = self.choices[index] = Choice()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts; None is unknown. `cached` are those of the prompt's that were read from a cache."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None


def openai_usage(usage: object) -> Usage:
    """Counts under the names of chat/completions. Whatever is no count is unknown."""
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    return Usage(
        prompt=count(usage.get("prompt_tokens")),
        completion=count(usage.get("completion_tokens")),
        cached=count(details.get("cached_tokens")) if isinstance(details, dict) else None,
    )


def unstreamed(answer: Answer, payload: Payload) -> bool:
    """The reader of stream events for an API that has none."""
    raise ValueError("this API does not stream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one API speaks.

    `piece(answer, payload)` reads one event of a stream and says whether it brought content; `whole`
    reads a JSON answer; `asked(request)` is the prompt, for display; `later(request)` says whether it goes on
    after an earlier answer, None where the API has no turns; `usage` reads the counts that these
    left in `answer.usage`. Where `done` is set, `data: [DONE]` ends a stream; elsewhere an event does, and
    `piece` sets `answer.ended`.
    """

    whole: Callable[[Answer, Payload], None]
    asked: Callable[[Payload], str | None]
    piece: Callable[[Answer, Payload], bool] = unstreamed
    later: Callable[[Payload], bool] | None = None
    usage: Callable[[object], Usage] = openai_usage
    done: bool = False


def count(value: object) -> int | None:
    """A token count, or None for what is none."""
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return value if sound and isinstance(value, int) else None


def index(value: object) -> int:
    """The number of a choice or call, 0 where it is left out. Raises TypeError."""
    if value is None:
        return 0
    if not isinstance(value, int):
        raise TypeError("a number expected")
    return value


def text(value: object) -> str:
    """A string, or nothing for null. Raises TypeError on anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def shown(content: object) -> str | None:
    """Content as text: parts that are no text are named by their type."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    return "\n".join(
        part if isinstance(part, str) else part.get("text") or f"[{part.get('type', 'part')}]"
        for part in content
    )


def last_asked(messages: Any) -> str | None:
    """The last message of the user; where there is none, the last message."""
    users = [message for message in messages if message.get("role") == "user"]
    return shown((users or messages)[-1].get("content"))


def answered_before(messages: Any) -> bool:
    """Whether the model has spoken in a list of messages: then the request is a later turn."""
    return any(message.get("role") == "assistant" for message in messages)


def field_asked(name: str) -> Callable[[Payload], str | None]:
    """What was asked is one field: a text, a list of texts, or lists of token ids."""

    def asked(request: Payload) -> str | None:
        value = request[name]
        if isinstance(value, list) and not all(isinstance(part, str) for part in value):
            return f"[{len(value)} token ids or lists of them]"
        return shown(value)

    return asked
