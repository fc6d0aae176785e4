"""How does the command speak to people? One console, no raw control characters, errors without tracebacks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Piped output is read by people later: it is not squeezed into the 80 columns of no terminal.
_PIPED_WIDTH = 120

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
err = Console(stderr=True, highlight=False)
_ENDLESS: Final = out.options.update(width=10_000)


def plain(value: object) -> str:
    """Text from elsewhere, fit for a terminal: control and bidirectional characters become visible."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def say(text: str, style: str = "") -> None:
    """A line for people, without markup."""
    out.print(Text(plain(text), style=style), soft_wrap=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what was bad on stderr and end."""
    err.print(Text(plain(message), style="red"), soft_wrap=True)
    raise typer.Exit(code)


def emit(document: Any) -> None:
    """JSON for machines, on stdout."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table of plain text."""
    grid = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row))
    # A file or a pipe has no width: there a row is a line, for grep and for logs.
    wide = None if out.is_terminal else max(out.width, out.measure(grid, options=_ENDLESS).maximum)
    out.print(grid, width=wide, crop=False)
