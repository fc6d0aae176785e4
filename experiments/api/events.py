"""Events: decisions as they are made, as a stream that can be taken up where it broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from .. import views
from ..controller import Controller
from ..ledger import events
from ..ledger.schema import LedgerError
from .gate import Known

router = APIRouter(prefix="/api", tags=["events"])

LOOK_EVERY_S: Final = 0.5
#: A comment so often shows both sides, and what lies between, that somebody is there.
ALIVE_EVERY_S: Final = 15.0


@router.get(
    "/events",
    summary="Decisions as server-sent events; goes on after `Last-Event-ID`",
    response_class=StreamingResponse,
    description="Each `id` is a number that only grows. Without `Last-Event-ID` (or `after`) it begins with "
    "what is decided from now on; with 0, with everything there is.",
)
async def stream(
    controller: Known,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**63)] = None,
    after: Annotated[int | None, Query(ge=0, lt=2**63, description="as the header, which wins")] = None,
    model: str | None = None,
    experiment: str | None = None,
) -> StreamingResponse:
    seen = last_event_id if last_event_id is not None else after
    if seen is None:
        seen = await run_in_threadpool(events.latest, controller.store)
    return StreamingResponse(
        _events(controller, seen, model, experiment),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _events(
    controller: Controller, seen: int, model: str | None, experiment: str | None
) -> AsyncIterator[bytes]:
    """Until the client leaves or the controller stops."""
    quiet = 0.0
    yield b"retry: 1000\n\n"
    while not controller.publication.released:
        try:
            found = await run_in_threadpool(
                events.after, controller.store, seen, model=model, experiment=experiment
            )
        except LedgerError:
            return
        for event in found:
            seen, quiet = event.number, 0.0
            document = orjson.dumps(views.decision(event.decision))
            yield b"id: %d\nevent: decision\ndata: %b\n\n" % (event.number, document)
        if not found:
            await asyncio.sleep(LOOK_EVERY_S)
            quiet += LOOK_EVERY_S
        if quiet >= ALIVE_EVERY_S:
            quiet = 0.0
            yield b": alive\n\n"


@router.get("/webhooks", summary="Who is told of decisions, and how far each has come")
def webhooks(controller: Known) -> list[dict[str, Any]]:
    found = controller.notices.state()
    return [{**asdict(one), "next_ns": None, "next_at": views.at(one.next_ns or None)} for one in found]
