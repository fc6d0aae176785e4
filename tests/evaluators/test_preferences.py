"""What a judge of pairs prefers in two golden runs: counted once, asked once, and never more than it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.comparison import Comparison, compare
from evaluators.estimates import paired_effect
from evaluators.golden import GoldenItem, GoldenSet
from evaluators.judges.cache import ScoreCache
from evaluators.metrics import MetricRow
from evaluators.models import ModelReply, Services
from evaluators.pairing import observed
from evaluators.preferences import JudgedPair, Preferences, judged_pairs, preferred_pair
from evaluators.results import ResultRow
from evaluators.runner import RunLimits
from evaluators.score import Output, PairScore, Score
from evaluators.summary import RunResults
from experiments.statistics.pairwise import Wins, win_rate

from .attacks import RIGHT, Gullible
from .sets import make_set, row

YAML = "judge: {model: examiner}\n"
CHECKS = [{"type": "length", "max": 1000}, {"type": "pairwise"}]
Says = Callable[[int, int], str]  # item's number, repeat


def golden_set(folder: Path, n: int, set_yaml: str = "", **check: Any) -> GoldenSet:
    checks = [CHECKS[0], {**CHECKS[1], **check}]
    return make_set(folder, [row(f"q{k:03}", checks=checks) for k in range(n)], YAML + set_yaml)


def answers(golden: GoldenSet, says: Says, *, version: int, repeats: int = 1) -> RunResults:
    """A run in which the version says so."""

    def stored(item: GoldenItem, number: int, repeat: int) -> list[ResultRow]:
        output = Output(text=says(number, repeat))
        scores = [Score.verdict("length", True, ""), Score.skipped("pairwise", "in pairs")]
        return [
            ResultRow.of(item, repeat, check, score, output)
            for check, score in zip(item.checks, scores, strict=True)
        ]

    rows = [
        one
        for repeat in range(repeats)
        for number, item in enumerate(golden.items)
        for one in stored(item, number, repeat)
    ]
    return RunResults.of(f"run-{version}", version, golden.hash, repeats, rows)


def wrong(number: int, repeat: int) -> str:
    return f"no idea {number}"


def right(number: int, repeat: int) -> str:
    return f"{RIGHT} {number}"


async def versus(
    golden: GoldenSet, control: Says, candidate: Says, judge: Any, *, repeats: int = 1, **fields: Any
) -> tuple[Comparison, MetricRow]:
    runs = [
        answers(golden, says, version=number, repeats=repeats)
        for number, says in enumerate((control, candidate), start=1)
    ]
    services = Services(judge=judge, cache=fields.pop("cache", None))
    found = compare(golden, *runs, await judged_pairs(golden, *runs, services=services, **fields))
    return found, next(metric for metric in found.metrics if metric.evaluator == "pairwise")


async def test_a_judge_that_prefers_the_candidate_is_counted_in_wins_and_losses(tmp_path: Path) -> None:
    golden = golden_set(tmp_path, 40)
    found, shares = await versus(
        golden, wrong, lambda n, r: wrong(n, r) if n % 4 == 0 else right(n, r), Gullible()
    )
    assert (shares.control, shares.candidate, shares.n) == (0.125, 0.875, 40)  # ties are halved
    assert (shares.only_control, shares.only_candidate, shares.both, shares.neither) == (0, 30, 10, 0)
    assert shares.effect is not None
    assert shares.effect.estimate == pytest.approx(0.75)
    assert shares.effect.lower > 0.5
    [told] = found.to_json()["preferences"]["checks"]
    assert (told["wins"], told["ties"], told["losses"], told["flips"]) == (30, 10, 0, 0)
    assert (told["judge"], told["asked"], told["missing"]) == ("gullible@1", 30, 0)
    assert told["cost_usd"] == pytest.approx(30 * 0.002)
    json.dumps(found.to_json(), allow_nan=False)


async def test_two_versions_that_say_the_same_tie_and_nobody_is_asked(tmp_path: Path) -> None:
    judge = Gullible()
    found, shares = await versus(golden_set(tmp_path, 80), right, right, judge)
    assert (judge.asked, found.verdict) == (0, "pass")
    assert shares.effect is not None
    assert shares.effect.estimate == 0.0
    assert shares.effect.lower < 0 < shares.effect.upper


async def test_a_judge_that_favours_a_place_says_nothing_of_the_versions(tmp_path: Path) -> None:
    judge = Gullible(prefers_first=1.0)
    found, shares = await versus(golden_set(tmp_path, 30), wrong, right, judge)
    assert (shares.control, shares.candidate) == (0.5, 0.5)
    [told] = found.to_json()["preferences"]["checks"]
    assert (told["flips"], told["ties"], told["wins"]) == (30, 30, 0)
    assert told["position_bias_p"] < 1e-6


async def test_what_is_no_verdict_is_missing_and_could_be_either(tmp_path: Path) -> None:
    golden = golden_set(tmp_path, 60, "metrics: {pairwise: {margin: 0.1}}\n")
    found, shares = await versus(golden, wrong, right, Gullible(replies="garbage"))
    assert (shares.n, shares.missing, shares.effect) == (0, 60, None)
    assert found.verdict == "inconclusive"


async def test_a_repeat_is_compared_with_its_like_and_an_item_counts_once(tmp_path: Path) -> None:
    def wavering(number: int, repeat: int) -> str:
        return right(number, repeat) if repeat == 0 else wrong(number, repeat)

    golden = golden_set(tmp_path, 10)
    found, shares = await versus(golden, wrong, wavering, Gullible(), repeats=4)
    assert (shares.n, shares.candidate) == (10, (1 + 3 * 0.5) / 4)
    assert len(found.preferences.pairs) == 40


async def test_nothing_is_judged_twice_but_what_was_in_flight(tmp_path: Path) -> None:
    """Stopped at random points and made again; every verdict that was had is kept."""
    golden, together, draw = golden_set(tmp_path, 30), 3, Random(4)
    runs = [answers(golden, says, version=n) for n, says in enumerate((wrong, right))]
    stops = 0

    class Slow(Gullible):
        async def reply(self, messages: Sequence[Any], *, schema: Mapping[str, Any], seed: int) -> ModelReply:
            await asyncio.sleep(0)
            return await super().reply(messages, schema=schema, seed=seed)

    judge, had = Slow(), 0
    with ScoreCache(tmp_path / "cache.sqlite") as cache:
        services = Services(judge=judge, cache=cache)
        while True:
            left = draw.randint(1, 8)
            making = asyncio.ensure_future(
                judged_pairs(
                    golden,
                    *runs,
                    services=services,
                    limits=RunLimits(concurrency=together),
                )
            )
            while not making.done() and judge.asked < had + 2 * left:
                await asyncio.sleep(0)
            if making.done():
                break
            had, stops = judge.asked, stops + 1
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
        preferences = making.result()
        assert stops > 3
        assert 60 <= judge.asked <= 60 + stops * 2 * together
        asked = judge.asked
        again = await judged_pairs(golden, *runs, services=services)
    assert judge.asked == asked
    assert [one.found.score.value for one in again.pairs] == [1.0] * 30
    [first], [second] = preferences.tallies(), again.tallies()
    assert (first.orders, first.asked) == (second.orders, second.asked)
    assert second.cost_usd == 0.0


async def test_at_the_cost_ceiling_no_further_pair_is_put_and_the_rest_is_missing(tmp_path: Path) -> None:
    judge = Gullible()  # 0.002 USD a pair
    limits = RunLimits(concurrency=1, max_cost_usd=0.02)
    found, shares = await versus(golden_set(tmp_path, 30), wrong, right, judge, limits=limits)
    assert (judge.asked, shares.n, shares.missing) == (20, 10, 20)
    assert "the ceiling" in (found.preferences.pairs[-1].found.score.explanation or "")


async def test_a_judge_of_pairs_with_a_margin_keeps_a_pass_inconclusive_until_people_label_it(
    tmp_path: Path,
) -> None:
    golden = golden_set(tmp_path, 60, "metrics: {pairwise: {margin: 0.1}}\n", gate=True)
    found, shares = await versus(golden, right, lambda n, r: right(n, r) + "!", Gullible())
    assert (shares.margin, shares.gate, shares.kind) == (0.1, True, "pairwise")
    assert (found.verdict, [reason.code for reason in found.reasons]) == (
        "inconclusive",
        ["judge_unlabelled"],
    )


async def test_an_answer_that_was_cut_loses_unless_the_set_scores_what_is_there(tmp_path: Path) -> None:
    for policy, value in (("zero", 0.0), ("score", 1.0)):
        golden = golden_set(tmp_path, 1, f"length: {policy}\n")
        runs = [answers(golden, says, version=n) for n, says in enumerate((wrong, right))]
        cut = [ResultRow(**{**one.to_json(), "outcome": "length"}) for one in runs[1].rows["q000"]]
        shorn = RunResults.of("run", 2, golden.hash, 1, cut)
        [pair] = (await judged_pairs(golden, runs[0], shorn, services=Services(judge=Gullible()))).pairs
        assert pair.found.score.value == value


counts = st.integers(0, 40)


@given(counts, counts, counts)
def test_the_effect_is_twice_the_win_rates_distance_from_a_half(wins: int, ties: int, losses: int) -> None:
    values = [1.0] * wins + [0.5] * ties + [0.0] * losses
    pairs = [
        preferred_pair(
            GoldenItem(id=f"q{number}", hash="h", messages=(), checks=()),
            [Score.graded("pairwise", value, "")],
        )
        for number, value in enumerate(values)
    ]
    effect, rate = (
        paired_effect(observed(pairs), alpha=0.05),
        win_rate(Wins(wins=wins, ties=ties, losses=losses)),
    )
    if not values:
        assert effect is None
        return
    assert effect is not None
    assert rate.value is not None
    assert effect.estimate == pytest.approx(2 * rate.value - 1)
    if rate.interval is not None and len(values) >= 30:
        # The two pseudo-pairs widen it a little; they are there for thirty ties.
        assert effect.lower <= 2 * rate.interval.lower - 1 + 0.07
        assert effect.upper >= 2 * rate.interval.upper - 1 - 0.07


def test_a_pair_that_was_skipped_is_not_counted() -> None:
    skipped = JudgedPair(
        item_id="q",
        cluster="item:q",
        repeat=0,
        evaluator="pairwise",
        found=PairScore(score=Score.skipped("pairwise", "no judge")),
    )
    preferences = Preferences(pairs=(skipped,))
    assert preferences.by_item("pairwise") == {}
    [told] = preferences.tallies()
    assert (told.orders.n, told.missing) == (0, 0)
