"""What of an engine's JSON can be kept? JSON may say what UTF-8 and a ledger's columns cannot hold.

Half of a surrogate pair (an emoji that was cut in two) becomes U+FFFD, an integer beyond 64 bits a float. One
such answer must not end a run, nor keep it from being stored.
"""

from __future__ import annotations

import re
from typing import Any, Final

#: Where neither occurs there is nothing to mend, and most answers are spared the walk.
_SUSPECT: Final = re.compile(rb"\\u[dD][89abcdefABCDEF]|[0-9]{19}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MOST: Final = 2**63


def well_formed(value: Any) -> Any:
    """The value of a JSON document, with what cannot be kept replaced. Raises RecursionError."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {well_formed(name): well_formed(one) for name, one in value.items()}
    if isinstance(value, list):
        return [well_formed(one) for one in value]
    if isinstance(value, int) and not -_MOST <= value < _MOST:
        try:
            return float(value)
        except OverflowError:
            return None
    return value


def mended(content: bytes, value: Any) -> Any:
    """`value`, which is what `content` says as JSON, well formed."""
    return well_formed(value) if _SUSPECT.search(content) else value
