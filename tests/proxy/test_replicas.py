"""Which of a version's replicas is asked, when some are down, absent or overwhelmed?"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.limits import Limits

from .harness import Engine, ask, json_answer, nobody, running_proxy, snapshot


async def plain(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(b'{"ok":1}'))


async def unhurried(_: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.05)
    writer.write(json_answer(b'{"ok":1}'))


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a host that neither takes a connection nor refuses it: its queue is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(2)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"
        for each in waiting:
            each.close()


async def test_one_living_replica_of_three_answers_everything(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        table = snapshot({1: (nobody(), nobody(), engine.url)})
        async with running_proxy(tmp_path, table) as proxy:
            found = [status(await proxy.post(ask())) for _ in range(12)]
            assert {row.outcome for row in proxy.exchanges()} == {"complete"}
    assert found == [200] * 12


async def test_a_replica_that_takes_no_connections_is_left_alone_for_a_while(tmp_path: Path) -> None:
    with black_hole() as hole:
        async with Engine(plain).running() as engine:
            table = snapshot({1: (hole, engine.url)})
            async with running_proxy(tmp_path, table, Limits(connect_seconds=0.3)) as proxy:
                loop, slow = asyncio.get_running_loop(), 0
                for _ in range(8):
                    began = loop.time()
                    assert status(await proxy.post(ask())) == 200
                    slow += loop.time() - began > 0.2
    assert slow <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other words for it")
async def test_a_host_that_goes_without_a_word_is_noticed_within_a_minute(tmp_path: Path) -> None:
    async with (
        Engine(plain).running() as engine,
        running_proxy(tmp_path, snapshot({1: engine.url})) as proxy,
    ):
        await proxy.post(ask())
        (idle,) = proxy.worker.upstreams.replica(engine.url)._idle
        found = idle.transport.get_extra_info("socket").getsockopt
        assert found(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        probes = socket.TCP_KEEPIDLE, socket.TCP_KEEPCNT, socket.TCP_KEEPINTVL
        idle_s, count, between_s = (found(socket.IPPROTO_TCP, option) for option in probes)
        assert idle_s + count * between_s == 60
        assert found(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


async def test_who_asks_a_replica_again_asks_alone(tmp_path: Path) -> None:
    """Of many that come once its rest is over, one waits to learn that nothing has changed."""
    with black_hole() as hole:
        async with Engine(plain).running() as engine:
            table = snapshot({1: (hole, engine.url)})
            async with running_proxy(tmp_path, table, Limits(connect_seconds=0.3)) as proxy:
                gone = proxy.worker.upstreams.replica(hole)
                while not gone.resting_until:
                    await proxy.post(ask())
                gone.resting_until = 0.0
                loop = asyncio.get_running_loop()
                began = loop.time()

                async def asked() -> float:
                    assert status(await proxy.post(ask())) == 200
                    return loop.time() - began

                took = await asyncio.gather(*(asked() for _ in range(20)))
    assert sum(seconds > 0.25 for seconds in took) <= 1


async def test_a_replica_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    async with Engine(plain).running() as first, Engine(plain).running() as second:
        async with running_proxy(tmp_path, snapshot({1: (first.url, second.url)})) as proxy:
            away = proxy.worker.upstreams.replica(first.url)
            away.rest(0.2)
            for _ in range(4):
                await proxy.post(ask())
            assert (len(first.requests), len(second.requests)) == (0, 4)
            await asyncio.sleep(0.25)
            for _ in range(4):
                await proxy.post(ask())
            assert len(first.requests) == 2


async def test_when_all_rest_one_is_asked_all_the_same(tmp_path: Path) -> None:
    async with Engine(plain).running() as first, Engine(plain).running() as second:
        async with running_proxy(tmp_path, snapshot({1: (first.url, second.url)})) as proxy:
            for url in (first.url, second.url):
                proxy.worker.upstreams.replica(url).rest(30)
            assert status(await proxy.post(ask())) == 200


async def test_hosts_that_do_not_even_refuse_are_not_all_waited_for(tmp_path: Path) -> None:
    with black_hole() as first, black_hole() as second, black_hole() as third, black_hole() as fourth:
        table = snapshot({1: (first, second, third, fourth)})
        async with running_proxy(tmp_path, table, Limits(connect_seconds=0.2)) as proxy:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert status(await proxy.post(ask())) == 502
            assert loop.time() - began < 0.7
            (row,) = proxy.exchanges()
            assert (row.outcome, row.error_code) == ("timeout", "upstream_unreachable")


async def test_a_replica_that_says_503_does_not_draw_the_traffic(tmp_path: Path) -> None:
    """It has nothing outstanding, so that by that alone it would get the most."""

    async def busy(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(b"{}", "503 Service Unavailable"))

    async with Engine(busy).running() as bad, Engine(unhurried).running() as good:
        async with running_proxy(tmp_path, snapshot({1: (bad.url, good.url)})) as proxy:
            asked = []
            for _ in range(60):
                asked.append(asyncio.ensure_future(proxy.post(ask())))
                await asyncio.sleep(0.01)
            found = [status(answer) for answer in await asyncio.gather(*asked)]
    assert 1 <= found.count(503) <= 10


async def test_the_log_says_why_an_engine_cannot_be_reached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = nobody()
    async with running_proxy(tmp_path, snapshot({1: url})) as proxy:
        for _ in range(3):
            assert status(await proxy.post(ask())) == 502
    told = [line.getMessage() for line in caplog.records if url in line.getMessage()]
    assert told == [f"the engine at {url} cannot be reached: Connection refused"], "once, and why"


async def test_a_snapshot_that_names_a_replica_twice_leaves_nobody_waiting(tmp_path: Path) -> None:
    url = nobody()
    async with running_proxy(tmp_path, snapshot({1: (url, url)})) as proxy:
        assert status(await asyncio.wait_for(proxy.post(ask()), 5)) == 502
