"""Who may ask, and how much may be sent?

Everything that changes state needs the control token. It is compared as digests of bytes, in constant time,
so that neither its length nor odd characters tell anything. Knows no route.
"""

from __future__ import annotations

import hmac
import os
import time
from base64 import b64decode
from hashlib import sha256
from typing import Annotated, Final

from fastapi import Depends, Header, Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..controller import Controller
from ..errors import ExperimentsError
from .refusals import refusal

#: A batch of 500 golden results with their answers is the largest thing anyone sends.
MAX_BODY_BYTES: Final = 32 * 1024 * 1024
#: A signed message that is older was perhaps recorded and sent again.
SIGNATURE_GOOD_FOR_S: Final = 300


class Unauthorized(ExperimentsError):
    """The token is missing or wrong."""

    code = "unauthorized"
    status = 401


def controller_of(request: Request) -> Controller:
    """The controller that this application speaks for."""
    found = request.app.state.controller
    assert isinstance(found, Controller)
    return found


def require_token(
    request: Request, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> None:
    """Raises Unauthorized unless the request has the control token."""
    scheme, _, token = (authorization or "").partition(" ")
    # Header bytes come as latin-1: back to what was sent.
    sent = sha256(token.strip().encode("latin-1", "replace")).digest()
    wanted = sha256(controller_of(request).options.token.encode()).digest()
    if scheme.lower() != "bearer" or not hmac.compare_digest(sent, wanted):
        raise Unauthorized(
            "this changes state and needs the control token: send `Authorization: Bearer TOKEN` with what is "
            "in the file `token` of the data folder"
        )


async def require_signature(request: Request) -> None:
    """Raises Unauthorized unless the request has the control token, or MLflow's signature of its webhooks.

    `x-mlflow-signature: v1,BASE64` of HMAC-SHA256(secret, "DELIVERY-ID.UNIX-SECONDS.BODY").
    """
    headers = request.headers
    if "x-mlflow-signature" not in headers:
        require_token(request, headers.get("authorization"))
        return
    variable = controller_of(request).config.registry_secret()
    secret = os.environ.get(variable, "") if variable else ""
    if not secret:
        raise Unauthorized(
            "MLflow's webhook is signed, but there is no secret to check it with: name its variable in "
            "turnout.yaml (registry: {secret_env: NAME}), and set it in the controller's environment"
        )
    stamp, given = headers.get("x-mlflow-timestamp", ""), headers["x-mlflow-signature"].partition(",")
    signed = f"{headers.get('x-mlflow-delivery-id', '')}.{stamp}.".encode("latin-1") + await request.body()
    wanted = hmac.new(secret.encode(), signed, sha256).digest()
    try:
        good = given[0] == "v1" and hmac.compare_digest(b64decode(given[2], validate=True), wanted)
        fresh = abs(time.time_ns() // 1_000_000_000 - int(stamp)) <= SIGNATURE_GOOD_FOR_S
    except ValueError:
        good = fresh = False
    if not good or not fresh:
        raise Unauthorized(
            "the signature of MLflow's webhook is wrong or older than five minutes: is the webhook's secret "
            f"that of {variable} in the controller's environment, and are both clocks right?"
        )


Known = Annotated[Controller, Depends(controller_of)]


class BodyLimit:
    """Refuses bodies that are too large, whether they say so or not."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        message = f"the body is larger than {self._limit} bytes"
        if not declared.isdigit() or int(declared) > self._limit:
            await refusal(413, "body_too_large", message)(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            event = await receive()
            taken += len(event.get("body", b""))
            if taken > self._limit:
                raise HTTPException(413, message)  # the one exception that FastAPI lets through here
            return event

        await self._app(scope, counted, send)
