"""Preflights and judges behind the proxy, where a provider's model answers that does not take every field."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.errors import ModelRefused, ModelUnavailable, RunRefused
from evaluators.golden import GoldenItem
from evaluators.judges.proxied import ProxiedJudge
from evaluators.pacing import Retry
from evaluators.preflight import PROBES, Asker
from evaluators.target import ProxyTarget
from tests.proxy.harness import ADMIN, json_answer
from tests.proxy.provider_wires import TEXT, WIRES
from tests.proxy.test_providers import FLAG_ME, Within, asked, flagging, saying, well

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    # aiohttp's pool, inside litellm, closes its sockets after the loop has gone
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
ITEM = GoldenItem(id="i", hash="", messages=({"role": "user", "content": "?"},), checks=())
QUICK = Retry(attempts=2, first_wait_s=0.001, longest_wait_s=0.01)


@pytest.fixture(autouse=True)
def within_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.worker.ProviderProcess", Within)


async def test_a_judge_that_takes_no_seed_is_asked_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["anthropic"]
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        url = f"http://127.0.0.1:{proxy.port}"
        async with ProxiedJudge(base_url=url, model="chat", version=1, token=ADMIN, retry=QUICK) as judge:
            question = [{"role": "user", "content": "Well?"}]
            schema = {"type": "object", "properties": {"grade": {"type": "string"}}, "required": ["grade"]}
            for seed in (1, 2):
                assert (await judge.reply(question, schema=schema, seed=seed)).text == TEXT
        assert len(engine.requests) == 2
        assert all(b'"grade"' in request for request in engine.requests), "the schema is asked for all along"
        assert len(proxy.exchanges()) == 3, "refused once, known from then on"


OLD = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
    " 'max_completion_tokens' instead.",
    "type": "invalid_request_error",
    "param": "max_tokens",
    "code": "unsupported_parameter",
}


async def test_a_deployment_that_wants_max_completion_tokens_is_asked_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name says nothing of the model behind it."""
    wire = replace(WIRES["openai"], served_name="azure/ours", base="AZURE_API_BASE")
    wire = replace(wire, credential="AZURE_API_KEY")
    monkeypatch.setenv("AZURE_API_VERSION", "2025-01-01-preview")

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if b'"max_tokens"' in request:
            writer.write(json_answer(json.dumps({"error": OLD}).encode(), "400 Bad Request"))
        else:
            await well(wire)(request, writer)

    async with asked(wire, answer, tmp_path, monkeypatch) as (proxy, engine):
        url = f"http://127.0.0.1:{proxy.port}"
        async with Asker(base_url=url, model="chat", token=ADMIN) as asker:
            for stream in (False, True):
                found = await asker.ask(PROBES[0], 1, stream=stream)
                assert found.complete, found.error
        assert len(proxy.exchanges()) == 3, "refused once, known from then on"
        async with ProxiedJudge(base_url=url, model="chat", version=1, token=ADMIN, retry=QUICK) as judge:
            assert (await judge.reply([{"role": "user", "content": "?"}], schema={}, seed=1)).text == TEXT
    assert b'"max_completion_tokens":' in engine.requests[-1]


@pytest.mark.parametrize("status", [None, "401 Unauthorized", "403 Forbidden"])
async def test_for_want_of_a_key_nothing_is_concluded(
    status: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that had would not ask again, though the key were there."""
    wire = WIRES["openai"]
    answer = well(wire) if status is None else saying(status, b'{"error": {"message": "no such key"}}')
    async with asked(wire, answer, tmp_path, monkeypatch) as (proxy, _):
        if status is None:
            monkeypatch.delenv(wire.credential)
        async with Asker(base_url=f"http://127.0.0.1:{proxy.port}", model="chat", token=ADMIN) as asker:
            with pytest.raises(RunRefused, match=r"version 1 cannot be asked: .*; put a good key into"):
                await asker.ask(PROBES[0], 1, stream=False)
        target = ProxyTarget(
            base_url=f"http://127.0.0.1:{proxy.port}", model="chat", version=1, token=ADMIN, retry=QUICK
        )
        async with target:
            if status is None:
                with pytest.raises(RunRefused, match="version 1 cannot be asked"):
                    await target.ask(ITEM, 0)
            else:  # what one item is refused for may be the item
                assert (await target.ask(ITEM, 0)).outcome == "upstream_error"
        [record, *_] = proxy.exchanges()
        code = "provider_credential_refused" if status else "provider_credential_missing"
        assert (record.outcome, record.error_code) == ("upstream_error", code)


async def test_a_question_that_is_refused_like_a_bad_key_ends_no_preflight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a provider's moderation stops is that question's; a plain one tells that the key is good."""
    wire = WIRES["openai"]
    async with asked(wire, flagging(wire, "No."), tmp_path, monkeypatch) as (proxy, _):
        url = f"http://127.0.0.1:{proxy.port}"
        async with Asker(base_url=url, model="chat", token=ADMIN, retry=QUICK) as asker:
            flagged = replace(PROBES[0], messages=tuple(FLAG_ME))
            for stream in (False, True):
                said = await asker.ask(flagged, 1, stream=stream)
                assert said.outcome in ("upstream_error", "upstream_rejected")
            assert (await asker.ask(PROBES[0], 1, stream=False)).complete
        assert [row.error_code for row in proxy.exchanges()] == [
            "provider_credential_refused", None, None, None,
        ]  # fmt: skip


async def test_a_judge_that_refuses_a_flagged_answer_refuses_that_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["openai"]
    flags = flagging(wire, "flagged by moderation")
    async with asked(wire, flags, tmp_path, monkeypatch) as (proxy, _):
        url = f"http://127.0.0.1:{proxy.port}"
        async with ProxiedJudge(base_url=url, model="chat", version=1, token=ADMIN, retry=QUICK) as judge:
            with pytest.raises(ModelRefused, match="flagged by moderation"):
                await judge.reply(FLAG_ME, schema={}, seed=1)
        async with ProxiedJudge(base_url=url, model="chat", version=1, token="no", retry=QUICK) as judge:
            with pytest.raises(ModelUnavailable) as error:
                await judge.reply(FLAG_ME, schema={}, seed=1)
            assert not isinstance(error.value, ModelRefused)


@pytest.mark.parametrize("name", ["openai", "together_ai"])
async def test_a_field_that_the_provider_itself_does_not_take_is_known_by_its_word(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """litellm knows nothing of a deployment's model, nor of a new one."""
    wire, taken = WIRES[name], well(WIRES[name])
    error = {
        "message": "Unsupported value: 'temperature'",
        "param": "temperature",
        "code": "unsupported_value",
    }

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if b'"temperature"' in request:
            writer.write(json_answer(json.dumps({"error": error}).encode(), "400 Bad Request"))
        else:
            await taken(request, writer)

    async with asked(wire, answer, tmp_path, monkeypatch) as (proxy, _):
        async with Asker(base_url=f"http://127.0.0.1:{proxy.port}", model="chat", token=ADMIN) as asker:
            for stream in (False, True):
                found = await asker.ask(PROBES[0], 1, stream=stream)
                assert found.complete, found.error
        assert len(proxy.exchanges()) == 3, "refused once, known from then on"


async def test_a_judge_of_the_registry_that_a_provider_serves_costs_what_it_costs_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = WIRES["openai"]
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, _):
        url = f"http://127.0.0.1:{proxy.port}"
        for provider, dollars in ((wire.served_name, 7 * 0.4e-6 + 5 * 1.6e-6), ("openai/nonesuch", None)):
            async with ProxiedJudge(
                base_url=url, model="chat", version=1, token=ADMIN, provider=provider, retry=QUICK
            ) as judge:
                reply = await judge.reply([{"role": "user", "content": "Well?"}], schema={}, seed=1)
            assert (reply.tokens, reply.cost_usd) == (12, dollars and pytest.approx(dollars))


@pytest.mark.parametrize(
    ("name", "model", "left"),
    [("anthropic", None, b'"temperature"'), ("openai", "openai/o3-mini", b'"seed"')],
)
async def test_a_preflights_probes_are_answered_by_who_takes_no_seed_or_temperature(
    name: str, model: str | None, left: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = replace(WIRES[name], served_name=model or WIRES[name].served_name)
    async with asked(wire, well(wire), tmp_path, monkeypatch) as (proxy, engine):
        async with Asker(base_url=f"http://127.0.0.1:{proxy.port}", model="chat", token=ADMIN) as asker:
            for probe in PROBES:
                for stream in (False, True):
                    found = await asker.ask(probe, 1, stream=stream)
                    assert found.complete, (probe.name, stream, found.error)
        assert left in engine.requests[0]
