"""How does the command speak to people? One console, no raw control characters, errors without tracebacks."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.errors import LiveError
from rich.table import Table
from rich.text import Text

if sys.stdout is None:  # closed by whoever started us
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  as long as the process
if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding has not is shown, as stderr does
    sys.stdout.reconfigure(errors="backslashreplace")

#: Piped output is read by people later: it is not squeezed into the 80 columns of no terminal.
_PIPED_WIDTH = 120


class Screen(Console):
    """Is `quiet` from when its reader has left (`| head`). The command goes on: its exit code is no other."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _nothing_more_on(self.file)


out = Screen(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
err = Screen(stderr=True, highlight=False)
#: How long (s) is waited in silence: in a terminal, and where a log gets a line of it.
PATIENCE_S: Final = 2.0
PIPED_PATIENCE_S: Final = 10.0
#: What a full disk, a quota or `ulimit -f` says.
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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


@contextmanager
def waiting(whom: str, longest_s: float) -> Iterator[None]:
    """Who is waited for in this block, and for how long, once that takes longer than it should: seconds that
    go on in a terminal, elsewhere a line. Not beside a bar, which shows that by standing still."""
    over = threading.Event()
    teller = threading.Thread(target=_tell_waiting, args=(whom, longest_s, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _tell_waiting(whom: str, longest_s: float, over: threading.Event) -> None:
    began = time.monotonic()
    if over.wait(PATIENCE_S if err.is_terminal else PIPED_PATIENCE_S):
        return
    told = f"waiting for {plain(whom)}, {longest_s:g} s at most"
    if not err.is_terminal:
        with suppress(OSError):
            err.print(told, markup=False, soft_wrap=True)
        return
    with suppress(LiveError, OSError), err.status(Text(told)) as status:
        while not over.wait(0.5):
            status.update(Text(f"{told}: {time.monotonic() - began:.0f} s"))


def emit(document: Any) -> None:
    """JSON for machines, on stdout. Raises OSError, but not where its reader has left."""
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    if not (sys.stdout.encoding or "utf-8").lower().startswith("utf"):
        text = json.dumps(orjson.loads(text), indent=2)  # in ASCII, which every encoding has
    put(f"{text}\n")


def put(text: str) -> None:
    """Text for machines, as it is, on stdout. Raises OSError, but not where its reader has left."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _nothing_more_on(sys.stdout)


def put_into(path: Path, text: str) -> None:
    """Text into a file. Raises OSError, which names the file: where the disk is full it does not."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def concluding_with(code: int, unwritten: int = 1) -> Iterator[None]:
    """Print the result in this block, then end with `code`: a verdict is none other because its reader left
    early (`| head`). Where there is no room for it, that is said, and the code is `unwritten`."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        no_room(error, unwritten)
    raise typer.Exit(code)


def no_room(error: OSError, code: int) -> NoReturn:
    """End because something could not be written: a file if the error names one, else stdout."""
    _nothing_more_on(sys.stdout)
    fail(f"{error.filename or 'stdout'} cannot be written: {error.strerror or error}", code)


def _nothing_more_on(file: IO[str]) -> None:
    """What waits to be written would fail once more at the end, with an exit code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def grid(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A table of plain text."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row))
    return made


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print such a table."""
    made = grid(columns, rows, title)
    # A file or a pipe has no width: there a row is a line, for grep and for logs.
    wide = None if out.is_terminal else max(out.width, out.measure(made, options=_ENDLESS).maximum)
    out.print(made, width=wide, crop=False)
