"""An exchange of the ledger becomes a golden item, without what identifies people."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evaluators.formats.exchanges import NotAnItem, lift

QUESTION = "I am kim@example.org, card 4111 1111 1111 1111, phone +49 170 5550199: where is order 4410?"


def exchange(**fields: Any) -> dict[str, Any]:
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0.2,
        "stream": True,
        "user": "kim",
        "tools": [{"type": "function", "function": {"name": "order"}}],
    }
    found = {
        "exchange_id": "01JX",
        "model": "chat",
        "request_id": "req-1",
        "path": "/v1/chat/completions",
        "request": json.dumps(body),
        "text": "It left today; I wrote to kim@example.org.",
        "clipped": False,
        "outcome": "complete",
    }
    return found | fields


def test_what_identifies_people_is_blotted_out_and_counted() -> None:
    lifted = lift(exchange())
    text = json.dumps(lifted.row)
    assert not any(word in text for word in ("kim", "4111", "5550199"))
    assert "order 4410" in text
    assert lifted.redactions == 4
    assert lifted.left_out == ("user",)
    assert lifted.row["input"]["params"] == {"temperature": 0.2}
    assert lifted.row["source"]["redacted"] is True


def test_a_reference_or_a_check_takes_the_place_of_the_recorded_answer() -> None:
    assert lift(exchange(), reference="today").row["reference"] == "today"
    broken = exchange(outcome="length", clipped=True)
    assert lift(broken, reference="today").row["reference"] == "today"
    assert "reference" not in lift(exchange(), checks=[{"type": "contains", "values": ["today"]}]).row


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"request": None}, "numbers only"),
        ({"clipped": True}, "kept in part only: give --reference"),
        ({"outcome": "length"}, r"not whole \(length\): give --reference"),
        ({"outcome": "client_gone"}, "not whole"),
        ({"request": "no json"}, "no JSON"),
        ({"request": "[" * 100_000}, "no JSON"),
        ({"path": "/v1/messages"}, "to /v1/messages is no chat completion"),
        ({"path": "/tokenize"}, "no chat completion"),
        ({"request": '{"input": "x"}', "path": "/v1/embeddings"}, "no chat completion"),
        ({"text": ""}, "--reference"),
    ],
)
def test_what_cannot_be_asked_again_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(NotAnItem, match=why):
        lift(exchange(**fields))
