"""`turnout`: which commands there are, and what each says it changed.

Everything that changes state goes through the control API. Heavy rooms are imported only by the command
that needs them, so that `turnout --help` is quick.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from .terminal import NO_ROOM, err, fail, no_room

#: Commands that live elsewhere: module, attribute, and the line that `turnout --help` shows.
_ELSEWHERE: Final = {
    "apply": ("turnout.apply_command", "apply_app", "Bring about what the files of a folder declare."),
    "golden": ("turnout.golden", "golden", "Golden sets: run, compare, rank, label, import, export."),
    "plan": ("turnout.plan_command", "plan_app", "What an experiment can find out, and how soon."),
    "preflight": ("turnout.preflight_command", "preflight_app", "Hold a candidate against production first."),
    "replay": (
        "turnout.replay_command",
        "replay_app",
        "Put recorded requests to a candidate: a past shadow.",
    ),
    "report": ("turnout.report_command", "report_app", "A verdict with its evidence in a folder; replayed."),
    "selftest": ("turnout.selftest_command", "selftest_app", "False alarms on the ledger's own traffic."),
    "serve": ("turnout.serve", "serve_app", "Start vLLM for a registered version, and record where it is."),
    "bench": (
        "turnout.bench_command",
        "bench",
        "Load an engine or the proxy, and see latency against concurrency.",
    ),
    "demo": ("turnout.demo", "demo_app", "Three stories on simulated engines, start to end."),
}


class _Lazy(TyperGroup):
    """Imports a command's module when the command is called, not when it is listed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in _ELSEWHERE:
            module, attribute, _ = _ELSEWHERE[args[0]]
            found = getattr(importlib.import_module(module), attribute)
            return args[0], typer.main.get_command(found), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="turnout",
    cls=_Lazy,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The experimentation control plane for LLM serving.",
)
models_app = typer.Typer(no_args_is_help=True, help="Registered models, their versions and endpoints.")
experiment_app = typer.Typer(no_args_is_help=True, help="Start, watch and end experiments.")
app.add_typer(models_app, name="models")
app.add_typer(experiment_app, name="experiment")


def _listed(name: str, line: str) -> None:
    @app.command(name, help=line, add_help_option=False)
    def elsewhere() -> None:
        """Listed only: `_Lazy` resolves it."""


for _name, (_, _, _line) in _ELSEWHERE.items():
    _listed(_name, _line)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Reason = Annotated[str | None, typer.Option(help="Why: it is kept with the decision.")]
Name = Annotated[str, typer.Argument(metavar="EXPERIMENT")]
Model = Annotated[str, typer.Argument(metavar="MODEL")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]


# -- processes ---------------------------------------------------------------------------------------------


@app.command()
def up(
    data: Annotated[Path | None, typer.Option(help="The one folder for everything.")] = None,
    proxy_port: Annotated[int | None, typer.Option()] = None,
    control_port: Annotated[int | None, typer.Option()] = None,
    dashboard_port: Annotated[int | None, typer.Option()] = None,
    workers: Annotated[int | None, typer.Option(help="Workers of the proxy.")] = None,
) -> None:
    """Run proxy, controller and dashboard on this machine until Ctrl-C."""
    from .running import run_all

    run_all(_settings(data=data, proxy_port=proxy_port, control_port=control_port,
                      dashboard_port=dashboard_port, workers=workers))  # fmt: skip


@app.command()
def proxy(
    data: Annotated[Path | None, typer.Option(help="Folder of the spool and the last snapshot.")] = None,
    control_url: Annotated[str | None, typer.Option(help="Where the controller is.")] = None,
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option()] = None,
    workers: Annotated[int | None, typer.Option()] = None,
    busy_polling: Annotated[
        bool | None, typer.Option("--busy-polling", help="Never sleep: lower latency, for a core per worker.")
    ] = None,
) -> None:
    """Run the proxy alone."""
    from .running import run_one

    run_one(_settings(data=data, control_url=control_url, host=host, proxy_port=port, workers=workers,
                      busy_polling=busy_polling), "proxy")  # fmt: skip


@app.command()
def controller(
    data: Annotated[Path | None, typer.Option(help="Folder of the ledger.")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow's tracking URI.")] = None,
    port: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Run the controller alone."""
    from .running import run_one

    run_one(_settings(data=data, tracking_uri=tracking_uri, control_port=port), "controller")


@app.command()
def dashboard(
    data: Annotated[Path | None, typer.Option(help="Folder where the control token is.")] = None,
    control_url: Annotated[str | None, typer.Option(help="Where the controller is.")] = None,
    port: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Run the dashboard alone."""
    from .running import run_one

    run_one(_settings(data=data, control_url=control_url, dashboard_port=port), "dashboard")


@app.command()
def restart(
    data: Annotated[Path | None, typer.Option(help="The proxy's folder.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until all must be replaced.")] = 300.0,
) -> None:
    """Replace the proxy's workers one by one, with the code that is installed now; no request fails."""
    from .running import restart_workers

    restart_workers(_settings(data=data).data, timeout)


@app.command()
def status(as_json: Json = False) -> None:
    """What runs, how fresh it is, and what was lost."""
    from .operations import show_status

    show_status(_settings(), as_json=as_json)


@app.command()
def key(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose key it is: a-z 0-9 . _ -")],
) -> None:
    """Make an API key: it is printed once, with the lines that put it in force."""
    from .operations import new_key

    new_key(_settings(), tenant)


@app.command()
def forget(
    units: Annotated[
        list[str],
        typer.Argument(
            metavar="UNIT...", help="As applications name them: a `user`, a session; -: from stdin."
        ),
    ],
    reason: Reason = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Delete what users wrote and got, when they ask for it; a verdict's numbers stay, nobody's any more."""
    from .operations import forget_units

    forget_units(_settings(), units, reason, dry_run=dry_run, as_json=as_json)


# -- models ------------------------------------------------------------------------------------------------


@models_app.command("register")
def models_register(
    model: Model,
    replica: Annotated[
        list[str] | None, typer.Option(help="Base URL of a replica, without /v1; repeat for more.")
    ] = None,
    served_name: Annotated[
        str | None, typer.Option(help="The name the engine serves; default MODEL.")
    ] = None,
    engine: Annotated[str, typer.Option(help="vllm, sglang, tgi, ...; litellm for a provider.")] = "vllm",
    credential: Annotated[
        str | None,
        typer.Option(
            help="The variable of the proxy's environment that holds a provider's or an engine's key."
        ),
    ] = None,
    alias: Annotated[list[str] | None, typer.Option(help="For example production or candidate.")] = None,
    source: Annotated[str | None, typer.Option(help="Where the weights are: a path or a hub id.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="key=value")] = None,
    as_json: Json = False,
) -> None:
    """Register a version: where it is served, or where its weights are (then `turnout serve` it).

    A provider's model: --engine litellm --served-name anthropic/MODEL --credential ANTHROPIC_API_KEY.
    """
    from .operations import register

    tags: dict[str, str] = {}
    for key, separator, value in (text.partition("=") for text in tag or ()):
        if not separator:
            fail("--tag expects key=value", 2)
        if key in tags:
            fail(f"--tag {key} is given twice: a tag has one value", 2)
        tags[key] = value
    body = {
        "replicas": replica or [],
        "served_name": served_name or model,
        "engine": engine,
        "credential": credential,
        "aliases": alias or [],
        "source": source,
        "tags": tags,
    }
    register(_settings(), model, body, as_json=as_json)


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """All models with their versions in production."""
    from .operations import list_models

    list_models(_settings(), as_json=as_json)


@models_app.command("show")
def models_show(model: Model, as_json: Json = False) -> None:
    """One model: versions, aliases, endpoints."""
    from .operations import show_model

    show_model(_settings(), model, as_json=as_json)


# -- experiments -------------------------------------------------------------------------------------------


@experiment_app.command("start")
def experiment_start(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="See docs/reference/experiments.md.")],
    draft: Annotated[bool, typer.Option("--draft", help="Keep it without traffic, until `submit`.")] = False,
    as_json: Json = False,
) -> None:
    """Check a spec and begin its experiment."""
    from .operations import start_experiment

    start_experiment(_settings(), spec, draft=draft, as_json=as_json)


@experiment_app.command("list")
def experiment_list(as_json: Json = False) -> None:
    """All experiments, newest first."""
    from .operations import list_experiments

    list_experiments(_settings(), as_json=as_json)


@experiment_app.command("status")
def experiment_status(name: Name, as_json: Json = False) -> None:
    """One experiment: verdict, reasons, scorecard, accounting."""
    from .operations import show_experiment

    show_experiment(_settings(), name, as_json=as_json)


@experiment_app.command("watch")
def experiment_watch(name: Name) -> None:
    """Show one experiment as it goes, until it has ended."""
    from .watching import watch

    watch(_settings(), name)


def _ending(verb: str, line: str) -> None:
    @experiment_app.command(verb, help=line)
    def command(name: Name, reason: Reason = None, as_json: Json = False) -> None:
        from .operations import change_experiment

        change_experiment(_settings(), name, verb, reason, as_json=as_json)


_ending("stop", "End it: every unit goes back to control on its next request.")
_ending("pause", "Give every unit back to control for now; resuming gives each its arm back.")
_ending("resume", "Go on after a pause.")
_ending("submit", "Let a draft begin as soon as nothing stands against it.")
_ending("advance", "Give the candidate the next weight of its ramp now.")


# -- production --------------------------------------------------------------------------------------------


@app.command()
def promote(
    model: Model,
    version: Annotated[
        int | None, typer.Option(help="Default: the candidate whose verdict is 'ship'.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Without a passing verdict; needs --reason.")
    ] = False,
    reason: Reason = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a candidate production: the alias, the traffic and the record, as one."""
    from .operations import change_production

    if force and not reason:
        fail("--force needs --reason: it is kept with the decision", 2)
    body = {"version": version, "force": force, "reason": reason, "dry_run": dry_run}
    change_production(_settings(), model, "promote", body, as_json=as_json)


@app.command()
def rollback(
    model: Model,
    experiment: Annotated[
        str | None, typer.Option(help="Release the candidate of this experiment alone.")
    ] = None,
    production: Annotated[
        bool, typer.Option("--production", help="Take production itself back, whatever experiment runs.")
    ] = False,
    reason: Reason = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Release every running candidate, or else go back to the former production version. Traffic first."""
    from .operations import change_production

    if experiment is not None and production:
        fail("--experiment and --production: one of them, for they take back different things", 2)
    body = {"reason": reason, "dry_run": dry_run, "production": production, "experiment": experiment}
    change_production(_settings(), model, "rollback", body, as_json=as_json)


@app.command()
def rehearse(model: Model, reason: Reason = None, as_json: Json = False) -> None:
    """Prove that a rollback would work now, and say how long it takes. No request goes elsewhere."""
    from .operations import rehearse_rollback

    rehearse_rollback(_settings(), model, reason, as_json=as_json)


def _settings(**given: Any) -> Any:
    from .operations import settings_in_force

    return settings_in_force(**given)


def main() -> None:
    """Entry point."""
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:  # its bytes came through as half characters, which nothing behind it takes
        err.print("an argument is no text in UTF-8", style="red")
        sys.exit(2)
    try:
        app()
    except OSError as error:
        if error.errno not in NO_ROOM:  # a defect: its traceback says where
            raise
        try:
            no_room(error, 1)
        except typer.Exit as end:
            sys.exit(end.exit_code)


if __name__ == "__main__":
    main()
