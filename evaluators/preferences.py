"""Whose answers does a judge prefer, item by item, in two runs?

Puts the answers of both runs to every check of kind `pairwise`, repeat by repeat. A verdict is kept in the
cache of judges as soon as it is had, so that a comparison that was stopped, or is made again, asks the judge
for nothing twice but what was in flight. Knows neither the ledger nor the statistics.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from evaluators.golden import Check, GoldenItem, GoldenSet
from evaluators.judges.health import Verdict
from evaluators.models import NO_SERVICES, Services
from evaluators.pairing import Pair, match_items
from evaluators.runner import RunLimits
from evaluators.score import Output, PairScore, Preference, Score
from evaluators.scoring import score_pair
from evaluators.summary import RunResults, Tally
from experiments.statistics.pairwise import BothOrders, position_bias_p

#: Where both orders prefer the same place, whoever stands there: the judge's leaning, and a tie.
_PLACES: Final[Mapping[tuple[Preference | None, Preference | None], str]] = {
    ("control", "candidate"): "first",
    ("candidate", "control"): "second",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """What the judge prefers of one item's two answers in one repeat, by one check. `cluster`: the items that
    hang together with this one."""

    item_id: str
    cluster: str
    repeat: int
    evaluator: str
    found: PairScore

    def to_json(self) -> dict[str, Any]:
        score = self.found.score
        return {
            "item_id": self.item_id,
            "cluster": self.cluster,
            "repeat": self.repeat,
            "evaluator": self.evaluator,
            "status": score.status,
            "preferred": score.label if score.status == "scored" else None,
            "flipped": self.found.flipped,
            "explanation": score.explanation,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceTally:
    """One check's pairs in numbers: those with a verdict in both `orders`; of these, those that a judge was
    `asked` about (equal and failed answers need none) and changed its mind with the order of (`flips`); and
    those without a verdict."""

    evaluator: str
    judge: str | None
    orders: BothOrders
    asked: int
    flips: int
    missing: int
    cost_usd: float

    def to_json(self) -> dict[str, Any]:
        wins = self.orders.wins
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "orders"}
        counts = {"wins": wins.wins, "ties": wins.ties, "losses": wins.losses}
        return {**fields, **counts, "position_bias_p": position_bias_p(self.orders)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """All judged pairs of two runs."""

    pairs: tuple[JudgedPair, ...] = ()

    def by_item(self, evaluator: str) -> dict[str, list[Score]]:
        """The scores of one check, by item; those that do not apply are left out."""
        found: dict[str, list[Score]] = {}
        for pair in self.pairs:
            if pair.evaluator == evaluator and pair.found.score.status != "skipped":
                found.setdefault(pair.item_id, []).append(pair.found.score)
        return found

    def verdicts(self, versions: Mapping[str, str]) -> Iterator[Verdict]:
        """Every pair, as a judge's health sees it; `versions` are the checks' evaluators."""
        return (
            Verdict.of_score(pair.evaluator, versions.get(pair.evaluator, ""), pair.found.score)
            for pair in self.pairs
        )

    def tallies(self) -> tuple[PreferenceTally, ...]:
        """The numbers of each check."""
        by_check: dict[str, list[PairScore]] = {}
        for pair in self.pairs:
            by_check.setdefault(pair.evaluator, []).append(pair.found)
        return tuple(_tally(evaluator, found) for evaluator, found in by_check.items())

    def to_json(self) -> dict[str, Any]:
        return {
            "checks": [one.to_json() for one in self.tallies()],
            "pairs": [pair.to_json() for pair in self.pairs],
        }


NO_PREFERENCES: Final = Preferences()


def preferred_pair(item: GoldenItem, scores: Sequence[Score]) -> Pair:
    """The item as a pair of worths: to each version the share of its repeats in which the judge prefers it,
    a tie being half. Their difference is wins less losses, twice the win rate's distance from a half."""
    values = [score.value for score in scores if score.value is not None]
    won = math.fsum(values)
    control, candidate = (
        Tally(planned=len(scores), observed=len(values), total=total, passes=2 * total >= len(values))
        for total in (len(values) - won, won)
    )
    return Pair(item=item, control=control, candidate=candidate)


def _tally(evaluator: str, pairs: Sequence[PairScore]) -> PreferenceTally:
    scored = [pair for pair in pairs if pair.score.status == "scored"]
    asked = [pair for pair in scored if "judge" in pair.score.metadata]
    cells = Counter(
        _PLACES.get((pair.control_first, pair.candidate_first)) or pair.score.label for pair in scored
    )
    return PreferenceTally(
        evaluator=evaluator,
        judge=next((str(pair.score.metadata["judge"]) for pair in asked), None),
        orders=BothOrders(
            candidate=cells["candidate"],
            control=cells["control"],
            first_place=cells["first"],
            second_place=cells["second"],
            ties=cells["tie"],
        ),
        asked=len(asked),
        flips=sum(pair.flipped for pair in asked),
        missing=sum(pair.score.status in ("unscored", "error") for pair in pairs),
        cost_usd=math.fsum(pair.score.cost_usd or 0.0 for pair in pairs),
    )


async def judged_pairs(
    golden: GoldenSet,
    control: RunResults,
    candidate: RunResults,
    *,
    services: Services = NO_SERVICES,
    limits: RunLimits | None = None,
    on_start: Callable[[int, int], None] = lambda done, planned: None,
    on_pair: Callable[[JudgedPair], None] = lambda pair: None,
) -> Preferences:
    """Put both runs' answers to every pairwise check of the items that both runs have.

    At most `limits.concurrency` pairs at a time; once the judge has cost `limits.max_cost_usd` no further
    pair is put, and what was left out counts as missing.
    """
    limits = limits or RunLimits()
    waiting = deque(_planned(golden, control, candidate))
    on_start(0, len(waiting))
    found: dict[tuple[str, str, int], JudgedPair] = {}
    spent = 0.0

    async def work() -> None:
        nonlocal spent
        while waiting:
            item, repeat, check = waiting.popleft()
            answers = [_answer(golden, run, item, repeat, check) for run in (control, candidate)]
            score = _unasked(check, spent, limits)
            if score is None:
                pair = await _compared(check, item, answers, repeat, services)
            else:
                pair = PairScore(score=score)
            spent += pair.score.cost_usd or 0.0
            one = JudgedPair(
                item_id=item.id, cluster=item.cluster, repeat=repeat, evaluator=check.key, found=pair
            )
            found[check.key, item.id, repeat] = one
            on_pair(one)

    async with asyncio.TaskGroup() as workers:
        for _ in range(min(limits.concurrency, len(waiting))):
            workers.create_task(work())
    return Preferences(pairs=tuple(found[key] for key in sorted(found)))


def _unasked(check: Check, spent: float, limits: RunLimits) -> Score | None:
    if limits.max_cost_usd is None or spent < limits.max_cost_usd:
        return None
    why = f"not put to the judge: {spent:.4g} USD are spent, the ceiling"
    return Score.unscored(check.key, why, label="unasked")


async def _compared(
    check: Check, item: GoldenItem, answers: Sequence[Output | None], repeat: int, services: Services
) -> PairScore:
    control, candidate = answers
    if control is None or candidate is None:
        return PairScore(score=Score.unscored(check.key, "an answer is missing"))
    return await score_pair(check, item, control, candidate, repeat=repeat, services=services)


def _planned(
    golden: GoldenSet, control: RunResults, candidate: RunResults
) -> Iterator[tuple[GoldenItem, int, Check]]:
    """Repeat by repeat, as the runs were made. A repeat that only one run has has no pair."""
    comparable, *_ = match_items(golden, control, candidate)
    for repeat in range(min(control.repeats, candidate.repeats)):
        for item in comparable:
            yield from ((item, repeat, check) for check in item.checks if check.kind == "pairwise")


def _answer(golden: GoldenSet, run: RunResults, item: GoldenItem, repeat: int, check: Check) -> Output | None:
    """What the run has stored; None where it has nothing. A cut answer is one where the set scores those."""
    row = run.of_item(item).get((repeat, check.key))
    if row is None or row.output is None:
        return None
    output = Output.from_json(row.output, row.outcome)
    cut = output.outcome == "length" and golden.policy.length == "score"
    return replace(output, outcome="complete") if cut else output
