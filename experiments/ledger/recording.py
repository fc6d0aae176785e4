"""How much of an exchange may be kept, and for how long?

A model's recording is `full`, `redacted` (declared patterns are blotted out) or `numbers` (no body at
all). Redaction works on what a body says, not on its bytes: a pattern can hide in JSON escapes or be
spread over the events of a stream, so of a redacted stream only the transcript is kept.

A pattern that goes back and forth without end must not hold up the collector, nor let through what it was to
find: patterns run on the `regex` package, which has a time limit and lets other threads run meanwhile, and a
body that they are not through with is not kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import regex  # type: ignore[import-untyped]

from .exchange import Recording

logger = logging.getLogger(__name__)

REDACTED: Final = "[redacted]"
_STRICTNESS: Final[dict[Recording, int]] = {"full": 0, "redacted": 1, "numbers": 2}
#: Seconds that an honest pattern never needs: it is through with 16 MiB in one.
ONE_BODY_S: Final = 5.0
#: Where a text breaks off, so much of its end is looked through for what may be the beginning of a match.
_LONGEST_BEGINNING: Final = 4096
#: Of what is in vain the collector bears a tenth of its time, and so many seconds at once.
_IN_VAIN_SHARE: Final = 0.1
_IN_VAIN_S: Final = 10.0
#: What an exchange has while that is spent: enough for most, and too little to fall behind by.
_SPENT_S: Final = 0.01
#: A character as JSON spells it.
_ESCAPE: Final = regex.compile(r'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])')


def _unescaped(found: regex.Match[str]) -> str:
    return str(orjson.loads(f'"{found[0]}"'))


class RedactionTooSlow(Exception):
    """The patterns were not through with a body in its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPolicy:
    """What is kept of a model's bodies: how (`recording`, `redact`), how long (`keep_s`) and how much.

    `keep_bytes` bounds the size of requests and responses together; the oldest go first. None: no bound.
    Numbers (the exchanges themselves) are kept for good: they are small, and verdicts are made of them.
    """

    recording: Recording = "full"
    redact: tuple[regex.Pattern[str], ...] = ()
    keep_s: float | None = None
    keep_bytes: int | None = None


def stricter(asked: Recording, now: Recording) -> Recording:
    """Of what was in force when the exchange ran and what is in force now, the one that keeps less."""
    return max(asked, now, key=_STRICTNESS.__getitem__)


class Patience:
    """How long the patterns of a collector may run; `withheld` counts by model the bodies not kept for it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.withheld: dict[str, int] = {}
        self._clock = clock
        self._left, self._at = _IN_VAIN_S, clock()

    def seconds(self) -> float:
        """For the next exchange: little after so much in vain that the collector would fall behind."""
        now = self._clock()
        # A clock that stood still or went back has given nothing.
        self._left = min(_IN_VAIN_S, self._left + _IN_VAIN_SHARE * max(0.0, now - self._at))
        self._at = now
        return ONE_BODY_S if self._left > 0 else _SPENT_S

    def spend(self, seconds: float, model: str, why: RedactionTooSlow) -> None:
        """So long it took to find out that a body cannot be kept."""
        self._left -= seconds
        if model not in self.withheld:
            logger.warning("a body of %r is not kept, for it could not be redacted: %s", model, why)
        self.withheld[model] = self.withheld.get(model, 0) + 1


class Redaction:
    """Patterns that have `seconds` for all they are put to. Its methods raise RedactionTooSlow."""

    def __init__(self, patterns: tuple[regex.Pattern[str], ...], seconds: float = ONE_BODY_S) -> None:
        self._patterns = patterns
        self._began = time.monotonic()
        self._seconds = seconds

    @property
    def took(self) -> float:
        """Seconds since its beginning."""
        return time.monotonic() - self._began

    def text(self, text: str, *, cut: bool = False) -> str:
        """Every match of every pattern replaced by `[redacted]`. Of a text that was `cut`, its end too where
        that may be the beginning of a match."""
        for pattern in self._patterns:
            with self._in_time(pattern) as left:
                text = pattern.sub(REDACTED, text, timeout=left)
        if not cut:
            return text
        # Of the earliest: what another pattern has blotted out already must not hide what stands before it.
        beginning = min(self._beginning(pattern, text) for pattern in self._patterns)
        return text if beginning == len(text) else text[:beginning] + REDACTED

    def _beginning(self, pattern: regex.Pattern[str], text: str) -> int:
        """Where what may become a match when more comes begins; the text's length if nowhere."""
        start = max(0, len(text) - _LONGEST_BEGINNING)
        with self._in_time(pattern) as left:
            matches = pattern.finditer(text, start, partial=True, timeout=left)
            return next((match.start() for match in matches if match.partial), len(text))

    @contextmanager
    def _in_time(self, pattern: regex.Pattern[str]) -> Iterator[float]:
        """The seconds that are left."""
        left = self._seconds - self.took
        try:
            if left <= 0:
                raise TimeoutError
            yield left
        except (TimeoutError, MemoryError):
            raise RedactionTooSlow(
                f"{pattern.pattern!r} was not through within {self._seconds:g} s: "
                "avoid repeats within repeats, such as (a+)+"
            ) from None

    def body(self, body: bytes) -> bytes | None:
        """A JSON body with its strings and numbers redacted; None if it is no JSON, for then nothing is
        safe."""
        try:
            return orjson.dumps(self._value(orjson.loads(body)))
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):  # the last two: too deep
            return None

    def arguments(self, arguments: str, *, cut: bool = False) -> str:
        """A tool call's arguments, which are JSON inside a string: redacted as JSON if they are."""
        inner = self.body(arguments.encode("utf-8", "replace"))
        if inner is not None:
            return inner.decode()
        plain = _ESCAPE.sub(_unescaped, arguments)
        if plain != arguments and self.text(plain, cut=cut) != plain:
            return REDACTED  # where in the text it stands only whole JSON could tell
        return self.text(arguments, cut=cut)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            # JSON inside a string (tool arguments) may spell a character as an escape.
            nested = "\\" in value and value.lstrip().startswith(("{", "[", '"'))
            return self.arguments(value) if nested else self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self._value(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._value(part) for part in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            text = str(value)
            return value if self.text(text) == text else REDACTED
        return value
