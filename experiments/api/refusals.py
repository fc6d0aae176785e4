"""In which shape does the control API say no? OpenAI's, with a stable code; never a traceback."""

from __future__ import annotations

import errno
import logging
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from registry import RegistryError

from ..document import dotted
from ..errors import DocumentError, ExperimentsError
from ..ledger.store import DatabaseError

log = logging.getLogger("turnout.api")

#: Full, over a quota, read-only, or a file over its limit.
_DISK: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG))
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Final = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class ErrorBody(BaseModel):
    """What went wrong: a sentence for people, a code for programs, and the field it is about."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """OpenAI's error shape."""

    error: ErrorBody


Responses = dict[int | str, dict[str, Any]]


def documented(*statuses: int) -> Responses:
    """The error answers of a route, for its documentation."""
    return {status: {"model": ErrorAnswer} for status in statuses}


def refusal(status: int, code: str, message: str, *, param: str | None = None, **more: Any) -> JSONResponse:
    """An answer that says no."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": code, **more}
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Let every error of this application leave in the one shape."""
    app.add_exception_handler(ExperimentsError, _experiments)
    app.add_exception_handler(RegistryError, _registry)
    app.add_exception_handler(DatabaseError, _ledger)
    app.add_exception_handler(OSError, _system)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _fault)


async def _experiments(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ExperimentsError)
    more: dict[str, Any] = {}
    if isinstance(error, DocumentError):
        names = ("file", "line", "field", "found", "expected", "mend")
        more["problems"] = [{name: getattr(problem, name) for name in names} for problem in error.problems]
    return refusal(error.status, error.code, str(error), param=error.param, **more)


async def _registry(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RegistryError)
    notes = " ".join(getattr(error, "__notes__", ()))
    return refusal(error.status, error.code, f"{error} {notes}".strip())


async def _ledger(request: Request, error: Exception) -> JSONResponse:
    log.error("the ledger refused %s %s: %s", request.method, request.url.path, error)
    message = f"the ledger cannot be used now: {str(error).splitlines()[0]}"
    return refusal(503, "ledger_unavailable", message)


async def _system(request: Request, error: Exception) -> JSONResponse:
    """A disk that takes nothing is the operator's to mend, and no fault of the code."""
    assert isinstance(error, OSError)
    if error.errno not in _DISK:
        return await _fault(request, error)
    log.error("%s %s needs room on disk: %s", request.method, request.url.path, error)
    message = f"the controller cannot write what this takes into its data folder: {error.strerror}"
    return refusal(503, "no_room", message)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = tuple(step for step in first["loc"][1:] if isinstance(step, (str, int)))
    if first["type"] == "json_invalid":
        return refusal(400, "invalid_json", "the body is no JSON: send a JSON object")
    where = dotted(path) or str(first["loc"][0])
    others = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return refusal(400, "invalid_request", f"{where}: {first['msg']}{others}", param=where)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "http_error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return refusal(error.status_code, code, message)


async def _fault(request: Request, error: Exception) -> JSONResponse:
    log.error("fault in %s %s", request.method, request.url.path, exc_info=error)
    message = "the controller has a fault of its own; its log says more"
    return refusal(500, "internal_error", message)
