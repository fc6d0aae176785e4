"""`turnout plan`: what can this experiment find out, how long will it take, and how soon is harm caught?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from experiments.errors import DocumentError
from experiments.evidence import AnalysisSpec
from experiments.history import History
from experiments.lifecycle import entering_share
from experiments.planning import Caught, GoalPlan, Plan, plan
from experiments.spec import ExperimentSpec, analysis_of, read_spec

from .operations import control_api, settings_in_force, spec_text
from .terminal import emit, fail, say, table

plan_app = typer.Typer(pretty_exceptions_enable=False)
_HISTORY: Any = TypeAdapter(History)


@plan_app.command()
def plan_command(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The experiment's file.")],
    days: Annotated[float, typer.Option(help="How many days of the ledger to learn from.")] = 7.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Say before the start what the horizon is worth, from the ledger's own traffic and variance.

    Exit code 1 if a margin or an mde that the spec asks for cannot be shown at the horizon.
    """
    declared, text = read(spec)
    known = history_of(text, spec, days)
    found = [_planned(declared, stage, known) for stage in range(len(declared.plan))]
    if as_json:
        emit([asdict(one) for one in found])
    else:
        for one in found:
            _show(one)
    raise typer.Exit(0 if all(goal.enough for one in found for goal in one.goals) else 1)


def read(spec: Path) -> tuple[ExperimentSpec, str]:
    """The spec and its text. Ends the command if it is none."""
    text = spec_text(spec)
    try:
        return read_spec(text, str(spec)), text
    except DocumentError as error:
        fail(str(error), 2)


def history_of(text: str, spec: Path, days: float) -> History:
    """The traffic that the ledger has had of the spec's model. Ends the command if there is none."""
    settings = settings_in_force()
    with control_api(settings, timeout_s=120) as api:
        body = {"spec_yaml": text, "filename": str(spec), "days": days}
        found: History = _HISTORY.validate_python(api.post("/api/experiments/history", body))
    if not found.units:
        fail(f"the ledger has no traffic of {found.model!r} in the last {days:g} days: nothing to learn from")
    return found


def analysis(declared: ExperimentSpec, stage: int) -> AnalysisSpec:
    """What the statistics need of a stage of a spec whose versions are not known yet."""
    return analysis_of(declared, control_version=1, candidate_version=2, stage=stage)


def _planned(declared: ExperimentSpec, stage: int, known: History) -> Plan:
    weights = declared.plan[stage].weights_ppm
    return plan(
        analysis(declared, stage),
        known,
        first_share=weights[0] / 1e6,
        last_share=weights[-1] / 1e6,
        entering=entering_share(declared),
    )


def _show(found: Plan) -> None:
    rate = "unknown" if found.units_a_day is None else f"{found.units_a_day:,.0f}"
    days = "unknown" if found.days is None else _span(found.days)
    where = "mirrored to" if found.mode == "shadow" else "on"
    share = f"{100 * found.share:g} % {where} the candidate"
    say(f"{found.experiment}, {found.mode}: horizon {found.horizon:,} units, {share}.")
    if found.entering < 1:
        rate += f" ({100 * found.entering:.3g} % of production's: the others cannot enter)"
    say(f"Units a day: {rate}; to the horizon: {days} (max_duration {_span(found.max_days)}).\n")
    table(
        (
            "metric",
            "role",
            "in production",
            "known of",
            "can be shown",
            "asked",
            "units needed",
            "a harm, caught after",
        ),
        [_row(goal) for goal in found.goals],
    )
    for warning in found.warnings:
        say(f"warn: {warning}", "yellow")


def _row(goal: GoalPlan) -> tuple[object, ...]:
    caught = "\n".join(map(_caught, goal.caught))
    return (
        goal.metric, goal.role, "-" if goal.level is None else f"{goal.level:.3g}",
        "-" if goal.coverage is None else f"{100 * goal.coverage:.3g} %",
        _percent(goal.detectable), _percent(goal.asked),
        "-" if goal.units_needed is None else f"{goal.units_needed:,}", caught,
    )  # fmt: skip


def _caught(one: Caught) -> str:
    """x2: 1,240 units, 124 on the candidate, 3.0 h. Where not all have a value, those that have one."""
    if one.units is None:
        return f"x{one.factor:g}: not by then"
    days = "" if one.days is None else f", {_span(one.days)}"
    return f"x{one.factor:g}: {one.units:,} units, {one.measured:,} on the candidate{days}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2g} %"


def _span(days: float) -> str:
    hours = days * 24
    return f"{days:.1f} d" if days >= 2 else f"{hours:.1f} h" if hours >= 2 else f"{hours * 60:.0f} min"
