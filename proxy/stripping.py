"""Which event of a stream is kept from a client that did not ask for it? The one with the token counts.

The proxy asks engines for it on its own account (`wire.Ask.hides_usage`). No I/O here.
"""

from __future__ import annotations

import re
from typing import Final

_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NO_CHOICES: Final = re.compile(rb'"choices":\s*\[\s*\]')
_HAS_USAGE: Final = re.compile(rb'"usage":\s*\{')
#: No event with token counts is larger; a longer one is passed on unread.
_LARGEST_USAGE: Final = 16 << 10


def _is_usage(event: bytes) -> bool:
    short = len(event) <= _LARGEST_USAGE
    return short and bool(_NO_CHOICES.search(event)) and bool(_HAS_USAGE.search(event))


def _last_event_end(text: bytes) -> int:
    """Where the last whole event of a text ends; 0 if none does, or none within the largest of interest."""
    since = max(0, len(text) - _LARGEST_USAGE - 6)
    return max(
        at + len(blank) if (at := text.rfind(blank, since)) >= 0 else 0
        for blank in (b"\n\n", b"\r\n\r\n", b"\r\r")
    )


class UsageStripper:
    """Takes the token-count event out of a stream for a client that did not ask for it.

    Bytes go in as they come and out as soon as they end an event; engines write whole events, so
    nothing waits in practice. An event too long to be the one is let through as it comes.
    """

    __slots__ = ("_held", "_passing")

    def __init__(self) -> None:
        self._held = b""
        self._passing = False

    def feed(self, chunk: bytes) -> bytes:
        """What may go to the client now."""
        if not self._held and not self._passing and chunk.find(b"usage") < 0 and chunk[-2:] == b"\n\n":
            return chunk
        seen = max(0, len(self._held) - 3)  # an event's end may have been cut in two
        text = self._held + chunk
        if b"usage" not in text:  # none of these events is the one, and a look at each costs ten times more
            return self._all_but(text, _last_event_end(text))
        out: list[bytes] = []
        at = 0
        for end in _EVENT_END.finditer(text, seen):
            event = text[at : end.end()]
            if self._passing or not _is_usage(event):
                out.append(event)
            self._passing = False
            at = end.end()
        return b"".join(out) + self._all_but(text[at:], 0)

    def _all_but(self, text: bytes, end: int) -> bytes:
        """What may go of a text whose whole events end at `end`: the event begun waits, unless too long."""
        self._passing = (self._passing and end == 0) or len(text) - end > _LARGEST_USAGE + 3
        if self._passing:
            end = max(0, len(text) - 3)
        self._held = text[end:]
        return text[:end]

    def finish(self) -> bytes:
        """What is left when the stream ends inside an event."""
        rest, self._held = self._held, b""
        return rest
