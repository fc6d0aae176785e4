"""The example set through the real proxy, to simulated engines that answer from its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.comparison import Comparison, compare
from evaluators.loading import load_golden_set
from evaluators.runner import RunLimits, run_questions
from evaluators.summary import RunResults, summarise
from evaluators.target import ProxyTarget
from experiments.ledger.exchange import ExchangeRecord
from tests.proxy.harness import ADMIN, Proxy, running_proxy, snapshot
from turnout.simulation import AnswerKey, Profile, SimulatedEngine

from .sets import SUPPORT
from .test_runner import Kept

GOLDEN = load_golden_set(SUPPORT)


async def results(proxy: Proxy, version: int) -> RunResults:
    sink = Kept()
    url = f"http://127.0.0.1:{proxy.port}"
    async with ProxyTarget(base_url=url, model="chat", version=version, token=ADMIN) as target:
        await run_questions(GOLDEN, target, sink, limits=RunLimits(concurrency=8))
    return RunResults.of(f"run-{version}", version, GOLDEN.hash, 1, sink.rows)


async def compared(
    data: Path, key: AnswerKey, control: Profile, candidate: Profile
) -> tuple[Comparison, list[ExchangeRecord]]:
    async with SimulatedEngine(control, key=key) as one, SimulatedEngine(candidate, key=key) as two:
        async with running_proxy(data, snapshot({1: one.url, 2: two.url}, served_name="chat")) as proxy:
            runs = [await results(proxy, version) for version in (1, 2)]
            exchanges = proxy.exchanges()
    return compare(GOLDEN, *runs), exchanges


@pytest.mark.parametrize(("quality", "verdict"), [(0.97, "pass"), (0.7, "inconclusive"), (0.3, "fail")])
async def test_the_golden_set_stops_the_worse_version_and_no_other(
    tmp_path: Path, support_key: AnswerKey, quality: float, verdict: str
) -> None:
    control, candidate = Profile(name="chat", quality=0.7), Profile(name="chat", quality=quality)
    found, exchanges = await compared(tmp_path, support_key, control, candidate)
    assert found.verdict == verdict, found.sentence
    assert found.coverage == 1.0
    assert {exchange.origin for exchange in exchanges} == {"golden"}
    assert len(exchanges) == 2 * len(GOLDEN.items)


async def test_a_candidate_whose_engine_is_dead_fails_and_is_not_missing(
    tmp_path: Path, support_key: AnswerKey
) -> None:
    control, candidate = Profile(name="chat"), Profile(name="chat", error_rate=1.0)
    found, _ = await compared(tmp_path, support_key, control, candidate)
    assert (found.verdict, found.coverage, found.gate.candidate) == ("fail", 1.0, 0.0)


async def test_a_perfect_engine_passes_every_check(tmp_path: Path, support_key: AnswerKey) -> None:
    async with SimulatedEngine(Profile(name="chat"), key=support_key) as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}, served_name="chat")) as proxy:
            summary = summarise(GOLDEN, await results(proxy, 1))
    assert (summary.pass_rate, summary.coverage, summary.outcomes) == (
        1.0,
        1.0,
        {"complete": len(GOLDEN.items)},
    )
