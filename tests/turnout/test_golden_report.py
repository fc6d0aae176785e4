"""How a regression reads in a terminal."""

from __future__ import annotations

from evaluators.changes import Change
from turnout.golden_report import against


def change(got: str, other: str = "") -> Change:
    return Change(
        item_id="q1", tags=(), evaluator="exact", expected="x", got=got, explanation="", other=other
    )


def test_what_differs_is_marked_and_what_is_common_is_short() -> None:
    common = " ".join(f"word{number}" for number in range(40))
    text = against(change(f"{common} ends badly", f"{common} ends well"))
    assert text.plain.startswith("word0 word1 word2 word3 word4 ... word36")
    assert text.plain.endswith("ends well badly")
    marked = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert (marked["well"], marked["badly"]) == ("red strike", "bold green")


def test_without_an_answer_that_passed_it_is_the_answer() -> None:
    assert against(change("just  this\nline")).plain == "just this line"


def test_an_answer_cannot_write_to_the_terminal_nor_fill_it() -> None:
    text = against(change("\x1b[2J[bold]gone[/] " + "long " * 400, "else"))
    assert "\x1b" not in text.plain
    assert "[bold]gone[/]" in text.plain
    assert len(text.plain) <= 200
