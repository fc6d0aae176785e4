"""The word diff shows what differs, and nothing of it is markup."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as some

from dashboard.worddiff import MAX_WORDS, Stretch, as_html, word_diff


def test_same_texts_have_no_diff() -> None:
    assert word_diff("a b", "a b") is None


def test_words_in_both_are_kept_between_changes() -> None:
    diff = word_diff("the link is valid for one hour", "the link is valid for 60 minutes")
    assert diff is not None
    assert diff.control == (Stretch("the link is valid for ", False), Stretch("one hour", True))
    assert diff.candidate == (Stretch("the link is valid for ", False), Stretch("60 minutes", True))


def test_white_space_alone_is_marked_nowhere() -> None:
    diff = word_diff("a  b", "a b")
    assert diff is not None
    assert not any(stretch.own for stretch in (*diff.control, *diff.candidate))


def test_long_texts_are_cut_and_say_so() -> None:
    diff = word_diff("a " * (MAX_WORDS + 5), "b " * 3)
    assert diff is not None
    assert diff.clipped
    assert len(joined(diff.control).split()) == MAX_WORDS


def test_what_a_model_wrote_is_no_markup() -> None:
    shown = as_html((Stretch("<script>alert(1)</script>", True), Stretch('" onload="x', False)), "red")
    assert "<script" not in shown
    assert '"x' not in shown
    assert shown.count("<") == 2, "our own mark, opened and closed"


def joined(stretches: Sequence[Stretch]) -> str:
    return "".join(one.text for one in stretches)


words = some.lists(some.sampled_from(["a", "b", "c", "d\n", "<b>"]), max_size=30).map(" ".join)


@given(words, words)
def test_no_word_is_lost_or_invented(control: str, candidate: str) -> None:
    diff = word_diff(control, candidate)
    if diff is None:
        assert control == candidate
        return
    assert joined(diff.control) == control
    assert joined(diff.candidate) == candidate
    same = [
        " ".join(one.text for one in side if not one.own).split() for side in (diff.control, diff.candidate)
    ]
    assert same[0] == same[1]
