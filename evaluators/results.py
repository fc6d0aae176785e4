"""What is one stored result of a golden run, and who takes it?

A row is what one evaluator said about one answer to one item: keyed by run, item, repeat and evaluator,
written once. The sink is whoever keeps them; the ledger does so through the control API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

from evaluators.golden import Check, GoldenItem
from evaluators.score import Output, Score, Status
from experiments.ledger.exchange import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One score as it is stored. `output` is what the ledger keeps of the answer (`Output.to_json`),
    `detail` what it keeps of the score beside its value (`Score.detail`)."""

    item_id: str
    item_hash: str
    repeat: int
    evaluator: str
    evaluator_version: str
    status: Status
    value: float | None = None
    label: str | None = None
    explanation: str | None = None
    output: Mapping[str, Any] | None = None
    outcome: Outcome | None = None
    request_id: str | None = None
    detail: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        item: GoldenItem,
        repeat: int,
        check: Check,
        score: Score,
        output: Output,
        kept: Mapping[str, Any] | None = None,
    ) -> ResultRow:
        """The row of one check's score. `kept` is `output.to_json()`, where the caller has it already."""
        return cls(
            item_id=item.id,
            item_hash=item.hash,
            repeat=repeat,
            evaluator=check.key,
            evaluator_version=check.evaluator_version,
            status=score.status,
            value=score.value,
            label=score.label,
            explanation=score.explanation,
            output=output.to_json() if kept is None else kept,
            outcome=output.outcome,
            request_id=output.request_id,
            detail=_detail(check, score),
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ResultRow:
        """The row as the control API gives it; fields of later versions are left out."""
        fields: dict[str, Any] = {name: row.get(name) for name in cls.__dataclass_fields__}
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """The row as the control API takes it."""
        return {name: getattr(self, name) for name in _FIELDS}


def _detail(check: Check, score: Score) -> dict[str, Any] | None:
    """The score's, with whether it passes where its value alone, less or more than a half, says otherwise."""
    if score.value is None or check.passes(score.value) == (score.value >= 0.5):
        return score.detail
    return {**(score.detail or {}), "passes": check.passes(score.value)}


_FIELDS: Final = tuple(field.name for field in fields(ResultRow))


class ResultSink(Protocol):
    """Keeps result rows. Appending a row that is there already changes nothing. May block; called from a
    thread of its own, one call at a time."""

    def append(self, rows: Sequence[ResultRow]) -> None: ...


def text_of(row: ResultRow) -> str:
    """What the model answered, as a person reads it: its text, else its tool calls, else the reason."""
    output: Mapping[str, Any] = row.output or {}
    if output.get("text"):
        return str(output["text"])
    if calls := output.get("tool_calls"):
        return "; ".join(f"{call['name']}({call['arguments']})" for call in calls)
    return str(output.get("error") or row.outcome or "no answer")
