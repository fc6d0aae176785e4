"""Which items of two runs can people's labels say something about, and what is known of them without any?

A case is one item that both runs have answers to, with the tasks that would tell its true difference. Where
both answers are the same, or both failed, that difference is known whatever a judge says, and nobody need
look. An answer that failed is worth 0, by the set's policy. Whether the judge has a verdict plays no part:
where it has none it says "no difference", an error like any other that the labels correct, and the sample is
the same. With repeats, each item's case is one of them, drawn at random: the repeats of an item stand for
each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from evaluators.golden import Check, GoldenItem, GoldenSet, Policy
from evaluators.labels.draw import MIN_LABELLED, chosen, in_order, seed_of
from evaluators.labels.label import People
from evaluators.labels.task import Task, grading, preferring, same_content
from evaluators.pairing import match_items
from evaluators.preferences import NO_PREFERENCES, Preferences
from evaluators.results import ResultRow
from evaluators.score import Output, PairScore
from evaluators.scoring import TARGET_ERRORS
from evaluators.summary import RunResults

_LOSES: Final = TARGET_ERRORS | {"length"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A task in a case's difference, with its factor; `judged` is the grade that the judge gave to it."""

    task: Task
    factor: float
    judged: str | None = None

    def ends(self, people: People) -> tuple[float, float] | None:
        """The least and the most that it can amount to; None while nobody has looked."""
        worth = people.worth(self.task)
        if worth == "open":
            return None
        if worth == "undecided":
            worths = [self.factor * self.task.worth(grade) for grade in self.task.menu]
            return min(worths), max(worths)
        return self.factor * worth, self.factor * worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One item. The judge says that candidate and control differ by `judged`; in truth by `offset` and what
    the terms amount to, so that without terms it is known. `judges` are those that were asked."""

    item: GoldenItem
    judged: float
    terms: tuple[Term, ...] = ()
    offset: float = 0.0
    judges: frozenset[str] = frozenset()

    def ends(self, people: People) -> tuple[float, float] | None:
        """The least and the most that the true difference can be; None while a task is open."""
        found = [term.ends(people) for term in self.terms]
        known = [ends for ends in found if ends is not None]
        if len(known) < len(found):
            return None
        low, high = (self.offset + math.fsum(ends[side] for ends in known) for side in (0, 1))
        return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """All cases of one check, and the weights of the items to which a run has no answer. `seed` draws."""

    evaluator: str
    seed: str
    cases: tuple[Case, ...]
    missing: tuple[float, ...]

    @property
    def open(self) -> dict[str, Case]:
        """The cases whose difference people must tell, by item."""
        return {case.item.id: case for case in self.cases if case.terms}

    @property
    def needed(self) -> int:
        """So many must be labelled before the judge may gate."""
        return min(MIN_LABELLED, len(self.open))

    def drawn(self, size: int) -> list[Case]:
        """The first `size` open cases in the order of the draw."""
        open_ = self.open
        return [open_[name] for name in in_order(self.seed, open_)[:size]]

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges that were asked: one, unless somebody changed it between the runs."""
        return tuple(sorted({judge for case in self.cases for judge in case.judges}))


def cases_of(
    evaluator: str,
    items: Sequence[GoldenItem],
    control: RunResults,
    candidate: RunResults,
    policy: Policy,
    preferences: Preferences = NO_PREFERENCES,
) -> Cases:
    """The cases of a judge's check over the items that two runs have in common. Which ones they are, and
    which of them are open, does not depend on what the judge of pairs prefers."""
    seed = seed_of(control.run_id, candidate.run_id, evaluator)
    judged = {
        (pair.item_id, pair.repeat): pair.found for pair in preferences.pairs if pair.evaluator == evaluator
    }
    cases: list[Case] = []
    missing: list[float] = []
    for item in items:
        check = next((check for check in item.checks if check.key == evaluator), None)
        if check is None or check.kind == "code":
            continue
        pairs = list(_answered(item, check, control, candidate, policy))
        if not pairs:
            missing.append(item.weight)
            continue
        repeat = chosen(seed, item.id, [pair.repeat for pair in pairs])
        pair = next(pair for pair in pairs if pair.repeat == repeat)
        if check.kind == "pairwise":
            cases.append(_preferred(pair, judged.get((item.id, repeat))))
        else:
            cases.append(_graded(pair))
    return Cases(evaluator=evaluator, seed=seed, cases=tuple(cases), missing=tuple(missing))


def cases_to_label(golden: GoldenSet, evaluator: str, control: RunResults, candidate: RunResults) -> Cases:
    """What is put before people of two runs of a set. What a judge of pairs prefers plays no part in it."""
    comparable, *_ = match_items(golden, control, candidate)
    return cases_of(evaluator, comparable, control, candidate, golden.policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """One repeat of an item to which both runs have an answer, or one that failed (None)."""

    item: GoldenItem
    check: Check
    repeat: int
    rows: tuple[ResultRow, ResultRow]
    answers: tuple[Output | None, Output | None]

    @property
    def same(self) -> bool:
        control, candidate = self.answers
        if control is None or candidate is None:
            return control is candidate
        return same_content(control, candidate)


def _answered(
    item: GoldenItem, check: Check, control: RunResults, candidate: RunResults, policy: Policy
) -> Iterator[_Answered]:
    left, right = control.of_item(item), candidate.of_item(item)
    for repeat in range(min(control.repeats, candidate.repeats)):
        rows = left.get((repeat, check.key)), right.get((repeat, check.key))
        if rows[0] is None or rows[1] is None:
            continue
        states = [_state(row, check, policy) for row in rows if row is not None]
        if "missing" in states:
            continue
        control_answer, candidate_answer = (
            Output.from_json(row.output or {}, row.outcome) if state == "answer" else None
            for row, state in zip((rows[0], rows[1]), states, strict=True)
        )
        yield _Answered(
            item=item,
            check=check,
            repeat=repeat,
            rows=(rows[0], rows[1]),
            answers=(control_answer, candidate_answer),
        )


def _state(row: ResultRow, check: Check, policy: Policy) -> Literal["answer", "failed", "missing"]:
    if row.status == "skipped" and check.kind != "pairwise":
        return "missing"
    if row.outcome == "complete" or (row.outcome == "length" and policy.length == "score"):
        return "answer"
    failed = row.outcome in _LOSES if check.kind == "pairwise" else row.value is not None
    return "failed" if failed else "missing"


def _graded(pair: _Answered) -> Case:
    """The case of a judge that grades single answers."""
    judges = frozenset(str(row.detail["judge"]) for row in pair.rows if row.detail and "judge" in row.detail)
    if pair.same:
        return Case(item=pair.item, judged=0.0, judges=judges)
    control, candidate = (row.value for row in pair.rows)
    terms = tuple(
        Term(task=grading(pair.item, pair.check, answer), factor=factor, judged=row.label)
        for row, answer, factor in zip(pair.rows, pair.answers, (-1.0, 1.0), strict=True)
        if answer is not None
    )
    judged = 0.0 if control is None or candidate is None else candidate - control
    return Case(item=pair.item, judged=judged, terms=terms, judges=judges)


def _preferred(pair: _Answered, found: PairScore | None) -> Case:
    """The case of a judge of pairs: +1 where the candidate is preferred, -1 where the control is."""
    score = None if found is None else found.score
    judges = frozenset({str(score.metadata["judge"])} if score and "judge" in score.metadata else ())
    control, candidate = pair.answers
    if pair.same:
        return Case(item=pair.item, judged=0.0, judges=judges)
    if control is None or candidate is None:
        won = 1.0 if control is None else -1.0
        return Case(item=pair.item, judged=won, offset=won, judges=judges)
    task = preferring(pair.item, pair.check, control, candidate)
    ahead = same_content(task.answers[0], candidate)
    places = {"tie": "tie", "candidate" if ahead else "control": "first"}
    label = None if score is None or score.value is None else places.get(score.label or "", "second")
    # The task is worth w in [0, 1] to its first answer, hence 2 w - 1 to it and 1 - 2 w to the other.
    sign = 1.0 if ahead else -1.0
    term = Term(task=task, factor=2.0 * sign, judged=label)
    judged = 0.0 if score is None or score.value is None else 2.0 * score.value - 1.0
    return Case(item=pair.item, judged=judged, terms=(term,), offset=-sign, judges=judges)
