"""Which items did the candidate lose, which did it gain, by which check, and what did both versions say?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluators.golden import Check, GoldenItem
from evaluators.pairing import Pair
from evaluators.results import ResultRow, text_of
from evaluators.summary import RunResults


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An item that passes in one version and not in the other, by one of its checks: `got` is the failing
    answer, `other` the passing one."""

    item_id: str
    tags: tuple[str, ...]
    evaluator: str
    expected: str
    got: str
    explanation: str
    other: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tags": list(self.tags)}


def changes(pairs: Sequence[Pair], *, better: RunResults, worse: RunResults) -> list[Change]:
    """Every gating check that one run passes in every repeat and the other fails in some."""
    found = []
    for pair in pairs:
        good, bad = better.of_item(pair.item), worse.of_item(pair.item)
        for check in (check for check in pair.item.checks if check.gate):
            passed = [row for (_, key), row in good.items() if key == check.key]
            failed = [row for (_, key), row in bad.items() if key == check.key and _fails(check, row)]
            if failed and passed and all(check.passes(row.value) for row in passed):
                found.append(_change(pair.item, check, failed[0], passed[0]))
    return found


def _change(item: GoldenItem, check: Check, failed: ResultRow, passed: ResultRow) -> Change:
    expected = check.options.expects(item.reference)
    return Change(
        item_id=item.id,
        tags=item.tags,
        evaluator=check.key,
        expected=f"not {expected}" if check.negate else expected,
        got=text_of(failed),
        explanation=failed.explanation or "",
        other=text_of(passed),
    )


def _fails(check: Check, row: ResultRow) -> bool:
    return row.value is not None and not check.passes(row.value)
