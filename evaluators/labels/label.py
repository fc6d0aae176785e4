"""What did somebody say of a task?

Labels are only added: whoever changes their mind adds another, and the latest of a labeller counts. With
several labellers a task is worth the mean of what they gave.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evaluators.labels.draw import Draw
from evaluators.labels.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What `labeller` said of the task with the hash `task`; `grade` None is "cannot tell".

    The rest is where it came from: the item and its hash, the check and its version, the judge at the time,
    the hash of rubric and menu, the draw. `at` is the ledger's time, ISO 8601; empty before it is there.
    """

    label_id: str
    task: str
    labeller: str
    grade: str | None
    set_name: str
    item_id: str
    item_hash: str
    evaluator: str
    evaluator_version: str
    criterion: str
    draw_id: str
    judge: str | None = None
    note: str | None = None
    at: str = ""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Label:
        """The label as the control API gives it; fields of later versions are left out."""
        return cls(**{name: row.get(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """The label as the control API takes it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "at"}


def about(task: Task, set_name: str, judge: str | None) -> dict[str, Any]:
    """What a label says of its task, whoever gives it and whichever grade: fields of `Label`."""
    return {
        "task": task.hash,
        "set_name": set_name,
        "item_id": task.item.id,
        "item_hash": task.item.hash,
        "evaluator": task.check.key,
        "evaluator_version": task.check.evaluator_version,
        "judge": judge,
        "criterion": task.criterion_hash,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """What people said: the draws of two runs, the oldest first, and by task what each labeller said last."""

    draws: tuple[Draw, ...] = ()
    said: Mapping[str, Mapping[str, Label]] = field(default_factory=dict)

    @classmethod
    def of(cls, draws: Iterable[Draw], labels: Iterable[Label]) -> People:
        """From draws and labels in the order in which they were stored."""
        said: dict[str, dict[str, Label]] = {}
        for label in labels:
            said.setdefault(label.task, {})[label.labeller] = label
        return cls(draws=tuple(draws), said=said)

    def draws_of(self, evaluator: str, seed: str) -> tuple[Draw, ...]:
        """The declarations for one check. One with another seed than that of the runs is none: somebody
        chose."""
        return tuple(draw for draw in self.draws if (draw.evaluator, draw.seed) == (evaluator, seed))

    def grades(self, task: Task) -> dict[str, str]:
        """The grades that the task was given, by labeller. A grade that has left the menu is none."""
        said = self.said.get(task.hash, {})
        return {
            labeller: label.grade
            for labeller, label in said.items()
            if label.grade is not None and label.grade in task.menu
        }

    def worth(self, task: Task) -> float | Literal["open", "undecided"]:
        """What the task is worth by the people's grades; `undecided` where somebody looked and nobody could
        tell, `open` where nobody has looked."""
        grades = self.grades(task)
        if grades:
            return math.fsum(task.worth(grade) for grade in grades.values()) / len(grades)
        return "undecided" if self.said.get(task.hash) else "open"


NOBODY = People()
