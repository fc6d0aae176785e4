"""Which drawn answers wait for somebody's grade, how far is the sample, and what is stored of a grade?

Which items are drawn, in which order they are shown, and which of two answers comes first stands in the
worksheet, as those who compared the runs have made it: nothing here draws or hides. It must not know how
anything is shown, nor any grade that was given: who grades is told nothing of it.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .answers import Answer, JsonObject


class LabelDraw(Answer):
    """How many drawn items of two runs are to be labelled. `seed` gave the order."""

    draw_id: str
    size: int = 0
    seed: str | None = None


class PersonsLabel(Answer):
    """That somebody has graded an answer to an item; the grade itself stays out of sight of labellers."""

    draw_id: str
    item_id: str
    task: str = ""
    labeller: str = ""


class LabelTask(Answer):
    """One answer to be graded, or two of which one may be better. `place` is that of its item in the draw,
    `label` what a label says of it; `grades` go from worst to best (of a pair: of the first answer)."""

    place: int
    label: JsonObject
    question: str = ""
    reference: str = ""
    answers: tuple[str, ...]
    criterion: str = ""
    grades: tuple[str, ...]

    @property
    def hash(self) -> str:
        """The task's name: a hash of all that is shown."""
        return str(self.label.get("task"))

    @property
    def is_pair(self) -> bool:
        return len(self.answers) > 1

    @property
    def menu(self) -> tuple[str, ...]:
        """The grades as buttons stand: from worst to best; of a pair the first answer's on the left."""
        return self.grades[::-1] if self.is_pair else self.grades


class Worksheet(Answer):
    """What people may be asked about two runs by one check: the first `items` of the
    `open` ones that differ, in the order of the draw."""

    control_run: str
    candidate_run: str
    evaluator: str
    set_name: str = ""
    model: str | None = None
    control_version: int | None = None
    candidate_version: int | None = None
    seed: str
    needed: int
    open: int
    items: int
    tasks: tuple[LabelTask, ...]

    def holds(self, size: int) -> bool:
        """Whether a sample of this size can be asked with it."""
        return self.items >= min(size, self.open)

    def draw_in_force(self, draws: Sequence[LabelDraw]) -> LabelDraw | None:
        """The last declaration. One with another seed than that of the runs is none: somebody chose."""
        return next((draw for draw in reversed(draws) if draw.seed == self.seed), None)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the declared sample is, and what one labeller has still to do."""

    sheet: Worksheet
    draw: LabelDraw
    labels: Sequence[PersonsLabel]
    labeller: str

    @cached_property
    def sample(self) -> tuple[LabelTask, ...]:
        """The tasks of all drawn items. Each labeller sees the items in an order of their own, so that people
        who grade at the same time seldom grade the same; what is drawn, and which of an item's answers comes
        first, stays."""

        def turn(task: LabelTask) -> bytes:
            return hashlib.sha256(f"{self.sheet.seed}:{self.labeller}:{task.place}".encode()).digest()

        return tuple(sorted((task for task in self.sheet.tasks if task.place < self.draw.size), key=turn))

    @cached_property
    def graded(self) -> dict[str, list[str]]:
        """Task -> who has looked at it, also those who cannot tell."""
        found: dict[str, list[str]] = {}
        for label in self.labels:
            found.setdefault(label.task, []).append(label.labeller)
        return found

    @property
    def waiting(self) -> tuple[LabelTask, ...]:
        """What nobody has looked at."""
        return tuple(task for task in self.sample if task.hash not in self.graded)

    @property
    def others(self) -> tuple[LabelTask, ...]:
        """What others have graded, and this labeller has not."""
        return tuple(
            task for task in self.sample if self.labeller not in self.graded.get(task.hash, [self.labeller])
        )

    @property
    def mine(self) -> tuple[LabelTask, ...]:
        """What this labeller has graded, as it was said: the last one last."""
        known = {task.hash: task for task in self.sample}
        tasks = [label.task for label in self.labels if label.labeller == self.labeller]
        return tuple(known[task] for task in tasks if task in known)

    @property
    def handed_out(self) -> bool:
        """Whether all that is declared can be asked."""
        return self.sheet.holds(self.draw.size)

    @property
    def whole(self) -> bool:
        """Whether somebody has looked at everything that is declared."""
        return self.handed_out and not self.waiting


def new_label(
    task: LabelTask, draw: LabelDraw, *, labeller: str, grade: str | None, note: str | None
) -> dict[str, Any]:
    """What is stored of a grade; `grade` None is "cannot tell"."""
    given = {"label_id": uuid.uuid4().hex, "labeller": labeller, "grade": grade, "note": note or None}
    return {**task.label, **given, "draw_id": draw.draw_id}


def new_draw(sheet: Worksheet, size: int, *, declared_by: str) -> dict[str, Any]:
    """The declaration that so many drawn items are labelled."""
    return {
        "draw_id": uuid.uuid4().hex,
        "control_run": sheet.control_run,
        "candidate_run": sheet.candidate_run,
        "evaluator": sheet.evaluator,
        "seed": sheet.seed,
        "size": size,
        "declared_by": declared_by,
    }
