"""A head that was seen before is recognised by its bytes, and nothing is that llhttp has not accepted."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from proxy.chunks import unchunked
from proxy.heads import AnswerHead, KnownHeads, RequestHead, answer_head, framed, path_of, seconds_asked
from proxy.limits import Limits
from proxy.provider_process import json_head
from proxy.replica import Connection, Replica

from .harness import Engine, Proxy, ask, json_answer, running_proxy, snapshot

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


async def plain(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(b'{"of":%d}' % len(request)))


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: bytes) -> bytes:
    writer.write(raw)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")
    )
    return head + await reader.readexactly(length)


def request(body: bytes, extra: bytes = b"") -> bytes:
    return HEAD + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


def known(proxy: Proxy) -> int:
    return len(proxy.worker.heads._known)


async def test_known_heads_carry_bodies_of_every_length(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        bodies = [orjson.dumps(ask(x="y" * size)) for size in (1, 10, 1, 5000, 100)]
        for body in bodies:
            assert b"200 OK" in await exchange(reader, writer, request(body))
        assert known(proxy) == 1
        assert [raw.partition(b"\r\n\r\n")[2] for raw in engine.requests] == bodies
        assert [row.request for row in proxy.exchanges()] == bodies
        writer.close()


async def test_a_known_head_that_comes_in_pieces_or_with_company_is_still_read_right(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        raw = request(orjson.dumps(ask()))
        for _ in range(2):
            await exchange(reader, writer, raw)
        for cut in (1, 40, len(raw) - 1):
            writer.write(raw[:cut])
            await asyncio.sleep(0.02)
            await exchange(reader, writer, raw[cut:])
        writer.write(raw + raw)
        for _ in range(2):
            await exchange(reader, writer, b"")
        assert len(engine.requests) == 7
        assert {row.outcome for row in proxy.exchanges()} == {"complete"}
        writer.close()


async def test_what_llhttp_refuses_is_never_known(tmp_path: Path) -> None:
    body = orjson.dumps(ask())
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        for extra in (
            b"content-length: %d\r\n" % len(body),
            b"transfer-encoding: chunked\r\n",
            b"x-a : b\r\n",
            b"x-a: b\x00c\r\n",
        ):
            for _ in range(2):
                assert b" 400 " in (await proxy.send(request(body, extra)))[:20]
        assert known(proxy) == 0
        assert not engine.requests


async def test_what_changes_the_connection_is_never_known(tmp_path: Path) -> None:
    body = orjson.dumps(ask())
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        for extra in (b"connection: close\r\n", b"connection: close\r\nexpect: 100-continue\r\n"):
            await proxy.send(request(body, extra))
        assert known(proxy) == 0


async def test_a_key_that_is_withdrawn_is_refused_on_a_known_head(tmp_path: Path) -> None:
    keys = {sha256(b"sk-acme").hexdigest(): "acme"}
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}, keys=keys)) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            raw = request(orjson.dumps(ask()), b"authorization: Bearer sk-acme\r\n")
            for _ in range(3):
                assert b"200 OK" in await exchange(reader, writer, raw)
            other = {sha256(b"sk-other").hexdigest(): "acme"}
            proxy.worker.adopt(snapshot({1: engine.url}, keys=other, version=2))
            assert b" 401 " in await exchange(reader, writer, raw)
            writer.close()


def test_the_memory_of_heads_is_bounded() -> None:
    heads: KnownHeads[RequestHead] = KnownHeads(most=8)
    head = RequestHead("POST", "/", {}, True, True)
    for number in range(100):
        heads.learn(b"%d" % number, head)
        assert len(heads._known) <= 8


def test_a_message_is_framed_only_when_it_is_whole_and_alone() -> None:
    raw = request(b"{}")
    assert framed(raw) is not None
    for other in (raw[:-1], raw + b"x", raw[:30], b"", b"\r\n\r\n", b"x" * 9000 + raw):
        assert framed(other) is None


def test_hop_by_hop_lines_and_our_own_stay_behind() -> None:
    head = answer_head(
        200,
        [(b"content-length", b"2"), (b"connection", b"x"), (b"x-turnout-arm", b"y"), (b"server", b"vllm")],
    )
    assert (head.lines, head.length) == (b"server: vllm\r\n", 2)


def test_what_connection_names_is_for_this_hop_alone_both_ways() -> None:
    """RFC 9110 §7.6.1."""
    answer = [(b"x-hop", b"1"), (b"connection", b"keep-alive, X-Hop"), (b"connection", b"a ,b"), (b"b", b"2")]
    assert answer_head(200, [*answer, (b"server", b"vllm")]).lines == b"server: vllm\r\n"
    headers = {b"traceparent": b"1", b"tracestate": b"2", b"content-type": b"application/json"}
    mark = {b"x-turnout-mirrored": b"1"}  # else a copy would be copied again, further on
    naming = b"close, Traceparent,content-type, x-turnout-mirrored"
    asked = RequestHead("POST", "/", {**mark, **headers, b"connection": naming}, True, True)
    left = b"x-turnout-mirrored: 1\r\ntracestate: 2\r\ncontent-type: application/json\r\n"
    assert asked.forwarded == left


@pytest.mark.parametrize("kind", [b"text/event-stream", b"Text/Event-Stream; charset=UTF-8"])
def test_media_types_have_no_case(kind: bytes) -> None:
    assert answer_head(200, [(b"content-type", kind)]).is_stream


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/x?y=http://z/", "/v1/x"),
        (b"http://host:80/v1/x?y", "/v1/x"),
        (b"HTTPS://host/v1/x", "/v1/x"),
        (b"http://host", "/"),
        (b"http://host?x", "/"),
        (b"ftp://host/v1/x", "ftp://host/v1/x"),
        (b"//host/v1/x", "//host/v1/x"),
        (b"*", "*"),
    ],
)
def test_a_target_in_absolute_form_is_its_path(target: bytes, path: str) -> None:
    """RFC 9112 §3.2.2: a server must accept it."""
    assert path_of(target) == path


async def test_all_bodies_and_answers_share_a_budget_that_is_given_back(tmp_path: Path) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go.wait()
        writer.write(json_answer(b'{"x":"%b"}' % (b"y" * 700)))

    limits = Limits(held_bytes=1500)
    async with Engine(late).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            body = orjson.dumps(ask(x="y" * 900))
            first = asyncio.ensure_future(proxy.post(body))
            await asked.wait()
            for raw in (body, body):
                assert b"too_many_bytes" in await proxy.post(raw)
            go.set()
            assert (await first).endswith(b'"}')  # more than may be kept of it, and whole all the same
            rows = proxy.exchanges()
            assert [(row.outcome, row.clipped, row.response) for row in rows] == [("complete", True, b"")]
            assert b"200 OK" in await proxy.post(orjson.dumps(ask()))
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            go.clear()
            asked.clear()
            writer.write(request(body))
            await asked.wait()
            writer.close()  # also what a client that leaves had sent
            while proxy.worker.budget.held:
                await asyncio.sleep(0.01)
            assert b"200 OK" in await asyncio.wait_for(_answered(proxy, go), 5)


async def _answered(proxy: Proxy, go: asyncio.Event) -> bytes:
    go.set()
    return await proxy.post(orjson.dumps(ask()))


class Heard:
    """A call that notes what a connection tells it."""

    def __init__(self) -> None:
        self.head_of: AnswerHead | None = None
        self.data = b""
        self.ended: str | None = None
        self.got_head = False

    def head(self, head: AnswerHead) -> None:
        assert self.head_of is None, "an answer has one head"
        self.head_of, self.got_head = head, True

    def body(self, data: bytes, chunks: bytes = b"") -> None:  # a call's, which has a clock
        assert not chunks or unchunked(chunks) == (data, False)
        self.data += data

    def finish(self, data: bytes) -> None:
        self.data += data
        self.ended = "whole"

    def answered(self, head: AnswerHead, body: bytes) -> None:
        self.head(head)
        self.finish(body)

    def broken(self, code: str) -> None:
        self.ended = code

    def stale(self) -> None:
        self.ended = "stale"


class Wire:
    """The transport of an engine's connection that takes all it is given."""

    closed = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


def connection(replica: Replica) -> Any:
    made: Any = Connection(replica)
    made.connection_made(Wire())
    return made


def heard(made: Any, *pieces: bytes) -> Heard:
    """What a call hears of an answer that comes in these pieces."""
    call = Heard()
    made.run(call, b"")
    for piece in pieces:
        made.data_received(piece)
    return call


STREAM = (
    b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
)
EVENTS = b"8\r\ndata: 1\n\r\n8\r\ndata: 2\n\r\n0\r\n\r\n"


async def test_a_stream_whose_head_is_known_is_read_as_the_first_was() -> None:
    replica = Replica("http://127.0.0.1:1", Limits())
    made, raw = connection(replica), STREAM + b"\r\n" + EVENTS
    first = heard(made, raw)
    assert first.ended == "whole"
    assert first.data == b"data: 1\ndata: 2\n"
    assert len(replica.heads._streams) == 1
    for cut in range(1, len(raw)):
        again = heard(made, raw[:cut], raw[cut:])
        assert (again.data, again.ended, again.head_of) == (first.data, "whole", first.head_of)
    assert len(replica.heads._streams) == 1
    assert heard(connection(replica), raw).head_of is first.head_of, "another connection knows it as well"
    assert not made.transport.closed


async def test_after_the_known_head_of_a_stream_faults_are_still_seen() -> None:
    replica = Replica("http://127.0.0.1:1", Limits())
    opening = STREAM + b"\r\n"
    assert heard(connection(replica), opening + EVENTS).ended == "whole"
    garbled = connection(replica)
    assert heard(garbled, opening + b"8\r\ndata: 1\n\r\n", b"zz\r\n").ended == "upstream_garbled"
    assert garbled.transport.closed
    cut = connection(replica)
    call = heard(cut, opening + b"8\r\ndata: 1\n\r\n")
    cut.connection_lost(None)
    assert (call.data, call.ended) == (b"data: 1\n", "upstream_cut")
    more = connection(replica)
    assert heard(more, opening + EVENTS + opening).ended == "whole"
    assert more.transport.closed, "nobody asked for a second answer"


class NoParser:
    """In a parser's place, where nothing is left to parse."""

    def feed_data(self, data: bytes) -> None:
        raise AssertionError(data)


def dated(opening: bytes, second: int, name: bytes = b"date") -> bytes:
    return opening + b"%b: Fri, 27 Nov 2026 22:07:%02d GMT\r\n" % (name, second)


@pytest.mark.parametrize("name", [b"date", b"Date"])
async def test_a_known_head_is_known_at_any_other_second(name: bytes) -> None:
    replica = Replica("http://127.0.0.1:1", Limits())
    made = connection(replica)
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
    for second in (1, 2, 2, 3):
        stream = heard(made, dated(STREAM, second, name) + b"\r\n" + EVENTS[:13], EVENTS[13:])
        assert (stream.data, stream.ended) == (b"data: 1\ndata: 2\n", "whole")
        answer = heard(made, dated(whole, second, name) + b"\r\n{}")
        assert (answer.data, answer.ended) == (b"{}", "whole")
        for call in (stream, answer):
            assert call.head_of is not None
            assert b"date: Fri, 27 Nov 2026 22:07:%02d GMT\r\n" % second in call.head_of.lines
            assert call.head_of.lines.count(b"date") == 1
        made._parser = NoParser()


async def test_a_date_of_another_form_is_not_taken_for_one() -> None:
    """What was cut out for the comparison must not be what another head has there."""
    replica = Replica("http://127.0.0.1:1", Limits())
    assert heard(connection(replica), dated(STREAM, 1) + b"\r\n" + EVENTS).ended == "whole"
    for other in (b"", b"yesterday", b"Fri, 27 Nov 2026 22:07:01 CET", b"Fri,  27 Nov 2026 22:07:01 GMT"):
        call = heard(connection(replica), STREAM + b"date: %b\r\n\r\n" % other + EVENTS)
        assert call.head_of is not None
        assert call.head_of.lines.endswith(b"date: %b\r\n" % other)


@pytest.mark.parametrize("more", [b"date: x\r\n", b"connection: date\r\n", b"x-date: y\r\n"])
async def test_a_head_with_more_than_one_date_or_none_for_the_client_is_the_parsers(more: bytes) -> None:
    replica = Replica("http://127.0.0.1:1", Limits())
    lines = set()
    for second in (1, 2):
        call = heard(connection(replica), dated(STREAM, second) + more + b"\r\n" + EVENTS)
        assert call.ended == "whole"
        assert call.head_of is not None
        lines.add(call.head_of.lines.replace(b":0%d GMT" % second, b""))
    assert len(lines) == 1
    assert not replica.heads._streams


async def test_a_stream_cut_anywhere_reads_the_same_by_known_heads_and_by_the_parser() -> None:
    rng = Random(7)
    replica = Replica("http://127.0.0.1:1", Limits())
    heard(connection(replica), STREAM + b"\r\n" + EVENTS)
    for _ in range(3000):
        body, raw = b"", STREAM + b"\r\n"
        cuts = [len(raw)] if rng.random() < 0.5 else []
        for _ in range(rng.randrange(6)):
            piece = rng.choice(
                (b"data: x\n\n", b"\r\n", b"0\r\n\r\n", b"7\r\n", b"y" * rng.randrange(1, 6000))
            )
            size = rng.choice((b"%x", b"%x", b"%x", b"%x", b"%X", b"0%x", b"%x;a=b")) % len(piece)
            raw += size + b"\r\n" + piece + b"\r\n"
            cuts.append(len(raw))
            body += piece
        raw += b"0\r\n" + rng.choice((b"", b"", b"", b"x-trailer: 1\r\n")) + b"\r\n"
        if rng.random() < 0.3:
            cuts += [rng.randrange(len(raw)) for _ in range(2)]
        marks = [0, *sorted(cut for cut in cuts if rng.random() < 0.7), len(raw)]
        made = connection(Replica("http://127.0.0.1:1", Limits(), replica.heads))
        call = heard(made, *(raw[at:to] for at, to in pairwise(marks) if at < to))
        assert (call.data, call.ended, made.transport.closed) == (body, "whole", False)
        assert heard(made, STREAM + b"\r\n" + EVENTS).ended == "whole"


async def test_a_defect_behind_an_answer_is_told_to_whoever_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In each way that an answer can come: nobody is left waiting."""

    class Defective(Heard):
        def body(self, data: bytes, chunks: bytes = b"") -> None:
            self.finish(data)

        def finish(self, data: bytes) -> None:
            raise RuntimeError("a defect")

    replica = Replica("http://127.0.0.1:1", Limits())
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    for raw in (STREAM + b"\r\n" + EVENTS, STREAM + b"\r\n8\r\ndata: 1\n\r\n", whole):
        for _ in range(2):  # by the parser, then as what is known
            made = connection(replica)
            call = Defective()
            made.run(call, b"")
            made.data_received(raw)
            assert call.ended == "upstream_garbled"
            heard(connection(replica), raw)
    assert sum("could not be relayed" in line.message for line in caplog.records) == 6


async def test_what_a_known_head_says_of_the_connection_holds() -> None:
    replica = Replica("http://127.0.0.1:1", Limits())
    for _ in range(3):
        made = connection(replica)
        assert heard(made, STREAM + b"connection: close\r\n\r\n" + EVENTS).ended == "whole"
        assert made.transport.closed


async def test_the_connection_tells_streams_and_whole_answers_apart() -> None:
    replica = Replica("http://127.0.0.1:1", Limits())
    made = connection(replica)
    refusal = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n"
    for _ in range(3):
        assert heard(made, STREAM + b"\r\n" + EVENTS).data == b"data: 1\ndata: 2\n"
        call = heard(made, refusal, b"{}\n")
        assert call.head_of is not None
        assert (call.head_of.status, call.data, call.ended) == (404, b"{}\n", "whole")


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + STREAM + b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        STREAM + b"x-long: a\r\n  b\r\n\r\n",
        STREAM.replace(b"200 OK", b"500 Oops") + b"\r\n",
    ],
    ids=("interim", "delimited by its end", "folded", "an error"),
)
async def test_only_the_plain_head_of_a_stream_is_remembered(raw: bytes) -> None:
    replica = Replica("http://127.0.0.1:1", Limits())
    heard(connection(replica), raw + EVENTS)
    assert not replica.heads._streams


SPAN = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        (SPAN, SPAN.decode()),
        (b"cc" + SPAN[2:] + b"-what-later-versions-add", "cc" + SPAN[2:].decode()),
        (SPAN + b"0", None),
        (SPAN.upper(), None),
        (b"00-xyz", None),
        (b"ff" + SPAN[2:], None),
        (b"00-%032x-b7ad6b7169203331-01" % 0, None),
        (b"00-0af7651916cd43dd8448eb211c80319c-%016x-01" % 0, None),
        (b"\xff" * 55, None),
        (b"", None),
        (None, None),
    ],
)
def test_a_clients_span_is_noted_where_it_is_said_well_and_passed_on_in_any_case(
    said: bytes | None, noted: str | None
) -> None:
    head = RequestHead("POST", "/", {} if said is None else {b"traceparent": said}, True, True)
    assert head.traceparent == noted
    assert (said is not None) == (b"traceparent: %b\r\n" % (said or b"") in head.forwarded)


def test_when_to_ask_again_is_read_of_an_engine_and_of_a_provider() -> None:
    date = (b"date", b"Fri, 27 Nov 2020 10:00:00 GMT")
    until = (b"retry-after", b"Fri, 27 Nov 2020 10:01:30 GMT")
    assert seconds_asked(json_head(429, 2, b"7")) == 7.0
    assert seconds_asked(answer_head(429, [date, until])) == 90.0
    assert seconds_asked(answer_head(429, [until])) == 0.0
    assert seconds_asked(answer_head(429, [(b"retry-after", b"soon")])) == 0.0
    assert seconds_asked(answer_head(429, [])) == 0.0
