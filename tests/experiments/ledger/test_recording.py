"""Redaction leaves no trace of a pattern, wherever it hides."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.ledger.recording import Patience, Redaction, RedactionTooSlow, stricter
from experiments.patterns import compiled

MAIL = compiled(r"[\w.]+@[\w.]+")
CARD = compiled(r"\b\d{16}\b")


@pytest.mark.parametrize(
    ("asked", "now", "kept"),
    [
        ("full", "full", "full"),
        ("full", "redacted", "redacted"),
        ("numbers", "full", "numbers"),
        ("redacted", "numbers", "numbers"),
    ],
)
def test_the_stricter_of_then_and_now(asked: Any, now: Any, kept: str) -> None:
    assert stricter(asked, now) == kept


def test_text() -> None:
    assert Redaction((MAIL, CARD)).text("a@b.c and 1234567812345678") == "[redacted] and [redacted]"


@pytest.mark.parametrize(
    "body",
    [
        b'{"to": "ada@example.org"}',
        rb'{"to": "ada\u0040example.org"}',
        b'{"deep": [{"to": "ada@example.org"}]}',
        b'{"ada@example.org": 1}',
        rb'{"arguments": "{\"to\": \"ada\\u0040example.org\"}"}',
        b'{"card": 1234567812345678}',
        rb'{"arguments": " {\"to\": \"ada\\u0040example.org\"}"}',
        rb'{"arguments": "\"ada\\u0040example.org\""}',
    ],
)
def test_json(body: bytes) -> None:
    redacted = Redaction((MAIL, CARD)).body(body)
    assert redacted is not None
    assert json.loads(redacted) != json.loads(body)
    assert not re.search(b"ada|example|1234567812345678", redacted)


@pytest.mark.parametrize("body", [b"ada@example.org", b"", b"[" * 5000, b"[" * 500 + b"]" * 500])
def test_what_cannot_be_understood_is_not_kept(body: bytes) -> None:
    assert Redaction((MAIL,)).body(body) is None


def test_arguments_that_are_no_json_are_redacted_as_text() -> None:
    assert Redaction((MAIL,)).arguments('{"to": "ada@example.org') == '{"to": "[redacted]'


def test_where_a_text_was_cut_no_beginning_of_a_match_is_left() -> None:
    spaced = compiled(r"(?:\d{4} ?){4}")
    assert Redaction((MAIL, spaced)).text("the card 1234 5678 123", cut=True) == "the card [redacted]"
    assert Redaction((CARD,)).text("the card 12345678123", cut=True) == "the card [redacted]"
    assert Redaction((CARD,)).text("the card 12345678123") == "the card 12345678123"
    assert Redaction((CARD,)).text("no card.", cut=True) == "no card."


def test_escapes_hide_nothing_in_json_that_broke_off() -> None:
    assert Redaction((MAIL,)).arguments(r'{"to": "ada\u0040example.org", "te') == "[redacted]"
    assert Redaction((MAIL,)).arguments(r'{"a": "x\ny", "te') == r'{"a": "x\ny", "te'


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(TREES)
def test_what_matches_nothing_is_kept_as_it_is(tree: Any) -> None:
    redacted = Redaction((compiled("matches-nothing"),)).body(json.dumps(tree).encode())
    assert redacted is not None
    assert json.loads(redacted) == tree


def test_a_pattern_without_end_is_stopped_and_lets_nothing_through() -> None:
    began = time.monotonic()
    with pytest.raises(RedactionTooSlow, match=r"\(a\+\)\+"):
        Redaction((compiled("(a+)+$"),), 0.1).text("a" * 4000 + "!")
    assert time.monotonic() - began < 5


def test_where_much_was_in_vain_little_is_given_until_time_has_passed() -> None:
    now = 0.0
    patience = Patience(lambda: now)
    generous = patience.seconds()
    for _ in range(4):
        patience.spend(5, "chat", RedactionTooSlow("slow"))
    assert patience.seconds() < generous / 100
    assert patience.withheld == {"chat": 4}
    now = 1000
    assert patience.seconds() == generous
