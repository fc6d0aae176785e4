"""Which supervisor runs on a data folder, which workers has it, and how far is it with replacing them?

It says so in DATA/proxy.pid, and holds a lock on that file while it lives: of a file that nobody holds the
pid may be anybody's by now. Whoever wants the workers replaced reads it, sends SIGHUP, and reads on.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

log = logging.getLogger("turnout.proxy")

NAME: Final = "proxy.pid"
_TRIES: Final = 10


class NoSupervisor(RuntimeError):
    """Nobody can be asked; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """A supervisor and its workers, by pid on `host`.

    `rounds` counts how often all were to be replaced, `left` how many of the last round are still to go, and
    `trouble` says why that round was broken off.
    """

    pid: int
    host: str = field(default_factory=socket.gethostname)
    workers: tuple[int, ...] = ()
    rounds: int = 0
    left: int = 0
    trouble: str | None = None


class RosterFile:
    """The supervisor's side. A disk that refuses costs the file and nothing else."""

    def __init__(self, data: Path) -> None:
        self._last: Roster | None = None
        self._fd = -1
        try:
            self._fd = os.open(data / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._hold()
        except OSError as error:
            log.warning("%s cannot be written, `turnout restart` will not work: %s", data / NAME, error)
            self.close()

    def _hold(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not left:
                    raise
                time.sleep(0.02)  # somebody is looking whether it is held

    @property
    def held(self) -> bool:
        """Whether it is this supervisor's; not where another proxy lives on the folder."""
        return self._fd >= 0

    def note(self, roster: Roster) -> None:
        """Write it down if it has changed."""
        if roster == self._last or self._fd < 0:
            return
        line = json.dumps(asdict(roster)).encode() + b"\n"
        try:
            os.pwrite(self._fd, line, 0)
            os.ftruncate(self._fd, len(line))  # a reader in between finds the new line first
        except OSError as error:
            log.warning("%s is not up to date: %s", NAME, error)
        self._last = roster

    def close(self) -> None:
        """Let the file go. Safe to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(data: Path) -> Roster:
    """What the supervisor of a data folder says. Raises NoSupervisor if none lives there."""
    nobody = f"no proxy runs on {data}: start it with `turnout proxy` or `turnout up`, or name its folder"
    try:
        with (data / NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found = json.loads(file.readline())
                return Roster(**found | {"workers": tuple(found["workers"])})
    except FileNotFoundError:
        pass
    except PermissionError:
        raise NoSupervisor(f"{data / NAME} is another user's: run this as that one") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NoSupervisor(f"{data / NAME} cannot be read ({error}): is it starting?") from None
    raise NoSupervisor(nobody)


def replace_workers(data: Path, *, timeout_s: float, pause_s: float = 0.1) -> tuple[Roster, Roster]:
    """Have every worker replaced, one after the other, and wait for it: before and after.

    Raises NoSupervisor if there is none or it ends meanwhile, and TimeoutError; the replacing goes on then.
    """
    before = read(data)
    if before.host != socket.gethostname():
        raise NoSupervisor(f"the proxy on {data} runs on {before.host!r}: run this there")
    try:
        os.kill(before.pid, signal.SIGHUP)
    except PermissionError:
        raise NoSupervisor(f"process {before.pid} belongs to another user: run this as that one") from None
    except ProcessLookupError:
        raise NoSupervisor(f"the proxy on {data} has just ended") from None
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        now = read(data)
        if now.pid == before.pid and now.rounds > before.rounds and not now.left:
            return before, now
        time.sleep(pause_s)
    raise TimeoutError(f"after {timeout_s:g} s the workers are not all replaced; the proxy goes on with it")
