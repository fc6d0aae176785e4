"""How are all questions of a golden set put to one version, each once, and the answers kept?

A fixed number of workers takes questions from one list. An answer is kept as soon as it is there, and scored
while the next question is under way; scores go to the sink in batches, all scores of an answer in the same
batch. A run that was stopped resumes by an anti-join: what is stored is not asked again, and what was kept is
only scored. Questions that got no answer for reasons outside the version are stored as missing only when the
run is through, so that a resumed run asks them anew. Knows neither the ledger nor the statistics.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from evaluators.errors import ProxyUnreachable, ResultsLost, RunError
from evaluators.golden import GoldenItem, GoldenSet
from evaluators.models import NO_SERVICES, Services
from evaluators.pacing import FREE, Prices
from evaluators.results import ResultRow, ResultSink
from evaluators.score import Output, Score
from evaluators.scoring import score_output
from evaluators.target import Target

#: An answer, by item id and repeat.
Question = tuple[str, int]
_UNANSWERED: Final = frozenset((None, "overloaded", "rejected"))
_NOTHING: Final[Mapping[Question, Output]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """`unreachable` unanswered connections in a row end the run; a batch goes out at `batch_rows` rows or
    after `batch_s` seconds; once answers (at `prices`) and judges have cost `max_cost_usd`, nothing more is
    asked: what was in flight then is the most by which a run exceeds it."""

    concurrency: int = 8
    unreachable: int = 8
    batch_rows: int = 400
    batch_s: float = 1.0
    max_cost_usd: float | None = None
    prices: Prices = FREE


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTally:
    """What a run did: questions answered before it (`resumed`), asked now, of these left unanswered, and left
    unasked for their cost (`unasked`)."""

    resumed: int
    asked: int
    unanswered: int
    unasked: int = 0
    cost_usd: float = 0.0


def answered(golden: GoldenSet, rows: Iterable[ResultRow]) -> frozenset[Question]:
    """The questions whose every check has a row of the right item hash and evaluator version."""
    stored = {(row.item_id, row.item_hash, row.repeat, row.evaluator, row.evaluator_version) for row in rows}
    repeats = {repeat for _, _, repeat, _, _ in stored}
    return frozenset(
        (item.id, repeat)
        for item in golden.items
        for repeat in repeats
        if all(
            (item.id, item.hash, repeat, check.key, check.evaluator_version) in stored
            for check in item.checks
        )
    )


async def run_questions(
    golden: GoldenSet,
    target: Target,
    sink: ResultSink,
    *,
    repeats: int = 1,
    done: frozenset[Question] = frozenset(),
    limits: RunLimits | None = None,
    services: Services = NO_SERVICES,
    kept: Mapping[Question, Output] = _NOTHING,
    keep: Callable[[GoldenItem, int, Output], None] = lambda item, repeat, output: None,
    on_answer: Callable[[Sequence[ResultRow]], None] = lambda rows: None,
) -> RunTally:
    """Ask every question of `golden` `repeats` times, but for those in `done`, and append the scores. `keep`
    is given each answer before anything else is asked in its place (`evaluators.journal`); those that are
    `kept` from an earlier run are scored without asking.

    Raises RunError when going on is of no use; what was answered until then is appended all the same, also
    on cancellation.
    """
    run = _Run(golden, target, sink, repeats, done, limits or RunLimits(), services, kept, keep, on_answer)
    return await run.go()


@dataclass(slots=True)
class _Run:
    golden: GoldenSet
    target: Target
    sink: ResultSink
    repeats: int
    done: frozenset[Question]
    limits: RunLimits
    services: Services
    kept: Mapping[Question, Output]
    keep: Callable[[GoldenItem, int, Output], None]
    on_answer: Callable[[Sequence[ResultRow]], None]
    waiting: deque[tuple[GoldenItem, int]] = field(init=False)
    batch: list[ResultRow] = field(default_factory=list)
    unanswered: list[ResultRow] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    scorers: asyncio.Semaphore = field(init=False)
    asked: int = 0
    missing: int = 0
    unreachable: int = 0
    unasked: int = 0
    cost_usd: float = 0.0
    patience: int = field(init=False)

    def __post_init__(self) -> None:
        # Repeat by repeat: a run that is cut short has every item equally often.
        self.waiting = deque(
            (item, repeat)
            for repeat in range(self.repeats)
            for item in self.golden.items
            if (item.id, repeat) not in self.done
        )
        # In a short run it is enough that nobody at all was reached.
        self.patience = max(1, min(self.limits.unreachable, len(self.waiting)))
        # No more answers are scored at a time than are asked for: a judge that is slow holds up the asking.
        self.scorers = asyncio.Semaphore(self.limits.concurrency)
        self.room.set()

    async def go(self) -> RunTally:
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write())
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(self.limits.concurrency, len(self.waiting))):
                        workers.create_task(self._work(workers))
                writer.cancel()
            if not self.unasked:  # else the run is not through
                self.batch.extend(self.unanswered)
        except BaseExceptionGroup as group:
            cause = _first_cause(group)
            if not isinstance(cause, ResultsLost):
                self._append_rest()
            raise cause from None
        except asyncio.CancelledError:
            self._append_rest()
            raise
        self._append_rest()
        return RunTally(
            resumed=len(self.done) + len(self.kept),
            asked=self.asked,
            unanswered=self.missing,
            unasked=self.unasked,
            cost_usd=self.cost_usd,
        )

    def _append_rest(self) -> None:
        # Without an await: a second Ctrl-C must not find the answers half-way.
        batch, self.batch = self.batch, []
        if batch:
            self.sink.append(batch)

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        while self.waiting:
            await self.room.wait()
            if not self.waiting:
                return
            item, repeat = self.waiting.popleft()
            output = self.kept.get((item.id, repeat)) or await self._ask(item, repeat)
            if self.limits.max_cost_usd is not None:
                await self._score(item, repeat, output)  # whether another is asked depends on what this cost
                continue
            await self.scorers.acquire()
            scoring = tasks.create_task(self._score(item, repeat, output))
            scoring.add_done_callback(lambda _: self.scorers.release())

    async def _ask(self, item: GoldenItem, repeat: int) -> Output:
        output = await self.target.ask(item, repeat)
        self.asked += 1
        self.unreachable = self.unreachable + 1 if output.outcome is None else 0
        if self.unreachable >= self.patience:
            raise ProxyUnreachable(f"{self.unreachable} questions in a row reached nobody: {output.error}")
        if output.outcome not in _UNANSWERED:
            self.keep(item, repeat, output)
        return output

    async def _score(self, item: GoldenItem, repeat: int, output: Output) -> None:
        scores = await score_output(item, output, self.golden.policy, repeat=repeat, services=self.services)
        stored = output.to_json()
        rows = [ResultRow.of(item, repeat, check, score, output, stored) for check, score in scores]
        self._spend(output, [score for _, score in scores])
        if output.outcome in _UNANSWERED:
            self.missing += 1
            self.unanswered.extend(rows)
        else:
            self.batch.extend(rows)
            if len(self.batch) >= self.limits.batch_rows:
                self.ready.set()
            if len(self.batch) >= 4 * self.limits.batch_rows:
                self.room.clear()  # the sink is slower than the engine: ask no further meanwhile
        self.on_answer(rows)

    def _spend(self, output: Output, scores: Sequence[Score]) -> None:
        self.cost_usd += self.limits.prices.of(output.usage) + sum(score.cost_usd or 0.0 for score in scores)
        ceiling = self.limits.max_cost_usd
        if ceiling is not None and self.cost_usd >= ceiling and self.waiting:
            self.unasked += len(self.waiting)
            self.waiting.clear()

    async def _write(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.limits.batch_s):
                    await self.ready.wait()
            except TimeoutError:
                pass
            self.ready.clear()
            batch, self.batch = self.batch, []
            if not batch:
                continue
            append = asyncio.ensure_future(asyncio.to_thread(self.sink.append, batch))
            try:
                await asyncio.shield(append)
            except asyncio.CancelledError:
                await append  # a thread cannot be cancelled; and its rows must not be half-way
                raise
            self.room.set()


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The RunError in a task group's bundle, or else its first exception."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, RunError)), leaves[0])


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
