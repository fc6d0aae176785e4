"""How do several workers share one listening socket, so that each gets its part of the connections?

An asyncio server that wakes takes every connection that waits; with clients that keep theirs, the first
worker to wake then has all the traffic for good. Here a worker takes a few and rests for a moment, in which
the others wake and take theirs. One that is alone does not rest: a crowd would wait for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

log = logging.getLogger("turnout.proxy")

#: So many are taken in a turn of the loop, before a rest; and so long is it: 4,000 new ones a second at most.
_AT_ONCE: Final = 4
_REST_SECONDS: Final = 0.001
#: Nothing is taken for so long after the system refused: out of file descriptors, most often.
_PAUSE_SECONDS: Final = 0.1


class Doorway:
    """Takes connections off a non-blocking listening socket until closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        alone: bool = False,
    ) -> None:
        self._loop, self._listener, self._make, self._alone = loop, listener, make, alone
        self._entering: set[asyncio.Task[object]] = set()
        self._open = True
        self._watch()

    def _watch(self) -> None:
        if self._open:
            self._loop.add_reader(self._listener.fileno(), self._take)

    def _take(self) -> None:
        for taken in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):  # another worker was first, or the client left
                if taken:
                    break
                return
            except OSError as error:
                log.warning("no connection can be taken for %g s: %s", _PAUSE_SECONDS, error.strerror)
                self._rest(_PAUSE_SECONDS)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            entering = self._loop.create_task(self._enter(connection))
            self._entering.add(entering)
            entering.add_done_callback(self._entering.discard)
        if not self._alone:
            self._rest(_REST_SECONDS)

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._loop.call_later(seconds, self._watch)

    async def _enter(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError as error:
            log.warning("a connection was lost as it was taken: %s", error)
            connection.close()

    async def close(self) -> None:
        """No further connections: those that wait are left to the other workers, those that were taken are
        made before this returns, so that whoever counts clients then counts all of them."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        if self._entering:
            await asyncio.wait(self._entering)
