"""What did the engine see? Counted for tests, in process and at GET /simulation/counters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """A client that left: how many tokens it had been sent, and when (`time.monotonic` seconds)."""

    path: str
    model: str
    stream: bool
    token: int
    at: float


@dataclass(slots=True, kw_only=True)
class Counters:
    """Requests to the simulation's own paths and to /health, /metrics, /version are not counted."""

    requests: int = 0
    answered: int = 0
    running: int = 0
    waiting: int = 0
    connections: int = 0
    open_sockets: int = 0
    #: requests by which a server would have acted: `store`, or a tool that runs on the server
    side_effects: int = 0
    with_tools: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    paths: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    aborts: list[Abort] = field(default_factory=list)
    #: the last request as it came, head and body, and its body alone
    last_request: bytes = b""
    last_body: bytes = b""
    #: the bodies of answers as far as they were written, if the engine was told to keep them
    answers: list[bytearray] = field(default_factory=list)

    @property
    def aborted(self) -> int:
        """How many clients left before their answer was written."""
        return len(self.aborts)

    def to_document(self) -> dict[str, Any]:
        """For JSON: the requests as latin-1 text, which maps each byte to one character."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "aborted": self.aborted,
            "running": self.running,
            "waiting": self.waiting,
            "connections": self.connections,
            "open_sockets": self.open_sockets,
            "side_effects": self.side_effects,
            "with_tools": self.with_tools,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "paths": dict(self.paths),
            "models": dict(self.models),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "aborts": [
                {"path": a.path, "model": a.model, "stream": a.stream, "token": a.token, "at": a.at}
                for a in self.aborts
            ],
            "last_request": self.last_request.decode("latin-1"),
            "last_body": self.last_body.decode("latin-1"),
        }
