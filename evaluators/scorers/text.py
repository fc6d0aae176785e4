"""Does the text of the answer say what it must: exactly, somewhere in it, or by a pattern?

An answer without text (only tool calls, say) is the empty text here: it matches nothing but the empty.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from pydantic import Field, field_validator

from evaluators.golden import GoldenItem, Reference
from evaluators.score import Output
from evaluators.scorers.patterns import compiled, found
from evaluators.scorers.registry import Need, Options, scorer


class ValuesOptions(Options):
    """`values`, or else the item's reference."""

    values: tuple[str, ...] = Field(default=(), strict=False)

    def supplies(self) -> frozenset[Need]:
        return frozenset({"reference"}) if self.values else frozenset()

    def wanted(self, reference: tuple[Reference, ...]) -> tuple[str, ...]:
        return self.values or as_texts(reference)


class _CasedOptions(ValuesOptions):
    case_sensitive: bool = True


class ExactOptions(_CasedOptions):
    """`values`, or else the item's reference, any of which the answer must equal; outer white space is not
    looked at."""

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return _listed(self.wanted(reference), "or")


class ContainsOptions(_CasedOptions):
    """`values`, or else the item's reference; `mode` says whether all of them or any must occur."""

    mode: Literal["all", "any"] = "all"

    def expects(self, reference: tuple[Reference, ...]) -> str:
        words = _listed(self.wanted(reference), "and" if self.mode == "all" else "or")
        return f"{words} in the text"

    @field_validator("values")
    @classmethod
    def _not_blank(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if any(not value for value in values):
            raise ValueError("an empty text is contained in every answer")
        return values


class RegexOptions(Options):
    """`pattern` must match somewhere, or all of the text if `whole`. `flags` of i, m, s, x."""

    pattern: str
    flags: str = ""
    whole: bool = False

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return f"a match of /{self.pattern}/{self.flags}"

    @field_validator("flags")
    @classmethod
    def _known_flags(cls, flags: str) -> str:
        compiled("", flags)
        return flags

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        compiled(pattern)
        return pattern


@scorer("exact", version="1", options=ExactOptions, requires=frozenset({"reference"}))
def exact(item: GoldenItem, output: Output, options: ExactOptions) -> tuple[bool, str]:
    """The answer is one of the right texts, to the letter."""
    answer = _folded(output.text.strip(), options.case_sensitive)
    wanted = options.wanted(item.reference)
    passed = any(answer == _folded(value.strip(), options.case_sensitive) for value in wanted)
    return passed, f"expected {options.expects(item.reference)}"


@scorer("contains", version="1", options=ContainsOptions, requires=frozenset({"reference"}))
def contains(item: GoldenItem, output: Output, options: ContainsOptions) -> tuple[bool, str]:
    """The answer has all (or any) of the texts in it."""
    wanted = options.wanted(item.reference)
    answer = _folded(output.text, options.case_sensitive)
    missing = [value for value in wanted if _folded(value, options.case_sensitive) not in answer]
    passed = not missing if options.mode == "all" else len(missing) < len(wanted)
    return passed, f"expected {options.expects(item.reference)}"


@scorer("regex", version="1", options=RegexOptions)
def regex(item: GoldenItem, output: Output, options: RegexOptions) -> tuple[bool, str]:
    """The pattern matches the answer."""
    passed = found(options.pattern, output.text, flags=options.flags, whole=options.whole)
    return passed, f"expected {options.expects(item.reference)}"


def as_texts(reference: tuple[Reference, ...]) -> tuple[str, ...]:
    """A reference as texts: a number as it is written in JSON."""
    return tuple(value if isinstance(value, str) else f"{value:.15g}" for value in reference)


def _folded(text: str, case_sensitive: bool) -> str:
    # NFC: an accent typed in two code points is the same letter to every reader.
    text = unicodedata.normalize("NFC", text)
    return text if case_sensitive else text.casefold()


def _listed(values: tuple[str, ...], conjunction: str) -> str:
    return f" {conjunction} ".join(repr(value) for value in values)
