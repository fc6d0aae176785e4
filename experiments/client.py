"""How does another process of ours speak to the controller? Two verbs over HTTP, errors with a code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO, Final, TypeAlias
from urllib.parse import quote

import httpx
import orjson

from .tls import over_tls

#: Every answer of the control API has it: any program may answer with JSON.
MARK: Final = "x-turnout-control-api"
#: A report of ten million rows takes its time.
_LONG_S: Final = 600.0
#: With these the controller has not heard of the request.
_UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


#: Opened for as long as an answer is waited for: for whose, and how many seconds at the longest.
WhileWaiting: TypeAlias = Callable[[str, float], AbstractContextManager[None]]


class ControlError(Exception):
    """The control API refused, or did not answer (`status` 0). `code` is the API's, and stable."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def path_part(name: str, kind: str) -> str:
    """A name as one part of a path. Raises ControlError for what no name can be: it would lead elsewhere."""
    if not re.fullmatch(r"[^/\\]{1,200}", name) or name in (".", "..") or not name.isprintable():
        message = f"{name!r} is no {kind}'s name: expected letters, digits and . _ -"
        raise ControlError(message, status=400, code="invalid_request")
    return quote(name, safe="")


class ControlClient:
    """The control API at `url`; without a token only reading is allowed. Safe to use from threads."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        while_waiting: WhileWaiting = lambda whom, longest_s: nullcontext(),
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._while_waiting = while_waiting
        if token is not None and not (token.isascii() and token.isprintable()):
            message = "the control token has characters that no token has: copy it from the file `token`"
            raise ControlError(message, status=401, code="unauthorized")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        try:
            if httpx.URL(self._url).scheme not in ("http", "https"):
                raise httpx.InvalidURL("no http:// in front")
            self._client = httpx.Client(
                base_url=self._url,
                headers=headers,
                timeout=timeout_s,
                trust_env=False,
                verify=over_tls(self._url),
            )
        except httpx.InvalidURL as error:
            message = f"{self._url!r} is no address of a controller ({error}): expected http://HOST:PORT"
            raise ControlError(message, status=0, code="invalid_address") from None

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """The parsed answer. Raises ControlError."""
        return self._answer("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The parsed answer. Raises ControlError."""
        try:
            content = orjson.dumps(body)  # a batch of results is a quarter of a megabyte
        except orjson.JSONEncodeError as error:
            message = f"this cannot be sent: {error}; numbers have at most 64 bits, text is UTF-8"
            raise ControlError(message, status=400, code="invalid_request") from None
        return self._answer("POST", path, content=content, headers={"content-type": "application/json"})

    def download(self, path: str, target: BinaryIO, params: Mapping[str, str | int] | None = None) -> None:
        """Write the answer's bytes into `target`. Raises ControlError."""
        try:
            with (
                self._waiting(_LONG_S),
                self._client.stream("GET", path, params=params, timeout=_LONG_S) as response,
            ):
                if response.is_success and MARK in response.headers:
                    for block in response.iter_bytes():
                        target.write(block)
                    return
                response.read()
        except httpx.HTTPError as error:
            raise self._unreachable("GET", error, _LONG_S) from None
        self._parsed("GET", path, response)

    def _answer(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            with self._waiting(self._timeout_s):
                response = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._unreachable(method, error, self._timeout_s) from None
        return self._parsed(method, path, response)

    def _waiting(self, longest_s: float) -> AbstractContextManager[None]:
        return self._while_waiting(f"the controller at {self._url}", longest_s)

    def _unreachable(self, method: str, error: httpx.HTTPError, timeout_s: float) -> ControlError:
        why = str(error) or type(error).__name__
        if isinstance(error, _UNSENT):
            message = (
                f"no controller answers at {self._url} ({why}): start it with `turnout up`, or say in "
                "TURNOUT_CONTROL_URL where it is"
            )
        else:
            late = isinstance(error, httpx.TimeoutException)
            what = f"did not answer within {timeout_s:g} s" if late else f"broke off its answer ({why})"
            mend = (
                "its log may say why"
                if method == "GET"
                else "it may have done what it was asked all the same: look before you ask again"
            )
            message = f"the controller at {self._url} {what}; {mend}"
        return ControlError(message, status=0, code="controller_unreachable")

    def _parsed(self, method: str, path: str, response: httpx.Response) -> Any:
        try:
            document = orjson.loads(response.content)  # a run's results are megabytes
            if response.is_success and MARK in response.headers:
                return document
            message, code = str(document["error"]["message"]), document["error"]["code"]
            if not isinstance(code, str) or code == "path_not_found":
                raise TypeError("a controller's codes are words, and that one is the proxy's")
        except (ValueError, KeyError, TypeError):
            message = (
                f"{self._url} does not answer as a controller does ({method} {path}: status "
                f"{response.status_code}): is something else behind TURNOUT_CONTROL_URL?"
            )
            raise ControlError(message, status=response.status_code, code="no_controller") from None
        raise ControlError(message, status=response.status_code, code=code)
