"""How is a question put to a named version, and how did its answer end?

Speaks to the proxy over HTTP like any client, with the admin headers that name the version and mark the
traffic as golden. Tells apart what the version did (an outcome, to be scored) from what kept it from being
asked (overload, Turnout's refusal, no connection), by the header that names the version that answered.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from random import Random
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson

from evaluators.admission import (
    MAX_ANSWER,
    OVERLOADED,
    REQUEST_ID_HEADER,
    VERSION_HEADER,
    golden_headers,
    heed_missing_key,
    heed_refusal,
    outcome_of,
    root_of,
)
from evaluators.errors import RunRefused
from evaluators.golden import GoldenItem
from evaluators.pacing import Pace, Retries, Retry, Sign
from evaluators.score import Output, ToolCall
from evaluators.wellformed import mended, well_formed
from experiments.ledger.dialects.chat import said_in
from experiments.ledger.exchange import Outcome

_SHOWN: Final = 300
_SIGNS: Final[dict[Outcome | None, Sign]] = {
    "overloaded": "overloaded",
    "upstream_error": "failed",
    "timeout": "failed",
    "truncated": "failed",
    None: "failed",
}


class Target(Protocol):
    """Whoever answers the questions. Raises RunRefused when asking on is of no use."""

    async def ask(self, item: GoldenItem, repeat: int) -> Output: ...


class ProxyTarget:
    """A version of a model behind the proxy at `base_url` (with or without a trailing /v1).

    Use as an async context manager; holds one connection pool. At most `concurrency` attempts are in flight,
    fewer while the engine is overloaded; `timeout_s` bounds one attempt as a whole.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        version: int,
        token: str,
        api_key: str | None = None,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        retry: Retry | None = None,
    ) -> None:
        self._model, self._version = model, version
        self._timeout_s = timeout_s
        self._retry = retry or Retry()
        self._retries = Retries()
        self._pace = Pace(concurrency)
        self._jitter = Random()
        self._url = root_of(base_url) + "/v1/chat/completions"
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RunRefused(
                f"the proxy cannot be asked: {base_url!r} is no address, expected http://HOST:PORT"
            )
        self._headers = golden_headers(token, version=version, api_key=api_key)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ProxyTarget:
        # aiohttp rather than httpx, which takes several times as long for a request: at 20 ms an answer that
        # is the difference between nine and six tenths of a bare client's rate (bench/golden_run.py).
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),  # the pace is the limit
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # an attempt is timed as a whole
            trust_env=False,  # the proxy is ours: no HTTP_PROXY of the environment stands between
        )
        return self

    @property
    def lowest_concurrency(self) -> int:
        """How many attempts the engine bore at a time when it bore the fewest."""
        return self._pace.lowest

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, item: GoldenItem, repeat: int) -> Output:
        """The version's answer. Raises RunRefused when Turnout knows no such token, model or version, or has
        no key to ask it with."""
        body = json.dumps(item.body(self._model), ensure_ascii=False).encode()
        attempt = 1
        while True:
            async with self._pace as turn:
                output, retry_after = await self._attempt(body, attempt)
            self._pace.note(turn, _SIGNS.get(output.outcome, "answered"))
            self._retries.attempted()
            again = output.outcome in (None, "overloaded", "truncated")
            if not again or attempt >= self._retry.attempts or not self._retries.take():
                return output
            attempt += 1
            await asyncio.sleep(self._retry.wait_s(attempt, retry_after, self._jitter))

    async def _attempt(self, body: bytes, attempt: int) -> tuple[Output, str | None]:
        assert self._session is not None, "use it as a context manager"
        started = time.monotonic()
        seen: Mapping[str, str] = {}

        def failed(outcome: Outcome | None, error: str) -> tuple[Output, None]:
            took = (time.monotonic() - started) * 1000
            request_id = seen.get(REQUEST_ID_HEADER)
            output = Output(
                outcome=outcome, error=error, latency_ms=took, request_id=request_id, attempts=attempt
            )
            return output, None

        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(self._url, data=body, allow_redirects=False) as answer,
            ):
                seen = answer.headers
                content = bytearray()
                async for piece in answer.content.iter_any():
                    content += piece
                    if len(content) > MAX_ANSWER:
                        raise aiohttp.ClientPayloadError(f"more than {MAX_ANSWER} bytes")
        except TimeoutError:
            return failed("timeout", f"no whole answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            # After the head of the version's answer this is its answer, cut; before it, nobody was reached.
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return failed("truncated" if VERSION_HEADER in seen else None, why)
        took = (time.monotonic() - started) * 1000
        return self._read(answer.status, seen, bytes(content), took, attempt), seen.get("retry-after")

    def _read(
        self, status: int, headers: Mapping[str, str], content: bytes, took: float, attempt: int
    ) -> Output:
        answered_by = headers.get(VERSION_HEADER)
        base: dict[str, Any] = {
            "http_status": status,
            "request_id": headers.get(REQUEST_ID_HEADER),
            "latency_ms": took,
            "attempts": attempt,
        }
        if answered_by is None:
            return Output(**base, outcome=self._refused(status, content), error=_message(status, content))
        if answered_by != str(self._version):
            error = f"version {answered_by} answered in place of version {self._version}"
            return Output(**base, outcome="rejected", error=error)
        if status != 200:
            asked = f"{self._model} version {self._version}"
            heed_missing_key(asked, status, content, or_refused=False)
            return Output(**base, outcome=outcome_of(status), error=_message(status, content))
        return read_answer(content, base)

    def _refused(self, status: int, content: bytes) -> Outcome:
        if status in OVERLOADED:
            return "overloaded"
        heed_refusal(f"{self._model} version {self._version}", status, _message(status, content))
        return "rejected"


def read_answer(content: bytes, base: Mapping[str, Any]) -> Output:
    """An Output from the body of a chat completion with status 200; any other body is an upstream_error."""
    try:
        raw = mended(content, json.loads(content))
        choice = raw["choices"][0]
        message = choice["message"]
        text, _ = said_in(message)
        calls = tuple(
            ToolCall(name=str(call["function"]["name"]), arguments=_arguments(call["function"]))
            for call in message.get("tool_calls") or ()
        )
        orjson.dumps(raw)  # what is no UTF-8, or nests too deeply, could not be kept either
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        why = f"the answer is no chat completion ({type(error).__name__}): {content[:_SHOWN]!r}"
        return Output(**base, outcome="upstream_error", error=why)
    finish = choice.get("finish_reason")
    outcome: Outcome = "complete"
    if finish == "length":
        outcome = "length"
    elif not text and not calls:
        outcome = "empty"
    usage = raw.get("usage")
    return Output(
        **base,
        text=text,
        tool_calls=calls,
        finish_reason=finish if isinstance(finish, str) else None,
        usage=usage if isinstance(usage, dict) else None,
        outcome=outcome,
        raw=raw,
    )


def _arguments(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    if arguments is None:
        return ""
    # The protocol says text; engines that send an object have made the same call.
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _message(status: int, content: bytes) -> str:
    """The message of an error body in OpenAI's shape, or the beginning of whatever it is."""
    try:
        error = json.loads(content)["error"]
        code = f" ({error['code']})" if error.get("code") else ""
        return str(well_formed(f"{error['message']}{code}"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return content.decode(errors="replace")[:_SHOWN] or f"status {status} without a body"
