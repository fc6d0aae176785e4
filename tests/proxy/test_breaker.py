"""A candidate at which nothing succeeds: how soon its units are sent to control, and how they come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.ledger.exchange import Outcome
from proxy.breaker import Breaker, failed
from proxy.limits import Limits
from turnout.simulation import Profile, SimulatedEngine

from .harness import Proxy, ask, post, running_proxy, snapshot


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock, limit: int = 3) -> Breaker:
    return Breaker(limit=limit, stall_s=10.0, probe_s=5.0, clock=clock)


# -- the rule ----------------------------------------------------------------------------------------------


def test_a_run_of_failures_opens_it_and_a_success_closes_it() -> None:
    clock = Clock()
    one = breaker(clock)
    for _ in range(3):
        assert one.admits("a")
        one.ended("a", "upstream_error", 0)
    assert not one.admits("a")
    assert not one.wants_probe()
    clock.now += 5
    assert one.wants_probe()
    assert not one.wants_probe()  # one at a time
    one.ended("probe", "upstream_error", 0)
    assert not one.admits("a")
    one.ended("probe", "complete", 200)
    assert one.admits("a")
    assert one.failures == 0


def test_one_success_among_failures_is_enough() -> None:
    one = breaker(Clock())
    for outcome in ("timeout", "overloaded", "complete", "timeout", "truncated"):
        assert one.admits("a")
        one.ended("a", outcome, 200)  # type: ignore[arg-type]
    assert one.admits("a")


def test_answers_that_do_not_begin_count_when_they_have_had_their_time() -> None:
    clock = Clock()
    one = breaker(clock)
    assert one.admits("a")
    one.ended("a", "upstream_error", 0)
    assert one.admits("b")
    assert one.admits("c")
    assert one.admits("d")  # young: a slow model is no dead one
    clock.now += 11
    one.excused("b")
    assert not one.admits("e")
    assert one.is_open


def test_what_has_begun_may_take_its_time() -> None:
    clock = Clock()
    one = breaker(clock)
    for who in "abcdef":
        assert one.admits(who)
        one.excused(who)
    clock.now += 1000
    assert one.admits("g")


def test_who_waits_long_for_an_answer_and_leaves_has_been_failed() -> None:
    clock = Clock()
    one = breaker(clock)
    for seconds, begins in ((1.0, False), (4.0, False), (9.0, True)) * 5:
        assert one.admits("a")  # who leaves early has changed its mind, or reads what has begun
        if begins:
            one.excused("a")
        clock.now += seconds
        one.ended("a", "client_gone", 0)
    for _ in range(3):
        assert one.admits("a")
        clock.now += 5.0
        one.ended("a", "client_gone", 0)
    assert not one.admits("a")


@pytest.mark.parametrize(
    ("outcome", "status", "counts"),
    [
        ("upstream_error", 500, True),
        ("timeout", 0, True),
        ("overloaded", 429, True),
        ("truncated", 200, True),
        ("upstream_rejected", 404, True),  # no such model there: nobody will succeed
        ("upstream_rejected", 401, True),
        ("upstream_rejected", 400, False),  # the client's own fault, on any engine
        ("client_gone", 0, False),
        ("complete", 200, False),
    ],
)
def test_what_counts_as_the_candidates_failure(outcome: Outcome, status: int, counts: bool) -> None:
    assert failed(outcome, status) is counts


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 20))
def test_it_is_open_exactly_after_so_many_failures_in_a_row(ends: list[bool], limit: int) -> None:
    one = breaker(Clock(), limit)
    run = 0
    for good in ends:
        opened = run >= limit
        assert one.admits("a") is not opened
        if opened:
            break
        one.ended("a", "complete" if good else "timeout", 200)
        run = 0 if good else run + 1


# -- in a worker -------------------------------------------------------------------------------------------


@asynccontextmanager
async def all_to_a_candidate(
    tmp_path: Path, fault: str, limits: Limits
) -> AsyncIterator[tuple[Proxy, SimulatedEngine]]:
    """Every unit is the candidate's, whose engine has a fault; control's has none."""
    async with (
        SimulatedEngine(Profile(name="chat")) as good,
        SimulatedEngine(Profile(name="chat"), faults=fault) as bad,
    ):
        table = snapshot({1: good.url, 2: bad.url}, candidate_ppm=1_000_000)
        async with running_proxy(tmp_path, table, limits) as proxy:
            yield proxy, bad


@pytest.mark.parametrize("fault", ["rst", "5xx", "503", "down"])
async def test_within_twenty_requests_the_units_are_with_control_and_the_rows_say_why(
    tmp_path: Path, fault: str
) -> None:
    async with (
        SimulatedEngine(Profile(name="chat")) as good,
        SimulatedEngine(Profile(name="chat"), faults="" if fault == "down" else fault) as bad,
    ):
        url = "http://127.0.0.1:1" if fault == "down" else bad.url
        table = snapshot({1: good.url, 2: url}, candidate_ppm=1_000_000)
        async with running_proxy(tmp_path, table) as proxy:
            for _ in range(30):
                answer = await proxy.post(ask())
                assert b" 200 OK" in answer
                assert b"x-turnout-arm: control" in answer
            rows = proxy.exchanges()
            asked = [row for row in rows if row.error_code != "breaker_open"]
            assert len(asked) == 20
            assert bad.counters.requests == (0 if fault == "down" else 20)
            for row in rows[20:]:
                assert (row.assigned_arm, row.served_arm, row.served_version) == ("candidate", "control", 1)
                assert (row.outcome, row.arm_outcome, row.attempts) == ("complete", "shed", 1)
            assert proxy.worker.breakers.open_ones() == ["exp"]


async def test_a_candidate_that_hangs_is_left_alone_where_clients_are_less_patient(tmp_path: Path) -> None:
    limits = Limits(breaker_failures=3, breaker_stall_seconds=0.1)
    async with all_to_a_candidate(tmp_path, "hang", limits) as (proxy, _):
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(ask()))
            await asyncio.sleep(0.15)
            writer.close()
        async with asyncio.timeout(10):
            assert b"x-turnout-arm: control" in await proxy.post(ask())
        gone = [row for row in proxy.exchanges() if row.outcome == "client_gone"]
        assert [row.arm_outcome for row in gone] == [None] * 3  # missing data, as ever


async def test_a_candidate_that_is_back_gets_its_units_back_and_no_user_pays_for_asking(
    tmp_path: Path,
) -> None:
    limits = Limits(breaker_failures=2, breaker_probe_seconds=0.0)
    async with all_to_a_candidate(tmp_path, "5xx", limits) as (proxy, bad):
        for _ in range(3):
            await proxy.post(ask(store=True))
        await bad.until(lambda counters: counters.requests == 3)  # two users and a probe
        assert b"x-turnout-mirrored: 1" in bad.counters.last_request.lower()
        assert b"store" not in bad.counters.last_request
        bad.misbehave("")
        async with asyncio.timeout(10):
            while proxy.worker.breakers.open_ones():
                assert b"x-turnout-arm: control" in await proxy.post(ask())
                await asyncio.sleep(0.01)
        assert b"x-turnout-arm: candidate" in await proxy.post(ask())
        assert {row.role for row in proxy.exchanges()} == {"primary"}  # a probe is nobody's exchange


async def test_where_all_requests_have_tools_the_candidate_is_asked_without(tmp_path: Path) -> None:
    limits = Limits(breaker_failures=2, breaker_probe_seconds=0.0)
    request = ask(tools=[{"type": "function", "function": {"name": "pay"}}], tool_choice="required")
    async with all_to_a_candidate(tmp_path, "5xx", limits) as (proxy, bad):
        for _ in range(3):
            await proxy.post(request)
        await bad.until(lambda counters: counters.requests == 3)  # two users and a probe
        assert b"tool" not in bad.counters.last_body
        bad.misbehave("")
        async with asyncio.timeout(10):
            while proxy.worker.breakers.open_ones():
                await proxy.post(request)
                await asyncio.sleep(0.01)
        assert b"x-turnout-arm: candidate" in await proxy.post(request)


async def test_a_new_phase_begins_without_a_memory(tmp_path: Path) -> None:
    limits = Limits(breaker_failures=1)
    async with SimulatedEngine(Profile(name="chat")) as good:
        table = snapshot({1: good.url, 2: "http://127.0.0.1:1"}, candidate_ppm=1_000_000)
        async with running_proxy(tmp_path, table, limits) as proxy:
            await proxy.post(ask())
            assert proxy.worker.breakers.open_ones() == ["exp"]
            proxy.worker.adopt(snapshot({1: good.url}, version=2))
            assert proxy.worker.breakers.open_ones() == []


async def test_a_probe_that_hangs_is_given_up(tmp_path: Path) -> None:
    limits = Limits(breaker_failures=1, breaker_probe_seconds=0.0, breaker_stall_seconds=0.05)
    async with all_to_a_candidate(tmp_path, "5xx", limits) as (proxy, bad):
        await proxy.post(ask())
        bad.misbehave("hang")
        await proxy.post(ask())
        await bad.until(lambda counters: counters.requests == 2)
        async with asyncio.timeout(10):
            while proxy.worker.probes.under_way:
                await asyncio.sleep(0.01)
        await bad.until(lambda counters: counters.open_sockets == 0)
