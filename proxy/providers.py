"""How is a request put to a provider that does not speak OpenAI's wire? Through litellm's SDK.

The only module of the proxy that imports litellm, in a process of its own (`provider_process` is the worker's
end of it). Whatever decides is ours: which provider (the snapshot), which fields (`provider_terms`),
no second attempt, the deadlines, and whether a stream came to its end. The credential is a variable of this
process's environment; its name travels, its value is read for each call and kept nowhere. Where a provider
is, is known to litellm, or said by its own variables in this environment: no registry can name an address.

To a `Receiver` an answer looks as if an engine had given it: OpenAI's JSON, or its events.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from time import monotonic_ns
from typing import Any, Final

import orjson
import uvloop

from experiments.ledger.exchange import Outcome
from experiments.snapshot import Endpoint

from .errors import Refusal
from .heads import AnswerHead, seconds_to_wait
from .keys import Keys
from .limits import Limits
from .provider_process import EVENT_HEAD, Frames, Kind, answered, frame, json_head
from .provider_terms import (
    CHAT,
    NO_STATUS,
    Seen,
    causes,
    event,
    fault,
    flagged,
    keywords,
    named,
    packed_vector,
    refusal,
    unsupported,
)
from .upstream import Receiver

log = logging.getLogger("turnout.proxy")

#: What litellm and its kin import no sooner than at a first call, which would wait for it: a second of CPU.
#: A name that is there no more costs that call some milliseconds, and nothing else.
_LATER: Final = (
    "anyio._backends._asyncio", "botocore.auth", "botocore.eventstream", "botocore.loaders", "botocore.model",
    "botocore.parsers", "jiter", "litellm.integrations.prometheus_services",
    "litellm.litellm_core_utils.default_encoding", "openai.resources",
)  # fmt: skip
#: These are spoken to by the openai package, which takes no HTTP client of litellm's: for chats, for vectors.
_OPENAI_CLIENT: Final = (
    "openai/", "azure/", "cerebras/", "nvidia_nim/", "perplexity/", "sambanova/",
)  # fmt: skip
_OPENAI_CLIENT_VECTORS: Final = (
    "openai/", "azure/", "azure_ai/", "fireworks_ai/", "mistral/", "nvidia_nim/", "together_ai/",
)  # fmt: skip


#: Statuses whose `retry-after` a client is told: the provider has too much to do, or is away for a while.
_BUSY: Final = frozenset((429, 503, 529))
#: What still runs when the worker is gone gets so long to close its connections.
_LEAVING_SECONDS: Final = 2.0


class Providers:
    """All calls of one worker."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.client = Client(_litellm())
        self.keys = Keys()
        self._calls: set[ProviderCall] = set()

    def call(self, endpoint: Endpoint, path: str, body: bytes, receiver: Receiver) -> ProviderCall:
        """Send a request; `receiver` gets the answer, never before this returns."""
        call = ProviderCall(self, endpoint, path, body, receiver)
        self._calls.add(call)
        call.task.add_done_callback(lambda _: self._calls.discard(call))
        return call

    async def close(self) -> None:
        """End what still runs, and the connections."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
        await self.client.close()


class ProviderCall:
    """One request to one provider. Unless cancelled, the receiver hears `failed` or `end` once."""

    def __init__(
        self, providers: Providers, endpoint: Endpoint, path: str, body: bytes, receiver: Receiver
    ) -> None:
        self._providers = providers
        self._endpoint = endpoint
        self._path = path
        self._body = body
        self._receiver = receiver
        self._deadline: asyncio.Timeout | None = None
        self._ends = providers.loop.time() + providers.limits.total_seconds
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._got_head = False
        self._seen = Seen(providers.limits.provider_bytes)
        self._key = endpoint.served_name, endpoint.credential
        self.sent = False
        self.done = False
        self.task = providers.loop.create_task(self._run())

    def cancel(self) -> None:
        """Nobody wants the answer: the connection to the provider is closed. Safe to repeat."""
        if not self.done:
            self.done = True
            self.task.cancel()

    def pause(self) -> None:
        """Take no more from the provider until `resume`."""
        self._flowing.clear()
        self._due_in(self._providers.limits.stalled_reader_seconds)

    def resume(self) -> None:
        self._flowing.set()
        self._due_in(self._providers.limits.idle_seconds)

    def _due_in(self, seconds: float) -> None:
        # An answer that has ended has no deadline any more, though its client may still be reading.
        if self._deadline is not None and not self.done and not self._deadline.expired():
            self._deadline.reschedule(min(self._providers.loop.time() + seconds, self._ends))

    async def _run(self) -> None:
        try:
            limits = self._providers.limits
            patience = min(limits.first_byte_seconds, limits.total_seconds)
            async with asyncio.timeout(patience) as self._deadline:
                await self._ask()
        except TimeoutError:
            self._overdue()
        except Unkeyed:
            self._fail("upstream_error", "provider_credential_missing")
        except Refusal as refused:
            self._answer(refused.status, refused.body())
        except Exception as error:
            self._failed(error)

    async def _ask(self) -> None:
        document = orjson.loads(self._body)
        given = keywords(self._path, document)
        client = self._providers.client
        key = self._credential()
        if key is not None:
            given["api_key"] = key
        given["model"] = self._endpoint.served_name
        self.sent = True
        _SEEN.set(self._seen)
        if self._path != CHAT:
            self._answer(200, await client.embed(given))
        elif document.get("stream"):
            self._seen.streamed = True
            await self._relay(client.stream(given, self._seen))
        else:
            self._answer(200, await client.complete(given))

    async def _relay(self, events: AsyncIterator[bytes]) -> None:
        """The head waits for the first event, so that what fails before it can still go elsewhere."""
        try:
            async for data in events:
                await self._flowing.wait()
                self._due_in(self._providers.limits.idle_seconds)
                if not self._got_head:
                    self._got_head = True
                    self._providers.keys.taken(self._key)
                    self._receiver.head(EVENT_HEAD)
                self._receiver.body(data, monotonic_ns())
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        self.done = True
        self._receiver.end(b"")

    def _credential(self) -> str | None:
        """The value of the variable that the endpoint names. Raises Unkeyed where it is not set."""
        name = self._endpoint.credential
        if not name:
            return None
        value = os.environ.get(name)
        if not value:
            log.error("the proxy's environment has no %s: the provider cannot be asked", name)
            raise Unkeyed
        return value

    # to the receiver

    def _answer(self, status: int, body: bytes, retry_after: bytes = b"") -> None:
        if status < 300:
            self._providers.keys.taken(self._key)
        if not self.done:
            self.done = self._got_head = True
            self._receiver.answer(json_head(status, len(body), retry_after), body)

    def _overdue(self) -> None:
        if self._providers.loop.time() >= self._ends:
            self._fail("timeout", "upstream_too_long")
        elif not self._flowing.is_set():
            self._fail("client_gone", "client_stalled")
        else:
            self._fail("timeout", "upstream_idle" if self._got_head else "upstream_timeout")

    def _failed(self, error: Exception) -> None:
        """An error of litellm's, of a provider's, or of ours. Its text may hold a key: types are logged."""
        if self._seen.oversized or isinstance(error, Truncated) or self._got_head:
            code = "provider_oversized" if self._seen.oversized else "upstream_cut"
            self._fail("truncated" if self._got_head else "upstream_error", code)
            return
        name, status = type(error).__name__, getattr(error, "status_code", None)
        types = " after ".join(dict.fromkeys(type(one).__name__ for one in causes(error)))
        log.warning("provider of %s: %s, status %s", self._endpoint.served_name, types, status)
        found = fault(error, self._seen.status, streamed=self._seen.streamed)
        message, document = str(getattr(error, "message", "")), orjson.loads(self._body)
        if name == "Timeout":
            self._fail("timeout", "upstream_timeout")
        elif name == "UnsupportedParamsError":  # litellm's word for it has several statuses
            refused = unsupported(message, document)
            self._answer(refused.status, refused.body())
        elif found is not None:
            self._fail("upstream_error", found)
        else:
            secret = os.environ.get(self._endpoint.credential) if self._endpoint.credential else None
            said = self._seen.status or 0
            if said < 400:  # refused among a stream's events, or by litellm; else its word may be another
                said = status if name != NO_STATUS and isinstance(status, int) else 502
            if said == 401 or (
                said == 403 and not flagged(message) and self._providers.keys.distrusted(self._key)
            ):
                self._fail("upstream_error", "provider_credential_refused")
                return
            field = named(message, getattr(error, "param", None), document)
            refused = refusal(said, message, [secret] if secret else [], field)
            self._answer(refused.status, refused.body(), self._seen.retry_after if said in _BUSY else b"")

    def _fail(self, outcome: Outcome, code: str) -> None:
        if not self.done:
            self.done = True
            self._receiver.failed(outcome, code)


class Unkeyed(Exception):
    """The variable that is to hold the provider's key is not set."""


class Truncated(Exception):
    """The provider's stream ended without saying that the answer had."""


class Client:
    """litellm, held to one attempt per call. What it raises is its own business, and judged above."""

    def __init__(self, litellm: Any) -> None:
        self._litellm = litellm
        self._http = _once_only()
        litellm.aclient_session = self._http.client  # of the openai package's clients as well

    def _options(self, given: dict[str, Any], by_openai: tuple[str, ...]) -> dict[str, Any]:
        options = {**given, "num_retries": 0, "max_retries": 0}
        if not given["model"].startswith(by_openai):
            options["client"] = self._http
        return options

    async def _chat(self, given: dict[str, Any]) -> Any:
        options = self._options(given, _OPENAI_CLIENT)
        # Else a request with tools goes through litellm's MCP gateway, which is neither here nor wanted.
        return await self._litellm.acompletion(**options, _skip_mcp_handler=True)

    async def complete(self, given: dict[str, Any]) -> bytes:
        """A chat answer as OpenAI's JSON."""
        answer = await self._chat(given)
        return orjson.dumps(answer.model_dump(mode="json"))

    async def embed(self, given: dict[str, Any]) -> bytes:
        """Vectors as OpenAI's JSON: in base64 where that is asked for, whatever the provider sends."""
        packed = given.pop("encoding_format", None) == "base64"
        answer = await self._litellm.aembedding(**self._options(given, _OPENAI_CLIENT_VECTORS))
        said = answer.model_dump(mode="json")
        for item in said["data"] if packed else ():
            item["embedding"] = packed_vector(item["embedding"])
        return orjson.dumps(said)

    async def stream(self, given: dict[str, Any], seen: Seen) -> AsyncIterator[bytes]:
        """A chat answer as events, up to `[DONE]`. Raises Truncated where the provider's stream was cut.

        litellm gives a stream that broke off a finish reason of its own making. What the provider said is in
        `received_finish_reason`, but for Gemini, whose every piece litellm takes to be finished.
        """
        answer = await self._chat(given)
        waiting = b""  # what says nothing yet (Gemini's id and prompt) begins no answer
        begun = False
        try:
            async for chunk in answer:
                said = chunk.model_dump(mode="json", exclude_none=True)
                claimed = any(choice.get("finish_reason") for choice in said.get("choices") or ())
                if claimed and not (answer.received_finish_reason or seen.finished):
                    raise Truncated
                waiting += event(said)
                begun = begun or bool(said.get("choices"))
                if begun:
                    yield waiting
                    waiting = b""
            if not (answer.received_finish_reason or seen.finished):
                raise Truncated
        finally:
            await answer.aclose()
        yield waiting + b"data: [DONE]\n\n"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
        await self._litellm.close_litellm_async_clients()


#: Whose answer the HTTP client is fetching: set by the task that asks.
_SEEN: Final[ContextVar[Seen | None]] = ContextVar("seen", default=None)


def _litellm() -> Any:
    """litellm with nothing of its own: no callbacks, no telemetry, no network at import, no talk."""
    for name in ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"):
        os.environ[name] = "True"  # else it asks the network at import, or at the first Anthropic answer
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.turn_off_message_logging = True
    litellm.disable_streaming_logging = True
    litellm.disable_hf_tokenizer_download = True  # else it asks a hub, to count tokens that were counted
    litellm.drop_params = False
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # else it breaks off an answer of many equal pieces
    for name in ("callbacks", "success_callback", "failure_callback", "input_callback", "service_callback"):
        setattr(litellm, name, [])
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # its messages quote requests and answers
    return litellm


def _what_comes_later() -> None:
    """Import what a first call would."""
    for name in _LATER:
        with suppress(ImportError):
            importlib.import_module(name)


def _watched(pieces: Callable[..., AsyncIterator[bytes]], seen: Seen) -> Callable[..., AsyncIterator[bytes]]:
    """What gives an answer's bytes, unpacked, with a look at each of them."""

    async def looked_at(*size: int | None, **named: int | None) -> AsyncIterator[bytes]:
        async for data in pieces(*size, **named):
            seen.look(data)
            yield data

    return looked_at


def _once_only() -> Any:
    """litellm's HTTP client without its second attempt and without redirects; its answers are watched."""
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    class OnceOnly(AsyncHTTPHandler):  # type: ignore[misc]
        async def single_connection_post_request(self, url: str, *_: Any, **__: Any) -> Any:
            raise  # it is called where the first attempt's error is being handled

    async def note(answer: Any) -> None:
        if (seen := _SEEN.get()) is not None:
            seen.status, said = answer.status_code, answer.headers
            seen.retry_after = seconds_to_wait(said.get("retry-after", ""), said.get("date"))
            answer.aiter_bytes = _watched(answer.aiter_bytes, seen)  # all that reads an answer goes by it
            if not (seen.streamed and answer.is_success):
                await answer.aread()
                del answer.aiter_bytes  # what was read is not counted again

    return OnceOnly(follow_redirects=False, event_hooks={"response": [note]})


class Line:
    """A `Receiver` at the worker's end: what a call hears goes there."""

    def __init__(self, host: Host, number: int) -> None:
        self._host, self._number = host, number

    def answer(self, head: AnswerHead, body: bytes) -> None:
        self._last(Kind.ANSWER, answered(head, body))

    def head(self, head: AnswerHead) -> None:
        self._host.tell(self._number, Kind.HEAD)

    def body(self, data: bytes, came: int, chunks: bytes = b"") -> None:
        self._host.tell(self._number, Kind.BODY, data)

    def end(self, data: bytes) -> None:
        self._last(Kind.END)

    def failed(self, outcome: Outcome, code: str) -> None:
        self._last(Kind.FAILED, orjson.dumps((outcome, code)))

    def _last(self, kind: Kind, payload: bytes = b"") -> None:
        self._host.calls.pop(self._number, None)
        self._host.tell(self._number, kind, payload)


class Host(asyncio.Protocol):
    """This process's end of the socket to its worker; when that ends, so does everything."""

    def __init__(self, limits: Limits) -> None:
        self.calls: dict[int, ProviderCall] = {}
        self.deserted = asyncio.Event()
        self._providers = Providers(limits)
        self._frames = Frames()
        self._transport: Any = None

    def tell(self, number: int, kind: Kind, payload: bytes = b"") -> None:
        """Something about a call, to the worker."""
        self._transport.write(frame(number, kind, payload))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.tell(0, Kind.READY)

    def data_received(self, data: bytes) -> None:
        for number, kind, payload in self._frames.feed(data):
            if kind is Kind.ASK:
                self._ask(number, payload)
                continue
            call = self.calls.get(number)
            if call is None:  # ended meanwhile
                continue
            if kind is Kind.CANCEL:
                del self.calls[number]
                call.cancel()
            elif kind is Kind.PAUSE:
                call.pause()
            else:
                call.resume()

    def _ask(self, number: int, payload: bytes) -> None:
        about, _, body = payload.partition(b"\n")
        said = orjson.loads(about)
        fields = {**said["endpoint"], "replicas": tuple(said["endpoint"]["replicas"])}
        endpoint, ear = Endpoint(**fields), Line(self, number)
        self.calls[number] = self._providers.call(endpoint, said["path"], body, ear)

    def connection_lost(self, exc: Exception | None) -> None:
        self.deserted.set()

    async def close(self) -> None:
        """End what still runs."""
        await self._providers.close()


async def _serve(own: socket.socket, limits: Limits) -> None:
    _, host = await asyncio.get_running_loop().create_unix_connection(lambda: Host(limits), sock=own)
    await host.deserted.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(_LEAVING_SECONDS):
            await host.close()


def main(argv: list[str]) -> None:
    """`python -m proxy.providers SOCKET LIMITS`, as a worker starts it."""
    # Its worker drains first, and says when to end by ending the socket.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    own = socket.socket(fileno=int(argv[0]))
    own.setblocking(False)
    _litellm()
    _what_comes_later()
    gc.collect()
    gc.freeze()  # modules stay: collections look at requests only
    uvloop.run(_serve(own, Limits(**orjson.loads(argv[1]))))


if __name__ == "__main__":
    main(sys.argv[1:])
