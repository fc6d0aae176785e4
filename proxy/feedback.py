"""What does an application say of an answer, and is it something that can be counted?"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any, Final

import orjson

from experiments.assignment import unit_id
from experiments.ledger.exchange import FeedbackRecord

from .errors import Refusal

_EXPECTED: Final = (
    'Expected {"request_id": the x-turnout-request-id, or "unit": a user, session, ..., "name": a metric, '
    '"value": a number}, and perhaps "key": what makes it count once.'
)
_LONGEST: Final = {"request_id": 64, "key": 128}


def read(raw: bytes, tenant: str | None, at_ns: int, worker: str, *, unit_characters: int) -> FeedbackRecord:
    """The record of a body. A unit's name is cut after `unit_characters`, as a request's is. Raises Refusal
    with the field that is wrong."""
    try:
        body = orjson.loads(raw)
    except ValueError:
        raise Refusal(400, "malformed_feedback", _EXPECTED) from None
    if not isinstance(body, dict) or ("request_id" in body) == ("unit" in body):
        raise Refusal(400, "malformed_feedback", _EXPECTED)
    name, key = body.get("name"), _text(body, "key")
    if not (isinstance(name, str) and 0 < len(name) <= 64 and name.replace("_", "").isalnum()):
        raise Refusal(400, "invalid_type", "'name' is letters, digits and '_', at most 64.", "name")
    unit = _text(body, "unit")
    return FeedbackRecord(
        request_id=_text(body, "request_id") or "",
        name=name,
        value=_number(body.get("value")),
        at_ns=at_ns,
        worker=worker,
        unit=None if unit is None else unit_id(unit[:unit_characters]),
        # Two tenants may count alike; a key is kept as its digest, since it may name somebody.
        key=None if key is None else sha256(f"{tenant}\n{key}".encode("utf-8", "replace")).hexdigest()[:32],
    )


def _text(body: dict[str, Any], field: str) -> str | None:
    value = body.get(field)
    if field not in body:
        return None
    longest = _LONGEST.get(field)
    if not (isinstance(value, str) and value and (longest is None or len(value) <= longest)):
        bound = "" if longest is None else f", at most {longest} characters"
        message = f"'{field}' is text{bound}. {_EXPECTED}"
        raise Refusal(400, "invalid_type", message, field)
    return value


def _number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Refusal(400, "invalid_type", "'value' is a finite number.", "value")
    return number
