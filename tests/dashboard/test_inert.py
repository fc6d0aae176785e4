"""Foreign text does nothing: not in a label, not in a file."""

import csv
import io

import pytest
from markdown_it import MarkdownIt

from dashboard.answers import Decision
from dashboard.inert import badge, cell, csv_bytes, label, one_line, prose
from dashboard.screens.decisions import COLUMNS, export

from .nasty import payloads

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def test_there_are_200_different_payloads() -> None:
    assert len(payloads()) == len(set(payloads())) == 200


@pytest.mark.parametrize("make", [label, badge, prose])
def test_a_label_renders_to_plain_text_only(make: object) -> None:
    assert callable(make)
    plain = {"text", "text_special"} | ({"code_inline"} if make is prose else set())
    reader = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable(["table", "strikethrough"])
    for payload in payloads():
        blocks = [token for token in reader.parse(f"x {make(payload)}") if token.type == "inline"]
        for block in blocks:
            assert {child.type for child in block.children or []} <= plain, payload


def test_a_label_is_read_as_it_was_written() -> None:
    reader = MarkdownIt("commonmark")
    shown = "".join(
        child.content
        for token in reader.parse(label("v1.2 *beta* [x](y) <b> `c`"))
        for child in token.children or []
    )
    assert shown == "v1.2 *beta* [x](y) <b> `c`"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("say `turnout replay a_b`, or *not*", "say <code>turnout replay a_b</code>, or *not*"),
        ("`one` and `two`", "<code>one</code> and <code>two</code>"),
        ("a ` alone", "a ` alone"),
        ("`one` and ` alone", "<code>one</code> and ` alone"),
        ("`` and ` `", "`` and ` `"),
    ],
)
def test_a_command_in_a_sentence_is_code(written: str, shown: str) -> None:
    assert MarkdownIt("commonmark").renderInline(prose(written)) == shown


def test_autolinks_and_directives_are_broken_inside() -> None:
    for bait in ("http://evil.test", "www.evil.test", "a@evil.test", ":red[x]", ":material/bolt:", ":smile:"):
        assert "\u200b" in label(bait), bait


def test_control_and_direction_characters_go() -> None:
    assert one_line("a\x00b\u202ec\r\nd") == "a b c d"
    assert len(one_line("x" * 1000, 50)) == 50


def test_every_cell_of_an_export_is_inert_and_nothing_is_lost() -> None:
    decisions = [
        Decision(action=text, actor=text, model=text, reason=text, changed=(text, text))
        for text in payloads()
    ]
    rows = list(csv.reader(io.StringIO(export(decisions).decode("utf-8-sig"), newline="")))
    assert rows[0] == list(COLUMNS)
    assert len(rows) == 201
    for row, text in zip(rows[1:], payloads(), strict=True):
        assert not [value for value in row if value.startswith(STARTS)]
        assert row[COLUMNS.index("reason")].removeprefix("'") == text.removeprefix("'")


def test_formulas_behind_blanks_and_in_wide_characters() -> None:
    assert cell("  =1+1") == "'  =1+1"
    assert cell("＝1+1") == "'＝1+1"
    assert cell(-3) == -3
    assert cell(None) is None


def test_the_file_is_what_excel_wants() -> None:
    assert csv_bytes(["a"], [["ü"]]).startswith(b"\xef\xbb\xbf")
