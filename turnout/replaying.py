"""How are recorded requests put to a candidate, each once, at a pace that its engine bears?

Pages of what has no copy yet come from the control API, in order; a fixed number of workers puts them to the
proxy, which makes the copies. What was answered stands in a journal before another is asked in its place, so
that a killed replay asks again only what was in flight. Knows neither spec nor verdict.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import orjson

from evaluators.pacing import PATIENT, Pace, Retry, Sign
from experiments.client import ControlClient, ControlError
from experiments.ledger.exchange import RATE_LIMITED

#: Why a run ends before the window does. The rest of the codes are the proxy's (docs/reference/proxy.md).
_SPENT: Final = frozenset(("experiment_tokens", "experiment_cost"))
_HOPELESS: Final = frozenset(
    ("admin_required", "path_not_found", "engine_refused_key", "provider_credential_missing")
)
_PAGE: Final = 200
#: What the proxy says of a candidate at which nothing is there to answer, and of one that it leaves alone.
_ABSENT: Final = "upstream_unreachable"
FAILING: Final = "breaker_open"
#: How long a controller may be away, in seconds from one question to the next.
_PATIENCE_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
_ID_BYTES: Final = 36


class Stopped(Exception):
    """Going on is of no use now; what was answered is recorded, and the same command goes on from there."""


class Rate:
    """At most so many requests a second, evenly spaced; None for as many as the pace allows."""

    def __init__(self, per_second: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 1.0 / per_second if per_second else 0.0
        self._clock = clock
        self._next = clock()

    def delay(self) -> float:
        """Take the next place: how many seconds it is away."""
        now = self._clock()
        at = max(now, self._next)
        self._next = at + self._gap
        return at - now


class Journal:
    """The requests that were answered and may not be in the ledger yet, one id a line. Its lock keeps a
    second process from replaying the same experiment. A context manager; raises Stopped if it is taken or
    cannot be written."""

    def __init__(self, folder: Path, experiment: str) -> None:
        self._path = folder / f"{experiment}.ids"
        self._fd = -1
        self.answered: set[str] = set()

    def __enter__(self) -> Journal:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise Stopped(f"another process replays this experiment (it holds {self._path})") from None
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._fd, whole)  # a line that broke off must not spoil the next one
        lines = content[:whole].split(b"\n")
        self.answered = {line.decode() for line in lines if len(line) == _ID_BYTES and line.isascii()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def write(self, exchange_id: str) -> None:
        """It was answered. What the kernel has been given survives this process."""
        try:
            os.write(self._fd, b"%b\n" % exchange_id.encode())
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> Stopped:
        return Stopped(f"{self._path} cannot be written: {error.strerror}; TURNOUT_DATA names its folder")

    def clear(self) -> None:
        """The ledger has all that will come: forget it."""
        os.ftruncate(self._fd, 0)


@dataclass(slots=True)
class Tally:
    """What a run did: requests answered (with a pair, or a reason that is final), and those that got no
    answer for reasons that are not the candidate's, by reason. These stay, to be asked by the next run."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    lowest_concurrency: int = 0
    stopped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Where the requests come from and go to, how fast, and when to give up. `patience` requests in a row
    that get no answer end the run; `timeout_s` bounds one attempt. `candidate` names it, and says where it
    is served, to people, as `token_origin` says where the token comes from."""

    experiment: str
    model: str
    candidate: str
    api: ControlClient
    proxy_url: str
    token: str
    rate: Rate
    token_origin: str = ""
    concurrency: int = 8
    retry: Retry = field(default_factory=Retry)
    patience: int = 8
    timeout_s: float = 900.0


async def replay(way: Way, journal: Journal, on_end: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """Put to the candidate whatever has no copy yet. A run that cannot go on says why in `stopped`."""
    return await _Run(way, journal, on_end).go()


class _Run:
    def __init__(self, way: Way, journal: Journal, on_end: Callable[[Tally], None]) -> None:
        self._way = way
        self._journal = journal
        self._on_end = on_end
        self._tally = Tally()
        self._pace = Pace(way.concurrency)
        self._jitter = Random()
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(way.concurrency)
        self._failed_in_a_row = 0
        self._failing = ""  # what the proxy said of a candidate that it leaves alone

    async def go(self) -> Tally:
        timeout = aiohttp.ClientTimeout(total=self._way.timeout_s)
        connector = aiohttp.TCPConnector(limit=self._way.concurrency)
        self._headers = {"x-turnout-admin": self._way.token, "content-type": "application/octet-stream"}
        async with aiohttp.ClientSession(
            headers=self._headers, timeout=timeout, connector=connector, trust_env=False
        ) as self._session:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._feed())
                    for _ in range(self._way.concurrency):
                        tasks.create_task(self._work())
            except* Stopped as stops:
                self._tally.stopped = str(_first(stops))
        self._tally.lowest_concurrency = self._pace.lowest
        return self._tally

    async def _feed(self) -> None:
        """Pages into the queue, which holds no more than the workers can take next."""
        way, after = self._way, ""
        path = f"/api/experiments/{quote(way.experiment, safe='')}/recorded/requests"
        while True:
            page = await self._asked(path, {"after": after, "limit": _PAGE})
            if page["requests"] and page["closed"] is not None:
                raise Stopped(f"the experiment takes no requests: {page['closed']}")
            for request in page["requests"]:
                if request["exchange_id"] not in self._journal.answered:
                    await self._queue.put(request)
            after = page["after"]
            if after is None:
                break
        for _ in range(way.concurrency):
            await self._queue.put(None)

    async def _work(self) -> None:
        while (request := await self._queue.get()) is not None:
            await self._put(request)

    async def _put(self, request: dict[str, Any]) -> None:
        """One request, asked until it has its end or the attempts are used up."""
        way, body, retry, attempt = self._way, _body(self._way, request), self._way.retry, 0
        code: str | None = ""
        asked: str | None = None
        while attempt < retry.attempts:
            attempt += 1
            if attempt > 1:
                await asyncio.sleep(retry.wait_s(attempt, asked, self._jitter))
            async with self._pace as turn:
                await asyncio.sleep(way.rate.delay())
                code, asked = await self._attempt(body)
            self._pace.note(turn, _sign(code))
            if code is None:
                self._journal.write(request["exchange_id"])
                self._tally.answered += 1
                self._failed_in_a_row = 0
                self._on_end(self._tally)
                return
            if code == RATE_LIMITED:  # which is counted by the minute
                retry = PATIENT
        self._tally.failed[code or ""] += 1
        self._failed_in_a_row += 1
        self._on_end(self._tally)
        if self._failed_in_a_row >= way.patience:
            raise Stopped(self._why_none_answered(code or ""))

    def _why_none_answered(self, code: str) -> str:
        many = f"{self._failed_in_a_row} requests in a row got no answer"
        if code == FAILING:
            return f"{many}: {self._failing}".rstrip(".")
        if code != _ABSENT:
            return f"{many}: {code.replace('_', ' ')}"
        return (
            f"{many}, the candidate is absent: nothing answers at {self._way.candidate}. Start its engine "
            "there, or let `turnout serve` start it and note the new address; then go on"
        )

    async def _attempt(self, body: bytes) -> tuple[str | None, str | None]:
        """None if the request has its end, else why not; and in how many seconds to ask again, if that was
        said. Raises Stopped where all would fare alike."""
        self._tally.attempts += 1
        url = self._way.proxy_url.rstrip("/").removesuffix("/v1") + "/v1/replay"
        try:
            async with self._session.post(url, data=body, allow_redirects=False) as response:
                status, content = response.status, await response.read()
        except TimeoutError:
            return "no_answer_in_time", None
        except (aiohttp.ClientError, OSError):
            return "proxy_unreachable", None
        if status == 200:
            return None, None
        code, message = _refusal(status, content)
        if code == "no_replay":
            raise Stopped(await self._why_ended())
        if code in _SPENT or code in _HOPELESS:
            message = message.removesuffix(".")
            raise Stopped(f"{message}; {self._way.token_origin}" if code == "admin_required" else message)
        if code == FAILING:
            self._failing = message
        return code, response.headers.get("retry-after")

    async def _why_ended(self) -> str:
        found = await self._asked(f"/api/experiments/{quote(self._way.experiment, safe='')}/recorded")
        return f"the experiment is {found['state'].replace('_', ' ')}: its candidate gets no copies"

    async def _asked(self, path: str, params: dict[str, str | int] | None = None) -> Any:
        """What the control API answers. One that restarts is waited for; then, or if it refuses, Stopped."""
        for wait_s in (*_PATIENCE_S, None):
            try:
                return await asyncio.to_thread(self._way.api.get, path, params)
            except ControlError as error:
                if wait_s is None or error.status not in (0, 503):
                    raise Stopped(str(error)) from None
                await asyncio.sleep(wait_s)
        raise AssertionError("the last wait is None")


def _body(way: Way, request: dict[str, Any]) -> bytes:
    about = {
        "experiment": way.experiment,
        "model": way.model,
        "pair": request["exchange_id"],
        "path": request["path"],
        "unit": request["unit"],
        "tenant": request["tenant"],
    }
    return orjson.dumps(about) + b"\n" + str(request["request"]).encode()


def _sign(code: str | None) -> Sign:
    if code is None:
        return "answered"
    return "failed" if code.endswith(("unreachable", "in_time")) else "overloaded"


def _refusal(status: int, content: bytes) -> tuple[str, str]:
    """The code and the message of a refusal; of another body, what stands for them."""
    try:
        error = orjson.loads(content)["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return f"status_{status}", f"the proxy's address answers with status {status}: is it Turnout's?"


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
