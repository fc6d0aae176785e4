"""Is the number in the answer the right one, within a tolerance?

Numbers are read from running text: with a sign, thousands separators, a decimal mark and an exponent.
Which of several numbers counts is the check's choice; by default it is the last, where answers conclude.
"""

from __future__ import annotations

import math
import re
from typing import Final, Literal

from pydantic import Field, model_validator

from evaluators.golden import GoldenItem, Reference
from evaluators.score import Output
from evaluators.scorers.registry import Need, Options, scorer

Mark = Literal[".", ","]

# A number does not begin inside a word or another number (so HO-4410 holds 4410, x2 holds nothing) and a sign
# counts only where no letter, digit or closing bracket stands before it. No nested repeats: linear time.
_NUMBER: Final = {
    mark: re.compile(
        rf"(?<![\w.,])(?:(?<![\w)\]])[-+\u2212])?(?:\d{{1,3}}(?:{group}\d{{3}})+(?!\d)|\d+)(?:{point}\d+)?(?:[eE][-+]?\d+)?"
    )
    for mark, point, group in ((".", r"\.", r"[,'\u202f\u00a0]"), (",", ",", r"[.'\u202f\u00a0]"))
}
_MAX_NUMBERS: Final = 10_000


class NumericOptions(Options):
    """`value`, or else the item's reference. Right is |got - value| <= tolerance + relative * |value|."""

    value: float | None = None
    tolerance: float = Field(default=1e-9, ge=0, allow_inf_nan=False)
    relative: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    pick: Literal["last", "first", "only", "any"] = "last"
    decimal_mark: Mark = "."

    @model_validator(mode="after")
    def _finite(self) -> NumericOptions:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError("value must be a finite number")
        return self

    def supplies(self) -> frozenset[Need]:
        return frozenset() if self.value is None else frozenset({"reference"})

    def wanted(self, reference: tuple[Reference, ...]) -> tuple[float, ...]:
        return wanted_numbers(reference) if self.value is None else (self.value,)

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return " or ".join(f"{value:.15g}" for value in self.wanted(reference))

    def suits(self, reference: tuple[Reference, ...]) -> None:
        self.wanted(reference)


@scorer("numeric", version="1", options=NumericOptions, requires=frozenset({"reference"}))
def numeric(item: GoldenItem, output: Output, options: NumericOptions) -> tuple[bool, str]:
    """The chosen number is the right one. No number at all is wrong; with `pick: only`, two are."""
    wanted = options.wanted(item.reference)
    numbers = numbers_in(output.text, options.decimal_mark)
    expected = options.expects(item.reference)
    if not numbers:
        return False, f"expected {expected}, the text has no number"
    if options.pick == "only" and len(numbers) != 1:
        return False, f"expected {expected} and no other number, the text has {len(numbers)}"
    chosen = {"last": numbers[-1:], "first": numbers[:1]}.get(options.pick, numbers)
    passed = any(_near(number, value, options) for number in chosen for value in wanted)
    got = ", ".join(f"{number:.15g}" for number in chosen[:5])
    return passed, f"expected {expected}, got {got}"


def numbers_in(text: str, decimal_mark: Mark = ".") -> list[float]:
    """All numbers of a text in their order; with decimal mark '.', the text '1,234.50' is one number."""
    numbers: list[float] = []
    for match in _NUMBER[decimal_mark].finditer(text):
        digits = re.sub(r"['\u202f\u00a0]", "", match[0].replace("\u2212", "-"))
        digits = digits.replace(",", "") if decimal_mark == "." else digits.replace(".", "").replace(",", ".")
        number = float(digits)
        if math.isfinite(number):
            numbers.append(number)
        if len(numbers) == _MAX_NUMBERS:
            break
    return numbers


def wanted_numbers(reference: tuple[Reference, ...]) -> tuple[float, ...]:
    """The reference as numbers. Raises ValueError for a text that is none."""
    try:
        values = tuple(float(value) for value in reference)
    except ValueError as error:
        raise ValueError(f"the reference of a numeric check is a number: {error}") from None
    if not all(math.isfinite(value) for value in values):
        raise ValueError("the reference of a numeric check is a finite number")
    return values


def _near(number: float, value: float, options: NumericOptions) -> bool:
    # A slack for rounding: 0.1 + 0.2 with a tolerance of exactly 0 is still 0.3.
    slack = 1e-12 * max(abs(number), abs(value))
    return abs(number - value) <= options.tolerance + options.relative * abs(value) + slack
