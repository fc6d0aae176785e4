"""How is a regular expression kept from running for ever on a text that a model chose?

Python's own `re` cannot be interrupted, and `^(a+)+$` takes years on forty letters. Patterns therefore run
on the `regex` package (same syntax and meaning as `re`) with a time limit; patterns and texts have a size
limit besides. A search that exceeds its time is a failed instrument, never a yes or a no.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import regex  # type: ignore[import-untyped]

from experiments import patterns

MAX_PATTERN: Final = 2_000  # characters: longer ones are data, not patterns
MAX_TEXT: Final = 1_000_000  # characters: no answer of a model is longer
TIME_LIMIT_S: Final = 0.25  # an honest search over MAX_TEXT takes a few milliseconds

FLAGS: Final = {"i": regex.IGNORECASE, "m": regex.MULTILINE, "s": regex.DOTALL, "x": regex.VERBOSE}


class PatternTimeout(Exception):
    """The search took longer than its limit: the pattern backtracks without bound."""


class PatternError(ValueError):
    """The text is no regular expression."""


@lru_cache(maxsize=4096)
def compiled(pattern: str, flags: str = "") -> regex.Pattern[str]:
    """The compiled pattern. Raises PatternError with what is wrong and where."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"a pattern has at most {MAX_PATTERN} characters, this one has {len(pattern)}")
    if unknown := set(flags) - set(FLAGS):
        raise PatternError(f"flags are of {''.join(FLAGS)}, not {''.join(sorted(unknown))!r}")
    value = 0
    for flag in flags:
        value |= FLAGS[flag]
    try:
        return patterns.compiled(pattern, value)
    except patterns.TooLarge as error:
        raise PatternError(f"{pattern!r} is too large: {error}") from None
    except ValueError as error:
        raise PatternError(f"{pattern!r} is no regular expression: {error}") from None


def found(pattern: str, text: str, *, flags: str = "", whole: bool = False) -> bool:
    """Whether the pattern matches somewhere in `text` (or all of it). Raises PatternTimeout, PatternError."""
    if len(text) > MAX_TEXT:
        raise PatternTimeout(f"the text has {len(text)} characters; {MAX_TEXT} are searched at most")
    expression = compiled(pattern, flags)
    search = expression.fullmatch if whole else expression.search
    try:
        return search(text, timeout=TIME_LIMIT_S) is not None
    except TimeoutError:
        raise PatternTimeout(
            f"{pattern!r} ran for more than {TIME_LIMIT_S} s on {len(text)} characters; "
            "avoid repeats within repeats, such as (a+)+"
        ) from None
