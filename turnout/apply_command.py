"""`turnout apply`: what would a folder of files change, and may it?

Reads the files, shows the controller's plan of them, asks, and has exactly that plan carried out. What the
files mean is the controller's: it may be newer than this command.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.text import Text

from experiments.errors import DocumentError

from .operations import actor, control_api, settings_in_force
from .processes import EVALUATORS_FILE
from .terminal import emit, err, fail, out, plain, say

Json = dict[str, Any]

apply_app = typer.Typer(pretty_exceptions_enable=False)

#: `--dry-run` ends with it where something would change; 0 is nothing, 1 is wrong or refused, 2 wrong usage.
CHANGES: Final = 3
#: Each step waits for the workers; a large folder has many.
_PATIENCE_S: Final = 600.0
_VERBS: Final = {
    "configure": ("~", "yellow"),
    "change": ("~", "yellow"),
    "create": ("+", "green"),
    "stop": ("-", "red"),
    "refused": ("!", "red"),
    "missing": ("?", "dim"),
    "unchanged": (" ", "dim"),
}
#: Of a plan's digest, for people.
_SHOWN: Final = 12
_LINES: Final = {"+": "green", "-": "red", "@": "cyan"}


@apply_app.command()
def apply_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds turnout.yaml and experiments' files.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; exit code 0: no changes, 3: changes, 1: wrong.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Stop the experiments that an apply began and no file declares.")
    ] = False,
    plan: Annotated[
        str | None, typer.Option(help="Apply only if this is still the plan: what a dry run calls it.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Where the files come from, such as a commit: kept with each step."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Bring about what a folder's files declare: turnout.yaml, evaluators.yaml, and each other *.yaml an
    experiment.

    All of them are checked before anything is changed. What is in no file is left alone.
    """
    files = read_files(folder)
    wrong = wrong_evaluators(folder)
    if wrong is not None:
        err.print(Text(plain(wrong), style="red"), soft_wrap=True)
    body: Json = {"files": files, "prune": prune, "actor": actor(), "reference": reference}
    with control_api(settings_in_force(), timeout_s=_PATIENCE_S) as api:
        planned = api.post("/api/apply", {**body, "dry_run": True})
        if not as_json:
            show(planned)
        if dry_run or wrong or planned["refused"]:
            _end(planned, as_json=as_json, wrong=wrong is not None)
        if plan is not None and not (len(plan) >= _SHOWN and planned["plan"].startswith(plan)):
            fail(f"the plan is another one by now, {planned['plan'][:_SHOWN]}: look at it with --dry-run")
        if planned["changes"] and not yes:
            _ask(as_json=as_json)
        done = api.post("/api/apply", {**body, "plan": planned["plan"]})
    if as_json:
        emit(done)
        return
    for one in done["done"]:
        for sentence in (*one["changed"], *(f"still to do: {pending}" for pending in one["pending"])):
            say(f"{sentence[:1].upper()}{sentence[1:]}")
    say(f"Applied: {len(done['done'])} of {done['changes']} steps." if done["changes"] else "Nothing to do.")


def read_files(folder: Path) -> list[Json]:
    """The folder's *.yaml and *.yml by name, without those in folders below and hidden ones. Ends the command
    with every file that cannot be read.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".yml")]
    except OSError as error:
        fail(f"the folder {folder} cannot be read: {error.strerror}", 2)
    files, trouble = [], []
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            files.append({"path": str(path), "text": path.read_bytes().decode("utf-8-sig")})
        except OSError as error:
            trouble.append(f"{path} cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            trouble.append(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8")
    if trouble:
        fail("\n".join(trouble), 2)
    if not files:
        fail(f"{folder} holds no *.yaml: there must be turnout.yaml or an experiment's file in it", 2)
    return files


def wrong_evaluators(folder: Path) -> str | None:
    """Every problem of the evaluators' file, None without any. Checks and judges are theirs to understand:
    the controller knows the file's shape only."""
    file = folder / EVALUATORS_FILE
    if not file.exists():
        return None
    from evaluators.automation import read_automation
    from evaluators.errors import GoldenSetError

    try:
        read_automation(file)
    except GoldenSetError as error:
        return str(DocumentError(tuple(error.problems)))
    return None


def _end(planned: Json, *, as_json: bool, wrong: bool) -> NoReturn:
    if as_json:
        emit(planned)
    raise typer.Exit(1 if wrong or planned["refused"] else CHANGES if planned["changes"] else 0)


def _ask(*, as_json: bool) -> None:
    """Ends the command unless somebody says yes."""
    if as_json or not sys.stdin.isatty():
        fail("nobody is there to be asked: give --yes to apply this plan, or --dry-run to look only", 2)
    if not typer.confirm("Apply it?", err=True):
        fail("nothing was changed")


# -- the plan on the screen ----------------------------------------------------------------------------------


def show(planned: Json) -> None:
    """Each step with its diff, then the sum of it."""
    last = planned["cut_short"]
    if last is not None:
        origin = f" ({last['reason']})" if last["reason"] else ""
        told = f"The last apply, by {last['actor']} at {last['at']}{origin}, was {last['changed'][-1]}"
        out.print(Text(plain(told), style="yellow"), soft_wrap=True)
    for step in planned["steps"]:
        sign, style = _VERBS.get(step["verb"], ("", ""))
        first, *more = step["sentences"] or [""]
        out.print(Text(plain(f"{sign} {step['name']}: {step['verb']}, {first}"), style=style), soft_wrap=True)
        for sentence in more:
            out.print(Text(plain(f"    {sentence}"), style=style), soft_wrap=True)
        for line in step["diff"]:
            out.print(Text(plain(f"    {line}"), style=_LINES.get(line[:1], "")), soft_wrap=True)
    say(_summary(planned))


def _summary(planned: Json) -> str:
    counts: dict[str, int] = {}
    for step in planned["steps"]:
        counts[step["verb"]] = counts.get(step["verb"], 0) + 1
    told = {"missing": "in no file", "refused": "refused", "unchanged": "unchanged"}
    words = [f"{count} {told.get(verb, f'to {verb}')}" for verb, count in counts.items()]
    return f"Plan {planned['plan'][:_SHOWN]}: {', '.join(words)}."
