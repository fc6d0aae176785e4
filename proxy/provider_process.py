"""How does a worker ask a provider without litellm in its own process? Through a child that has it.

litellm takes seconds and 200 MB to import, and milliseconds of its loop for each request: they are the
child's, and no other request waits for them. The child is started when an endpoint of that kind appears and
again when it has ended; what it had been asked has failed, like at any engine that breaks off. It ends
when the worker does, by the end of the socket between them, over which calls and their answers travel as
frames. `providers` is the other end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from enum import IntEnum
from time import monotonic_ns
from typing import Any, Final, get_args

import orjson

from experiments.ledger.exchange import Outcome
from experiments.snapshot import Endpoint

from .deadlines import Deadlines, tick_for
from .heads import AnswerHead, answer_head
from .limits import Limits
from .upstream import Receiver

log = logging.getLogger("turnout.proxy")

#: A child loads for seconds; on a busy machine for longer than a call may wait.
_BEGIN_SECONDS: Final = 60.0
#: How long after a child that could not even begin another is started; twice as long each time.
_AGAIN_SECONDS: Final = 1.0
_AGAIN_AT_MOST: Final = 60.0
#: The child keeps the deadlines; one that is so late does nothing any more, and is ended.
_LATE_SECONDS: Final = 5.0
#: How long it may take to end, once it is told.
_ENDING_SECONDS: Final = 5.0

#: The head of a provider's stream, as an engine would send it.
EVENT_HEAD: Final = answer_head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])


def json_head(status: int, size: int, retry_after: bytes = b"") -> AnswerHead:
    """The head of a provider's whole answer, with a body of so many bytes, and in how many seconds to ask
    again (empty: it is not said)."""
    lines = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
    return answer_head(status, [*lines, (b"retry-after", retry_after)] if retry_after else lines)


class Kind(IntEnum):
    """What a frame says of its call. The first four go to the child, the others come from it."""

    ASK = 1  # JSON of endpoint and path, a line break, the request's body
    CANCEL = 2
    PAUSE = 3
    RESUME = 4
    READY = 5  # of no call: the child can be asked
    HEAD = 6  # of a stream
    BODY = 7
    END = 8
    ANSWER = 9  # its status in 16 bits, and its body
    FAILED = 10  # JSON of outcome and code


#: call, kind, length of what follows
_FRAME: Final = struct.Struct("<IBI")
_ANSWER: Final = struct.Struct("<HI")  # the status, and the length of the header lines


def frame(call: int, kind: Kind, payload: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return _FRAME.pack(call, kind, len(payload)) + payload


def answered(head: AnswerHead, body: bytes) -> bytes:
    """The payload of an ANSWER."""
    return b"".join((_ANSWER.pack(head.status, len(head.lines)), head.lines, body))


class Frames:
    """Takes bytes as they come, gives frames when they are whole."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, Kind, bytes]]:
        """Call, kind and payload of each frame that is whole now."""
        held = self._held
        held += data
        while len(held) >= _FRAME.size:
            call, kind, size = _FRAME.unpack_from(held)
            end = _FRAME.size + size
            if len(held) < end:
                return
            payload = bytes(held[_FRAME.size : end])
            del held[:end]
            yield call, Kind(kind), payload


class RemoteCall:
    """One request to one provider, put by the child. Unless cancelled, the receiver hears one end."""

    def __init__(self, process: ProviderProcess, number: int, request: bytes, receiver: Receiver) -> None:
        self._process = process
        self.number = number
        self.request = request
        self.receiver = receiver
        self.sent = False
        self.got_head = False
        self._paused = False
        self.due = process.patience(process.limits.first_byte_seconds)

    def cancel(self) -> None:
        """Nobody wants the answer: the connection to the provider is closed. Safe to repeat."""
        if self._process.ended(self):
            self._process.tell(self, Kind.CANCEL)

    def pause(self) -> None:
        """Take no more from the provider until `resume`."""
        self._paused = True
        self.due = self._process.patience(self._process.limits.stalled_reader_seconds)
        self._process.tell(self, Kind.PAUSE)

    def resume(self) -> None:
        self._paused = False
        self.due = self._process.patience(self._process.limits.idle_seconds)
        self._process.tell(self, Kind.RESUME)

    def overdue(self, now: float) -> None:
        """The child should have ended this long ago. One that still loads has not been asked yet."""
        self.fail("timeout", "upstream_idle" if self.got_head else "upstream_timeout")
        if self.sent or now >= self._process.begins_by:
            self._process.kill("it keeps no deadline any more")

    def fail(self, outcome: Outcome, code: str) -> None:
        if self._process.ended(self):
            self.receiver.failed(outcome, code)

    def lost(self) -> None:
        """The child is gone."""
        if self.got_head:
            self.fail("truncated", "upstream_cut")
        else:
            self.fail("upstream_error", "upstream_cut" if self.sent else "upstream_unreachable")

    def hear(self, kind: Kind, payload: bytes) -> None:
        """What the child says of this call."""
        if kind is Kind.HEAD:
            self.got_head = True
            self.receiver.head(EVENT_HEAD)
        elif kind is Kind.BODY:
            if not self._paused:  # else the client is waited for, also by what was on its way already
                self.due = self._process.patience(self._process.limits.idle_seconds)
            self.receiver.body(payload, monotonic_ns())
        elif kind is Kind.FAILED:
            outcome, code = orjson.loads(payload)
            assert outcome in get_args(Outcome)
            self.fail(outcome, code)
        elif self._process.ended(self):
            if kind is Kind.END:
                self.receiver.end(b"")
            else:
                status, size = _ANSWER.unpack_from(payload)
                lines, body = payload[_ANSWER.size :][:size], payload[_ANSWER.size + size :]
                self.receiver.answer(replace(json_head(status, len(body)), lines=lines), body)


class ProviderProcess(asyncio.Protocol):
    """A worker's end of the socket, and the life of the child."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, RemoteCall] = {}
        self._numbers = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self.begins_by = 0.0  # by the loop's clock: a child that cannot be asked then hangs
        self._again = _AGAIN_SECONDS
        self._transport: Any = None
        self._frames = Frames()
        self._ready = asyncio.Event()
        self._settled = asyncio.Event()  # not being started: ready, not to be had, or not wanted
        self._settled.set()
        self._connecting: asyncio.Task[Any] | None = None
        self._deadlines: Deadlines | None = None
        self._closing = False

    def start(self) -> None:
        """Start the child unless it runs. Never raises: calls fail where it cannot be had."""
        if self._process is not None or self._closing or self._loop.time() < self._not_before:
            return
        self._settled.clear()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        command = [sys.executable, "-m", "proxy.providers", str(theirs.fileno())]
        command.append(orjson.dumps(asdict(self.limits)).decode())
        try:
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            log.error("the process that asks providers cannot be started: %s", error)
            ours.close()
            self._come_back()
            return
        finally:
            theirs.close()
        log.info("the process that asks providers is pid %d", self._process.pid)
        self.begins_by = self._loop.time() + _BEGIN_SECONDS
        if self._deadlines is None:
            self._deadlines = Deadlines(self._calls.values(), tick_for(_LATE_SECONDS))
        self._connecting = self._loop.create_task(self._connect(ours))

    async def _connect(self, ours: socket.socket) -> None:
        await self._loop.create_unix_connection(lambda: self, sock=ours)

    async def ready(self, seconds: float) -> None:
        """Until the child can be asked, or cannot be had, or for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            pass

    def call(self, endpoint: Endpoint, path: str, body: bytes, receiver: Receiver) -> RemoteCall:
        """Send a request; `receiver` gets the answer, never before this returns."""
        self.start()
        self._numbers = self._numbers % 0xFFFF_FFFF + 1
        about = {"endpoint": asdict(endpoint), "path": path}
        call = RemoteCall(self, self._numbers, orjson.dumps(about) + b"\n" + body, receiver)
        self._calls[call.number] = call
        if self._process is None:
            self._loop.call_soon(call.lost)
        elif self._ready.is_set():
            self._send(call)
        return call

    def _send(self, call: RemoteCall) -> None:
        call.sent, call.due = True, self.patience(self.limits.first_byte_seconds)
        self._transport.write(frame(call.number, Kind.ASK, call.request))
        call.request = b""

    def tell(self, call: RemoteCall, kind: Kind) -> None:
        """Something about a call that was sent."""
        if call.sent and self._transport is not None:
            self._transport.write(frame(call.number, kind))

    def ended(self, call: RemoteCall) -> bool:
        """Note that a call has ended; False if it had before."""
        return self._calls.pop(call.number, None) is not None

    def patience(self, seconds: float) -> float:
        """When a call is overdue that the child itself gives so many seconds from now."""
        return self._loop.time() + seconds + _LATE_SECONDS

    def kill(self, why: str) -> None:
        """End a child that does not do its work; the next call has another one."""
        if self._process is not None:
            log.error("the process that asks providers (pid %d) is ended: %s", self._process.pid, why)
            self._process.kill()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._frames = transport, Frames()

    def data_received(self, data: bytes) -> None:
        for number, kind, payload in self._frames.feed(data):
            if kind is Kind.READY:
                self._ready.set()
                self._settled.set()
                self._again = 0.0
                for waiting in list(self._calls.values()):
                    self._send(waiting)
                continue
            call = self._calls.get(number)
            if call is None:  # cancelled meanwhile
                continue
            try:
                call.hear(kind, payload)
            except Exception:
                log.exception("a provider's answer could not be relayed")
                call.cancel()
                call.receiver.failed("upstream_error", "upstream_garbled")

    def connection_lost(self, exc: Exception | None) -> None:
        process, self._process, self._transport = self._process, None, None
        self._ready.clear()
        if process is not None and not self._closing:
            process.kill()  # whatever made it let go of its end
            code = process.wait()
            log.error("the process that asks providers (pid %d) ended with %s", process.pid, code)
            self._come_back(killed=code < 0)
        for call in list(self._calls.values()):
            if call.sent or self._process is None:  # else another loads, and it can wait for that
                call.lost()

    def _come_back(self, *, killed: bool = False) -> None:
        """Another in the place of one that was ready, or that was killed before, at once: calls wait for it.
        One that could not begin, or is killed again, is tried again in a while; until then there is nobody to
        ask."""
        if not self._again or (killed and self._again == _AGAIN_SECONDS):
            self._again = 2 * self._again or _AGAIN_SECONDS
            self.start()
            return
        self._settled.set()
        self._not_before = self._loop.time() + self._again
        self._loop.call_later(self._again, self.start)
        self._again = min(2 * self._again, _AGAIN_AT_MOST)

    async def close(self) -> None:
        """End the child and what it still does."""
        self._closing = True
        if self._deadlines is not None:
            self._deadlines.close()
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        process = self._process
        if self._transport is not None:
            self._transport.close()
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, _ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
