"""Recorded requests, put to a candidate by the command: each once, whatever is killed, and every one told."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from random import Random
from threading import Thread
from types import ModuleType
from typing import Any

import httpx
import pytest

from experiments.client import ControlClient
from tests.journey import eventually
from tests.stack import MODEL, Stack, Traffic
from turnout.replaying import Journal, Rate, Way, replay
from turnout.simulation import Profile, SimulatedEngine, running_engine

REQUESTS, UNITS = 240, 60
KILLS, CONCURRENCY = 10, 4
SELECTED = REQUESTS + 6

SPEC = """
experiment: {name}
model: chat
mode: shadow
candidate: {candidate}
traffic: {{share: {share}, recorded: {{since: 1h}}}}
metrics: {{guardrails: [{{metric: error_rate, margin: 20%}}], exploratory: [{{metric: completion_tokens}}]}}
analysis: {{horizon: 100000, looks: 1}}
"""
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}

#: Version 2 is well, 3 is slow (so that it can be interrupted), 4 will be busy, 5 is broken.
Engines = dict[int, SimulatedEngine]


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with (
        running_engine(Profile(name=MODEL)) as production,
        running_engine(Profile(name=MODEL)) as well,
        running_engine(Profile(name=MODEL), faults="slow-ttft-30") as slow,
        running_engine(Profile(name=MODEL)) as busy,
        running_engine(Profile(name=MODEL), faults="500") as broken,
    ):
        yield {1: production, 2: well, 3: slow, 4: busy, 5: broken}


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, engines: Engines
) -> Iterator[Stack]:
    """A stack whose ledger has requests of three kinds: plain ones, streams, and some that offer tools."""
    stack = Stack(tmp_path_factory.mktemp("replay") / "data", mlflow=empty_database)
    with stack.up([engine.url for engine in engines.values()]):
        with Traffic(stack.settings.proxy_port, total=REQUESTS, units=UNITS) as traffic:
            traffic.join()
        assert not traffic.failures
        body = {"model": MODEL, "user": "unit-0", "messages": [{"role": "user", "content": "Hi"}]}
        ask(stack, {**body, "store": True, "metadata": {"ticket": "7"}})
        for _ in range(5):
            ask(stack, {**body, "tools": [TOOL]})
        eventually(lambda: rows_in(stack), within=20, until=lambda count: count == SELECTED)
        yield stack


def ask(stack: Stack, body: dict[str, Any]) -> None:
    url = f"{stack.settings.proxy_address}/v1/chat/completions"
    assert httpx.post(url, json=body, trust_env=False).status_code == 200


def rows_in(stack: Stack) -> int:
    found: int = stack.health()["ledger"]["exchanges"]
    return found


def replayed(stack: Stack, *arguments: str, code: int = 0) -> dict[str, Any]:
    """`turnout replay ... --json` to its end."""
    done = stack.command("replay", *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def closes(found: dict[str, Any]) -> bool:
    """The accounting, to the request."""
    parts = found["paired"] + sum(found["skipped"].values()) + found["remaining"]
    return bool(found["selected"] == parts)


def pairs(stack: Stack, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.api.get(f"/api/experiments/{name}/pairs", {"limit": 500})["pairs"]
    return found


def test_every_recorded_request_is_paired_or_told(recorded: Stack, engines: Engines) -> None:
    arguments = ("--model", MODEL, "--candidate", "2", "--name", "past", "--list-skipped")
    preview = replayed(recorded, *arguments, "--dry-run")
    assert (preview["selected"], preview["remaining"], preview["units"]) == (SELECTED, SELECTED, UNITS)
    assert engines[2].counters.requests == 0

    found = replayed(recorded, *arguments)
    assert closes(found)
    assert (found["selected"], found["paired"], found["remaining"]) == (SELECTED, SELECTED - 5, 0)
    assert found["skipped"] == {"tools_skipped": 5} == dict(reasons(found))
    assert found["run"]["failed"] == {}
    assert engines[2].counters.requests == SELECTED - 5
    assert engines[2].counters.side_effects == 0, "what stores was stripped, as a live shadow strips it"
    assert b'"user":' not in engines[2].counters.last_body
    assert found["state"] in ("concluded", "kept"), "nothing more can come, so it has ended"

    sides = pairs(recorded, "past")
    assert len({pair["pair_id"] for pair in sides}) == len(sides) == SELECTED - 5
    ends = {pair[arm]["outcome"] for pair in sides for arm in ("control", "candidate")}
    assert ends <= {"complete", "length"}
    summary = recorded.api.get("/api/experiments/past")
    assert summary["recorded"]["since"] < summary["recorded"]["until"]
    assert summary["accounting"]["replay"]["paired"] == SELECTED - 5
    assert summary["verdict"]["exhausted"] is True
    assert summary["horizon"] == UNITS, "and it did not end with each unit's first pair"
    assert recorded.command("promote", MODEL, "--version", "2").returncode == 1, "a shadow permits none"

    out = recorded.data.parent / "report"
    assert recorded.command("report", "past", "--out", str(out)).returncode == 0
    assert recorded.command("report", "--replay", str(out)).returncode == 0, "the same verdict from its rows"

    again = replayed(recorded, "past")
    assert again["run"]["attempts"] == 0
    assert engines[2].counters.requests == SELECTED - 5


def reasons(found: dict[str, Any]) -> Counter[str]:
    return Counter(one["reason"] for one in found["skipped_requests"])


def test_killed_anywhere_each_request_has_one_pair(
    recorded: Stack, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at ten random points: only what was in flight is asked again, and that makes no second pair."""
    # A child would run the main module first, which a page of the dashboard may have become by its tests.
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    engine, kills, random = engines[3], 0, Random(5)
    recorded.begin(SPEC, name="killed", candidate="3", share="100")
    context = get_context("forkserver")
    context.set_forkserver_preload(["turnout.replaying"])
    place = (
        recorded.settings.control_address,
        recorded.settings.proxy_address,
        recorded.settings.read_token(),
        recorded.data / "replays",
    )
    while kills < KILLS:
        before = engine.counters.requests
        child = context.Process(target=in_a_process, args=place)
        child.start()
        was_asked(engine, before + random.randrange(1, (SELECTED - 5) // (KILLS + 2)))
        assert child.is_alive(), "there was something left to kill"
        child.kill()
        child.join()
        kills += 1
    found = replayed(recorded, "killed")
    assert closes(found)
    assert (found["paired"], found["skipped"], found["remaining"]) == (SELECTED - 5, {"tools_skipped": 5}, 0)
    sides = [pair["pair_id"] for pair in pairs(recorded, "killed")]
    assert len(sides) == len(set(sides)) == SELECTED - 5
    again = engine.counters.requests - (SELECTED - 5)
    assert 0 <= again <= KILLS * CONCURRENCY, "more was asked twice than was in flight"


def in_a_process(control_url: str, proxy_url: str, token: str, folder: Path) -> None:
    """What the command does, without its screen."""
    with closing(ControlClient(control_url, token)) as api, Journal(folder, "killed") as journal:
        way = Way(
            experiment="killed",
            model=MODEL,
            candidate="version 2",
            api=api,
            proxy_url=proxy_url,
            token=token,
            rate=Rate(None),
            concurrency=CONCURRENCY,
        )
        asyncio.run(replay(way, journal))


def test_a_busy_engine_is_asked_more_slowly_and_nothing_is_given_up(
    recorded: Stack, engines: Engines
) -> None:
    engine = engines[4]
    engine.misbehave("429")
    mended = Thread(target=mend, args=(engine,))
    mended.start()
    found = replayed(recorded, "--model", MODEL, "--candidate", "4", "--limit", "40")
    mended.join()
    assert closes(found)
    assert (found["paired"], found["run"]["failed"], found["remaining"]) == (40, {}, 0)
    assert found["run"]["lowest_concurrency"] < 8
    # What is asked while the candidate rests is answered by the proxy.
    assert found["run"]["attempts"] >= engine.counters.requests == 40 + engine.counters.statuses[429]


def was_asked(engine: SimulatedEngine, times: int) -> None:
    eventually(lambda: engine.counters.requests, within=30, until=lambda count: count >= times)


def mend(engine: SimulatedEngine) -> None:
    was_asked(engine, 6)
    engine.misbehave("")


def test_a_candidate_that_fails_is_rolled_back_with_its_failures_in_the_pairs(
    recorded: Stack, engines: Engines
) -> None:
    found = replayed(recorded, "--model", MODEL, "--candidate", "5", "--name", "broken", code=1)
    assert closes(found)
    assert (found["state"], found["verdict"]["kind"]) == ("rolled_back", "roll_back")
    assert {pair["candidate"]["outcome"] for pair in pairs(recorded, "broken")} == {"upstream_error"}


def test_a_candidate_that_is_away_costs_no_request_its_pair(recorded: Stack, engines: Engines) -> None:
    recorded.register("http://127.0.0.1:1")
    arguments = ("--model", MODEL, "--candidate", "6", "--name", "away", "--limit", "60")
    found = replayed(recorded, *arguments, code=1)
    assert closes(found)
    assert (found["paired"], found["remaining"], found["state"]) == (0, 60, "running")
    # After twenty failures the worker leaves the candidate alone, and says so to whoever asks again: what is
    # told of a request is why it failed last.
    assert found["run"]["failed"]
    assert set(found["run"]["failed"]) <= {"upstream_unreachable", "breaker_open"}
    assert "the candidate is absent" in found["run"]["stopped"]
    assert "version 6 of chat (http://127.0.0.1:1)" in found["run"]["stopped"]


def test_wrong_usage_ends_with_2(recorded: Stack, tmp_path: Path) -> None:
    for arguments in ((), ("--model", MODEL), ("nothing.yaml",)):
        assert recorded.command("replay", *arguments).returncode == 2, arguments
    timed = tmp_path / "timed.yaml"
    timed.write_text(SPEC.format(name="t", candidate=2, share=100).replace("error_rate", "latency"))
    told = recorded.command("replay", str(timed))
    assert told.returncode == 2
    assert "recorded requests" in told.stderr
    assert recorded.command("replay", "no-such-experiment").returncode == 1
