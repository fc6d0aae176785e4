"""`turnout golden import | export | add`: how do golden sets come from other tools and the ledger, and go?

Exit codes as for the other `turnout golden` commands: 0 all was taken, 1 something was refused (and listed),
3 nothing was done.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from evaluators.errors import EvaluatorError
from evaluators.formats import IMPORTS, Draft, ImportOptions, import_files, write_set
from evaluators.formats.exchanges import lift
from evaluators.formats.export import EXPORTS, RunRecord
from evaluators.loading import ITEMS_FILE, load_golden_set
from evaluators.results import ResultRow
from experiments.client import path_part
from turnout.golden_commands import (
    NOTHING_CONCLUDED,
    ControlOption,
    JsonOption,
    Places,
    SetArgument,
    TokenOption,
    concluding,
    set_path,
)
from turnout.terminal import concluding_with, emit, err, put, put_into, say

_SHOWN: Final = 30
_REFUSED: Final = 1

CheckOption = Annotated[
    list[str] | None,
    typer.Option("--check", help="A check for every item: a scorer's name, or JSON. May be repeated."),
]


def import_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What the other tool wrote.")],
    format_: Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(sorted(IMPORTS))}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the golden set to write.")],
    scorer: Annotated[
        str | None, typer.Option(help="The foreign scorer: an OpenAI class, or one of Inspect's.")
    ] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--map", help="OURS=THEIRS, such as input=question. May be repeated.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The question, with {{columns}} to fill in.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message for every item.")] = None,
    checks: CheckOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a golden set of another tool's files. What cannot be imported is listed, item by item."""
    with concluding():
        options = ImportOptions(
            scorer=scorer,
            fields=_mapping(fields or ()),
            prompt=prompt,
            system=system,
            checks=_checks(checks or ()),
        )
        draft = import_files(format_, files, options)
        if not dry_run:
            names = ", ".join(path.name for path in files)
            write_set(out, draft, description=f"Imported from {names} ({format_}).")
    with concluding_with(_REFUSED if draft.refused else 0, NOTHING_CONCLUDED):
        _tell(draft, None if dry_run else out, as_json=as_json)


def export_command(
    set_: SetArgument,
    run_id: Annotated[str, typer.Option("--run", "-r", help="A stored run; `turnout golden run` names it.")],
    format_: Annotated[str, typer.Option("--format", "-f", help=f"One of {', '.join(sorted(EXPORTS))}.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; default: stdout.")] = None,
    control_url: ControlOption = None,
    token: TokenOption = None,
) -> None:
    """Write a stored run as another tool reads it."""
    places = Places(control_url=control_url, token=token)
    with concluding(), places.api() as api:
        if format_ not in EXPORTS:
            raise EvaluatorError(f"no format {format_!r}; there are {', '.join(sorted(EXPORTS))}")
        golden_set = load_golden_set(set_path(set_))
        found = api.get(f"/api/golden/runs/{path_part(run_id, 'run')}")
        text = EXPORTS[format_](golden_set, _record(found))
        if found["run"]["set_hash"] != golden_set.hash:
            _warn("the set has changed since the run: items that are another question now are left out")
        if out is None:
            put(text)
        else:
            put_into(out, text)


def add_command(
    exchange_id: Annotated[str, typer.Argument(metavar="EXCHANGE_ID", help="An exchange of the ledger.")],
    set_: Annotated[str, typer.Option("--set", "-s", help="The set's folder; made if it is not there.")],
    id_: Annotated[str | None, typer.Option("--id", help="The item's id.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The right answer. Default, without --check: the recorded one.")
    ] = None,
    checks: CheckOption = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="May be repeated.")] = None,
    control_url: ControlOption = None,
    token: TokenOption = None,
) -> None:
    """Make a golden item of a recorded exchange, with what identifies people blotted out."""
    places = Places(control_url=control_url, token=token)
    with concluding(), places.api() as api:
        exchange = api.get(f"/api/exchanges/{path_part(exchange_id, 'exchange')}")
        # What is declared now, whatever was in force when the exchange was recorded.
        declared = api.get(f"/api/models/{exchange['model']}/recording")["redact"]
        lifted = lift(
            exchange,
            patterns=declared,
            id=id_,
            reference=reference,
            checks=_checks(checks or ()),
            tags=tags or (),
            added=datetime.now(UTC).date(),
        )
        folder = set_path(set_)
        path = folder if folder.suffix == ".jsonl" else folder / ITEMS_FILE
        _append(path, lifted.row)
    for field in lifted.left_out:
        _warn(f"{field} of the request is no part of the question and was left out")
    noun = "place" if lifted.redactions == 1 else "places"
    say(
        f"{lifted.row['id']} added to {path}; {lifted.redactions} {noun} blotted out. "
        "Look at it before you commit it."
    )


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a row. Raises EvaluatorError or OSError, and changes nothing, when the file were no golden set
    then, or has no room. What is there is never written again; the lock keeps two from adding at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.seek(0, os.SEEK_END)
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            file.seek(max(0, before - 1))
            _write_whole(file, line if file.read(1) in (b"", b"\n") else b"\n" + line)
            load_golden_set(path.parent if path.name == ITEMS_FILE else path)
        except BaseException:
            file.truncate(before)
            raise


def _write_whole(file: io.FileIO, content: bytes) -> None:
    """A disk with less room takes a part, and says so only to whoever writes the rest."""
    while content:
        content = content[file.write(content) :]


def _record(found: dict[str, Any]) -> RunRecord:
    run = found["run"]
    return RunRecord(
        run_id=run["run_id"],
        model=run["model"],
        version=run["version"],
        started_at=str(run.get("started_at") or ""),
        ended_at=run.get("ended_at"),
        rows=[ResultRow.from_json(row) for row in found["results"]],
    )


def _tell(draft: Draft, out: Path | None, *, as_json: bool) -> None:
    if as_json:
        refused = [{"item": one.item, "field": one.field, "why": one.why} for one in draft.refused]
        summary = {
            "format": draft.format,
            "read": draft.read,
            "items": len(draft.rows),
            "checks": draft.checks,
        }
        emit({**summary, "refused": refused})
        return
    where = f" written to {out}" if out else ""
    say(f"{len(draft.rows)} of {draft.read} items, {draft.checks} checks{where}.")
    if draft.refused:
        err.print(f"Not imported ({len(draft.refused)}):", style="yellow")
        for one in draft.refused[:_SHOWN]:
            err.print(f"  {escape(str(one))}", soft_wrap=True)
        if len(draft.refused) > _SHOWN:
            err.print(f"  ... and {len(draft.refused) - _SHOWN} more (--json lists them)")


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours or not theirs:
            raise EvaluatorError(f"--map {pair}: expected OURS=THEIRS, such as input=question")
        found[ours] = theirs
    return found


def _checks(given: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Checks as options: JSON objects, or the bare name of a scorer."""
    found = []
    for text in given:
        try:
            check = json.loads(text) if text.lstrip().startswith("{") else {"type": text}
        except ValueError as error:
            raise EvaluatorError(f"--check {text}: no JSON ({error})") from None
        found.append(check)
    return tuple(found)


def _warn(text: str) -> None:
    err.print(text, style="yellow", markup=False, soft_wrap=True)
