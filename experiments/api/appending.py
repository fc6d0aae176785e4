"""How does a client append rows, such as scores, that it may have sent before?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel

from ..controller import Controller
from ..ledger.store import Connection, instant


class Adds(Protocol):
    """Adds rows in a write's connection, as of a moment; how many were new."""

    def __call__(self, connection: Connection, rows: Sequence[dict[str, Any]], /, *, at: datetime) -> int: ...


def append(controller: Controller, given: Sequence[BaseModel], add: Adds) -> dict[str, int]:
    """How many rows were stored, and how many left as they were because they are there already."""
    rows = [one.model_dump() for one in given]
    now = instant(controller.junction.now_ns())
    stored = controller.store.write(lambda connection: add(connection, rows, at=now))
    return {"stored": stored, "ignored": len(rows) - stored}
