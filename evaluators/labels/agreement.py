"""Do the judge and the people agree, and do the people among themselves?

Cohen's kappa beside the raw agreement, over the drawn tasks alone: of answers that somebody picked it would
say nothing. Where several people graded a task, theirs is the middle grade (the lower of two).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from evaluators.labels.cases import Term
from evaluators.labels.label import People
from evaluators.labels.task import Task
from experiments.statistics import agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How two raters agree on `n` tasks: the share of equal grades, and kappa with its 95 % interval. With
    more than two grades a near miss counts as half an agreement (linear weights)."""

    raters: tuple[str, str]
    n: int
    raw: float | None
    kappa: float | None
    lower: float | None
    upper: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def with_judge(terms: Sequence[Term], people: People, judge: str) -> Agreement | None:
    """The judge against the people; None without a task that both have graded."""
    pairs = [
        (term.task, term.judged, _middle(term.task, people))
        for term in terms
        if term.judged is not None and people.grades(term.task)
    ]
    return _agreement((judge, "people"), pairs)


def among(terms: Sequence[Term], people: People) -> tuple[Agreement, ...]:
    """Each two labellers who have graded a task in common."""
    names = sorted({name for term in terms for name in people.grades(term.task)})
    found = []
    for one, other in combinations(names, 2):
        pairs = [
            (term.task, grades[one], grades[other])
            for term in terms
            if {one, other} <= set(grades := people.grades(term.task))
        ]
        found.append(_agreement((one, other), pairs))
    return tuple(one for one in found if one is not None)


def _agreement(raters: tuple[str, str], pairs: Iterable[tuple[Task, str, str]]) -> Agreement | None:
    pairs = [pair for pair in pairs if pair[1] in pair[0].menu and pair[2] in pair[0].menu]
    if not pairs:
        return None
    # Items may have menus of their own: by worth they are one scale.
    scale = {grade: worth for task, _, _ in pairs for grade, worth in task.menu.items()}
    grades = sorted(scale, key=lambda grade: (scale[grade], grade))
    place = {grade: n for n, grade in enumerate(grades)}
    table = [[0] * len(grades) for _ in grades]
    for _, one, other in pairs:
        table[place[one]][place[other]] += 1
    weights: agreement.Weights = "none" if len(grades) == 2 else "linear"
    found = agreement.kappa(table, weights=weights)
    interval = agreement.kappa_interval(table, weights=weights)
    return Agreement(
        raters=raters,
        n=len(pairs),
        raw=agreement.raw_agreement(table),
        kappa=found.value,
        lower=None if interval is None else interval.lower,
        upper=None if interval is None else interval.upper,
    )


def _middle(task: Task, people: People) -> str:
    order = list(task.menu)
    grades = sorted(people.grades(task).values(), key=order.index)
    return grades[(len(grades) - 1) // 2]
