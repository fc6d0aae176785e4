"""How much of an exchange may be kept, and for how long?

A model's recording is `full`, `redacted` (declared patterns are blotted out) or `numbers` (no body at
all). Redaction works on what a body says, not on its bytes: a pattern can hide in JSON escapes or be
spread over the events of a stream, so of a redacted stream only the transcript is kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .exchange import Recording

REDACTED: Final = "[redacted]"
_STRICTNESS: Final[dict[Recording, int]] = {"full": 0, "redacted": 1, "numbers": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPolicy:
    """What is kept of a model's bodies: how (`recording`, `redact`), how long (`keep_s`) and how much.

    `keep_bytes` bounds the size of requests and responses together; the oldest go first. None: no bound.
    Numbers (the exchanges themselves) are kept for good: they are small, and verdicts are made of them.
    """

    recording: Recording = "full"
    redact: tuple[re.Pattern[str], ...] = ()
    keep_s: float | None = None
    keep_bytes: int | None = None


def stricter(asked: Recording, now: Recording) -> Recording:
    """Of what was in force when the exchange ran and what is in force now, the one that keeps less."""
    return max(asked, now, key=_STRICTNESS.__getitem__)


def redact_text(text: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    """Every match of every pattern replaced by `[redacted]`."""
    for pattern in patterns:
        text = pattern.sub(REDACTED, text)
    return text


def redact_json(body: bytes, patterns: tuple[re.Pattern[str], ...]) -> str | None:
    """A JSON body with its strings and numbers redacted; None if it is no JSON, for then nothing is safe."""
    try:
        return orjson.dumps(_redacted(orjson.loads(body), patterns)).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):  # the last two: too deep
        return None


def redact_arguments(arguments: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    """A tool call's arguments, which are JSON inside a string: redacted as JSON if they are."""
    inner = redact_json(arguments.encode("utf-8", "replace"), patterns)
    return redact_text(arguments, patterns) if inner is None else inner


def _redacted(value: Any, patterns: tuple[re.Pattern[str], ...]) -> Any:
    if isinstance(value, str):
        return _redacted_string(value, patterns)
    if isinstance(value, dict):
        return {redact_text(key, patterns): _redacted(part, patterns) for key, part in value.items()}
    if isinstance(value, list):
        return [_redacted(part, patterns) for part in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value)
        return value if redact_text(text, patterns) == text else REDACTED
    return value


def _redacted_string(value: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    # JSON inside a string (tool arguments) may spell a character as an escape.
    if value.startswith(("{", "[")) and "\\u" in value:
        return redact_arguments(value, patterns)
    return redact_text(value, patterns)
