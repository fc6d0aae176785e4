"""`turnout golden label`: how do people's grades come to hold a judge to account?

Takes the newest comparison of two versions, draws, and asks in the terminal; without one, by a worksheet.
Exit codes: 0 done, or ended by the labeller; 1 rows of a worksheet were not taken (and are listed); 3 nothing
was done.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluators.errors import EvaluatorError
from evaluators.golden import GoldenSet
from evaluators.labels.cases import Cases, cases_to_label
from evaluators.labels.correction import sample_of
from evaluators.labels.draw import MIN_LABELLED, Draw
from evaluators.labels.label import People
from evaluators.labels.ledger import ComparedRuns, LabelLedger
from evaluators.labels.task import Task
from evaluators.labels.worksheet import Pen, Refused, read, waiting, write
from evaluators.ledger import GoldenLedger
from evaluators.loading import load_golden_set
from experiments.client import ControlClient
from turnout.golden_commands import (
    ControlOption,
    JsonOption,
    ModelOption,
    Places,
    SetArgument,
    TokenOption,
    concluding,
    set_path,
)
from turnout.label_session import LabelSession, TerminalKeyboard
from turnout.terminal import emit, err, say
from turnout.terminal import out as screen

_REFUSED = 1


def label_command(
    set_: SetArgument,
    model: ModelOption,
    candidate: Annotated[str, typer.Option("--candidate", "-c", help="The candidate: a number or an alias.")],
    control: Annotated[str, typer.Option("--control", help="What it was compared with.")] = "production",
    check: Annotated[str | None, typer.Option(help="The judge's check; default: the one that gates.")] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="How many drawn items are labelled, declared before the first label."),
    ] = None,
    labeller: Annotated[str | None, typer.Option(help="Who labels; default: your user name.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a worksheet (.jsonl or .csv) instead of asking.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Take the labels of a worksheet that was filled in.")
    ] = None,
    as_json: JsonOption = False,
    control_url: ControlOption = None,
    token: TokenOption = None,
) -> None:
    """Grade drawn answers of a comparison, so that its judge may gate.

    Which version answered, and what the judge said, is not shown.
    """
    places = Places(control_url=control_url, token=token)
    refused: list[Refused] = []
    with concluding(), places.api() as api:
        desk = _desk(api, set_path(set_), model, control, candidate, check)
        if not desk.cases.open:
            say("The answers of both versions are the same: there is nothing to label.")
            return
        name = labeller or getpass.getuser()
        draw = desk.draw(size, name)
        desk.hand_out()
        pen = Pen(golden=desk.golden, draw=draw, labeller=name, judge=", ".join(desk.cases.judges) or None)
        tasks = waiting(sample_of(desk.cases, [draw]), desk.people(), name, draw.seed)
        if out is not None:
            write(out, tasks)
        elif from_ is not None:
            labels, refused = read(from_, tasks, pen)
            desk.labels.add(labels)
        elif tasks:
            if not (sys.stdin.isatty() and sys.stdout.isatty()):
                raise EvaluatorError(
                    "this is no terminal: --out FILE writes a worksheet, --from FILE takes it"
                )
            _ask(desk, tasks, pen)
        state = desk.state(draw, name)
    _tell(state, refused, as_json=as_json)
    raise typer.Exit(_REFUSED if refused else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDesk:
    """A comparison's judge, with what people have said of it so far."""

    golden: GoldenSet
    runs: ComparedRuns
    cases: Cases
    labels: LabelLedger

    def people(self) -> People:
        """What people have said until now."""
        return self.labels.people(self.golden, self.runs.control.run_id, self.runs.candidate.run_id)

    def draw(self, size: int | None, name: str) -> Draw:
        """The draw in force; declared now if there is none, or if a greater one is asked for."""
        found = self.people().draws_of(self.cases.evaluator, self.cases.seed)
        if found and (size is None or size <= found[-1].size):
            return found[-1]
        return self.labels.declare(self.runs, self.cases.evaluator, size or MIN_LABELLED, declared_by=name)

    def hand_out(self) -> None:
        """Let the dashboard ask for the same."""
        self.labels.hand_out(
            self.golden.name, self.runs.control.run_id, self.runs.candidate.run_id, self.cases
        )

    def state(self, draw: Draw, name: str) -> dict[str, Any]:
        """How far the labels are."""
        people, sample = self.people(), sample_of(self.cases, [draw])
        return {
            "check": self.cases.evaluator,
            "declared": draw.size,
            "drawn": len(sample),
            "labelled": sum(case.ends(people) is not None for case in sample),
            "open": len(self.cases.open),
            "waiting": len(waiting(sample, people, name, draw.seed)),
            "labeller": name,
            "seed": draw.seed,
        }


def _desk(
    api: ControlClient, path: Path, model: str, control: str, candidate: str, check: str | None
) -> LabelDesk:
    """The newest comparison of these versions. Raises EvaluatorError and ControlError."""
    golden_set, ledger, labels = load_golden_set(path), GoldenLedger(api), LabelLedger(api)
    key = _judged(golden_set, check)
    versions = [ledger.subject(model, reference).version for reference in (control, candidate)]
    runs = labels.compared(golden_set, model, *versions)
    one, other = (
        ledger.results(golden_set, run, int(run.parameters.get("repeats", 1)))
        for run in (runs.control, runs.candidate)
    )
    cases = cases_to_label(golden_set, key, one, other)
    return LabelDesk(golden=golden_set, runs=runs, cases=cases, labels=labels)


def _ask(desk: LabelDesk, tasks: Sequence[Task], pen: Pen) -> None:
    with TerminalKeyboard() as keyboard:
        LabelSession(
            tasks=tasks,
            pen=pen,
            save=lambda label: desk.labels.add([label]),
            console=screen,
            keyboard=keyboard,
        ).run()


def _judged(golden_set: GoldenSet, check: str | None) -> str:
    """The check to label. Raises EvaluatorError when it is not clear which."""
    judged = golden_set.judged
    if check is not None:
        if check not in judged:
            known = ", ".join(judged) or "none"
            raise EvaluatorError(f"{golden_set.name} has no judge {check!r}; there are {known}")
        return check
    wanted = [key for key, gates in judged.items() if gates] or list(judged)
    if len(wanted) != 1:
        raise EvaluatorError(
            f"{golden_set.name} has several judges ({', '.join(wanted)}): name one with --check"
            if wanted
            else f"{golden_set.name} has no judge: there is nothing for labels to correct"
        )
    return wanted[0]


def _tell(state: dict[str, Any], refused: list[Refused], *, as_json: bool) -> None:
    if as_json:
        rows = [{"row": one.row, "why": one.why} for one in refused]
        emit({**state, "refused": rows})
        return
    for one in refused:
        err.print(f"row {one.row}: {one.why}", markup=False, soft_wrap=True)
    left = f"{state['waiting']} answers wait for {state['labeller']}"
    say(f"{state['check']}: {state['labelled']} of {state['drawn']} drawn items are labelled; {left}.")
    if state["labelled"] == state["drawn"]:
        say("The sample is whole: turnout golden compare says what follows.")
