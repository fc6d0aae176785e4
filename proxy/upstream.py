"""How is one request put to one endpoint? Pools of keep-alive connections, and callbacks as bytes come.

A destination is always a replica of an Endpoint, and Endpoints come from the snapshot only: there is no
way to name another host. No redirects, no proxies from the environment. What is retried here is what the
engine cannot have answered: a connection that could not be made, or a kept-alive one that was closed
before a single byte came back. Everything else is the caller's decision.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import httptools

from experiments.ledger.exchange import Outcome
from experiments.snapshot import LITELLM, Endpoint

from .deadlines import Deadlines, tick_for
from .heads import AnswerHead, Framed, KnownHeads, answer_head, framed
from .limits import Limits

if TYPE_CHECKING:
    from .providers import Providers

log = logging.getLogger("turnout.proxy")

#: Idle connections kept per replica.
_KEEP: Final = 256
#: Statuses whose answers have no body, whatever their heads say.
_BARE: Final = (204, 304)


class Receiver(Protocol):
    """Who gets the answer: `head`, `body` for each read, `end` with the rest; or `answer`, all at once."""

    def answer(self, head: AnswerHead, body: bytes) -> None: ...
    def head(self, head: AnswerHead) -> None: ...
    def body(self, data: bytes) -> None: ...
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


class Replica:
    """One base URL: where to connect, what is idle, how much is outstanding."""

    def __init__(self, url: str, limits: Limits, heads: KnownHeads[AnswerHead] | None = None) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if secure else 80)
        self.prefix = parts.path.rstrip("/").encode()
        self.authority = parts.netloc.encode()
        self.ssl = ssl.create_default_context() if secure else None
        self.limits = limits
        self.heads = heads or KnownHeads()
        self.outstanding = 0
        self._retired = False
        self._idle: list[Connection] = []

    def take(self) -> Connection | None:
        """The most recently used idle connection: the least likely to have been closed meanwhile."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    def give(self, connection: Connection) -> None:
        """Keep a connection for the next call."""
        connection.fresh = False
        if len(self._idle) < _KEEP and not self._retired:
            self._idle.append(connection)
        else:
            connection.close()

    def forget(self, connection: Connection) -> None:
        """The connection was closed by the other side while idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def connect(self) -> Connection:
        """A new connection. Raises OSError (a timeout is one), or ValueError for a name that is no host."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.limits.connect_seconds):
            _, protocol = await loop.create_connection(
                lambda: Connection(self), self.host, self.port, ssl=self.ssl
            )
        return protocol

    def close(self) -> None:
        """Close what is idle; what is busy is closed when its call has ended."""
        self._retired = True
        while self._idle:
            self._idle.pop().close()


class Connection(asyncio.Protocol):
    """One connection to a replica: serves one call at a time."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.call: Call | None = None
        self.fresh = True
        self._transport: Any = None
        self._pieces: list[bytes] = []  # of the body, in one read
        self.on_body = self._pieces.append
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._head: AnswerHead | None = None
        self._newcomer: Framed | None = None  # what is being parsed, if its head may be worth remembering
        self._framed = False
        self._interim = False
        self._answering = False

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def run(self, call: Call, request: bytes) -> None:
        """Send a request; the answer goes to `call`."""
        self.call = call
        self._answering = False
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        if self.usable:
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        call = self.call
        if call is None:  # bytes nobody asked for: the connection cannot be trusted any more
            self.close()
            return
        if not self._answering:
            self._answering = True
            if self._recognised(data, call):
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                log.error("an answer could not be relayed", exc_info=error.__context__)
            if self.call is call:
                self.call = None
                self.close()
                call.broken("upstream_garbled")
            return
        if self.call is call:
            call.body(self._body())

    def _recognised(self, data: bytes, call: Call) -> bool:
        """Take an answer that came in one piece and whose head is known; False: it is for the parser."""
        self._newcomer = None
        message = framed(data)
        if message is None:
            return False
        template, body = message
        head = self.replica.heads.get(template)
        if head is None:
            self._newcomer = message
            return False
        self.call = None
        self._release()
        try:
            call.answered(head, body)
        except Exception:
            log.exception("an answer could not be relayed")
            call.broken("upstream_garbled")
        return True

    def _release(self) -> None:
        """Keep the connection for the next call, if this one has ended well."""
        # An answer that came before the request was taken whole leaves the connection out of step.
        if self._transport.get_write_buffer_size() == 0:
            self.replica.give(self)
        else:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        call, self.call = self.call, None
        if call is None:
            self.replica.forget(self)
        elif not self._answering and not self.fresh:
            call.stale()
        elif call.got_head and not self._framed and exc is None:
            call.finish(b"")  # a body that the end of the connection delimits
        else:
            call.broken("upstream_cut")

    # httptools

    def on_message_begin(self) -> None:
        self._headers = []
        self._framed = False
        if self.call is None:  # an answer nobody asked for would become the next caller's
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        if self.call is not None and not self._interim:
            if status in _BARE:
                self._framed = True
            self._head = answer_head(status, self._headers)
            self.call.head(self._head)

    def _body(self) -> bytes:
        """What of the body has come since this was asked last."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def on_message_complete(self) -> None:
        call, head = self.call, self._head
        if call is None or head is None or self._interim:
            return
        self.call = self._head = None
        keep_alive = self._parser.should_keep_alive()
        message, self._newcomer = self._newcomer, None
        if message and keep_alive and head.status not in _BARE and head.length == len(message[1]):
            self.replica.heads.learn(message[0], head)
        if self._framed and keep_alive:
            self._release()
        else:
            self.close()
        call.finish(self._body())


class Call:
    """One request on its way to one endpoint. Unless cancelled, the receiver hears `failed` or `end` once."""

    __slots__ = (
        "_body", "_connection", "_endpoint", "_head", "_path", "_replica", "_tried",
        "_upstreams", "_waiting_since", "done", "due", "got_head", "receiver",
    )  # fmt: skip

    def __init__(
        self,
        upstreams: Upstreams,
        endpoint: Endpoint,
        path: bytes,
        head: bytes,
        body: bytes,
        receiver: Receiver,
    ) -> None:
        self._upstreams = upstreams
        self._endpoint = endpoint
        self._path = path
        self._head = head
        self._body = body
        self._tried: tuple[Replica, ...] = ()
        self._replica: Replica | None = None
        self._connection: Connection | None = None
        self._waiting_since = 0.0
        self.receiver = receiver
        self.got_head = False
        self.done = False
        self.due = upstreams.loop.time() + upstreams.limits.first_byte_seconds

    @property
    def sent(self) -> bool:
        """Whether the engine may have the request: it is on a connection, or was."""
        return self._connection is not None or self.got_head or self.done

    def start(self) -> None:
        """Choose a replica and send."""
        self._upstreams.calls.add(self)
        self._try_next()

    def _try_next(self) -> None:
        replicas = self._upstreams.replicas(self._endpoint)
        if self._tried:
            replicas = tuple(replica for replica in replicas if replica not in self._tried)
        replica = replicas[0] if len(replicas) == 1 else self._upstreams.least_loaded(replicas)
        self._tried += (replica,)
        self._replica = replica
        replica.outstanding += 1
        connection = replica.take()
        if connection is None:
            self._upstreams.spawn(self._connect(replica))
        else:
            self._send(connection, replica)

    async def _connect(self, replica: Replica) -> None:
        try:
            connection = await replica.connect()
            if not connection.usable:  # it ended before it was used: nobody will hear of that end again
                raise ConnectionResetError("closed at once")
        except (OSError, ValueError) as error:
            if self.done:
                return
            self._release()
            if len(self._tried) < min(2, len(self._endpoint.replicas)):
                self._try_next()
            else:
                slow = isinstance(error, TimeoutError)
                self._fail("timeout" if slow else "upstream_error", "upstream_unreachable")
            return
        if self.done:
            replica.give(connection)
        else:
            self._send(connection, replica)

    def _send(self, connection: Connection, replica: Replica) -> None:
        self._connection = connection
        body = self._body
        head = b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%bcontent-length: %d\r\n\r\n" % (
            replica.prefix, self._path, replica.authority, self._head, len(body),
        )  # fmt: skip
        connection.run(self, head + body)

    def cancel(self) -> None:
        """Nobody wants the answer: the engine learns it at once by the closed connection. Safe to repeat."""
        if not self.done:
            self._settle()

    def pause(self) -> None:
        """Read no more from the engine until `resume`."""
        self._waiting_since = self._upstreams.loop.time()
        self.due = self._waiting_since + self._upstreams.limits.stalled_reader_seconds
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
            self.due = upstreams.loop.time() + patience

    # from the connection

    def head(self, head: AnswerHead) -> None:
        self.got_head = True
        self._progressed()
        self.receiver.head(head)

    def body(self, data: bytes) -> None:
        self._progressed()
        if data and not self.done:
            self.receiver.body(data)

    def answered(self, head: AnswerHead, body: bytes) -> None:
        """The whole answer at once; the connection is no longer this call's."""
        self.got_head = True
        self._connection = None
        self._settle()
        self.receiver.answer(head, body)

    def finish(self, data: bytes) -> None:
        self._connection = None
        self._settle()
        self.receiver.end(data)

    def stale(self) -> None:
        """A kept-alive connection was closed under the request, unanswered: once more, on a new one."""
        replica = self._replica
        self._connection = None
        if replica is not None and not self.done:
            self._upstreams.spawn(self._connect(replica))

    def broken(self, code: str) -> None:
        self._connection = None
        self._fail("truncated" if self.got_head else "upstream_error", code)

    def _fail(self, outcome: Outcome, code: str) -> None:
        self._settle()
        self.receiver.failed(outcome, code)

    def _release(self) -> None:
        if self._replica is not None:
            self._replica.outstanding -= 1
            self._replica = None

    def _settle(self) -> None:
        self.done = True
        self._upstreams.calls.discard(self)
        self._release()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.call = None
            connection.close()

    def overdue(self, now: float) -> None:
        """The deadline for the next sign of life has passed."""
        if self.done:
            return
        if self._waiting_since:  # the client is slow, not the engine
            self._fail("client_gone", "client_stalled")
        elif self.got_head:
            self._fail("timeout", "upstream_idle")
        else:
            self._fail("timeout", "upstream_timeout")


class Upstreams:
    """All replicas that a worker talks to."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.calls: set[Call] = set()
        self._heads: KnownHeads[AnswerHead] = KnownHeads()
        self._replicas: dict[str, Replica] = {}
        self._pools: dict[tuple[str, ...], tuple[Replica, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0
        tick = tick_for(limits.first_byte_seconds, limits.idle_seconds, limits.stalled_reader_seconds)
        self._deadlines = Deadlines(self.calls, tick)
        self._providers: Providers | None = None

    def prepare(self, endpoints: Iterable[Endpoint]) -> None:
        """Load what providers need, if there are endpoints of that kind: before the first request comes."""
        if self._providers is None and any(endpoint.engine == LITELLM for endpoint in endpoints):
            from .providers import Providers

            self._providers = Providers(self.limits)

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
        """The replica with the fewest outstanding requests; ties take turns."""
        self._turn += 1
        shift = self._turn % len(replicas)
        return min(replicas[shift:] + replicas[:shift], key=_outstanding)

    def spawn(self, coroutine: Any) -> None:
        """A task that is held until it ends."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def call(self, endpoint: Endpoint, path: bytes, head: bytes, body: bytes, receiver: Receiver) -> Outgoing:
        """Send a request; `receiver` gets the answer, never before this returns."""
        if endpoint.engine == LITELLM:
            self.prepare((endpoint,))
            assert self._providers is not None
            return self._providers.call(endpoint, path, body, receiver)
        call = Call(self, endpoint, path, head, body, receiver)
        call.start()
        return call

    def retire(self, urls: Callable[[str], bool]) -> None:
        """Close the idle connections of replicas that the snapshot no longer has."""
        self._pools.clear()
        for url in [url for url in self._replicas if not urls(url)]:
            self._replicas.pop(url).close()

    async def close(self) -> None:
        self._deadlines.close()
        if self._providers is not None:
            await self._providers.close()
        for replica in self._replicas.values():
            replica.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _outstanding(replica: Replica) -> int:
    return replica.outstanding
