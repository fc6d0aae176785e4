"""The bench on a real engine: what it measures, what it takes for the same answer, what fails it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from bench import engine, row
from bench.engine import DIFFERENT, SAME, UNSTEADY, Report, stream_said, told, verdict
from bench.streams import Client, Load, Seen, shares
from experiments.snapshot import Arm, Endpoint, ModelRoute, Snapshot, Split
from turnout.simulation import Profile, running_engine

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def says(text: str, **more: Any) -> bytes:
    return event(id="a", created=1, choices=[{"index": 0, "delta": {"content": text}, **more}])


def usage(tokens: int) -> bytes:
    return event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": tokens})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# -- what clients see


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
async def asking() -> tuple[Client, Seen, Wire]:
    """A client with two requests, the first of which is sent."""
    seen, wire = Seen(), Wire()
    client = Client(iter([b"one", b"two"]), seen, asyncio.get_running_loop().create_future())
    client.connection_made(wire)  # type: ignore[arg-type]
    client.ask()
    return client, seen, wire


async def test_a_stream_is_read_to_its_end_and_then_the_next_is_asked_for(
    asking: tuple[Client, Seen, Wire],
) -> None:
    client, seen, wire = asking
    for data in (HEAD, chunk(says("a")), chunk(says("b")), chunk(usage(7)) + chunk(DONE)):
        client.data_received(data)
    assert (wire.written, seen.wholes) == ([b"one"], [])
    client.data_received(b"0\r\n\r\n")
    assert wire.written == [b"one", b"two"]
    assert (seen.tokens, seen.failed, len(seen.firsts), len(seen.gaps)) == (7, 0, 1, 2)
    assert 0 < seen.firsts[0] < seen.wholes[0]
    client.data_received(HEAD + chunk(usage(5)) + chunk(DONE) + b"0\r\n\r\n")
    assert (seen.tokens, wire.closed, client.done.done()) == (12, True, True)
    client.connection_lost(None)
    assert seen.failed == 0


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + chunk(says("a")) + chunk(DONE) + b"0\r\n\r\n",
        HEAD + chunk(says("a")) + chunk(usage(2)) + b"0\r\n\r\n",
        b'HTTP/1.1 429 Too Many Requests\r\ncontent-length: 13\r\n\r\n{"error":"a"}',
    ],
    ids=["no usage", "no end", "refused"],
)
async def test_what_is_no_whole_stream_has_failed(answer: bytes, asking: tuple[Client, Seen, Wire]) -> None:
    client, seen, wire = asking
    client.data_received(answer)
    assert (seen.failed, seen.wholes, seen.firsts, seen.tokens) == (1, [], [], 0)
    assert wire.written == [b"one", b"two"]


async def test_a_connection_that_breaks_has_failed_and_is_waited_for_no_longer(
    asking: tuple[Client, Seen, Wire],
) -> None:
    client, seen, _ = asking
    client.data_received(HEAD + chunk(says("a")))
    client.connection_lost(None)
    assert (seen.failed, client.done.done()) == (1, True)


def test_figures_are_per_second_from_the_first_to_the_last_and_nearest_ranks() -> None:
    total = Seen()
    late = Seen(
        firsts=[1_000_000, 2_000_000], wholes=[9, 9], tokens=30, failed=1, began=4, ended=8_000_000_004
    )
    soon = Seen(firsts=[4_000_000, 3_000_000], wholes=[9, 9], tokens=10, began=5, ended=6_000_000_000)
    for one in (late, soon):
        total.add(one)
    found = total.figures()
    assert (found["answers"], found["failed"], found["seconds"], found["tokens_per_s"]) == (4, 1, 8.0, 5.0)
    assert (found["ttft_p50_ms"], found["ttft_p99_ms"]) == (2.0, 4.0)
    assert found["requests_per_s"] == 4 / 8


@pytest.mark.parametrize(("connections", "processes"), [(1, 4), (3, 2), (256, 4), (4, 4)])
def test_every_connection_is_some_process_s(connections: int, processes: int) -> None:
    given = shares(connections, processes)
    assert sorted(number for each in given for number in each) == list(range(connections))
    assert max(map(len, given)) - min(map(len, given)) <= 1
    assert len(given) == min(connections, processes)


def test_no_two_prompts_begin_alike() -> None:
    load = Load(host="h", port=1, model="m")
    bodies = [orjson.loads(load.request(number).partition(b"\r\n\r\n")[2]) for number in range(300)]
    assert len({body["messages"][0]["content"].split()[0] for body in bodies}) == 300
    assert len({body["user"] for body in bodies}) == 300


# -- what is the same answer


def test_a_stream_says_the_same_wherever_it_is_cut() -> None:
    ends: dict[str, Any] = {"finish_reason": "length"}
    apart = stream_said(says("a") + says("b") + says("", **ends) + usage(2) + DONE)
    assert apart == stream_said(says("ab", **ends) + usage(2) + DONE)
    assert (apart["text"], apart["ends"], apart["done"]) == ("ab", ["length"], True)
    assert apart["usage"] == [{"prompt_tokens": 3, "completion_tokens": 2}]


@pytest.mark.parametrize(
    "other",
    [
        says("ac") + usage(2) + DONE,
        says("ab") + usage(3) + DONE,
        says("ab") + DONE,
        says("ab") + usage(2),
        says("ab", finish_reason="stop") + usage(2) + DONE,
        says("ab", logprobs={"content": [{"token": "ab", "logprob": -1.0}]}) + usage(2) + DONE,
    ],
    ids=["text", "usage", "no usage", "no end", "reason", "tokens"],
)
def test_a_stream_that_differs_is_told_apart(other: bytes) -> None:
    assert stream_said(other) != stream_said(says("ab") + usage(2) + DONE)


def answer(document: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=document)


def test_names_and_instants_are_no_difference_and_all_else_is() -> None:
    one = answer({"id": "x", "created": 1, "choices": [{"text": "a", "id": "y"}]})
    assert told(one) == told(answer({"id": "z", "created": 2, "choices": [{"text": "a", "id": "w"}]}))
    assert told(one) != told(answer({"id": "x", "created": 1, "choices": [{"text": "b", "id": "y"}]}))
    assert told(answer({"error": "a"}, 400)) != told(answer({"error": "a"}, 404))


def test_an_engine_that_does_not_agree_with_itself_proves_nothing() -> None:
    assert verdict(1, 1, 1) == verdict(1, 1, 2) == verdict(1, 2, 2) == SAME
    assert verdict(1, 2, 1) == DIFFERENT
    assert verdict(1, 2, 3) == UNSTEADY


# -- all of it


def good() -> Report:
    ledger = {"exchanges": 5, "distinct": 5, "streamed_tokens": 9}
    leaving = [{"place": "engine", "free_ms": 1.0}]
    return Report("chat", [{"failed": 0}], {"chat": SAME}, {}, leaving, ledger, asked=5, tokens=9)


FAULTS: dict[str, Callable[[Report], Report]] = {
    "a request failed": lambda it: replace(it, samples=[{"failed": 1}]),
    "an answer differs": lambda it: replace(it, alike={"chat": DIFFERENT}),
    "the engine stayed busy": lambda it: replace(it, leaving=[{"place": "engine", "free_ms": None}]),
    "a row is missing": lambda it: replace(it, asked=6),
    "a row is there twice": lambda it: replace(it, ledger={**it.ledger, "distinct": 4}),
    "tokens are missing": lambda it: replace(it, tokens=10),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_wrong_fails_it(fault: str) -> None:
    assert good().passed
    assert not FAULTS[fault](good()).passed


def test_the_table_has_medians_and_each_round() -> None:
    sample = {name: 1.0 for name in engine.COLUMNS} | {"place": "engine", "connections": 4}
    del sample["cores"]
    lines = engine.table([sample | {"tokens_per_s": speed} for speed in (1000.0, 3000.0)]).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| 4 | engine | 2,000 (1,000 3,000) | 1.0 | 1.00 |")
    assert lines[2].endswith("|  |")


@pytest.mark.slow
def test_it_runs_and_passes_on_a_simulated_engine(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with running_engine(Profile(name="chat", ttft_ms=5, tokens_per_s=400)) as simulated:
        endpoints = {
            ("chat", version): Endpoint(
                model="chat", version=version, served_name="chat", engine="vllm", replicas=(simulated.url,)
            )
            for version in (1, 2)
        }
        arms = (
            Arm(name="control", version=1, ranges=((0, 800_000),)),
            Arm(name="candidate", version=2, ranges=((800_000, 1_000_000),)),
        )
        split = Split(experiment="bench", phase=1, salt="0123456789abcdef", unit="user", arms=arms)
        table = Snapshot(
            version=1,
            published_ns=1,
            keys={sha256(row.KEY.encode()).hexdigest(): "bench"},
            models={"chat": ModelRoute(model="chat", production=1, splits=(split,))},
            endpoints=endpoints,
        )
        (data / "proxy-snapshot.json").write_bytes(table.to_json())
        out = tmp_path / "out.json"
        options = ["--concurrency", "3", "--rounds", "1", "--at-least", "12", "--tokens", "12"]
        options += ["--leave", "1", "--leavers", "20", "--processes", "2"]
        code = engine.main([simulated.url, *options, "--data", str(data), "--out", str(out)])
    found = orjson.loads(out.read_bytes())
    assert (code, found["passed"]) == (0, True), found
    assert {sample["place"]: sample["tokens"] for sample in found["samples"]} == {
        "engine": 12 * 12,
        "Turnout": 12 * 12,
    }
    assert found["ledger"]["candidate"] > 0
    assert found["ledger"]["outcomes"]["client_gone"] == 20
