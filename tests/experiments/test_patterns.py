"""A pattern that would fill the memory is refused before it is compiled; honest ones are not."""

from __future__ import annotations

import pytest

from experiments.patterns import TooLarge, check_repeats, compiled


@pytest.mark.parametrize(
    "pattern",
    [
        "(((a{1000}){1000}){1000}){1000}",
        "(?:a[bc]|d){1000000}",
        "(((a{1000})?){1000}){1000}",
        "(((a{1000})+){1000})+",
        "(?=a{1000}){1000}",
        r"\d{1000}{1000}",
        "[(]{" + "9" * 5000 + ",}",
    ],
)
def test_repeats_that_multiply_are_refused(pattern: str) -> None:
    with pytest.raises(TooLarge, match="20,000"):
        check_repeats(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:[a-z0-9-]{1,63}\.){1,10}[a-z]{2,63}",
        "(a{0,1000}){0,1000}",
        r"[({]{20}\({20}[]{999}]{3}(?#[()x{5}",
        r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}",
        ".{5000,}",
        "|".join(f"name{number}" for number in range(9000)),
    ],
)
def test_what_people_write_is_compiled(pattern: str) -> None:
    assert compiled(pattern).pattern == pattern
