"""Processes are started in order, watched, and stopped in order; what fails says why and how to mend it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from proxy.roster import Roster, RosterFile
from proxy.supervisor import PortTaken
from tests.experiments.plane import Plane
from tests.journey import eventually
from tests.proxy.harness import snapshot
from turnout import running
from turnout.processes import (
    BIRTH_SECONDS,
    Processes,
    ProcessFailed,
    Program,
    check_ports,
    endings,
    free_port,
    free_ports,
    programs,
)
from turnout.running import with_ports
from turnout.settings import Settings

SERVER = """
import http.server, signal, sys
open(sys.argv[2], "a").write(sys.argv[3] + " starts\\n")
def stop(*_):
    open(sys.argv[2], "a").write(sys.argv[3] + " stops\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def program(name: str, diary: Path, *command: str) -> Program:
    port = free_port()
    return Program(
        name=name,
        command=command or (sys.executable, "-c", SERVER, str(port), str(diary), name),
        port=port,
        healthy=f"http://127.0.0.1:{port}/",
        option=f"--{name}-port",
    )


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    made.stop()


def test_they_stop_in_the_reverse_order_of_starting(processes: Processes, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    for name in ("first", "second"):
        processes.start(program(name, diary))
        processes.wait(name)
    said: list[str] = []
    processes.stop(said.append)
    processes.stop(said.append)
    assert said == ["second", "first"]
    assert diary.read_text().splitlines() == ["first starts", "second starts", "second stops", "first stops"]


def test_they_all_stop_though_nobody_is_there_to_be_told(processes: Processes, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    for name in ("first", "second"):
        processes.start(program(name, diary))
        processes.wait(name)

    def say(name: str) -> None:
        raise OSError(5, "the terminal was closed")

    processes.stop(say)
    assert diary.read_text().splitlines()[2:] == ["second stops", "first stops"]


UP = """
import sys
from pathlib import Path
from turnout import running
from turnout.processes import Program
from turnout.settings import Settings
child = (sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
running.programs = lambda settings: (Program(name="first", command=child, healthy=sys.argv[2] or None),)
running.run_all(Settings(data=Path(sys.argv[1])))
"""


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("number", "healthy"),
    [(signal.SIGINT, "http://127.0.0.1:1/"), (signal.SIGTERM, ""), (signal.SIGHUP, "")],
)
def test_told_to_end_it_ends_at_once_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals, healthy: str
) -> None:
    """While they start as well, and when its terminal is closed."""
    log = tmp_path / "logs" / "first.log"
    with subprocess.Popen([sys.executable, "-c", UP, str(tmp_path), healthy]) as up:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().endswith("\n")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        up.send_signal(number)
        up.wait(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


@pytest.mark.usefixtures("terminal")
def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    assert signal.SIGHUP in endings()
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert endings() == (signal.SIGTERM,)
    finally:
        signal.signal(signal.SIGHUP, former)


def test_one_that_dies_is_started_again_and_that_is_told(processes: Processes, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    processes.start(program("first", diary))
    processes.wait("first")
    before = processes.pid("first")
    time.sleep(1.1)  # one that has lived for less than a second is not started again at once
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not (events := processes.tend()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "SIGKILL" in events[0]
    processes.wait("first")
    assert processes.pid("first") != before
    assert processes.tend() == []


def test_one_that_cannot_be_started_again_ends_no_other(processes: Processes, tmp_path: Path) -> None:
    """Whoever makes room on a full disk deletes the logs."""
    diary = tmp_path / "diary"
    for name in ("first", "second"):
        processes.start(program(name, diary))
        processes.wait(name)
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").touch()
    time.sleep(1.1)
    os.kill(processes.pid("first"), signal.SIGKILL)
    told = eventually(processes.tend, within=10)
    assert "the first ended (SIGKILL) and cannot be started yet: " in told[0]
    assert processes.begin([program("third", diary)])[0].startswith("the third cannot be started yet: ")
    assert processes.begin([program("third", diary)]) == []  # not more often than once a second
    (tmp_path / "logs").unlink()
    assert "was started again" in eventually(processes.tend, within=10)[0]
    processes.wait("first")
    assert (tmp_path / "logs" / "first.log").exists()


@pytest.mark.usefixtures("terminal")
def test_that_nothing_more_can_be_told_ends_nothing(tmp_path: Path) -> None:
    """A full disk takes neither the log of `turnout up` nor anything else."""
    log = tmp_path / "logs" / "first.log"
    with open("/dev/full", "w") as full:
        up = subprocess.Popen([sys.executable, "-c", UP, str(tmp_path), ""], stdout=full)
    with up:
        eventually(lambda: log.exists() and log.read_text().endswith("\n"), within=60)
        time.sleep(1.2)
        os.kill(int(log.read_text()), signal.SIGKILL)
        eventually(lambda: log.read_text().count("\n") == 2, within=10)
        assert up.poll() is None
        up.send_signal(signal.SIGTERM)
        up.wait(timeout=30)


def test_what_follows_the_controller_is_started_side_by_side(processes: Processes, tmp_path: Path) -> None:
    """Dashboard and proxy take a second each to load: neither waits for the other."""
    second, third = program("second", tmp_path / "diary"), program("third", tmp_path / "diary")
    needy = replace(second, healthy=third.healthy)
    assert running._started(processes, (needy, third), threading.Event())


def test_nothing_else_is_started_where_the_controller_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another Turnout may have the folder: its proxy is not to meet a second one there."""
    first = program("first", tmp_path / "diary", sys.executable, "-c", "raise SystemExit(1)")
    wanted = (first, program("second", tmp_path / "diary"))
    monkeypatch.setattr(running, "programs", lambda settings: wanted)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(typer.Exit):
        running.run_all(Settings(data=tmp_path))
    assert not (tmp_path / "logs" / "second.log").exists()


def test_up_speaks_to_the_processes_that_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TURNOUT_CONTROL_URL may lead other commands to another Turnout."""
    asked: list[Settings] = []

    def no_programs(settings: Settings) -> tuple[Program, ...]:
        asked.append(settings)
        raise ProcessFailed("enough")

    monkeypatch.setattr(running, "programs", no_programs)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    there = {"control_url": "http://elsewhere:1", "proxy_url": "http://elsewhere:2"}
    with pytest.raises(ProcessFailed):
        running.run_all(Settings(data=tmp_path, control_port=9001, proxy_port=9000, **there))  # type: ignore[arg-type]
    found = (asked[0].control_address, asked[0].proxy_address)
    assert found == ("http://127.0.0.1:9001", "http://127.0.0.1:9000")


def test_what_was_left_behind_is_told_where_its_ports_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`turnout up` was killed: its processes go on."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    left = RosterFile(tmp_path)
    left.note(Roster(pid=4711))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(typer.Exit):
        running.run_all(Settings(data=tmp_path, control_port=taken.getsockname()[1]))
    left.close()
    told = capsys.readouterr().err
    assert f"Turnout runs on {tmp_path} already (its proxy is process 4711)" in told
    assert "something else listens there" in told


def test_a_registry_that_is_away_is_told_where_no_proxy_becomes_ready(plane: Plane, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)  # the address is in the environment
    plane.controller.reconcile()
    assert running.registry_trouble(settings) == ""
    plane.controller._registry_error = "the one at http://mlflow:5000 is away"
    assert running.registry_trouble(settings) == "registry: the one at http://mlflow:5000 is away\n"
    assert running.registry_trouble(settings.model_copy(update={"control_url": "http://127.0.0.1:1"})) == ""


def test_a_free_port_is_none_that_a_connection_going_out_could_take() -> None:
    found = free_ports(50)
    assert len(set(found)) == 50
    assert max(found) < 32_768  # where Linux begins; others begin higher
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", found[-1] + 1))
        assert free_port() != found[-1] + 1


@pytest.mark.parametrize("name", ["proxy", "controller", "dashboard"])
def test_alone_each_takes_a_free_port_for_a_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    began: list[tuple[str, ...]] = []
    monkeypatch.setattr("os.execvpe", lambda file, command, environment: began.append(command))
    running.run_one(Settings(data=tmp_path, control_port=0, proxy_port=0, dashboard_port=0), name)
    assert "0" not in began[0]


def test_one_that_ends_at_once_is_told_with_the_end_of_its_log(processes: Processes, tmp_path: Path) -> None:
    processes.start(program("first", tmp_path / "d", sys.executable, "-c", "print('no luck'); exit(3)"))
    with pytest.raises(ProcessFailed, match=r"(?s)exit code 3.*first.log.*no luck"):
        processes.wait("first")


def test_one_that_stays_silent_is_told(processes: Processes, tmp_path: Path) -> None:
    processes.start(program("first", tmp_path / "d", sys.executable, "-c", "import time; time.sleep(60)"))
    with pytest.raises(ProcessFailed, match=r"did not answer within 0\.3 s"):
        processes.wait("first", seconds=0.3)


def test_ports_that_are_taken_are_named_with_the_option_that_changes_them(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(
            data=tmp_path,
            control_port=taken.getsockname()[1],
            proxy_port=free_port(),
            dashboard_port=free_port(),
        )
        with pytest.raises(ProcessFailed) as failed:
            check_ports(programs(settings))
        assert f"port {taken.getsockname()[1]} for the controller" in str(failed.value)
        assert "--control-port" in str(failed.value)
        assert "proxy" not in str(failed.value)


def test_a_port_that_may_not_be_taken_is_not_said_to_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ProcessFailed, match=r"port 80 for the proxy: Permission denied \(.*--proxy-port\)"):
        check_ports(programs(Settings(data=tmp_path, proxy_port=80)))


def test_one_port_for_two_of_them_is_told_before_anything_starts(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, proxy_port=(port := free_port()), dashboard_port=port)
    with pytest.raises(ProcessFailed, match=f"port {port} for the dashboard: the proxy has it"):
        check_ports(programs(settings))


def test_a_port_0_becomes_a_free_one_that_the_others_know(tmp_path: Path) -> None:
    settings = with_ports(Settings(data=tmp_path, control_port=0, proxy_port=0, dashboard_port=8501))
    assert settings.dashboard_port == 8501
    assert 0 < settings.control_port != settings.proxy_port > 0
    assert all(settings.control_address in one.command for one in programs(settings) if one.name == "proxy")


def test_the_token_is_on_no_command_line(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, token="very-secret")
    assert not any("very-secret" in part for one in programs(settings) for part in one.command)


def test_what_is_wanted_only_later_is_started_then_and_once(processes: Processes, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    first, second = program("first", diary), program("second", diary)
    processes.start(first)
    assert processes.begin([first]) == []
    assert processes.begin([first, second]) == [f"the second were started; see {processes.log('second')}"]
    processes.wait("second")
    assert processes.begin([first, second]) == []


@pytest.mark.parametrize("busy", [True, False])
def test_the_proxy_polls_busily_where_the_settings_say_so(
    busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNOUT_BUSY_POLLING", str(busy).lower())
    [proxy] = [one for one in programs(Settings(data=tmp_path)) if "proxy" in one.command]
    assert ("--busy-polling" in proxy.command) is busy


def test_the_evaluators_are_wanted_once_their_file_is_there(tmp_path: Path) -> None:
    settings = Settings(
        data=tmp_path, tracking_uri=None, control_url=None, proxy_url=None, token=None,
        proxy_port=1, control_port=2, dashboard_port=3, workers=1,
    )  # fmt: skip
    assert "evaluators" not in {one.name for one in programs(settings)}
    (tmp_path / "evaluators.yaml").write_text("gate: {}\n")
    assert "evaluators" in {one.name for one in programs(settings)}


def test_in_a_folder_of_another_user_no_evaluators_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dashboard may run as a user of its own."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    settings = Settings(data=tmp_path, tracking_uri="http://127.0.0.1:1")
    monkeypatch.setattr(os, "stat", refuse)
    assert [one.name for one in programs(settings)] == ["controller", "proxy", "dashboard"]


def proxy_alone(data: Path, workers: int = 1) -> Program:
    """The proxy of `turnout up`, on a folder that has a routing table."""
    (data / "proxy-snapshot.json").write_bytes(snapshot({1: "http://127.0.0.1:9"}).to_json())
    settings = Settings(data=data, proxy_port=free_port(), control_port=free_port(), workers=workers)
    [found] = [one for one in programs(settings) if one.name == "proxy"]
    return found


def connecting(address: tuple[str, int], stop: threading.Event) -> Counter[str]:
    """How connections fare until told to stop, each for one request."""
    fared: Counter[str] = Counter()
    while not stop.is_set():
        try:
            with socket.create_connection(address, timeout=30) as client:
                client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                fared["answered" if client.recv(4096).startswith(b"HTTP/1.1 200") else "cut"] += 1
        except OSError as error:
            fared[type(error).__name__] += 1
        time.sleep(0.005)
    return fared


@pytest.mark.slow
def test_connections_wait_while_a_killed_proxy_is_started_again(processes: Processes, tmp_path: Path) -> None:
    program = proxy_alone(tmp_path, workers=2)
    assert program.port is not None
    processes.start(program)
    processes.wait("proxy")
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        users = [pool.submit(connecting, ("127.0.0.1", program.port), stop) for _ in range(2)]
        try:
            time.sleep(BIRTH_SECONDS + 0.1)
            before = processes.pid("proxy")
            os.kill(before, signal.SIGKILL)
            eventually(processes.tend, within=10)
            time.sleep(2)  # the former one's workers find that it is gone, and close their doors
            processes.wait("proxy")
        finally:
            stop.set()
        fared = sum((user.result() for user in users), Counter[str]())
    assert processes.pid("proxy") != before
    assert fared["answered"] > 100
    assert set(fared) == {"answered"}, fared


def test_no_connection_waits_for_a_proxy_that_ends_as_soon_as_it_starts(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = proxy_alone(tmp_path)
    assert program.port is not None
    address = "127.0.0.1", program.port
    monkeypatch.setenv("TURNOUT_LIMITS", "nonsense=1")
    processes.start(program)
    with socket.create_connection(address, timeout=30) as waiting:
        assert "ended" in eventually(processes.tend, within=30)[0]
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)
    monkeypatch.delenv("TURNOUT_LIMITS")
    eventually(processes.tend, within=30)
    processes.wait("proxy")
    processes.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_port_that_is_taken_as_the_proxy_starts_is_told(processes: Processes, tmp_path: Path) -> None:
    program = proxy_alone(tmp_path)
    with (
        socket.create_server(("127.0.0.1", program.port or 0)),
        pytest.raises(PortTaken, match="--proxy-port"),
    ):
        processes.start(program)
