"""How long does an endpoint take to answer, when so many ask at once?

The load itself: a closed loop of clients, each asking again as soon as it has its answer. Bounded in requests
and in time. It times what a client sees, and knows neither tables nor plots.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import orjson

from experiments.ledger.sse import EventStream
from experiments.tls import over_tls

#: Words of the prompt, so that no two prompts begin alike and no prefix cache answers in the engine's place.
_WORDS: Final = (
    "signal",
    "points",
    "track",
    "platform",
    "whistle",
    "carriage",
    "junction",
    "siding",
    "buffer",
)
_REASON_LENGTH: Final = 60
_SAID_LENGTH: Final = 300


def prompt(number: int, words: int) -> str:
    """Prompt number `number`, of so many words: no other begins like it."""
    return f"{number} {' '.join(_WORDS[(number * 7 + step * step) % len(_WORDS)] for step in range(words))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to ask. `url` is the base, with or without `/v1`; `model` the name in the request."""

    url: str
    model: str
    api_key: str | None = None
    max_tokens: int = 64
    prompt_words: int = 64
    stream: bool = True

    @property
    def endpoint(self) -> str:
        """The address that is asked."""
        return self.url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"

    def body(self, number: int) -> bytes:
        """Request number `number`, with a prompt of its own."""
        document: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt(number, self.prompt_words)}],
            "max_tokens": self.max_tokens,
            "stream": self.stream,
            "user": f"bench-{number}",
        }
        if self.stream:
            document["stream_options"] = {"include_usage": True}
        return orjson.dumps(document)


@dataclass(slots=True, kw_only=True)
class Sample:
    """One request. Times are milliseconds; `error` says in a few words why there is no answer.

    `gaps_ms` are the times between pieces of content. `tokens` is what the engine counted, else the pieces.
    `said` are the words that came with an error, from the other side or from the system.
    """

    latency_ms: float = 0.0
    ttft_ms: float | None = None
    gaps_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str | None = None
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """All requests of one concurrency. `cold` is the first of the run, when no connection is open yet."""

    concurrency: int
    seconds: float
    samples: tuple[Sample, ...]
    cold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of one round: it ends with whichever comes first. A request may take `timeout_s`."""

    requests: int
    seconds: float
    timeout_s: float = 120.0


def authorization(api_key: str | None) -> dict[bytes, bytes]:
    """The header with a key, as bytes: httpx would refuse one that is not ASCII."""
    return {b"authorization": b"Bearer " + api_key.encode()} if api_key else {}


def client_for(target: Target, most: int) -> httpx.AsyncClient:
    """A client that keeps up to `most` connections open."""
    headers = {b"content-type": b"application/json", **authorization(target.api_key)}
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    secure = over_tls(target.url)
    return httpx.AsyncClient(timeout=None, limits=limits, headers=headers, trust_env=False, verify=secure)


async def run_round(
    client: httpx.AsyncClient,
    target: Target,
    concurrency: int,
    bounds: Bounds,
    *,
    first: int = 0,
    cold: bool = False,
    told: Callable[[], None] = lambda: None,
) -> Round:
    """Ask with `concurrency` clients at once; `told` hears of each answer. Prompts are numbered from `first`.

    What is still running when the time is up is waited for, up to its own timeout: cutting it would leave the
    slowest answers out of the figures.
    """
    samples: list[Sample] = []
    numbers = iter(range(first, first + bounds.requests))
    begun = time.monotonic()

    async def ask_on() -> None:
        for number in numbers:
            if time.monotonic() - begun > bounds.seconds:
                return
            samples.append(await _ask(client, target, number, bounds.timeout_s))
            told()

    async with asyncio.TaskGroup() as clients:
        for _ in range(min(concurrency, bounds.requests)):
            clients.create_task(ask_on())
    took = time.monotonic() - begun
    return Round(concurrency=concurrency, seconds=took, samples=tuple(samples), cold=cold)


async def _ask(client: httpx.AsyncClient, target: Target, number: int, timeout_s: float) -> Sample:
    """One request, timed. Never raises but for being cancelled."""
    sample = Sample()
    begun = time.perf_counter()
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.stream("POST", target.endpoint, content=target.body(number)) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                sample.error = f"status {answer.status_code}"
                sample.said = _message(await answer.aread())
            elif answer.headers.get("content-type", "").startswith("text/event-stream"):
                sample.error = await _read_stream(answer, sample, begun)
            else:
                sample.error = _read_whole(await answer.aread(), sample)
    except TimeoutError:
        sample.error = "timeout"
    except httpx.HTTPError as error:
        sample.error, sample.said = type(error).__name__[:_REASON_LENGTH], str(error)[:_SAID_LENGTH]
    sample.latency_ms = (time.perf_counter() - begun) * 1e3
    return sample


def _message(body: bytes) -> str:
    """What an error's body says: its message in OpenAI's shape or FastAPI's, or else its beginning."""
    try:
        document = orjson.loads(body)
        error = document.get("error", document.get("detail", document))
        said = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        said = body.decode("utf-8", "replace")
    return str(said)[:_SAID_LENGTH]


async def _read_stream(answer: httpx.Response, sample: Sample, begun: float) -> str | None:
    """Read to the end of the answer, so that the connection can be kept; what is wrong with it."""
    decoder, last, finished, ended, pieces = EventStream(), None, False, False, 0
    async for data in answer.aiter_raw():
        now = time.perf_counter()
        for event in decoder.feed(data):
            ended = ended or event.data == b"[DONE]"
            says, ends, counted = _event(event.data)
            finished = finished or ends
            sample.tokens = counted or sample.tokens
            if says:
                pieces += 1
                if last is None:
                    sample.ttft_ms = (now - begun) * 1e3
                else:
                    sample.gaps_ms.append((now - last) * 1e3)
                last = now
    sample.tokens = sample.tokens or pieces
    if not ended:
        return "stream cut"
    return None if finished else "no finish reason"


def _event(data: bytes) -> tuple[bool, bool, int]:
    """Whether an event says something, whether it ends a choice, and the tokens that it counts (0: none)."""
    try:
        document = orjson.loads(data)
        choices = document.get("choices") or []
        deltas = [choice.get("delta") or {} for choice in choices]
        says = any(value for delta in deltas for name, value in delta.items() if name != "role")
        counted = int((document.get("usage") or {}).get("completion_tokens") or 0)
        return says, any(choice.get("finish_reason") for choice in choices), counted
    except (ValueError, AttributeError, TypeError):
        return False, False, 0


def _read_whole(body: bytes, sample: Sample) -> str | None:
    """Read a JSON answer; what is wrong with it."""
    try:
        document = orjson.loads(body)
        sample.tokens = int((document.get("usage") or {}).get("completion_tokens") or 0)
        return None if document["choices"][0]["finish_reason"] else "no finish reason"
    except (ValueError, AttributeError, TypeError, KeyError, IndexError):
        return "no answer in the body"
