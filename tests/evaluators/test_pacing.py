from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluators.errors import RunBusy
from evaluators.journal import Journal
from evaluators.judges.cache import ScoreCache
from evaluators.ledger import GoldenLedger
from evaluators.models import Services
from evaluators.pacing import Pace, Prices, Retries, Retry, Sign
from evaluators.results import ResultRow
from evaluators.runner import RunLimits, run_questions
from evaluators.runs import Effort, finished_run
from evaluators.score import Output, ToolCall
from evaluators.target import ProxyTarget

from .attacks import Gullible
from .fakes import TOKEN, FakeTurnout, Reply, serving
from .sets import make_set, row, said

QUICK = Retry(attempts=6, first_wait_s=0.001, longest_wait_s=0.01)


async def turns(pace: Pace, signs: Sequence[Sign]) -> list[int]:
    """The limits after each of these, one after the other."""
    limits = []
    for sign in signs:
        async with pace as turn:
            pass
        pace.note(turn, sign)
        limits.append(pace.limit)
    return limits


async def test_overload_halves_the_limit_and_answers_raise_it_by_one_a_round() -> None:
    assert await turns(Pace(8), ["overloaded", "overloaded", *["answered"] * 12]) == [
        4, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4,
    ]  # fmt: skip


async def test_what_was_under_way_at_a_cut_cuts_no_further() -> None:
    pace = Pace(8)
    begun = [await pace.__aenter__() for _ in range(8)]
    for turn in begun:
        pace.note(turn, "overloaded")
    assert pace.limit == 4


async def test_other_failures_only_keep_it_from_growing() -> None:
    pace = Pace(4)
    assert await turns(pace, ["overloaded", "failed", "answered", "answered"]) == [2, 2, 2, 2]


async def test_never_more_than_the_limit_are_in_flight_and_a_cancelled_one_gives_its_place_back() -> None:
    pace, running, most = Pace(3), 0, 0

    async def work() -> None:
        nonlocal running, most
        async with pace:
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    tasks = [asyncio.ensure_future(work()) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[3:10]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    async with pace, pace, pace:
        pass


def test_retries_have_a_budget() -> None:
    retries = Retries(floor=2, share=0.5)
    assert [retries.take() for _ in range(3)] == [True, True, False]
    retries.attempted()
    retries.attempted()
    assert [retries.take() for _ in range(2)] == [True, False]


async def test_an_engine_that_sheds_load_is_asked_less_at_a_time_and_in_the_end_answers_all(
    tmp_path: Path,
) -> None:
    golden = make_set(tmp_path, [row(f"q{k}") for k in range(30)])
    seen: dict[str, int] = {}

    def answer(question: str, version: int) -> Reply:
        seen[question] = seen.get(question, 0) + 1
        return Reply(status=429) if seen[question] == 1 and question < "q2" else Reply(text="right")

    kept: list[ResultRow] = []
    with serving(answer) as fake:
        target = ProxyTarget(
            base_url=fake.url, model="chat", version=2, token=TOKEN, retry=QUICK, concurrency=8
        )
        async with target:
            await run_questions(golden, target, Sink(kept), limits=RunLimits(concurrency=8))
        assert target.lowest_concurrency < 8
    assert [kept_row.value for kept_row in kept] == [1.0] * 30


class Sink:
    def __init__(self, rows: list[ResultRow]) -> None:
        self.rows = rows

    def append(self, rows: Sequence[ResultRow]) -> None:
        self.rows.extend(rows)


# the cost ceiling


async def test_a_run_stops_at_its_ceiling_and_its_result_is_marked_partial(tmp_path: Path) -> None:
    golden = make_set(tmp_path, [row(f"q{k}") for k in range(40)])
    prices = Prices(usd_per_million_input=1e6 / 5, usd_per_million_output=0.0)  # a dollar an answer
    limits = RunLimits(concurrency=2, max_cost_usd=10.0, prices=prices)
    with serving(lambda question, version: Reply(text="right")) as fake:
        found = await run(fake, golden, Effort(limits=limits))
        assert found.partial is not None
        assert "the ceiling" in found.partial
        assert found.summary.gate == "inconclusive"
        assert 10 <= found.summary.scored <= 12
        assert fake.runs[found.run.run_id]["status"] == "partial"
        again = await run(fake, golden, Effort(limits=RunLimits(concurrency=2)))
        assert (again.way, again.summary.scored, again.partial) == ("resumed", 40, None)
        assert max(fake.times_asked().values()) == 1


async def run(fake: FakeTurnout, golden: Any, effort: Effort, **fields: Any) -> Any:
    ledger = GoldenLedger(fake)
    target = ProxyTarget(base_url=fake.url, model="chat", version=2, token=TOKEN, retry=QUICK)
    async with target:
        return await finished_run(
            golden, ledger.subject("chat", "candidate"), ledger, target, effort, **fields
        )


# the journal


def test_a_journal_keeps_whole_answers_and_leaves_out_one_that_broke_off(tmp_path: Path) -> None:
    golden = make_set(tmp_path / "set", [row("a"), row("c")])
    a, c = golden.items
    call = ToolCall(name="get", arguments="{}")
    answers = [
        Output(
            text="Grüße", tool_calls=(call,), usage={"total_tokens": 8}, raw={"choices": [{}]}, latency_ms=1.5
        ),
        Output(outcome="length", text="cut", request_id="r"),
    ]
    with Journal(tmp_path, "r") as journal:
        journal.write(a, 0, answers[0])
    with (tmp_path / "r.jsonl").open("ab") as file:
        file.write(b'[{"item_id": "b", "of": "an older release"}]\n{"item_id": "b", "ite')
    with Journal(tmp_path, "r") as journal:
        assert journal.answers() == {("a", a.hash, 0): answers[0]}
        journal.write(c, 1, answers[1])
        assert journal.answers() == {("a", a.hash, 0): answers[0], ("c", c.hash, 1): answers[1]}


def test_a_line_that_a_full_disk_has_cut_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    golden = make_set(tmp_path / "set", [row("a"), row("c")])
    a, c = golden.items
    answer = Output(text="yes")
    with Journal(tmp_path, "r") as journal:
        journal.write(a, 0, answer)
        with (tmp_path / "r.jsonl").open("ab") as file:
            file.write(b'{"item_id": "a", "ite')
        journal.write(a, 1, answer)  # there is room again: this one is lost too
        journal.write(c, 0, answer)
    with Journal(tmp_path, "r") as journal:
        assert journal.answers() == {("a", a.hash, 0): answer, ("c", c.hash, 0): answer}


def test_two_processes_do_not_make_the_same_run(tmp_path: Path) -> None:
    with Journal(tmp_path, "r"), pytest.raises(RunBusy, match="run r is being made"):
        Journal(tmp_path, "r").__enter__()


async def test_answers_that_only_the_journal_has_are_stored_and_not_asked_again(tmp_path: Path) -> None:
    golden = make_set(tmp_path, [row(f"q{k}") for k in range(6)])
    journal = tmp_path / "journal"
    with serving(lambda question, version: Reply(text="right")) as fake:
        first = await run(fake, golden, Effort(journal=journal))
        assert list(journal.iterdir()) == []
        # As a killed run leaves it: unfinished, its answers in the journal, some of them not in the ledger.
        run_id = first.run.run_id
        fake.runs[run_id]["status"] = "running"
        fake.rows[run_id] = {key: value for key, value in fake.rows[run_id].items() if key[0] < "q3"}
        with Journal(journal, run_id) as kept:
            for item in golden.items[:5]:
                kept.write(item, 0, said("right"))
        found = await run(fake, golden, Effort(journal=journal))
        assert (found.way, found.summary.scored) == ("resumed", 6)
        asked_again = [question for question, count in fake.times_asked().items() if count > 1]
        assert len(asked_again) == 1
        assert asked_again[0][0] == "q5"


async def test_five_repeats_are_five_answers_and_five_opinions(tmp_path: Path) -> None:
    check = {"type": "judge", "rubric": "It is right."}
    golden = make_set(tmp_path, [row("a", checks=[{"type": "exact"}, check])], "judge: {model: examiner}\n")
    judge = Gullible()
    with (
        serving(lambda question, version: Reply(text="right")) as fake,
        ScoreCache(tmp_path / "cache.sqlite") as cache,
    ):
        services = Services(judge=judge, cache=cache)
        found = await run(fake, golden, Effort(repeats=5), services=services)
    assert fake.times_asked()["a", 2] == 5
    assert (judge.asked, cache.hits) == (5, 0)
    assert (
        len({(stored["repeat"], stored["evaluator"]) for stored in fake.rows[found.run.run_id].values()})
        == 10
    )
