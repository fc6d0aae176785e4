"""Redaction leaves no trace of a pattern, wherever it hides."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.ledger.recording import redact_arguments, redact_json, redact_text, stricter

MAIL = re.compile(r"[\w.]+@[\w.]+")
CARD = re.compile(r"\b\d{16}\b")


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
    assert redact_text("a@b.c and 1234567812345678", (MAIL, CARD)) == "[redacted] and [redacted]"


@pytest.mark.parametrize(
    "body",
    [
        b'{"to": "ada@example.org"}',
        rb'{"to": "ada\u0040example.org"}',
        b'{"deep": [{"to": "ada@example.org"}]}',
        b'{"ada@example.org": 1}',
        rb'{"arguments": "{\"to\": \"ada\\u0040example.org\"}"}',
        b'{"card": 1234567812345678}',
    ],
)
def test_json(body: bytes) -> None:
    redacted = redact_json(body, (MAIL, CARD))
    assert redacted is not None
    assert json.loads(redacted) != json.loads(body)
    assert not re.search("ada|example|1234567812345678", redacted)


@pytest.mark.parametrize("body", [b"ada@example.org", b"", b"[" * 5000, b"[" * 500 + b"]" * 500])
def test_what_cannot_be_understood_is_not_kept(body: bytes) -> None:
    assert redact_json(body, (MAIL,)) is None


def test_arguments_that_are_no_json_are_redacted_as_text() -> None:
    assert redact_arguments('{"to": "ada@example.org', (MAIL,)) == '{"to": "[redacted]'


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(TREES)
def test_what_matches_nothing_is_kept_as_it_is(tree: Any) -> None:
    redacted = redact_json(json.dumps(tree).encode(), (re.compile("matches-nothing"),))
    assert redacted is not None
    assert json.loads(redacted) == tree
