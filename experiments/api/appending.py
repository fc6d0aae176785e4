"""How does a client store what it may have sent before: a document, or rows such as scores?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from fastapi import Response
from pydantic import BaseModel

from ..controller import Controller
from ..ledger.store import Connection, instant


class Enters(Protocol):
    """Enters a document in a write's connection, as of a moment; whether it is new."""

    def __call__(self, connection: Connection, document: dict[str, Any], /, *, at: datetime) -> bool: ...


class Adds(Protocol):
    """Adds rows in a write's connection, as of a moment; how many were new."""

    def __call__(self, connection: Connection, rows: Sequence[dict[str, Any]], /, *, at: datetime) -> int: ...


def enter(controller: Controller, given: BaseModel, save: Enters, response: Response) -> bool:
    """Whether the document was stored; one that is there already stays as it is, and is answered with 200."""
    document, now = given.model_dump(), instant(controller.junction.now_ns())
    new = controller.store.write(lambda connection: save(connection, document, at=now))
    if not new:
        response.status_code = 200
    return new


def append(controller: Controller, given: Sequence[BaseModel], add: Adds) -> dict[str, int]:
    """How many rows were stored, and how many left as they were because they are there already."""
    rows = [one.model_dump() for one in given]
    now = instant(controller.junction.now_ns())
    stored = controller.store.write(lambda connection: add(connection, rows, at=now))
    return {"stored": stored, "ignored": len(rows) - stored}
