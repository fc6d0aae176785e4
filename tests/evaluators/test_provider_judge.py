"""A provider's model as a judge, through litellm, each on a local server that speaks its wire."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
import subprocess
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluators.errors import ModelRefused, ModelUnavailable
from evaluators.golden import Policy
from evaluators.judges.attempts import Attempts
from evaluators.judges.provider import JUDGE_KEY, ProviderJudge, _litellm
from evaluators.models import ModelReply, Services
from evaluators.pacing import Retry
from evaluators.score import Score
from evaluators.scoring import score_output
from tests.proxy.harness import Engine, json_answer
from tests.proxy.provider_wires import TEXT, WIRES, Wire

from .sets import make_set, row, said

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    # aiohttp's pool, inside litellm, closes its sockets after the loop has gone
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
KEY = "canary-0123456789-sEcReT"
ASKED = [{"role": "system", "content": "You examine."}, {"role": "user", "content": "Well?"}]
SCHEMA = {"type": "object", "properties": {"grade": {"type": "string"}}, "required": ["grade"]}
QUICK = Retry(attempts=3, first_wait_s=0.001, longest_wait_s=0.01)
CHECK = {"type": "judge", "rubric": "It says when the parcel arrives."}
Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def litellm_is_there() -> None:
    """Importing it takes seconds: not within a test's own deadlines."""
    with warnings.catch_warnings(action="ignore"):
        _litellm()


@pytest.fixture(autouse=True)
def nobody_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    looked_up: list[object] = []
    known = socket.getaddrinfo

    def watched(host: Any, *arguments: Any, **options: Any) -> Any:
        looked_up.append(host)
        return known(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    yield
    assert {str(host) for host in looked_up} <= {"127.0.0.1", "localhost"}


@pytest.fixture(params=["openai", "anthropic", "gemini", "together_ai"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return WIRES[request.param]


def saying(wire: Wire, text: str = TEXT, finish: str | None = None) -> bytes:
    """The wire's answer with this text, and with the provider's own word for how it ended."""
    found = copy.deepcopy(wire.answer())
    choice, content, end = {
        "choices": (lambda: found["choices"][0], lambda c: c["message"], "finish_reason"),
        "content": (lambda: found, lambda c: c["content"][0], "stop_reason"),
        "candidates": (lambda: found["candidates"][0], lambda c: c["content"]["parts"][0], "finishReason"),
    }[next(name for name in ("choices", "candidates", "content") if name in found)]
    content(choice()).update({"content" if "choices" in found else "text": text})
    if finish is not None:
        choice()[end] = finish
    return json.dumps(found).encode()


def always(body: bytes, status: str = "200 OK") -> Answering:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(body, status))

    return answer


def judge(wire: Wire, engine: Engine, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> ProviderJudge:
    monkeypatch.setenv(wire.base, engine.url)
    monkeypatch.setenv(wire.credential, KEY)
    return ProviderJudge(model=wire.served_name, **{"retry": QUICK, "timeout_s": 10.0, **fields})


async def replies(found: ProviderJudge, times: int = 1) -> list[ModelReply]:
    async with found:
        return [await found.reply(ASKED, schema=SCHEMA, seed=7) for _ in range(times)]


async def graded(folder: Path, found: ProviderJudge) -> Score:
    golden = make_set(folder, [row("a", checks=[{"type": "exact"}, CHECK])], "judge: {provider: x/y}\n")
    async with found:
        _, (_, score) = await score_output(
            golden.items[0], said("Friday."), Policy(), services=Services(judge=found)
        )
    return score


async def test_a_reply_is_asked_for_by_schema_with_the_providers_key_and_its_price_is_known(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(always(saying(wire)))
    async with engine.running():
        [reply] = await replies(judge(wire, engine, monkeypatch))
    assert (reply.text, reply.finish_reason, reply.tokens) == (TEXT, "stop", 12)
    assert reply.cost_usd is not None
    assert 1e-7 < reply.cost_usd < 1e-3
    [request] = engine.requests
    assert b"schema" in request
    assert b'"grade"' in request
    assert KEY.encode() in request


def verdict(request: bytes, grade: str = "pass", *, cut: int | None = None) -> str:
    """A verdict that repeats the call's number."""
    body = request.partition(b"\r\n\r\n")[2].decode()
    call = body.partition('\\"call\\": \\"')[2][:16]
    return json.dumps({"call": call, "reason": "It does.", "grade": grade})[:cut]


async def test_a_verdict_makes_a_score(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(saying(wire, verdict(request))))

    engine = Engine(answer)
    async with engine.running():
        score = await graded(tmp_path, judge(wire, engine, monkeypatch))
    assert (score.status, score.value, score.explanation) == ("scored", 1.0, "It does.")
    assert score.metadata == {"judge": wire.served_name}


@pytest.mark.parametrize(
    ("name", "ended"), [("openai", "length"), ("anthropic", "max_tokens"), ("gemini", "MAX_TOKENS")]
)
async def test_a_reply_that_ran_into_max_tokens_is_no_verdict(
    name: str, ended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES[name]

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(saying(wire, verdict(request), ended)))

    engine = Engine(answer)
    async with engine.running():
        score = await graded(tmp_path, judge(wire, engine, monkeypatch))
    assert (score.status, score.label) == ("unscored", "unparseable")
    assert "is cut" in (score.explanation or "")


async def test_an_answer_that_breaks_off_is_never_a_verdict(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the connection breaks it is no answer; where the text does, whatever litellm says of its end, it
    is no verdict."""

    async def broken(request: bytes, writer: asyncio.StreamWriter) -> None:
        whole = json_answer(saying(wire, verdict(request)))
        writer.write(whole[: len(whole) - 40])
        writer.close()

    async def cut(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(saying(wire, verdict(request, cut=-3), "")))

    for answering, status in ((broken, "error"), (cut, "unscored")):
        engine = Engine(answering)
        async with engine.running():
            score = await graded(tmp_path, judge(wire, engine, monkeypatch))
        assert (score.status, score.value) == (status, None)


async def test_a_model_without_structured_output_is_asked_without_it_from_then_on(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        refused = b'"grade"' in request
        body = b'{"error": {"message": "response_format: unknown", "type": "invalid_request_error"}}'
        writer.write(json_answer(body, "400 Bad Request") if refused else json_answer(saying(wire)))

    engine = Engine(answer)
    async with engine.running():
        found = await replies(judge(wire, engine, monkeypatch), 2)
    assert [reply.text for reply in found] == [TEXT, TEXT]
    assert len(engine.requests) == 3


async def test_a_question_that_is_refused_however_it_is_asked_is_an_error_of_this_question_alone(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"error": {"message": f"too long, {KEY}", "type": "invalid_request_error"}}).encode()
    answers = [json_answer(body, "400 Bad Request")] * 2 + [json_answer(saying(wire))]

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[len(engine.requests) - 1])

    engine = Engine(answer)
    async with engine.running():
        async with judge(wire, engine, monkeypatch) as found:
            with pytest.raises(ModelRefused) as error:
                await found.reply(ASKED, schema=SCHEMA, seed=7)
            await found.reply(ASKED, schema=SCHEMA, seed=7)
    assert "too long" in str(error.value)
    assert KEY not in str(error.value)
    assert b'"grade"' in engine.requests[-1], "the next question is asked by schema again"


async def test_a_403_of_a_judge_that_has_answered_is_about_the_question(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"error": {"message": "flagged"}}).encode()
    refused = json_answer(body, "403 Forbidden")
    answers = [refused, json_answer(saying(wire)), refused, refused, json_answer(saying(wire))]

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[len(engine.requests) - 1])

    engine = Engine(answer)
    async with engine.running():
        async with judge(wire, engine, monkeypatch) as found:
            with pytest.raises(ModelUnavailable) as error:
                await found.reply(ASKED, schema=SCHEMA, seed=7)
            assert not isinstance(error.value, ModelRefused), "perhaps its key is not good"
            await found.reply(ASKED, schema=SCHEMA, seed=7)
            with pytest.raises(ModelRefused):
                await found.reply(ASKED, schema=SCHEMA, seed=7)
            await found.reply(ASKED, schema=SCHEMA, seed=7)


@pytest.mark.parametrize("status", ["401 Unauthorized", "404 Not Found"])
async def test_a_judge_that_cannot_be_asked_is_asked_once_and_its_key_is_not_told(
    wire: Wire, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(always(json.dumps({"error": {"message": f"no {KEY}"}}).encode(), status))
    async with engine.running():
        with pytest.raises(ModelUnavailable) as error:
            await replies(judge(wire, engine, monkeypatch))
    assert (len(engine.requests), isinstance(error.value, ModelRefused)) == (1, False)
    assert KEY not in str(error.value)
    assert status[:3] in str(error.value)


async def test_a_failing_judge_is_asked_as_often_as_we_say_and_no_oftener(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(always(b'{"error": {"message": "oops"}}', "500 Internal Server Error"))
    async with engine.running():
        with pytest.raises(ModelUnavailable):
            await replies(judge(wire, engine, monkeypatch))
    assert len(engine.requests) == QUICK.attempts


async def test_an_overloaded_judge_is_asked_less_at_a_time_and_everything_is_answered(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = 0

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way
        under_way += 1
        try:
            overloaded = under_way > 2
            await asyncio.sleep(0.02)
        finally:
            under_way -= 1
        body = b'{"error": {"message": "slow down", "type": "rate_limit_error"}}'
        writer.write(json_answer(body, "429 Too Many Requests") if overloaded else json_answer(saying(wire)))

    engine = Engine(answer)
    patient = Retry(attempts=12, first_wait_s=0.005, longest_wait_s=0.1)
    async with engine.running():
        async with judge(wire, engine, monkeypatch, concurrency=8, retry=patient) as found:
            said = await asyncio.gather(
                *(found.reply(ASKED, schema=SCHEMA, seed=number) for number in range(16))
            )
            assert found.lowest_concurrency <= 2
    assert [reply.text for reply in said] == [TEXT] * 16


async def test_how_long_to_wait_is_the_providers_to_say(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str | None] = []
    monkeypatch.setattr(
        Retry, "wait_s", lambda self, attempt, retry_after, jitter: heard.append(retry_after) or 0.0
    )

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if len(engine.requests) > 1:
            writer.write(json_answer(saying(wire)))
            return
        body = b'{"error": {"message": "slow down"}}'
        head = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 3\r\n"
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)

    engine = Engine(answer)
    async with engine.running():
        await replies(judge(wire, engine, monkeypatch))
    assert heard == ["3"]


async def test_a_judge_that_hangs_is_given_up_as_a_whole(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        whole = json_answer(saying(wire))
        for byte in whole[:-1]:  # each byte resets a timeout between bytes
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    engine = Engine(answer)
    async with engine.running():
        with pytest.raises(ModelUnavailable, match=r"no whole answer in 0.4 s|Timeout"):
            await replies(judge(wire, engine, monkeypatch, timeout_s=0.4))
        await asyncio.wait_for(engine.gone.wait(), 5)  # and its connection is closed


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_an_address_of_the_sets_own_never_gets_the_providers_key(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES[name]
    engine = Engine(always(saying(wire)))
    async with engine.running():
        monkeypatch.setenv(wire.credential, KEY)
        found = ProviderJudge(model=wire.served_name, api_base=engine.url, retry=QUICK)
        await replies(found)
        monkeypatch.setenv(JUDGE_KEY, "meant-for-it")
        await replies(ProviderJudge(model=wire.served_name, api_base=engine.url, retry=QUICK))
    assert found.identity == f"{wire.served_name} at {engine.url}"
    assert all(KEY.encode() not in request for request in engine.requests)
    assert [b"meant-for-it" in request for request in engine.requests] == [False, True]


async def test_attempts_that_were_cancelled_give_their_place_back() -> None:
    attempts = Attempts(1, QUICK)
    started = asyncio.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(attempts.make(forever))
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    async def quick() -> int:
        return 1

    assert await asyncio.wait_for(attempts.make(quick), 1) == 1


def test_litellm_is_not_imported_before_a_providers_judge_is_asked() -> None:
    program = "import sys, evaluators.judges.services; sys.exit('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("field", ["temperature", "max_tokens"])
async def test_a_field_that_only_the_provider_knows_it_does_not_take_is_left_out(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["openai"]
    error = {"message": f"Unsupported value: '{field}'", "param": field}
    given = f'"{field}"'.encode()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        refused = given in request
        body = json.dumps({"error": error}).encode() if refused else saying(wire)
        writer.write(json_answer(body, "400 Bad Request" if refused else "200 OK"))

    engine = Engine(answer)
    async with engine.running():
        assert [reply.text for reply in await replies(judge(wire, engine, monkeypatch), 2)] == [TEXT, TEXT]
    assert [given in request for request in engine.requests] == [True, False, False]
    assert (b'"max_completion_tokens"' in engine.requests[-1]) is (field == "max_tokens")
    assert all(b'"grade"' in request for request in engine.requests), "the schema is asked for all along"
