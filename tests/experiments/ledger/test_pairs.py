"""The pairs of a shadow, side by side, and the filters that find the interesting ones."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.ledger import pairs
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.store import Store

from .conftest import Collect
from .samples import chat_answer, chat_request, record

CALL = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
SAME_CALL = CALL | {"id": "another"}


def pair(number: int, control: bytes, candidate: bytes, **shadow: Any) -> list[ExchangeRecord]:
    primary = record(number, served_version=1, request=chat_request(f"question {number}"), response=control)
    mirrored = {
        "role": "shadow", "pair_id": primary.exchange_id, "request_id": primary.request_id, "experiment": "e",
        "phase": 1, "assigned_arm": "candidate", "assigned_version": 2, "response": candidate,
    }  # fmt: skip
    return [primary, record(1000 + number, **(mirrored | shadow))]


@pytest.fixture
def filled(store: Store, collect: Collect) -> Store:
    same = chat_answer("the same words")
    collect(
        *pair(1, same, same),
        *pair(2, same, chat_answer("other words")),
        *pair(3, same, chat_answer("the same words but more")),
        *pair(4, same, b"", outcome="timeout", status=0),
        *pair(5, same, chat_answer("the same words", tool_calls=[CALL])),
        *pair(6, same, b"", outcome="shed", status=0),
        *pair(7, same, same, experiment="another"),
        *pair(8, chat_answer("", tool_calls=[CALL]), chat_answer("", tool_calls=[SAME_CALL])),
        record(50, role="shadow", pair_id="not collected yet", experiment="e"),
    )
    return store


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("all", [8, 5, 4, 3, 2, 1]), ("different", [5, 4, 3, 2]), ("failed", [4]), ("longer", [3])],
)
def test_filters(filled: Store, kind: Any, expected: list[int]) -> None:
    total, found = pairs.listed(filled, "e", kind=kind)
    assert [row["prompt"] for row in found] == [f"question {number}" for number in expected]
    assert total == len(expected)


def test_a_pair_has_both_sides(filled: Store) -> None:
    _, [_, first, *_] = pairs.listed(filled, "e")
    assert first["pair_id"] == record(5).exchange_id
    assert first["control"] == {
        "version": 1, "text": "the same words", "tool_calls": [], "outcome": "complete",
        "finish_reason": "stop", "ttft_ms": None, "duration_ms": 250.0, "completion_tokens": 3,
    }  # fmt: skip
    assert first["candidate"]["version"] == 2
    assert first["candidate"]["tool_calls"] == [{"id": "c", "name": "f", "arguments": "{}"}]


def test_pages(filled: Store) -> None:
    total, page = pairs.listed(filled, "e", limit=2, offset=2)
    assert (total, [row["prompt"] for row in page]) == (6, ["question 4", "question 3"])
    assert pairs.listed(filled, "nothing") == (0, [])
