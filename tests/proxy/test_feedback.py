"""What an application says of answers: read strictly, named by no name, kept once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from experiments.assignment import unit_id
from experiments.ledger.exchange import FeedbackRecord
from proxy import feedback
from proxy.errors import Refusal

GOOD: dict[str, Any] = {"request_id": "r", "name": "thumbs_up", "value": True}


def read(body: object, tenant: str | None = None) -> FeedbackRecord:
    return feedback.read(orjson.dumps(body), tenant, 5, "w", unit_characters=512)


def test_of_a_request_or_of_a_unit() -> None:
    one = read(GOOD)
    assert (one.request_id, one.unit, one.key, one.value, one.at_ns) == ("r", None, None, 1.0, 5)
    other = read({"unit": "ada", "name": "resolved", "value": 0.5})
    assert (other.request_id, other.unit) == ("", unit_id("ada"))


def test_a_key_is_the_tenants_own_and_kept_as_a_digest() -> None:
    keyed = GOOD | {"key": "ticket of ada"}
    keys = [read(keyed, tenant).key for tenant in ("acme", "acme", "other", None)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert all(key is not None and "ada" not in key and len(key) == 32 for key in keys)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"value": "x"}, "value"),
        ({"value": None}, "value"),
        ({"value": 10**400}, None),
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": None}, "request_id"),
        ({"request_id": "x" * 65}, "request_id"),
        ({"key": 5}, "key"),
        ({"key": ""}, "key"),
        ({"key": "x" * 129}, "key"),
        ({"unit": "both"}, None),
    ],
)
def test_what_is_wrong_is_refused_by_name(wrong: dict[str, Any], param: str | None) -> None:
    import json

    with pytest.raises(Refusal) as refused:
        feedback.read(json.dumps(GOOD | wrong).encode(), None, 5, "w", unit_characters=512)
    assert refused.value.status == 400
    assert refused.value.param == param


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b'{"name":"x","value":1}', b"\xff"])
def test_what_is_no_feedback_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal, match="Expected"):
        feedback.read(body, None, 5, "w", unit_characters=512)
