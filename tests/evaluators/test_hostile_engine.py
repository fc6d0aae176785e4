"""Whatever an engine answers, a preflight ends soon and says what it did not see."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from evaluators.admission import Taken, heed_missing_key
from evaluators.preflight import PROBES, Asker, drift
from evaluators.preflight.answers import Asked
from evaluators.preflight.behaviour import agree, tool_calls
from evaluators.preflight.engine import EngineClient
from evaluators.preflight.finding import Finding
from evaluators.preflight.traffic import RecordedPrompt, context, counted, recorded_prompts
from tests.dripping import BODY, HEAD, dripping
from tests.evaluators.test_preflight import calling, facts, said

DEEP = "[" * 900 + "]" * 900
HUGE = "9" * 300
ALL = (
    '{"version": %s, "data": [{"id": "chat", "max_model_len": %s}], "tokens": [%s], "token_strs": [%s],'
    ' "sampling_params": {"temperature": %s}}'
)
PROMPT = RecordedPrompt(exchange_id="e", question={"messages": []}, prompt_tokens=7, max_tokens=1)


@asynccontextmanager
async def answering(body: bytes, head: str = "200 OK\r\n") -> AsyncIterator[str]:
    """The address of a server that gives every request this answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        length = f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(f"HTTP/1.1 {head}{length}".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def client(replica: str) -> EngineClient:
    return EngineClient(replica=replica, served_name="chat", engine="vllm", timeout_s=0.3)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[1]", b"\xff\x00", b"[" * 500_000,
        *((ALL % ((value,) * 5)).encode() for value in (
            "NaN", "-Infinity", "null", "true", "{}", '"x"', "-1", HUGE, DEEP, r'"\ud800"',
            json.dumps("x" * 99_999),
        )),
        b'{"data": {"id": 5}, "version": [1], "tokens": "abc", "sampling_params": {"sampling_params": 5}}',
        orjson.dumps({"sampling_params": {str(n): n for n in range(9_999)}}),
    ],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
async def test_an_answer_of_any_kind_becomes_findings(body: bytes) -> None:
    async with answering(body) as url, client(url) as engine:
        found = await engine.facts(PROBES[:2])
        tokens = await counted(engine, [PROMPT])
    checks: list[Finding] = [
        drift.tokenizer(facts(), found),
        drift.template(facts(), found),
        drift.sampling_defaults(facts(), found),
        drift.replicas({"a": facts()}, {"b": found, "c": facts()}),
        context(facts(), found, [PROMPT], tokens),
    ]
    told = orjson.dumps([one.to_json() for one in checks])  # as the ledger takes it
    assert len(told) < 5_000
    assert found.fingerprint({}) != facts().fingerprint({})


async def test_what_is_packed_does_not_swell() -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    async with answering(bomb, "200 OK\r\ncontent-encoding: gzip\r\n") as url, client(url) as engine:
        found = await engine.facts(PROBES[:1])
    assert "JSONDecodeError" in found.missing["/tokenize"]


@pytest.mark.parametrize("beginning", [HEAD, BODY])
async def test_an_engine_whose_answers_do_not_end_is_given_up_at_once(beginning: bytes) -> None:
    with dripping(beginning) as url:
        async with asyncio.timeout(5), client(url) as engine:
            found = await engine.facts(PROBES)
            tokens = await counted(engine, [PROMPT] * 100)
    assert tokens == [7] * 100
    assert found.fingerprint({}) is None
    assert "no whole answer within 0.3 s" in drift.tokenizer(facts(), found).sentence


ITS_BODY = BODY.replace(b"json\r\n", b"json\r\nx-turnout-model-version: 2\r\n")


@pytest.mark.parametrize(("beginning", "outcome"), [(ITS_BODY, "timeout"), (HEAD, None)])
async def test_an_answer_without_end_is_a_lost_one(beginning: bytes, outcome: str | None) -> None:
    """Of the version, if it had begun; whose silence it was is not known before."""
    with dripping(beginning) as url:
        async with asyncio.timeout(5), Asker(base_url=url, model="chat", token="t", timeout_s=0.3) as asker:
            found = await asker.ask(PROBES[0], 2, stream=True)
    assert (found.outcome, found.error) == (outcome, "no whole answer within 0.3 s")


async def test_a_version_that_keeps_silent_is_asked_no_more() -> None:
    with dripping(HEAD) as url:
        async with asyncio.timeout(5), Asker(base_url=url, model="chat", token="t", timeout_s=0.2) as asker:
            found = [await asker.ask(probe, 2, stream=False) for probe in PROBES * 10]
    assert {one.error for one in found} == {"no whole answer within 0.2 s"}


async def test_a_refusal_that_is_nested_too_deep_is_told_as_it_is() -> None:
    head = "400 Bad Request\r\nx-turnout-model-version: 2\r\n"
    async with answering(b'{"error":' + b"[" * 99_999, head) as url:
        async with Asker(base_url=url, model="chat", token="t") as asker:
            found = await asker.ask(PROBES[0], 2, stream=False)
    assert found.outcome == "upstream_rejected"
    assert found.error is not None
    assert len(found.error) < 250


def test_calls_of_any_shape_are_compared_and_told_in_short() -> None:
    deep = calling(f'{{"order": {"[" * 99_999}')
    assert not agree(deep, calling(deep.tool_calls[0].arguments + " "))
    probe = next(one for one in PROBES if one.name == "tool_auto")
    loud = calling("{}", "x" * 99_999)
    asked = Asked(probe=probe, control=said(), control_stream=said(), candidate=loud, candidate_stream=loud)
    assert len(tool_calls([asked]).sentence) < 250


@pytest.mark.parametrize("odd", [r'"\ud800"', DEEP, "NaN"])
def test_a_recorded_request_that_no_engine_can_be_sent_is_counted_as_it_was(odd: str) -> None:
    class Recorded:
        def get(self, path: str, params: object = None) -> object:
            listed = {"exchange_id": "e", "path": "/v1/chat/completions", "role": "primary", "origin": "live"}
            body = f'{{"messages": [{{"role": "user", "content": {odd}}}], "max_tokens": {HUGE}}}'
            return {"request": body} if path.endswith("/e") else [{**listed, "prompt_tokens": 7}]

    [prompt] = recorded_prompts(Recorded(), "chat", 9)  # type: ignore[arg-type]
    assert (prompt.question, prompt.prompt_tokens) == (None, 7)


@pytest.mark.parametrize("error", ['{"code": [], "message": "x"}', '{"code": {}}', "[]", "7", DEEP])
def test_no_error_of_an_engines_own_is_taken_for_a_missing_key(error: str) -> None:
    heed_missing_key("chat version 2", 502, f'{{"error": {error}}}'.encode(), or_refused=True)
    assert not Taken().refused({"seed": 1}, 400, f'{{"error": {error}}}'.encode())
