"""How does the dashboard ask the control API, and what can go wrong?

One call, one answer or one of these errors; no caching, no retry, no Streamlit. It must not know any page.

    ControlApiError
    ├── Unreachable    nothing answers at that address, or not in time, or not to its end
    ├── Refused        4xx: the controller understood and said no; `code` is its stable code
    ├── ControllerFault  5xx: the controller has a fault of its own
    └── Malformed      an answer that is not what the control API promises
"""

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

# The page is drawn anew every few seconds: an answer that takes longer than this is as good as none.
READ_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.5
# A promotion waits for the proxies' acknowledgement, and MLflow may be slow.
WRITE_TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class ControlApiError(Exception):
    """The control API gave no usable answer; `str()` says what and what to do, in words for the page."""


class Unreachable(ControlApiError):
    """Nothing answers at that address, or not in time, or not to its end.

    `sent`: the controller may have the request, and may have done what it asks.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class Refused(ControlApiError):
    """The controller said no."""

    def __init__(self, message: str, *, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ControllerFault(ControlApiError):
    """The controller answered with a fault of its own."""


class Malformed(ControlApiError):
    """The answer is not what the control API promises."""


def path(*parts: str) -> str:
    """`/api/...` with every part percent-encoded, so that no name can reach another route."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


class ControlApi:
    """A connection to one controller, safe to share between threads. Raises Unreachable for a bad URL."""

    def __init__(
        self, base_url: str, token: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.token = token
        try:
            # The control API is named by the operator: a proxy from the environment would only break it.
            secure = httpx.URL(self.base_url).scheme != "http"  # else no root certificates are read
            self._http = httpx.Client(
                base_url=self.base_url, transport=transport, trust_env=False, verify=secure
            )
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self.base_url!r} is no address: set TURNOUT_CONTROL_URL.") from error

    def __enter__(self) -> "ControlApi":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def get(self, shape: type[T], route: str, query: Mapping[str, str | int] | None = None) -> T:
        """The answer of GET `route` read as `shape`. Raises ControlApiError."""
        return self._call(shape, "GET", route, query=query)

    def post(self, shape: type[T], route: str, body: Mapping[str, Any]) -> T:
        """The answer of POST `route`, sent with the token. Raises ControlApiError."""
        return self._call(shape, "POST", route, body=body)

    def _call(
        self,
        shape: type[T],
        method: str,
        route: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> T:
        headers = {"authorization": f"Bearer {self.token}"} if self.token and method != "GET" else {}
        timeout = httpx.Timeout(
            READ_TIMEOUT_S if method == "GET" else WRITE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S
        )
        try:
            answer = self._http.request(
                method, route, params=query, json=body, headers=headers, timeout=timeout
            )
        except httpx.TimeoutException as error:
            raise Unreachable(
                f"The controller at {self.base_url} did not answer in {timeout.read:.0f} s.",
                sent=not isinstance(error, _UNSENT),
            ) from error
        except (*_UNSENT, httpx.InvalidURL) as error:
            raise Unreachable(
                f"Nothing answers at {self.base_url}. Start it with “turnout up” or “turnout controller”."
            ) from error
        except httpx.RequestError as error:
            raise Unreachable(
                f"The controller at {self.base_url} broke off amid its answer: is it being restarted?",
                sent=True,
            ) from error
        if answer.status_code >= 400:
            raise _refusal(answer)
        if answer.status_code >= 300:
            raise Malformed(
                f"{method} {route} answered {answer.status_code}, which the control API never does."
            )
        return _read(shape, answer, f"{method} {route}")


def _read(shape: type[T], answer: httpx.Response, what: str) -> T:
    if len(answer.content) > MAX_ANSWER_BYTES:
        raise Malformed(
            f"{what} answered {len(answer.content)} bytes; the page reads at most {MAX_ANSWER_BYTES}."
        )
    adapter: TypeAdapter[T] = TypeAdapter(shape)
    try:
        return adapter.validate_python(json.loads(answer.content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise Malformed(
            f"{what} answered something else than expected: {where}: {first['msg']}. "
            "Are dashboard and controller of the same release?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} answered something that is not JSON.") from error


def _refusal(answer: httpx.Response) -> ControlApiError:
    message, code = f"The controller answered {answer.status_code}.", None
    try:
        error = json.loads(answer.content)["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass  # not OpenAI's error shape: the status is all there is to say
    if answer.status_code >= 500:
        return ControllerFault(message)
    return Refused(message, status=answer.status_code, code=None if code is None else str(code))
