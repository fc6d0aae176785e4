"""A preflight names what has drifted, tells what is broken from what is new, and says what it did not see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from evaluators.errors import EvaluatorError, RunRefused
from evaluators.pacing import Retry
from evaluators.preflight import (
    CHECKS,
    PROBES,
    Asker,
    NotServed,
    Report,
    artefacts,
    behaviour,
    drift,
    preflight,
    side,
)
from evaluators.preflight.answers import Asked, Said
from evaluators.preflight.engine import EngineFacts, Tokens
from evaluators.preflight.finding import Finding
from evaluators.preflight.traffic import RecordedPrompt, context, recorded_prompts
from evaluators.score import ToolCall
from tests.proxy.harness import ADMIN, running_proxy, snapshot
from turnout.simulation import Profile, SimulatedEngine

BY_NAME = {probe.name: probe for probe in PROBES}


def tokens(*texts: str, first: int = 0) -> Tokens:
    return Tokens(ids=tuple(range(first, first + len(texts))), texts=texts)


def facts(**fields: Any) -> EngineFacts:
    base = {
        "engine": "vllm",
        "engine_version": "0.32.0",
        "max_model_len": 8192,
        "texts": {"prose": tokens("a", "b")},
        "chats": {"plain": tokens("<u>", "hi", "<a>"), "system": tokens("<s>", "<u>", "<a>")},
        "sampling": {"temperature": 1.0, "top_p": 1.0},
    }
    return EngineFacts(**{**base, **fields})


def said(text: str = "yes", **fields: Any) -> Said:
    base: dict[str, Any] = {"outcome": "complete", "text": text, "prompt_tokens": 10, "completion_tokens": 5}
    return Said(**{**base, "ttft_ms": 10.0, "latency_ms": 20.0, **fields})


def calling(arguments: str, name: str = "order_status") -> Said:
    return said("", tool_calls=(ToolCall(name=name, arguments=arguments),))


def asked(name: str, control: Said, candidate: Said, stream: Said | None = None) -> Asked:
    return Asked(
        probe=BY_NAME[name],
        control=control,
        control_stream=control,
        candidate=candidate,
        candidate_stream=stream or candidate,
    )


# -- how prompts are read ----------------------------------------------------------------------------------


def test_equal_engines_have_no_drift_and_one_fingerprint() -> None:
    found = [
        check(facts(), facts()).status for check in (drift.tokenizer, drift.template, drift.sampling_defaults)
    ]
    assert found == ["ok", "ok", "ok"]
    assert facts().fingerprint({}) == facts().fingerprint({})
    assert facts().fingerprint({}) != facts(max_model_len=4096).fingerprint({})
    assert facts().fingerprint({}) != facts().fingerprint({"tokenizer.json": "sha256:x"})


def test_an_injected_system_prompt_is_template_drift_and_says_where() -> None:
    new = facts(
        chats={"plain": tokens("<s>", "Be nice", "<u>", "hi", "<a>"), "system": tokens("<s>", "<u>", "<a>")}
    )
    found = drift.template(facts(), new)
    assert (found.status, found.items) == ("fail", ("plain",))
    assert "at character 1: '<u>hi<a>' became '<s>Be nice<u>hi<a>'" in found.sentence
    assert drift.tokenizer(facts(), new).status == "ok"


def test_another_tokenizer_is_no_template_drift_where_the_texts_are_the_same() -> None:
    new = facts(
        texts={"prose": tokens("a", "b", "c", first=7)},
        chats={
            "plain": tokens("<u>", "h", "i", "<a>", first=3),
            "system": tokens("<s>", "<u>", "<a>", first=3),
        },
    )
    found = drift.tokenizer(facts(), new)
    assert (found.status, found.numbers["fertility"]) == ("fail", 1.5)
    assert drift.template(facts(), new).status == "ok"


def test_a_template_that_renders_only_on_one_side_is_drift() -> None:
    found = drift.template(facts(), facts(chats={"plain": facts().chats["plain"]}))
    assert (found.status, found.items) == ("fail", ("system",))


def test_sampling_defaults_are_named() -> None:
    found = drift.sampling_defaults(facts(), facts(sampling={"temperature": 0.6, "top_p": 1.0, "top_k": 20}))
    assert (found.status, found.items) == ("fail", ("temperature", "top_k"))
    assert "temperature 1.0 -> 0.6" in found.sentence


def test_files_tell_the_sampling_defaults_of_an_engine_that_does_not_render() -> None:
    bare = facts(sampling=None)
    found = drift.sampling_defaults(bare, bare, {"generation_config.json": ["temperature 1.0 -> 0.6"]})
    assert (found.status, found.items) == ("fail", ("temperature",))
    assert drift.sampling_defaults(bare, bare, {}).status == "unchecked"


def test_an_engine_without_these_endpoints_leaves_them_unchecked_and_says_why() -> None:
    bare = EngineFacts(engine="tgi", missing={"/tokenize": "POST /tokenize answers 404"})
    found = drift.tokenizer(facts(), bare)
    assert found.status == "unchecked"
    assert "the candidate's engine (tgi): POST /tokenize answers 404" in found.sentence
    assert bare.fingerprint({}) is None


def test_files_are_hashed_and_settings_compared_but_nothing_is_loaded(tmp_path: Path) -> None:
    for name, temperature in (("one", 1.0), ("two", 0.6)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "generation_config.json").write_text(json.dumps({"temperature": temperature}))
        (folder / "tokenizer.json").write_text("{}")
        (folder / "model.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (tmp_path / "two" / "config.json").symlink_to("/etc/hostname")
    one, two = tmp_path / "one", tmp_path / "two"
    hashes = [artefacts.of_folder(folder) for folder in (one, two)]
    assert [sorted(found) for found in hashes] == [["generation_config.json", "tokenizer.json"]] * 2
    found = drift.artefacts(*hashes, artefacts.changed_settings(one, two))
    assert (found.status, found.items) == ("warn", ("generation_config.json",))
    assert "temperature 1.0 -> 0.6" in found.sentence
    with pytest.raises(artefacts.NoFolder, match="name the folder"):
        artefacts.of_folder(tmp_path)
    assert artefacts.of_tags({"artefact.tokenizer.json": "sha256:a", "owner": "x"}) == {
        "tokenizer.json": "sha256:a"
    }


# -- what is answered --------------------------------------------------------------------------------------

GOOD, BAD = '{"order": 17, "detail": "full"}', '{"order": 17, "detail": '


@pytest.mark.parametrize(
    ("control", "candidate", "status"),
    [
        (calling(GOOD), calling(GOOD), "ok"),
        (calling(GOOD), calling(BAD), "fail"),
        (calling(GOOD), calling('{"order": 99, "detail": "full"}'), "fail"),
        (calling(GOOD), calling(GOOD, name="delete_order"), "fail"),
        (calling(BAD), calling(BAD), "warn"),
        (calling(GOOD), replace(calling(BAD), outcome="length"), "ok"),
        (calling(GOOD), said("no call at all"), "fail"),
        (
            said(outcome="upstream_rejected", error="400"),
            said(outcome="upstream_rejected", error="400"),
            "unchecked",
        ),
    ],
)
def test_tool_calls_fail_for_what_is_newly_broken(control: Said, candidate: Said, status: str) -> None:
    assert behaviour.tool_calls([asked("tool_named", control, candidate)]).status == status


def test_a_broken_stream_is_found_where_the_whole_answer_holds() -> None:
    found = behaviour.tool_calls([asked("tool_named", calling(GOOD), calling(GOOD), calling(BAD))])
    assert (found.status, found.items) == ("fail", ("tool_named",))
    assert (
        behaviour.streaming([asked("tool_named", calling(GOOD), calling(GOOD), calling(BAD))]).status
        == "fail"
    )
    assert behaviour.streaming([asked("plain", said("a"), said("a"), said("b"))]).status == "note"


def test_a_schema_is_held() -> None:
    right, wrong = said('{"topic": "billing", "urgent": true}'), said('{"topic": "billing"}')
    assert behaviour.json_schema([asked("schema", right, right)]).status == "ok"
    found = behaviour.json_schema([asked("schema", right, wrong)])
    assert found.status == "fail"
    assert "'urgent' is a required property" in found.sentence


@pytest.mark.parametrize(
    ("now", "status"), [([50, 50, 50, 50], "ok"), ([100, 100, 101, 99], "fail"), ([50, 50, 50, 200], "warn")]
)
def test_output_tokens_fail_only_when_they_are_surely_more(now: list[int], status: str) -> None:
    pairs = [asked("plain", said(completion_tokens=50), said(completion_tokens=count)) for count in now]
    assert behaviour.output_tokens(pairs, same_tokenizer=True).status == status


def test_answers_that_all_ran_into_the_limit_say_nothing_of_length() -> None:
    cut = said(outcome="length", completion_tokens=96)
    found = behaviour.output_tokens([asked("plain", cut, cut)] * 5, same_tokenizer=True)
    assert found.status == "unchecked"


def test_lost_answers_fail_and_unreachable_versions_are_inconclusive() -> None:
    lost = behaviour.answers([asked("plain", said(), said(outcome="upstream_error", error="500"))])
    assert lost.status == "fail"
    nobody = Said(outcome=None, error="ConnectError")
    silent = behaviour.answers([asked("plain", nobody, nobody)])
    assert silent.status == "unchecked"
    assert report(silent).verdict == "inconclusive"
    broken = said(outcome="upstream_error", error="500")
    both = behaviour.answers([asked("plain", broken, broken)])
    assert (both.status, both.sentence) == ("unchecked", "Not checked: production answers no probe: 500.")
    assert report(lost).verdict == "fail"
    assert behaviour.prompt_tokens([asked("plain", said(), said(prompt_tokens=17))]).status == "warn"


def test_streams_that_break_off_are_lost_answers_too() -> None:
    cut = said(outcome="truncated", error="upstream_cut")
    found = behaviour.answers([asked("plain", said(), said(), cut), asked("turns", said(), said())])
    assert (found.status, found.items) == ("fail", ("plain",))
    assert found.sentence == "1 of 2 probes that production answers get no answer, streamed: upstream_cut."
    both = replace(asked("plain", said(), said(), cut), control_stream=cut)
    assert behaviour.answers([both]).status == "ok", "as before"


def test_who_has_too_much_to_do_has_lost_nothing() -> None:
    busy = said(outcome="overloaded", error="429: later")
    none = behaviour.answers([asked("plain", said(), busy)])
    assert (none.status, report(none).verdict) == ("unchecked", "inconclusive")
    assert "429: later" in none.sentence
    some = behaviour.answers([asked("plain", said(), busy), asked("turns", said(), said())])
    assert some.status == "warn"


def report(*findings: Finding) -> Report:
    return Report(model="chat", control_version=1, candidate_version=2, findings=findings)


def test_an_intended_difference_is_accepted_by_name() -> None:
    ok = Finding(check="answers", status="ok", sentence="fine")
    changed = report(ok, drift.template(facts(), facts(chats={"plain": tokens("x")})))
    assert changed.verdict == "fail"
    accepted = changed.accepting({"template"})
    assert accepted.verdict == "pass"
    assert "warning about template" in accepted.sentence
    assert changed.accepting({"tokenizer"}).verdict == "fail"


def test_what_an_engine_says_at_a_sentences_end_keeps_its_own_full_stop_only() -> None:
    refused = said(outcome="upstream_rejected", error="400: The model has no tools.")
    found = behaviour.answers([asked("plain", said(), refused)])
    assert found.sentence.endswith("get no answer: 400: The model has no tools.")
    assert behaviour.answers([asked("plain", refused, said())]).sentence.endswith("no tools.")


# -- recorded prompts --------------------------------------------------------------------------------------


def prompt(tokens: int, asks: int = 0) -> RecordedPrompt:
    return RecordedPrompt(exchange_id=f"e{tokens}", question=None, prompt_tokens=tokens, max_tokens=asks)


def test_prompts_that_would_not_fit_stand_against_the_candidate() -> None:
    prompts = [prompt(100), prompt(4000, 200), prompt(50)]
    counts = [one.prompt_tokens for one in prompts]
    found = context(facts(), facts(max_model_len=4096), prompts, counts)
    assert (found.status, found.items, found.numbers["longest"]) == ("fail", ("e4000",), 4200)
    assert context(facts(), facts(), prompts, counts).status == "ok"
    assert context(facts(), facts(max_model_len=5000), prompts, counts).status == "warn"
    assert context(facts(), facts(max_model_len=None), prompts, counts).status == "unchecked"


class Api:
    """The control API: one model with two versions, and what it has recorded."""

    def __init__(self, *replicas: str, exchanges: list[dict[str, Any]] | None = None) -> None:
        self.exchanges = exchanges or []
        self.replicas = replicas

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        if path == "/api/exchanges":
            wanted = (params or {}).get("origin")
            return [one for one in self.exchanges if wanted in (None, one["origin"])]
        if path.startswith("/api/exchanges/"):
            return next(one for one in self.exchanges if path.endswith(one["exchange_id"]))
        names = ("production", "candidate", "idle")
        versions = [
            {
                "version": n,
                "aliases": [names[n - 1]],
                "endpoint": {"replicas": [url], "served_name": "chat", "engine": "vllm"} if url else None,
                "tags": {},
            }
            for n, url in enumerate(self.replicas, start=1)
        ]
        return {"name": "chat", "production": 1, "versions": versions}

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        raise AssertionError(path)


def test_recorded_chats_are_found_among_all_that_is_recorded() -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 7}
    base = {
        "path": "/v1/chat/completions",
        "role": "primary",
        "origin": "live",
        "prompt_tokens": 5,
        "clipped": False,
    }
    kept = [
        base | {"exchange_id": "a", "request": json.dumps(body)},
        base | {"exchange_id": "b", "request": None},
        base | {"exchange_id": "c", "origin": "golden"},
        base | {"exchange_id": "d", "path": "/v1/embeddings"},
        base | {"exchange_id": "e", "clipped": True, "request": json.dumps(body)},
    ]
    found = recorded_prompts(Api("x", exchanges=kept), "chat", 10)
    assert [(one.exchange_id, one.max_tokens, one.question is None) for one in found] == [
        ("a", 7, False),
        ("b", 0, True),
        ("e", 7, False),  # the answer was longer than what is recorded, the request is whole
    ]


# -- the whole, through the proxy --------------------------------------------------------------------------


async def held(data: Path, control: SimulatedEngine, candidate: SimulatedEngine) -> Report:
    api = Api(control.url, candidate.url)
    async with running_proxy(data, snapshot({1: control.url, 2: candidate.url}, served_name="chat")) as proxy:
        async with Asker(base_url=f"http://127.0.0.1:{proxy.port}", model="chat", token=ADMIN) as asker:
            sides = side(api, "chat", "production"), side(api, "chat", "candidate")
            found = await preflight("chat", *sides, api, asker)
        assert {exchange.origin for exchange in proxy.exchanges()} == {"golden"}
    return found


def status(report: Report) -> dict[str, str]:
    return {finding.check: finding.status for finding in report.findings}


async def test_a_key_that_the_proxy_does_not_know_concludes_nothing(tmp_path: Path) -> None:
    """It says nothing of the versions: an inconclusive preflight would stand until one of them changes."""
    async with SimulatedEngine(Profile(name="chat")) as engine:
        api, table = Api(engine.url, engine.url), snapshot({1: engine.url, 2: engine.url}, keys={"0": "acme"})
        async with running_proxy(tmp_path, table) as proxy:
            async with Asker(base_url=f"http://127.0.0.1:{proxy.port}", model="chat", token=ADMIN) as asker:
                sides = side(api, "chat", "production"), side(api, "chat", "candidate")
                with pytest.raises(RunRefused, match=r"with 401: .* set TURNOUT_API_KEY to a key"):
                    await preflight("chat", *sides, api, asker)


async def test_an_identical_engine_passes_and_what_was_not_seen_is_said(tmp_path: Path) -> None:
    async with SimulatedEngine(Profile(name="chat")) as one, SimulatedEngine(Profile(name="chat")) as two:
        found = await held(tmp_path, one, two)
    assert found.verdict == "pass", found.to_json()
    states = status(found)
    assert tuple(states) == tuple(check for check in CHECKS if check in states)
    assert set(states) == set(CHECKS)
    assert (
        states["tokenizer"] == states["template"] == states["answers"] == states["greedy_agreement"] == "ok"
    )
    assert states["sampling_defaults"] == states["artefacts"] == "unchecked"
    assert found.control_fingerprint == found.candidate_fingerprint is not None


async def test_a_shorter_context_and_a_dead_engine_are_found(tmp_path: Path) -> None:
    short = Profile(name="chat", max_model_len=512)
    async with SimulatedEngine(Profile(name="chat")) as one, SimulatedEngine(short) as two:
        found = await held(tmp_path / "short", one, two)
    assert status(found)["context"] == "warn"
    assert found.control_fingerprint != found.candidate_fingerprint
    async with SimulatedEngine(Profile(name="chat")) as one:
        async with SimulatedEngine(Profile(name="chat", error_rate=1.0)) as two:
            found = await held(tmp_path / "dead", one, two)
    assert found.verdict == "fail"
    assert status(found)["answers"] == "fail"


@pytest.mark.parametrize("fault", ["429", "503"])
async def test_a_probe_that_comes_too_soon_is_put_again(tmp_path: Path, fault: str) -> None:
    async with SimulatedEngine(Profile(name="chat"), faults=fault) as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}, served_name="chat")) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            quick = Retry(attempts=3, first_wait_s=0.05)
            async with Asker(base_url=url, model="chat", token=ADMIN, retry=quick) as asker:
                assert (await asker.ask(BY_NAME["plain"], 1, stream=False)).outcome == "overloaded"
                assert engine.counters.requests == 3
                asking = asyncio.ensure_future(asker.ask(BY_NAME["plain"], 1, stream=True))
                await engine.until(lambda counters: counters.requests > 3)
                engine.misbehave("ok")
                assert (await asking).outcome == "complete"


async def test_a_providers_version_has_no_engine_to_ask_and_is_held_by_its_answers(tmp_path: Path) -> None:
    """It has no replica: what an engine would say of itself is not checked, and the answers still are."""
    async with SimulatedEngine(Profile(name="chat")) as one, SimulatedEngine(Profile(name="chat")) as two:
        api = Api(one.url, two.url)
        provider = replace(side(api, "chat", "candidate"), replicas=(), engine="litellm")
        routes = snapshot({1: one.url, 2: two.url}, served_name="chat")
        async with running_proxy(tmp_path, routes) as proxy:
            async with Asker(base_url=f"http://127.0.0.1:{proxy.port}", model="chat", token=ADMIN) as asker:
                known = side(api, "chat", "production")
                found = [
                    await preflight("chat", known, provider, api, asker),
                    await preflight("chat", provider, known, api, asker),
                ]
    for report in found:
        assert report.verdict == "pass", report.to_json()
        states = status(report)
        assert states["tokenizer"] == states["template"] == "unchecked"
        assert states["answers"] == states["tool_calls"] == "ok"
    sentences = {finding.check: finding.sentence for finding in found[0].findings}
    assert "litellm" in sentences["context"]


async def test_it_asks_no_other_host_than_the_registry_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.preflight.engine import EngineClient

    async with SimulatedEngine(Profile(name="chat")) as engine:
        async with EngineClient(replica=engine.url, served_name="chat", engine="vllm") as client:
            transport = httpx.MockTransport(
                lambda request: httpx.Response(302, headers={"location": engine.url})
            )
            monkeypatch.setattr(
                client, "_client", httpx.AsyncClient(base_url=engine.url, transport=transport)
            )
            found = await client.facts(PROBES)
    assert found.texts == {}
    assert "answers 302" in found.missing["/tokenize"]


def test_a_version_that_is_served_nowhere_is_refused() -> None:
    with pytest.raises(NotServed, match="served nowhere"):
        side(Api("http://a:1", "", ""), "chat", "candidate")
    with pytest.raises(EvaluatorError, match="no version 'canary'"):
        side(Api("http://a:1"), "chat", "canary")


# -- replicas ----------------------------------------------------------------------------------------------


OTHER = facts(chats={"plain": tokens("<s>", "pirate", "hi", first=50), "system": tokens("<s>", "<u>", "<a>")})
NOTHING = EngineFacts(engine="vllm", missing={"/tokenize": "POST /tokenize: ConnectError"})


@pytest.mark.parametrize(
    ("control", "candidate", "expected", "words"),
    [
        ({"a": facts()}, {"b": facts()}, "ok", "1 of production, 1 of the candidate"),
        ({"a": facts()}, {"b": facts(), "c": facts()}, "ok", "2 of the candidate"),
        ({"a": facts()}, {"b": OTHER}, "ok", "1 of the candidate"),  # drift, but all of it alike
        ({"a": facts()}, {"b": facts(), "c": OTHER}, "fail", "c has another chat template than b"),
        ({"a": facts(), "d": OTHER}, {"b": facts()}, "warn", "production: d has another chat template"),
        ({"a": facts()}, {"b": NOTHING, "c": facts(), "d": OTHER}, "fail", "nothing is known of b"),
        ({"a": facts()}, {"b": facts(), "c": NOTHING}, "warn", "nothing is known of c"),
        ({"a": NOTHING}, {"b": NOTHING, "c": NOTHING}, "unchecked", "no engine says"),
        ({"a": facts()}, {"b": NOTHING}, "unchecked", "no engine of the candidate says how it reads"),
        ({"a": NOTHING}, {"b": facts()}, "unchecked", "no engine of production says how it reads"),
        ({"a": facts()}, {}, "ok", "0 of the candidate"),  # a provider
    ],
)
def test_replicas_of_one_version_are_to_read_alike(
    control: dict[str, EngineFacts], candidate: dict[str, EngineFacts], expected: str, words: str
) -> None:
    found = drift.replicas(control, candidate)
    assert found.status == expected
    assert words in found.sentence


async def test_a_replica_that_serves_something_else_fails_the_candidate(tmp_path: Path) -> None:
    """The first replica alone would have passed."""
    stray = Profile(name="chat", max_model_len=512)
    async with (
        SimulatedEngine(Profile(name="chat")) as one,
        SimulatedEngine(Profile(name="chat")) as two,
        SimulatedEngine(stray) as three,
    ):
        api = Api(one.url, two.url)
        table = snapshot({1: one.url, 2: two.url}, served_name="chat")
        async with running_proxy(tmp_path, table) as proxy:
            async with Asker(base_url=f"http://127.0.0.1:{proxy.port}", model="chat", token=ADMIN) as asker:
                control, candidate = side(api, "chat", "production"), side(api, "chat", "candidate")
                alone = await preflight("chat", control, candidate, api, asker)
                both = replace(candidate, replicas=(two.url, three.url))
                found = await preflight("chat", control, both, api, asker)
    assert (alone.verdict, found.verdict, status(found)["replicas"]) == ("pass", "fail", "fail")
    [said] = [one for one in found.findings if one.check == "replicas"]
    assert f"{three.url} has another context length than {two.url}" in said.sentence
    assert found.candidate_fingerprint != alone.candidate_fingerprint
