"""Which words of somebody else's message could be a key? They are blotted out before anybody reads it.

Providers, and libraries in their place, quote keys in their errors; they also quote the names of models,
which are as long and have as many digits, and which whoever mends the request needs. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

BLOT: Final = "[secret]"

#: After a word that announces a key, or by its beginning; or a long word, which is looked at.
_SUSPECT: Final = re.compile(
    r"(?i)\b(?:bearer|basic)\s+\S+|(?:key|token|authorization|secret|password)[\"']?\s*[=:]\s*[\"']?[^\s\"',}]+"
    r"|\bsk-\S{4,}|(?<![\w*-])(?P<long>[\w*-]{20,})"
)
_MIXED: Final = re.compile(r"[A-Za-z]\d|\d[A-Za-z]")
_CAPITAL: Final = re.compile(r"[a-z][A-Z]")


def blotted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets and without what looks like one."""
    for secret in secrets:
        text = text.replace(secret, BLOT)
    return _SUSPECT.sub(_unless_a_name, text)


def _unless_a_name(found: re.Match[str]) -> str:
    """A long word stays if it is all letters or digits, or made of what the name of a model is
    (claude-3-5-sonnet-20241022-v2): letters with a capital here and there, a date's digits, a few of both."""
    word = found["long"]
    if word is None:
        return BLOT
    if word.isdigit() or not any(character.isdigit() for character in word):
        return str(word)
    parts = re.split(r"[^A-Za-z\d]", word)
    odd = any(len(part) > 7 and (_MIXED.search(part) or (part.isdigit() and len(part) > 8)) for part in parts)
    return BLOT if odd or len(_CAPITAL.findall(word)) > 2 else str(word)
