"""How does a worker learn of a new snapshot within a second, and what if nobody tells it?

It asks the controller and the controller answers when there is news (a long poll); asking again is the
acknowledgement. What it got last lies on disk, so that a worker can start while the controller is away.
A snapshot that does not validate, or is older, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import httpx

from experiments.snapshot import Snapshot, SnapshotError
from experiments.tls import over_tls

log = logging.getLogger("turnout.proxy")

_WAIT_SECONDS = 20.0
#: beyond the wait, for the whole answer: one that trickles must not keep the next one from being asked for
_GRACE_SECONDS = 10.0
_LARGEST = 64 << 20


class Subscription:
    """Keeps `take` informed of newer snapshots until cancelled."""

    def __init__(self, control_url: str, file: Path, worker: str, take: Callable[[Snapshot], None]) -> None:
        self._url = f"{control_url.rstrip('/')}/snapshot"
        self._file = file
        self._worker = worker
        self._take = take
        self.version = 0
        self.last_contact: float | None = None

    def load(self) -> bool:
        """Take up the last good copy on disk. False if there is none."""
        try:
            snapshot = Snapshot.from_json(self._file.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, SnapshotError) as error:
            log.warning("the last good snapshot %s cannot be used: %s", self._file, error)
            return False
        self._adopt(snapshot)
        return True

    async def run(self) -> None:
        """Poll for ever; every failure is waited out, with jitter so that workers do not come as a herd."""
        pause = 0.1
        patience, secure = httpx.Timeout(_WAIT_SECONDS + _GRACE_SECONDS, connect=2.0), over_tls(self._url)
        async with httpx.AsyncClient(timeout=patience, trust_env=False, verify=secure) as client:
            while True:
                try:
                    await self._poll(client)
                    pause = 0.1
                except Exception as error:
                    # Whatever it is, the next news may be the rollback: only cancelling ends this loop.
                    expected = isinstance(error, httpx.HTTPError | SnapshotError | OSError)
                    level = logging.DEBUG if expected else logging.ERROR
                    log.log(level, "no news from the controller: %r", error, exc_info=not expected)
                    await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                    pause = min(pause * 2, 1.0)

    async def _poll(self, client: httpx.AsyncClient) -> None:
        query = f"have={self.version}&worker={quote(self._worker)}&wait={_WAIT_SECONDS:g}"
        async with (
            asyncio.timeout(_WAIT_SECONDS + _GRACE_SECONDS),
            client.stream("GET", f"{self._url}?{query}") as answer,
        ):
            raw = await _whole(answer)
        self.last_contact = asyncio.get_running_loop().time()
        if answer.status_code == httpx.codes.NOT_MODIFIED:
            return
        answer.raise_for_status()
        try:
            snapshot = Snapshot.from_json(raw)
        except SnapshotError as error:
            log.error("the controller's snapshot is refused, version %d stays: %s", self.version, error)
            raise
        if snapshot.version <= self.version:
            message = "the controller offers snapshot %d, this worker has %d: not going back"
            log.warning(message, snapshot.version, self.version)
            raise SnapshotError("older than what is in force")
        self._adopt(snapshot)
        self._save(raw)

    def _adopt(self, snapshot: Snapshot) -> None:
        self._take(snapshot)
        self.version = snapshot.version

    def _save(self, raw: bytes) -> None:
        """Best effort: a full disk must not stop a rollback."""
        making = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(raw)
            making.replace(self._file)
        except OSError as error:
            log.warning("snapshot %d is in force but could not be saved: %s", self.version, error)
            with suppress(OSError):
                making.unlink()


async def _whole(answer: httpx.Response) -> bytes:
    """The body. Raises SnapshotError if it is larger than any snapshot."""
    raw = bytearray()
    async for piece in answer.aiter_bytes():
        raw += piece
        if len(raw) > _LARGEST:
            raise SnapshotError(f"larger than {_LARGEST} bytes")
    return bytes(raw)
