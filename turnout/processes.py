"""How do Turnout's processes live on one machine: start in order, watched, stopped in order?

`turnout up` and the demo use it. Each process has a log of its own under the data folder; one that dies is
started again, and says so. Nothing here knows what the processes do.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from random import randrange
from typing import IO

import httpx

import dashboard.start
from experiments.tls import over_tls
from proxy.limits import read_limits
from proxy.supervisor import listen

from .settings import Settings

#: With this file in the data folder the evaluators run too (evaluators.automation says what it declares).
EVALUATORS_FILE = "evaluators.yaml"
#: Time for a process to answer its health check: MLflow's first start migrates a database.
START_SECONDS = 90.0
#: One that ends so soon after its start does nothing yet: connections are not kept waiting for the next.
BIRTH_SECONDS = 5.0
#: Time to end after SIGTERM. The proxy has longer where its workers have, and a little beyond that.
STOP_SECONDS = 40.0
_BEYOND_WORKERS = 2.0
#: Where free ports are looked for, beginning where no other process is likely to look.
_PORTS = range(10_000, 30_000)
_TURNS = count(randrange(len(_PORTS)))


class ProcessFailed(RuntimeError):
    """A process did not come up; the message holds the end of its log and says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A process to run: `healthy` is a URL that answers 200 once it is up, `port` what it will listen on.
    One that listens nowhere has neither, and counts as up when it has started."""

    name: str
    command: tuple[str, ...]
    port: int | None = None
    healthy: str | None = None
    option: str = ""
    #: the address whose socket is opened and held here: its command takes it by `--listener-fd`, and what
    #: connects while it is being started again waits for it
    host: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    #: seconds that it may take to end
    stop_s: float = STOP_SECONDS


def programs(settings: Settings) -> tuple[Program, ...]:
    """The processes of `turnout up`, in the order of starting: each can live without the later ones."""
    data = str(settings.data)
    leaving_s = read_limits(settings.limits or "").leaving_seconds
    control_url = settings.control_address
    controller = [sys.executable, "-m", "experiments", "--data", data]
    controller += ["--tracking-uri", settings.registry_uri, "--port", str(settings.control_port)]
    proxy = [sys.executable, "-m", "proxy", "--data", data, "--control-url", control_url]
    proxy += ["--host", settings.host, "--port", str(settings.proxy_port), "--workers", str(settings.workers)]
    if settings.busy_polling:
        proxy.append("--busy-polling")
    evaluators = [sys.executable, "-m", "evaluators", "--data", data]
    evaluators += ["--control-url", control_url, "--proxy-url", settings.proxy_address]
    wanted = os.path.exists(settings.data / EVALUATORS_FILE)  # no, where another user may not look
    automatic = (Program(name="evaluators", command=tuple(evaluators)),) if wanted else ()
    return (
        Program(
            name="controller",
            command=tuple(controller),
            port=settings.control_port,
            option="--control-port",
            healthy=f"{control_url}/healthz",
        ),
        Program(
            name="proxy",
            command=tuple(proxy),
            port=settings.proxy_port,
            option="--proxy-port",
            host=settings.host,
            healthy=f"{settings.proxy_address}/readyz",
            stop_s=max(STOP_SECONDS, leaving_s + _BEYOND_WORKERS),
        ),
        Program(
            name="dashboard",
            command=tuple(dashboard.start.command(settings.dashboard_port, control_url, settings.token_file)),
            environment=dashboard.start.environment(control_url, settings.token_file),
            port=settings.dashboard_port,
            option="--dashboard-port",
            healthy=f"http://127.0.0.1:{settings.dashboard_port}/_stcore/health",
        ),
        *automatic,
    )


def free_port(host: str = "127.0.0.1") -> int:
    """A port of that address that nobody listens on now."""
    return free_ports(1, host=host)[0]


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on now, none of them twice. Raises OSError where there are none.

    They are below those that systems give to connections going out: such a one could be taken again before
    anybody listens on it.
    """
    found = list(islice(_free(host), count))
    if len(found) < count:
        raise OSError(errno.EADDRINUSE, f"no port between {_PORTS[0]} and {_PORTS[-1]} is free")
    return found


def _free(host: str) -> Iterator[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for turn in islice(_TURNS, len(_PORTS)):
        port = _PORTS[turn % len(_PORTS)]
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        yield port


def check_ports(wanted: tuple[Program, ...]) -> None:
    """Raises ProcessFailed, naming each port that cannot be had, why, and the option that changes it."""
    trouble = []
    owners: dict[int, str] = {}
    for program in wanted:
        if program.port is None:
            continue
        owner = owners.setdefault(program.port, program.name)
        shared = owner != program.name
        why = f"the {owner} has it" if shared else refusal(program.port)
        if why is not None:
            trouble.append(
                f"port {program.port} for the {program.name}: {why} (change it with {program.option})"
            )
    if trouble:
        raise ProcessFailed("; ".join(trouble))


def refusal(port: int) -> str | None:
    """Why nobody can listen there now, None if somebody can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            return "something else listens there" if taken else error.strerror or str(error)
    return None


def endings() -> tuple[signal.Signals, ...]:
    """What ends a command that has started processes, beside Ctrl-C. A terminal that is closed does: they
    are not its own, and would stay behind. Under nohup it does not.
    """
    stays = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGTERM,) if stays else (signal.SIGTERM, signal.SIGHUP)


class Processes:
    """Running processes of one data folder."""

    def __init__(self, data: Path) -> None:
        self._logs = data / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._programs: dict[str, Program] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._born: dict[str, float] = {}
        self._logged: dict[str, int] = {}
        self._listeners: dict[str, socket.socket] = {}

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int:
        """The process id of a running process."""
        return self._running[name].pid

    def start(self, program: Program) -> None:
        """Start without waiting. Raises OSError, PortTaken among them."""
        self._programs[program.name] = program
        self._born[program.name] = time.monotonic()
        self._logs.mkdir(exist_ok=True)  # somebody who makes room may have deleted it
        with self.log(program.name).open("ab") as out:
            self._logged[program.name] = out.tell()
            self._running[program.name] = _spawn(program, out, self._listener(program))

    def _listener(self, program: Program) -> socket.socket | None:
        if program.host is None or program.port is None:
            return None
        if program.name not in self._listeners:
            options = ("TURNOUT_HOST", program.option)
            self._listeners[program.name] = listen(program.host, program.port, options=options)
        return self._listeners[program.name]

    def _close_door(self, name: str) -> None:
        """Nobody is to wait for it any more: connections are refused once it has closed its own end too."""
        if name in self._listeners:
            self._listeners.pop(name).close()

    def wait(
        self, name: str, seconds: float = START_SECONDS, *, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """Until the process answers, `unless` that is wanted no more. Raises ProcessFailed when it ends or
        stays silent."""
        program = self._programs[name]
        if program.healthy is None:
            return
        deadline = time.monotonic() + seconds
        with httpx.Client(timeout=2.0, trust_env=False, verify=over_tls(program.healthy)) as client:
            while time.monotonic() < deadline:
                if unless():
                    return
                code = self._running[name].poll()
                if code is not None:
                    raise ProcessFailed(f"the {name} ended at once (exit code {code}).\n{self._tail(name)}")
                with suppress(httpx.TransportError):
                    if client.get(program.healthy).status_code == httpx.codes.OK:
                        return
                time.sleep(0.05)
        raise ProcessFailed(f"the {name} did not answer within {seconds:g} s.\n{self._tail(name)}")

    def _tail(self, name: str, lines: int = 12) -> str:
        written = self.log(name).read_bytes()[self._logged[name] :]
        text = written.decode("utf-8", "replace").splitlines()[-lines:]
        return "\n".join([f"The end of {self.log(name)}:", *(f"  {line}" for line in text)])

    def tend(self) -> list[str]:
        """Start again what has ended, at most once a second each; what happened, in words."""
        events = []
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is not None and self._may_start(name):
                if time.monotonic() - self._born[name] < BIRTH_SECONDS:
                    self._close_door(name)
                done = self._started(self._programs[name], "was started again")
                events.append(f"the {name} ended ({_ending(code)}) and {done}")
        return events

    def begin(self, wanted: Iterable[Program]) -> list[str]:
        """Start what is wanted by now and does not run yet; in words, what."""
        return [
            f"the {program.name} {self._started(program, 'were started')}"
            for program in wanted
            if program.name not in self._running and self._may_start(program.name)
        ]

    def _may_start(self, name: str) -> bool:
        born = self._born.get(name)
        return born is None or time.monotonic() - born > 1.0

    def _started(self, program: Program, done: str) -> str:
        """Start it, and say that it was `done`, or what kept it from that: the others go on."""
        try:
            self.start(program)
        except OSError as error:  # no room, no memory, no process left
            self._close_door(program.name)
            return f"cannot be started yet: {error}"
        return f"{done}; see {self.log(program.name)}"

    def replace(self, program: Program) -> None:
        """Put another program in the place of the one of the same name, and wait until it answers."""
        process = self._running[program.name]
        process.terminate()
        process.wait(program.stop_s)
        self.start(program)
        self.wait(program.name)

    def stop(self, said: Callable[[str], None] = lambda _: None) -> None:
        """In reverse order of starting. Safe to repeat.

        1. evaluators and dashboard: nobody asks or presses a button any more. 2. proxy: requests in flight
        end, the spool is sealed. 3. controller, last: it takes the sealed segments into the ledger.
        All of them, though the terminal, where it is to be told, may be gone.
        """
        for name in reversed(list(self._running)):
            process = self._running.pop(name)
            self._close_door(name)
            if process.poll() is None:
                with suppress(OSError):
                    said(name)
                process.terminate()
                try:
                    process.wait(self._programs[name].stop_s)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _spawn(program: Program, out: IO[bytes], listener: socket.socket | None) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches only us, and we stop the processes in order.
    handed = () if listener is None else (listener.fileno(),)
    return subprocess.Popen(
        (*program.command, *(part for fd in handed for part in ("--listener-fd", str(fd)))),
        pass_fds=handed,
        env={**os.environ, **program.environment},
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        start_new_session=True,
    )


def _ending(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
