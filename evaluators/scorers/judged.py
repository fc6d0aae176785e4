"""What do evaluators have in common that ask a judge? A rubric, a need, and a number for each call."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from evaluators.golden import Kind, Reference
from evaluators.judges.question import Nonce, new_nonce
from evaluators.scorers.registry import Direction, Need, Options, ValueType


class RubricText(Options):
    """`rubric` says what makes an answer good, or one better than another."""

    rubric: str = Field(min_length=3, max_length=20_000)

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return self.rubric


@dataclass(frozen=True, slots=True, kw_only=True)
class AsksJudge:
    """The attributes of an Evaluator whose verdict is a judge's; `nonce` draws the number of a call."""

    name: str
    kind: Kind
    value_type: ValueType
    threshold: float
    options: type[RubricText]
    version: str = "1"
    direction: Direction = "max"
    requires: frozenset[Need] = frozenset({"judge"})
    nonce: Nonce = new_nonce
