"""How does what somebody wrote become a regular expression, without the process being gone before it can be
refused?

The `regex` package writes out what must be repeated: `((a{1000}){1000}){1000}` are a thousand million
letters. Pure: text in, a pattern out.
"""

from __future__ import annotations

import re
from typing import Final

import regex  # type: ignore[import-untyped]

#: Pieces that repeats may add: about a kilobyte and four microseconds each.
LARGEST: Final = 20_000
_TOKEN: Final = re.compile(
    r"\\."  # one escaped character
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]"  # a set: what stands in it repeats nothing
    r"|\{(?P<least>\d+)(?:,\d*)?\}"
    r"|.",
    re.DOTALL,
)


class TooLarge(ValueError):
    """A pattern whose repeats, written out, would fill the memory."""


def compiled(pattern: str, flags: int = 0) -> regex.Pattern[str]:
    """A pattern of the `regex` package. Raises ValueError if it is no regular expression; TooLarge is one."""
    check_repeats(pattern)
    try:
        return regex.compile(pattern, flags)
    except (regex.error, OverflowError, RecursionError, MemoryError) as error:  # too often, too deep
        raise ValueError(str(error)) from None


def check_repeats(pattern: str) -> None:
    """Raises TooLarge where repeats of repeats multiply beyond `LARGEST` pieces."""
    open_groups, last, added = [0], 0, 0
    for token in _TOKEN.finditer(pattern):
        if token["least"] is not None:
            more = last * (max(1, _number(token["least"])) - 1)
            last += more
            added += more
            open_groups[-1] += more
            if added > LARGEST:
                raise TooLarge(
                    f"its repeats, such as {token[0][:20]}, written out are over {LARGEST:,} pieces"
                )
        elif token[0] == "(":
            open_groups.append(0)
        elif token[0] == ")" and len(open_groups) > 1:  # one too many is for the compiler to tell
            last = open_groups.pop() + 1
            open_groups[-1] += last
        else:
            last = 1
            open_groups[-1] += 1


def _number(digits: str) -> int:
    return int(digits) if len(digits) < 20 else LARGEST * 10
