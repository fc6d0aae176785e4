"""What does a client read when its request is not answered by an engine?

    Refusal                      carries status, stable code, message, and the field it is about
      malformed, unknown_model, ...   see the constructors below

Every error leaves in the shape of OpenAI and of Anthropic, so that the clients' own exception classes fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from typing import Final

import orjson

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """Turnout itself answers: `code` is stable and documented, `message` says how to mend it."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def body(self) -> bytes:
        """The JSON body in OpenAI's shape, which with its outer `type` is Anthropic's as well."""
        other = "invalid_request_error" if self.status < 500 else "server_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, other),
            "param": self.param,
            "code": self.code,
        }
        return orjson.dumps({"type": "error", "error": error})


def unknown_model(name: str, known: Iterable[str]) -> Refusal:
    """What a client reads that names a model which is not in production."""
    listed = ", ".join(sorted(known)) or "none yet"
    message = f"The model {name[:200]!r} is not in production here. Known models: {listed}."
    return Refusal(404, "model_not_found", message, "model")


def internal_error() -> Refusal:
    """What a client reads of a defect of ours."""
    return Refusal(500, "internal_error", "Turnout failed on this request; its log says more.")


@cache
def status_line(status: int) -> bytes:
    """The first line of an answer; an engine's own invention of a status has no reason phrase."""
    try:
        phrase = HTTPStatus(status).phrase.encode()
    except ValueError:
        phrase = b""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase)
