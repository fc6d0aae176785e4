"""`turnout golden`: all of its commands together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import typer

from .golden_commands import GoldenCommand, compare_command, run_command
from .golden_files import add_command, export_command, import_command
from .golden_ranking import rank_command
from .label_command import label_command

_COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "run": run_command,
    "compare": compare_command,
    "rank": rank_command,
    "label": label_command,
    "import": import_command,
    "export": export_command,
    "add": add_command,
}

golden = typer.Typer(
    help="Golden sets: run one against a version, compare two versions.", no_args_is_help=True
)
for name, command in _COMMANDS.items():
    golden.command(name, cls=GoldenCommand)(command)
