"""Has the last event of a stream come? Each API ends its streams in a way of its own.

For a client that event is the last byte, whatever the transport still sends: its row must be written before.
A JSON string holds no raw line break, so no text of a model can look like one of these lines.
"""

from __future__ import annotations

import re
from typing import Final

_DONE: Final = re.compile(rb"[\r\n]data: ?\[DONE\]")
#: The whole event, up to the blank line: what it carries belongs to the record.
_LAST_EVENT: Final = re.compile(
    rb"\nevent: ?(?:message_stop|response\.(?:completed|incomplete|failed))\r?\n(?:[^\r\n]+\r?\n)*\r?\n"
)
_NAMED: Final = frozenset(("/v1/responses", "/v1/messages"))
#: Of a stream whose last event is long and comes in pieces, how much is kept to look for its end.
_LONGEST: Final = 8 << 20


class EndOfStream:
    """Is fed the pieces of one stream."""

    __slots__ = ("_held", "_mark", "_named", "_pattern")

    def __init__(self, path: str) -> None:
        self._named = path in _NAMED
        self._pattern = _LAST_EVENT if self._named else _DONE
        self._mark = b"event:" if self._named else b"[DONE]"
        self._held = b"\n"  # an event may stand at the very beginning

    def within(self, data: bytes) -> bool:
        """Whether the end is in this piece, also if it began in an earlier one."""
        if self._held == b"\n" and data[-1:] == b"\n" and data.find(self._mark) < 0:
            return False  # whole lines, none of which is of interest
        text = self._held + data
        if self._named:
            # What may still grow into the last event begins with the last line that names an event.
            began = text.rfind(b"\nevent:")
            kept = text[began:] if began >= 0 else text[-7:]
            self._held = kept if len(kept) < _LONGEST else kept[-7:]
            return began >= 0 and self._pattern.search(text) is not None
        self._held = b"\n" if text.endswith(b"\n") else text[-16:]
        return text.find(b"[DONE]") >= 0 and self._pattern.search(text) is not None
