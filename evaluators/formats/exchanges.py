"""Which golden item is an exchange of the ledger, with what is personal blotted out?

The question is the recorded request body, as the client sent it. Before it becomes part of a file in git,
declared patterns and a few of our own (addresses, numbers that identify somebody, keys) are replaced, and
counted, so that a person looks at the item before it is committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from evaluators.errors import EvaluatorError
from evaluators.formats.messages import NotMessages, messages_of
from evaluators.wellformed import mended
from experiments.ledger.recording import REDACTED, Redaction, RedactionTooSlow
from experiments.patterns import compiled

NAME: Final = "trace"
_CHAT: Final = "/v1/chat/completions"
_OWN_FIELDS: Final = frozenset(
    ("model", "messages", "tools", "response_format", "stream", "stream_options", "n", "user", "metadata",
     "store", "safety_identifier", "prompt_cache_key")
)  # fmt: skip
#: What identifies people in most texts. Names do not show by their shape: that is for whoever commits.
PERSONAL: Final = (
    compiled(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"),
    compiled(r"(?<![\w+])\+\d[\d ()/.-]{7,18}\d(?!\w)"),
    compiled(r"(?<!\w)(?:\d[ -]?){12,18}\d(?!\w)"),
    compiled(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    compiled(r"\b(?:sk|pk|ghp|gho|xox[abp]|AKIA)[-_A-Za-z0-9]{12,}\b"),
)


class NotAnItem(EvaluatorError):
    """The exchange has no question that could be asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """The row for items.jsonl, what of the request is no part of it, and how many places were blotted out."""

    row: dict[str, Any]
    left_out: tuple[str, ...]
    redactions: int


def lift(
    exchange: Mapping[str, Any],
    *,
    id: str | None = None,
    reference: str | None = None,
    checks: Sequence[Mapping[str, Any]] = (),
    tags: Sequence[str] = (),
    patterns: Sequence[str] = (),
    added: date | None = None,
) -> Lifted:
    """The golden item that asks the exchange's question. Without reference and checks the recorded answer is
    the reference. Raises NotAnItem."""
    asked = _redacted(_body(exchange), patterns)
    if reference is None and not checks:
        reference = _redacted(_answer(exchange), patterns)
    try:
        messages = messages_of(asked["messages"])
    except NotMessages as error:
        raise NotAnItem(f"the request's messages are none: {error}") from None
    question = {
        "messages": messages,
        "tools": asked.get("tools"),
        "response_format": asked.get("response_format"),
    }
    params = {name: value for name, value in asked.items() if name not in _OWN_FIELDS and value is not None}
    row = {
        "id": id or f"exchange-{str(exchange['exchange_id'])[:36]}",
        "input": {name: value for name, value in {**question, "params": params}.items() if value},
        "reference": reference,
        "checks": [dict(check) for check in checks],
        "tags": list(tags),
        "source": {
            "kind": NAME,
            "exchange_id": exchange["exchange_id"],
            "request_id": exchange.get("request_id"),
            "redacted": True,
        },
        "added": None if added is None else added.isoformat(),
    }
    left_out = sorted(
        _OWN_FIELDS
        & asked.keys() - {"model", "messages", "tools", "response_format", "stream", "stream_options"}
    )
    return Lifted(
        row={name: value for name, value in row.items() if value not in (None, [], "")},
        left_out=tuple(left_out),
        redactions=json.dumps(row).count(json.dumps(REDACTED)[1:-1]),
    )


def _redacted(said: Any, patterns: Sequence[str]) -> Any:
    redaction = Redaction((*map(compiled, patterns), *PERSONAL))
    try:
        redacted = redaction.body(json.dumps(said).encode())
    except RedactionTooSlow as error:
        raise NotAnItem(f"the exchange cannot be redacted: {error}") from None
    if redacted is None:
        raise NotAnItem("the request cannot be redacted: it is too deep")
    return json.loads(redacted)


def _answer(exchange: Mapping[str, Any]) -> str:
    """What the model said, if that was all it had to say: the beginning of an answer is no reference."""
    if exchange.get("clipped") or exchange.get("outcome") != "complete":
        why = "kept in part only" if exchange.get("clipped") else f"not whole ({exchange.get('outcome')})"
        raise NotAnItem(f"the recorded answer is {why}: give --reference or --check")
    text = exchange.get("text")
    if not text:
        raise NotAnItem("the recorded answer has no text: give --reference or --check")
    return str(text)


def _body(exchange: Mapping[str, Any]) -> dict[str, Any]:
    raw = exchange.get("request")
    if not raw:
        raise NotAnItem(
            "the ledger has no body of this exchange: its model records numbers only, or it has been deleted"
        )
    try:
        body = mended(raw.encode(), json.loads(raw))
    except (ValueError, RecursionError):
        raise NotAnItem("the recorded request is no JSON") from None
    # Another API's messages are another question: of Anthropic's the system's words stand beside them.
    if exchange.get("path") != _CHAT or not isinstance(body, dict) or "messages" not in body:
        raise NotAnItem(f"the request to {exchange.get('path')} is no chat completion")
    return body
