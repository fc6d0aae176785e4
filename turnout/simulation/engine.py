"""Which request gets which answer, when? The simulated engine: routes, generation, counters, lifecycle."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import orjson

from .answers import AnswerKey, tokens
from .asks import EngineError
from .connection import Connection, Request, Response, Severed
from .counters import Counters
from .documents import CHAT, COMPLETIONS, EMBEDDINGS, error, models
from .faults import Faults
from .further import MESSAGES, RERANK, RESPONSES, SCORE
from .generation import Generation
from .profile import Profile

log = logging.getLogger(__name__)

VERSION: Final = "0.0.0+simulated"
_GENERATING: Final = (CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, RERANK, SCORE)
_EARLY: Final = b"early-response"
_ANNOUNCED: Final = 3  # turns of asyncio's loop until a connection that was accepted has told its protocol


class SimulatedEngine:
    """Speaks vLLM's OpenAI wire on a port of its own; an asynchronous context manager.

    `faults` are committed on every exchange, beside those that a request asks for itself. With
    `keep_answers` the counters hold each answer's body as it was written. Port 0 takes a free one. The
    counters are plain attributes: another thread may read them at any time.
    """

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        key: AnswerKey | None = None,
        faults: str = "",
        keep_answers: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.profile = profile or Profile()
        self.key = key or AnswerKey()
        self.counters = Counters()
        self._default = Faults.parse(faults)
        self._keep_answers = keep_answers
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._deserted = asyncio.Event()
        self._deserted.set()
        self._slots = asyncio.Semaphore(self.profile.slots)
        self._asked: Counter[str] = Counter()
        self._started = time.time_ns() // 10**9
        self._closing = False

    @property
    def url(self) -> str:
        """The base URL: what a replica's entry in the registry says."""
        return f"http://{self._host}:{self._port}"

    @property
    def faults(self) -> Faults:
        """The faults of every exchange."""
        return self._default

    def misbehave(self, names: str) -> None:
        """From the next request on, commit these faults on every exchange; "" ends it."""
        self._default = Faults.parse(names)

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._closing = False
        self._server = await loop.create_server(
            lambda: Connection(self, loop), self._host, self._port, backlog=2048
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, cut every connection, and wait until nothing of it is left. Safe to repeat."""
        self._closing = True
        if self._server is not None:
            loop = asyncio.get_running_loop()
            for listening in self._server.sockets:
                loop.remove_reader(listening.fileno())
            for _ in range(_ANNOUNCED):  # a server that is closed earlier loses what it has just accepted
                await asyncio.sleep(0)
            self._server.close()
        tasks = [connection.task for connection in self._connections if connection.task]
        for connection in tuple(self._connections):
            connection.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._deserted.wait()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def until(self, holds: Callable[[Counters], bool], within: float = 2.0) -> None:
        """Wait until the counters satisfy `holds`. Raises TimeoutError after `within` seconds."""
        deadline = time.monotonic() + within
        while not holds(self.counters):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {within} s: {self.counters.to_document()}")
            await asyncio.sleep(0.002)

    # -- what a connection asks of the engine

    def opened(self, connection: Connection) -> None:
        """A client has connected."""
        self._connections.add(connection)
        self._deserted.clear()
        self.counters.connections += 1
        self.counters.open_sockets += 1

    def closed(self, connection: Connection) -> None:
        """A connection has ended, by whomever."""
        self._connections.discard(connection)
        self.counters.open_sockets -= 1
        if not self._connections:
            self._deserted.set()

    def peek(self, head: Request) -> bool:
        """Whether an incomplete request is to be answered already."""
        named = _EARLY in head.headers.get(b"x-simulated-fault", b"") or _EARLY in head.body
        return self._default.early_response or named

    async def respond(self, request: Request, response: Response) -> None:
        """Answer one request."""
        path = request.path.partition("?")[0]
        try:
            if request.method == "POST" and path in _GENERATING:
                await self._generate(path, request, response)
            else:
                await self._plain(path, request, response)
        except Severed:
            raise
        except EngineError as problem:
            await response.whole(problem.status, problem.body, headers=problem.headers)
        except Exception:
            log.exception("the simulated engine failed on %s", path)
            if response.status == 0:
                body = error(500, "InternalServerError", "the simulation has a defect: see its log")
                await response.whole(500, body)
        finally:
            self.counters.statuses[response.status] += 1

    async def _generate(self, path: str, request: Request, response: Response) -> None:
        counters = self.counters
        counters.requests += 1
        counters.paths[path] += 1
        counters.last_request, counters.last_body = request.raw, request.body
        generation = Generation(
            path=path,
            profile=self.profile,
            key=self.key,
            counters=counters,
            slots=self._slots,
            asked=self._asked,
            arrival=counters.requests,
            response=response,
        )
        if self._keep_answers:
            response.kept = bytearray()
            counters.answers.append(response.kept)
        try:
            await generation.run(request, self._default)
            counters.answered += 1
        except EngineError:
            counters.answered += 1
            raise
        except asyncio.CancelledError:
            if not self._closing:
                counters.aborts.append(generation.abort())
            raise

    async def _plain(self, path: str, request: Request, response: Response) -> None:
        if path == "/tokenize" and request.method == "POST":
            await response.whole(200, _tokenized(request.body, self.profile))
            return
        if path == "/detokenize" and request.method == "POST":
            await response.whole(200, _detokenized(request.body))
            return
        texts = {"/health": (b"", "text/plain"), "/metrics": (self._metrics(), "text/plain; version=0.0.4")}
        documents: dict[str, Callable[[], bytes]] = {
            "/v1/models": lambda: models(self.profile.name, self._started, self.profile.max_model_len),
            "/version": lambda: orjson.dumps({"version": VERSION, "simulated": True}),
            "/simulation/counters": lambda: orjson.dumps(self.counters.to_document()),
        }
        if request.method == "GET" and path in texts:
            body, content_type = texts[path]
            await response.whole(200, body, content_type)
        elif request.method == "GET" and path in documents:
            await response.whole(200, documents[path]())
        else:
            status = 405 if path in (*texts, *documents, *_GENERATING) else 404
            kind = "Method Not Allowed" if status == 405 else "NotFoundError"
            await response.whole(status, error(status, kind, kind))

    def _metrics(self) -> bytes:
        counters, label = self.counters, f'{{engine="0",model_name="{self.profile.name}"}}'
        values = (
            ("num_requests_running", "gauge", counters.running),
            ("num_requests_waiting", "gauge", counters.waiting),
            ("kv_cache_usage_perc", "gauge", min(1.0, counters.running / self.profile.slots)),
            ("prompt_tokens_total", "counter", counters.prompt_tokens),
            ("generation_tokens_total", "counter", counters.completion_tokens),
        )
        lines = [
            f"# HELP vllm:{name} Simulated.\n# TYPE vllm:{name} {kind}\nvllm:{name}{label} {float(value)}"
            for name, kind, value in values
        ]
        return ("\n".join(lines) + "\n").encode()


@contextmanager
def running_engine(
    profile: Profile | None = None,
    *,
    key: AnswerKey | None = None,
    faults: str = "",
    port: int = 0,
) -> Iterator[SimulatedEngine]:
    """An engine in a thread with a loop of its own, for synchronous code."""
    engine = SimulatedEngine(profile, key=key, faults=faults, port=port)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulated-engine", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(engine.start(), loop).result(10)
        yield engine
    finally:
        asyncio.run_coroutine_threadsafe(engine.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _tokenized(body: bytes, profile: Profile) -> bytes:
    try:
        document = orjson.loads(body)
        texts = [document["prompt"]] if "prompt" in document else [m["content"] for m in document["messages"]]
        pieces = [piece for text in texts for piece in tokens(str(text))]
    except (ValueError, KeyError, TypeError):
        raise EngineError(400, "Bad Request", "expected 'prompt' or 'messages'") from None
    idents = [zlib.crc32(piece.encode("utf-8", "surrogatepass")) % 32_000 for piece in pieces]
    found = {"count": len(pieces), "max_model_len": profile.max_model_len, "tokens": idents}
    return orjson.dumps(found | {"token_strs": pieces if document.get("return_token_strs") else None})


def _detokenized(body: bytes) -> bytes:
    """A text for token ids. The simulation's ids are hashes, so it is not the text they came from."""
    try:
        idents = [int(token) for token in orjson.loads(body)["tokens"]]
    except (ValueError, KeyError, TypeError):
        raise EngineError(400, "Bad Request", "expected 'tokens'") from None
    return orjson.dumps({"prompt": "".join(f"<{ident}>" for ident in idents)})
