"""How does a person grade answers in a terminal? One task at a time, a key a grade; each is stored at once.

Shows what a task holds (`evaluators.labels.task`) and nothing else: no version, no judge's opinion.
"""

from __future__ import annotations

import os
import shutil
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from evaluators.judges.question import answered, asked
from evaluators.labels.label import Label
from evaluators.labels.task import Task
from evaluators.labels.worksheet import Pen

from .terminal import plain

_GRADE_KEYS: Final = "1234567890ABCDEFGHIJ"
_ENDS: Final = frozenset(("q", "", "\x03", "\x04"))
_LEAST_LINES: Final = 6
#: Lines of the screen that are not text: titles, criterion, keys.
_FRAME: Final = 12


class Keyboard(Protocol):
    """Where keys come from; `lines` gives the terminal back to those who read whole lines."""

    def key(self) -> str: ...
    def line(self, prompt: str) -> str: ...
    def lines(self) -> AbstractContextManager[None]: ...


class TerminalKeyboard:
    """The terminal at stdin. A key counts as soon as it is pressed, also one that is pressed ahead of its
    screen: the mode is set once, for setting it anew for every key throws away what was typed meanwhile."""

    def __init__(self) -> None:
        self._end = sys.stdin.fileno()

    def __enter__(self) -> TerminalKeyboard:
        self._before = termios.tcgetattr(self._end)
        tty.setcbreak(self._end, termios.TCSADRAIN)
        return self

    def __exit__(self, *exc: object) -> None:
        termios.tcsetattr(self._end, termios.TCSADRAIN, self._before)

    def key(self) -> str:
        """One key; empty when the terminal has gone."""
        pressed = os.read(self._end, 1)
        if pressed == b"\x1b":  # an arrow or the like: what follows belongs to it
            os.set_blocking(self._end, False)
            try:
                pressed += os.read(self._end, 16)
            except BlockingIOError:
                pass
            finally:
                os.set_blocking(self._end, True)
        return pressed.decode("ascii", "replace")

    def line(self, prompt: str) -> str:
        """A line."""
        with self.lines():
            return input(prompt)

    @contextmanager
    def lines(self) -> Iterator[None]:
        """The terminal as it was before."""
        termios.tcsetattr(self._end, termios.TCSADRAIN, self._before)
        try:
            yield
        finally:
            tty.setcbreak(self._end, termios.TCSADRAIN)


@dataclass(slots=True, kw_only=True)
class LabelSession:
    """Tasks for one labeller. `save` stores a label and may raise: then the task is asked again."""

    tasks: Sequence[Task]
    pen: Pen
    save: Callable[[Label], None]
    console: Console
    keyboard: Keyboard
    waiting: deque[Task] = field(init=False)
    done: list[Task] = field(default_factory=list)
    said: int = 0
    note: str = ""
    remark: str = ""

    def __post_init__(self) -> None:
        self.waiting = deque(self.tasks)

    def run(self) -> int:
        """Until nothing waits or the labeller ends it; how many labels were stored."""
        while self.waiting:
            self._show(self.waiting[0])
            try:
                key = self.keyboard.key()
            except KeyboardInterrupt:
                break
            if key in _ENDS:
                break
            self._press(key)
        return self.said

    def _press(self, key: str) -> None:
        task, self.remark = self.waiting[0], ""
        grades = dict(zip(_GRADE_KEYS, task.menu, strict=False))
        if key in grades:
            self._say(task, grades[key])
        elif key == "u":
            self._say(task, None)
        elif key == "s":
            self.waiting.rotate(-1)
            self.note = ""
        elif key == "b" and self.done:
            self.waiting.appendleft(self.done.pop())
            self.note, self.remark = "", "graded before; the next grade takes its place"
        elif key == "n":
            self.note = self._line("note: ")
        elif key == "m":
            with self.keyboard.lines(), self.console.pager(styles=False):
                self.console.print(_whole(task))

    def _say(self, task: Task, grade: str | None) -> None:
        try:
            self.save(self.pen.label(task, grade, self.note))
        except (
            Exception
        ) as error:  # whatever keeps the ledger from it: nothing is lost, and the task is still here
            self.remark = f"not stored, grade it again: {error}"
            return
        self.said += 1
        self.note = ""
        self.done.append(self.waiting.popleft())

    def _line(self, prompt: str) -> str:
        try:
            return self.keyboard.line(prompt).strip()[:4000]
        except (KeyboardInterrupt, EOFError):
            return ""

    def _show(self, task: Task) -> None:
        console, n = self.console, len(self.tasks)
        console.clear()
        left = f"{plain(self.pen.golden.name)} · {plain(task.check.key)} · {plain(self.pen.labeller)}"
        console.print(Text(f"{left} · {n - len(self.waiting)} of {n} graded", style="dim"))
        blocks = _blocks(task)
        room = max(_LEAST_LINES, (shutil.get_terminal_size().lines - _FRAME) // len(blocks))
        for title, text in blocks:
            console.print(Rule(title, align="left", style="dim"))
            console.print(_cut(text, room, console.width))
        console.print(Rule("the criterion", align="left", style="dim"))
        console.print(_cut(task.criterion, _LEAST_LINES, console.width), style="bold")
        keys = [f"[{key}] {grade}" for key, grade in zip(_GRADE_KEYS, task.menu, strict=False)]
        console.print(Text(plain("   ".join(keys)), style="bold cyan"))
        rest = "[u] cannot tell   [s] later   [b] back   [n] note   [m] whole text   [q] end"
        console.print(Text(rest, style="dim"))
        for said in (f"note: {self.note}" if self.note else "", self.remark):
            if said:
                console.print(Text(plain(said), style="yellow"))


def _blocks(task: Task) -> list[tuple[str, str]]:
    found = [("the question", asked(task.item))]
    if task.item.reference:
        found.append(("a right answer, for reference", " / ".join(map(str, task.item.reference))))
    titles = ("the answer",) if len(task.answers) == 1 else ("the first answer", "the second answer")
    return [*found, *zip(titles, map(answered, task.answers), strict=True)]


def _whole(task: Task) -> Text:
    parts = [*_blocks(task), ("the criterion", task.criterion)]
    return Text("\n\n".join(f"--- {title}\n{plain(text)}" for title, text in parts))


def _cut(text: str, lines: int, width: int) -> Text:
    """The beginning of a text, as many lines of the screen as there is room for."""
    shown, used = [], 0
    all_lines = plain(text).split("\n")
    for line in all_lines:
        height = max(1, -(-len(line) // max(1, width)))
        if used + height > lines:
            shown.append(f"{line[: width * max(0, lines - used - 1)]}... [m] shows the rest")
            break
        shown.append(line)
        used += height
    return Text("\n".join(shown))
