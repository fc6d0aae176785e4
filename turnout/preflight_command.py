"""`turnout preflight`: is a new version safe to ask at all, held against production?

Exit codes as `turnout golden`: 0 pass, 1 fail, 2 inconclusive, 3 nothing was concluded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from evaluators.errors import EvaluatorError
from evaluators.loading import load_golden_set
from evaluators.preflight import CHECKS, PROBES, Asker, Probe, Report, Side, of_items, preflight, record, side
from evaluators.preflight.artefacts import changed_settings, of_folder
from experiments.client import ControlClient
from turnout.golden_commands import (
    EXIT_CODES,
    NOTHING_CONCLUDED,
    ApiKeyOption,
    ControlOption,
    GoldenCommand,
    JsonOption,
    Places,
    ProxyOption,
    TimeoutOption,
    TokenOption,
    concluding,
    set_path,
)
from turnout.golden_report import STYLES
from turnout.terminal import concluding_with, emit, err, out

_STYLES: Final = {"ok": "green", "note": "dim", "warn": "yellow", "fail": "red", "unchecked": "magenta"}
_MOST_ITEMS: Final = 20
_STOPPED: Final = "Stopped. Nothing of it is stored: the same command begins anew."

preflight_app = typer.Typer(add_completion=False)


@preflight_app.command("preflight", cls=GoldenCommand)
def preflight_command(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    candidate: Annotated[str, typer.Option("--candidate", "-c", help="A version's number or alias.")],
    control: Annotated[str, typer.Option("--control", help="What it is held against.")] = "production",
    set_: Annotated[
        str | None, typer.Option("--set", help=f"A golden set: its first {_MOST_ITEMS} items are asked too.")
    ] = None,
    control_files: Annotated[
        Path | None, typer.Option(help="The folder that production is served from: its files are hashed.")
    ] = None,
    candidate_files: Annotated[
        Path | None, typer.Option(help="The folder that the candidate is served from.")
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept", help="A check whose difference is intended, such as template. May be repeated."
        ),
    ] = None,
    timeout: TimeoutOption = 120.0,
    as_json: JsonOption = False,
    proxy_url: ProxyOption = None,
    control_url: ControlOption = None,
    token: TokenOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Hold a candidate against production before it gets traffic: how it reads, calls tools and streams."""
    places = Places(proxy_url=proxy_url, control_url=control_url, token=token, api_key=api_key)
    with concluding(_STOPPED), places.api() as api:
        if unknown := sorted(set(accept or ()) - set(CHECKS)):
            raise EvaluatorError(f"--accept {unknown[0]}: expected one of {', '.join(CHECKS)}")
        folders = (control_files, candidate_files)
        sides = _sides(api, model, (control, candidate), folders)
        items = load_golden_set(set_path(set_)).items if set_ else ()
        settings, opened = places.opened()
        asker = Asker(
            base_url=settings.proxy_address, model=model, token=opened, api_key=api_key, timeout_s=timeout
        )
        probes = (*PROBES, *of_items(items, _MOST_ITEMS))
        report = asyncio.run(_watched(asker, api, model, sides, probes, changed_settings(*folders)))
        report = report.accepting(accept or ())
        record(api, report)
    with concluding_with(EXIT_CODES[report.verdict], NOTHING_CONCLUDED):
        if as_json:
            emit(report.to_json())
        else:
            print_report(out, report)


def _sides(
    api: ControlClient, model: str, names: tuple[str, str], folders: tuple[Path | None, Path | None]
) -> tuple[Side, Side]:
    """Control and candidate. Raises EvaluatorError when they are one version."""
    hashes = [None if folder is None else of_folder(folder) for folder in folders]
    control, candidate = (side(api, model, name, files) for name, files in zip(names, hashes, strict=True))
    if control.version == candidate.version:
        raise EvaluatorError(
            f"{names[0]!r} and {names[1]!r} are the same version {control.version} of {model}; name another"
        )
    return control, candidate


async def _watched(
    asker: Asker,
    api: ControlClient,
    model: str,
    sides: tuple[Side, Side],
    probes: Sequence[Probe],
    settings: Mapping[str, list[str]],
) -> Report:
    """The preflight, with a bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    async with asker:
        with Progress(*columns, console=err, transient=True) as progress:
            task = progress.add_task(escape(f"preflight of {model} version {sides[1].version}"), total=None)
            return await preflight(
                model,
                *sides,
                api,
                asker,
                probes=probes,
                changed_settings=settings,
                on_step=lambda done, planned: progress.update(task, completed=done, total=planned),
            )


def print_report(console: Console, report: Report) -> None:
    """A row per finding, and the verdict in a sentence."""
    console.print(
        f"[bold]{escape(report.model)}[/]: version {report.candidate_version} "
        f"against version {report.control_version}"
    )
    table = Table("check", "", "finding")
    for finding in report.findings:
        style = _STYLES[finding.status]
        items = f"\n[dim]{escape(', '.join(finding.items[:8]))}[/]" if finding.items else ""
        table.add_row(
            finding.check.replace("_", " "), f"[{style}]{finding.status}[/]", escape(finding.sentence) + items
        )
    console.print(table)
    console.print(escape(report.sentence), style=STYLES[report.verdict], highlight=False)
