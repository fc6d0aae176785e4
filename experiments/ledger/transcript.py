"""What did the model say, how did it end, and when did each part of it come?

Turns the raw bytes of one exchange into a Transcript: text, reasoning, tool calls, finish reason, usage,
time to first token, gaps between tokens, and the outcome that only the content can tell (a stream that
was cut looks whole on the wire). Pure: no I/O, no clock. Nothing that an engine sends makes it raise:
what cannot be understood is an outcome with a code.

How each API says these things is in `dialects`.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import orjson

from .dialects import DIALECTS, MISREAD, Answer, Choice, Dialect, Usage
from .exchange import Outcome
from .sse import Event, events_in

Turn = Literal["first", "later"]
_GZIP: Final = b"\x1f\x8b"
#: Ends a stream of chat/completions, and is no payload anywhere.
_DONE: Final = b"[DONE]"
#: How the APIs say that an answer ran into the limit of its tokens.
_LENGTH: Final = frozenset(("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"))


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
    `outcome` differs from what the wire showed. `turn` is `later` where the model has answered before in the
    same conversation, None where that is not known or the API has no turns.
    """

    outcome: Outcome
    turn: Turn | None = None
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
    prompt, turn = _asked(dialect, request)
    if not 200 <= status < 300 or response.startswith(_GZIP):
        return Transcript(outcome=outcome, prompt=prompt, turn=turn)
    answer = Answer()
    streamed = _is_stream(content_type, response)
    times: list[int] = []
    if streamed:
        times = _read_stream(answer, dialect, response, chunk_us, chunk_ends)
    elif not clipped:
        _read_whole(answer, dialect, response)
    refined, code = outcome, None
    if outcome == "complete":
        refined, code = _judge(answer, streamed=streamed, clipped=clipped)
    return _transcript(answer, dialect.usage(answer.usage), times, (prompt, turn), refined, code)


def _is_stream(content_type: str, response: bytes) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return True
    return kind in ("", "text/plain") and response.startswith((b"data:", b"event:", b": "))


def _read_stream(
    answer: Answer, dialect: Dialect, body: bytes, chunk_us: Sequence[int], chunk_ends: Sequence[int]
) -> list[int]:
    """Read all events up to the one that ends the stream; the times at which content came."""
    events, tail, oversized = events_in(body)
    if oversized:
        answer.problem = "event_too_large"
    spoken = [event for event in events if event.data]
    # Some engines leave out the blank line after the last event; what was cut is no JSON.
    tail = tail.strip()
    if tail and (tail == _DONE or isinstance(_loads(tail), dict)):
        spoken.append(Event(tail, b"", len(body)))
    times: list[int] = []
    last = len(chunk_us) - 1
    for event, payload in zip(spoken, _payloads(spoken), strict=False):
        try:
            if payload.get("error") is not None or event.name == b"error":
                answer.error = "error_event"
            elif dialect.piece(answer, payload) and last >= 0:
                times.append(chunk_us[min(bisect_left(chunk_ends, event.end), last)])
        except MISREAD:
            answer.problem = answer.problem or "malformed_stream"
        if answer.ended:
            break  # what comes after the end is nobody's
    else:
        answer.ended = dialect.done and any(event.data == _DONE for event in spoken)
    return times


def _payloads(events: list[Event]) -> list[Any]:
    """The JSON of each event before `[DONE]`; None where it is none.

    One call for all of them costs half of one call for each.
    """
    before = [event.data for event in events]
    if _DONE in before:
        del before[before.index(_DONE) :]
    try:
        parsed = orjson.loads(b"[" + b",".join(before) + b"]")
        if len(parsed) == len(before) and all(type(payload) is dict for payload in parsed):
            return parsed  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        pass
    return [_loads(data) for data in before]


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


def _read_whole(answer: Answer, dialect: Dialect, body: bytes) -> None:
    if not body.strip():
        return
    payload = _loads(body)
    try:
        if payload.get("error") is not None:
            answer.error = "error_answer"
        else:
            dialect.whole(answer, payload)
    except MISREAD:
        answer.problem = "malformed_answer"


def _judge(answer: Answer, *, streamed: bool, clipped: bool) -> tuple[Outcome, str | None]:
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
    if not _LENGTH.isdisjoint(finishes):
        return "length", None
    spoken = answer.items or any(choice.spoken for choice in answer.choices.values())
    if not spoken and not clipped:
        return ("empty", None) if not streamed or answer.ended else ("truncated", "no_end")
    return "complete", None


def _transcript(
    answer: Answer,
    usage: Usage,
    times: list[int],
    asked: tuple[str | None, Turn | None],
    outcome: Outcome,
    code: str | None,
) -> Transcript:
    first = answer.choices[min(answer.choices)] if answer.choices else Choice()
    gaps = sorted(after - before for before, after in pairwise(times))
    return Transcript(
        outcome=outcome,
        error_code=code,
        prompt=asked[0],
        turn=asked[1],
        text="".join(first.text) if answer.choices else None,
        reasoning="".join(first.reasoning) or None,
        tool_calls=tuple(
            ToolCall(id=parts[0], name=parts[1], arguments="".join(parts[2:]))
            for _, parts in sorted(first.calls.items())
        ),
        finish_reason=first.finish,
        choices=len(answer.choices),
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        cached_tokens=usage.cached,
        chunks=len(times),
        ttft_us=times[0] if times else None,
        gap_mean_us=(times[-1] - times[0]) / len(gaps) if gaps else None,
        gap_p99_us=float(gaps[max(0, -(-99 * len(gaps) // 100) - 1)]) if gaps else None,
        gap_max_us=float(gaps[-1]) if gaps else None,
    )


def _asked(dialect: Dialect, request: bytes) -> tuple[str | None, Turn | None]:
    """The prompt, and which turn of its conversation the request is."""
    payload = _loads(request)
    prompt: str | None = None
    turn: Turn | None = None
    with suppress(*MISREAD):
        if dialect.later is not None:
            turn = "later" if dialect.later(payload) else "first"
    with suppress(*MISREAD):
        prompt = dialect.asked(payload)
    return prompt, turn
