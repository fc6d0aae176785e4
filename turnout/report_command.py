"""`turnout report`: a verdict with everything that it follows from, in a folder; and again from there."""

from __future__ import annotations

import shlex
import tarfile
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer

from .terminal import emit, fail, say

report_app = typer.Typer(pretty_exceptions_enable=False)


@report_app.command()
def report(
    experiment: Annotated[str | None, typer.Argument(metavar="[EXPERIMENT]")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to write; it must be empty.")] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", help="Which verdict. Default: the latest one.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="A folder that was written so: reach its verdict again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Write a verdict with its spec, sums, rows and plots into a folder; or reach it again from one.

    The rows are without bodies, and units are pseudonyms. `--replay DIR` needs neither controller nor
    ledger: exit code 0 if the rows give the same sums and these the same verdict, to the byte, 1 if not.
    """
    if replay is not None:
        _replay(replay, as_json=as_json)
    elif experiment is None or out is None:
        fail("give an experiment and --out DIR, or --replay DIR", 2)
    else:
        _write(experiment, out, digest, as_json=as_json)


def _write(experiment: str, out: Path, digest: str | None, *, as_json: bool) -> None:
    from .operations import control_api, path_part, settings_in_force
    from .report_page import write_page

    settings = settings_in_force()
    try:
        with (
            control_api(settings) as api,
            TemporaryFile(dir=_beside(out)) as archive,
        ):
            params = {"digest": digest} if digest else None
            api.download(f"/api/experiments/{path_part(experiment, 'experiment')}/report", archive, params)
            archive.seek(0)
            out.mkdir(parents=True, exist_ok=True)
            with tarfile.open(fileobj=archive) as packed:
                packed.extractall(out, filter="data")
    except (OSError, tarfile.TarError) as error:
        fail(f"the report cannot be written to {out}: {error}")
    write_page(out)
    if as_json:
        emit({"folder": str(out), "files": sorted(file.name for file in out.iterdir())})
    else:
        say(f"Written to {out}; to be read: {out / 'report.md'}.")
        say(f"To reach the same verdict from it: turnout report --replay {shlex.quote(str(out))}")


def _beside(out: Path) -> Path:
    """Where the archive may lie meanwhile: room for it is needed there, and /tmp may be small. Raises
    OSError, and ends the command if the folder is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        fail(f"{out} is not empty: name a folder that is not there yet")
    return next(folder for folder in (out, *out.parents) if folder.is_dir())


def _replay(folder: Path, *, as_json: bool) -> None:
    from experiments.dossier import DossierError, replay, written_by
    from experiments.errors import ExperimentsError

    try:
        checks, other = replay(folder), written_by(folder)
    except (DossierError, LookupError, ExperimentsError) as error:
        fail(str(error))
    same = all(check.same for check in checks)
    if as_json:
        found = [{"what": one.what, "same": one.same, "detail": one.detail} for one in checks]
        emit({"same": same, "checks": found, "written_by_another": other})
    else:
        for check in checks:
            word, style = ("same     ", "") if check.same else ("different", "red")
            say(f"{word}  {check.what}{': ' if check.detail else ''}{check.detail}", style)
        intact = checks[0].same
        if same:
            say("The verdict is the same to the byte.")
        elif other and intact:
            say(f"The folder is as it was written, but by another code: {other}.")
            say("Its sums and rules may be others: that code reaches its verdict.")
        else:
            say("This is not the verdict of these rows.")
    raise typer.Exit(0 if same else 1)
