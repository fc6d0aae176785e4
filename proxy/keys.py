"""Is a 403 about Turnout's key, or about what was asked?

Some providers and gateways refuse a flagged question with the status of a bad key. Who has taken the same key
before has refused the question, unless it refuses all that comes: then the key is good no longer. No I/O.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

#: So many refusals without an answer between them are no flagged questions any more.
_IN_A_ROW: Final = 20


class Keys:
    """The keys that were taken, by where, and how often each was refused with 403 since."""

    def __init__(self) -> None:
        self._refused: dict[Hashable, int] = {}

    def taken(self, key: Hashable) -> None:
        """A request with this key was answered."""
        self._refused[key] = 0

    def distrusted(self, key: Hashable) -> bool:
        """A request with this key was refused with 403: whether that is the key's fault."""
        if key not in self._refused:
            return True
        self._refused[key] += 1
        if self._refused[key] < _IN_A_ROW:
            return False
        del self._refused[key]
        return True
