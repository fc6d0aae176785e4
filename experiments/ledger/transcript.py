"""What did the model say, how did it end, and when did each part of it come?

Turns the raw bytes of one exchange into a Transcript: text, reasoning, tool calls, finish reason, usage,
time to first token, gaps between tokens, and the outcome that only the content can tell (a stream that
was cut looks whole on the wire). Pure: no I/O, no clock. Nothing that an engine sends makes it raise:
what cannot be understood is an outcome with a code.

A further API is one more `Dialect` in `DIALECTS`: how its stream ends and how its pieces are read.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import orjson

from .exchange import Outcome
from .sse import Event, events_in

#: A prompt is shown, not analysed: more than this of it is cut off.
PROMPT_CAP: Final = 4000
_GZIP: Final = b"\x1f\x8b"
_MISREAD: Final = (AttributeError, KeyError, TypeError, ValueError, IndexError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asked for; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What one exchange says. Times are microseconds since its start.

    `text`, `reasoning`, `tool_calls` and `finish_reason` are those of the first choice; `choices` is how
    many there are. `chunks` counts pieces of content in a stream (0 for a JSON answer). A gap is the time
    between two such pieces, 0 where they came together. `error_code` says why
    `outcome` differs from what the wire showed.
    """

    outcome: Outcome
    error_code: str | None = None
    prompt: str | None = None
    text: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    choices: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    chunks: int = 0
    ttft_us: int | None = None
    gap_mean_us: float | None = None
    gap_p99_us: float | None = None
    gap_max_us: float | None = None


@dataclass(slots=True, kw_only=True)
class _Choice:
    """One choice, while it is put together."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)  # index -> [id, name, arguments, ...]
    finish: str | None = None


@dataclass(slots=True, kw_only=True)
class _Answer:
    """An answer, while it is put together."""

    choices: dict[int, _Choice] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = None
    error: str | None = None  # the engine's own error, inside an answer with status 200
    problem: str | None = None  # why it cannot be understood
    ended: bool = False
    vectors: int = 0

    def choice(self, index: int) -> _Choice:
        found = self.choices.get(index)
        if found is None:
            found = self.choices[index] = _Choice()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one API speaks. The two readers raise any of `_MISREAD` on what they do not understand.

    `piece(answer, payload)` reads one event of a stream and says whether it brought content;
    `whole(answer, payload)` reads a JSON answer. `closing` is the data of the event that ends a stream
    (None if a payload says so: then `piece` sets `ended`). `asked(request)` is the prompt, for display.
    """

    piece: Callable[[_Answer, Mapping[str, Any]], bool]
    whole: Callable[[_Answer, Mapping[str, Any]], None]
    asked: Callable[[Mapping[str, Any]], str | None]
    closing: bytes | None = b"[DONE]"


def decode(
    path: str,
    content_type: str,
    status: int,
    response: bytes,
    chunk_us: Sequence[int],
    chunk_ends: Sequence[int],
    request: bytes,
    *,
    outcome: Outcome = "complete",
    clipped: bool = False,
) -> Transcript:
    """The transcript of one exchange.

    `chunk_us[i]` is when the i-th piece of the body came and `chunk_ends[i]` how long the body was after
    it. `outcome` is what the wire showed: only `complete` is refined, since any other already says how
    it ended. Of a `clipped` body the end is unknown, so nothing is concluded from what is not there.
    """
    dialect = DIALECTS.get(path.partition("?")[0])
    if dialect is None:
        return Transcript(outcome=outcome)
    prompt = _prompt(dialect, request)
    if not 200 <= status < 300 or response.startswith(_GZIP):
        return Transcript(outcome=outcome, prompt=prompt)
    answer = _Answer()
    streamed = _is_stream(content_type, response)
    times: list[int] = []
    if streamed:
        times = _read_stream(answer, dialect, response, chunk_us, chunk_ends)
    elif not clipped:
        _read_whole(answer, dialect, response)
    refined, code = outcome, None
    if outcome == "complete":
        refined, code = _judge(answer, streamed=streamed, clipped=clipped)
    return _transcript(answer, times, prompt, refined, code)


def _is_stream(content_type: str, response: bytes) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return True
    return kind in ("", "text/plain") and response.startswith((b"data:", b"event:", b": "))


def _read_stream(
    answer: _Answer, dialect: Dialect, body: bytes, chunk_us: Sequence[int], chunk_ends: Sequence[int]
) -> list[int]:
    """Read all events; the times at which content came."""
    events, tail, oversized = events_in(body)
    if oversized:
        answer.problem = "event_too_large"
    # Some engines leave out the blank line after the last event.
    answer.ended = dialect.closing is not None and tail.strip() == dialect.closing
    times: list[int] = []
    last = len(chunk_us) - 1
    spoken = [event for event in events if event.data]
    for event, payload in zip(spoken, _payloads(spoken, dialect.closing), strict=True):
        if payload is _CLOSING:
            answer.ended = True
            break  # what comes after the end is nobody's
        try:
            if payload.get("error") is not None or event.name == b"error":
                answer.error = "error_event"
            elif dialect.piece(answer, payload) and last >= 0:
                times.append(chunk_us[min(bisect_left(chunk_ends, event.end), last)])
        except _MISREAD:
            answer.problem = answer.problem or "malformed_stream"
    return times


_CLOSING: Final[object] = object()


def _payloads(events: list[Event], closing: bytes | None) -> list[Any]:
    """Each event's JSON; None where it is none, `_CLOSING` where the stream ends.

    One call for all of them costs half of one call for each.
    """
    end = next((i for i, event in enumerate(events) if event.data == closing), len(events))
    try:
        parsed = orjson.loads(b"[" + b",".join([event.data for event in events[:end]]) + b"]")
        if len(parsed) == end and all(type(payload) is dict for payload in parsed):
            return [*parsed, *([_CLOSING] * (len(events) - end))]
    except orjson.JSONDecodeError:
        pass
    return [_CLOSING if event.data == closing else _loads(event.data) for event in events]


def _loads(raw: bytes) -> Any:
    """JSON, or None. What Python's own parser lets pass (NaN, half a surrogate pair) passes too, mended."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:
        value = json.loads(raw, parse_constant=lambda _: None)
        return orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _read_whole(answer: _Answer, dialect: Dialect, body: bytes) -> None:
    if not body.strip():
        return
    payload = _loads(body)
    try:
        if payload.get("error") is not None:
            answer.error = "error_answer"
        else:
            dialect.whole(answer, payload)
    except _MISREAD:
        answer.problem = "malformed_answer"


def _judge(answer: _Answer, *, streamed: bool, clipped: bool) -> tuple[Outcome, str | None]:
    """The outcome of an exchange that looked complete on the wire, and a code where it was not."""
    finishes = [choice.finish for choice in answer.choices.values()]
    if answer.error or "error" in finishes:
        return "upstream_error", answer.error or "finish_error"
    if answer.problem:
        return "upstream_error", answer.problem
    if "abort" in finishes:
        return "truncated", "finish_abort"
    if streamed and not clipped and answer.choices and not (answer.ended and all(finishes)):
        return "truncated", "no_end" if all(finishes) else "no_finish_reason"
    if "length" in finishes:
        return "length", None
    spoke = answer.vectors or any("".join(choice.text) or choice.calls for choice in answer.choices.values())
    if not spoke and not clipped:
        return ("empty", None) if not streamed or answer.ended else ("truncated", "no_end")
    return "complete", None


def _transcript(
    answer: _Answer, times: list[int], prompt: str | None, outcome: Outcome, code: str | None
) -> Transcript:
    first = answer.choices[min(answer.choices)] if answer.choices else _Choice()
    prompt_tokens, completion_tokens, cached_tokens = _usage(answer.usage)
    gaps = sorted(after - before for before, after in pairwise(times))
    return Transcript(
        outcome=outcome,
        error_code=code,
        prompt=prompt,
        text="".join(first.text) if answer.choices else None,
        reasoning="".join(first.reasoning) or None,
        tool_calls=tuple(
            ToolCall(id=parts[0], name=parts[1], arguments="".join(parts[2:]))
            for _, parts in sorted(first.calls.items())
        ),
        finish_reason=first.finish,
        choices=len(answer.choices),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=cached_tokens,
        chunks=len(times),
        ttft_us=times[0] if times else None,
        gap_mean_us=(times[-1] - times[0]) / len(gaps) if gaps else None,
        gap_p99_us=float(gaps[max(0, -(-99 * len(gaps) // 100) - 1)]) if gaps else None,
        gap_max_us=float(gaps[-1]) if gaps else None,
    )


def _usage(usage: object) -> tuple[int | None, int | None, int | None]:
    """Prompt, completion and cached tokens. Whatever is no count is unknown."""
    if not isinstance(usage, dict):
        return None, None, None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), _count(cached)


def _count(value: object) -> int | None:
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return value if sound and isinstance(value, int) else None


def _index(value: object) -> int:
    """The number of a choice or call, 0 where it is left out. Raises TypeError."""
    if value is None:
        return 0
    if not isinstance(value, int):
        raise TypeError("a number expected")
    return value


def _text(value: object) -> str:
    """A string, or nothing for null. Raises TypeError on anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


# -- chat/completions ------------------------------------------------------------------------------


def _chat_piece(answer: _Answer, payload: Mapping[str, Any]) -> bool:
    usage = payload.get("usage")
    if usage:
        answer.usage = usage
    content = False
    for part in payload.get("choices") or ():
        choice = answer.choice(_index(part.get("index")))
        delta = part.get("delta") or {}
        text = delta.get("content")
        if len(delta) == 1 and type(text) is str and text:  # nearly every piece is just this
            choice.text.append(text)
            content = True
        else:
            content = _chat_message(choice, delta) or content
        finish = part.get("finish_reason")
        if finish:
            choice.finish = _text(finish)
    return content


def _chat_whole(answer: _Answer, payload: Mapping[str, Any]) -> None:
    answer.usage = payload.get("usage")
    for part in payload["choices"]:
        choice = answer.choice(_index(part.get("index")))
        _chat_message(choice, part["message"])
        choice.finish = _text(part.get("finish_reason")) or None


def _chat_message(choice: _Choice, message: Mapping[str, Any]) -> bool:
    """Add a message, or a piece of one, to a choice; whether it held any content."""
    text = message.get("content") or message.get("refusal")
    if text:
        choice.text.append(_text(text))
    # vLLM says `reasoning` since 0.12 and `reasoning_content` before, as DeepSeek and SGLang do.
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning:
        choice.reasoning.append(_text(reasoning))
    calls = message.get("tool_calls")
    if calls:
        for position, call in enumerate(calls):
            index = _index(call.get("index", position))
            _call(choice, index, call.get("id"), call.get("function") or {})
    elif message.get("function_call"):
        _call(choice, 0, None, message["function_call"])
        calls = True
    return bool(text or reasoning or calls)


def _call(choice: _Choice, index: int, id_: object, function: Mapping[str, Any]) -> None:
    """A tool call comes in pieces: id and name once, the arguments bit by bit."""
    parts = choice.calls.setdefault(index, ["", ""])
    parts[0] = parts[0] or _text(id_)
    parts[1] = parts[1] or _text(function.get("name"))
    parts.append(_text(function.get("arguments")))


def _chat_asked(request: Mapping[str, Any]) -> str | None:
    """The last message of the user; where there is none, the last message."""
    messages = request["messages"]
    users = [message for message in messages if message.get("role") == "user"]
    return _shown((users or messages)[-1].get("content"))


def _shown(content: object) -> str | None:
    """Content as text: parts that are no text are named by their type."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    return "\n".join(
        part if isinstance(part, str) else part.get("text") or f"[{part.get('type', 'part')}]"
        for part in content
    )


# -- completions and embeddings --------------------------------------------------------------------


def _completion_piece(answer: _Answer, payload: Mapping[str, Any]) -> bool:
    answer.usage = payload.get("usage") or answer.usage
    content = False
    for part in payload.get("choices") or ():
        choice = answer.choice(_index(part.get("index")))
        text = _text(part.get("text"))
        choice.text.append(text)
        content = content or bool(text)
        choice.finish = _text(part.get("finish_reason")) or choice.finish
    return content


def _completion_whole(answer: _Answer, payload: Mapping[str, Any]) -> None:
    answer.usage = payload.get("usage")
    for part in payload["choices"]:
        choice = answer.choice(_index(part.get("index")))
        choice.text.append(_text(part["text"]))
        choice.finish = _text(part.get("finish_reason")) or None


def _embedding_piece(answer: _Answer, payload: Mapping[str, Any]) -> bool:
    raise ValueError("embeddings are not streamed")


def _embedding_whole(answer: _Answer, payload: Mapping[str, Any]) -> None:
    answer.usage = payload.get("usage")
    answer.vectors = len(payload["data"])


def _input(name: str) -> Callable[[Mapping[str, Any]], str | None]:
    """What was asked is one field: a text, a list of texts, or lists of token ids."""

    def asked(request: Mapping[str, Any]) -> str | None:
        value = request[name]
        if isinstance(value, list) and not all(isinstance(part, str) for part in value):
            return f"[{len(value)} token ids or lists of them]"
        return _shown(value)

    return asked


DIALECTS: Final[Mapping[str, Dialect]] = {
    "/v1/chat/completions": Dialect(piece=_chat_piece, whole=_chat_whole, asked=_chat_asked),
    "/v1/completions": Dialect(piece=_completion_piece, whole=_completion_whole, asked=_input("prompt")),
    "/v1/embeddings": Dialect(piece=_embedding_piece, whole=_embedding_whole, asked=_input("input")),
}


def _prompt(dialect: Dialect, request: bytes) -> str | None:
    payload = _loads(request)
    try:
        prompt = dialect.asked(payload)
    except _MISREAD:
        return None
    if prompt is None or len(prompt) <= PROMPT_CAP:
        return prompt
    return prompt[:PROMPT_CAP] + "…"
