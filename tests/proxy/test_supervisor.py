"""Several workers on one port: they take up a snapshot together, and a killed one costs nothing recorded."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import read_segment, sealed_segments
from experiments.snapshot import LITELLM, Snapshot
from proxy.__main__ import main
from proxy.limits import VARIABLE
from proxy.roster import RosterFile
from proxy.supervisor import PortTaken, ProxyOptions, Supervisor, listen
from turnout.processes import free_port, programs
from turnout.settings import Settings

from .harness import Engine, ask, json_answer, listening, snapshot


class Controller:
    """The long poll of the control API, and nothing else."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.raw: bytes | None = None
        self.news = asyncio.Condition()
        self.acknowledged: dict[str, int] = {}
        self.url = ""

    async def publish(self, table: Snapshot, raw: bytes | None = None) -> None:
        async with self.news:
            self.snapshot, self.raw = table, raw or table.to_json()
            self.news.notify_all()

    async def workers_at(self, version: int, count: int) -> None:
        async with self.news:
            await self.news.wait_for(lambda: list(self.acknowledged.values()).count(version) >= count)

    async def _poll(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                query = parse_qs(urlsplit(head.split(b" ")[1].decode()).query)
                have = int(query["have"][0])
                async with self.news:
                    self.acknowledged[query["worker"][0]] = have
                    self.news.notify_all()
                    while self.snapshot is None or self.snapshot.version == have:
                        await self.news.wait()
                    raw = self.raw or b""
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(raw), raw))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Controller]:
        async with listening(self._poll) as self.url:
            yield self


@asynccontextmanager
async def proxy_process(
    data: Path, control_url: str, workers: int, *options: str
) -> AsyncIterator[tuple[str, int]]:
    port = free_port()
    command = [sys.executable, "-m", "proxy", "--data", str(data), "--control-url", control_url]
    command += ["--port", str(port), "--workers", str(workers), *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url) as client:
            await until_ready(client)
        yield url, process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def until_ready(client: httpx.AsyncClient) -> dict[str, object]:
    async with asyncio.timeout(15):
        while True:
            try:
                answer = await client.get("/readyz")
                if answer.status_code == 200:
                    return dict(answer.json())
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def plain(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(b'{"ok":1}'))


async def test_every_worker_takes_up_a_snapshot_within_a_second_and_refuses_a_bad_one(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, Controller().running() as controller:
        await controller.publish(snapshot({1: engine.url, 2: engine.url}, candidate_ppm=1_000_000))
        async with proxy_process(tmp_path, controller.url, 2) as (url, _):
            await asyncio.wait_for(controller.workers_at(1, 2), 10)
            bad = snapshot({1: engine.url}, version=2)
            await controller.publish(bad, b'{"torn":')
            await asyncio.sleep(0.3)
            async with httpx.AsyncClient(base_url=url) as client:
                answer = await client.post("/v1/chat/completions", json=ask())
                assert (answer.headers["x-turnout-snapshot"], answer.status_code) == ("1", 200)
            started = asyncio.get_running_loop().time()
            await controller.publish(snapshot({1: engine.url}, version=3))
            await controller.workers_at(3, 2)
            assert (
                asyncio.get_running_loop().time() - started < 1.5
            )  # the refused one made them wait a little
            saved = Snapshot.from_json((tmp_path / "proxy-snapshot.json").read_bytes())
            assert saved.version == 3


async def test_workers_start_from_the_last_good_copy_without_a_controller(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        (tmp_path / "proxy-snapshot.json").write_bytes(snapshot({1: engine.url}, version=7).to_json())
        async with proxy_process(tmp_path, "http://127.0.0.1:9", 1) as (url, _):
            async with httpx.AsyncClient(base_url=url) as client:
                answer = await client.post("/v1/chat/completions", json=ask())
                assert answer.headers["x-turnout-snapshot"] == "7"


async def test_a_second_proxy_on_the_folder_leaves_the_firsts_counters_alone(tmp_path: Path) -> None:
    (tmp_path / "proxy-snapshot.json").write_bytes(snapshot({1: "http://127.0.0.1:9"}).to_json())
    ended = tmp_path / "metrics" / "ended.json"
    ended.parent.mkdir()
    ended.write_text("{}")
    with closing(RosterFile(tmp_path)):
        async with proxy_process(tmp_path, "http://127.0.0.1:9", 1):
            assert ended.exists()
    async with proxy_process(tmp_path, "http://127.0.0.1:9", 1):
        assert not ended.exists()


@pytest.mark.slow
async def test_sigkilled_workers_lose_no_answered_request(tmp_path: Path) -> None:
    answered: set[str] = set()
    async with Engine(plain).running() as engine:
        (tmp_path / "proxy-snapshot.json").write_bytes(snapshot({1: engine.url}).to_json())
        async with proxy_process(tmp_path, "http://127.0.0.1:9", 2) as (url, pid):
            stop = asyncio.Event()

            async def user() -> None:
                while not stop.is_set():
                    try:
                        async with httpx.AsyncClient(base_url=url) as client:
                            for _ in range(20):
                                answer = await client.post("/v1/chat/completions", json=ask())
                                answered.add(answer.headers["x-turnout-request-id"])
                    except httpx.TransportError:
                        await asyncio.sleep(0.01)

            users = [asyncio.ensure_future(user()) for _ in range(4)]
            for _ in range(3):
                await asyncio.sleep(0.6)
                os.kill(children(pid)[0], signal.SIGKILL)
            await asyncio.sleep(0.6)
            stop.set()
            await asyncio.gather(*users)
    rows = [
        record.request_id
        for path in sealed_segments(tmp_path / "spool")
        for record in read_segment(path).records
        if isinstance(record, ExchangeRecord)
    ]
    assert len(rows) == len(set(rows))
    assert len(answered) > 20  # on a busy machine; hundreds on a quiet one
    assert answered <= set(rows)


async def counted(client: httpx.AsyncClient) -> float:
    """What all workers together say that they have done."""
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("turnout_exchanges_total"))


@pytest.mark.slow
async def test_all_workers_are_replaced_under_load_and_no_request_fails(tmp_path: Path) -> None:
    answered: list[str] = []
    failed: list[object] = []
    async with Engine(plain).running() as engine:
        (tmp_path / "proxy-snapshot.json").write_bytes(snapshot({1: engine.url}).to_json())
        async with proxy_process(tmp_path, "http://127.0.0.1:9", 2) as (url, pid):
            stop = asyncio.Event()

            async def user() -> None:
                # A machine that is busy with other things may take its time: that fails no request.
                async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                    while not stop.is_set():
                        try:
                            answer = await client.post("/v1/chat/completions", json=ask())
                            answer.raise_for_status()
                            answered.append(answer.headers["x-turnout-request-id"])
                        except httpx.HTTPError as error:
                            failed.append(error)

            before = children(pid)
            users = [asyncio.ensure_future(user()) for _ in range(4)]
            command = [str(Path(sys.executable).with_name("turnout")), "restart", "--data", str(tmp_path)]
            restart = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            said, _ = await asyncio.wait_for(restart.communicate(), 120)
            assert restart.returncode == 0
            after = children(pid)
            assert f"{before[0]}, {before[1]} -> {after[0]}, {after[1]}" in " ".join(said.decode().split())
            assert not set(before) & set(after)
            stop.set()
            await asyncio.gather(*users)
            async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(60):
                while await counted(client) != len(answered):  # a worker says what it has done twice a second
                    await asyncio.sleep(0.1)
    assert not failed, [repr(error) for error in failed]
    rows = [record for path in sealed_segments(tmp_path / "spool") for record in read_segment(path).records]
    assert sorted(row.request_id for row in rows if isinstance(row, ExchangeRecord)) == sorted(answered)


async def test_where_no_other_worker_takes_connections_a_provider_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its library takes seconds to load; other models have nothing to do with it."""
    slow = tmp_path / "slow" / "litellm"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(slow.parent), os.environ.get("PYTHONPATH", ""))))
    async with Engine(plain).running() as engine:
        plainly = snapshot({1: engine.url, 2: engine.url})
        away = replace(plainly.endpoints["chat", 2], engine=LITELLM, replicas=(), served_name="openai/gpt-4o")
        table = replace(plainly, endpoints={**plainly.endpoints, ("chat", 2): away})
        (tmp_path / "proxy-snapshot.json").write_bytes(table.to_json())
        async with proxy_process(tmp_path, "http://127.0.0.1:9", 1) as (url, supervisor):
            [worker] = children(supervisor)
            os.kill(worker, signal.SIGKILL)
            async with httpx.AsyncClient(base_url=url, timeout=12) as client:
                assert (await client.post("/v1/chat/completions", json=ask())).status_code == 200


def test_a_taken_port_says_what_to_do() -> None:
    with closing(listen("127.0.0.1", 0)) as taken, pytest.raises(PortTaken, match="stop what listens there"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(PortTaken, match="another --host"):
        listen("192.0.2.1", 0)


async def test_the_allocator_gives_back_what_is_large_unless_the_operator_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1234567")
    (tmp_path / "proxy-snapshot.json").write_bytes(snapshot({1: "http://127.0.0.1:9"}).to_json())
    async with proxy_process(tmp_path, "http://127.0.0.1:9", 1) as (_, supervisor):
        [worker] = children(supervisor)
        with open(f"/proc/{worker}/environ", "rb") as file:  # noqa: ASYNC230 - no disk is asked
            environment = file.read().split(b"\0")
    assert b"MALLOC_MMAP_THRESHOLD_=262144" in environment
    assert b"MALLOC_TRIM_THRESHOLD_=1234567" in environment


def processor_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def test_a_worker_that_polls_busily_never_sleeps_answers_and_stops_when_told(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        (tmp_path / "proxy-snapshot.json").write_bytes(snapshot({1: engine.url}).to_json())
        async with proxy_process(tmp_path, "http://127.0.0.1:9", 1, "--busy-polling") as (url, supervisor):
            [worker] = children(supervisor)
            began = processor_seconds(worker)
            async with asyncio.timeout(10):  # asleep, it uses less than this in a minute
                while processor_seconds(worker) < began + 0.5:
                    await asyncio.sleep(0.05)
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.post("/v1/chat/completions", json=ask())).status_code == 200


@pytest.mark.parametrize(("busy", "workers", "told"), [(True, 2, True), (True, 1, False), (False, 2, False)])
def test_workers_that_leave_no_core_to_others_are_told(
    busy: bool, workers: int, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    options = ProxyOptions(data=Path(), control_url="", workers=workers, busy_polling=busy)
    Supervisor(options)._mind_cores()
    assert ("fewer workers" in caplog.text) is told


@pytest.mark.parametrize(("set_", "least"), [("", 31), ("drain_seconds=120,last_call_seconds=5", 125)])
def test_workers_are_given_the_time_to_drain_that_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_: str, least: float
) -> None:
    told: list[ProxyOptions] = []
    monkeypatch.setattr("proxy.__main__.run", told.append)
    monkeypatch.setenv(VARIABLE, set_)
    main(["--data", str(tmp_path)])
    assert least + 5 < told[0].leaving_s < least + 10
    proxy = next(one for one in programs(Settings(limits=set_)) if one.name == "proxy")
    assert proxy.stop_s > told[0].leaving_s
