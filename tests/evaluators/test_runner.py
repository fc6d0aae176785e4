from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from evaluators.admission import MAX_ANSWER
from evaluators.errors import ProxyUnreachable, ResultsLost, RunRefused
from evaluators.golden import GoldenItem
from evaluators.journal import Journal
from evaluators.ledger import LedgerSink, batches
from evaluators.models import ModelReply, Services
from evaluators.pacing import Prices, Retry
from evaluators.results import ResultRow
from evaluators.runner import RunLimits, answered, run_questions
from evaluators.score import Output
from evaluators.target import ProxyTarget
from experiments.ledger.transcript import decode

from .fakes import TOKEN, FakeTurnout, Reply, serving
from .sets import make_set, one_item, row, said

QUICK = Retry(attempts=3, first_wait_s=0.001, longest_wait_s=0.01)
CHECKS = [{"type": "exact"}, {"type": "contains"}]


class Kept:
    """A sink in memory that keeps the first of doubled rows, as the ledger does."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.rows: list[ResultRow] = []
        self.appends = 0
        self._fail_after = fail_after

    def append(self, rows: Sequence[ResultRow]) -> None:
        if self._fail_after is not None and self.appends >= self._fail_after:
            raise ResultsLost("the disk is full")
        self.appends += 1
        self.rows.extend(rows)

    def keys(self) -> list[tuple[str, int, str]]:
        return [(row.item_id, row.repeat, row.evaluator) for row in self.rows]


def target(fake: FakeTurnout, **fields: Any) -> ProxyTarget:
    given = {"base_url": fake.url, "model": "chat", "version": 2, "token": TOKEN, "retry": QUICK, **fields}
    return ProxyTarget(**given)


async def ask(fake: FakeTurnout, folder: Path, **fields: Any) -> Output:
    async with target(fake, **fields) as asked:
        return await asked.ask(one_item(folder, {"type": "exact"}), 0)


# the target


async def test_an_answer_without_an_end_is_read_up_to_a_bound(tmp_path: Path) -> None:
    with serving(lambda question, version: Reply(text="x" * (MAX_ANSWER + 1))) as fake:
        output = await ask(fake, tmp_path, retry=Retry(attempts=1))
    assert (output.outcome, output.error) == (
        "truncated",
        f"ClientPayloadError: more than {MAX_ANSWER} bytes",
    )


async def test_a_question_goes_to_the_named_version_as_golden_traffic(tmp_path: Path) -> None:
    with serving(lambda question, version: Reply(text="right", tool_calls=(("get", "{}"),))) as fake:
        output = await ask(fake, tmp_path, base_url=fake.url + "/v1/", api_key="key-1")
    assert (output.text, output.outcome, output.request_id) == ("right", "complete", "req-1")
    assert [(call.name, call.arguments) for call in output.tool_calls] == [("get", "{}")]
    assert output.usage == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert output.latency_ms > 0
    [headers] = fake.headers
    assert headers["x-turnout-version"] == "2"
    assert headers["x-turnout-origin"] == "golden"
    assert headers["authorization"] == "Bearer key-1"


@pytest.mark.parametrize(
    ("reply", "outcome", "attempts"),
    [
        (Reply(text="a", finish="length"), "length", 1),
        (Reply(text=""), "empty", 1),
        (Reply(text=None), "empty", 1),
        (Reply(body=b"<html>"), "upstream_error", 1),
        (Reply(body=b'{"choices": []}'), "upstream_error", 1),
        (Reply(status=500), "upstream_error", 1),
        (Reply(status=502), "upstream_error", 1),
        (Reply(status=504), "timeout", 1),
        (Reply(status=400), "upstream_rejected", 1),
        (Reply(text="a", cut=True), "truncated", 3),
        (Reply(status=429), "overloaded", 3),
        (Reply(status=503, retry_after="0"), "overloaded", 3),
        (Reply(status=503, refused=True), "overloaded", 3),
        (Reply(status=413, refused=True), "rejected", 1),
        (Reply(text="a", version=7), "rejected", 1),
        (Reply(text="a", refused=True), "rejected", 1),
    ],
)
async def test_how_an_answer_ended(tmp_path: Path, reply: Reply, outcome: str, attempts: int) -> None:
    with serving(lambda question, version: reply) as fake:
        output = await ask(fake, tmp_path)
    assert (output.outcome, output.attempts, len(fake.asked)) == (outcome, attempts, attempts)


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]},
    {"type": "text", "text": None},
    {"type": "text", "text": "right"},
]


@pytest.mark.parametrize(
    ("message", "text", "outcome"),
    [
        ({"content": PARTS}, "right", "complete"),
        ({"content": PARTS[:2]}, "", "empty"),
        ({"content": None, "refusal": "I cannot help with that."}, "I cannot help with that.", "complete"),
        ({"content": [5]}, "", "upstream_error"),
        ({"content": 5}, "", "upstream_error"),
    ],
)
async def test_a_message_is_read_as_the_ledger_reads_it(
    tmp_path: Path, message: dict[str, Any], text: str, outcome: str
) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    body = orjson.dumps({"choices": [choice]})
    with serving(lambda question, version: Reply(body=body)) as fake:
        output = await ask(fake, tmp_path)
    assert (output.text, output.outcome) == (text, outcome)
    recorded = decode("/v1/chat/completions", "application/json", 200, body, (), (), b"{}")
    assert (recorded.text or "", recorded.outcome) == (text, outcome)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b'{"choices":[{"message":{"content":"\xed\xa0\x80"},"finish_reason":"stop"}]}'),
        Reply(body=b'{"choices":[{"message":{"content":"x"}}],"more":' + b"[" * 400 + b"]" * 400 + b"}"),
        Reply(status=500, body=b"[" * 100_000),
        Reply(status=500, body=b'{"error": {"message": "\xed\xa0\x80"}}'),
    ],
)
async def test_a_body_that_cannot_be_kept_is_an_error_of_the_engine_and_no_end(
    tmp_path: Path, reply: Reply
) -> None:
    golden = make_set(tmp_path, [row("a")])
    sink = Kept()
    with serving(lambda question, version: reply) as fake, Journal(tmp_path, "r") as journal:
        async with target(fake) as asked:
            await run_questions(golden, asked, sink, keep=journal.write)
    assert [stored.outcome for stored in sink.rows] == ["upstream_error"]
    orjson.dumps([stored.to_json() for stored in sink.rows])


async def test_an_answer_that_does_not_come_is_a_timeout_and_not_asked_again(tmp_path: Path) -> None:
    with serving(lambda question, version: Reply(hang=True)) as fake:
        output = await ask(fake, tmp_path, timeout_s=0.2)
        assert (output.outcome, len(fake.asked)) == ("timeout", 1)


async def test_nobody_at_the_address_is_no_outcome_of_the_model(tmp_path: Path) -> None:
    with serving(lambda question, version: Reply(text="right")) as fake:
        pass
    output = await ask(fake, tmp_path)
    assert output.outcome is None
    assert output.error


async def test_a_retried_question_can_still_be_answered(tmp_path: Path) -> None:
    replies = iter([Reply(status=503), Reply(status=429), Reply(text="right")])
    with serving(lambda question, version: next(replies)) as fake:
        output = await ask(fake, tmp_path)
    assert (output.text, output.attempts) == ("right", 3)


async def test_a_wrong_token_ends_the_run_with_turnouts_own_words(tmp_path: Path) -> None:
    with serving(lambda question, version: Reply(text="right")) as fake:
        golden = make_set(tmp_path, [row(f"q{n}") for n in range(20)])
        async with target(fake, token="wrong") as asked:
            with pytest.raises(RunRefused, match=r"with 403: status 403 \(test_code\)"):
                await run_questions(golden, asked, Kept(), limits=RunLimits(concurrency=2))
    assert len(fake.asked) <= 3


def test_the_engines_own_pace_is_kept_within_reason() -> None:
    from random import Random

    retry = Retry(first_wait_s=1.0, longest_wait_s=10.0)
    assert retry.wait_s(2, "3", Random(1)) == 3.0
    assert retry.wait_s(2, "3600", Random(1)) == 10.0
    assert 0.5 <= retry.wait_s(2, "Wed, 21 Oct 2026 07:28:00 GMT", Random(1)) <= 1.0
    assert 2.0 <= retry.wait_s(4, None, Random(1)) <= 4.0


async def test_an_answer_that_utf8_cannot_hold_does_not_end_the_run(tmp_path: Path) -> None:
    """Engines cut emoji in two, and count tokens as they like."""
    message = r'{"role": "assistant", "content": "right \ud83d", "tool_calls": null}'
    body = '{"choices": [{"message": %s, "finish_reason": "stop"}], "usage": {"total_tokens": %d}}'
    golden = make_set(tmp_path, [row("a", checks=[{"type": "contains"}])])
    sink = Kept()
    with serving(lambda question, version: Reply(body=(body % (message, 10**30)).encode())) as fake:
        async with target(fake) as asked:
            with Journal(tmp_path / "journal", "r") as journal:
                await run_questions(golden, asked, sink, keep=journal.write)
                [kept] = journal.answers().values()
    assert kept.text == "right \ufffd"
    [stored] = sink.rows
    assert stored.value == 1.0
    assert orjson.loads(orjson.dumps(stored.to_json()))["output"]["usage"] == {"total_tokens": 1e30}


# the runner


async def test_every_item_repeat_and_evaluator_is_stored_once(tmp_path: Path) -> None:
    golden = make_set(tmp_path, [row(f"q{n}", checks=CHECKS) for n in range(30)])
    sink, seen = Kept(), []
    with serving(lambda question, version: Reply(text="right" if question != "q3" else "no")) as fake:
        async with target(fake, concurrency=5) as asked:
            tally = await run_questions(
                golden, asked, sink, repeats=3, limits=RunLimits(concurrency=5), on_answer=seen.append
            )
    assert (tally.asked, tally.unanswered, tally.resumed) == (90, 0, 0)
    assert set(fake.times_asked().values()) == {3}
    assert len(sink.keys()) == len(set(sink.keys())) == 180
    assert {row.item_id for row in sink.rows if row.value == 0.0} == {"q3"}
    assert len(seen) == 90


async def test_no_more_questions_are_in_flight_than_allowed(tmp_path: Path) -> None:
    golden = make_set(tmp_path, [row(f"q{n}") for n in range(40)])
    flying = most = 0

    class Slow:
        async def ask(self, item: GoldenItem, repeat: int) -> Output:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0)
            flying -= 1
            return said("right")

    await run_questions(golden, Slow(), Kept(), limits=RunLimits(concurrency=7))
    assert most == 7


@pytest.mark.parametrize("stop_at", [1, 7, 23, 59])
async def test_a_stopped_run_goes_on_without_asking_twice(tmp_path: Path, stop_at: int) -> None:
    golden = make_set(tmp_path, [row(f"q{n}", checks=CHECKS) for n in range(20)])
    asked: list[tuple[str, int]] = []
    running: asyncio.Task[Any] | None = None

    class Engine:
        async def ask(self, item: GoldenItem, repeat: int) -> Output:
            asked.append((item.id, repeat))
            if running is not None and len(asked) == stop_at:
                running.cancel()
            await asyncio.sleep(0.001)
            return said("right")

    sink = Kept()
    kept: dict[tuple[str, int], Output] = {}

    def keep(item: GoldenItem, repeat: int, output: Output) -> None:
        kept[item.id, repeat] = output

    limits = RunLimits(concurrency=4, batch_rows=5, batch_s=0.01)
    running = asyncio.ensure_future(
        run_questions(golden, Engine(), sink, repeats=3, limits=limits, keep=keep)
    )
    with pytest.raises(asyncio.CancelledError):
        await running
    running = None
    done = answered(golden, sink.rows)
    interrupted = len(asked)
    assert interrupted - len(kept) <= limits.concurrency
    assert done <= set(kept)
    left = {question: output for question, output in kept.items() if question not in done}
    tally = await run_questions(golden, Engine(), sink, repeats=3, done=done, kept=left, limits=limits)
    assert tally.resumed == len(kept)
    assert set(asked[interrupted:]).isdisjoint(kept)
    assert len(sink.keys()) == len(set(sink.keys())) == 20 * 3 * 2


async def test_an_answer_outlives_a_kill_while_it_is_being_scored(tmp_path: Path) -> None:
    """A judge takes seconds: the answer is kept before it is asked, and the next question does not wait."""
    check = {"type": "judge", "rubric": "It is right."}
    golden = make_set(
        tmp_path, [row(f"q{n}", checks=[check]) for n in range(3)], "judge: {model: examiner}\n"
    )
    asked: list[str] = []
    kept: list[str] = []

    class Engine:
        async def ask(self, item: GoldenItem, repeat: int) -> Output:
            asked.append(item.id)
            return said("right")

    class Thinking:
        identity = "examiner@1"

        async def reply(self, messages: Any, *, schema: Any, seed: int) -> ModelReply:
            await asyncio.Event().wait()
            raise AssertionError("it never says anything")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await run_questions(
                golden,
                Engine(),
                Kept(),
                limits=RunLimits(concurrency=1),
                services=Services(judge=Thinking()),
                keep=lambda item, repeat, output: kept.append(item.id),
            )
    assert asked == kept == ["q0", "q1"], "one is being judged, one waits, and no more are asked"


async def test_unanswered_questions_are_stored_as_missing_only_when_the_run_is_through(
    tmp_path: Path,
) -> None:
    golden = make_set(tmp_path, [row("good"), row("busy"), row("late")])
    with serving(
        lambda question, version: Reply(status=503) if question == "busy" else Reply(text="right")
    ) as fake:
        async with target(fake) as asked:
            whole, cut = Kept(), Kept()
            tally = await run_questions(golden, asked, whole, limits=RunLimits(concurrency=1))

            def stop(rows: Sequence[ResultRow]) -> None:
                if rows[0].item_id == "late":
                    raise ResultsLost("stopped here")

            with pytest.raises(ResultsLost):
                await run_questions(golden, asked, cut, limits=RunLimits(concurrency=1), on_answer=stop)
    assert tally.unanswered == 1
    assert {row.item_id: row.status for row in whole.rows} == {
        "good": "scored",
        "busy": "unscored",
        "late": "scored",
    }
    assert "busy" not in {row.item_id for row in cut.rows}


async def test_a_run_that_reaches_nobody_ends_soon(tmp_path: Path) -> None:
    with serving(lambda question, version: Reply(text="right")) as fake:
        pass
    for count in (2, 500):
        golden = make_set(tmp_path, [row(f"q{n}") for n in range(count)])
        async with target(fake) as asked:
            with pytest.raises(ProxyUnreachable):
                await run_questions(golden, asked, Kept(), limits=RunLimits(concurrency=4))


async def test_results_that_nobody_takes_end_the_run(tmp_path: Path) -> None:
    golden = make_set(tmp_path, [row(f"q{n}") for n in range(300)])

    class Instant:
        asked = 0

        async def ask(self, item: GoldenItem, repeat: int) -> Output:
            self.asked += 1
            await asyncio.sleep(0.001)
            return said("right")

    engine, sink = Instant(), Kept(fail_after=1)
    limits = RunLimits(concurrency=4, batch_rows=10, batch_s=0.01)
    with pytest.raises(ResultsLost, match="disk is full"):
        await run_questions(golden, engine, sink, limits=limits)
    assert engine.asked < 300


async def test_an_answer_counts_as_had_only_with_all_its_checks_of_this_content(tmp_path: Path) -> None:
    golden = make_set(tmp_path / "a", [row("a", checks=CHECKS), row("b", checks=CHECKS)])
    sink = Kept()
    with serving(lambda question, version: Reply(text="right")) as fake:
        async with target(fake) as asked:
            await run_questions(golden, asked, sink, limits=RunLimits(concurrency=1))
    assert answered(golden, sink.rows) == {("a", 0), ("b", 0)}
    assert answered(golden, sink.rows[1:]) == {("b", 0)}
    changed = make_set(tmp_path / "b", [row("a", checks=CHECKS, reference="other"), row("b", checks=CHECKS)])
    assert answered(changed, sink.rows) == {("b", 0)}


def test_long_answers_are_handed_in_as_many_at_a_time_as_are_taken() -> None:
    posted: list[int] = []

    class Api:
        def post(self, path: str, body: Any) -> Any:
            posted.append(len(orjson.dumps(body)))
            return {"stored": len(body["results"])}

    output = said("x" * 200_000).to_json()
    rows = [
        ResultRow(
            item_id=f"q{n // 4}", item_hash="h", repeat=0, evaluator=f"c{n % 4}", evaluator_version="1",
            status="scored", value=1.0, output=output,
        )
        for n in range(400)
    ]  # fmt: skip
    sink = LedgerSink(cast(Any, Api()), "r")
    sink.append(rows)
    assert max(posted) < 32 * 1024 * 1024
    assert len(posted) < 10
    assert (sink.rows, sink.exact) == (rows, True)
    for batch in batches(rows, 400):
        assert len(batch) % 4 == 0, "an answer's rows stay together"


def test_answers_with_many_checks_fit_into_what_is_taken_at_once() -> None:
    rows = [
        ResultRow(
            item_id=f"q{n // 150}", item_hash="h", repeat=0, evaluator=f"c{n % 150}", evaluator_version="1",
            status="scored", value=1.0,
        )
        for n in range(1500)
    ]  # fmt: skip
    assert {len(batch) for batch in batches(rows, 400)} == {300}


async def test_what_had_no_answer_when_the_ceiling_was_reached_is_asked_by_the_next_run(
    tmp_path: Path,
) -> None:
    golden = make_set(tmp_path, [row(f"q{n}") for n in range(6)])
    sink = Kept()

    def answer(question: str, version: int) -> Reply:
        return Reply(status=503, refused=True) if question == "q0" else Reply(text="right")

    limits = RunLimits(concurrency=1, max_cost_usd=0.00001, prices=Prices(usd_per_million_output=2.0))
    with serving(answer) as fake:
        async with target(fake) as asked:
            tally = await run_questions(golden, asked, sink, limits=limits)
    assert (tally.unanswered, tally.unasked > 0) == (1, True)
    assert "q0" not in {stored.item_id for stored in sink.rows}
