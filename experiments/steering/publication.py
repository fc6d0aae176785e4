"""Which snapshot is in force, and which workers have it?

Publishing is three things in this order: memory (every waiting worker is answered at once), the disk (a
restarted controller goes on from there), and counting who has acknowledged. Versions only ever grow, over
restarts, lost disks and lost databases. Knows nothing of what a snapshot says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..snapshot import Snapshot, SnapshotError

log = logging.getLogger("turnout.publication")

#: A worker asks again within a fraction of a second; one that has been silent for longer is not waited for.
SILENT_S: Final = 3.0
#: A worker that has not asked for this long is forgotten: it was stopped.
FORGET_S: Final = 120.0
_UNREACHABLE: Final = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """A worker: the snapshot that it has, and seconds since it was last heard of (0 while it waits)."""

    worker: str
    snapshot: int
    last_seen_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Who has a snapshot and who of those that are alive does not."""

    acknowledged_by: tuple[str, ...]
    unacknowledged: tuple[str, ...]


@dataclass(slots=True)
class _Worker:
    have: int
    seen: float
    waiting: int = 0


class Publication:
    """The snapshot in force. Safe to use from threads and from one event loop."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._changed = threading.Condition()
        self._saving = threading.Lock()
        self._workers: dict[str, _Worker] = {}
        self._wakers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._raw = b""
        self._released = False
        self._version = 0
        self._saved = 0
        self.last: Snapshot | None = self._load()

    def _load(self) -> Snapshot | None:
        """The last snapshot on disk, None if there is none that can be read."""
        try:
            snapshot = Snapshot.from_json(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, SnapshotError) as error:
            log.warning("the last snapshot %s cannot be used: %s", self._file, error)
            return None
        self._version = snapshot.version
        return snapshot

    @property
    def version(self) -> int:
        """The version in force; before the first publication, the highest one known of."""
        return self._version

    @property
    def unsaved(self) -> bool:
        """Whether the snapshot in force is not on disk yet."""
        return self._saved < self._version

    def raise_version(self, version: int) -> None:
        """Never publish this version or one below it: someone has seen it."""
        with self._changed:
            self._version = max(self._version, version)

    def publish(self, make: Callable[[int], Snapshot]) -> Snapshot:
        """Put `make(next version)` in force: workers are told first, the disk afterwards and best effort."""
        with self._changed:
            snapshot = make(self._version + 1)
            raw = snapshot.to_json()
            self._version, self._raw, self.last = snapshot.version, raw, snapshot
            self._changed.notify_all()
        self._wake()
        self.save()
        return snapshot

    def _wake(self) -> None:
        """Answer every worker that waits."""
        with self._changed:
            wakers = dict(self._wakers)
        for event, loop in wakers.items():
            with suppress(RuntimeError):  # the loop is closing: its workers are gone too
                loop.call_soon_threadsafe(event.set)

    def save(self) -> bool:
        """Write the snapshot in force to the disk; False if the disk refuses (a later call may mend it)."""
        with self._saving:  # not the lock that workers' questions take: a slow disk must not delay them
            with self._changed:
                version, raw = self._version, self._raw
            if not raw or self._saved >= version:
                return True
            making = self._file.with_name(f"{self._file.name}.new")
            try:
                with making.open("wb") as out:
                    out.write(raw)
                    out.flush()
                    os.fsync(out.fileno())
                making.replace(self._file)
            except OSError as error:
                log.warning("snapshot %d is in force but could not be saved: %s", version, error)
                return False
            self._saved = version
            return True

    async def next_for(self, worker: str, have: int, wait_s: float) -> bytes | None:
        """What a worker that has `have` should take up: at once if it differs, or within `wait_s` seconds.

        None if there is nothing new. Asking is the acknowledgement of `have`, but for those without a name.
        """
        event = asyncio.Event()
        with self._changed:
            state = _Worker(have, self._clock())
            if worker:
                state = self._workers.setdefault(worker, state)
            state.have, state.seen = have, self._clock()
            state.waiting += 1
            self._wakers[event] = asyncio.get_running_loop()
            self._changed.notify_all()
            ready = self._released or (bool(self._raw) and have != self._version)
        try:
            if not ready:
                with suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), wait_s)
            return self._raw if self._raw and have != self._version else None
        finally:
            with self._changed:
                self._wakers.pop(event, None)
                state.waiting -= 1
                state.seen = self._clock()

    def wait_for(self, version: int, timeout_s: float) -> Acknowledgement:
        """Wait until every worker that is alive has `version`, or for `timeout_s` seconds."""
        deadline = self._clock() + timeout_s
        with self._changed:
            while True:
                answer = self._acknowledgement(version)
                left = deadline - self._clock()
                if not answer.unacknowledged or left <= 0:
                    return answer
                self._changed.wait(min(left, 0.25))  # silence is noticed by the clock alone

    def _acknowledgement(self, version: int) -> Acknowledgement:
        has: list[str] = []
        lacks: list[str] = []
        for name, worker in sorted(self._workers.items()):
            if worker.have >= version:
                has.append(name)
            elif worker.waiting or self._clock() - worker.seen < SILENT_S:
                lacks.append(name)
        return Acknowledgement(acknowledged_by=tuple(has), unacknowledged=tuple(lacks))

    def workers(self) -> list[WorkerState]:
        """The workers that have been heard of lately, by name."""
        with self._changed:
            now = self._clock()
            gone = [
                name for name, one in self._workers.items() if not one.waiting and now - one.seen > FORGET_S
            ]
            for name in gone:
                del self._workers[name]
            return [
                WorkerState(
                    worker=name,
                    snapshot=one.have,
                    last_seen_s=0.0 if one.waiting else round(now - one.seen, 3),
                )
                for name, one in sorted(self._workers.items())
            ]

    def ahead(self) -> Mapping[str, int]:
        """Workers with a higher version than this controller (whose disk was lost) has ever published.

        A number that no series of publications can reach is somebody's invention, and is not followed.
        """
        with self._changed:
            return {
                name: one.have
                for name, one in self._workers.items()
                if self._version < one.have < _UNREACHABLE
            }

    @property
    def released(self) -> bool:
        """Whether the controller is stopping: nobody should wait for news any more."""
        return self._released

    def release(self) -> None:
        """Answer every waiting worker now, and from now on at once: the controller is stopping."""
        with self._changed:
            self._released = True
        self._wake()
