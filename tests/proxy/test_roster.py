"""Who may be sent a signal, and what is said where nobody may. The command is in test_supervisor.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.roster import NAME, NoSupervisor, Roster, RosterFile, read, replace_workers


def test_what_a_living_supervisor_says_is_read(tmp_path: Path) -> None:
    file = RosterFile(tmp_path)
    for workers in ((1000001, 1000002), (7,)):  # a shorter line after a longer one
        roster = Roster(pid=os.getpid(), workers=workers, rounds=1, left=1, trouble="a" * len(workers))
        file.note(roster)
        assert read(tmp_path) == roster
    file.close()
    with pytest.raises(NoSupervisor, match="turnout up"):
        read(tmp_path)


def test_of_a_supervisor_that_was_killed_the_pid_is_not_believed(tmp_path: Path) -> None:
    """Its pid may be anybody's: SIGHUP ends most programs."""
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    program = (
        "import os, pathlib, sys; from proxy.roster import Roster, RosterFile;"
        f"file = RosterFile(pathlib.Path(sys.argv[1])); file.note(Roster(pid={bystander.pid}));"
        "os.kill(os.getpid(), 9)"
    )
    try:
        killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert str(bystander.pid) in (tmp_path / NAME).read_text()
        with pytest.raises(NoSupervisor):
            replace_workers(tmp_path, timeout_s=1)
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n", timeout=20)
    assert bystander.returncode == 0


@pytest.mark.parametrize("text", ["", '{"pid": 1', '{"pid": 1, "workers": [2], "what": 3}\n'])
def test_a_torn_file_is_told(tmp_path: Path, text: str) -> None:
    file = RosterFile(tmp_path)
    (tmp_path / NAME).write_text(text)
    with pytest.raises(NoSupervisor, match="cannot be read"):
        read(tmp_path)
    file.close()


def test_another_users_supervisor_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NoSupervisor, match="another user's"):
        read(tmp_path)


def test_a_supervisor_elsewhere_is_not_asked_here(tmp_path: Path) -> None:
    file = RosterFile(tmp_path)
    file.note(Roster(pid=os.getpid(), host="another-host"))
    with pytest.raises(NoSupervisor, match="another-host"):
        replace_workers(tmp_path, timeout_s=1)
    file.close()


def test_a_second_proxy_on_the_folder_goes_on_without_the_file(tmp_path: Path) -> None:
    first, second = RosterFile(tmp_path), RosterFile(tmp_path)
    first.note(Roster(pid=1))
    second.note(Roster(pid=2))
    assert read(tmp_path).pid == 1
    second.close()
    first.close()


def test_workers_that_are_not_replaced_in_time_are_told(tmp_path: Path) -> None:
    former = signal.signal(signal.SIGHUP, lambda *_: None)
    file = RosterFile(tmp_path)
    file.note(Roster(pid=os.getpid(), workers=(1,)))
    try:
        with pytest.raises(TimeoutError, match="goes on"):
            replace_workers(tmp_path, timeout_s=0.05, pause_s=0.01)
    finally:
        file.close()
        signal.signal(signal.SIGHUP, former)
