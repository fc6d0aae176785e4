"""Where do two answers differ, word by word?

Pure. It yields the words of both texts with what each of them has alone, and HTML in which every character of
the texts is escaped: no mark-up of theirs survives.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape

_WORD = re.compile(r"\S+\s*|\s+")
# SequenceMatcher is quadratic in the worst case; beyond this many words a diff helps nobody anyway.
MAX_WORDS = 1500
# Shorter equal stretches between two changes make a diff that nobody can read as a sentence.
MIN_EQUAL = 3


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of one text; `own`: the other text does not have it there."""

    text: str
    own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Both texts in stretches. `clipped`: only the first MAX_WORDS words were compared and are there."""

    control: tuple[Stretch, ...]
    candidate: tuple[Stretch, ...]
    clipped: bool


def word_diff(control: str, candidate: str) -> Difference | None:
    """What either text has alone, word by word. None if the texts are the same."""
    if control == candidate:
        return None
    left, right = _WORD.findall(control), _WORD.findall(candidate)
    clipped = max(len(left), len(right)) > MAX_WORDS
    left, right = left[:MAX_WORDS], right[:MAX_WORDS]
    runs = _runs(left, right)
    return Difference(
        control=tuple(Stretch("".join(left[i:j]), not same) for same, (i, j, _, _) in runs if j > i),
        candidate=tuple(Stretch("".join(right[k:m]), not same) for same, (_, _, k, m) in runs if m > k),
        clipped=clipped,
    )


def as_html(stretches: Sequence[Stretch], colour: str) -> str:
    """The text with what is its own on `colour` (a CSS colour of ours). All of the text is escaped."""
    return "".join(
        f'<mark style="background:{colour};color:inherit;border-radius:3px">{escape(one.text)}</mark>'
        if one.own
        else escape(one.text)
        for one in stretches
    )


def _runs(left: list[str], right: list[str]) -> list[tuple[bool, tuple[int, int, int, int]]]:
    """Same and changed stretches in turn; a few equal words between two changes count as changed."""
    words = [[word.strip() for word in side] for side in (left, right)]
    matcher = SequenceMatcher(None, words[0], words[1], autojunk=False)
    runs: list[tuple[bool, tuple[int, int, int, int]]] = []
    codes = matcher.get_opcodes()
    for place, (tag, i, j, k, m) in enumerate(codes):
        inside = 0 < place < len(codes) - 1
        same = tag == "equal" and not (inside and j - i < MIN_EQUAL)
        if runs and not same and not runs[-1][0]:
            first = runs.pop()[1]
            i, k = first[0], first[2]
        runs.append((same, (i, j, k, m)))
    return runs
