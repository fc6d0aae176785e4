"""When are two pieces of JSON the same content?

When their canonical forms are: keys sorted, no white space, numbers that are whole written as integers
(after RFC 8785, with Python's shortest form for the other floats). Hashes of golden items and sets are
taken over these bytes, so a reformatted file is the same set and a changed word is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

_EXACT_FLOAT: Final = 2.0**53  # above it a float no longer names one integer


def canonical_json(value: Any) -> bytes:
    """The canonical bytes of a JSON value. Raises ValueError on NaN, infinities and lone surrogates."""
    text = json.dumps(
        _normal(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def content_hash(value: Any) -> str:
    """`sha256:` and 64 hex digits over the canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def why_no_json(value: Any) -> str | None:
    """Why a value is none that JSON has, None if it is one: YAML has dates and .nan besides."""
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        return str(error)
    except RecursionError:
        return "nested too deep"
    return None


def same_json(left: Any, right: Any) -> bool:
    """JSON equality: 1 and 1.0 are one number, true is not 1, the order of keys says nothing."""
    try:
        return canonical_json(left) == canonical_json(right)
    except (ValueError, RecursionError):
        return False


def _normal(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_FLOAT:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _normal(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(inner) for inner in value]
    return value
