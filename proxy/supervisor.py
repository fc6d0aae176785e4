"""How do N workers share one port, and what happens when one dies?

The supervisor binds the port and hands the listening socket to its workers: connections that wait in the
queue survive a worker's death, and the next worker takes them. It answers no request itself.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import exposition

log = logging.getLogger("turnout.proxy")

#: A worker's own drain time, and a little for its last rows.
_DRAIN_SECONDS = 35.0


class PortTaken(OSError):
    """Nobody can listen there; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOptions:
    """What `turnout proxy` is told."""

    data: Path
    control_url: str
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises PortTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        message = f"cannot listen on {host}:{port}: {error.strerror}; stop what listens there or give --port"
        raise PortTaken(message) from error
    listener.setblocking(False)
    return listener


class Supervisor:
    """Starts the workers, restarts those that die, ends them all on SIGTERM or SIGINT."""

    def __init__(self, options: ProxyOptions) -> None:
        self._options = options
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._born: dict[int, float] = {}
        self._not_before = [0.0] * options.workers
        self._stopping = False

    def run(self) -> int:
        """Supervise until told to stop; the exit code."""
        listener = listen(self._options.host, self._options.port)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        log.info("proxy on http://%s:%d", self._options.host, listener.getsockname()[1])
        try:
            while not self._stopping:
                self._tend(listener)
                time.sleep(0.05)
        finally:
            listener.close()
            self._end_workers()
        return 0

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _tend(self, listener: socket.socket) -> None:
        now = time.monotonic()
        for slot in range(self._options.workers):
            worker = self._workers.get(slot)
            if worker is not None and worker.poll() is not None:
                log.error("worker %d (pid %d) ended with %s", slot, worker.pid, worker.returncode)
                # One that dies at birth is started again at most once a second.
                self._not_before[slot] = now + (1.0 if now - self._born[slot] < 5.0 else 0.0)
                exposition.retire(self._options.data / "metrics", worker.pid)
                worker = None
                del self._workers[slot]
            if worker is None and now >= self._not_before[slot]:
                self._not_before[slot] = now + 1.0
                try:
                    self._workers[slot] = self._start(listener)
                    self._born[slot] = now
                except OSError as error:  # no memory, no process left: the other workers go on
                    log.error("worker %d cannot be started: %s", slot, error)

    def _start(self, listener: socket.socket) -> subprocess.Popen[bytes]:
        fd = listener.fileno()
        options = self._options
        command = [sys.executable, "-m", "proxy", "--fd", str(fd), "--parent", str(os.getpid())]
        command += ["--data", str(options.data), "--control-url", options.control_url]
        return subprocess.Popen(command, pass_fds=(fd,), stdin=subprocess.DEVNULL)

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.terminate()
        deadline = time.monotonic() + _DRAIN_SECONDS
        for worker in self._workers.values():
            try:
                worker.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def run(options: ProxyOptions) -> int:
    """Serve until SIGTERM; raises PortTaken."""
    options.data.mkdir(parents=True, exist_ok=True)
    exposition.clear(options.data / "metrics")
    return Supervisor(options).run()
