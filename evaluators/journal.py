"""Which answers were had, but perhaps not yet stored, when the process that asked was killed?

One line for each answer, written before it is scored and before anything else is asked in its place: what the
kernel has been given survives the process (not the machine: then the answers of the last batch are asked
again). The next run scores what the ledger lacks, and asks only for what was in flight. The file's lock keeps
two processes from making the same run at the same time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import orjson

from evaluators.errors import RunBusy
from evaluators.golden import GoldenItem
from evaluators.score import Output, ToolCall

#: Where journals lie in the data folder.
JOURNAL_FOLDER: Final = "golden"


class Journal:
    """The journal of one run, at `folder/RUN_ID.jsonl`. Use as a context manager; raises RunBusy when another
    process holds it."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._path = folder / f"{run_id}.jsonl"
        self._run_id = run_id
        self._fd = -1

    def __enter__(self) -> Journal:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise RunBusy(
                f"run {self._run_id} is being made by another process; wait for it, or stop it"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def answers(self) -> dict[tuple[str, str, int], Output]:
        """What was written, by item id, item hash and repeat; a line that broke off is left out, and removed
        if it is the last."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._fd, whole)
        lines = [_read(line) for line in content[:whole].splitlines()]
        return {
            (line["item_id"], line["item_hash"], line["repeat"]): _output(line["output"])
            for line in lines
            if isinstance(line, dict)  # older releases wrote lists of scores: such an answer is asked again
        }

    def write(self, item: GoldenItem, repeat: int, output: Output) -> None:
        """Keep an answer. Raises OSError, with the file's name."""
        line = {"item_id": item.id, "item_hash": item.hash, "repeat": repeat, "output": output}
        try:
            os.write(self._fd, orjson.dumps(line) + b"\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def clear(self) -> None:
        """Everything is stored: forget it."""
        self._path.unlink(missing_ok=True)


def _read(line: bytes) -> Any:
    """None for what a full disk has cut, and what came after it once there was room again has completed."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _output(written: Mapping[str, Any]) -> Output:
    calls = tuple(ToolCall(**call) for call in written["tool_calls"])
    return Output(**{**written, "tool_calls": calls})
