"""Providers behind litellm's SDK, each on a local server that speaks its wire.

They are asked within the test's process, which imports litellm once; `test_provider_process` has the process
that a worker starts for it.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import struct
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.ledger.transcript import Transcript, decode
from experiments.snapshot import LITELLM, Endpoint, Snapshot
from proxy.limits import Limits
from proxy.providers import ProviderCall, Providers, _litellm, _what_comes_later
from registry import names

from .harness import Engine, Proxy, ask, json_answer, post, running_proxy, snapshot
from .provider_tools import ARGUMENTS, EMBEDDERS, TOOL, TOOL_CALLS, TOOLS, VECTORS
from .provider_wires import TEXT, WIRES, WORDS, Wire, asks_for_stream, sse, write_stream

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    # aiohttp's pool, inside litellm, closes its sockets after the loop has gone
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
KEY = "canary-0123456789-sEcReT"
Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def litellm_is_there() -> None:
    """Importing it takes seconds: not within a test's own deadlines."""
    with warnings.catch_warnings(action="ignore"):
        _litellm()
        _what_comes_later()


class Within(Providers):
    """In place of a worker's child."""

    def start(self) -> None: ...


@pytest.fixture(autouse=True)
def within_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.worker.ProviderProcess", Within)


@pytest.fixture(params=WIRES, ids=list(WIRES))
def wire(request: pytest.FixtureRequest) -> Wire:
    return WIRES[request.param]


def well(wire: Wire) -> Answering:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if asks_for_stream(request):
            await write_stream(writer, wire, wire.events())
        else:
            writer.write(json_answer(json.dumps(wire.answer()).encode()))

    return answer


def saying(status: str, body: bytes) -> Answering:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(body, status))

    return answer


def provider(wire: Wire, version: int = 1) -> Endpoint:
    return Endpoint(
        model="chat", version=version, served_name=wire.served_name, engine=LITELLM, replicas=(),
        credential=wire.credential,
    )  # fmt: skip


@asynccontextmanager
async def asked(
    wire: Wire, answer: Answering, data: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits | None = None
) -> AsyncIterator[tuple[Proxy, Engine]]:
    """A proxy whose model is a provider's."""
    engine = Engine(answer)
    async with engine.running():
        point_at(wire, engine, monkeypatch)
        plain = snapshot({1: engine.url})
        table = replace(plain, endpoints={("chat", 1): provider(wire)})
        async with running_proxy(data, table, limits) as proxy:
            yield proxy, engine


def point_at(wire: Wire, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wire.base, engine.url)
    monkeypatch.setenv(wire.credential, KEY)
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")


def said(proxy: Proxy) -> Transcript:
    [record] = proxy.exchanges()
    return decode(
        record.path, record.content_type, record.status, record.response, record.chunk_us,
        record.chunk_ends, record.request, outcome=record.outcome,
    )  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_answer_is_openais_whoever_gave_it(
    wire: Wire,
    stream: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        answer = await proxy.post(ask(stream=stream, max_tokens=50))
        assert answer.startswith(b"HTTP/1.1 200 ")
        told = said(proxy)
        assert (told.outcome, told.text, told.finish_reason) == ("complete", TEXT, "stop")
        assert (told.prompt_tokens, told.completion_tokens) == (7, 5)
        assert len(engine.requests) == 1
        # to the provider, and nowhere else
        assert KEY.encode() in engine.requests[0]
        [record] = proxy.exchanges()
        assert KEY not in repr(record) + answer.decode() + caplog.text
        if stream:
            assert told.chunks >= 3
            assert b"data: [DONE]" in answer
            assert b'"usage"' not in answer  # nobody asked for it


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("name", WIRES)
async def test_a_tool_call_is_openais_whoever_made_it(
    name: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, (events, whole) = WIRES[name], TOOL_CALLS[name]
    calling = replace(wire, events=events, answer=whole)
    async with asked(calling, well(calling), tmp_path, monkeypatch) as (proxy, engine):
        body = ask(stream=stream, tools=TOOLS, tool_choice="auto", max_tokens=50)
        answer = await proxy.post(body)
        assert answer.startswith(b"HTTP/1.1 200 ")
        told = said(proxy)
        assert (told.outcome, told.finish_reason) == ("complete", "tool_calls")
        [call] = told.tool_calls
        assert (call.name, json.loads(call.arguments)) == (TOOL, ARGUMENTS)
        assert (told.prompt_tokens, told.completion_tokens) == (7, 5)
        assert TOOL.encode() in engine.requests[0]


@pytest.mark.parametrize("name", WIRES)
async def test_a_tool_call_that_was_cut_is_no_answer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, (events, _) = WIRES[name], TOOL_CALLS[name]

    async def cut(request: bytes, writer: asyncio.StreamWriter) -> None:
        await write_stream(writer, wire, events()[: -wire.ends])

    async with asked(wire, cut, tmp_path, monkeypatch) as (proxy, engine):
        answer = await proxy.post(ask(stream=True, tools=TOOLS))
        assert not answer.endswith(b"0\r\n\r\n") or not answer.startswith(b"HTTP/1.1 200")
        assert b'finish_reason":"' not in answer
        assert said(proxy).outcome in ("truncated", "upstream_error")
        assert len(engine.requests) == 1


@pytest.mark.parametrize("packed", [False, True], ids=["floats", "base64"])
@pytest.mark.parametrize("name", EMBEDDERS)
async def test_vectors_are_openais_whoever_gave_them(
    name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = EMBEDDERS[name]
    wire = replace(WIRES[embedder.wire], served_name=embedder.served_name)

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(json.dumps(embedder.answer(request)).encode()))

    async with asked(wire, answer, tmp_path, monkeypatch) as (proxy, engine):
        body = {
            "model": "chat",
            "input": ["eins", "zwei"],
            **({"encoding_format": "base64"} if packed else {}),
        }
        raw = await proxy.post(body, "/v1/embeddings")
        assert raw.startswith(b"HTTP/1.1 200 ")
        document = json.loads(raw.partition(b"\r\n\r\n")[2])
        vectors = [one["embedding"] for one in document["data"]]
        if packed:
            vectors = [list(struct.unpack("<3f", base64.b64decode(one))) for one in vectors]
        assert vectors == list(VECTORS)
        assert [one["index"] for one in document["data"]] == [0, 1]
        assert document["object"] == "list"
        [record] = proxy.exchanges()
        assert (record.outcome, len(engine.requests)) == ("complete", 1)


async def test_who_gives_no_vectors_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = WIRES["anthropic"]
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        answer = await proxy.post({"model": "chat", "input": "hi"}, "/v1/embeddings")
        assert answer.split(b" ", 2)[1] == b"400"
        assert b"provider_rejected" in answer
        assert engine.requests == []


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/responses", "/v1/completions", "/v1/rerank", "/tokenize"]
)
async def test_a_path_that_providers_are_not_asked_by_names_those_that_are(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["anthropic"]
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        body = {"model": "chat", "messages": [], "input": "hi", "prompt": "hi", "documents": ["hi"]}
        answer = await proxy.post(body, path)
        assert answer.split(b" ", 2)[1] == b"400"
        assert b"unsupported_by_provider" in answer
        assert b"/v1/chat/completions, /v1/embeddings" in answer
        assert engine.requests == []


async def test_several_choices_come_from_who_gives_them_and_are_refused_by_who_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = WIRES["openai"].answer()
    twice = {**whole, "choices": [{**whole["choices"][0], "index": n} for n in (0, 1)]}
    several = replace(WIRES["openai"], answer=lambda: twice)
    async with asked(several, well(several), tmp_path / "openai", monkeypatch) as (proxy, engine):
        assert (await proxy.post(ask(n=2))).startswith(b"HTTP/1.1 200 ")
        assert (said(proxy).choices, said(proxy).text) == (2, TEXT)
        assert b'"n":2' in engine.requests[0].replace(b" ", b"")
    one = WIRES["anthropic"]
    async with asked(one, well(one), tmp_path / "anthropic", monkeypatch) as (proxy, engine):
        answer = await proxy.post(ask(n=2))
        assert answer.split(b" ", 2)[1] == b"400"
        assert b"unsupported_field" in answer
        assert b"litellm" not in answer
        assert engine.requests == []


async def test_token_counts_come_to_who_asks_for_them(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, _):
        answer = await proxy.post(ask(stream=True, stream_options={"include_usage": True}))
        counted = [line for line in answer.split(b"\n") if b'"usage":{' in line]
        assert len(counted) == 1
        assert b'"choices":[]' in counted[0]
        assert b'"prompt_tokens":7' in counted[0]


async def test_a_provider_can_be_a_shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = WIRES["anthropic"]
    dark, control = Engine(well(wire)), Engine(well(WIRES["openai"]))
    async with dark.running(), control.running():
        point_at(wire, dark, monkeypatch)
        plain = snapshot({1: control.url, 2: dark.url}, share_ppm=1_000_000)
        table = replace(plain, endpoints={**plain.endpoints, ("chat", 2): provider(wire, 2)})
        route = table.models["chat"]
        outranked = [replace(mirror, priority=1000) for mirror in route.mirrors]  # an engine's own field
        table = replace(table, models={"chat": replace(route, mirrors=tuple(outranked))})
        async with running_proxy(tmp_path, table) as proxy:
            for stream in (False, True):
                assert TEXT.split()[0].encode() in await proxy.post(ask(stream=stream))
                while proxy.worker.shadows._copies:
                    await asyncio.sleep(0.01)
            rows = proxy.exchanges()
            assert [row.outcome for row in rows] == ["complete"] * 4
            copies = [row for row in rows if row.role == "shadow"]
            assert [row.served_version for row in copies] == [2, 2]
            assert all(KEY not in repr(row) for row in rows)
            assert (len(control.requests), len(dark.requests)) == (2, 2)


async def test_a_stream_that_was_cut_is_no_answer(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(request: bytes, writer: asyncio.StreamWriter) -> None:
        await write_stream(writer, wire, wire.events()[: -wire.ends])

    async with asked(wire, cut, tmp_path, monkeypatch) as (proxy, engine):
        answer = await proxy.post(ask(stream=True))
        assert not answer.endswith(b"0\r\n\r\n")  # a broken connection, not an end
        assert b'finish_reason":"' not in answer
        assert said(proxy).outcome == "truncated"
        assert len(engine.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_nothing_is_asked_twice(
    wire: Wire, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drop(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with asked(wire, drop, tmp_path, monkeypatch) as (proxy, engine):
        answer = await proxy.post(ask(stream=stream))
        assert answer.split(b" ", 2)[1] == b"502"
        [record] = proxy.exchanges()
        assert (record.outcome, record.error_code) == ("upstream_error", "upstream_cut")
        assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        ("200 OK", b"<html>a gateway's own page</html>", "provider_garbled"),
        ("307 Temporary Redirect\r\nlocation: /elsewhere", b"", "upstream_redirect"),
        (None, b"", "upstream_unreachable"),
    ],
)
async def test_what_is_no_answer_is_neither_the_clients_fault_nor_followed(
    wire: Wire, status: str | None, body: bytes, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(wire, saying(str(status), body), tmp_path, monkeypatch) as (proxy, engine):
        if status is None:
            monkeypatch.setenv(wire.base, "http://127.0.0.1:9")
        assert (await proxy.post(ask())).split(b" ", 2)[1] == b"502"
        [record] = proxy.exchanges()
        assert (record.outcome, record.error_code) == ("upstream_error", code)
        assert len(engine.requests) == (status is not None)


async def test_what_cannot_be_translated_is_not_told_as_the_providers_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["gemini"]
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        await proxy.post(ask(messages=[{"role": "alien", "content": "hi"}]))
        assert (proxy.exchanges()[0].error_code, engine.requests) == ("provider_not_asked", [])
    wire = WIRES["anthropic"]
    async with asked(wire, well(wire), tmp_path / "refused", monkeypatch) as (proxy, engine):
        answer = await proxy.post(ask(messages=[{"role": "alien", "content": "hi"}]))
        assert (answer.split(b" ", 2)[1], engine.requests) == (b"400", []), "litellm's own refusal"
        assert b"provider_rejected" in answer


ECHO = json.dumps({"error": {"message": f"no good: {KEY}"}, "message": f"no good: {KEY}"}).encode()


@pytest.mark.parametrize(
    ("status", "expected", "code", "outcome"),
    [
        ("400 Bad Request", b"400", b"provider_rejected", "upstream_rejected"),
        ("401 Unauthorized", b"502", b"provider_credential_refused", "upstream_error"),
        ("429 Too Many Requests", b"429", b"provider_overloaded", "overloaded"),
        ("529 Overloaded", b"503", b"provider_overloaded", "overloaded"),
    ],
)
async def test_errors_are_in_openais_shape_and_hold_no_key(
    wire: Wire,
    status: str,
    expected: bytes,
    code: bytes,
    outcome: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with asked(wire, saying(status, ECHO), tmp_path, monkeypatch) as (proxy, engine):
        answer = await proxy.post(ask(stream=True))
        assert answer.split(b" ", 2)[1] == expected
        assert code in answer
        [record] = proxy.exchanges()
        assert record.outcome == outcome
        assert KEY not in repr(record) + answer.decode() + caplog.text
        assert len(engine.requests) == 1


def flagging(wire: Wire, said: str) -> Answering:
    """Who refuses what is flagged with 403, and answers all else."""
    body = json.dumps({"error": {"message": said}, "message": said}).encode()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        await (saying("403 Forbidden", body) if b"flag me" in request else well(wire))(request, writer)

    return answer


FLAG_ME = [{"role": "user", "content": "flag me"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_403_for_a_flagged_question_is_no_refused_key(
    wire: Wire, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says_so = f"Your input was flagged by moderation ({KEY})"
    async with asked(wire, flagging(wire, says_so), tmp_path / "said", monkeypatch) as (proxy, _):
        answer = await proxy.post(ask(messages=FLAG_ME, stream=stream))
        assert answer.split(b" ", 2)[1] == b"403"
        assert b"provider_rejected" in answer
        assert b"flagged" in answer
        assert KEY.encode() not in answer
        assert proxy.exchanges()[0].outcome == "upstream_rejected"
    async with asked(wire, flagging(wire, "No."), tmp_path / "seen", monkeypatch) as (proxy, _):
        found = []
        for messages in (FLAG_ME, None, FLAG_ME):  # only who has answered is known to take the key
            given = {} if messages is None else {"messages": messages}
            found.append((await proxy.post(ask(stream=stream, **given))).split(b" ", 2)[1])
        assert found == [b"502", b"200", b"403"]
        rows = [(row.outcome, row.error_code) for row in proxy.exchanges()]
        assert rows[0] == ("upstream_error", "provider_credential_refused")
        assert rows[2] == ("upstream_rejected", None)


@pytest.mark.parametrize("status", [429, 503])
async def test_when_to_ask_again_is_the_providers_to_say(
    wire: Wire, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = saying(f"{status} Busy\r\nretry-after: 7", ECHO)
    async with asked(wire, busy, tmp_path, monkeypatch) as (proxy, _):
        for stream in (False, True):
            answer = await proxy.post(ask(stream=stream))
            assert answer.split(b" ", 2)[1] == str(status).encode()
            assert b"\r\nretry-after: 7\r\n" in answer


async def test_when_to_ask_again_may_be_an_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the provider's own clock, which may be wrong."""
    lines = "date: Fri, 27 Nov 2020 10:00:00 GMT\r\nretry-after: Fri, 27 Nov 2020 10:01:30 GMT"
    busy = saying(f"429 Busy\r\n{lines}", ECHO)
    async with asked(WIRES["anthropic"], busy, tmp_path, monkeypatch) as (proxy, _):
        assert b"\r\nretry-after: 90\r\n" in await proxy.post(ask())


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_without_end_is_read_so_far_and_no_farther(
    wire: Wire, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = json.dumps(wire.answer()).encode().replace(b"Der ", b"Der " * 25_000)

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        body, extra = (gzip.compress(whole), b"content-encoding: gzip\r\n") if packed else (whole, b"")
        writer.write(json_answer(body, extra=extra))

    for most, expected in ((50_000, "upstream_error"), (200_000, "complete")):
        limits = Limits(provider_bytes=most)
        async with asked(wire, answer, tmp_path / str(most), monkeypatch, limits) as (proxy, _):
            found = await proxy.post(ask())
            assert (b"provider_oversized" in found) == (expected == "upstream_error")
            [record] = proxy.exchanges()
            assert record.outcome == expected


@pytest.mark.parametrize("packed", [False, True])
async def test_a_stream_without_end_is_read_so_far_and_ends_as_one_that_broke_off(
    wire: Wire, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = wire.events()
    begin, end = pieces[: -wire.ends], pieces[-wire.ends :]
    word = next(piece for piece in pieces if WORDS[0].encode() in piece)

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        long = [*begin, *(word for _ in range(2000)), *end]
        if packed:
            squeezed = gzip.compress(b"".join(long))
            kind = wire.stream_type + b"\r\ncontent-encoding: gzip"
            await write_stream(writer, replace(wire, stream_type=kind), [squeezed])
        else:
            await write_stream(writer, wire, long)

    for most, expected in ((50_000, "truncated"), (2_000_000, "complete")):
        limits = Limits(provider_bytes=most)
        async with asked(wire, answer, tmp_path / str(most), monkeypatch, limits) as (proxy, _):
            found = await proxy.post(ask(stream=True))
            [record] = proxy.exchanges()
            # packed, all of it comes at once, and nothing before it was too much
            early = packed and expected == "truncated" and record.outcome == "upstream_error"
            assert record.outcome == expected or early
            assert record.error_code == (None if expected == "complete" else "provider_oversized")
            assert found.endswith(b"0\r\n\r\n") == (expected == "complete")


async def test_an_event_without_end_is_read_so_far_and_control_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["anthropic"]

    async def endless(request: bytes, writer: asyncio.StreamWriter) -> None:
        await write_stream(writer, wire, [b"data: ", *(b"x" * 1000 for _ in range(1000))])

    failing, control = Engine(endless), Engine(well(WIRES["openai"]))
    async with failing.running(), control.running():
        point_at(wire, failing, monkeypatch)
        plain = snapshot({1: control.url, 2: failing.url}, candidate_ppm=1_000_000)
        table = replace(plain, endpoints={**plain.endpoints, ("chat", 2): provider(wire, 2)})
        async with running_proxy(tmp_path, table, Limits(provider_bytes=100_000)) as proxy:
            assert TEXT.split()[0].encode() in await proxy.post(ask(stream=True))
            [record] = proxy.exchanges()
            assert (record.served_version, record.arm_outcome) == (1, "upstream_error")


@pytest.mark.parametrize("status", [409, 422])
async def test_what_the_client_can_mend_is_no_servers_error(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(WIRES["openai"], saying(f"{status} No", ECHO), tmp_path, monkeypatch) as (proxy, _):
        assert b'"type":"invalid_request_error"' in await proxy.post(ask())


async def test_control_answers_for_a_provider_that_breaks_off_before_it_says_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["gemini"]

    async def cut(request: bytes, writer: asyncio.StreamWriter) -> None:
        await write_stream(writer, wire, sse({"responseId": "x"}))

    failing, control = Engine(cut), Engine(well(WIRES["openai"]))
    async with failing.running(), control.running():
        point_at(wire, failing, monkeypatch)
        plain = snapshot({1: control.url, 2: failing.url}, candidate_ppm=1_000_000)
        table = replace(plain, endpoints={**plain.endpoints, ("chat", 2): provider(wire, 2)})
        async with running_proxy(tmp_path, table) as proxy:
            assert TEXT.split()[0].encode() in await proxy.post(ask(stream=True))
            [record] = proxy.exchanges()
            assert (record.served_version, record.outcome) == (1, "complete")
            assert record.arm_outcome == "upstream_error"


async def test_a_field_that_could_redirect_never_reaches_litellm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["anthropic"]
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        for field in ("top_k", "deployment_id", "shared_session", "extra_body"):
            answer = await proxy.post(ask(**{field: {"x": 1}}))
            assert answer.split(b" ", 2)[1] == b"400"
            assert field.encode() in answer
        assert engine.requests == []


async def test_a_client_that_leaves_ends_the_providers_work(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(request: bytes, writer: asyncio.StreamWriter) -> None:
        await write_stream(writer, wire, wire.events(), pause=30)

    async with asked(wire, slow, tmp_path, monkeypatch) as (proxy, engine):
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(post(ask(stream=True)))
        while not engine.requests:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        await asyncio.wait_for(engine.gone.wait(), 10)
        assert [record.outcome for record in proxy.exchanges()] == ["client_gone"]


@pytest.mark.parametrize(
    ("status", "outcome"), [("500 Ouch", "upstream_error"), ("404 Not Found", "upstream_rejected")]
)
async def test_control_answers_for_a_provider_that_fails_before_its_first_byte(
    status: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["anthropic"]
    failing, control = Engine(saying(status, b"{}")), Engine(well(WIRES["openai"]))
    async with failing.running(), control.running():
        point_at(wire, failing, monkeypatch)
        plain = snapshot({1: control.url, 2: failing.url}, candidate_ppm=1_000_000)
        endpoints = {**plain.endpoints, ("chat", 2): provider(wire, 2)}
        table = Snapshot(version=1, published_ns=1, models=plain.models, endpoints=endpoints)
        async with running_proxy(tmp_path, table) as proxy:
            answer = await proxy.post(ask(stream=True))
            assert answer.startswith(b"HTTP/1.1 200 ")
            [record] = proxy.exchanges()
            assert (record.assigned_version, record.served_version) == (2, 1)
            assert (record.outcome, record.arm_outcome) == ("complete", outcome)
            assert (len(failing.requests), len(control.requests)) == (1, 1)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_silence_has_an_end(stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = WIRES["gemini"]

    async def silent(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    limits = Limits(first_byte_seconds=0.3)
    async with asked(wire, silent, tmp_path, monkeypatch, limits) as (proxy, engine):
        answer = await proxy.post(ask(stream=stream))
        assert answer.split(b" ", 2)[1] == b"504"
        [record] = proxy.exchanges()
        assert (record.outcome, record.error_code) == ("timeout", "upstream_timeout")
        await asyncio.wait_for(engine.gone.wait(), 10)


async def test_a_credential_that_is_not_set_is_told_without_its_name_to_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wire = WIRES["anthropic"]
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        monkeypatch.delenv(wire.credential)
        answer = await proxy.post(ask())
        assert b"provider_credential_missing" in answer
        assert wire.credential not in answer.decode()
        assert wire.credential in caplog.text
        assert engine.requests == []


async def test_a_slow_reader_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = WIRES["openai"]
    heard: list[str] = []

    class Ear:
        def answer(self, *_: object) -> None:
            heard.append("answer")

        def head(self, *_: object) -> None:
            heard.append("head")

        def body(self, data: bytes, came: int, chunks: bytes = b"") -> None:
            heard.append("body")

        def end(self, data: bytes) -> None:
            heard.append("end")

        def failed(self, outcome: str, code: str) -> None:
            heard.append(code)

    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        body = json.dumps(ask(stream=True)).encode()
        call = proxy.worker.upstreams.call(provider(wire), "/v1/chat/completions", b"", body, Ear())
        assert isinstance(call, ProviderCall)
        call.pause()
        while not engine.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert heard == []
        call.resume()
        while "end" not in heard:
            await asyncio.sleep(0.01)
        assert heard[0] == "head"
        await call.task
        call.pause()  # by a client that still reads what has come
        call.resume()
        call.cancel()
        assert heard.count("end") == 1


def test_litellm_is_not_loaded_without_an_endpoint_that_needs_it() -> None:
    program = "import sys, proxy.worker; assert not [m for m in sys.modules if 'litellm' in m]"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_registry_and_snapshot_mean_the_same_engine() -> None:
    assert names.LITELLM == LITELLM
