"""A session's turns: the one under way ends on its version, the next one goes where the table then says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from experiments.assignment import unit_id
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.recording import RecordingPolicy
from experiments.ledger.rows import rows_of
from experiments.snapshot import Snapshot

from .harness import SSE_HEAD, Engine, Proxy, ask, chunk, post, running_proxy, snapshot

EVERYBODY, NOBODY = 1_000_000, 1
FIRST = [{"role": "user", "content": "Where is order 7?"}]
LATER = [*FIRST, {"role": "assistant", "content": "On its way."}, {"role": "user", "content": "Since when?"}]


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return chunk(b"data: " + orjson.dumps({"object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n")


class SlowTalker:
    """An engine whose answers are half told until it may go on."""

    def __init__(self) -> None:
        self.half = asyncio.Event()
        self.go_on = asyncio.Event()

    async def answer(self, _: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + event("On its "))
        self.half.set()
        await self.go_on.wait()
        writer.write(event("way.", "stop") + chunk(b"data: [DONE]\n\n") + chunk(b""))


async def a_turn(proxy: Proxy, messages: list[dict[str, str]]) -> bytes:
    return await proxy.send(post(ask(messages=messages, stream=True), headers={"x-turnout-session": "s"}))


def version_of(answer: bytes) -> int:
    return int(answer.lower().partition(b"x-turnout-model-version: ")[2].split(b"\r\n")[0])


def table(urls: dict[int, str], version: int, candidate_ppm: int | None) -> Snapshot:
    return snapshot(urls, candidate_ppm=candidate_ppm, version=version, unit="session")


@pytest.mark.parametrize(
    ("before", "after", "during", "then"),
    [(EVERYBODY, None, 2, 1), (EVERYBODY, NOBODY, 2, 1), (NOBODY, EVERYBODY, 1, 2)],
    ids=["a rollback", "a weight of nearly nothing", "a ramp"],
)
async def test_a_turn_under_way_ends_on_its_version_and_the_next_obeys_the_new_table(
    tmp_path: Path, before: int, after: int | None, during: int, then: int
) -> None:
    talkers = {1: SlowTalker(), 2: SlowTalker()}
    async with (
        Engine(talkers[1].answer).running() as one,
        Engine(talkers[2].answer).running() as two,
        running_proxy(tmp_path, table({1: one.url, 2: two.url}, 1, before)) as proxy,
    ):
        running = asyncio.ensure_future(a_turn(proxy, FIRST))
        await asyncio.wait_for(talkers[during].half.wait(), 5)
        proxy.worker.adopt(table({1: one.url, 2: two.url}, 2, after))
        talkers[then].go_on.set()
        later = await asyncio.wait_for(a_turn(proxy, LATER), 5)  # while the first one still talks
        assert not running.done()
        talkers[during].go_on.set()
        first = await asyncio.wait_for(running, 5)
        rows = proxy.exchanges()
    assert (version_of(first), version_of(later)) == (during, then)
    assert b"way." in first
    assert b"data: [DONE]" in first
    by_snapshot = {row.snapshot: row for row in rows}
    arms = {1: "control", 2: "candidate"}
    assert (by_snapshot[1].served_version, by_snapshot[1].assigned_arm) == (during, arms[during])
    assert by_snapshot[2].served_version == then
    assert by_snapshot[2].assigned_arm == (None if after is None else arms[then])
    assert {row.outcome for row in rows} == {"complete"}
    # Outside of experiments rows are kept by user, whatever the unit was.
    assert by_snapshot[1].unit == unit_id("s")
    assert by_snapshot[2].unit == unit_id("s" if after else "ada")
    assert {row.snapshot: ledger_row(row)["turn"] for row in rows} == {1: "first", 2: "later"}


def ledger_row(record: ExchangeRecord) -> dict[str, Any]:
    """What the collector makes of it."""
    (row,) = rows_of(record, "segment", RecordingPolicy()).tables()["exchanges"].to_pylist()
    return row
