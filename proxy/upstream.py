"""How is one request put to one endpoint? A replica is chosen, the answer handed on as bytes come.

A destination is always a replica of an Endpoint, and Endpoints come from the snapshot only: there is no
way to name another host. No redirects, no proxies from the environment. What is retried here is what the
engine cannot have answered: a connection that could not be made, or a kept-alive one that was closed
before a single byte came back. Everything else is the caller's decision.
"""

from __future__ import annotations

import asyncio
import logging
import os
from time import monotonic, monotonic_ns
from typing import Any, Final, Protocol

from experiments.ledger.exchange import Outcome
from experiments.snapshot import LITELLM, Endpoint, Snapshot

from .deadlines import Deadlines, tick_for
from .heads import AnswerHead, KnownAnswers
from .keys import Keys
from .limits import Limits
from .replica import Connection, Replica

log = logging.getLogger("turnout.proxy")

#: An engine that says so at once has the fewest requests, and would get the most: for a moment it gets none.
_OVERWHELMED: Final = (502, 503)
_RECOVERING_SECONDS: Final = 1.0
#: Of an engine that has a key of Turnout's: what it says may hold that, and does not reach the client.
_REFUSED_KEY: Final = "engine_refused_key"
_REFUSED_REQUEST: Final = "engine_refused_request"


class Receiver(Protocol):
    """Who gets the answer: `head`, `body` for each read, `end` with the rest; or `answer`, all at once.

    `came`: when it did, by `time.monotonic_ns`. `chunks` are the body as it was framed, if that is whole
    chunks, and a client may have them as they are.
    """

    def answer(self, head: AnswerHead, body: bytes) -> None: ...
    def head(self, head: AnswerHead) -> None: ...
    def body(self, data: bytes, came: int, chunks: bytes = b"") -> None: ...
    def end(self, data: bytes) -> None: ...
    def failed(self, outcome: Outcome, code: str) -> None: ...


class Outgoing(Protocol):
    """A request on its way, to an engine or to a provider. Unless cancelled, its receiver hears one end."""

    @property
    def sent(self) -> bool:
        """Whether the other side may have the request."""
        ...

    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Providers(Protocol):
    """Who puts requests to what speaks another wire."""

    def call(self, endpoint: Endpoint, path: str, body: bytes, receiver: Receiver) -> Outgoing: ...


class Call:
    """One request on its way to one endpoint. Unless cancelled, the receiver hears `failed` or `end` once."""

    __slots__ = (
        "_body", "_came", "_connecting", "_connection", "_endpoint", "_ends", "_head", "_path", "_replica",
        "_tried", "_upstreams", "_waited", "_waiting_since", "done", "due", "got_head", "receiver",
    )  # fmt: skip

    def __init__(
        self,
        upstreams: Upstreams,
        endpoint: Endpoint,
        path: str,
        head: bytes,
        body: bytes,
        receiver: Receiver,
    ) -> None:
        self._upstreams = upstreams
        self._endpoint = endpoint
        self._path = path
        self._head = head
        self._body = body
        self.receiver = receiver
        now = monotonic()
        self._ends = now + upstreams.limits.total_seconds
        self.due = now + upstreams.first_byte_seconds
        self.got_head = False
        self.done = False
        self._tried: tuple[Replica, ...] = ()  # replicas that take no connection
        self._replica: Replica | None = None
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waited = 0.0  # for replicas that took no connection
        self._waiting_since = 0.0  # for the client to read on
        self._came = 0  # the last of the body, by `time.monotonic_ns`

    @property
    def sent(self) -> bool:
        """Whether the engine may have the request: it is on a connection, or was."""
        return self._connection is not None or self.got_head or self.done

    def start(self) -> None:
        """Choose a replica that was not asked yet, and send."""
        replicas = self._upstreams.replicas(self._endpoint)
        replica = replicas[0] if len(replicas) == 1 else self._upstreams.least_loaded(self._untried(replicas))
        self._replica = replica
        replica.outstanding += 1
        connection = replica.take()
        if connection is None:
            self._connecting = self._upstreams.spawn(self._connect(replica))
        else:
            self._send(connection, replica)

    def _untried(self, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
        return tuple(replica for replica in replicas if replica not in self._tried)

    async def _connect(self, replica: Replica) -> None:
        began = monotonic()
        try:
            connection = await replica.connect()
        except Exception as error:
            if not isinstance(error, OSError | ValueError):
                log.exception("a defect in connecting to %s", replica.url)
            self._connecting = None
            self._waited += monotonic() - began
            self._unreached(replica, error)
        else:
            self._connecting = None
            self._send(connection, replica)

    def _unreached(self, replica: Replica, error: Exception) -> None:
        """Nothing was sent: another replica may be asked, all of them if need be. Those that do not even
        refuse are waited for twice in all."""
        self._tried += (replica,)
        self._release()
        patient = self._waited < 2 * self._upstreams.limits.connect_seconds
        if patient and self._untried(self._upstreams.replicas(self._endpoint)):
            self.start()
        else:
            slow = isinstance(error, TimeoutError)
            self._fail("timeout" if slow else "upstream_error", "upstream_unreachable")

    def _send(self, connection: Connection, replica: Replica) -> None:
        self._connection = connection
        body = self._body
        opening = replica.openings.get(self._path) or replica.opening(self._path)
        size = str(len(body)).encode()
        parts = opening, self._head, b"content-length: ", size, b"\r\n\r\n", body
        connection.run(self, b"".join(parts))

    def cancel(self) -> None:
        """Nobody wants the answer: the engine learns it at once by the closed connection. Safe to repeat."""
        if not self.done:
            self._settle()

    def pause(self) -> None:
        """Read no more from the engine until `resume`."""
        self._waiting_since = monotonic()
        self.due = min(self._waiting_since + self._upstreams.limits.stalled_reader_seconds, self._ends)
        if self._connection is not None and not self.done:
            self._connection.pause()

    def resume(self) -> None:
        self._waiting_since = 0.0
        self._progressed()
        if self._connection is not None and not self.done:
            self._connection.resume()

    def _progressed(self) -> None:
        if not self._waiting_since:
            upstreams = self._upstreams
            patience = upstreams.limits.idle_seconds if self.got_head else upstreams.limits.first_byte_seconds
            due = monotonic() + patience
            self.due = due if due < self._ends else self._ends

    # from the connection

    def _fault(self, head: AnswerHead) -> str | None:
        """Why an answer is not for the client: it is about Turnout's own request. None: it is."""
        if head.status < 300:
            if self._endpoint.credential:
                self._upstreams.keys.taken(self._key)
            return None
        if head.status < 400:  # a redirect, to where no client can go, or what no engine says to a POST
            return "upstream_redirect"
        if head.status in (401, 403) and self._endpoint.credential:
            good = head.status == 403 and not self._upstreams.keys.distrusted(self._key)
            return _REFUSED_REQUEST if good else _REFUSED_KEY
        if head.status in _OVERWHELMED and self._replica is not None:
            self._replica.rest(_RECOVERING_SECONDS)
        return None

    @property
    def _key(self) -> tuple[tuple[str, ...], str | None]:
        return self._endpoint.replicas, self._endpoint.credential

    def head(self, head: AnswerHead) -> None:
        fault = self._fault(head) if head.status >= 300 or self._endpoint.credential else None
        if fault is not None:
            self._fail(_outcome(fault), fault)
            return
        self.got_head = True
        self._progressed()
        self.receiver.head(head)

    def body(self, data: bytes, chunks: bytes = b"") -> None:
        self._came = came = monotonic_ns()  # often; `overdue` works out what follows for `due`
        if data and not self.done:
            self.receiver.body(data, came, chunks)

    def answered(self, head: AnswerHead, body: bytes) -> None:
        """The whole answer at once; the connection is no longer this call's."""
        fault = self._fault(head) if head.status >= 300 or self._endpoint.credential else None
        self.got_head = self.done = True
        self._connection = None
        self._upstreams.calls.discard(self)
        self._release()
        if fault is None:
            self.receiver.answer(head, body)
        else:
            self.receiver.failed(_outcome(fault), fault)

    def finish(self, data: bytes) -> None:
        self._connection = None
        self._settle()
        self.receiver.end(data)

    def stale(self) -> None:
        """A kept-alive connection was closed under the request, unanswered: once more, on a new one."""
        replica = self._replica
        self._connection = None
        if replica is not None and not self.done:
            self._connecting = self._upstreams.spawn(self._connect(replica))

    def broken(self, code: str) -> None:
        self._connection = None
        self._fail("truncated" if self.got_head else "upstream_error", code)

    def _fail(self, outcome: Outcome, code: str) -> None:
        self._settle()
        self.receiver.failed(outcome, code)

    def _release(self) -> None:
        replica = self._replica
        if replica is not None:
            replica.outstanding -= 1
            self._replica = None

    def _settle(self) -> None:
        self.done = True
        self._upstreams.calls.discard(self)
        self._release()
        if self._connecting is not None:  # a handshake, which can take seconds, is not for nobody
            self._connecting.cancel()
        connection = self._connection
        if connection is not None:
            self._connection = None
            connection.call = None
            connection.close()

    def overdue(self, now: float) -> None:
        """The deadline for the next sign of life has passed."""
        if self.done or self._heard_since():
            return
        if self.due == self._ends:
            self._fail("timeout", "upstream_too_long")
        elif self._waiting_since:  # the client is slow, not the engine
            self._fail("client_gone", "client_stalled")
        elif self.got_head:
            self._fail("timeout", "upstream_idle")
        else:
            self._fail("timeout", "upstream_timeout")

    def _heard_since(self) -> bool:
        """Whether the body has got on since the deadline was set; there is a later one then."""
        if not self.got_head or self._waiting_since or self.due == self._ends:
            return False
        due = min(self._came / 1e9 + self._upstreams.limits.idle_seconds, self._ends)
        later = due > self.due
        if later:
            self.due = due
        return later


class Upstreams:
    """All replicas that a worker talks to."""

    def __init__(self, limits: Limits, providers: Providers) -> None:
        self.limits = limits
        self.first_byte_seconds = min(limits.first_byte_seconds, limits.total_seconds)
        self.loop = asyncio.get_running_loop()
        self.calls: set[Call] = set()
        self.keys = Keys()
        self._heads = KnownAnswers()
        self._replicas: dict[str, Replica] = {}
        self._pools: dict[tuple[str, ...], tuple[Replica, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0
        tick = tick_for(
            limits.first_byte_seconds,
            limits.idle_seconds,
            limits.stalled_reader_seconds,
            limits.total_seconds,
        )
        self._deadlines = Deadlines(self.calls, tick)
        self._providers = providers

    def replica(self, url: str) -> Replica:
        """The pool of a replica's URL, made on first use."""
        found = self._replicas.get(url)
        if found is None:
            found = self._replicas[url] = Replica(url, self.limits, self._heads)
        return found

    def replicas(self, endpoint: Endpoint) -> tuple[Replica, ...]:
        """The pools of an endpoint."""
        urls = endpoint.replicas
        found = self._pools.get(urls)
        if found is None:
            found = self._pools[urls] = tuple(self.replica(url) for url in urls)
        return found

    def least_loaded(self, replicas: tuple[Replica, ...]) -> Replica:
        """The replica with the fewest outstanding requests; ties take turns. One that rests, because it took
        no connection or had too much to do, is asked when all of them rest."""
        now = monotonic()
        replicas = tuple(replica for replica in replicas if replica.resting_until <= now) or replicas
        self._turn += 1
        shift = self._turn % len(replicas)
        return min(replicas[shift:] + replicas[:shift], key=_outstanding)

    def spawn(self, coroutine: Any) -> asyncio.Task[None]:
        """A task that is held until it ends."""
        task: asyncio.Task[None] = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call(self, endpoint: Endpoint, path: str, head: bytes, body: bytes, receiver: Receiver) -> Outgoing:
        """Send a request; `receiver` gets the answer, never before this returns."""
        if endpoint.engine == LITELLM:
            return self._providers.call(endpoint, path, body, receiver)
        if endpoint.credential:
            head += _authorization(endpoint.credential)
        call = Call(self, endpoint, path, head, body, receiver)
        self.calls.add(call)
        call.start()
        return call

    def overtaken(self, snapshot: Snapshot) -> None:
        """A new snapshot is in force: close the idle connections of replicas that it does not have."""
        self._pools.clear()
        in_use = {url for endpoint in snapshot.endpoints.values() for url in endpoint.replicas}
        for url in self._replicas.keys() - in_use:
            self._replicas.pop(url).close()

    async def close(self) -> None:
        self._deadlines.close()
        for replica in self._replicas.values():
            replica.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _authorization(variable: str) -> bytes:
    """The header line with an engine's key, read anew for each call so that it can be changed.

    Without a key the engine is asked all the same: its refusal is told like that of a wrong one.
    """
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        log.error("the proxy's environment has no usable %s: the engine is asked without a key", variable)
        return b""
    return b"authorization: Bearer %b\r\n" % key.encode()


def _outcome(fault: str) -> Outcome:
    return "upstream_rejected" if fault == _REFUSED_REQUEST else "upstream_error"


def _outstanding(replica: Replica) -> int:
    return replica.outstanding
