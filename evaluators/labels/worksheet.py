"""Which tasks wait for a labeller, and how do they go into a file and come back as labels?

A worksheet is JSONL or CSV with a row a task: what there is to read, and `grade` to fill in. Only `task`,
`grade` and `note` are read back. A row that is not taken is listed with the reason; an empty grade is left
for later.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evaluators.errors import EvaluatorError
from evaluators.golden import GoldenSet
from evaluators.judges.question import answered, asked
from evaluators.labels.cases import Case
from evaluators.labels.draw import Draw
from evaluators.labels.label import Label, People
from evaluators.labels.task import Task

#: In place of a grade: somebody looked, and cannot tell.
CANNOT_TELL: Final = "cannot tell"
_COLUMNS: Final = ("task", "item", "question", "reference", "answer", "second_answer", "criterion", "grades")
_FILLED: Final = ("grade", "note")
#: A spreadsheet takes what begins so for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row that was not taken, and why."""

    row: int
    why: str


def waiting(sample: Sequence[Case], people: People, labeller: str, seed: str) -> list[Task]:
    """The tasks of the sample that this labeller has not looked at, in the order of the draw. Of an item's
    two answers either comes first, by chance: the place does not tell the version."""
    found: dict[str, Task] = {}
    for case in sample:
        tasks = [term.task for term in case.terms]
        for task in sorted(tasks, key=lambda task: hashlib.sha256(f"{seed}:{task.hash}".encode()).digest()):
            if labeller not in people.said.get(task.hash, {}):
                found.setdefault(task.hash, task)
    return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """Who labels, and for which draw: makes labels of grades."""

    golden: GoldenSet
    draw: Draw
    labeller: str
    judge: str | None = None

    def label(self, task: Task, grade: str | None, note: str | None = None) -> Label:
        """The label; `grade` None is "cannot tell"."""
        return Label(
            label_id=uuid.uuid4().hex,
            task=task.hash,
            labeller=self.labeller,
            grade=grade,
            note=note or None,
            set_name=self.golden.name,
            item_id=task.item.id,
            item_hash=task.item.hash,
            evaluator=task.check.key,
            evaluator_version=task.check.evaluator_version,
            judge=self.judge,
            criterion=task.criterion_hash,
            draw_id=self.draw.draw_id,
        )


def write(path: Path, tasks: Sequence[Task]) -> None:
    """Write the tasks, as CSV where the file is called so, else as JSONL."""
    rows = [_row(task) for task in tasks]
    if path.suffix.lower() != ".csv":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, (*_COLUMNS, *_FILLED))
    table.writeheader()
    table.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    path.write_text(text.getvalue(), "utf-8-sig")  # what Excel needs to see that it is UTF-8


def read(path: Path, tasks: Iterable[Task], pen: Pen) -> tuple[list[Label], list[Refused]]:
    """The labels in a file that was filled in, of these tasks. Raises EvaluatorError when it is no
    worksheet."""
    open_ = {task.hash: task for task in tasks}
    labels: list[Label] = []
    refused: list[Refused] = []
    for number, row in enumerate(_rows(path), 1):
        grade, note = str(row.get("grade") or "").strip(), str(row.get("note") or "").strip()
        if not grade:
            continue
        task = open_.get(str(row.get("task") or "").strip())
        if task is None:
            refused.append(Refused(row=number, why="no task of this draw that waits for this labeller"))
        elif grade != CANNOT_TELL and grade not in task.menu:
            menu = ", ".join((*task.menu, CANNOT_TELL))
            refused.append(Refused(row=number, why=f"the grade {grade!r} is none of {menu}"))
        else:
            labels.append(pen.label(task, None if grade == CANNOT_TELL else grade, note[:4000]))
            del open_[task.hash]
    return labels, refused


def _row(task: Task) -> dict[str, str]:
    texts = [answered(answer) for answer in task.answers]
    return {
        "task": task.hash,
        "item": task.item.id,
        "question": asked(task.item),
        "reference": " / ".join(map(str, task.item.reference)),
        "answer": texts[0],
        "second_answer": texts[1] if len(texts) > 1 else "",
        "criterion": task.criterion,
        "grades": " | ".join((*task.menu, CANNOT_TELL)),
        "grade": "",
        "note": "",
    }


def _harmless(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows: list[Any] = list(csv.DictReader(io.StringIO(text, newline="")))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, csv.Error) as error:
        raise EvaluatorError(f"{path} is no worksheet: {error}") from None
    if not all(isinstance(row, dict) and "task" in row and "grade" in row for row in rows):
        raise EvaluatorError(f"{path} is no worksheet: each row has `task` and `grade`, as --out writes them")
    return rows
