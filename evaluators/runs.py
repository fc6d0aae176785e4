"""How does one version come to have a finished golden run: by reuse, by resuming, or by asking anew?

Ties the runner to the ledger. A finished run of the same fingerprint is reused when that is allowed, unless
one was begun after it and stopped; an unfinished one is gone on with, and only what is not stored is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from evaluators.errors import RunError
from evaluators.golden import GoldenSet
from evaluators.journal import Journal
from evaluators.ledger import GoldenLedger, LedgerSink, StoredRun, Subject
from evaluators.models import NO_SERVICES, Services
from evaluators.results import ResultRow
from evaluators.runner import Question, RunLimits, RunTally, answered, run_questions
from evaluators.score import Output
from evaluators.summary import RunResults, Summary, summarise
from evaluators.target import Target

Way = Literal["reused", "resumed", "asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How a run is made: `reuse` takes a finished run for it, `resume` goes on with an unfinished one. In the
    folder `journal` answers outlive the process; without one, a killed run asks its last batch again."""

    repeats: int = 1
    reuse: bool = False
    resume: bool = True
    limits: RunLimits = field(default_factory=RunLimits)
    journal: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run, its results, what they come to, and how it was had. `partial` says why it is not all of it."""

    run: StoredRun
    way: Way
    results: RunResults
    summary: Summary
    mlflow_run_id: str | None
    partial: str | None = None


async def finished_run(
    golden: GoldenSet,
    subject: Subject,
    ledger: GoldenLedger,
    target: Target,
    effort: Effort,
    *,
    services: Services = NO_SERVICES,
    on_start: Callable[[int, int], None] = lambda done, planned: None,
    on_answer: Callable[[Sequence[ResultRow]], None] = lambda rows: None,
) -> FinishedRun:
    """A finished run of `golden` by `subject`, or a partial one where its cost ceiling was reached.

    Raises RunError when it cannot be finished; what was answered until then, also until a cancellation, is
    stored, and the run is marked partial.
    """
    planned = len(golden.items) * effort.repeats
    looked = effort.reuse or effort.resume
    stored = ledger.stored(golden, subject, effort.repeats, services) if looked else []
    complete = next((run for run in stored if run.status == "complete"), None)
    begun_anew = effort.resume and bool(stored) and stored[0].status == "partial"
    if effort.reuse and complete is not None and not begun_anew:
        on_start(planned, planned)
        return _reused(golden, complete, ledger, effort.repeats)
    # An unfinished run that a finished one has followed is history, not something to go on with.
    found = stored[0] if effort.resume and stored and stored[0].status != "complete" else None
    run = found or ledger.open(golden, subject, effort.repeats, services)
    with ExitStack() as stack:
        where = effort.journal
        journal = stack.enter_context(Journal(where, run.run_id)) if where is not None else None
        done = answered(golden, ledger.rows(run)) if found else frozenset()
        kept = {} if journal is None else _kept(golden, journal, done)
        sink = ledger.sink(run)
        finish = partial(_finish, golden, run, ledger, None if found else sink, effort.repeats)
        on_start(len(done), planned)
        keep = (lambda item, repeat, output: None) if journal is None else journal.write
        try:
            tally = await run_questions(
                golden, target, sink, repeats=effort.repeats, done=done, limits=effort.limits,
                services=services, kept=kept, keep=keep, on_answer=on_answer,
            )  # fmt: skip
        except (RunError, asyncio.CancelledError):
            with suppress(Exception):  # the first error is the one to tell; any status can be resumed
                finish("partial")
            raise
        status = "partial" if tally.unasked else "complete"
        results, summary, view = finish(status)
        if journal is not None:
            journal.clear()
    return FinishedRun(
        run=run,
        way="resumed" if done or kept else "asked",
        results=results,
        summary=summary,
        mlflow_run_id=view.get("mlflow_run_id"),
        partial=_why_partial(tally),
    )


def _why_partial(tally: RunTally) -> str | None:
    if not tally.unasked:
        return None
    return f"{tally.unasked} questions were not asked: {tally.cost_usd:.4g} USD are spent, the ceiling"


def _reused(golden: GoldenSet, run: StoredRun, ledger: GoldenLedger, repeats: int) -> FinishedRun:
    """A run that is complete already."""
    results = ledger.results(golden, run, repeats)
    summary = summarise(golden, results)
    return FinishedRun(run=run, way="reused", results=results, summary=summary, mlflow_run_id=None)


def _kept(golden: GoldenSet, journal: Journal, done: frozenset[Question]) -> dict[Question, Output]:
    """The answers that only the journal has."""
    hashes = {item.id: item.hash for item in golden.items}
    return {
        (item_id, repeat): output
        for (item_id, item_hash, repeat), output in journal.answers().items()
        if hashes.get(item_id) == item_hash and (item_id, repeat) not in done
    }


def _finish(
    golden: GoldenSet,
    run: StoredRun,
    ledger: GoldenLedger,
    sink: LedgerSink | None,
    repeats: int,
    status: str,
) -> tuple[RunResults, Summary, Any]:
    # The summary is of the rows that others will see: of what is stored rather than of what was sent, and
    # only where the ledger says that it has just that need it not be read back.
    rows = sink.rows if sink is not None and sink.exact else ledger.rows(run)
    results = RunResults.of(run.run_id, run.version, golden.hash, repeats, rows)
    summary = summarise(golden, results)
    return results, summary, ledger.finish(run, status, summary)
