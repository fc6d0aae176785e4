"""What did a version answer, and what does an evaluator say about it?

`Output` is the answer with how it came to be; `Score` is a closed union by `status`: only `scored` has a
value. A model that failed is an outcome of the model and is scored by the set's declared policy; an
instrument that failed (scorer bug, unreachable proxy) is missing data and never becomes a number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.ledger.exchange import Outcome

Status = Literal["scored", "unscored", "error", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call as the engine sent it: `arguments` is the raw text, which may be no JSON at all."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A text that is JSON, and its value: None inside is JSON's null, no `Parsed` is no JSON."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The answer to one golden item. `outcome` None means that no engine was reached.

    `latency_ms` is milliseconds from sending the last attempt to its last byte.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    latency_ms: float = 0.0
    outcome: Outcome | None = "complete"
    http_status: int = 0
    request_id: str | None = None
    error: str | None = None
    attempts: int = 1
    raw: Mapping[str, Any] | None = None

    @property
    def parsed_json(self) -> Parsed | None:
        """The text as JSON, if all of it is JSON."""
        return parse_json(self.text)

    @property
    def content(self) -> dict[str, Any]:
        """What was said, without how and when: what a judge's score depends on."""
        calls = [{"name": call.name, "arguments": call.arguments} for call in self.tool_calls]
        return {"text": self.text, "tool_calls": calls, "outcome": self.outcome}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], outcome: Outcome | None) -> Output:
        """The answer as the ledger has kept it, with its outcome, which is kept apart."""
        calls = stored.get("tool_calls") or ()
        return cls(
            text=stored.get("text") or "",
            tool_calls=tuple(ToolCall(name=call["name"], arguments=call["arguments"]) for call in calls),
            finish_reason=stored.get("finish_reason"),
            usage=stored.get("usage"),
            latency_ms=stored.get("latency_ms") or 0.0,
            outcome=outcome,
            http_status=stored.get("http_status") or 0,
            error=stored.get("error"),
        )

    def to_json(self) -> dict[str, Any]:
        """What the ledger keeps of it: all but the raw body."""
        return {
            "text": self.text,
            "tool_calls": [{"name": call.name, "arguments": call.arguments} for call in self.tool_calls],
            "finish_reason": self.finish_reason,
            "usage": self.usage,
            "latency_ms": round(self.latency_ms, 3),
            "http_status": self.http_status,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """Why an instrument gave no score: the kind of error, and its message."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one evaluator says about one output. `value` is finite if and only if `status` is `scored`."""

    name: str
    status: Status
    value: float | None = None
    label: str | None = None
    explanation: str | None = None
    error: ErrorInfo | None = None
    cost_usd: float | None = None
    tokens: int | None = None
    latency_ms: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.status == "scored") != (self.value is not None):
            raise ValueError(f"score {self.name!r}: a value is due exactly when the status is 'scored'")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"score {self.name!r}: {self.value} is not finite; report it as unscored")

    @property
    def detail(self) -> dict[str, Any] | None:
        """What is kept beside value and explanation: costs, the kind of error, metadata; None without any."""
        found: dict[str, Any] = {
            "cost_usd": self.cost_usd,
            "tokens": self.tokens,
            "latency_ms": None if self.latency_ms is None else round(self.latency_ms, 3),
            "error": None if self.error is None else self.error.kind,
            **self.metadata,
        }
        return {name: value for name, value in found.items() if value is not None} or None

    @classmethod
    def graded(cls, name: str, value: float, explanation: str) -> Score:
        """A score in [0, 1]."""
        return cls(name=name, status="scored", value=value, explanation=explanation)

    @classmethod
    def verdict(cls, name: str, passed: bool, explanation: str) -> Score:
        """A yes-or-no score: 1.0 or 0.0."""
        return cls(name=name, status="scored", value=float(passed), explanation=explanation)

    @classmethod
    def of_outcome(cls, name: str, outcome: str, explanation: str) -> Score:
        """The 0 that the set's policy gives an answer that failed; `label` says what it was."""
        return cls(name=name, status="scored", value=0.0, label=outcome, explanation=explanation)

    @classmethod
    def unscored(cls, name: str, explanation: str, *, label: str | None = None) -> Score:
        """There is an answer, or could be, but no score of it."""
        return cls(name=name, status="unscored", label=label, explanation=explanation)

    @classmethod
    def failed(cls, name: str, kind: str, message: str) -> Score:
        """The instrument failed: missing data."""
        return cls(
            name=name, status="error", explanation=message, error=ErrorInfo(kind=kind, message=message)
        )

    @classmethod
    def skipped(cls, name: str, explanation: str) -> Score:
        """The evaluator does not apply to this item."""
        return cls(name=name, status="skipped", explanation=explanation)


Preference = Literal["control", "candidate", "tie"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScore:
    """What a judge of pairs prefers, asked in both orders: `score` is of the candidate, 1 where both orders
    prefer it, 0 where both prefer the control, 1/2 where either says tie or they disagree.

    `control_first` and `candidate_first` are the preferences of the two orders, None where that order gave no
    verdict; then nothing is scored.
    """

    score: Score
    control_first: Preference | None = None
    candidate_first: Preference | None = None

    @classmethod
    def of(cls, score: Score) -> PairScore:
        """From a score that was kept: its metadata has the two orders."""
        orders = {name: score.metadata.get(name) for name in ("control_first", "candidate_first")}
        return cls(score=score, **orders)

    @property
    def flipped(self) -> bool:
        """Whether the judge changed its mind with the order."""
        both = {self.control_first, self.candidate_first}
        return None not in both and len(both) > 1


def parse_json(text: str) -> Parsed | None:
    """The value of a text that is JSON as a whole (NaN and Infinity are not), else None."""
    try:
        return Parsed(value=json.loads(text, parse_constant=_refuse_constant))
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
