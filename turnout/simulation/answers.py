"""What does the simulated model say? Pure functions of the prompt: the same question, the same answer.

A prompt of the answer key (golden items that carry their right answer and a plausible wrong one) is
answered from it. Anything else gets the small talk of a support desk, put together from a grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from .profile import Profile


class AnswerKeyError(ValueError):
    """A file of golden items that is no answer key; the message names file and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a function; `arguments` is JSON text, as on the wire."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one choice says: text, or calls, or (from a broken engine) neither."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    right: Answer
    wrong: Answer


def _answer(source: Mapping[str, Any], text: str, call: str) -> Answer:
    if call in source:
        wanted = source[call]
        arguments = json.dumps(wanted["arguments"], ensure_ascii=False)
        return Answer(tool_calls=(ToolCall(name=str(wanted["name"]), arguments=arguments),))
    return Answer(text=str(source[text]))


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """Right and wrong answers by the last user message."""

    entries: Mapping[str, _Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> AnswerKey:
        """The items of JSONL files that carry an answer in `source`. Raises AnswerKeyError."""
        entries: dict[str, _Entry] = {}
        for path in paths:
            try:
                lines = path.read_text("utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise AnswerKeyError(f"{path}: cannot be read ({error})") from None
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    item = json.loads(line)
                    source = item["source"]
                    if not ("answer" in source or "tool_call" in source):
                        continue
                    prompt = str(item["input"]["messages"][-1]["content"]).strip()
                    right = _answer(source, "answer", "tool_call")
                    wrong = _answer(source, "wrong_answer", "wrong_tool_call")
                except (ValueError, KeyError, TypeError, IndexError) as error:
                    raise AnswerKeyError(f"{path}:{number}: no item of an answer key: {error!r}") from None
                entries[prompt] = _Entry(right=right, wrong=wrong)
        return cls(entries)

    def judge(self, prompt: str, answer: Answer) -> bool | None:
        """Whether `answer` is the right one to the prompt; None if the key does not know the prompt."""
        entry = self.entries.get(prompt.strip())
        return None if entry is None else answer == entry.right


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What matters of a request for what is said."""

    prompt: str
    schema: Mapping[str, Any] | None = None
    #: the function that must be called, with the schema of its arguments
    call: tuple[str, Mapping[str, Any]] | None = None


def respond(question: Question, profile: Profile, key: AnswerKey, nonce: int) -> Answer:
    """The answer; `nonce` tells repetitions of one prompt apart."""
    prompt = question.prompt.strip()
    entry = key.entries.get(prompt)
    if entry is not None:
        return entry.right if profile.knows(prompt, nonce) else entry.wrong
    random = Random(f"{profile.seed}:{prompt}:{nonce}")
    if question.call is not None:
        name, schema = question.call
        return Answer(tool_calls=(ToolCall(name=name, arguments=_dumps(instance(schema, random))),))
    if question.schema is not None:
        return Answer(text=_dumps(instance(question.schema, random)))
    return Answer(text=chatter(prompt, random, profile.verbosity))


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_OPENINGS: Final = (
    "Thanks for writing to us.",
    "Happy to help with that.",
    "Good question.",
    "Sorry for the trouble.",
    "Let me walk you through it.",
)
_TOPICS: Final = (
    "Regarding “{topic}”, the short version is this:",
    "You asked about “{topic}”, so here is what applies:",
    "On “{topic}” our records say the following:",
)
_STEPS: Final = (
    "open your order in the account page and pick the item in question",
    "keep the packaging until the parcel has been scanned at the depot",
    "the confirmation mail carries the code that you need for the label",
    "a colleague checks the request by hand before the money is sent back",
    "the carrier moves the parcel within two working days",
    "your card is charged only when the parcel leaves the warehouse",
    "the size chart was measured on the garment, not on a body",
    "spare poles and pegs are listed under the tent they belong to",
)
_LINKS: Final = ("First, ", "Then ", "Also, ", "Besides, ", "After that, ", "Please note: ")
_CLOSINGS: Final = (
    "Is there anything else I can do for you?",
    "Write back if something is unclear.",
    "Have a good day on the trail!",
    "The support line can also look into it with you.",
)


def chatter(prompt: str, random: Random, verbosity: float = 1.0) -> str:
    """Support-desk prose about the prompt: two to five steps long at verbosity 1."""
    topic = " ".join(prompt.split()[:8]).strip("?!.,;: ") or "your message"
    count = max(1, round(random.randint(2, 5) * verbosity))
    steps: list[str] = []
    while len(steps) < count:
        steps += random.sample(_STEPS, len(_STEPS))
    body = [_LINKS[min(i, len(_LINKS) - 1)] + step + "." for i, step in enumerate(steps[:count])]
    opening, closing = random.choice(_OPENINGS), random.choice(_CLOSINGS)
    return " ".join([opening, random.choice(_TOPICS).format(topic=topic), *body, closing])


def instance(schema: Mapping[str, Any], random: Random, depth: int = 0) -> Any:
    """Something small that fits a JSON schema's types, enums and required fields."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return random.choice(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return instance(schema[union][0], random, depth)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" and depth < 8:
        properties = schema.get("properties", {})
        return {name: instance(part, random, depth + 1) for name, part in properties.items()}
    if kind == "array":
        return [instance(schema.get("items", {}), random, depth + 1)]
    simple = {"integer": random.randint(1, 99), "number": random.randint(1, 990) / 10, "boolean": True}
    return simple.get(kind, None if kind == "null" else random.choice(("alpha", "beta", "gamma")))


_TOKEN: Final = re.compile(r"\s?\S{1,6}|\s")


def tokens(text: str) -> list[str]:
    """The text in pieces of about the size of a model's tokens; joined they give the text back."""
    return _TOKEN.findall(text)
