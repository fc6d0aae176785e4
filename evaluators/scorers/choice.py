"""Which of the offered choices does the answer take?

Reads the letter (or word) that stands as the conclusion: alone, boxed, in brackets, or after "answer:". A
bare letter inside a sentence is no choice: "A good question" does not choose A.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import Field, field_validator

from evaluators.golden import GoldenItem, Reference
from evaluators.score import Output
from evaluators.scorers.registry import Need, Options, scorer
from evaluators.scorers.text import as_texts

_ANSWER: Final = r"(?:answer|choice|option|antwort|réponse|respuesta)"
_LEAD: Final = rf"{_ANSWER}\s{{0,3}}(?:is|ist|est|es)?\s{{0,3}}[:=]?\s{{0,3}}"


class ChoiceOptions(Options):
    """`choices` that the question offers; right is `value`, or else the item's reference. `pick` says which
    counts when several stand as a conclusion."""

    choices: tuple[str, ...] = Field(default=("A", "B", "C", "D"), strict=False, min_length=2)
    value: str | None = None
    pick: Literal["last", "only"] = "last"

    def supplies(self) -> frozenset[Need]:
        return frozenset() if self.value is None else frozenset({"reference"})

    def wanted(self, reference: tuple[Reference, ...]) -> tuple[str, ...]:
        return as_texts(reference) if self.value is None else (self.value,)

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return f"{' or '.join(self.wanted(reference))} of {', '.join(self.choices)}"

    def suits(self, reference: tuple[Reference, ...]) -> None:
        known = {choice.casefold() for choice in self.choices}
        for value in self.wanted(reference):
            if value.casefold() not in known:
                raise ValueError(f"{value!r} is none of the choices {', '.join(self.choices)}")

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        if len({choice.strip().casefold() for choice in choices} - {""}) < len(choices):
            raise ValueError("choices are texts of their own, case aside, and none is empty")
        return choices


@scorer("choice", version="1", options=ChoiceOptions, requires=frozenset({"reference"}))
def choice(item: GoldenItem, output: Output, options: ChoiceOptions) -> tuple[bool, str]:
    """The right choice is the one concluded with. None, or with `pick: only` several different, is wrong."""
    found = chosen(output.text, options.choices)
    expected = f"expected {options.expects(item.reference)}"
    if not found:
        return False, f"{expected}, none is chosen"
    if options.pick == "only" and len(set(found)) > 1:
        return False, f"{expected}, {' and '.join(dict.fromkeys(found))} are chosen"
    wanted = {value.casefold() for value in options.wanted(item.reference)}
    return found[-1].casefold() in wanted, f"{expected}, {found[-1]} is chosen"


def chosen(text: str, choices: tuple[str, ...]) -> list[str]:
    """The choices that stand as conclusions, in their order. What is announced as the answer counts before
    what merely stands alone on a line or in brackets."""
    alternatives = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    one = rf"[*_`\"'(\[{{]{{0,4}}({alternatives})(?![\w-])"
    by_fold = {choice.casefold(): choice for choice in choices}

    def found(pattern: str) -> list[str]:
        matches = re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE)
        return [by_fold[match[1].casefold()] for match in matches]

    return (
        found(rf"\b{_LEAD}{one}")
        or found(rf"\\boxed\{{[ ]?(?:\\text\{{)?({alternatives})\b")
        or found(rf"^[ \t]{{0,8}}{one}[ ]?[)\].:]?[*_`\"')\]}}]{{0,4}}[ \t]{{0,8}}$")
        or found(rf"^[ \t]{{0,8}}[*_`\"'(\[{{]{{0,4}}({alternatives})[).:]")
        or found(rf"\(({alternatives})\)")
    )
