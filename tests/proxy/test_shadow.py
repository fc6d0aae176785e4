"""Copies: what is sent, what is shed and why, and that each is one row."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from experiments.ledger.exchange import ExchangeRecord
from experiments.snapshot import Snapshot
from proxy.allowance import Allowance
from proxy.errors import Refusal
from proxy.limits import Limits
from proxy.pressure import Reading
from tests.experiments.ledger import wires
from turnout.simulation import Profile, SimulatedEngine

from .harness import Engine, Proxy, ask, json_answer, running_proxy, snapshot

USAGE = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}'


def mirrored(table: Snapshot, **changes: Any) -> Snapshot:
    """The table with another mirror."""
    route = table.models["chat"]
    mirrors = tuple(replace(mirror, **changes) for mirror in route.mirrors)
    return replace(table, models={"chat": replace(route, mirrors=mirrors)})


@dataclass
class Shadowed:
    proxy: Proxy
    primary: SimulatedEngine
    candidate: SimulatedEngine

    async def ask(self, times: int = 1, **fields: object) -> None:
        for _ in range(times):
            assert b" 200 OK" in await self.proxy.post(ask(**fields))

    async def settled(self) -> None:
        async with asyncio.timeout(10):
            while self.proxy.worker.shadows._copies:
                await asyncio.sleep(0.005)

    def copies(self) -> list[ExchangeRecord]:
        return [row for row in self.proxy.exchanges() if row.role == "shadow"]

    def reasons(self) -> Counter[str | None]:
        return Counter(row.error_code for row in self.copies() if row.outcome == "shed")


@asynccontextmanager
async def shadowed(
    tmp_path: Path, fault: str = "ok", limits: Limits | None = None, **changes: Any
) -> AsyncIterator[Shadowed]:
    async with (
        SimulatedEngine(Profile(name="chat")) as primary,
        SimulatedEngine(Profile(name="chat"), faults=fault) as candidate,
    ):
        table = snapshot({1: primary.url, 2: candidate.url}, share_ppm=1_000_000)
        async with running_proxy(tmp_path, mirrored(table, **changes), limits) as proxy:
            yield Shadowed(proxy, primary, candidate)


async def test_what_is_sent_and_what_is_shed_are_all_there_is(tmp_path: Path) -> None:
    async with shadowed(tmp_path, "hang", max_in_flight=3) as one:
        await one.ask(10)
        await one.candidate.until(lambda counters: counters.requests == 3)
        assert one.reasons() == {"experiment_in_flight": 7}
        await one.proxy.worker.shadows.close()
        assert one.reasons() == {"experiment_in_flight": 7, "worker_stopped": 3}
        rows = one.proxy.exchanges()
        primaries = {row.exchange_id for row in rows if row.role == "primary"}
        assert len(primaries) == 10
        assert {row.pair_id for row in one.copies()} == primaries
        assert one.proxy.worker.shadows.bytes == 0


@pytest.mark.parametrize("fault", ["rst", "5xx"])
async def test_a_candidate_that_always_fails_is_left_alone_and_asked_again_now_and_then(
    tmp_path: Path, fault: str
) -> None:
    limits = Limits(breaker_failures=5, breaker_probe_seconds=0.2)
    async with shadowed(tmp_path, fault, limits) as one:
        for _ in range(5):
            await one.ask()
            await one.settled()
        await one.ask(10)
        asked = len([row for row in one.copies() if row.outcome != "shed"])
        assert 5 <= asked <= 7  # a probe may have come between
        assert one.reasons() == {"breaker_open": 15 - asked}
        one.candidate.misbehave("ok")
        await asyncio.sleep(0.25)
        await one.ask()  # the probe
        await one.settled()
        await one.ask(3)
        await one.settled()
        assert [row.outcome for row in one.copies()[-4:]] == ["complete"] * 4
        rows = one.proxy.exchanges()
        primaries = {row.exchange_id for row in rows if row.role == "primary"}
        assert {row.pair_id for row in one.copies()} == primaries
        assert len(one.copies()) == len(primaries) == 19


async def test_a_limited_provider_is_left_alone_for_as_long_as_it_asks_and_nothing_is_said_of_it(
    tmp_path: Path,
) -> None:
    """A 429 says how many requests were sent, not how good the candidate is: such copies are no pairs."""
    async with shadowed(tmp_path, "429") as one:  # its retry-after is 1 s
        await one.ask(2)
        await one.settled()
        asked = one.candidate.counters.requests
        await one.ask(3)
        await one.settled()
        assert one.candidate.counters.requests == asked
        assert one.reasons() == {"rate_limited": 5}
        assert one.proxy.worker.shadows._breakers._known.popitem()[1].failures == 0
        one.candidate.misbehave("ok")
        await asyncio.sleep(1.05)
        await one.ask()
        await one.settled()
        assert one.copies()[-1].outcome == "complete"


async def test_a_key_that_the_operator_has_yet_to_mend_is_no_failure_of_the_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies without a good key are in no pair, and after a few of them one is sent now and then."""
    monkeypatch.setenv("ENGINE_A_API_KEY", "outdated")

    async def strict(request: bytes, writer: asyncio.StreamWriter) -> None:
        good = b"authorization: Bearer good" in request
        writer.write(json_answer(b"{}") if good else json_answer(b"{}", "401 Unauthorized"))

    limits = Limits(breaker_failures=3, breaker_probe_seconds=0.2)
    async with SimulatedEngine(Profile(name="chat")) as primary, Engine(strict).running() as engine:
        table = snapshot({1: primary.url, 2: engine.url}, share_ppm=1_000_000)
        endpoint = replace(table.endpoints["chat", 2], credential="ENGINE_A_API_KEY")
        table = replace(table, endpoints={**table.endpoints, ("chat", 2): endpoint})
        async with running_proxy(tmp_path, table, limits) as proxy:
            one = Shadowed(proxy, primary, primary)
            for _ in range(5):
                await one.ask()
                await one.settled()
            assert {row.outcome for row in one.copies()} == {"shed"}
            assert one.reasons()["engine_refused_key"] in (3, 4)  # a probe may have come between
            monkeypatch.setenv("ENGINE_A_API_KEY", "good")
            await asyncio.sleep(0.25)
            await one.ask()
            await one.settled()
            assert one.copies()[-1].outcome == "complete"


def test_a_limit_without_a_time_is_waited_for_longer_each_time() -> None:
    allowance, now = Allowance(), 100.0
    waits = []
    for _ in range(8):
        allowance.limited(now, 0.0)
        allowance.limited(now, 0.0)  # one more of those that were under way
        waits.append(allowance.rests_for(now))
        now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    allowance.answered()
    allowance.limited(now, 0.0)
    assert allowance.rests_for(now) == 1.0
    allowance.limited(now, 30.0)
    assert allowance.rests_for(now) == 30.0
    allowance.limited(now, 86_400.0)
    assert allowance.rests_for(now) == 3600.0


async def test_a_copy_that_trickles_is_given_up(tmp_path: Path) -> None:
    async with shadowed(tmp_path, "bandwidth-1", timeout_ms=150) as one:
        await one.ask()
        await one.settled()
        (copy,) = one.copies()
        assert (copy.outcome, copy.error_code) == ("timeout", "copy_timeout")
        await one.candidate.until(lambda counters: counters.running == 0)


async def test_bytes_are_capped_before_and_during(tmp_path: Path) -> None:
    async with shadowed(tmp_path, "big-200000", max_bytes=100_000) as one:
        await one.ask()
        await one.settled()
        await one.ask(padding="x" * 100_000)
        assert one.reasons() == {"experiment_bytes": 2}
        assert one.candidate.counters.requests == 1


async def test_tokens_are_capped(tmp_path: Path) -> None:
    async with shadowed(tmp_path, max_tokens=1) as one:
        for _ in range(3):
            await one.ask()
            await one.settled()
        assert one.reasons() == {"experiment_tokens": 2}
        assert one.proxy.worker.shadows._allowances["dark"].tokens > 1


def test_money_is_tokens_times_prices_and_guessed_where_the_engine_does_not_count() -> None:
    table = snapshot({1: "http://a", 2: "http://b"}, share_ppm=1)
    (mirror,) = (
        mirrored(table, max_cost=3000, prompt_price=10_000_000, completion_price=200_000_000)
        .models["chat"]
        .mirrors
    )
    allowance = Allowance()
    allowance.spend(mirror, 400, b"data: " + USAGE)
    assert (allowance.tokens, allowance.cost) == (12, 7 * 10 + 5 * 200)
    allowance.spend(mirror, 400, b"x" * 40)
    assert (allowance.tokens, allowance.cost) == (12 + 100 + 10, 1070 + 1000 + 2000)
    assert allowance.refusal(mirror, 1) == "experiment_cost"
    assert allowance.refusal(replace(mirror, max_cost=0), 1) is None


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (wires.responses_stream("Guten ", "Tag"), 9 + 2),
        (wires.messages_stream("Guten ", "Tag"), 3 + 2),
        (wires.messages_stream(*("Tag " * 500).split()), 100 + 500),  # the prompt was counted too long ago
        (
            b'{"data":[{"embedding":[%b0]}],"usage":{"prompt_tokens":8,"total_tokens":8}}' % (b"0.25," * 900),
            8,
        ),
    ],
    ids=["responses", "messages", "long messages", "embeddings"],
)
def test_what_the_engine_counts_is_not_guessed_whatever_the_api(answer: bytes, tokens: int) -> None:
    (mirror,) = snapshot({1: "http://a", 2: "http://b"}, share_ppm=1).models["chat"].mirrors
    allowance = Allowance()
    allowance.spend(mirror, 400, answer)
    assert allowance.tokens == tokens


async def test_a_busy_engine_gets_no_copies_whichever_of_the_two_it_is(tmp_path: Path) -> None:
    async with shadowed(tmp_path, waiting=4, kv_ppm=900_000) as one:
        gauge, now = one.proxy.worker.shadows.gauge, one.proxy.worker.loop.time()
        for url in (one.primary.url, one.candidate.url):
            gauge.readings = {url: Reading(waiting=5, kv_ppm=0, at=now + 60)}
            await one.ask()
        gauge.readings = {one.primary.url: Reading(waiting=0, kv_ppm=900_001, at=now + 60)}
        await one.ask()
        gauge.readings = {one.primary.url: Reading(waiting=4, kv_ppm=900_000, at=now + 60)}
        await one.ask()
        await one.settled()
        assert one.reasons() == {"engine_pressure": 3}
        assert one.candidate.counters.requests == 1


async def test_only_engines_that_an_experiment_wants_to_know_of_are_asked(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as one:
        assert one.proxy.worker.shadows.gauge._watched == frozenset()
        one.proxy.worker.adopt(mirrored(one.proxy.worker.snapshot, waiting=1))
        assert one.proxy.worker.shadows.gauge._watched == {one.primary.url, one.candidate.url}


async def test_a_copy_names_nobody_stores_nothing_and_is_marked(tmp_path: Path) -> None:
    async with shadowed(tmp_path, priority=7) as one:
        await one.ask(store=True, metadata={"session_id": "s"}, safety_identifier="x", seed=3)
        await one.settled()
        head, _, body = one.candidate.counters.last_request.partition(b"\r\n\r\n")
        assert b"x-turnout-mirrored: 1" in head.lower()
        assert set(orjson.loads(body)) == {"model", "messages", "seed", "priority"}
        sent = one.primary.counters.last_request
        assert b"x-turnout-mirrored" not in sent
        assert b'"store":true' in sent


async def test_a_copy_that_comes_round_again_is_answered_and_not_mirrored(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as one:
        answer = await one.proxy.post(ask(), headers={"x-turnout-mirrored": "1"})
        assert b" 200 OK" in answer
        (row,) = one.proxy.exchanges()
        assert (row.role, row.pair_id) == ("primary", None)
        assert one.candidate.counters.requests == 0
        assert b"x-turnout-mirrored: 1" in one.primary.counters.last_request.lower()


async def test_tools_are_skipped_or_sent(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "pay"}}]
    async with shadowed(tmp_path) as one:
        await one.ask(tools=tools)
        one.proxy.worker.adopt(mirrored(one.proxy.worker.snapshot, tools="send"))
        await one.ask(tools=tools)
        await one.settled()
        assert one.reasons() == {"tools_skipped": 1}
        assert one.candidate.counters.requests == 1


async def test_requests_of_one_user_are_sampled_together_or_one_by_one(tmp_path: Path) -> None:
    async with shadowed(tmp_path, share_ppm=500_000, sample="request") as one:
        await one.ask(40)
        await one.settled()
        assert 0 < len(one.copies()) < 40
        one.proxy.worker.adopt(mirrored(one.proxy.worker.snapshot, sample="unit"))
        before = len(one.copies())
        await one.ask(20)
        await one.settled()
        assert len(one.copies()) - before in (0, 20)


async def test_what_cannot_be_copied_is_shed_and_the_primary_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:  # as for what nests deeper than this interpreter walks
        raise Refusal(400, "malformed_json", "too deep")

    monkeypatch.setattr("proxy.shadow.copy_body", refuse)
    async with shadowed(tmp_path, timeout_ms=50) as one:
        assert b" 200 OK" in await one.proxy.post(orjson.dumps(ask()))
        assert one.reasons() == {"not_copied": 1}
        await asyncio.sleep(0.1)  # a deadline left behind would write a second row
        assert len(one.copies()) == 1
    assert "could not be mirrored" in caplog.text


@pytest.mark.parametrize(
    ("broken", "shed"), [("proxy.shadow.Shadows._shed_reason", 1), ("proxy.shadow.copy_record", 0)]
)
async def test_a_defect_in_copying_is_never_the_primarys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, broken: str, shed: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(broken, fail)
    async with shadowed(tmp_path) as one:
        assert b" 200 OK" in await one.proxy.post(ask())
        assert one.reasons() == ({"not_copied": 1} if shed else {})
        (row,) = (row for row in one.proxy.exchanges() if row.role == "primary")
        assert row.outcome == "complete"
    assert "could not be mirrored" in caplog.text
