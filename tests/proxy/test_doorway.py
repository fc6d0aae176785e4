"""Workers that share a listening socket share its connections; a system that refuses is asked again."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import pytest

from proxy.doorway import Doorway
from proxy.supervisor import listen


async def until(reached: Callable[[], bool]) -> None:
    """Turns of the loop until it is so; pytest's time-out ends what never is."""
    while not reached():
        await asyncio.sleep(0.001)


class Guest(asyncio.Protocol):
    """A connection that a worker has taken; it only counts."""

    def __init__(self, taken: list[asyncio.Protocol]) -> None:
        taken.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport


async def test_connections_that_come_at_once_are_shared() -> None:
    loop = asyncio.get_running_loop()
    listener = listen("127.0.0.1", 0)
    first: list[asyncio.Protocol] = []
    second: list[asyncio.Protocol] = []
    clients = [socket.create_connection(listener.getsockname()) for _ in range(40)]  # all wait in the queue
    doorways = [Doorway(loop, listener.dup(), lambda taken=taken: Guest(taken)) for taken in (first, second)]  # type: ignore[misc]
    try:
        await until(lambda: len(first) + len(second) == 40)
        assert min(len(first), len(second)) >= 10
        await doorways[0].close()
        before = len(first)
        clients += [socket.create_connection(listener.getsockname()) for _ in range(10)]
        await until(lambda: len(first) + len(second) == 50)
        assert len(first) == before, "a closed doorway takes nobody"
    finally:
        for doorway in doorways:
            await doorway.close()
        for client in clients:
            client.close()
        for guest in (*first, *second):
            assert isinstance(guest, Guest)
            guest.transport.abort()
        listener.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("alone", [True, False])
async def test_who_is_alone_lets_nobody_wait(*, alone: bool) -> None:
    """A crowd of clients must not stand in the queue while the one worker that could take them rests."""
    loop = asyncio.get_running_loop()
    listener = listen("127.0.0.1", 0)
    taken: list[asyncio.Protocol] = []
    clients = [socket.create_connection(listener.getsockname()) for _ in range(40)]
    doorway = Doorway(loop, listener.dup(), lambda: Guest(taken), alone=alone)
    rests = 0
    later = doorway._rest

    def resting(seconds: float) -> None:
        nonlocal rests
        rests += 1
        later(seconds)

    doorway._rest = resting  # type: ignore[method-assign]
    try:
        await until(lambda: len(taken) == 40)
        assert rests == 0 if alone else rests >= 9
    finally:
        await doorway.close()
        for client in clients:
            client.close()
        for guest in taken:
            assert isinstance(guest, Guest)
            guest.transport.abort()
        listener.close()
        await asyncio.sleep(0)


class Exhausted(socket.socket):
    """A listening socket whose first accept finds no file descriptor free."""

    refusals = 1

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_no_file_descriptor_free_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    with listen("127.0.0.1", 0) as opened:
        listener = Exhausted(fileno=opened.detach())
    taken: list[asyncio.Protocol] = []
    doorway = Doorway(asyncio.get_running_loop(), listener, lambda: Guest(taken))
    with socket.create_connection(listener.getsockname()):
        await until(lambda: len(taken) == 1)
        assert "no connection can be taken" in caplog.text
        guest = taken[0]
        assert isinstance(guest, Guest)
        guest.transport.abort()
    await doorway.close()
    await asyncio.sleep(0)


async def test_a_connection_that_was_taken_is_made_before_the_doorway_is_closed() -> None:
    """A worker that leaves waits for its clients: one in between must not be missed."""
    listener = listen("127.0.0.1", 0)
    taken: list[asyncio.Protocol] = []
    doorway = Doorway(asyncio.get_running_loop(), listener.dup(), lambda: Guest(taken))
    with listener, socket.create_connection(listener.getsockname()):
        doorway._take()  # as the loop does when the socket is readable
        assert not taken
        await doorway.close()
        [guest] = taken
        assert isinstance(guest, Guest)
        guest.transport.abort()
    await asyncio.sleep(0)
