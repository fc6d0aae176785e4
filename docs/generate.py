"""Writes the reference pages that are read off the code: `.venv/bin/python docs/generate.py`.

`tests/test_docs.py` fails when a page on disk is not what this makes.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import typer
from pydantic.fields import FieldInfo

from experiments.api import create_app
from experiments.config import _Key, _ModelEntry, _Webhook
from turnout.cli import _ELSEWHERE, app
from turnout.settings import OTHER_VARIABLES, Settings

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Made by docs/generate.py: change the code, then run it. -->\n"


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """File name to text."""
    return {
        "commands.md": commands(),
        "settings.md": settings(),
        "control-api.md": control_api(),
        "modules.md": modules(),
    }


# -- modules -----------------------------------------------------------------------------------------------

ROOMS = ("proxy", "experiments", "evaluators", "registry", "dashboard", "turnout")


def modules() -> str:
    """Every module and the question that its docstring opens with."""
    parts = [
        f"# Modules\n{NOTE}",
        "Every module answers one question. [Architecture](../architecture.md) says how they meet.",
    ]
    for room in ROOMS:
        rows = [f"\n## {room}/\n\n| module | question |\n| --- | --- |"]
        for path in sorted((ROOT / room).rglob("*.py")):
            opening = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n\n")[0]
            name = path.relative_to(ROOT / room).as_posix()
            rows.append(f"| `{name}` | {' '.join(opening.split()).replace('|', chr(92) + '|')} |")
        parts += rows
    return "\n".join(parts) + "\n"


# -- commands ----------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options."""
    parts = [
        f"# Commands\n{NOTE}",
        "`turnout --help` says the same. Commands speak to the controller at `TURNOUT_CONTROL_URL`"
        " ([settings](settings.md)).\n\nExit codes: `0` done; `1` refused or failed, said on stderr;"
        " `2` wrong usage. `turnout apply --dry-run` says `3` where something would change."
        " `turnout golden` differs: `0` pass, `1` fail, `2` inconclusive, `3` nothing"
        " concluded. With `--json`, stdout is one JSON document.\n",
    ]
    root = typer.main.get_command(app)
    apps = {name: getattr(import_module(place), found) for name, (place, found, _) in _ELSEWHERE.items()}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        found = typer.main.get_command(apps[name]) if name in apps else command
        parts += _command(f"turnout {name}", found)
    return "\n".join(parts)


def _command(path: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from _command(f"{path} {name}", child)
        return
    shown = [parameter for parameter in command.params if parameter.name != "help"]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name != "argument" and not _shell(one)]
    words = " ".join([path, *(one.metavar or one.name.upper() for one in arguments)])
    yield f"## `{words}`\n\n{inspect.cleandoc(command.help or '')}\n"
    if options:
        yield "| option | default | meaning |\n| --- | --- | --- |"
        for option in options:
            names = ", ".join(f"`{name}`" for name in option.opts)
            yield f"| {names} | {_default(option)} | {_cell(option.help or '')} |"
        yield ""


def _shell(option: Any) -> bool:
    return option.name in ("install_completion", "show_completion")


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default
    return "" if value is None or value is False or callable(value) or value == () else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# -- settings ----------------------------------------------------------------------------------------------


def settings() -> str:
    """The environment variables, and what `turnout.yaml` holds."""
    rows = [
        f"| `TURNOUT_{name.upper()}` | {_value(field)} | {_cell(field.description or '')} |"
        for name, field in Settings.model_fields.items()
    ]
    others = [f"| `{name}` | | {meaning} |" for name, meaning in OTHER_VARIABLES.items()]
    return "\n".join(
        [
            f"# Settings\n{NOTE}",
            "An option of a command wins over its variable. A `TURNOUT_` variable that nothing reads is"
            " named in a warning.\n",
            "| variable | default | meaning |\n| --- | --- | --- |",
            *rows,
            *others,
            "",
            "The dashboard has no port to the outside, nor has the controller: both listen on 127.0.0.1."
            " `TURNOUT_HOST` moves the proxy only.\n",
            *_configuration(),
        ]
    )


def _configuration() -> list[str]:
    """The parts of `turnout.yaml`."""
    recording = [
        f"| `{name}` | {_value(field)} | {_cell(field.description or '')} |"
        for name, field in _ModelEntry.model_fields.items()
    ]
    keys, webhooks = (
        [f"| `{name}` | {_cell(field.description or '')} |" for name, field in entry.model_fields.items()]
        for entry in (_Key, _Webhook)
    )
    return [
        "## Recording: `turnout.yaml` in the data folder\n",
        "```yaml\nmodels:\n"
        "  chat: {recording: redacted, redact: ['[0-9]{16}'], keep: 30d, keep_size: 5GB}\n```\n",
        "| key | default | meaning |\n| --- | --- | --- |",
        *recording,
        "",
        "`full` keeps requests and answers. `redacted` keeps them with every match of a pattern replaced"
        " by `[redacted]`, and where an answer broke off, at `max_tokens` too, also what may be the beginning"
        " of one; of such an answer, as of every stream, what was said is kept and not its bytes. Patterns"
        " have the syntax of Python's `re`, their repeats at most 20,000 pieces when written out; a body"
        " that they are not through with in five seconds is not kept (`turnout status` says so). `numbers`"
        " keeps no body. A model with"
        " `redact` and without `recording` is `redacted`. Without the file, or for a model it does not name,"
        " everything is kept. The file is read again when it changes, or put there by `turnout apply`; a"
        " file that is torn, empty, wrong or gone leaves what is in force, at a restart too: `turnout"
        " status`, the dashboard and a decision row (`configure`, `failed`) say so. `keep` and `keep_size`"
        " bound the bodies; the rows of `exchanges` stay. By a clock that has jumped ahead by more than"
        " an hour, or stands there when the controller starts again, nothing is deleted until it has said so"
        " for an hour: a fault of a minute would cost all bodies at once.\n",
        "## API keys: `keys` in the same file\n",
        "Without `keys` the proxy asks for none. `turnout key TENANT` makes a key, prints it once, and"
        " prints the entry to put under `keys`.\n",
        "| key | meaning |\n| --- | --- |",
        *keys,
        "",
        "## Webhooks: `notify` in the same file\n",
        "```yaml\nnotify:\n  - {url: https://example.com/hook, secret_env: HOOK_SECRET}\n```\n",
        "Every decision from then on is posted there once it is done or has failed, in order:"
        ' `{"event": 42, "decision": {...}}`, with the header `x-turnout-signature: t=SECONDS,v1=HEX`,'
        " HEX being HMAC-SHA256 of `SECONDS.BODY` with the secret. Anything but a 2xx within 5 s is tried"
        " again after 1, 2, 4, ... seconds, at most an hour, 26 times in all; then it is given up."
        " `GET /api/webhooks` says how far each has come. Redirects are not followed.\n",
        "| key | meaning |\n| --- | --- |",
        *webhooks,
        "",
        "## MLflow's own webhooks: `registry` in the same file\n",
        "```yaml\nregistry: {secret_env: MLFLOW_HOOK_SECRET}\n```\n",
        "What others change in MLflow is seen within three seconds, taken up and recorded. Where they"
        " name as production what cannot answer (no endpoint, or no version at all), the version in"
        " force goes on answering, and `turnout status` says so. An experiment of which a version was"
        " deleted is over. A model that was deleted is routed no more, and what is open on it says so; a"
        " registry that knows no model at all is taken for a mistake, and every model goes on as it was last"
        " known. A webhook of MLflow makes it"
        " sooner: let it post the events `model_version_alias.created`, `model_version_alias.deleted` and"
        " `model_version.created` to `/api/models/changed` of the controller, with the secret in that"
        " variable of the controller's environment. It is a hint only: the registry is asked, whatever"
        " was posted. MLflow posts to private addresses only with"
        " `MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true`, and without TLS only with"
        " `MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https`.\n",
    ]


def _value(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None else f"`{value}`"


# -- the control API ---------------------------------------------------------------------------------------


def control_api() -> str:
    """The routes, from the OpenAPI document."""
    document = create_app(Mock()).openapi()
    parts = [
        f"# Control API\n{NOTE}",
        "JSON over HTTP, at `TURNOUT_CONTROL_URL`. A running controller serves the whole OpenAPI document at"
        " `/openapi.json`, and a page to try it at `/docs`. Routes marked *token* change state and need"
        " `Authorization: Bearer TOKEN`, with what is in the file `token` of the data folder. Reading needs"
        " none: the API listens on loopback.\n",
        'Errors: `{"error": {"message", "type", "param", "code"}}`; `code` is stable. A spec that is refused'
        " has `problems` beside them, each with file, line, field, found, expected and mend.\n",
        "| route | | what | parameters, body |\n| --- | --- | --- | --- |",
    ]
    for path, verbs in document["paths"].items():
        for verb, route in verbs.items():
            token = "*token*" if "401" in route["responses"] else ""
            takes = [f"`{one['name']}`" for one in route.get("parameters", ()) if one["in"] == "query"]
            takes += _body(route, document)
            what = _cell(route.get("summary", ""))
            parts.append(f"| `{verb.upper()} {path}` | {token} | {what} | {', '.join(takes)} |")
    return "\n".join(parts) + "\n"


def _body(route: dict[str, Any], document: dict[str, Any]) -> list[str]:
    content = route.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return []
    name = re.sub(".*/", "", content["schema"].get("$ref", ""))
    schema = document["components"]["schemas"].get(name, {})
    required = schema.get("required", ())
    return [f"**`{field}`**" if field in required else f"`{field}`" for field in schema.get("properties", {})]


if __name__ == "__main__":
    sys.exit(main())
