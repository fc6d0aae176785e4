"""How is the control API put together?

Handlers that read or write the ledger are plain functions, which FastAPI runs in threads: nothing blocks the
event loop, on which the workers' long polls for the snapshot wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..client import MARK
from ..controller import Controller
from . import (
    apply,
    evaluations,
    events,
    experiments,
    golden,
    human_labels,
    models,
    recorded,
    records,
    refusals,
)
from .gate import BodyLimit, Known

#: A page of another site that resolves its own name to 127.0.0.1 must not read anybody's prompts.
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]", "testserver")

_DESCRIPTION: Final = """\
The control plane: experiments, versions, decisions, golden runs and the ledger's answers.
Reading is open to whoever can reach the port (loopback by default); everything that changes state needs
`Authorization: Bearer TOKEN` with the token of the data folder. Errors have OpenAI's shape, `code` is stable.
"""


def create_app(
    controller: Controller, *, allowed_hosts: tuple[str, ...] = LOOPBACK_NAMES, loops: bool = True
) -> FastAPI:
    """The application for a controller: started with it, stopped with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(controller.start, loops=loops)
        try:
            yield
        finally:
            await run_in_threadpool(controller.stop)

    app = FastAPI(
        title="Turnout control API", version="1", description=_DESCRIPTION, lifespan=lifespan, redoc_url=None
    )
    app.state.controller = controller
    app.add_middleware(BodyLimit)
    app.add_middleware(Marked)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)
    refusals.install(app)
    for part in (models, experiments, apply, recorded, golden, human_labels, evaluations, records, events):
        app.include_router(part.router)
    app.add_api_route("/healthz", alive, tags=["process"], summary="Whether the controller lives")
    app.add_api_route(
        "/snapshot",
        snapshot,
        tags=["process"],
        summary="The routing table; waits for a newer one than the worker has",
        response_model=None,
        responses={304: {"description": "nothing newer within `wait` seconds"}},
    )
    return app


class Marked:
    """Says on every answer that it is the control API's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(event: Message) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event["headers"], (MARK.encode(), b"1")]
            await send(event)

        await self._app(scope, receive, marked)


async def alive() -> dict[str, Any]:
    """The process answers."""
    return {"ok": True}


async def snapshot(
    controller: Known,
    have: Annotated[
        int, Query(ge=0, le=2**62, description="the version that the worker has, 0 for none")
    ] = 0,
    worker: Annotated[
        str, Query(max_length=200, description="who is asking; only named workers are counted")
    ] = "",
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to wait for something newer")] = 0,
) -> Response:
    """Asking is the acknowledgement of `have`."""
    raw = await controller.publication.next_for(worker, have, wait)
    if raw is None:
        return Response(status_code=304)
    return Response(raw, media_type="application/json")
