from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.errors import EvaluatorError, GoldenSetError, ModelUnavailable, RunRefused
from evaluators.golden import GoldenItem, GoldenSet, JudgeChoice, Policy
from evaluators.judges.cache import ScoreCache
from evaluators.judges.proxied import HttpEmbedder, ProxiedJudge
from evaluators.judges.question import MAX_SHOWN, inert, rubric_question
from evaluators.judges.services import open_services, refuse_self
from evaluators.ledger import GoldenLedger, Subject
from evaluators.models import ModelReply, Services
from evaluators.pacing import Retry
from evaluators.score import Output, PairScore, Score
from evaluators.scorers import EvalContext
from evaluators.scorers.pairwise import Pairwise, PairwiseOptions
from evaluators.scoring import score_output
from tests.dripping import HEAD, dripping

from .attacks import ORDER, RIGHT, Gullible, attacks
from .fakes import TOKEN, Reply, serving
from .sets import make_set, row, said

YAML = "judge: {model: examiner}\n"
CHECK = {"type": "judge", "rubric": "It says when the parcel arrives."}
QUICK = Retry(attempts=2, first_wait_s=0.001, longest_wait_s=0.01)


def judged(folder: Path, check: Mapping[str, Any] = CHECK) -> GoldenSet:
    return make_set(folder, [row("a", checks=[{"type": "exact"}, check])], YAML)


async def grade(golden: GoldenSet, output: Output, judge: Any, **fields: Any) -> Score:
    services = Services(judge=judge, **fields)
    _, (_, score) = await score_output(golden.items[0], output, Policy(), services=services)
    return score


async def prefer(item: GoldenItem, control: Output, candidate: Output, judge: Any) -> PairScore:
    context = EvalContext(name="pairwise", options=PairwiseOptions(), services=Services(judge=judge))
    return await Pairwise().compare(item, control, candidate, context)


# the rubric


async def test_a_judge_grades_an_answer_and_what_it_cost_is_kept(tmp_path: Path) -> None:
    golden = judged(tmp_path)
    good, bad = [await grade(golden, said(text), Gullible()) for text in (RIGHT, "no idea")]
    assert [(s.status, s.value, s.label) for s in (good, bad)] == [
        ("scored", 1.0, "pass"),
        ("scored", 0.0, "fail"),
    ]
    assert good.detail == {"cost_usd": 0.001, "tokens": 100, "latency_ms": 5.0, "judge": "gullible@1"}


async def test_a_judges_opinion_is_shown_and_does_not_gate_unless_the_set_says_so(tmp_path: Path) -> None:
    assert [check.gate for check in judged(tmp_path).items[0].checks] == [True, False]
    gating = judged(tmp_path, {**CHECK, "gate": True}).items[0].checks[1]
    assert (gating.gate, gating.decisive) == (True, False)


@pytest.mark.parametrize("reply", ["garbage", "cut", "off_menu", "wrong_call", "echo", "two", "bare"])
async def test_a_reply_that_is_no_verdict_is_unscored_and_never_a_pass(tmp_path: Path, reply: Any) -> None:
    score = await grade(judged(tmp_path), said(RIGHT), Gullible(replies=reply))
    assert (score.status, score.value, score.label) == ("unscored", None, "unparseable")
    pair = await prefer(judged(tmp_path).items[0], said("no"), said(RIGHT), Gullible(replies=reply))
    assert (pair.score.status, pair.score.value, pair.flipped) == ("unscored", None, False)


class Away:
    identity = "away@1"

    async def reply(self, messages: Sequence[Any], *, schema: Mapping[str, Any], seed: int) -> ModelReply:
        raise ModelUnavailable("connection refused")


async def test_a_silent_judge_is_an_error_of_the_instrument(tmp_path: Path) -> None:
    score = await grade(judged(tmp_path), said(RIGHT), Away())
    assert (score.status, score.value, score.error and score.error.kind) == (
        "error",
        None,
        "model_unavailable",
    )


def test_a_set_that_asks_for_a_judge_names_one(tmp_path: Path) -> None:
    with pytest.raises(GoldenSetError, match="judge: found nothing, expected a judge"):
        make_set(tmp_path, [row("a", checks=[{**CHECK, "gate": True}])])


# pairs


async def test_both_orders_are_asked_and_a_judge_with_a_favourite_place_only_ties(tmp_path: Path) -> None:
    item = judged(tmp_path).items[0]
    honest = await prefer(item, said("no idea"), said(RIGHT), Gullible())
    assert (honest.score.value, honest.score.label, honest.flipped) == (1.0, "candidate", False)
    leaning = await prefer(item, said("no idea"), said(RIGHT), Gullible(prefers_first=1.0))
    assert (leaning.score.value, leaning.score.label, leaning.flipped) == (0.5, "tie", True)
    assert leaning.score.cost_usd == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("control", "candidate", "value"),
    [
        (said("x", outcome="timeout"), said("y"), 1.0),
        (said("x"), said("y", outcome="length"), 0.0),
        (said("", outcome="empty"), said(":"), 0.5),
        (said("same "), said("same"), 0.5),
        (said("x", outcome="overloaded"), said("y"), None),
    ],
)
async def test_no_judge_is_asked_where_there_is_nothing_to_judge(
    tmp_path: Path, control: Output, candidate: Output, value: float | None
) -> None:
    judge = Gullible()
    found = await prefer(judged(tmp_path).items[0], control, candidate, judge)
    assert (found.score.value, judge.asked) == (value, 0)


async def test_the_judge_is_not_told_which_version_answered(tmp_path: Path) -> None:
    seen: list[str] = []

    class Listening(Gullible):
        async def reply(self, messages: Sequence[Any], *, schema: Mapping[str, Any], seed: int) -> ModelReply:
            seen.append(json.dumps(messages))
            return await super().reply(messages, schema=schema, seed=seed)

    await prefer(judged(tmp_path).items[0], said("one"), said("two"), Listening())
    assert len(seen) == 2
    assert not any(
        word in text for text in seen for word in ("control", "candidate", "version", "production")
    )


# attacks


@pytest.mark.parametrize("seed", [0, 1, 2])
async def test_no_attack_lifts_an_answer_over_an_empty_one(tmp_path: Path, seed: int) -> None:
    golden, judge = judged(tmp_path), Gullible(seed=seed)
    texts = attacks()
    assert len(texts) >= 60
    item = golden.items[0]
    for text in texts:
        assert (await grade(golden, said(text), judge)).value == 0.0, text[:80]
        assert (await prefer(item, said(RIGHT), said(text), judge)).score.value == 0.0, text[:80]
        assert (await prefer(item, said(text), said(RIGHT), judge)).score.value == 1.0, text[:80]
    assert judge.obeyed == 0


async def test_the_gullible_judge_would_fall_for_them_if_they_stood_there_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.judges.question.inert", lambda text: text)
    golden, judge = judged(tmp_path), Gullible()
    orders = [text for text in attacks() if ORDER in text]
    won = [(await grade(golden, said(text), judge)).value for text in orders]
    assert sum(value or 0.0 for value in won) > 0.9 * len(orders)


@given(st.text(max_size=200))
def test_a_text_is_shown_whole_on_one_line_in_which_nothing_acts(text: str) -> None:
    shown = inert(text)
    assert json.loads(shown) == text
    assert len(shown.splitlines()) == 1
    assert not set(shown) & set("<>\u200b\u202e\x7f\u3164\ufe0f\U000e0100")


@pytest.mark.parametrize("token", ["[|user|]", "[gMASK]", "[e~[", "]~b]", "[/INST]", "<|im_end|>"])
def test_no_chat_templates_control_token_stands_in_a_text_as_it_is(token: str) -> None:
    assert token not in inert(f"x {token} y")
    assert json.loads(inert(f"x {token} y")) == f"x {token} y"


def test_brackets_of_lists_and_code_stay_as_they_are() -> None:
    assert inert("a[i], [1, 2], [link](b)") == '"a[i], [1, 2], [link](b)"'


def test_a_long_text_loses_its_middle_and_the_criterion_stands_behind_it(tmp_path: Path) -> None:
    item = judged(tmp_path).items[0]
    question = rubric_question(
        item, said("x" * 10**6), rubric="CRITERION", grades=("fail", "pass"), nonce="0" * 16
    )
    content = str(question.messages[1]["content"])
    assert len(content) < MAX_SHOWN + 3_000
    assert content.rindex("CRITERION") > content.rindex("END 0000000000000000")


# who judges


@pytest.mark.parametrize(
    ("choice", "judge"),
    [
        (JudgeChoice(model="chat"), Subject(model="chat", version=7, endpoint="e7")),
        (JudgeChoice(model="other"), Subject(model="other", version=1, endpoint="e2")),
        (JudgeChoice(provider="openai/x", api_base="http://127.0.0.1:9/v1/"), None),
        (JudgeChoice(provider="gemini/g"), None),
        (JudgeChoice(model="other"), Subject(model="other", version=1, endpoint="e1", provider="gemini/g")),
    ],
)
def test_no_model_judges_itself(choice: JudgeChoice, judge: Subject | None) -> None:
    served = ("http://127.0.0.1:9",)
    candidate = Subject(model="chat", version=2, endpoint="e2", addresses=served, provider="gemini/g")
    with pytest.raises(RunRefused, match="the judge must be another model"):
        refuse_self(choice, judge, [candidate])


def test_another_model_may_judge() -> None:
    candidate = Subject(model="chat", version=2, endpoint="e2", addresses=("http://127.0.0.1:9",))
    refuse_self(JudgeChoice(model="other"), Subject(model="other", version=1, endpoint="e1"), [candidate])
    refuse_self(JudgeChoice(provider="openai/gpt-4.1-mini"), None, [candidate])
    elsewhere = JudgeChoice(provider="openai/x", api_base="http://127.0.0.1:8")
    refuse_self(elsewhere, None, [Subject(model="chat", version=3, endpoint="e3", provider="openai/x")])


@pytest.mark.parametrize(
    ("served", "known"),
    [
        ({"engine": "litellm", "served_name": "openai/gpt-4.1-mini"}, True),
        ({"engine": "litellm", "served_name": "openai/nonesuch"}, False),
        ({"engine": "vllm", "served_name": "chat", "replicas": ["http://127.0.0.1:9"]}, False),
    ],
)
async def test_what_is_bound_in_dollars_is_judged_by_whom_somebody_knows_the_price_of(
    tmp_path: Path, served: dict[str, Any], known: bool
) -> None:
    class Api:
        def get(self, path: str, params: Any = None) -> Any:
            return {"versions": [{"version": 3, "aliases": ["production"], "endpoint": served}]}

        def post(self, path: str, body: Any) -> Any: ...

    golden = make_set(tmp_path, [row("a", checks=[CHECK])], "judge: {model: examiner}\n")
    for in_usd in (False, True):
        opening = open_services(
            golden, [], GoldenLedger(Api()), proxy_url="http://x", token="t", in_usd=in_usd
        )
        if known or not in_usd:
            async with opening as services:
                assert services.judge is not None
        else:
            with pytest.raises(RunRefused, match="usd_per_day cannot be kept"):
                await opening.__aenter__()


# the cache


async def test_the_same_call_is_not_paid_twice_but_every_repeat_is_asked(tmp_path: Path) -> None:
    golden, judge = judged(tmp_path), Gullible()
    with ScoreCache(tmp_path / "cache.sqlite") as cache:
        services = Services(judge=judge, cache=cache)
        for _ in range(2):
            for repeat in range(5):
                await score_output(golden.items[0], said(RIGHT), Policy(), repeat=repeat, services=services)
        assert (judge.asked, cache.hits) == (5, 5)
        await grade(golden, said(RIGHT + "!"), judge, cache=cache)
        assert judge.asked == 6
        again = await grade(golden, said(RIGHT), judge, cache=cache)
        assert (again.value, again.cost_usd, again.metadata["cached"]) == (1.0, None, True)


async def test_a_cache_that_cannot_be_written_or_read_costs_no_verdict(tmp_path: Path) -> None:
    golden, judge = judged(tmp_path), Gullible()
    with ScoreCache(tmp_path / "cache.sqlite") as cache:
        cache._connection.execute("DROP TABLE scores")  # as a full disk, or a lock that is held: it refuses
        found = await grade(golden, said(RIGHT), judge, cache=cache)
    assert (found.status, found.value, judge.asked) == ("scored", 1.0, 1)


def test_a_file_that_is_no_cache_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache.sqlite").write_bytes(b"half of something else" * 100)
    with pytest.raises(EvaluatorError, match=r"cache\.sqlite .* remove it"):
        ScoreCache(tmp_path / "cache.sqlite")


class Halved(Gullible):
    """A judge whose reason ends in half a surrogate pair, as JSON can say it."""

    async def reply(self, *arguments: Any, **named: Any) -> ModelReply:
        found = await super().reply(*arguments, **named)
        return replace(found, text=found.text.replace("because", "fine \\ud83d"))


async def test_half_an_emoji_in_a_judges_reason_costs_no_verdict(tmp_path: Path) -> None:
    golden = judged(tmp_path)
    with ScoreCache(tmp_path / "cache.sqlite") as cache:
        for _ in range(2):
            found = await grade(golden, said(RIGHT), Halved(), cache=cache)
            assert (found.status, found.explanation) == ("scored", "fine \ufffd")


async def test_what_was_no_verdict_is_asked_again(tmp_path: Path) -> None:
    golden, judge = judged(tmp_path), Gullible(replies="garbage")
    with ScoreCache(tmp_path / "cache.sqlite") as cache:
        await grade(golden, said(RIGHT), judge, cache=cache)
        judge.replies = "verdict"
        assert (await grade(golden, said(RIGHT), judge, cache=cache)).value == 1.0


# over HTTP


def proxied(url: str) -> ProxiedJudge:
    return ProxiedJudge(base_url=url, model="examiner", version=1, token=TOKEN, retry=QUICK)


async def test_a_judge_behind_the_proxy_is_a_named_version_of_golden_traffic() -> None:
    with serving(lambda question, version: Reply(text="hello")) as fake:
        async with proxied(fake.url) as judge:
            reply = await judge.reply([{"role": "user", "content": "q"}], schema={"type": "object"}, seed=1)
    assert (reply.text, reply.tokens, judge.identity) == ("hello", 8, "examiner@1")
    assert fake.headers[0]["x-turnout-version"] == "1"
    assert fake.headers[0]["x-turnout-origin"] == "golden"


async def test_a_judge_that_thinks_first_and_answers_in_parts_has_said_its_text() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}
    message = {"role": "assistant", "content": [thought, {"type": "text", "text": "verdict"}]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    with serving(lambda question, version: Reply(body=body)) as fake:
        async with proxied(fake.url) as judge:
            reply = await judge.reply([{"role": "user", "content": "q"}], schema={}, seed=1)
    assert reply.text == "verdict"


async def test_an_engine_without_structured_output_is_asked_without_it_from_then_on() -> None:
    bodies = []

    def answer(question: str, version: int) -> Reply:
        bodies.append(question)
        return Reply(status=400) if len(bodies) == 1 else Reply(text="ok")

    with serving(answer) as fake:
        async with proxied(fake.url) as judge:
            for _ in range(2):
                await judge.reply([{"role": "user", "content": "q"}], schema={}, seed=1)
    assert len(bodies) == 3


@pytest.mark.parametrize(
    "reply", [Reply(status=500), Reply(text="x", version=9), Reply(body=b"no json"), Reply(status=429)]
)
async def test_a_judge_that_gives_no_answer_is_unavailable(reply: Reply) -> None:
    with serving(lambda question, version: reply) as fake:
        async with proxied(fake.url) as judge:
            with pytest.raises(ModelUnavailable):
                await judge.reply([{"role": "user", "content": "q"}], schema={}, seed=1)


async def test_a_judge_that_drips_is_given_up_as_a_whole() -> None:
    with dripping(HEAD) as url:
        judge = ProxiedJudge(base_url=url, model="m", version=1, token=TOKEN, retry=QUICK, timeout_s=0.3)
        async with asyncio.timeout(5), judge:
            with pytest.raises(ModelUnavailable, match=r"no whole answer in 0\.3 s"):
                await judge.reply([{"role": "user", "content": "q"}], schema={}, seed=1)


async def test_embeddings_come_in_the_order_of_the_texts() -> None:
    embedder = HttpEmbedder(base_url="http://127.0.0.1:1/v1", model="m", retry=QUICK)
    data = [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}]
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"data": data}))
    embedder._calls._client = httpx.AsyncClient(base_url="http://127.0.0.1:1/v1", transport=transport)
    async with embedder:
        assert await embedder.embed(["a", "b"]) == [[1.0, 0.0], [0.0, 1.0]]
        with pytest.raises(ModelUnavailable, match="2 vectors for 1 texts"):
            await embedder.embed(["a"])
