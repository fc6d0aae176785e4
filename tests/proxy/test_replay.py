"""Recorded requests at the proxy: the copies of a live shadow, and an end that somebody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from experiments.ledger.exchange import ExchangeRecord
from experiments.snapshot import Exclusion
from proxy.limits import Limits
from turnout.simulation import Profile, SimulatedEngine

from .harness import ADMIN, Proxy, ask, post, running_proxy, snapshot

PAIR = "0199a3d8-0000-7000-8000-000000000001"


@dataclass
class Replayed:
    """A proxy whose experiment `dark` takes recorded requests, and its candidate."""

    proxy: Proxy
    candidate: SimulatedEngine

    async def put(self, recorded: object, token: str = ADMIN, **about: Any) -> tuple[int, dict[str, Any]]:
        return read(await self.proxy.send(message(recorded, token, **about)))

    def rows(self) -> list[ExchangeRecord]:
        return self.proxy.exchanges()


def message(recorded: object, token: str = ADMIN, **about: Any) -> bytes:
    body = recorded if isinstance(recorded, bytes) else orjson.dumps(recorded)
    line = {"experiment": "dark", "model": "chat", "pair": PAIR, "path": "/v1/chat/completions", "unit": "a1"}
    line |= about
    return post(orjson.dumps(line) + b"\n" + body, "/v1/replay", {"x-turnout-admin": token})


def read(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), orjson.loads(body)


@asynccontextmanager
async def replaying(
    tmp_path: Path, fault: str = "ok", limits: Limits | None = None, **changes: Any
) -> AsyncIterator[Replayed]:
    async with SimulatedEngine(Profile(name="chat"), faults=fault) as candidate:
        table = snapshot({1: "http://127.0.0.1:1", 2: candidate.url}, share_ppm=1_000_000)
        route = table.models["chat"]
        mirrors = tuple(replace(mirror, recorded=True, **changes) for mirror in route.mirrors)
        table = replace(table, models={"chat": replace(route, mirrors=mirrors)})
        async with running_proxy(tmp_path, table, limits) as proxy:
            yield Replayed(proxy, candidate)


async def test_the_row_is_a_live_copys_but_for_where_it_came_from(tmp_path: Path) -> None:
    recorded = ask(stream=True, store=True, metadata={"a": "b"}, temperature=0)
    async with replaying(tmp_path / "replay") as one:
        assert await one.put(recorded, tenant="acme") == (
            200, {"outcome": "complete", "status": 200, "error_code": None}
        )  # fmt: skip
        (mine,) = one.rows()
        sent = orjson.loads(one.candidate.counters.last_body)
    async with SimulatedEngine(Profile(name="chat")) as engine:
        table = snapshot({1: engine.url, 2: engine.url}, share_ppm=1_000_000)
        async with running_proxy(tmp_path / "live", table) as proxy:
            await proxy.post(recorded)
            async with asyncio.timeout(10):
                while proxy.worker.shadows.in_flight:
                    await asyncio.sleep(0.005)
            (live,) = (row for row in proxy.exchanges() if row.role == "shadow")
        bodies = [orjson.loads(bytes(engine.counters.last_body))]
    assert sent in bodies
    assert not {"store", "metadata", "user"} & sent.keys()
    differing = {
        each.name for each in fields(mine) if getattr(mine, each.name) != getattr(live, each.name)
    } - {"exchange_id", "started_ns", "worker", "chunk_us", "duration_us", "first_byte_us", "response"}
    assert differing == {"origin", "request_id", "pair_id", "unit", "tenant", "serial", "chunk_ends"} - (
        {"chunk_ends"} if mine.chunk_ends == live.chunk_ends else set()
    )
    assert (mine.origin, mine.pair_id, mine.unit, mine.tenant) == ("replay", PAIR, "a1", "acme")


async def test_live_requests_are_not_mirrored_by_it(tmp_path: Path) -> None:
    async with replaying(tmp_path) as one:
        await one.proxy.post(ask())
        assert [row.role for row in one.rows()] == ["primary"]


async def test_only_the_admin_and_only_for_an_experiment_that_replays(tmp_path: Path) -> None:
    async with replaying(tmp_path) as one:
        for status, code, given in (
            (403, "admin_required", {"token": "guess"}),
            (409, "no_replay", {"experiment": "other"}),
            (409, "no_replay", {"model": "other"}),
            (404, "path_not_found", {"path": "/etc/passwd"}),
            (400, "invalid_type", {"pair": None}),
            (400, "invalid_type", {"unit": 7}),
        ):
            answer = await one.put(ask(), **given)
            assert (answer[0], answer[1]["error"]["code"]) == (status, code)
        status, body = read(await one.proxy.send(post(b"[]\n{}", "/v1/replay", {"x-turnout-admin": ADMIN})))
        assert (status, body["error"]["code"]) == (400, "malformed_json")
        asked = b"GET /v1/replay HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert b" 405 " in await one.proxy.send(asked)
        assert one.rows() == []
        assert one.candidate.counters.requests == 0


@pytest.mark.parametrize(
    ("fault", "changes", "status", "code"),
    [
        ("429", {}, 503, "rate_limited"),
        ("503", {}, 503, "engine_overloaded"),
        ("ok", {"max_tokens": 1}, 503, "experiment_tokens"),
    ],
)
async def test_what_says_nothing_of_the_candidate_is_no_row(
    tmp_path: Path, fault: str, changes: dict[str, Any], status: int, code: str
) -> None:
    async with replaying(tmp_path, fault, **changes) as one:
        rows = 0
        if changes:  # the first one uses it up
            assert (await one.put(ask()))[0] == 200
            rows = 1
        answer = await one.put(ask())
        assert (answer[0], answer[1]["error"]["code"]) == (status, code)
        assert len(one.rows()) == rows


async def test_who_replays_is_told_when_a_limited_provider_may_be_asked_again(tmp_path: Path) -> None:
    async with replaying(tmp_path, "429") as one:  # its retry-after is 1 s
        for _ in range(2):
            about = {"experiment": "dark", "model": "chat", "path": "/v1/chat/completions", "pair": PAIR}
            body = orjson.dumps(about) + b"\n" + orjson.dumps(ask())
            answer = await one.proxy.send(post(body, "/v1/replay", {"x-turnout-admin": ADMIN}))
            assert b"retry-after: 1\r\n" in answer
        assert one.candidate.counters.requests == 1
        assert one.rows() == []


async def test_an_engine_that_is_away_is_no_row(tmp_path: Path) -> None:
    async with replaying(tmp_path) as one:
        await one.candidate.close()
        answer = await one.put(ask())
        assert (answer[0], answer[1]["error"]["code"]) == (502, "upstream_unreachable")
        assert one.rows() == []


async def test_one_that_is_left_alone_is_told_with_why(tmp_path: Path) -> None:
    """That it fails is not that nobody is there."""
    async with replaying(tmp_path, "500") as one:
        for _ in range(20):
            assert (await one.put(ask()))[1]["status"] == 500
        status, answer = await one.put(ask())
        assert (status, answer["error"]["code"]) == (503, "breaker_open")
        assert "the last: status 500" in answer["error"]["message"]
        assert len(one.rows()) == 20
    async with replaying(tmp_path / "away") as one:
        await one.candidate.__aexit__(None, None, None)
        told = {(await one.put(ask()))[1]["error"]["code"] for _ in range(22)}
        assert told == {"upstream_unreachable"}
        assert one.proxy.worker.shadows._breakers._known.popitem()[1].is_open


@pytest.mark.parametrize(
    ("fault", "outcome", "code"),
    [
        ("500", "upstream_error", None),
        ("400", "upstream_rejected", None),
        ("rst", "upstream_error", "upstream_closed"),
        ("hang", "timeout", "copy_timeout"),
    ],
)
async def test_the_candidates_own_failures_are_the_pairs_other_half(
    tmp_path: Path, fault: str, outcome: str, code: str | None
) -> None:
    async with replaying(tmp_path, fault, timeout_ms=150) as one:
        status, answer = await one.put(ask())
        assert (status, answer["outcome"]) == (200, outcome)
        (row,) = one.rows()
        assert (row.role, row.outcome, row.pair_id) == ("shadow", outcome, PAIR)
        if code == "copy_timeout":
            assert row.error_code == code


@pytest.mark.parametrize(
    ("recorded", "changes", "reason"),
    [
        (ask(tools=[{"type": "function"}]), {}, "tools_skipped"),
        (ask(previous_response_id="resp_1"), {}, "stored_elsewhere"),
        (ask(metadata={"tier": "gold"}), {"exclude": Exclusion(tags=(("tier", "gold"),))}, "excluded"),
        (b"no json", {}, "not_copied"),
        (ask(padding="x" * 5000), {"max_bytes": 4000}, "experiment_bytes"),
    ],
)
async def test_what_can_never_be_sent_is_a_row_with_the_reason(
    tmp_path: Path, recorded: object, changes: dict[str, Any], reason: str
) -> None:
    async with replaying(tmp_path, **changes) as one:
        assert await one.put(recorded) == (200, {"outcome": "shed", "status": 0, "error_code": reason})
        (row,) = one.rows()
        assert (row.outcome, row.error_code, row.origin) == ("shed", reason, "replay")
        assert one.candidate.counters.requests == 0


async def test_one_beyond_the_cap_may_come_again(tmp_path: Path) -> None:
    async with replaying(tmp_path, "hang", max_in_flight=1, timeout_ms=60_000) as one:
        first = asyncio.ensure_future(one.put(ask()))
        await one.candidate.until(lambda counters: counters.requests == 1)
        answer = await one.put(ask(), pair=PAIR.replace("1", "2"))
        assert (answer[0], answer[1]["error"]["code"]) == (503, "experiment_in_flight")
        await one.proxy.worker.shadows.close()
        assert (await first)[1]["error"]["code"] == "worker_stopped"
        assert one.rows() == []


async def test_who_leaves_leaves_no_row_and_the_engine_is_told(tmp_path: Path) -> None:
    async with replaying(tmp_path, "hang") as one:
        _, writer = await asyncio.open_connection("127.0.0.1", one.proxy.port)
        writer.write(message(ask()))
        await one.candidate.until(lambda counters: counters.requests == 1)
        writer.close()
        async with asyncio.timeout(10):
            while one.proxy.worker.shadows.in_flight:
                await asyncio.sleep(0.005)
        await one.candidate.until(lambda counters: counters.running == 0)
        assert one.rows() == []
        assert one.proxy.worker.shadows.bytes == 0


async def test_who_leaves_says_nothing_of_the_candidate(tmp_path: Path) -> None:
    """However many requests were given up, the next one is asked, and not what is left of a failing one."""
    limits = Limits(breaker_failures=3, breaker_stall_seconds=0.05)
    async with replaying(tmp_path, "slow-ttft-300", limits) as one:
        for left in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", one.proxy.port)
            writer.write(message(ask()))
            await one.candidate.until(lambda counters, left=left: counters.requests == left + 1)  # type: ignore[misc]
            writer.close()
        async with asyncio.timeout(10):
            while one.proxy.worker.shadows.in_flight:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*(one.put(ask(), pair=PAIR[:-1] + str(n)) for n in range(2)))
        assert [status for status, _ in answers] == [200, 200]


async def test_it_needs_no_api_key_where_clients_do(tmp_path: Path) -> None:
    async with replaying(tmp_path) as one:
        keys = {"0" * 64: "acme"}
        one.proxy.worker.adopt(replace(one.proxy.worker.snapshot, version=2, keys=keys))
        assert b" 401 " in await one.proxy.post(ask())
        reader, writer = await asyncio.open_connection("127.0.0.1", one.proxy.port)
        raw = message(ask(padding="x" * 1000))
        writer.write(raw[:700])  # in two pieces: a stranger's body would not be waited for
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(raw[700:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_what_could_not_be_written_is_told_as_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replaying(tmp_path) as one:
        monkeypatch.setattr(one.proxy.worker.spool, "append", lambda record: False)
        answer = await one.put(ask())
        assert (answer[0], answer[1]["error"]["code"]) == (503, "not_recorded")
