"""What does the server hand on, and what does it expect of those who answer?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .heads import KnownHeads, RequestHead
from .limits import Budget, Limits

if TYPE_CHECKING:
    from .server import ClientConnection


@dataclass(slots=True)
class Request:
    """One request, whole. It had come at `started_ns` (unix), which `time.monotonic_ns` calls `started`."""

    head: RequestHead
    body: bytes
    started_ns: int
    started: int

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self.head.headers


class Responder(Protocol):
    """What answers a request that takes time. To one in one small piece a client's pauses are nothing."""

    def client_gone(self) -> None: ...

    def client_paused(self) -> None:
        return

    def client_resumed(self) -> None:
        return


class Application(Protocol):
    """Where requests go. `handle` answers at once and returns None, or returns who will answer.

    `admit` is asked before the rest of a body is waited for: it raises Refusal where `handle` would.
    While `draining`, answers say that they are the last on their connection; once `leaving`, a connection
    is closed as soon as nothing is under way on it.
    """

    limits: Limits
    budget: Budget
    heads: KnownHeads[RequestHead]
    draining: bool
    leaving: bool

    def handle(self, request: Request, client: ClientConnection) -> Responder | None: ...
    def opened(self, client: ClientConnection) -> bool: ...
    def closed(self, client: ClientConnection) -> None: ...
    def admit(self, headers: dict[bytes, bytes]) -> None: ...
    def unread(self, reason: str) -> None: ...
