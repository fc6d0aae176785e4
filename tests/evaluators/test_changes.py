"""What the candidate says where it fails, against the answer that passed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evaluators.changes import word_diff

words = st.lists(st.sampled_from(("the", "parcel", "is", "late", "red", "Ünï")), max_size=30)


def test_words_that_went_and_words_that_came_are_told_apart() -> None:
    assert word_diff("it is valid for one hour", "it is valid for 60 minutes now") == [
        ("=", "it is valid for "),
        ("-", "one hour"),
        ("+", "60 minutes now"),
    ]
    assert word_diff("the same", "the same") == [("=", "the same")]
    assert word_diff("", "new") == [("+", "new")]
    assert word_diff("old", "") == [("-", "old")]


@given(words, words)
def test_the_pieces_are_both_texts(before: list[str], after: list[str]) -> None:
    pieces = word_diff(" ".join(before), " ".join(after))
    assert " ".join(piece for kind, piece in pieces if kind != "-").split() == after
    assert " ".join(piece for kind, piece in pieces if kind != "+").split() == before
