"""How do N workers share one port, and what happens when one dies?

The supervisor binds the port, unless it is given a socket that listens, and hands that to its workers:
connections that wait in the queue survive a worker's death, and the next worker takes them. Whoever gives it
the socket and holds it (`turnout up`) keeps them over its own death. It answers no request itself.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import exposition
from .limits import Limits
from .roster import Roster, RosterFile

log = logging.getLogger("turnout.proxy")

#: Left to itself, glibc keeps what large bodies have taken for whatever comes: a crowd that was there once
#: stays in a worker's memory. Pieces of 256 KiB are given back at once, smaller ones above 8 MiB; a threshold
#: below what one read brings (250 KB) would double what large bodies cost.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(256 << 10), "MALLOC_TRIM_THRESHOLD_": str(8 << 20)}


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
    #: how long a worker may take to end, in seconds
    leaving_s: float = Limits().leaving_seconds
    #: workers never sleep; each needs a core of its own
    busy_polling: bool = False
    #: a listening socket that was inherited; None: it opens one
    listener_fd: int | None = None


def listen(host: str, port: int, *, options: tuple[str, str] = ("--host", "--port")) -> socket.socket:
    """A listening TCP socket. Raises PortTaken, whose message names the `options` that choose another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        mend = f"give another {' or '.join(options)}"
        if error.errno == errno.EADDRINUSE:
            mend = f"stop what listens there or give {options[1]}"
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}; {mend}") from error
    listener.setblocking(False)
    return listener


@dataclass(slots=True)
class _Worker:
    """A worker process. `readiness` is the end of a pipe that it writes to once it takes connections."""

    process: subprocess.Popen[bytes]
    readiness: int
    born: float

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def is_ready(self) -> bool:
        """Whether it has said so; nothing is waited for."""
        if self.readiness < 0:
            return True
        if not select.select((self.readiness,), (), (), 0)[0]:
            return False
        if not os.read(self.readiness, 1):
            return False  # the end of the pipe: it is ending
        self.forget_readiness()
        return True

    def forget_readiness(self) -> None:
        if self.readiness >= 0:
            os.close(self.readiness)
            self.readiness = -1


class Supervisor:
    """Starts the workers, restarts those that die, ends them all on SIGTERM or SIGINT.

    On SIGHUP every worker is replaced, one after the other: the next one is asked to leave when the
    successor of the one before takes connections and the former has ended.
    """

    def __init__(self, options: ProxyOptions) -> None:
        self._options = options
        self._workers: dict[int, _Worker] = {}
        self._not_before = [0.0] * options.workers
        self._to_replace: list[int] = []
        self._successor: _Worker | None = None
        self._leaving: _Worker | None = None
        self._stopping = False
        self._renewing = False
        self._rounds = 0
        self._trouble: str | None = None

    def run(self) -> int:
        """Supervise until told to stop; the exit code."""
        listener = self._listener()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._renew)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # heard by the wake-up pipe
        woken, waking = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(waking, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        host = self._options.host
        log.info("proxy on http://%s:%d", f"[{host}]" if ":" in host else host, listener.getsockname()[1])
        self._mind_cores()
        roster = RosterFile(self._options.data)
        if roster.held:  # another proxy's workers on this folder go on counting
            exposition.clear(self._options.data / "metrics")
        try:
            while not self._stopping:
                self._tend(listener)
                self._replace(listener)
                roster.note(self._roster())
                # It shares a core with its workers: while nothing happens, it sleeps.
                busy = self._to_replace or self._leaving or len(self._workers) < self._options.workers
                if select.select((woken,), (), (), 0.05 if busy else 1.0)[0]:
                    os.read(woken, 512)
        finally:
            signal.set_wakeup_fd(-1)
            os.close(woken)
            os.close(waking)
            listener.close()
            self._end_workers()
            roster.close()
        return 0

    def _listener(self) -> socket.socket:
        if self._options.listener_fd is not None:
            return socket.socket(fileno=self._options.listener_fd)
        return listen(self._options.host, self._options.port)

    def _roster(self) -> Roster:
        return Roster(
            pid=os.getpid(),
            workers=tuple(worker.process.pid for _, worker in sorted(self._workers.items())),
            rounds=self._rounds,
            left=len(self._to_replace) + (self._leaving is not None),
            trouble=self._trouble,
        )

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _renew(self, number: int, frame: object) -> None:
        self._renewing = True

    def _tend(self, listener: socket.socket) -> None:
        now = time.monotonic()
        for slot in range(self._options.workers):
            worker = self._workers.get(slot)
            if worker is not None and worker.ended:
                process = worker.process
                log.error("worker %d (pid %d) ended with %s", slot, process.pid, process.returncode)
                # One that dies at birth is started again at most once a second.
                self._not_before[slot] = now + (1.0 if now - worker.born < 5.0 else 0.0)
                self._buried(worker)
                worker = None
                del self._workers[slot]
            if worker is None and now >= self._not_before[slot]:
                self._not_before[slot] = now + 1.0
                taken = any(other.is_ready() for other in self._workers.values())
                try:
                    self._workers[slot] = self._start(listener, at_once=not taken)
                except OSError as error:  # no memory, no process left: the other workers go on
                    log.error("worker %d cannot be started: %s", slot, error)

    def _replace(self, listener: socket.socket) -> None:
        """One step of replacing all workers, if that was asked for."""
        if self._renewing:
            self._renewing = False
            self._rounds, self._trouble = self._rounds + 1, None
            self._to_replace = list(range(self._options.workers))
            log.info("replacing %d workers", len(self._to_replace))
        if self._leaving is not None:
            if not self._leaving.ended:
                return
            self._buried(self._leaving)
            self._leaving = None
            if not self._to_replace:
                log.info("all workers are replaced")
        if not self._to_replace:
            return
        slot, successor = self._to_replace[0], self._successor
        if successor is None:
            try:
                self._successor = self._start(listener)
            except OSError as error:
                self._break_off(f"worker {slot} is not replaced: {error}")
        elif successor.ended:
            code = successor.process.returncode
            self._break_off(f"worker {slot} is not replaced: its successor ended with {code}")
            self._buried(successor)
            self._successor = None
        elif successor.is_ready():
            del self._to_replace[0]
            self._leaving, self._successor = self._workers.get(slot), None
            self._workers[slot] = successor
            if self._leaving is not None:
                self._leaving.process.terminate()

    def _break_off(self, trouble: str) -> None:
        """The workers that are left stay: they do their work."""
        log.error("%s", trouble)
        self._to_replace, self._trouble = [], trouble

    def _start(self, listener: socket.socket, *, at_once: bool = False) -> _Worker:
        fd = listener.fileno()
        options = self._options
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "proxy", "--fd", str(fd), "--parent", str(os.getpid())]
        command += ["--ready-fd", str(writing), "--workers", str(options.workers)]
        command += ["--data", str(options.data), "--control-url", options.control_url]
        if options.busy_polling:
            command.append("--busy-polling")
        if at_once:  # nobody else takes connections
            command.append("--at-once")
        try:
            process = subprocess.Popen(
                command, pass_fds=(fd, writing), stdin=subprocess.DEVNULL, env={**_ALLOCATOR, **os.environ}
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return _Worker(process, reading, time.monotonic())

    def _mind_cores(self) -> None:
        """Say so if workers that never sleep leave no core for anything else."""
        cores, workers = os.cpu_count() or 1, self._options.workers
        if self._options.busy_polling and workers >= cores:
            log.warning(
                "busy polling: workers that never sleep hold %d of %d cores: none is left for what else runs;"
                " have fewer workers, or leave it off", min(workers, cores), cores,
            )  # fmt: skip

    def _buried(self, worker: _Worker) -> None:
        worker.forget_readiness()
        exposition.retire(self._options.data / "metrics", worker.process.pid)

    def _end_workers(self) -> None:
        others = [worker for worker in (self._successor, self._leaving) if worker is not None]
        workers = [*self._workers.values(), *others]
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + self._options.leaving_s
        for worker in workers:
            try:
                worker.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.forget_readiness()


def run(options: ProxyOptions) -> int:
    """Serve until SIGTERM; raises PortTaken."""
    options.data.mkdir(parents=True, exist_ok=True)
    return Supervisor(options).run()
