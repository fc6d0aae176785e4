"""Where do two answers differ, word by word?

Pure, and for the terminal as well (`turnout golden compare`). It yields the words of both texts with what
each of them has alone, and HTML in which every character of the texts is escaped: no mark-up survives.
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
class Run:
    """Words in a row that both texts have (`same`; white space may differ), or what stands in each in place
    of the other's, where one of them may be empty."""

    same: bool
    control: str
    candidate: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of one text; `own`: the other text does not have it there."""

    text: str
    own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Both texts, run by run. `clipped`: only the first MAX_WORDS words were compared and are there."""

    runs: tuple[Run, ...]
    clipped: bool

    @property
    def control(self) -> tuple[Stretch, ...]:
        """The control's text."""
        return tuple(Stretch(run.control, not run.same) for run in self.runs if run.control)

    @property
    def candidate(self) -> tuple[Stretch, ...]:
        """The candidate's text."""
        return tuple(Stretch(run.candidate, not run.same) for run in self.runs if run.candidate)


def word_diff(control: str, candidate: str) -> Difference | None:
    """Where the texts differ, word by word. None if they are the same."""
    if control == candidate:
        return None
    left, right = _WORD.findall(control), _WORD.findall(candidate)
    clipped = max(len(left), len(right)) > MAX_WORDS
    return Difference(runs=tuple(_runs(left[:MAX_WORDS], right[:MAX_WORDS])), clipped=clipped)


def as_html(stretches: Sequence[Stretch], colour: str) -> str:
    """The text with what is its own on `colour` (a CSS colour of ours). All of the text is escaped."""
    return "".join(
        f'<mark style="background:{colour};color:inherit;border-radius:3px">{escape(one.text)}</mark>'
        if one.own
        else escape(one.text)
        for one in stretches
    )


def _runs(left: list[str], right: list[str]) -> list[Run]:
    """Same and changed runs in turn; a few equal words between two changes count as changed."""
    words = [[word.strip() for word in side] for side in (left, right)]
    matcher = SequenceMatcher(None, words[0], words[1], autojunk=False)
    runs: list[Run] = []
    codes = matcher.get_opcodes()
    for place, (tag, i, j, k, m) in enumerate(codes):
        inside = 0 < place < len(codes) - 1
        same = tag == "equal" and not (inside and j - i < MIN_EQUAL)
        run = Run(same, "".join(left[i:j]), "".join(right[k:m]))
        if runs and not same and not runs[-1].same:
            before = runs.pop()
            run = Run(False, before.control + run.control, before.candidate + run.candidate)
        runs.append(run)
    return runs
