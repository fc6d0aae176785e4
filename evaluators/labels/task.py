"""What is put before a labeller, and when is it the same as what another one saw?

A task is the question, the right answer if there is one, one answer (two for a preference) and the rubric.
Its hash covers exactly that. A label is a statement about a task, so it holds wherever the task comes up
again: in another comparison, and under another judge. Another answer, or another rubric, is another task.
Whose answer it is and what a judge made of it is no part of a task: a labeller cannot be told what a task
does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from evaluators.canonical import content_hash
from evaluators.golden import Check, GoldenItem
from evaluators.score import Output
from evaluators.scoring import settled_value

_YES_OR_NO: Final[Mapping[str, float]] = {"fail": 0.0, "pass": 1.0}
#: Of a preference: what the first answer is worth.
_PREFERENCES: Final[Mapping[str, float]] = {"second": 0.0, "tie": 0.5, "first": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One grade, or one preference, to be had. Build it with `grading` or `preferring`."""

    item: GoldenItem
    check: Check
    answers: tuple[Output, ...]

    @property
    def menu(self) -> Mapping[str, float]:
        """The grades from worst to best, each with its worth in [0, 1]."""
        if self.check.kind == "pairwise":
            return _PREFERENCES
        grades: Mapping[str, float] = getattr(self.check.options, "grades", _YES_OR_NO)
        return dict(sorted(grades.items(), key=lambda one: one[1]))

    @property
    def criterion(self) -> str:
        """What makes an answer good."""
        return str(self.check.options.expects(self.item.reference))

    @property
    def criterion_hash(self) -> str:
        """The version of rubric and menu."""
        return content_hash({"criterion": self.criterion, "menu": dict(self.menu), "kind": self.check.kind})

    @property
    def hash(self) -> str:
        """Of all that a labeller is shown."""
        item = self.item
        return content_hash(
            {
                "messages": list(item.messages),
                "tools": list(item.tools),
                "reference": list(item.reference),
                "answers": [answer.content for answer in self.answers],
                "criterion": self.criterion_hash,
            }
        )

    def worth(self, grade: str) -> float:
        """The score in [0, 1] that the check would have made of this grade: of the one answer, or of the
        first of two. Raises KeyError for a grade that is not on the menu."""
        value = self.menu[grade]
        return value if self.check.kind == "pairwise" else settled_value(self.check, value)


def grading(item: GoldenItem, check: Check, answer: Output) -> Task:
    """One answer, to be graded."""
    return Task(item=item, check=check, answers=(_bare(answer),))


def preferring(item: GoldenItem, check: Check, one: Output, other: Output) -> Task:
    """Two answers, of which one may be better. Which is first follows from their contents alone, so that the
    place says nothing of the version, and the task is the same in every comparison."""
    pair = sorted((_bare(one), _bare(other)), key=lambda answer: content_hash(answer.content))
    return Task(item=item, check=check, answers=tuple(pair))


def same_content(one: Output, other: Output) -> bool:
    """Whether two answers say the same."""
    return one.content == other.content


def _bare(answer: Output) -> Output:
    """The answer without what might tell whose it is."""
    return replace(Output(), text=answer.text, tool_calls=answer.tool_calls, outcome=answer.outcome)
