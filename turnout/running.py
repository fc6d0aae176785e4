"""How do `turnout up` and the single processes run in the foreground until they are told to stop?"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

from experiments.client import ControlClient, ControlError
from proxy import roster
from proxy.roster import NoSupervisor, replace_workers
from proxy.supervisor import PortTaken

from .processes import Processes, ProcessFailed, Program, check_ports, endings, free_ports, programs
from .settings import Settings
from .terminal import err, fail, say


def run_all(settings: Settings) -> None:
    """All of them, watched, until Ctrl-C, SIGTERM, or the terminal's end."""
    _make(settings.data)
    # What runs here is here: elsewhere, other commands may look for another Turnout.
    settings = with_ports(settings.model_copy(update={"control_url": None, "proxy_url": None}))
    wanted = programs(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, *endings()):
        signal.signal(number, lambda *_: stop.set())
    processes, others = Processes(settings.data), _others_here(settings.data)
    try:
        check_ports(wanted)
        # The controller owns the folder: where it ends at once, nobody else has touched what is in there.
        for together in (wanted[:1], wanted[1:]):
            if not _started(processes, together, stop):
                return
        _tell(f"Applications:  base_url {settings.proxy_address}/v1")
        _tell(f"Dashboard:     http://127.0.0.1:{settings.dashboard_port}")
        _tell(f"Control API:   {settings.control_address}/docs")
        _tell(f"Everything is in {settings.data.resolve()}; Ctrl-C stops.")
        while not stop.wait(0.5):
            for event in processes.tend():
                _tell(event, "yellow")
            # evaluators.yaml may have come since: by an editor, or by `turnout apply`.
            for event in processes.begin(programs(settings)):
                _tell(event)
    except (ProcessFailed, PortTaken) as error:
        fail(f"{others}{registry_trouble(settings)}{error}")
    finally:
        processes.stop(lambda name: err.print(f"stopping the {name}"))


def _started(processes: Processes, together: tuple[Program, ...], stop: threading.Event) -> bool:
    """Start them beside each other and wait until each answers; False where all is to stop before that."""
    for program in together:
        processes.start(program)
    for program in together:
        with err.status(f"starting the {program.name}"):
            processes.wait(program.name, unless=stop.is_set)
        if stop.is_set():
            return False
    return True


def registry_trouble(settings: Settings) -> str:
    """What is said first where the controller runs and its registry does not answer: until it has once, no
    proxy is ready."""
    try:
        with closing(ControlClient(settings.control_address, timeout_s=2.0)) as api:
            registry = api.get("/api/health")["registry"]
    except ControlError:
        return ""
    return "" if registry["ok"] else f"registry: {registry['error']}\n"


def _others_here(data: Path) -> str:
    """What is said beside a trouble where the data folder has processes already: what started them may have
    been killed."""
    try:
        pid = roster.read(data).pid
    except NoSupervisor:
        return ""
    return (
        f"Turnout runs on {data} already (its proxy is process {pid}): end that first. If what started it "
        "was killed, `ps -ef` shows the processes that are left.\n"
    )


def _tell(event: str, style: str = "") -> None:
    """A line. Where there is no room for it, or its terminal is gone, the processes go on."""
    with suppress(OSError):
        say(event, style)


def with_ports(settings: Settings) -> Settings:
    """The settings with a free port for each 0: the processes must know of each other where they are."""
    unset = [name for name in ("proxy_port", "control_port", "dashboard_port") if not getattr(settings, name)]
    return settings.model_copy(update=dict(zip(unset, free_ports(len(unset)), strict=True)))


def restart_workers(data: Path, timeout_s: float) -> None:
    """Ends with 1 where not every worker was replaced."""
    began = time.monotonic()
    try:
        with err.status("replacing the proxy's workers"):
            before, after = replace_workers(data, timeout_s=timeout_s)
    except (NoSupervisor, TimeoutError) as error:
        fail(str(error))
    if after.trouble is not None:
        fail(f"{after.trouble}; the workers that were there go on. The proxy's log says why")
    pids = [", ".join(map(str, roster.workers)) for roster in (before, after)]
    say(f"Replaced after {time.monotonic() - began:.1f} s: workers {pids[0]} -> {pids[1]}.")


def _make(folder: Path) -> None:
    """The data folder. It holds what people asked and were answered: a new one is its owner's alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
    except OSError as error:
        fail(f"the data folder {folder} cannot be made: {error.strerror}; choose another with --data", 2)
    for needed in (folder, folder / "logs"):
        if not os.access(needed, os.W_OK | os.X_OK):
            fail(f"the folder {needed} cannot be written to; mend that, or choose another with --data", 2)


def run_one(settings: Settings, name: str) -> None:
    """Become one of the processes: signals and logs are its own."""
    if name != "dashboard":  # which only reads there
        _make(settings.data)
    program = next(program for program in programs(with_ports(settings)) if program.name == name)
    try:
        check_ports((program,))
    except ProcessFailed as error:
        fail(str(error).replace(program.option, "--port"))
    os.execvpe(program.command[0], program.command, {**os.environ, **program.environment})
