"""The real processes in a folder of their own, and a client that keeps them busy and remembers every answer.

`Stack` is a controller (SQLite MLflow, DuckDB) and a proxy with its workers, started as `turnout up` starts
them, without the dashboard. `Traffic` speaks HTTP by hand, so that 20,000 requests cost a test few seconds
and it can say of each what came back. `tests.journey` does with the command what is done here underneath it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvloop

from experiments.client import ControlClient
from experiments.ledger.store import Store
from tests.journey import eventually
from turnout.processes import Processes, free_port, programs
from turnout.settings import Settings

MODEL = "chat"


class Stack:
    """A controller and a proxy on one data folder."""

    def __init__(
        self, data: Path, *, workers: int = 2, mlflow: Path | None = None, tracking_uri: str | None = None
    ) -> None:
        """`mlflow` is an SQLite file with MLflow's tables to begin with; making them takes seconds."""
        data.mkdir(parents=True, exist_ok=True)
        if mlflow is not None:
            shutil.copy(mlflow, data / "mlflow.db")
        self.data = data
        self.settings = Settings(
            data=data,
            tracking_uri=tracking_uri,
            control_url=None,
            proxy_url=None,
            token=None,
            proxy_port=free_port(),
            control_port=free_port(),
            dashboard_port=free_port(),
            workers=workers,
        )
        controller, proxy, _ = programs(self.settings)
        self.programs = {"controller": controller, "proxy": proxy}
        self.processes = Processes(data)
        self._api: ControlClient | None = None

    # -- life --------------------------------------------------------------------------------------------

    @contextmanager
    def up(self, engines: Sequence[str] = ()) -> Iterator[Stack]:
        """Both processes, and `engines` registered as versions 1, 2, ... with the first in production."""
        try:
            self.start("controller")
            self.start("proxy", wait=not engines)
            if engines:
                self.register(*engines)
                self.processes.wait("proxy")
                eventually(self.workers, within=10, until=lambda known: len(known) == self.settings.workers)
            yield self
        finally:
            self.stop()

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start one process. The proxy is ready only when it has a snapshot, so it may have to wait."""
        self.processes.start(self.programs[name])
        if name == "proxy" and wait:
            eventually(lambda: self.get(f"{self.settings.proxy_address}/healthz"), within=60)
        elif wait:
            self.processes.wait(name)

    def stop(self) -> None:
        """In the order of `turnout up`; whatever lies in the spool is in the ledger afterwards."""
        if self._api is not None:
            self._api.close()
            self._api = None
        self.processes.stop()

    def revive(self, *, within: float = 60) -> list[str]:
        """What `turnout up` does about the dead, until the control API answers again; what it said."""
        said: list[str] = []

        def answers() -> bool:
            said.extend(self.processes.tend())
            return self.get(f"{self.settings.control_address}/healthz")

        eventually(answers, within=within)
        return said

    # -- asking ------------------------------------------------------------------------------------------

    @property
    def api(self) -> ControlClient:
        """The control API, with the token."""
        if self._api is None:
            self._api = ControlClient(self.settings.control_address, self.settings.read_token())
        return self._api

    def register(self, *engines: str, model: str = MODEL) -> None:
        """Engines that serve a model as its next versions; the first of all is production."""
        there = {known["name"] for known in self.api.get("/api/models")}
        for number, url in enumerate(engines):
            first = number == 0 and model not in there
            body = {"replicas": [url], "served_name": model, "engine": "vllm", "tags": {}, "source": None}
            self.api.post(
                f"/api/models/{model}/versions", body | {"aliases": ["production"] if first else []}
            )

    def begin(self, spec: str, **fields: str) -> dict[str, Any]:
        """Start the experiment that a spec declares."""
        body = {"spec_yaml": spec.format(**fields), "filename": "spec.yaml"}
        found: dict[str, Any] = self.api.post("/api/experiments", body)
        return found

    def move(self, verb: str, **body: Any) -> tuple[dict[str, Any], float]:
        """`promote` or `rollback` as the command asks for it; the answer, and the seconds that it took."""
        began = time.monotonic()
        done: dict[str, Any] = self.api.post(f"/api/models/{MODEL}/{verb}", {**body, "actor": "test"})
        return done, time.monotonic() - began

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`turnout ...` to its end, as an operator types it."""
        given = {key: value for key, value in os.environ.items() if not key.startswith("TURNOUT_")}
        given |= {
            "TURNOUT_DATA": str(self.data),
            "TURNOUT_CONTROL_PORT": str(self.settings.control_port),
            "TURNOUT_PROXY_PORT": str(self.settings.proxy_port),
        }
        return subprocess.run(
            [str(Path(sys.executable).with_name("turnout")), *arguments],
            env=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def health(self) -> dict[str, Any]:
        """/api/health."""
        found: dict[str, Any] = self.api.get("/api/health")
        return found

    def workers(self) -> list[str]:
        """The workers that hold the snapshot in force."""
        health = self.health()
        return [one["worker"] for one in health["workers"] if one["snapshot"] == health["snapshot"]]

    def get(self, url: str) -> bool:
        """Whether a URL answers 200."""
        try:
            return httpx.get(url, timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    # -- processes ---------------------------------------------------------------------------------------

    @property
    def worker_pids(self) -> list[int]:
        """The proxy's workers that live now, the oldest first."""
        return children(self.processes.pid("proxy"))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """A signal to one of the two processes."""
        os.kill(self.processes.pid(name), number)

    def log(self, name: str) -> str:
        return self.processes.log(name).read_text("utf-8", "replace")

    # -- afterwards --------------------------------------------------------------------------------------

    @contextmanager
    def ledger(self) -> Iterator[Store]:
        """What lies in the ledger, once nobody else holds it."""
        with Store(self.data / "ledger.duckdb") as store:
            yield store

    def spooled(self) -> list[Path]:
        """Segments that are not in the ledger."""
        return [path for path in (self.data / "spool").rglob("*") if path.suffix in (".seg", ".open")]


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(child))
    return found


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer that came whole. Times are `time.monotonic`."""

    request_id: str
    unit: str
    experiment: str | None
    arm: str | None
    version: int
    snapshot: int
    stream: bool
    sent: float
    ended: float


@dataclass(slots=True)
class Traffic:
    """Requests over keep-alive connections, every second one a stream, from a thread of its own.

    Request k belongs to unit `first_unit + k mod units`; with `only_streams` every one is a stream. `broken`
    counts the requests whose connection ended before their answer did, `refused` holds the answers that were
    no 200.
    """

    port: int
    connections: int = 16
    total: int = sys.maxsize
    units: int = 500
    first_unit: int = 0
    tokens: int = 4
    only_streams: bool = False
    #: seconds that a connection rests between two requests; 0 is as much load as there can be
    pause: float = 0.0
    fields: dict[str, Any] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    #: requests sent, and those whose answer has begun
    sent: int = 0
    begun: int = 0
    #: answers that were cut in their middle: those of `broken` whose head had come
    torn: int = 0
    _stop: bool = False
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def __enter__(self) -> Traffic:
        self._thread = threading.Thread(target=self._work, name="traffic", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No further request; those under way end."""
        self._stop = True
        self.join()

    def join(self, within: float = 60) -> None:
        """Wait for the last answer."""
        assert self._thread is not None
        self._thread.join(within)
        assert not self._thread.is_alive(), f"{self.sent - len(self.answers)} requests hang"
        if self._error is not None:
            raise self._error

    def until(self, answered: int, *, within: float = 60) -> None:
        """Wait for that many answers in all."""
        eventually(lambda: len(self.answers), within=within, until=lambda count: count >= answered)

    def more(self, answered: int, *, within: float = 60) -> None:
        """Wait for that many further answers."""
        self.until(len(self.answers) + answered, within=within)

    @property
    def failures(self) -> list[bytes | str]:
        """What must be empty where nobody killed a worker."""
        return [*self.refused, *self.broken]

    def _work(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._all())
        except BaseException as error:
            self._error = error

    async def _all(self) -> None:
        await asyncio.gather(*(self._connection() for _ in range(self.connections)))

    def _more(self) -> int | None:
        if self._stop or self.sent >= self.total:
            return None
        self.sent += 1
        return self.sent - 1

    async def _connection(self) -> None:
        while (number := self._more()) is not None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
            except OSError as error:
                self.broken.append(repr(error))
                await asyncio.sleep(0.02)
                continue
            try:
                while number is not None:
                    if not await self._exchange(number, reader, writer):
                        break
                    if self.pause:
                        await asyncio.sleep(self.pause)
                    number = self._more()
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _exchange(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One request; whether the connection can take another."""
        unit, stream = f"unit-{self.first_unit + number % self.units}", self.only_streams or number % 2 == 1
        sent = time.monotonic()
        head = b""
        try:
            writer.write(request(unit, stream=stream, max_tokens=self.tokens, **self.fields))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            self.begun += 1
            length = header(head, b"content-length")
            if length is not None:
                body = await reader.readexactly(int(length))
            else:
                body = await reader.readuntil(b"\r\n0\r\n\r\n")
        except asyncio.IncompleteReadError as cut:
            if head and stream and b"[DONE]" in cut.partial:
                self._answered(head, unit, stream, sent)  # for a client, [DONE] is the end
            else:
                self.torn += bool(head or cut.partial)
                self.broken.append(repr(cut))
            return False
        except OSError as error:
            self.broken.append(repr(error))
            return False
        if not head.startswith(b"http/1.1 200"):
            self.refused.append(head + body)
        elif stream and b"[DONE]" not in body:
            self.broken.append("a stream without [DONE]")
        else:
            self._answered(head, unit, stream, sent)
        return header(head, b"connection") != b"close"

    def _answered(self, head: bytes, unit: str, stream: bool, sent: float) -> None:
        experiment, arm = header(head, b"x-turnout-experiment"), header(head, b"x-turnout-arm")
        self.answers.append(
            Answer(
                request_id=(header(head, b"x-turnout-request-id") or b"").decode(),
                unit=unit,
                experiment=None if experiment is None else experiment.decode(),
                arm=None if arm is None else arm.decode(),
                version=int(header(head, b"x-turnout-model-version") or 0),
                snapshot=int(header(head, b"x-turnout-snapshot") or 0),
                stream=stream,
                sent=sent,
                ended=time.monotonic(),
            )
        )


def request(unit: str, **fields: Any) -> bytes:
    """The bytes of a chat request on behalf of a unit."""
    body = orjson.dumps(
        {"model": MODEL, "user": unit, "messages": [{"role": "user", "content": "Hello"}], **fields}
    )
    lines = b"host: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    return b"POST /v1/chat/completions HTTP/1.1\r\n" + lines + b"\r\n" + body


def header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header in a head that is lower case."""
    start = head.find(b"\r\n" + name + b": ")
    if start < 0:
        return None
    start += len(name) + 4
    return head[start : head.index(b"\r\n", start)]
