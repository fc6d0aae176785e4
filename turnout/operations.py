"""What does each command ask of the control API, and what does it tell the operator?"""

from __future__ import annotations

import getpass
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import typer
from rich.text import Text

from experiments import client
from experiments.client import ControlClient, ControlError

from .scorecard import SCORECARD, VERDICT_STYLES, accounting, scorecard_row
from .settings import Settings, SettingsError, read_settings, unknown_variables
from .terminal import emit, err, fail, out, plain, say, table, waiting

Json = dict[str, Any]


def settings_in_force(**given: Any) -> Settings:
    """The settings, with the options that were given. A wrong variable ends the command in one line."""
    try:
        settings = read_settings(**given)
    except SettingsError as error:
        fail(str(error), 2)
    for sentence in unknown_variables():
        err.print(sentence, style="yellow", markup=False, soft_wrap=True)
    return settings


@contextmanager
def control_api(settings: Settings, *, timeout_s: float = 30.0) -> Iterator[ControlClient]:
    """The control API; whatever it refuses ends the command in one line."""
    try:
        with closing(
            ControlClient(
                settings.control_address, settings.read_token(), timeout_s=timeout_s, while_waiting=waiting
            )
        ) as api:
            yield api
    except ControlError as error:
        fail(refusal(settings, error))


def refusal(settings: Settings, error: ControlError) -> str:
    """What the controller says; of a refused token also where it came from, which it cannot know."""
    return f"{error}; {settings.token_origin}" if error.status == 401 else str(error)


def path_part(name: str, kind: str) -> str:
    """A name as one part of a path. What no name can be ends the command."""
    try:
        return client.path_part(name, kind)
    except ControlError as error:
        fail(str(error), 2)


def actor() -> str:
    """Who types this, for the audit."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "operator"


# -- state -------------------------------------------------------------------------------------------------


def show_status(settings: Settings, *, as_json: bool) -> None:
    with control_api(settings) as api:
        overview = api.get("/api/overview")
    if as_json:
        emit(overview)
        return
    health = overview["health"]
    collector, registry, ledger = health["collector"], health["registry"], health["ledger"]
    say(f"snapshot {health['snapshot']}, {ledger['exchanges']} exchanges in the ledger ({ledger['path']})")
    waiting = collector["segments_waiting"]
    late = f", {collector['lag_s']:.1f} s behind" if waiting and collector.get("lag_s") is not None else ""
    say(f"collector: {waiting} segments waiting{late}")
    if health["losses"]:
        say(f"{health['losses']} exchanges could not be recorded", "red")
    for sentence in (*health.get("not_routed", ()), *health.get("pending", ()), *health.get("troubles", ())):
        say(sentence, "yellow")
    if health.get("config_error"):
        say(f"turnout.yaml is not in force, the last good one is: {health['config_error']}", "red")
    if not registry["ok"]:
        say(f"registry: {registry['error']}", "yellow")
    table(
        ("worker", "snapshot", "seen s ago"),
        [(w["worker"], w["snapshot"], f"{w['last_seen_s']:.1f}") for w in health["workers"]],
    )
    under_way = [one for one in overview["experiments"] if one["ended_at"] is None]
    over = len(overview["experiments"]) - len(under_way)
    say(f"experiments: {len(under_way)} under way, {over} over (`turnout experiment list`)")
    if under_way:
        _experiments_table(under_way)


def new_key(settings: Settings, tenant: str) -> None:
    """Nothing is stored: the operator puts the digest into turnout.yaml, the tenant gets the key."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", tenant):
        fail(
            f"tenant {tenant!r}: expected up to 64 characters of a-z 0-9 . _ -, the first a letter or digit",
            2,
        )
    made = f"sk-turnout-{secrets.token_urlsafe(32)}"
    say(f"The key of {tenant}, shown only now: {made}")
    say(f"To put it in force, add to {settings.data / 'turnout.yaml'} (it is read again at once):")
    say(f"keys:\n  - {{tenant: {tenant}, sha256: {sha256(made.encode()).hexdigest()}}}")
    say("From the first key on, the proxy answers nobody without one.")


#: A ledger of a hundred gigabytes is written anew in less.
_FORGET_S: Final = 3600.0


def forget_units(
    settings: Settings, units: Sequence[str], reason: str | None, *, dry_run: bool, as_json: bool
) -> None:
    """Ends with 1 where the ledger's file still holds what was deleted."""
    named = [line for unit in units for line in (sys.stdin.read().splitlines() if unit == "-" else [unit])]
    if not any(named):
        fail("no unit to forget: give the names that applications send as `user`, session, ...", 2)
    body = {"units": [unit for unit in named if unit], "reason": reason, "dry_run": dry_run, "actor": actor()}
    with control_api(settings, timeout_s=_FORGET_S) as api:
        done = api.post("/api/forget", body)
    found = done["found"]
    if as_json:
        emit(done)
    elif dry_run:
        if any(found.values()):
            say(
                f"Would go: {found['bodies']} bodies, {found['explanations']} judges' explanations, "
                f"{found['golden_answers']} golden answers. The numbers of {found['exchanges']} exchanges "
                f"and {found['feedback']} feedback rows would stay, nobody's any more."
            )
        else:
            say("Nothing is known of them.")
        say("Dry run: nothing was changed.")
    else:
        _tell(done, as_json=False)
        if not done["pending"]:
            say("The ledger's file was written anew: nothing that was deleted is in it.")
        say("Not reached, look there yourself:")
        for place in done["elsewhere"]:
            say(f"  {place}")
    if done["pending"]:
        raise typer.Exit(1)


# -- models ------------------------------------------------------------------------------------------------


def register(settings: Settings, model: str, body: Mapping[str, Any], *, as_json: bool) -> None:
    with control_api(settings) as api:
        version = api.post(f"/api/models/{path_part(model, 'model')}/versions", body)
    if as_json:
        emit(version)
        return
    aliases = ", ".join(version["aliases"]) or "none"
    endpoint = version["endpoint"]
    say(f"Registered version {version['version']} of {model}; aliases: {aliases}.")
    if endpoint is None:
        say(f"Not served yet: turnout serve models:/{model}/{version['version']}")
        return
    say(f"Served as {endpoint['served_name']!r} by {endpoint['engine']} {_place(endpoint)}.")


def _place(endpoint: dict[str, Any]) -> str:
    """Where an endpoint is; of a provider, whose key it is asked with."""
    if endpoint["replicas"]:
        return "at " + ", ".join(endpoint["replicas"])
    return (
        f"with {endpoint['credential']}"
        if endpoint.get("credential")
        else "with the provider's own variables"
    )


def list_models(settings: Settings, *, as_json: bool) -> None:
    with control_api(settings) as api:
        models = api.get("/api/models")
    if as_json:
        emit(models)
        return
    rows = [(m["name"], _v(m["production"]), _v(m["former"]), len(m["versions"])) for m in models]
    table(("model", "production", "former", "versions"), rows)


def show_model(settings: Settings, model: str, *, as_json: bool) -> None:
    with control_api(settings) as api:
        found = api.get(f"/api/models/{path_part(model, 'model')}")
    if as_json:
        emit(found)
        return
    say(f"{found['name']}: production {_v(found['production'])}, former {_v(found['former'])}")
    rows = []
    for version in found["versions"]:
        endpoint = version["endpoint"]
        engine = endpoint["engine"] if endpoint else "-"
        place = version.get("problem") or "no endpoint"
        if endpoint:
            place = ", ".join(endpoint["replicas"]) or f"{endpoint['served_name']} {_place(endpoint)}"
        rows.append((version["version"], ", ".join(version["aliases"]), engine, place))
    table(("version", "aliases", "engine", "where"), rows)


# -- experiments -------------------------------------------------------------------------------------------


def spec_text(spec: Path) -> str:
    """What a spec's file holds. Ends the command if it cannot be read."""
    try:
        return spec.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{spec} cannot be read: {error}", 2)


def start_experiment(settings: Settings, spec: Path, *, draft: bool = False, as_json: bool) -> None:
    with control_api(settings) as api:
        body = {"spec_yaml": spec_text(spec), "filename": str(spec), "actor": actor(), "draft": draft}
        started = api.post("/api/experiments", body)
    if as_json:
        emit(started)
        return
    arms = ", ".join(f"{arm['arm']} v{arm['version']} {arm['weight_pct']:g} %" for arm in started["arms"])
    who = entering(started)
    say(f"{started['name']} is {started['state']}: {started['mode']} on {started['model']}, {arms}{who}.")


def entering(experiment: Json) -> str:
    """Of whom the arms' weights are shares, where that is not everybody."""
    part = experiment.get("entering_pct", 100)  # a controller of before does not say
    return "" if part >= 100 else f" in {part:g} % of the units"


def list_experiments(settings: Settings, *, as_json: bool) -> None:
    with control_api(settings) as api:
        experiments = api.get("/api/experiments")
    if as_json:
        emit(experiments)
    else:
        _experiments_table(experiments)


def _experiments_table(experiments: list[Json]) -> None:
    rows = [
        (
            one["name"], one["model"], one["mode"], one["state"],
            " / ".join(f"v{arm['version']} {arm['weight_pct']:g}%" for arm in one["arms"]) + entering(one),
            f"{one['units']} of {one['horizon']}", _chip(one["verdict"]),
        )
        for one in experiments
    ]  # fmt: skip
    table(("experiment", "model", "mode", "state", "arms", "units", "verdict"), rows)


def show_experiment(settings: Settings, name: str, *, as_json: bool) -> None:
    with control_api(settings) as api:
        found = api.get(f"/api/experiments/{path_part(name, 'experiment')}")
    if as_json:
        emit(found)
        return
    _experiments_table([found])
    verdict = found["verdict"]
    if found["ended_at"] is not None:
        say(f"\nEnded at {found['ended_at']}: {found['state'].replace('_', ' ')}. The last verdict was:")
    if verdict is not None:
        say(f"\n{verdict['sentence']}", VERDICT_STYLES.get(verdict["kind"], "bold"))
        for reason in verdict["reasons"]:
            say(f"  {reason['severity']}: {reason['text']}")
        table(SCORECARD, [scorecard_row(metric) for metric in verdict["metrics"]])
    if found.get("waiting_for") and not (verdict and found["waiting_for"] == verdict["sentence"]):
        say(f"\nNext step: {found['waiting_for']}")
    if found.get("note") and not (verdict and found["note"] == verdict["sentence"]):
        say(f"Note: {found['note']}")
    say(f"\n{accounting(found)}")
    for arm, account in found["accounting"]["by_arm"].items():
        for reason, count in account["shed"].items():
            say(f"  {arm}, shed, {reason.replace('_', ' ')}: {count}")
    if found["accounting"].get("replay"):
        say(f"Recorded requests: {replay_text(found['accounting']['replay'])}")


def replay_text(progress: Json, failed: int = 0) -> str:
    """selected = paired + skipped + failed + remaining, to the request."""
    skipped = sum(progress["skipped"].values())
    reasons = f" ({reasons_text(progress['skipped'])})" if skipped else ""
    failed = min(failed, progress["remaining"])
    return (
        f"{progress['selected']} selected = {progress['paired']} paired + {skipped} skipped{reasons} + "
        f"{failed} failed + {progress['remaining'] - failed} remaining"
    )


def reasons_text(by_reason: Mapping[str, int]) -> str:
    """3 not recorded, 5 tools skipped."""
    return ", ".join(f"{count} {plain(reason).replace('_', ' ')}" for reason, count in by_reason.items())


def change_experiment(settings: Settings, name: str, verb: str, reason: str | None, *, as_json: bool) -> None:
    with control_api(settings) as api:
        done = api.post(
            f"/api/experiments/{path_part(name, 'experiment')}/{verb}", {"reason": reason, "actor": actor()}
        )
    _tell(done, as_json=as_json)


# -- production --------------------------------------------------------------------------------------------


def change_production(
    settings: Settings, model: str, verb: str, body: Mapping[str, Any], *, as_json: bool
) -> None:
    with control_api(settings) as api:
        done = api.post(f"/api/models/{path_part(model, 'model')}/{verb}", {**body, "actor": actor()})
    _tell(done, as_json=as_json)
    if body.get("dry_run") and not as_json:
        say("Dry run: nothing was changed.")


def rehearse_rollback(settings: Settings, model: str, reason: str | None, *, as_json: bool) -> None:
    """Ends with 1 where a rollback would not work."""
    with control_api(settings) as api:
        done = api.post(
            f"/api/models/{path_part(model, 'model')}/rehearse", {"reason": reason, "actor": actor()}
        )
    _tell(done, as_json=as_json)
    if done["state"] == "failed":
        fail(f"a rollback of {plain(model)} would not work now", 1)


def _tell(done: Json, *, as_json: bool) -> None:
    """What was changed, and which workers already act on it."""
    if as_json:
        emit(done)
        return
    for sentence in done.get("changed") or ["Nothing to change."]:
        say(f"{sentence[:1].upper()}{sentence[1:]}")
    acknowledged, missing = done.get("acknowledged_by") or [], done.get("unacknowledged") or []
    if acknowledged:
        workers = "1 worker" if len(acknowledged) == 1 else f"{len(acknowledged)} workers"
        say(f"In force on {workers} after {done['elapsed_ms']:.0f} ms.")
    if missing:
        names = ", ".join(plain(worker) for worker in missing)
        out.print(Text(f"Not yet acknowledged by {names}.", style="yellow"))
    for pending in done.get("pending") or ():
        say(f"Still to do: {pending}", "yellow")


def _chip(verdict: Json | None) -> Text:
    kind = verdict["kind"] if verdict else "-"
    return Text(plain(kind).replace("_", " "), style=VERDICT_STYLES.get(kind, ""))


def _v(version: int | None) -> str:
    return "-" if version is None else f"v{version}"
