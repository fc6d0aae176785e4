"""`turnout selftest --aa`: how often would Turnout's rules cry wolf on this ledger's own traffic?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from experiments.false_alarms import RULES, Rate, rehearse, unheard
from experiments.history import History
from experiments.spec import ExperimentSpec

from .plan_command import analysis, history_of, read
from .terminal import emit, err, fail, say, table

selftest_app = typer.Typer(pretty_exceptions_enable=False)
#: All units of one experiment are held at once, in about a kilobyte each.
_MOST_UNITS: Final = 1_000_000


@selftest_app.command()
def selftest(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="An experiment's file: its metrics and plan.")],
    aa: Annotated[bool, typer.Option("--aa", help="A/A: the same version twice, arms by the coin.")] = False,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many A/A experiments.")] = 200,
    looks: Annotated[int, typer.Option(min=1, help="How often each is looked at, at most once a unit.")] = 25,
    units: Annotated[
        int | None,
        typer.Option(min=100, max=_MOST_UNITS, help="Units in each. Default: the spec's horizon."),
    ] = None,
    days: Annotated[float, typer.Option(help="How many days of the ledger to draw units from.")] = 7.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Run an experiment of production against itself, many times, on units of this ledger.

    Exit code 1 if a rule raises false alarms more often than it may, beyond the interval of that rate.
    """
    if not aa:
        fail("say which test: --aa", 2)
    declared, text = read(spec)
    known = history_of(text, spec, days)
    stages = [_Stage(declared, number, units) for number in range(len(declared.plan))]
    columns = (TextColumn("A/A experiments"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=err, transient=True) as bar:
        for stage in stages:
            task = bar.add_task("", total=runs)
            stage.rates = rehearse(
                stage.asked,
                known,
                runs=runs,
                looks=looks,
                share=stage.share,
                seed=seed,
                progress=lambda done, task=task: bar.update(task, completed=done),  # type: ignore[misc]
            )
    if as_json:
        emit([{"stage": stage.asked.mode, **_document(rate)} for stage in stages for rate in stage.rates])
    else:
        for stage in stages:
            _show(stage, known, runs, looks)
        for rule in dict.fromkeys(rate.rule for stage in stages for rate in stage.rates):
            say(f"  {rule}: {RULES[rule]}")
    raise typer.Exit(1 if any(rate.too_often for stage in stages for rate in stage.rates) else 0)


class _Stage:
    """One stage of the spec, and what its rehearsals found."""

    def __init__(self, declared: ExperimentSpec, number: int, units: int | None) -> None:
        planned = analysis(declared, number)
        self.asked = replace(planned, horizon=units or planned.horizon)
        if self.asked.horizon > _MOST_UNITS:
            fail(
                f"a horizon of {self.asked.horizon:,} is more than a self-test draws ({_MOST_UNITS:,}): "
                "give fewer by --units",
                2,
            )
        self.share = min(0.5, declared.plan[number].weights_ppm[-1] / 1e6) or 0.5
        self.rates: list[Rate] = []


def _show(stage: _Stage, known: History, runs: int, looks: int) -> None:
    asked = stage.asked
    kind = "pairs" if asked.mode == "shadow" else "units"
    size = f"{asked.horizon:,} {kind} of {known.model!r}"
    say(f"{asked.mode}: {runs} A/A experiments of {size}, {min(looks, asked.horizon)} looks each.\n")
    table(("rule", "metric", "false alarms", "95 % interval", "may be", ""), map(_row, stage.rates))
    for name in unheard(asked, known):
        say(f"warn: {name}: no unit has it in these days, so that it was left out", "yellow")


def _document(rate: Rate) -> dict[str, object]:
    return {
        "rule": rate.rule,
        "metric": rate.metric,
        "alarms": rate.alarms,
        "runs": rate.runs,
        "lower": rate.interval.lower,
        "upper": rate.interval.upper,
        "nominal": rate.nominal,
        "too_often": rate.too_often,
    }


def _row(rate: Rate) -> tuple[object, ...]:
    span = f"{100 * rate.interval.lower:.1f} to {100 * rate.interval.upper:.1f} %"
    share = f"{100 * rate.alarms / rate.runs:.1f} %"
    mark = "too often" if rate.too_often else ""
    return rate.rule, rate.metric or "", share, span, f"{100 * rate.nominal:.2g} %", mark
