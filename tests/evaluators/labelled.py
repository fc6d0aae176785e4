"""Two runs judged by somebody, and people who know better: what tests and the bench of labels are made of."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from evaluators.comparison import Comparison, compare
from evaluators.golden import GoldenItem, GoldenSet
from evaluators.labels.cases import Cases, cases_of
from evaluators.labels.correction import sample_of
from evaluators.labels.draw import Draw, seed_of
from evaluators.labels.label import Label, People
from evaluators.labels.task import Task
from evaluators.labels.worksheet import Pen
from evaluators.results import ResultRow
from evaluators.score import Output, Score
from evaluators.summary import RunResults

from .sets import make_set, row

KEY = "kind"
CHECKS = [{"type": "length", "max": 1000}, {"type": "judge", "key": KEY, "rubric": "It helps.", "gate": True}]
YAML = "judge: {model: examiner}\nmargin: 0.15\n"

Says = Callable[[int], str]
Grades = Callable[[str], str | None]  # by the answer's text


def judged_set(
    folder: Path, n: int, set_yaml: str = YAML, *, alone: bool = False, **fields: Any
) -> GoldenSet:
    """n items q000, q001, ... with a check that all answers pass, and a judge that gates, or is `alone`."""
    rows = [
        row(f"q{k:03}", **{"checks": CHECKS[alone:], **{name: of(k) for name, of in fields.items()}})
        for k in range(n)
    ]
    return make_set(folder, rows, set_yaml)


def judged_run(
    golden: GoldenSet, says: Sequence[str | Output], grades: Sequence[str | None], *, version: int
) -> RunResults:
    """A run with these answers, each with the grade that the judge gave it (None: no verdict)."""

    def stored(item: GoldenItem, output: Output, grade: str | None) -> Iterable[ResultRow]:
        *others, judge = item.checks
        for length in others:
            yield ResultRow.of(item, 0, length, Score.verdict("length", True, ""), output)
        if output.outcome != "complete":
            score = Score.of_outcome(KEY, str(output.outcome), "no answer")
        elif grade is None:
            score = Score.unscored(KEY, "no verdict", label="unparseable")
        else:
            worth = judge.options.grades[grade]
            metadata = {"judge": "examiner@1"}
            score = Score(name=KEY, status="scored", value=worth, label=grade, metadata=metadata)
        yield ResultRow.of(item, 0, judge, score, output)

    outputs = [Output(text=one) if isinstance(one, str) else one for one in says]
    rows = [
        one
        for item, output, grade in zip(golden.items, outputs, grades, strict=True)
        for one in stored(item, output, grade)
    ]
    return RunResults.of(f"run-{version}", version, golden.hash, 1, rows)


def cases(golden: GoldenSet, control: RunResults, candidate: RunResults) -> Cases:
    """The judge's cases."""
    return cases_of(KEY, golden.items, control, candidate, golden.policy)


def draws(control: RunResults, candidate: RunResults, *sizes: int) -> list[Draw]:
    """Declarations of these sizes, one after the other."""
    seed = seed_of(control.run_id, candidate.run_id, KEY)
    return [
        Draw(
            draw_id=uuid.UUID(int=size).hex,
            control_run=control.run_id,
            candidate_run=candidate.run_id,
            evaluator=KEY,
            seed=seed,
            size=size,
        )
        for size in sizes
    ]


def labelled(
    golden: GoldenSet, found: Cases, declared: Sequence[Draw], grades: Grades, *, name: str = "ann"
) -> list[Label]:
    """What somebody says who grades the whole sample."""
    pen = Pen(golden=golden, draw=declared[-1], labeller=name, judge="examiner@1")
    tasks: list[Task] = [term.task for case in sample_of(found, declared) for term in case.terms]
    return [pen.label(task, grades(task.answers[0].text)) for task in tasks]


def by_people(
    golden: GoldenSet, control: RunResults, candidate: RunResults, grades: Grades, *sizes: int
) -> Comparison:
    """The comparison after somebody has labelled declarations of these sizes."""
    declared = draws(control, candidate, *sizes)
    labels = labelled(golden, cases(golden, control, candidate), declared, grades)
    return compare(golden, control, candidate, people=People.of(declared, labels))
