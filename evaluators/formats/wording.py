"""Which check of ours says what a foreign tool's check says? The shapes that several importers share.

What scorers exist is for `evaluators.scorers` to say: a check proposed here that none carries out is refused
when the draft is settled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Check = dict[str, Any]


def exact(*values: str) -> Check:
    """The answer is one of the values."""
    return {"type": "exact", "values": list(values)}


def contains(*values: str, every: bool = False, ignore_case: bool = False) -> Check:
    """Any of the values (or all) occurs."""
    check: Check = {"type": "contains", "values": list(values), "mode": "all" if every else "any"}
    return check | ({"case_sensitive": False} if ignore_case else {})


def begins_with(*values: str) -> Check:
    """The answer begins with one of the values, as in OpenAI's Match and promptfoo's starts-with."""
    return {"type": "regex", "pattern": rf"\A\s*(?:{'|'.join(map(re.escape, values))})"}


def ends_with(*values: str) -> Check:
    """The answer ends with one of the values, white space and a full stop aside, as in inspect's match."""
    return {"type": "regex", "pattern": rf"(?:{'|'.join(map(re.escape, values))})[\s.]*\Z", "flags": "i"}


def json_is(*values: Any) -> Check:
    """The answer is JSON equal to one of the values."""
    return {"type": "json_schema", "schema": {"anyOf": [{"const": value} for value in values]}}


def tool_call(call: Mapping[str, Any]) -> Check:
    """The named tool is called, with the arguments if they are given."""
    arguments = call.get("arguments", call.get("args", call.get("inputs")))
    check: Check = {"type": "tool_call", "name": call.get("name") or call.get("tool"), "calls": "any"}
    return check | ({"args": arguments} if isinstance(arguments, Mapping) else {})


def judged(rubric: str) -> Check:
    """A judge reads the answer by this rubric. It does not gate: only one with human labels may."""
    return {"type": "judge", "rubric": rubric, "gate": False}


def negated(check: Check) -> Check:
    """The contrary."""
    return check | {"not": True}


def texts(value: Any) -> Sequence[str]:
    """A text or a list of them as texts; numbers as they are written in JSON. Raises ValueError."""
    found = value if isinstance(value, list) else [value]
    if not found or any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in found):
        raise ValueError(f"{type(value).__name__} is neither a text, a number nor a list of them")
    if any(isinstance(one, float) and not math.isfinite(one) for one in found):
        raise ValueError("NaN and Infinity are no JSON")
    return [f"{one:.15g}" if isinstance(one, float) else str(one) for one in found]
