"""How is a judge asked that is a model of the registry, or an embedder with OpenAI's API?

A judge goes through the proxy, to a named version, marked as golden traffic: it takes no part in experiments.
Asked for structured output first; an engine that refuses the field is asked without it from then on, and held
to the same schema.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import httpx

from evaluators.admission import VERSION_HEADER, Taken, golden_headers, root_of
from evaluators.errors import ModelRefused, ModelUnavailable
from evaluators.judges.asking import structured_output
from evaluators.judges.attempts import Again, Attempts
from evaluators.judges.provider import cost_usd
from evaluators.models import ModelReply
from evaluators.pacing import Retry, Sign
from evaluators.wellformed import well_formed
from experiments.ledger.dialects.chat import said_in
from experiments.tls import over_tls

_AGAIN: Final = frozenset((429, 502, 503))
_NOT_THIS: Final = frozenset((400, 413, 422))
_SHOWN: Final = 300


class ProxiedJudge:
    """A version of a model behind the proxy at `base_url`; one that is a `provider`'s, in litellm's spelling,
    costs what that does. Use as an async context manager."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        version: int,
        token: str,
        api_key: str | None = None,
        provider: str | None = None,
        max_tokens: int = 1024,
        concurrency: int = 8,
        timeout_s: float = 60.0,
        retry: Retry | None = None,
    ) -> None:
        self.identity = f"{model}@{version}"
        self._model, self._version, self._max_tokens = model, version, max_tokens
        self._provider = provider
        headers = golden_headers(token, version=version, api_key=api_key)
        self._calls = _Calls(root_of(base_url), headers, concurrency, timeout_s, retry)
        self._structured = True
        self._taken = Taken()

    async def __aenter__(self) -> ProxiedJudge:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._calls.close()

    async def reply(
        self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any], seed: int
    ) -> ModelReply:
        """Its answer, asked to be JSON of `schema`. Raises ModelUnavailable."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(messages),
            "temperature": 0,
            "seed": seed,
            "max_tokens": self._max_tokens,
        }
        started = time.monotonic()
        structured = self._structured
        response = await self._put({**body, **(structured_output(schema) if structured else {})})
        if structured and response.status_code in _NOT_THIS:
            response = await self._put(body)
            # Only if it answers now was it the field: else it is this question, and the next is another.
            self._structured = response.status_code != 200
        if response.status_code in _NOT_THIS or _flagged(response):
            raise ModelRefused(f"the judge {self.identity} refuses with {_said(response)}")
        if response.status_code != 200:
            raise ModelUnavailable(f"the judge {self.identity} answers {_said(response)}")
        by = response.headers.get(VERSION_HEADER)
        if by != str(self._version):
            raise ModelUnavailable(f"version {by} answered in place of the judge {self.identity}")
        found = _reply(response, (time.monotonic() - started) * 1000, self.identity)
        if self._provider is None:
            return found
        cost = await asyncio.to_thread(cost_usd, response.json(), self._provider)
        return replace(found, cost_usd=cost)

    async def _put(self, body: Mapping[str, Any]) -> httpx.Response:
        """The answer to this question, without what its model is known not to take."""
        asked = self._taken.asked(body)
        response = await self._calls.post("/v1/chat/completions", asked)
        again = self._taken.refused(asked, response.status_code, response.content)
        return await self._put(body) if again else response


class HttpEmbedder:
    """An embedding model at an OpenAI-compatible `base_url` (with /v1). Use as an async context manager."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None = None,
        concurrency: int = 8,
        timeout_s: float = 60.0,
        retry: Retry | None = None,
    ) -> None:
        self.identity = model
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._calls = _Calls(base_url.rstrip("/"), headers, concurrency, timeout_s, retry)

    async def __aenter__(self) -> HttpEmbedder:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._calls.close()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text, in their order. Raises ModelUnavailable."""
        body = {"model": self.identity, "input": list(texts)}
        response = await self._calls.post("/embeddings", body)
        if response.status_code != 200:
            raise ModelUnavailable(f"the embedder {self.identity} answers {_said(response)}")
        try:
            rows = sorted(response.json()["data"], key=lambda row: row["index"])
            vectors = [[float(x) for x in row["embedding"]] for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelUnavailable(f"the embedder {self.identity} gives no embeddings: {error}") from None
        if len(vectors) != len(texts):
            counts = f"{len(vectors)} vectors for {len(texts)} texts"
            raise ModelUnavailable(f"the embedder {self.identity} gives {counts}")
        return vectors


class _Calls:
    """POSTs, paced, and again after 429, 502, 503 and broken connections."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        concurrency: int,
        timeout_s: float,
        retry: Retry | None,
    ) -> None:
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers=dict(headers),
            timeout=None,  # a call is timed as a whole
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            trust_env=False,
            verify=over_tls(base_url),
        )
        self._attempts = Attempts(concurrency, retry)
        self._timeout_s = timeout_s

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        async def once() -> httpx.Response:
            try:
                async with asyncio.timeout(self._timeout_s):  # httpx's own starts anew with each byte
                    response = await self._client.post(path, json=body)
            except TimeoutError as error:
                why = f"{self._client.base_url}{path}: no whole answer in {self._timeout_s:g} s"
                raise Again(why, "failed") from error
            except httpx.HTTPError as error:
                raise Again(f"{self._client.base_url}{path}: {error!r}", "failed") from error
            if response.status_code in _AGAIN:
                sign: Sign = "failed" if response.status_code == 502 else "overloaded"
                raise Again(
                    f"{self._client.base_url}{path} answers {_said(response)}",
                    sign,
                    response.headers.get("retry-after"),
                )
            return response

        return await self._attempts.make(once)


def _reply(response: httpx.Response, took_ms: float, identity: str) -> ModelReply:
    try:
        raw = response.json()
        choice = raw["choices"][0]
        text, _ = said_in(choice["message"])
        tokens = (raw.get("usage") or {}).get("total_tokens")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ModelUnavailable(f"the judge {identity} gives no chat completion: {error!r}") from None
    return ModelReply(
        text=well_formed(text),
        finish_reason=choice.get("finish_reason"),
        tokens=tokens if isinstance(tokens, int) else None,
        latency_ms=took_ms,
    )


def _flagged(response: httpx.Response) -> bool:
    """Whether the version refuses with 403, which is about the question; Turnout's own is about the token."""
    return response.status_code == httpx.codes.FORBIDDEN and VERSION_HEADER in response.headers


def _said(response: httpx.Response) -> str:
    return f"{response.status_code}: {response.text[:_SHOWN]}"
