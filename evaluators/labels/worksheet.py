"""Which tasks wait for a labeller, and how do they go into a file and come back as labels?

A worksheet is JSONL or CSV with a row a task: what there is to read, and `grade` to fill in. Only `task`,
`grade` and `note` are read back. A row that is not taken is listed with the reason; an empty grade is left
for later. For those who have not the set's folder the same lies in the ledger (`document`), in the same
order, and with what a label says of each task: the dashboard adds who gives which grade.
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
from evaluators.labels.cases import Case, Cases
from evaluators.labels.draw import Draw
from evaluators.labels.label import Label, People, about
from evaluators.labels.task import Task

#: In place of a grade: somebody looked, and cannot tell.
CANNOT_TELL: Final = "cannot tell"
_COLUMNS: Final = ("task", "item", "question", "reference", "answer", "second_answer", "criterion", "grades")
_FILLED: Final = ("grade", "note")
#: Half of what the control API takes in one request.
_MOST_BYTES: Final = 16 * 1024 * 1024
#: A spreadsheet takes what begins so for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
csv.field_size_limit(max(csv.field_size_limit(), _MOST_BYTES))  # an answer may be long


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row that was not taken, and why."""

    row: int
    why: str


def waiting(sample: Sequence[Case], people: People, labeller: str, seed: str) -> list[Task]:
    """The tasks of the sample that this labeller has not looked at, in the order of the draw. Of an item's
    two answers either comes first, by chance: the place does not tell the version."""
    return [task for _, task in _in_order(sample, seed) if labeller not in people.said.get(task.hash, {})]


def document(cases: Cases, size: int, set_name: str) -> dict[str, Any]:
    """The worksheet of the first `size` items of the draw as the control API takes it; of fewer, where their
    texts are too long to be sent at once. `place` is that of the item in the draw: a declared sample of n
    items is what has a place below n."""
    judge = ", ".join(cases.judges) or None
    sample = cases.drawn(size)
    items = len(sample)
    rows: list[dict[str, Any]] = []
    room = _MOST_BYTES
    for place, task in _in_order(sample, cases.seed):
        row = {"place": place, "label": about(task, set_name, judge), **_readable(task)}
        room -= len(json.dumps(row))
        if room < 0:
            items = place  # an item is there whole or not at all
            break
        rows.append(row)
    return {
        "evaluator": cases.evaluator,
        "set_name": set_name,
        "seed": cases.seed,
        "needed": cases.needed,
        "open": len(cases.open),
        "items": items,
        "tasks": [row for row in rows if row["place"] < items],
    }


def _in_order(sample: Sequence[Case], seed: str) -> list[tuple[int, Task]]:
    """The tasks of a sample in the order in which people see them, with the place of the item. What two items
    have in common is asked once."""
    found: dict[str, tuple[int, Task]] = {}
    for place, case in enumerate(sample):
        tasks = [term.task for term in case.terms]
        for task in sorted(tasks, key=lambda task: hashlib.sha256(f"{seed}:{task.hash}".encode()).digest()):
            found.setdefault(task.hash, (place, task))
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
            labeller=self.labeller,
            grade=grade,
            note=note or None,
            draw_id=self.draw.draw_id,
            **about(task, self.golden.name, self.judge),
        )


def write(path: Path, tasks: Sequence[Task]) -> None:
    """Write the tasks, as CSV where the file is called so, else as JSONL. Raises EvaluatorError where it
    cannot be written, and where it is there: people's grades may be in it."""
    rows = [_row(task) for task in tasks]
    text, encoding = io.StringIO(newline=""), "utf-8"
    if path.suffix.lower() == ".csv":
        table = csv.DictWriter(text, (*_COLUMNS, *_FILLED))
        table.writeheader()
        table.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
        encoding = "utf-8-sig"  # what Excel needs to see that it is UTF-8
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        with path.open("x", encoding=encoding, newline="") as out:
            out.write(text.getvalue())
    except FileExistsError:
        raise EvaluatorError(
            f"{path} is there, perhaps with grades in it: `--from {path}` takes them; name another file"
        ) from None
    except OSError as error:
        raise EvaluatorError(f"{path} cannot be written: {error.strerror}") from None


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
    seen = _readable(task)
    texts = seen["answers"]
    return {
        "task": task.hash,
        "item": task.item.id,
        "question": seen["question"],
        "reference": seen["reference"],
        "answer": texts[0],
        "second_answer": texts[1] if len(texts) > 1 else "",
        "criterion": seen["criterion"],
        "grades": " | ".join((*seen["grades"], CANNOT_TELL)),
        "grade": "",
        "note": "",
    }


def _readable(task: Task) -> dict[str, Any]:
    """What a labeller reads, and the grades from worst to best (of a pair: `second`, `tie`, `first`)."""
    return {
        "question": asked(task.item),
        "reference": " / ".join(map(str, task.item.reference)),
        "answers": [answered(answer) for answer in task.answers],
        "criterion": task.criterion,
        "grades": list(task.menu),
    }


def _harmless(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows: list[Any] = list(csv.DictReader(io.StringIO(text, newline="")))
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, csv.Error) as error:
        raise EvaluatorError(f"{path} is no worksheet: {error}") from None
    if not all(isinstance(row, dict) and "task" in row and "grade" in row for row in rows):
        raise EvaluatorError(f"{path} is no worksheet: each row has `task` and `grade`, as --out writes them")
    return rows
