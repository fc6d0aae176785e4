"""How does one request become one answer on the wire? Draws, waits, writes, and misbehaves as asked."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from random import Random
from typing import Final
from uuid import uuid4

import orjson

from .answers import Answer, AnswerKey, Question, ToolCall, instance, respond, tokens
from .asks import Ask, EngineError, acts, functions_of, parse, sides
from .connection import Request, Response
from .counters import Abort, Counters
from .documents import CHAT, EMBEDDINGS, Choice, Frame, Stream, choice, embeddings, error, whole
from .faults import FaultError, Faults, named_by
from .further import (
    MESSAGES,
    RERANK,
    RESPONSES,
    SCORE,
    NamedEvent,
    message,
    message_events,
    reranked,
    response,
    response_events,
    scored,
)
from .profile import Profile

_KINDS: Final = {
    400: "BadRequestError",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFoundError",
    413: "Request Entity Too Large",
    422: "UnprocessableEntityError",
    429: "Too Many Requests",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
#: one event of the fault `big` carries this much text
_BLOCK: Final = 16 << 10


@dataclass(slots=True, kw_only=True)
class Generation:
    """One request to a generating endpoint. `arrival` numbers the engine's requests from 1."""

    path: str
    profile: Profile
    key: AnswerKey
    counters: Counters
    slots: asyncio.Semaphore
    asked: Counter[str]
    arrival: int
    response: Response
    model: str = ""
    stream: bool = False
    #: tokens written so far
    token: int = 0

    def abort(self) -> Abort:
        """How far it had come when its client left."""
        return Abort(
            path=self.path, model=self.model, stream=self.stream, token=self.token, at=time.monotonic()
        )

    async def run(self, request: Request, standing: Faults) -> None:
        """Answer. Raises EngineError for what is answered with an error, Severed for what is not."""
        faults = self.response.faults = standing.and_also(_asked_by_header(request))
        if not request.complete:
            raise _failure(faults.status or 413)
        ask = parse(self.path, request.body, self.profile)
        self.model, self.stream = ask.model, ask.stream
        faults = self.response.faults = faults.and_also(self._asked_by_body(ask))
        self._count(ask)
        await self._fail(ask, request, faults)
        self.counters.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.counters.waiting -= 1
        self.counters.running += 1
        try:
            await self._answer(ask, faults)
        finally:
            self.counters.running -= 1
            self.slots.release()

    def _asked_by_body(self, ask: Ask) -> Faults:
        field = ask.document.get("simulated_fault")
        try:
            faults = Faults.parse(field) if isinstance(field, str) else Faults()
        except FaultError as problem:
            raise EngineError(400, "BadRequestError", str(problem), "simulated_fault") from None
        if ask.model == self.profile.name:
            return faults
        named = named_by(ask.model)
        if named is None:
            raise EngineError(404, "NotFoundError", f"The model `{ask.model}` does not exist.", "model")
        return named.and_also(faults)

    def _count(self, ask: Ask) -> None:
        self.counters.models[ask.model] += 1
        self.counters.with_tools += bool(ask.document.get("tools"))
        self.counters.side_effects += acts(ask.document)

    async def _fail(self, ask: Ask, request: Request, faults: Faults) -> None:
        """The faults that come in place of an answer."""
        if faults.head_delay:
            await asyncio.sleep(faults.head_delay)
        if faults.hang:
            await asyncio.Event().wait()
        if faults.rst:
            await self.response.severed(reset=True)
        if faults.garbage:
            await self.response.severed(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        if faults.echo_auth:
            given = request.headers.get(b"authorization", b"").decode("latin-1")
            raise EngineError(401, "Unauthorized", f"Invalid Authorization: {given}")
        if faults.early_response or faults.status:
            raise _failure(faults.status or 413)
        if (faults.error_event and not ask.stream) or self.profile.fails(self.arrival):
            raise _failure(500)

    # -- what is said

    def _choices(self, ask: Ask, faults: Faults) -> list[Choice]:
        prompts = (ask.question.prompt,) if self.path in _TALKS else ask.prompts
        asks = [(prompt, repeat) for prompt in prompts for repeat in range(ask.n)]
        choices = []
        for index, (prompt, repeat) in enumerate(asks):
            if faults.big:
                choices.append(_big(index, faults.big))
                continue
            question = replace(ask.question, prompt=prompt)
            said = self._said(ask, question, faults, self._nonce(ask, prompt) + repeat * 1_000_003)
            choices.append(choice(index, said, ask.limit, ask.stops))
        return choices

    def _nonce(self, ask: Ask, prompt: str) -> int:
        """Repetitions of a prompt of the answer key differ, but at temperature 0 and for the same seed."""
        seed = ask.document.get("seed")
        if isinstance(seed, int):
            return seed
        known = prompt.strip()
        if ask.document.get("temperature") == 0 or known not in self.key.entries:
            return 0
        self.asked[known] += 1
        return self.asked[known]

    def _said(self, ask: Ask, question: Question, faults: Faults, nonce: int) -> Answer:
        if faults.empty:
            return Answer()
        if faults.tool_call and self.path in _TALKS:
            offered = functions_of(ask.document) or [("get_order", _ORDER)]
            name, schema = offered[0]
            arguments = orjson.dumps(instance(schema, Random(question.prompt))).decode()
            return Answer(tool_calls=(ToolCall(name=name, arguments=arguments),))
        answer = respond(question, self.profile, self.key, nonce)
        text = answer.text
        if ask.document.get("echo") is True:
            text = question.prompt + text
        if ask.document.get("ignore_eos") is True and text:
            # Load generators ask for answers of an exact length.
            text = " ".join([text] * (ask.limit // len(tokens(text)) + 1))
        return answer if text == answer.text else Answer(text=text)

    # -- how it is written

    async def _answer(self, ask: Ask, faults: Faults) -> None:
        frame = Frame(
            path=self.path,
            model=ask.model,
            ident=f"{_IDENTS.get(self.path, 'cmpl')}-simulated-{uuid4().hex}",
            created=time.time_ns() // 10**9,
            logprobs=ask.logprobs,
            include_usage=ask.option("include_usage"),
            continuous_usage=ask.option("continuous_usage_stats"),
            prompt_tokens=ask.prompt_tokens,
        )
        first, gap = self.profile.pace(self.arrival)
        self.counters.prompt_tokens += ask.prompt_tokens
        if self.path in _POOLED:
            await self._wait(first + faults.token_delay)
            await self._write_json(_POOLED[self.path](ask, frame, self.profile))
            return
        choices = self._choices(ask, faults)
        if ask.stream and self.path in _NAMED:
            await self._write_named(frame, choices[0], faults, first, gap)
        elif ask.stream:
            await self._write_stream(frame, choices, faults, first, gap)
        else:
            longest = max((len(each.pieces) for each in choices), default=0)
            await self._wait(first + faults.token_delay + gap * longest)
            await self._write_whole(frame, choices)

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _write_whole(self, frame: Frame, choices: Sequence[Choice]) -> None:
        generated = sum(len(each.pieces) for each in choices)
        self.token = generated
        self.counters.completion_tokens += generated
        written = {MESSAGES: message, RESPONSES: response}.get(self.path)
        await self._write_json(written(frame, choices[0]) if written else whole(frame, choices))

    async def _write_json(self, body: bytes) -> None:
        faults = self.response.faults
        if faults.eof_clean:
            self.response.begin("application/json")
            await self.response.write(body[: len(body) // 2])
            await self.response.end()
            return
        if self.profile.breaks_off(self.arrival):
            self.response.faults = faults.and_also(Faults(cut_at=len(body) // 2))
        await self.response.whole(200, body)

    async def _write_stream(
        self, frame: Frame, choices: Sequence[Choice], faults: Faults, first: float, gap: float
    ) -> None:
        response, stream = self.response, Stream(frame)
        events = ((_spelt(event, faults), is_token) for event, is_token in _script(stream, choices, faults))
        planned = sum(len(each.pieces) for each in choices)
        if await self._write_paced(events, planned, faults, first, gap):
            if frame.include_usage:
                await response.write(_spelt(stream.usage(choices), faults))
            if not faults.no_done:
                await response.write(_spelt(b"[DONE]", faults))
        elif faults.error_event:
            await response.write(_spelt(error(500, "InternalServerError", "the engine died"), faults))
            await response.write(_spelt(b"[DONE]", faults))
        await response.end()

    async def _write_named(
        self, frame: Frame, said: Choice, faults: Faults, first: float, gap: float
    ) -> None:
        """A stream whose events bear names, and which ends with one of them."""
        missing = {last for last, gone in (("end", faults.no_done), ("reason", faults.no_finish)) if gone}
        missing |= {"both"} if missing else set()
        events = (
            (_spelt(event.data, faults, event.name), event.is_token)
            for event in _NAMED[self.path](frame, said)
            if event.last not in missing
        )
        await self._write_paced(events, len(said.pieces), faults, first, gap)
        if faults.error_event:
            died = {"type": "error", "error": {"type": "internal_error", "message": "the engine died"}}
            await self.response.write(_spelt(orjson.dumps(died), faults, "error"))
        await self.response.end()

    async def _write_paced(
        self, events: Iterable[tuple[bytes, bool]], planned: int, faults: Faults, first: float, gap: float
    ) -> bool:
        """Head and events, each with whether it is a token; False: it broke off after half of the planned.

        vLLM sends the head when it admits the request, and the first token when there is one.
        """
        response = self.response
        response.begin("text/event-stream; charset=utf-8")
        due = time.monotonic() + first + faults.token_delay
        await self._wait(first + faults.token_delay)
        if faults.bom:
            await response.write(b"\xef\xbb\xbf")
        breaking = faults.eof_clean or faults.error_event or self.profile.breaks_off(self.arrival)
        stop_after = max(1, planned // 2) if breaking else None
        for event, is_token in events:
            await response.write(event)
            if not is_token:
                continue
            self.token += 1
            self.counters.completion_tokens += 1
            if self.token == stop_after:
                break
            due += gap
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return not breaking


_NAMED: Final[dict[str, Callable[[Frame, Choice], Iterator[NamedEvent]]]] = {
    MESSAGES: message_events,
    RESPONSES: response_events,
}
_TALKS: Final = (CHAT, MESSAGES, RESPONSES)
_IDENTS: Final = {
    CHAT: "chatcmpl", MESSAGES: "chatcmpl", RESPONSES: "resp", RERANK: "rerank", SCORE: "embd",
}  # fmt: skip


def _embedded(ask: Ask, frame: Frame, profile: Profile) -> bytes:
    dimensions = ask.document.get("dimensions")
    size = dimensions if isinstance(dimensions, int) and 0 < dimensions <= 4096 else None
    encoding = str(ask.document.get("encoding_format") or "float")
    return embeddings(frame, ask.prompts, size or profile.dimensions, encoding)


def _reranked(ask: Ask, frame: Frame, profile: Profile) -> bytes:
    [query], documents = sides(RERANK, ask.document)
    top = ask.document.get("top_n")
    return reranked(frame, query, documents, top if isinstance(top, int) else None)


def _scored(ask: Ask, frame: Frame, profile: Profile) -> bytes:
    return scored(frame, *sides(SCORE, ask.document))


#: What is computed and not generated.
_POOLED: Final[dict[str, Callable[[Ask, Frame, Profile], bytes]]] = {
    EMBEDDINGS: _embedded,
    RERANK: _reranked,
    SCORE: _scored,
}
_ORDER: Final = {"type": "object", "properties": {"order_id": {"type": "integer"}}}


def _script(stream: Stream, choices: Sequence[Choice], faults: Faults) -> Iterator[tuple[bytes, bool]]:
    """All events up to the last finish reason, and whether each is a token; choices take turns."""
    for each in choices:
        opening = stream.opening(each)
        if opening is not None:
            yield opening, False
    for turn in zip_longest(*(_one(stream, each, faults) for each in choices)):
        yield from (step for step in turn if step is not None)


def _one(stream: Stream, each: Choice, faults: Faults) -> Iterator[tuple[bytes, bool]]:
    if each.answer.tool_calls:
        for event in stream.calls(each):
            yield event, True
    else:
        for piece in each.pieces:
            yield stream.token(each, piece), True
    if not faults.no_finish:
        yield stream.closing(each), False


def _spelt(event: bytes, faults: Faults, name: str = "") -> bytes:
    """A server-sent event in one of the spellings that the standard allows."""
    end = b"\r\n" if faults.crlf else b"\n"
    spelt = (b"data:" if faults.no_space else b"data: ") + event + end + end
    if name:
        spelt = (b"event:" if faults.no_space else b"event: ") + name.encode() + end + spelt
    return b": keep-alive" + end + end + spelt if faults.comments else spelt


def _big(index: int, size: int) -> Choice:
    block = ("all work and no play " * (_BLOCK // 21 + 1))[:_BLOCK]
    pieces = (block,) * (size // _BLOCK) + ((block[: size % _BLOCK],) if size % _BLOCK else ())
    return Choice(index=index, answer=Answer(text="big"), pieces=pieces, finish_reason="stop")


def _failure(status: int) -> EngineError:
    headers = (b"retry-after: 1",) if status in (429, 503) else ()
    return EngineError(status, _KINDS.get(status, "Error"), f"simulated {status}", headers=headers)


def _asked_by_header(request: Request) -> Faults:
    try:
        return Faults.parse(request.headers.get(b"x-simulated-fault", b"").decode("latin-1"))
    except FaultError as problem:
        raise EngineError(400, "BadRequestError", str(problem), "x-simulated-fault") from None
