"""`turnout bench`: the load, its figures, and the command against a simulated engine."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from turnout.bench_command import bench
from turnout.load import Bounds, Round, Sample, Target, _message, client_for, run_round
from turnout.load_report import figures, percentile, to_csv, write
from turnout.simulation import Profile, SimulatedEngine, running_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatedEngine]:
    with running_engine(Profile(name="chat")) as running:
        yield running


async def load(url: str, concurrency: int, requests: int, **fields: Any) -> Round:
    target = Target(url=url, model=fields.pop("model", "chat"), max_tokens=8, **fields)
    async with client_for(target, concurrency) as client:
        return await run_round(
            client, target, concurrency, Bounds(requests=requests, seconds=30.0, timeout_s=5.0)
        )


@pytest.mark.parametrize("stream", [True, False])
async def test_every_request_is_asked_once_and_timed(engine: SimulatedEngine, stream: bool) -> None:
    before = engine.counters.requests
    round_ = await load(engine.url, 4, 13, stream=stream)
    assert engine.counters.requests - before == 13
    assert len(round_.samples) == 13
    for sample in round_.samples:
        assert (sample.error, sample.tokens) == (None, 8)
        assert sample.latency_ms > 0
        assert (sample.ttft_ms is not None) == stream
        assert len(sample.gaps_ms) == (7 if stream else 0)


async def test_never_more_at_once_than_asked_for(engine: SimulatedEngine) -> None:
    opened = engine.counters.connections
    await load(f"{engine.url}/v1", 3, 20)
    assert 0 < engine.counters.connections - opened <= 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [("500", "status 500"), ("429", "status 429"), ("no-finish", "no finish reason"),
     ("eof-clean", "stream cut"), ("cut-at-300", "RemoteProtocolError"), ("rst", "ReadError")],
)  # fmt: skip
async def test_what_is_no_answer_is_an_error_with_a_name(
    engine: SimulatedEngine, fault: str, error: str
) -> None:
    round_ = await load(engine.url, 2, 3, model=fault)
    assert [sample.error for sample in round_.samples] == [error] * 3


async def test_a_silent_engine_is_a_timeout(engine: SimulatedEngine) -> None:
    target = Target(url=engine.url, model="hang")
    async with client_for(target, 1) as client:
        round_ = await run_round(client, target, 1, Bounds(requests=1, seconds=9.0, timeout_s=0.2))
    assert [sample.error for sample in round_.samples] == ["timeout"]


async def test_time_bounds_a_round(engine: SimulatedEngine) -> None:
    target = Target(url=engine.url, model="slow-head-200")
    async with client_for(target, 1) as client:
        round_ = await run_round(client, target, 1, Bounds(requests=1000, seconds=0.3))
    assert 1 <= len(round_.samples) <= 2


def test_prompts_differ_from_the_first_word_on() -> None:
    target = Target(url="http://x", model="m", prompt_words=5)
    prompts = [json.loads(target.body(number))["messages"][0]["content"] for number in range(50)]
    assert len({prompt.split()[0] for prompt in prompts}) == 50
    assert {len(prompt.split()) for prompt in prompts} == {6}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([3.0], 99, 3.0), ([4, 1, 3, 2], 50, 2), (list(range(1, 101)), 99, 99), ([1, 2], 90, 2)],
)
def test_percentiles_are_values_that_were_measured(
    values: list[float], percent: int, expected: float | None
) -> None:
    assert percentile(values, percent) == expected


ROUND = Round(
    concurrency=2,
    seconds=2.0,
    samples=(
        Sample(latency_ms=10, ttft_ms=2, gaps_ms=[1, 3], tokens=3),
        Sample(latency_ms=20, ttft_ms=4, gaps_ms=[2], tokens=2),
        Sample(latency_ms=9999, error="timeout"),
    ),
)


def test_failures_count_as_failures_and_in_no_time() -> None:
    told = figures(ROUND)
    assert (told.requests, told.failed, told.errors) == (3, 1, {"timeout": 1})
    assert (told.requests_per_s, told.tokens_per_s) == (1.0, 2.5)
    assert (told.latency_p50_ms, told.latency_p99_ms, told.ttft_p99_ms, told.gap_p50_ms) == (10, 20, 4, 2)
    empty = figures(Round(concurrency=1, seconds=1.0, samples=()))
    assert (empty.latency_p50_ms, empty.requests_per_s) == (None, 0.0)


def test_files_hold_the_figures(tmp_path: Path) -> None:
    told = [figures(ROUND)]
    [row] = csv.DictReader(io.StringIO(to_csv(told)))
    assert (row["concurrency"], row["ttft_p99_ms"], row["errors"]) == ("2", "4", "timeout: 1")
    write(tmp_path / "a.json", told, "t")
    assert json.loads((tmp_path / "a.json").read_text())["rounds"][0]["failed"] == 1
    write(tmp_path / "a.svg", told, "a title")
    drawn = (tmp_path / "a.svg").read_text()
    assert "time to first token" in drawn
    assert "tokens a second" in drawn
    assert "a title" in drawn
    write(tmp_path / "a.png", told, "t")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="expected a name that ends in"):
        write(tmp_path / "a.pdf", told, "t")


def test_the_command_finds_the_model_and_reports_cold_and_warm(
    engine: SimulatedEngine, tmp_path: Path
) -> None:
    arguments = [engine.url, "-c", "1,3", "--requests", "6", "--max-tokens", "5", "--json", "-o"]
    got = CliRunner().invoke(bench, [*arguments, str(tmp_path / "b.csv")])
    assert got.exit_code == 0, got.output
    rounds = json.loads(got.stdout)["rounds"]
    assert [(r["concurrency"], r["cold"], r["requests"]) for r in rounds] == [
        (1, True, 1),
        (1, False, 6),
        (3, False, 6),
    ]
    assert (tmp_path / "b.csv").read_text().count("\n") == 4


def test_the_table_is_for_people_and_failures_end_with_1(engine: SimulatedEngine) -> None:
    got = CliRunner().invoke(bench, [engine.url, "-c", "2", "--requests", "2", "--model", "503"])
    assert got.exit_code == 1
    assert "requests failed: status 503" in got.output
    assert "2 cold" in got.output


def test_a_key_that_is_asked_for_is_named(engine: SimulatedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = httpx.Response(401, request=httpx.Request("GET", engine.url))
    monkeypatch.setattr(httpx, "get", lambda *_, **__: refused)
    got = CliRunner().invoke(bench, [engine.url])
    assert got.exit_code == 1
    assert "status 401" in got.output
    assert "--api-key" in got.output


def test_a_failure_is_told_in_the_words_of_the_other_side(engine: SimulatedEngine) -> None:
    arguments = [f"{engine.url}/wrong", "-c", "1", "--requests", "1", "--model", "chat"]
    got = CliRunner().invoke(bench, arguments)
    assert got.exit_code == 1
    assert "requests failed: status 404 (" in got.output
    nobody = CliRunner().invoke(bench, ["http://127.0.0.1:1", *arguments[1:]])
    assert "ConnectError (" in nobody.output


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"no such model","code":"x"}}', "no such model"),
        (b'{"error":"no such model"}', "no such model"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b"<html>\xff", "<html>\ufffd"),
        (b"[1]", "[1]"),
        (b"", ""),
        (b'"' + b"x" * 999 + b'"', '"' + "x" * 299),
    ],
)
def test_the_words_of_an_error_are_found_in_its_body(body: bytes, words: str) -> None:
    assert _message(body) == words


def test_a_key_of_any_characters_is_sent(engine: SimulatedEngine) -> None:
    arguments = [engine.url, "-c", "1", "--requests", "1", "--api-key", "schl\u00fcssel"]
    assert CliRunner().invoke(bench, arguments).exit_code == 0


@pytest.mark.parametrize(("level", "code", "rows"), [("1", 130, 1), ("0", 130, 0)])
def test_ctrl_c_keeps_the_rounds_that_were_whole(
    engine: SimulatedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, code: int, rows: int
) -> None:
    calls = 0

    async def interrupted(*arguments: Any, **named: Any) -> Round:
        nonlocal calls
        calls += 1
        if calls > int(level):
            raise KeyboardInterrupt
        return await run_round(*arguments, **named)

    monkeypatch.setattr("turnout.bench_command.run_round", interrupted)
    out = tmp_path / "a.csv"
    got = CliRunner().invoke(bench, [engine.url, "-c", "1,2", "--requests", "2", "-o", str(out)])
    assert got.exit_code == code
    if rows:
        assert "1 of 3 rounds were whole" in got.output
        assert len(out.read_text().splitlines()) == 1 + rows
    else:
        assert "nothing to report" in got.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ftp://x"], "expected http://HOST:PORT"),
        (["http://x:abc", "-m", "m"], "expected http://HOST:PORT"),
        (["http://", "-m", "m"], "expected http://HOST:PORT"),
        (["http://x", "-m", "m", "--max-tokens", "9" * 20], "--max-tokens"),
        (["http://x", "-c", "0"], "expected numbers from 1"),
        (["http://x", "-c", "many"], "expected numbers from 1"),
        (["http://x", "-o", "a.pdf"], "expected a name that ends in"),
        (["http://127.0.0.1:1"], "is it up?"),
        (["http://x", "-m", "m", "-o", "no/such/folder/a.png"], "there is no folder no/such/folder"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_sent(arguments: list[str], words: str) -> None:
    got = CliRunner().invoke(bench, arguments)
    assert got.exit_code in (1, 2)
    assert words in got.output
