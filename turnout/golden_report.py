"""How do a golden run and a comparison look in a terminal?

Tables and sentences only: everything shown was worked out by `evaluators`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from dashboard.worddiff import Run, word_diff
from evaluators.comparison import Change, Comparison, MetricRow
from evaluators.golden import GoldenSet
from evaluators.ledger import Subject
from evaluators.preferences import JudgedPair, Preferences, PreferenceTally
from evaluators.results import ResultRow
from evaluators.runs import FinishedRun
from evaluators.summary import ITEMS, Gate, Summary, counted
from experiments.figures import percent, points
from experiments.statistics.pairwise import position_bias_p

from .judge_report import print_correction, print_judges
from .terminal import err, plain

STYLES: Final[dict[Gate, str]] = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
_LISTED: Final = 10
_WIDTH: Final = 100
#: words shown on each side of what differs
_CONTEXT: Final = 5
#: p below which a judge is said to favour the first or the second place
_LEANS: Final = 0.05
_UNANSWERED: Final = frozenset((None, "overloaded", "rejected"))


class Progress:
    """A bar on stderr: answers had of answers planned, and how many of them failed or are missing."""

    def __init__(self, title: str) -> None:
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[remark]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        self._task = self._bar.add_task(escape(title), total=None, remark="")
        self._failed = self._missing = 0

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def start(self, done: int, planned: int) -> None:
        """So many answers are stored already."""
        self._bar.update(self._task, total=planned, completed=done)

    def answer(self, rows: Sequence[ResultRow]) -> None:
        """One more answer has been scored."""
        if rows and rows[0].outcome in _UNANSWERED:
            self._missing += 1
        elif any(row.value == 0.0 for row in rows):
            self._failed += 1
        remark = f"{self._failed} failed" + (f", {self._missing} unanswered" if self._missing else "")
        self._bar.update(self._task, advance=1, remark=remark)

    def pair(self, pair: JudgedPair) -> None:
        """A judge was asked about one more pair."""
        self._missing += pair.found.score.value is None
        remark = f"{self._missing} without a verdict" if self._missing else ""
        self._bar.update(self._task, advance=1, remark=remark)


def _way(finished: FinishedRun) -> str:
    """How a run was had; of one that was there, since when."""
    began = finished.run.began
    return f"{finished.way}, of {began} UTC" if began and finished.way != "asked" else finished.way


def print_summary(
    console: Console, golden: GoldenSet, subject: Subject, finished: FinishedRun, *, fresh: bool = False
) -> None:
    """One run: pass rates by evaluator, how answers ended, the gate."""
    summary = finished.summary
    console.print(f"[bold]{escape(golden.name)}[/] on {escape(subject.model)} version {subject.version}")
    console.print(
        f"{golden.hash}, run {finished.run.run_id} ({_way(finished)})", style="dim", highlight=False
    )
    table = Table("check", "scored", "passed", "rate", "missing", "")
    for tally in summary.evaluators:
        missing = tally.planned - tally.scored - tally.skipped
        rate = "-" if tally.pass_rate is None else percent(tally.pass_rate)
        gate = "" if tally.gate else "does not gate"
        table.add_row(tally.evaluator, f"{tally.scored:,}", counted(tally.passed), rate, f"{missing:,}", gate)
    table.add_section()
    rate = "-" if summary.pass_rate is None else percent(summary.pass_rate)
    table.add_row(
        "[bold]answers[/]", f"{summary.scored:,}", counted(summary.passed), rate, f"{summary.missing:,}", ""
    )
    console.print(table)
    print_judges(console, summary.judges)
    console.print(f"Answers ended: {_outcomes(summary)}.")
    if finished.mlflow_run_id:
        console.print(f"MLflow run {finished.mlflow_run_id}", highlight=False)
    if finished.partial:
        unless = ", but without --fresh" if fresh else ""
        told = f"Partial: {escape(finished.partial)}; the same command goes on{unless}."
        console.print(told, style="yellow")
    console.print(escape(summary.sentence), style=STYLES[summary.gate], highlight=False)


def print_comparison(
    console: Console, comparison: Comparison, runs: Sequence[FinishedRun], *, show_all: bool = False
) -> None:
    """Two runs: rates and intervals by evaluator, what newly fails, the verdict in a sentence."""
    control, candidate = (run.run.version for run in runs)
    console.print(f"[bold]{escape(comparison.set_name)}[/]: version {candidate} against version {control}")
    ways = ", ".join(f"version {run.run.version}: {_way(run)}" for run in runs)
    console.print(f"{comparison.set_hash} ({ways})", style="dim", highlight=False)
    level = 1 - comparison.policy.alpha
    interval = f"{100 * level:.4g} % interval"
    table = Table("check", f"v{control}", f"v{candidate}", "difference", interval, "lost", "gained", "n")
    for row in comparison.metrics:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(comparison.gate), style="bold")
    console.print(table)
    _print_preferences(console, comparison.preferences, show_all)
    print_judges(console, comparison.judges)
    for found in comparison.corrections:
        print_correction(console, found, comparison.policy.alpha)
    _print_changes(console, "Newly failing", comparison.newly_failing, show_all)
    if comparison.newly_passing:
        ids = ", ".join(dict.fromkeys(change.item_id for change in comparison.newly_passing))
        console.print(f"Newly passing: {ids}", highlight=False)
    for reason in comparison.reasons:
        if reason.severity == "warn":
            console.print(f"Warning: {escape(reason.text)}", style="yellow", highlight=False)
    if comparison.missing:
        console.print(f"Missing in a run: {comparison.missing:,} of {comparison.planned:,} items.")
    console.print(escape(comparison.sentence), style=f"bold {STYLES[comparison.verdict]}", highlight=False)


def _print_changes(console: Console, title: str, changes: Sequence[Change], show_all: bool) -> None:
    if not changes:
        return
    got = "got, against the answer that passed"
    table = Table("item", "check", "expected", got, title=title, title_justify="left")
    shown = changes if show_all else changes[:_LISTED]
    for change in shown:
        table.add_row(
            _short(change.item_id), _short(change.evaluator), _short(change.expected), against(change)
        )
    console.print(table)
    if len(shown) < len(changes):
        console.print(f"... and {len(changes) - len(shown)} more (--all lists them)", style="dim")


def _print_preferences(console: Console, preferences: Preferences, show_all: bool) -> None:
    """What the judge of pairs prefers, how far it can be trusted, and where it prefers the control."""
    for found in preferences.tallies():
        console.print(escape(_preferred(found)), highlight=False)
    lost = [pair for pair in preferences.pairs if pair.found.score.value == 0.0]
    table = Table("item", "check", "why the control is preferred", title_justify="left")
    for pair in lost if show_all else lost[:_LISTED]:
        table.add_row(
            _short(pair.item_id), _short(pair.evaluator), _short(pair.found.score.explanation or "")
        )
    if lost:
        console.print(table)
    if not show_all and len(lost) > _LISTED:
        console.print(f"... and {len(lost) - _LISTED} more (--all lists them)", style="dim")


def _preferred(found: PreferenceTally) -> str:
    wins = found.orders.wins
    text = f"{found.evaluator}: {wins.wins} preferred, {wins.ties} ties, {wins.losses} not"
    if found.asked:
        leaning = f"; {found.judge} changed its mind with the order in {found.flips} of {found.asked}"
        bias = position_bias_p(found.orders)
        text += leaning + (f" (it leans towards a place, p = {bias:.2g})" if bias < _LEANS else "")
    if found.missing:
        text += f"; {found.missing} without a verdict"
    return plain(text + (f"; {found.cost_usd:.4f} USD" if found.cost_usd else "") + ".")


def _cells(row: MetricRow) -> list[str]:
    name = "all checks of an item" if row.evaluator == ITEMS else row.evaluator
    rates = ["-" if rate is None else percent(rate) for rate in (row.control, row.candidate)]
    difference, interval = "-", "-"
    if row.effect is not None:
        difference, lower, upper = (
            points(end, 1) for end in (row.effect.estimate, row.effect.lower, row.effect.upper)
        )
        interval = f"{lower} to {upper}"
    counts = (f"{count:,}" for count in (row.only_control, row.only_candidate, row.n))
    return [name, *rates, difference, interval, *counts]


def _outcomes(summary: Summary) -> str:
    return ", ".join(f"{count:,} {outcome}" for outcome, count in summary.outcomes.items()) or "none"


def against(change: Change) -> Text:
    """The failing answer against the one that passed: words that went are struck, words that came are bold,
    and what both have in common is kept short."""
    difference = word_diff(change.other, change.got) if change.other else None
    runs = [Run(True, "", change.got)] if difference is None else difference.runs
    found = Text()
    for run in runs:
        words = run.candidate.split()
        if run.same:
            if change.other and len(words) > 2 * _CONTEXT:
                words = [*words[:_CONTEXT], "...", *words[-_CONTEXT:]]
            _append(found, words, "")
            continue
        _append(found, run.control.split(), "red strike")
        _append(found, words, "bold green")
    found.rstrip()
    found.truncate(2 * _WIDTH, overflow="ellipsis")
    return found


def _append(text: Text, words: Sequence[str], style: str) -> None:
    if words:
        text.append(plain(" ".join(words)), style=style).append(" ")


def _short(text: str) -> str:
    line = plain(" ".join(text.split()))
    return escape(line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "...")
