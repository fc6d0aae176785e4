"""A new snapshot, the worker's first minute without one, and its way out."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from experiments.ledger.exchange import ExchangeRecord, Record
from experiments.snapshot import Snapshot
from proxy.doorway import Doorway
from proxy.limits import Limits
from proxy.server import ClientConnection
from proxy.supervisor import listen
from proxy.worker import Worker

from .harness import Engine, ask, json_answer, post, running_proxy, snapshot

ANSWER = b'{"ok":1}'


async def plain(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(ANSWER))


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


@contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of an engine that takes no more connections: they hang, as they do where it is overrun."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(2):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}"


async def test_what_waits_for_a_connection_is_routed_anew_when_the_candidate_is_released(
    tmp_path: Path,
) -> None:
    async with Engine(plain).running() as control:
        with full_backlog() as candidate:
            table = snapshot({1: control.url, 2: candidate}, candidate_ppm=1_000_000)
            async with running_proxy(tmp_path, table) as proxy:
                waiting = asyncio.ensure_future(proxy.post(ask()))
                while not proxy.worker.relays:
                    await asyncio.sleep(0)
                proxy.worker.adopt(snapshot({1: control.url, 2: candidate}, version=2))
                code, headers, _ = parts(await asyncio.wait_for(waiting, 1.0))  # connecting takes 3 s to fail
                assert (code, headers["x-turnout-model-version"], headers["x-turnout-snapshot"]) == (
                    200,
                    "1",
                    "2",
                )
                (row,) = proxy.exchanges()
                assert (row.snapshot, row.experiment, row.assigned_arm) == (2, None, None)
                assert (row.served_version, row.attempts, row.arm_outcome) == (1, 1, None)


async def test_a_copy_that_waits_for_a_connection_is_not_sent_once_its_experiment_has_ended(
    tmp_path: Path,
) -> None:
    async with Engine(plain).running() as control:
        with full_backlog() as candidate:
            table = snapshot({1: control.url, 2: candidate}, share_ppm=1_000_000)
            async with running_proxy(tmp_path, table) as proxy:
                assert parts(await proxy.post(ask()))[0] == 200
                proxy.worker.adopt(snapshot({1: control.url, 2: candidate}, version=2))
                shadow = next(row for row in proxy.exchanges() if row.role == "shadow")
                assert (shadow.outcome, shadow.error_code) == ("shed", "experiment_ended")


async def test_a_worker_on_its_way_out_answers_what_its_connections_still_send(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        table = snapshot({1: engine.url})
        worker = Worker(tmp_path, "http://127.0.0.1:1", Limits())
        worker.adopt(table)
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        doorway = Doorway(worker.loop, listener, lambda: ClientConnection(worker))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        raw = post(ask()).replace(b"connection: close\r\n", b"")
        writer.write(raw)
        assert b"connection: close" not in await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(ANSWER))
        stopping = asyncio.ensure_future(worker.stop(doorway, []))
        await asyncio.sleep(0.05)
        writer.write(raw)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
        assert head.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in head
        assert await reader.read() == ANSWER
        writer.close()
        await asyncio.wait_for(stopping, 5)


async def test_a_worker_without_any_snapshot_says_so(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, Snapshot(version=0, published_ns=0, models={}, endpoints={})) as proxy:
        code, _, body = parts(await proxy.post(ask()))
        assert code == 503
        assert orjson.loads(body)["error"]["code"] == "no_snapshot"


class Waiting:
    """An answer that waits for its record."""

    def __init__(self, number: int, told: list[str], *, fails: bool = False) -> None:
        self.record = ExchangeRecord(f"id-{number}", f"id-{number}", number, "/v1/completions", "chat", "w")
        self._told, self._fails = told, fails

    def deliver(self) -> None:
        if self._fails:
            raise RuntimeError("a defect")
        self._told.append(self.record.exchange_id)

    def abort(self) -> None:
        self._told.append("aborted")


async def test_the_answers_of_a_turn_are_recorded_together_and_none_waits_for_the_next(
    tmp_path: Path,
) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:1"})) as proxy:
        worker, told = proxy.worker, []
        append_all = worker.spool.append_all

        def append(records: Sequence[Record]) -> None:
            append_all(records)
            told.append(f"{len(records)} recorded")

        worker.spool.append_all = append  # type: ignore[method-assign]
        for turn in range(2):
            answers: list[Any] = [Waiting(3 * turn + n, told, fails=turn == 0 and n < 2) for n in range(3)]
            for answer in answers:
                worker.conclude(answer.record, answer)
            await asyncio.sleep(0)
        first = ["1 recorded", "aborted", "2 recorded", "aborted", "id-2"]
        assert told == [*first, "1 recorded", "id-3", "2 recorded", "id-4", "id-5"]
        assert [row.exchange_id for row in proxy.exchanges()] == [f"id-{n}" for n in range(6)]


async def test_a_disk_that_refuses_is_told_in_the_log_once_and_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.worker.SEAL_SECONDS", 0.01)
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:

        def refuse(fd: int, parts: list[bytes]) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        sealing = asyncio.ensure_future(proxy.worker._seal_regularly())
        with monkeypatch.context() as full:
            full.setattr("experiments.ledger.spool.os.writev", refuse)
            for _ in range(3):
                assert parts(await proxy.post(ask()))[0] == 200
                await asyncio.sleep(0.05)
        sealing.cancel()
        told = [line.getMessage() for line in caplog.records if "could not be written" in line.getMessage()]
        assert len(told) == 1
        assert str(tmp_path / "spool") in told[0]
        assert "No space left on device" in told[0]
        assert proxy.worker.spool.lost == 3
