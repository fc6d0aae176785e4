"""`turnout replay`: what would the candidate have answered to requests that were recorded?

The experiment is declared first, like any other; this command only brings its requests.
"""

from __future__ import annotations

import json
import os.path
import time
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from experiments.client import ControlClient, ControlError, path_part

from .operations import reasons_text, refusal, replay_text, settings_in_force, spec_text
from .replaying import FAILING, Journal, Rate, Stopped, Tally, Way, replay
from .settings import Settings
from .terminal import emit, err, fail, say, table, waiting

Json = dict[str, Any]

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[SPEC|EXPERIMENT]",
        help="A file that declares a shadow of recorded requests, or such an experiment to go on with.",
    ),
]
replay_app = typer.Typer(pretty_exceptions_enable=False)

#: How long rows may take to be collected, and the verdict to follow.
_ARRIVAL_S: Final = 30.0
_VERDICT_S: Final = 10.0
_SPEC: Final = """\
experiment: {name}
model: {model}
mode: shadow
candidate: {candidate}
control: {control}
traffic: {traffic}
metrics:
  guardrails: [{{metric: error_rate, tolerated_ratio: 1.25}}]
  exploratory: [{{metric: completion_tokens}}]
analysis: {{horizon: {horizon}, max_duration: 90d}}
"""


@replay_app.command()
def replay_command(
    what: What = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Without a file: the model.")] = None,
    candidate: Annotated[
        str | None, typer.Option("--candidate", "-c", help="Without a file: a version's number or alias.")
    ] = None,
    control: Annotated[str, typer.Option(help="Whose requests: a number or an alias.")] = "production",
    since: Annotated[str, typer.Option(help="From when: 24h (before now) or 2026-11-20T08:00:00Z.")] = "24h",
    until: Annotated[str, typer.Option(help="Up to when, in the same way; default: now.")] = "0s",
    share: Annotated[float, typer.Option(min=0.0001, max=100, help="The percentage of the units.")] = 100.0,
    limit: Annotated[int | None, typer.Option(min=1, help="So many requests at most, the oldest.")] = None,
    tools: Annotated[
        str, typer.Option(help="skip or send: requests that offer tools. They are never executed.")
    ] = "skip",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens that all copies may use.")] = None,
    name: Annotated[str | None, typer.Option(help="The experiment's name.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests a second at most.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests in flight at once.")] = 8,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked, and ask nothing.")
    ] = False,
    list_skipped: Annotated[
        bool, typer.Option("--list-skipped", help="List the requests that get no pair, and why.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Put recorded requests of production to a candidate that nobody sees: a shadow of the past.

    Goes on where it broke off: name the experiment. What has its pair is not asked again. Exit codes: 0
    nothing is left to ask, or the verdict came before; 1 something is left, or the candidate was rolled
    back; 2 wrong usage.
    """
    if (what is None) == (model is None or candidate is None):
        fail("name a file or an experiment, or else --model and --candidate", 2)
    recorded = {"since": since, "until": until} | ({} if limit is None else {"limit": limit})
    traffic: Json = {"share": share, "tools": tools, "recorded": recorded}
    if max_tokens is not None:
        traffic["max_tokens"] = max_tokens
    settings, token = _opened()
    try:
        api = ControlClient(settings.control_address, token, timeout_s=120, while_waiting=waiting)
        with closing(api):
            desk = _Desk(api, settings, token, as_json=as_json)
            if what is not None and not os.path.isfile(what):
                if Path(what).suffix in (".yaml", ".yml"):
                    fail(f"{what} is not there", 2)
                found = desk.experiment(what)
            else:
                text = (
                    spec_text(Path(what)) if what else desk.written(model, candidate, control, name, traffic)
                )
                if dry_run:
                    desk.show_preview(text, what or "the options")
                    return
                found = desk.begun(text, what or "the options of turnout replay")
            if dry_run:
                desk.show(found["name"], Tally())
                return
            code = desk.run(found, rate, concurrency, list_skipped=list_skipped)
    except ControlError as error:
        fail(refusal(settings, error), 2 if error.status == 400 else 1)
    raise typer.Exit(code)


class _Desk:
    """What the command works with."""

    def __init__(self, api: ControlClient, settings: Settings, token: str, *, as_json: bool) -> None:
        self._api = api
        self._settings = settings
        self._token = token
        self._as_json = as_json

    # -- what is asked -----------------------------------------------------------------------------------

    def written(
        self, model: str | None, candidate: str | None, control: str, name: str | None, traffic: Json
    ) -> str:
        """The spec that the options amount to.

        Its horizon is all units that can have pairs: the end is that nothing is left to ask.
        """
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        fields = {
            "name": name or f"replay-{_part(model)}-v{_part(candidate)}-{moment}"[:63],
            "model": _yaml(model),
            "candidate": _version(candidate or ""),
            "control": _version(control),
            "traffic": _yaml(traffic),
        }
        found = self._preview(_SPEC.format(**fields, horizon=5000), "the options of turnout replay")
        return _SPEC.format(**fields, horizon=max(2, found["units"]))

    def _preview(self, text: str, file: str) -> Json:
        found: Json = self._api.post("/api/recorded", {"spec_yaml": text, "filename": file})
        return found

    def begun(self, text: str, file: str) -> Json:
        """The experiment that the spec declares: begun now, or open already."""
        body = {"spec_yaml": text, "filename": file}
        self._preview(text, file)  # a spec that replays nothing is told so before it begins
        found: Json = self._api.post("/api/experiments", body)
        return found

    def experiment(self, name: str) -> Json:
        """An experiment that is there."""
        found: Json = self._api.get(f"/api/experiments/{path_part(name, 'experiment')}")
        return found

    # -- asking ------------------------------------------------------------------------------------------

    def run(self, found: Json, rate: float | None, concurrency: int, *, list_skipped: bool) -> int:
        """Bring the requests, wait for their rows and the verdict, and say what came of it."""
        name = found["name"]
        way = Way(
            experiment=name,
            model=found["model"],
            candidate=self._candidate(found),
            api=self._api,
            proxy_url=self._settings.proxy_address,
            token=self._token,
            token_origin=self._settings.token_origin,
            rate=Rate(rate),
            concurrency=concurrency,
        )
        before = self._progress(name)
        say_so = f"turnout replay {name}"
        try:
            with Journal(self._settings.data / "replays", name) as journal:
                tally = self._walk(way, journal, before)
                self._until_collected(name, before, tally)
                if tally.stopped is None:
                    journal.clear()
        except Stopped as stop:
            fail(str(stop))
        except KeyboardInterrupt:
            told = f"Stopped. What was answered is recorded; go on with: {say_so}"
            err.print(told, markup=False, soft_wrap=True)
            return 1
        return self._told(name, tally, list_skipped=list_skipped)

    def _candidate(self, found: Json) -> str:
        """Its version, and where that is served."""
        number = next(arm["version"] for arm in found["arms"] if arm["arm"] == "candidate")
        known = self._api.get(f"/api/models/{path_part(found['model'], 'model')}")["versions"]
        endpoint = next((one["endpoint"] for one in known if one["version"] == number), None)
        where = ", ".join(endpoint["replicas"]) if endpoint else "no endpoint"
        return f"version {number} of {found['model']} ({where or 'a provider'})"

    def _walk(self, way: Way, journal: Journal, before: Json) -> Tally:
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[remark]}", markup=False),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        done = before["selected"] - before["remaining"]
        task = bar.add_task(way.experiment, total=before["selected"], completed=done, remark="")
        resumed = len(journal.answered)

        def ended(tally: Tally) -> None:
            failed = sum(tally.failed.values())
            bar.update(
                task,
                completed=min(done + resumed + tally.answered, before["selected"]),
                remark=f"{failed} failed" if failed else "",
            )

        with bar:
            return uvloop.run(replay(way, journal, ended))

    def _progress(self, name: str) -> Json:
        found: Json = self._api.get(f"/api/experiments/{path_part(name, 'experiment')}/recorded")
        return found

    def _until_collected(self, name: str, before: Json, tally: Tally) -> None:
        """The rows are in the proxies' spools when the answers come, and in the ledger a moment later."""
        expected = max(0, before["remaining"] - tally.answered)
        until = time.monotonic() + _ARRIVAL_S
        while self._progress(name)["remaining"] > expected and time.monotonic() < until:
            time.sleep(0.25)

    def _told(self, name: str, tally: Tally, *, list_skipped: bool) -> int:
        progress = self._progress(name)
        until = time.monotonic() + _VERDICT_S
        # Nothing is left, or the candidate fails: either may decide it.
        while (not progress["remaining"] or tally.failed[FAILING]) and time.monotonic() < until:
            if self.experiment(name)["state"] not in ("running", "invalid"):
                break
            time.sleep(0.25)
        found = self.show(name, tally, list_skipped=list_skipped)
        if found["state"] == "rolled_back":
            return 1
        decided = found["state"] in ("concluded", "kept", "promoted")
        return 0 if decided or not progress["remaining"] else 1

    # -- telling -----------------------------------------------------------------------------------------

    def show(self, name: str, tally: Tally, *, list_skipped: bool = False) -> Json:
        """Where every selected request stands, and the verdict."""
        progress, found = self._progress(name), self.experiment(name)
        verdict = found["verdict"]
        failed = sum(tally.failed.values())
        skipped = self._skipped(name) if list_skipped else []
        if self._as_json:
            emit(
                {
                    "experiment": name,
                    **progress,
                    "state": found["state"],
                    "run": {**asdict(tally), "failed": dict(tally.failed)},
                    "verdict": verdict and {key: verdict[key] for key in ("kind", "label", "sentence")},
                    **({"skipped_requests": skipped} if list_skipped else {}),
                }
            )
            return found
        say(f"{name}: {replay_text(progress, failed)}")
        if tally.failed:
            say(f"Failed in this run, and still to be asked: {reasons_text(tally.failed)}", "yellow")
        if tally.stopped and progress["remaining"]:
            say(f"It ended early: {tally.stopped}.", "yellow")
        say(f"The experiment is {found['state'].replace('_', ' ')}. {verdict['sentence'] if verdict else ''}")
        if progress["remaining"] and found["state"] in ("running", "invalid", "paused"):
            say(f"Go on with: turnout replay {name}")
        if skipped:
            table(
                ("request", "path", "reason"), [(o["exchange_id"], o["path"], o["reason"]) for o in skipped]
            )
        return found

    def _skipped(self, name: str) -> list[Json]:
        found: list[Json] = self._api.get(
            f"/api/experiments/{path_part(name, 'experiment')}/recorded/skipped"
        )
        return found

    def show_preview(self, text: str, file: str) -> None:
        """What the spec would ask if it began now."""
        found = self._preview(text, file)
        if self._as_json:
            emit(found)
            return
        versions = f"version {found['candidate_version']} against version {found['control_version']}"
        say(f"{versions}, requests from {found['since']} to {found['until']}:")
        say(f"{replay_text(found, 0)}; {found['units']} units. Dry run: nothing was asked.")


def _opened() -> tuple[Settings, str]:
    settings = settings_in_force()
    token = settings.read_token()
    if not token:
        fail(f"no token: {settings.token_file} cannot be read; set TURNOUT_TOKEN, or TURNOUT_DATA", 2)
    return settings, token


def _yaml(value: object) -> str:
    """JSON is YAML, on one line, with nothing in it that could end the line."""
    return json.dumps(value, ensure_ascii=False)  # of any size: the spec's reader says what is wrong


def _version(reference: str) -> str:
    return reference if reference.isdigit() else _yaml(reference)


def _part(text: str | None) -> str:
    """What of a name may stand in an experiment's."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in (text or "").lower())
