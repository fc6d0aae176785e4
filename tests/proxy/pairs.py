"""Random exchanges of every endpoint, spelt and cut in every way, and what a client must get of each.

The documented differences are made here by hand and not by the proxy's own code: `model` gets the served
name, streams of chat and completions are asked for token counts, and the event with them is taken out again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson

from proxy.wire import APIS
from tests.experiments.ledger import wires
from tests.experiments.ledger.samples import chat_answer, chat_stream

from .harness import Engine, Proxy, chunk, post, running_proxy, snapshot

SERVED: Final = "org/served-name"
#: What the proxy puts into a body that streams and does not ask for token counts.
INSERTED: Final = b'"stream_options":{"include_usage":true},'
COUNTED: Final = ("/v1/chat/completions", "/v1/completions")
STREAMING: Final = (*COUNTED, "/v1/messages", "/v1/responses")
LARGE: Final = 8_000_000
_WORDS: Final = (
    "Zug ",
    "fährt 🚂",
    "漢字",
    "👨\u200d👩\u200d👧",
    "\\n\\n",
    "é́",
    "\x00\x1f",
    "data: [DONE]",
    '"usage": {',
    "\u2028",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One exchange. `pieces` are the engine's writes; `cut`: then the connection breaks off.

    `expected` is the body that the client must get, a prefix of it where the answer was cut.
    """

    path: str
    request: bytes
    asks_usage: bool
    stream: bool
    status: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    framing: str
    pieces: tuple[bytes, ...]
    expected: bytes
    cut: bool

    @property
    def body(self) -> bytes:
        """What the engine writes."""
        return b"".join(self.pieces)


def pair(random: Random, *, large: bool = False) -> Pair:
    """One exchange at random."""
    path = random.choice(tuple(APIS))
    stream = path in STREAMING and random.random() < 0.7
    asks_usage = stream and random.random() < 0.4
    failed = random.random() < 0.08
    if failed:
        body = _failure(random)
        status, kind = random.choice((b"400 Bad Request", b"404 Not Found", b"418 Teapot")), b"text/html"
        expected = body
    elif stream:
        body, expected = _events(random, path, large=large, keep_usage=asks_usage or path not in COUNTED)
        status, kind = b"200 OK", b"text/event-stream; charset=utf-8"
    else:
        body = expected = _document(random, path, large=large)
        status, kind = b"200 OK", b"application/json"
    cut = not failed and random.random() < 0.15
    if cut:
        body = body[: random.randint(1, max(1, len(body) - 1))]
    headers = [
        (b"content-type", kind),
        (b"x-engine", b"vllm 1"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    random.shuffle(headers)
    return Pair(
        path=path,
        request=_request(random, path, stream, asks_usage, large=large and not stream),
        asks_usage=asks_usage,
        stream=stream,
        status=status,
        headers=tuple(headers),
        framing=random.choice(("length", "chunked", "close") if not cut else ("length", "chunked")),
        pieces=tuple(_pieces(random, body)),
        expected=expected,
        cut=cut,
    )


def _text(random: Random, size: int = 0) -> str:
    text = "".join(random.choices(_WORDS, k=random.randint(1, 30)))
    if not size:
        return text
    # As JSON, so that escapes do not make 8 MB more than a body may have.
    return text * (size // len(json.dumps(text, ensure_ascii=False).encode()) + 1)


def _failure(random: Random) -> bytes:
    return random.choice(
        (b"<html>no</html>", b"", b"\xff\xfe\x00garbage", orjson.dumps({"error": {"message": "no"}}))
    )


def _spelt(random: Random, document: Any, *, large: bool = False) -> bytes:
    """JSON with or without spaces, line breaks and (where that does not blow it up) escapes."""
    style: dict[str, Any] = random.choice(
        ({}, {"indent": 2}, {"separators": (",", ":")}, {"separators": (" ,\t", " : ")})
    )
    return json.dumps(document, ensure_ascii=not large and random.random() < 0.5, **style).encode()


def _request(random: Random, path: str, stream: bool, asks_usage: bool, *, large: bool) -> bytes:
    text = _text(random, LARGE if large else 0)
    content: dict[str, Any] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": text}]},
        "/v1/messages": {"messages": [{"role": "user", "content": text}], "max_tokens": 5},
        "/v1/completions": {"prompt": [text, "b"]},
        "/v1/embeddings": {"input": text},
        "/v1/responses": {"input": text},
        "/v1/rerank": {"query": "which?", "documents": ["a", text]},
        "/v1/score": {"text_1": text, "text_2": ["b"]},
        "/tokenize": {"prompt": text},
        "/detokenize": {"tokens": [1, 2, 3]},
    }[path]
    fields = [
        *content.items(),
        ("model", "chat"),
        ("top_k", 5),
        ("unknown", {"model": "x", "a": [1.50, None]}),
    ]
    if stream:
        fields.append(("stream", True))
    if asks_usage and path in COUNTED:
        fields.append(("stream_options", {"include_usage": True}))
    random.shuffle(fields)
    return _spelt(random, dict(fields), large=large)


def _document(random: Random, path: str, *, large: bool) -> bytes:
    text = _text(random, LARGE if large else 0)
    if path == "/v1/chat/completions":
        return chat_answer(text)
    if path == "/v1/responses":
        return _spelt(random, wires.response("completed", [wires.message_item(text)]), large=large)
    answers: dict[str, Any] = {
        "/v1/completions": {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]},
        "/v1/embeddings": {"data": [{"embedding": [random.random() for _ in range(300)]}]},
        "/v1/messages": {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"},
        "/v1/rerank": {"results": [{"index": 0, "document": {"text": text}, "relevance_score": 0.5}]},
        "/v1/score": {"data": [{"index": 0, "score": 0.25}]},
        "/tokenize": {"count": 2, "tokens": [1, 2], "token_strs": [text]},
        "/detokenize": {"prompt": text},
    }
    return _spelt(random, answers[path], large=large)


def _events(random: Random, path: str, *, large: bool, keep_usage: bool) -> tuple[bytes, bytes]:
    """A stream, and what a client gets of it."""
    words = (
        [_text(random, LARGE // 40) for _ in range(40)]
        if large
        else random.choices(_WORDS, k=random.randint(1, 25))
    )
    if path == "/v1/messages":
        plain = random.choice((wires.messages_stream(*words), wires.messages_tool_stream()))
    elif path == "/v1/responses":
        plain = random.choice((wires.responses_stream(*words), wires.responses_tool_stream()))
    elif path == "/v1/completions":
        usage = {
            "object": "text_completion",
            "choices": [],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
        done = b"data: [DONE]\n\n"
        plain = wires.completions_stream().removesuffix(done) + wires.bare(usage) + done
    else:
        plain = chat_stream(words)
    newline = random.choice((b"\n", b"\n", b"\r\n"))
    sent, kept = [], []
    for block in plain.removesuffix(b"\n\n").split(b"\n\n"):
        comment = random.random() < 0.15
        spelt = (
            (b": keep-alive" + newline * 2 if comment else b"") + block.replace(b"\n", newline) + newline * 2
        )
        if random.random() < 0.3:
            spelt = spelt.replace(b"data: ", b"data:", 1)
        sent.append(spelt)
        counts = b'"choices": []' in block and b'"usage": {' in block and path in COUNTED
        if keep_usage or not counts:
            kept.append(spelt)
        elif comment:
            kept.append(b": keep-alive" + newline * 2)
    return b"".join(sent), b"".join(kept)


def _pieces(random: Random, body: bytes) -> list[bytes]:
    if len(body) < 3000 and random.random() < 0.1:
        return [bytes((byte,)) for byte in body]
    cuts = sorted(random.randint(0, len(body)) for _ in range(random.choice((0, 1, 5, 40))))
    return [body[low:high] for low, high in pairwise([0, *cuts, len(body)]) if high > low]


class Bench:
    """A proxy in front of an engine that answers what it is told to."""

    def __init__(self, proxy: Proxy, engine: Engine, next_answer: list[Pair]) -> None:
        self._proxy = proxy
        self._engine = engine
        self._next = next_answer

    async def check(self, one: Pair) -> None:
        """One exchange, compared on all sides. Raises AssertionError."""
        self._next[:] = [one]
        self._engine.requests.clear()
        raw = await self._proxy.send(post(one.request, one.path))
        head, _, rest = raw.partition(b"\r\n\r\n")
        got, whole = _unframed(head, rest)
        assert head.split(b" ", 1)[1].startswith(one.status[:3]), (head, one.status)
        lines = head.split(b"\r\n")[1:]
        ours = [b"%b: %b" % header for header in one.headers]
        assert [line for line in lines if line in ours] == ours, (lines, ours)
        if one.cut:
            assert one.expected.startswith(got), "other bytes than the engine's"
            assert not whole, "a cut answer that looks whole"
        else:
            assert got == one.expected, _difference(got, one.expected)
            assert whole
        self._check_request(one)
        record = self._proxy.exchanges()[-1]
        assert record.request == one.request
        # The record is written when the last event has come: the blank line after it may come later.
        rest = one.body.removeprefix(record.response) if one.body.startswith(record.response) else b"?"
        assert record.clipped or not rest.strip(), _difference(record.response, one.body)

    def _check_request(self, one: Pair) -> None:
        [request] = self._engine.requests
        given = request.partition(b"\r\n\r\n")[2]
        if one.stream and one.path in COUNTED and not one.asks_usage:
            assert given.count(INSERTED) == 1
            given = given.replace(INSERTED, b"", 1)
        model = orjson.loads(given)["model"]
        assert model == SERVED
        quoted = b'"%b"' % SERVED.encode()
        assert given.count(quoted) == 1
        assert given.replace(quoted, b'"chat"') == one.request, _difference(given, one.request)


def _difference(got: bytes, expected: bytes) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b),
        min(len(got), len(expected)),
    )
    low = max(0, at - 60)
    found, wanted = got[low : at + 60], expected[low : at + 60]
    return f"{len(got)} bytes, expected {len(expected)}; at {at}: {found!r} is not {wanted!r}"


def _unframed(head: bytes, rest: bytes) -> tuple[bytes, bool]:
    """The body without its transfer framing, and whether it came to its end."""
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        out = []
        while True:
            size, line_end, after = rest.partition(b"\r\n")
            if not line_end:
                return b"".join(out), False
            length = int(size, 16)
            if not length:
                return b"".join(out), after == b"\r\n"
            out.append(after[:length])
            if len(after) < length + 2:
                return b"".join(out), False
            rest = after[length + 2 :]
    for line in lower.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
            return rest, len(rest) == length
    return rest, True


@asynccontextmanager
async def bench(data: Path) -> AsyncIterator[Bench]:
    """A proxy and its engine."""
    told: list[Pair] = []

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        [one] = told
        head = b"HTTP/1.1 %b\r\n" % one.status + b"".join(b"%b: %b\r\n" % header for header in one.headers)
        if one.framing == "length":
            head += b"content-length: %d\r\n" % (len(one.body) + 5 * one.cut)
        elif one.framing == "chunked":
            head += b"transfer-encoding: chunked\r\n"
        writer.write(head + b"\r\n")
        for piece in one.pieces:
            writer.write(chunk(piece) if one.framing == "chunked" else piece)
            await writer.drain()
            await asyncio.sleep(0)
        if one.framing == "chunked" and not one.cut:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        if one.cut or one.framing == "close":
            writer.close()

    engine = Engine(answer)
    async with engine.running(), running_proxy(data, snapshot({1: engine.url}, served_name=SERVED)) as proxy:
        yield Bench(proxy, engine, told)
