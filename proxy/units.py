"""Which unit does a request belong to? Its raw name, before it is hashed for the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def raw_unit(
    kind: str,
    headers: Mapping[bytes, bytes],
    document: Mapping[str, Any],
    tenant: str | None,
) -> str | None:
    """The name of a request's unit of this kind (a spec's `unit`, but for "request"); None if it has none."""
    value: object = None
    if kind == "user":
        named = _text(headers, b"x-turnout-user") if b"x-turnout-user" in headers else ""
        value = named or document.get("user") or document.get("safety_identifier")
        if not value and isinstance(metadata := document.get("metadata"), dict):
            value = metadata.get("user_id")  # the only place that Anthropic's API has for a user
    elif kind == "session":
        metadata = document.get("metadata")
        value = _text(headers, b"x-turnout-session")
        if not value and isinstance(metadata, dict):
            value = metadata.get("session_id")
        value = value or document.get("prompt_cache_key")
    elif kind == "tenant":
        value = tenant
    elif kind.startswith("header:"):
        value = _text(headers, kind[7:].lower().encode())
    return value if isinstance(value, str) and value else None


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    """A header's value: UTF-8, or else Latin-1, as `fetch` and most of Java send it. A name is the same name
    in both, and no two become one."""
    found = headers.get(name, b"")
    try:
        return found.decode().strip()
    except UnicodeDecodeError:
        return found.decode("latin-1").strip()
