"""Whatever an engine does, as primary and as shadow: one true row, the engine's own bytes, nothing leaked."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.transcript import decode
from proxy.limits import Limits
from turnout.simulation import Profile, SimulatedEngine

from .harness import Proxy, ask, post, running_proxy, snapshot

CANARY = "sk-canary-5d1f"
#: Long enough for an engine that answers at all, short enough to wait for one that does not.
LIMITS = Limits(first_byte_seconds=0.4, idle_seconds=0.4)

#: fault -> what the ledger must say of a stream and of a JSON answer, and the client's status
FAULTS: dict[str, tuple[str, str, int, int]] = {
    "ok": ("complete", "complete", 200, 200),
    "slow-ttft-50": ("complete", "complete", 200, 200),
    "slow-close-50": ("complete", "complete", 200, 200),
    "slice-1": ("complete", "complete", 200, 200),
    "slice-7+crlf": ("complete", "complete", 200, 200),
    "crlf": ("complete", "complete", 200, 200),
    "comments": ("complete", "complete", 200, 200),
    "no-space": ("complete", "complete", 200, 200),
    "bom": ("complete", "complete", 200, 200),
    "tool-call": ("complete", "complete", 200, 200),
    "big-300000": ("complete", "complete", 200, 200),
    "no-keepalive": ("complete", "complete", 200, 200),
    "stale": ("complete", "complete", 200, 200),
    "stale-drop": ("complete", "complete", 200, 200),
    "empty": ("empty", "empty", 200, 200),
    "eof-clean": ("truncated", "upstream_error", 200, 200),  # half a JSON document says nothing of why
    "no-done": ("truncated", "complete", 200, 200),
    "no-finish": ("truncated", "complete", 200, 200),
    "cut-at-300": ("truncated", "truncated", 200, 200),
    "rst-at-300": ("truncated", "truncated", 200, 200),
    "cut-at-0": ("truncated", "truncated", 502, 502),
    "rst-at-0": ("truncated", "truncated", 502, 502),
    "error-event": ("upstream_error", "upstream_error", 200, 500),
    "rst": ("upstream_error", "upstream_error", 502, 502),
    "garbage": ("upstream_error", "upstream_error", 502, 502),
    "5xx": ("upstream_error", "upstream_error", 500, 500),
    "502": ("upstream_error", "upstream_error", 502, 502),
    "400": ("upstream_rejected", "upstream_rejected", 400, 400),
    "413": ("upstream_rejected", "upstream_rejected", 413, 413),
    "echo-auth": ("upstream_rejected", "upstream_rejected", 401, 401),
    "early-response": ("upstream_rejected", "upstream_rejected", 413, 413),
    "429": ("overloaded", "overloaded", 429, 429),
    "503": ("overloaded", "overloaded", 503, 503),
    "hang": ("timeout", "timeout", 504, 504),
    "hang-body": ("timeout", "timeout", 504, 504),
    "hang-at-300": ("timeout", "timeout", 200, 200),
}
#: after these the client's connection is broken, which alone tells that the answer is not whole
BROKEN_OFF = {"cut-at-300", "rst-at-300", "hang-at-300"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What the client got: `whole` is whether the answer ended as HTTP says that answers end."""

    status: int
    body: bytes
    whole: bool
    raw: bytes


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def receive(proxy: Proxy, request: bytes) -> Received:
    raw = b""
    async with connected(proxy.port) as (reader, writer):
        writer.write(request)
        with suppress(ConnectionResetError):
            while piece := await reader.read(1 << 16):
                raw += piece
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), None)
    whole = len(body) == length
    if length is None:
        body, whole = dechunk(body)
    return Received(status=int(head.split(b" ")[1]), body=body, whole=whole, raw=raw)


def dechunk(body: bytes) -> tuple[bytes, bool]:
    """The content of a chunked body, and whether its last chunk came."""
    out = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return out, rest == b"\r\n"
        out, body = out + rest[:count], rest[count + 2 :]
    return out, False


def request(stream: bool) -> bytes:
    body = ask(stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    return post(body, headers={"authorization": f"Bearer {CANARY}"})


def settled(row: ExchangeRecord) -> str:
    """The outcome that the ledger will hold: the wire's, refined by what the answer says."""
    transcript = decode(
        row.path,
        row.content_type,
        row.status,
        row.response,
        row.chunk_us,
        row.chunk_ends,
        row.request,
        outcome=row.outcome,
        clipped=row.clipped,
    )
    return transcript.outcome


def spooled(data: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (data / "spool").rglob("*") if path.is_file())


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_primary(tmp_path: Path, fault: str, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    outcome, status = FAULTS[fault][not stream], FAULTS[fault][2 + (not stream)]
    async with SimulatedEngine(Profile(name="chat"), faults=fault, keep_answers=True) as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), LIMITS) as proxy:
            for number in (1, 2):  # the second finds the connections that the first left behind
                received = await receive(proxy, request(stream))
                assert received.status == status
                assert received.whole is (fault not in BROKEN_OFF)
                assert received.body in (b"", bytes(engine.counters.answers[-1])) or status in (502, 504)
                if status in (502, 504) and fault not in ("502",):
                    problem = orjson.loads(received.body)["error"]
                    assert set(problem) == {"message", "type", "param", "code"}
                    assert problem["code"].startswith("upstream_")
                rows = proxy.exchanges()
                assert len(rows) == number
                assert settled(rows[-1]) == outcome
                if status not in (502, 504):
                    # [DONE] is the last byte for a client: the row is written before its line ends
                    assert rows[-1].response.rstrip() == received.body.rstrip()
                assert CANARY.encode() not in received.raw + engine.counters.last_request
            assert not proxy.worker.relays
            await engine.until(lambda counters: counters.running == 0)
        await engine.until(lambda counters: counters.open_sockets == 0)
        assert engine.counters.requests in ((2, 3) if fault == "stale-drop" else (2,))
        assert CANARY.encode() not in spooled(tmp_path)
        assert CANARY not in caplog.text


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_shadow(tmp_path: Path, fault: str, stream: bool) -> None:
    """The client sees the primary's bytes and nothing of the copy; the copy's row is as true."""
    outcome = "shed" if fault == "429" else FAULTS[fault][not stream]  # how much is asked is no fault of it
    async with (
        SimulatedEngine(Profile(name="chat"), keep_answers=True) as primary,
        SimulatedEngine(Profile(name="chat"), faults=fault) as shadow,
    ):
        table = snapshot({1: primary.url, 2: shadow.url}, share_ppm=1_000_000)
        async with running_proxy(tmp_path, table, LIMITS) as proxy:
            started = time.monotonic()
            received = await receive(proxy, request(stream))
            assert time.monotonic() - started < 0.3  # whatever the copy does, nobody waits for it
            assert (received.status, received.whole) == (200, True)
            assert received.body == primary.counters.answers[0]
            for _ in range(400):
                if not proxy.worker.shadows._copies:
                    break
                await asyncio.sleep(0.005)
            rows = {row.role: row for row in proxy.exchanges()}
            assert len(proxy.exchanges()) == 2
            assert settled(rows["primary"]) == "complete"
            assert settled(rows["shadow"]) == outcome
            assert rows["shadow"].pair_id == rows["primary"].pair_id == rows["primary"].request_id
            assert proxy.worker.shadows.bytes == 0
            assert CANARY.encode() not in shadow.counters.last_request
        await shadow.until(lambda counters: counters.open_sockets == 0)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("fault", ["hang", "hang-body", "hang-at-150", "slow-ttft-5000", "bandwidth-500"])
@pytest.mark.parametrize("shadowed", [False, True], ids=["alone", "shadowed"])
async def test_a_client_that_leaves(tmp_path: Path, fault: str, stream: bool, shadowed: bool) -> None:
    """Before the head, before the first byte, amid the answer: the engine is freed within 250 ms."""
    async with (
        SimulatedEngine(Profile(name="chat"), faults=fault) as engine,
        SimulatedEngine(Profile(name="chat")) as shadow,
    ):
        table = snapshot({1: engine.url, 2: shadow.url}, share_ppm=1_000_000 if shadowed else None)
        async with running_proxy(tmp_path, table) as proxy:
            async with connected(proxy.port) as (reader, writer):
                writer.write(request(stream))
                await engine.until(lambda counters: counters.requests == 1)
                if fault in ("bandwidth-500", "hang-at-150"):
                    assert await reader.read(1)
                await asyncio.sleep(0.02)
                left = time.monotonic()
                writer.close()
                await engine.until(lambda counters: counters.aborted == 1)
            assert engine.counters.aborts[0].at - left < 0.25
            assert not proxy.worker.relays
            if shadowed:
                await shadow.until(lambda counters: counters.answered == 1)
            outcomes = sorted((row.role, row.outcome) for row in proxy.exchanges())
            expected = [("primary", "client_gone")] + [("shadow", "complete")] * shadowed
            assert outcomes == expected


async def test_a_slow_reader_costs_no_memory_and_gets_every_byte(tmp_path: Path) -> None:
    size = 24_000_000
    limits = Limits(recorded_bytes=1000)
    async with SimulatedEngine(Profile(name="chat"), faults=f"big-{size}", keep_answers=True) as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            sock = socket.create_connection(("127.0.0.1", proxy.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            reader, writer = await asyncio.open_connection(sock=sock)
            writer.write(request(stream=True))
            await reader.readexactly(1)
            written = -1
            while written != (written := len(engine.counters.answers[0])):
                await asyncio.sleep(0.1)  # until nobody moves any more
            assert written < size
            (client,) = proxy.worker._clients
            held = client._transport.get_write_buffer_size()
            assert held <= 256 << 10
            rest = await reader.read(-1)
            assert dechunk(rest.partition(b"\r\n\r\n")[2]) == (bytes(engine.counters.answers[0]), True)
            writer.close()
            (row,) = proxy.exchanges()
            assert (row.outcome, row.clipped) == ("complete", True)


async def test_a_reader_that_never_reads_is_given_up(tmp_path: Path) -> None:
    limits = Limits(stalled_reader_seconds=0.2, first_byte_seconds=0.3)
    async with SimulatedEngine(Profile(name="chat"), faults="big-24000000") as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            async with connected(proxy.port) as (_, writer):
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(request(stream=True))
                await engine.until(lambda counters: counters.aborted == 1, within=5)
            (row,) = proxy.exchanges()
            assert (row.outcome, row.error_code) == ("client_gone", "client_stalled")


async def test_an_engine_that_falls_silent_is_given_up_when_idle_says_so(tmp_path: Path) -> None:
    limits = Limits(idle_seconds=0.2)
    async with SimulatedEngine(Profile(name="chat"), faults="hang-at-300") as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            async with connected(proxy.port) as (reader, writer), asyncio.timeout(2):
                writer.write(request(stream=True))
                with suppress(ConnectionResetError):
                    await reader.read(-1)
            assert proxy.exchanges()[0].outcome == "timeout"


async def test_a_stream_may_last_longer_than_its_engine_may_be_silent(tmp_path: Path) -> None:
    limits, slow = Limits(idle_seconds=0.4), Profile(name="chat", tokens_per_s=20)
    async with SimulatedEngine(slow) as engine, SimulatedEngine(slow, faults="hang-at-5000") as silent:
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            received = await receive(proxy, post(ask(stream=True)))
            assert received.whole
            (row,) = proxy.exchanges()
            assert row.duration_us > 1_000_000
        async with running_proxy(tmp_path / "silent", snapshot({1: silent.url}), limits) as proxy:
            assert not (await receive(proxy, post(ask(stream=True)))).whole
            (row,) = proxy.exchanges()
            assert (row.outcome, row.error_code) == ("timeout", "upstream_idle")
            assert row.chunk_us[-1] > 800_000  # the deadline had moved with what came, ...
            assert row.duration_us - row.chunk_us[-1] < 600_000  # ... and no further


async def test_an_answer_before_the_body_was_read_is_the_answer(tmp_path: Path) -> None:
    async with SimulatedEngine(Profile(name="chat"), faults="early-response") as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            received = await receive(proxy, post(ask(padding="x" * 8_000_000)))
            assert (received.status, received.whole) == (413, True)
            assert b"simulated 413" in received.body
            assert proxy.exchanges()[0].outcome == "upstream_rejected"


async def test_a_body_behind_an_offer_to_upgrade_is_a_body(tmp_path: Path) -> None:
    """`curl --http2` and Java's HttpClient offer h2c with every request; RFC 9110 7.8 lets us ignore it."""
    async with SimulatedEngine(Profile(name="chat")) as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            offer = {"connection": "Upgrade, close", "upgrade": "h2c"}
            received = await receive(proxy, post(ask(), headers=offer))
            assert (received.status, engine.counters.requests) == (200, 1)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize(
    "fault", ["hang", "hang-body", "rst", "rst-at-0", "cut-at-0", "garbage", "5xx", "503", "429"]
)
async def test_a_candidate_that_fails_before_the_first_byte_costs_the_client_nothing(
    tmp_path: Path, fault: str, stream: bool
) -> None:
    async with (
        SimulatedEngine(Profile(name="chat"), keep_answers=True) as good,
        SimulatedEngine(Profile(name="chat"), faults=fault) as bad,
    ):
        table = snapshot({1: good.url, 2: bad.url}, candidate_ppm=1_000_000)
        async with running_proxy(tmp_path, table, LIMITS) as proxy:
            received = await receive(proxy, request(stream))
            assert (received.status, received.whole) == (200, True)
            assert received.body == good.counters.answers[0]
            (row,) = proxy.exchanges()
            assert (row.assigned_arm, row.served_arm, row.attempts) == ("candidate", "control", 2)
            assert (row.outcome, row.response) == ("complete", received.body)
            shown = {"hang": "timeout", "hang-body": "timeout", "503": "overloaded", "429": "overloaded"}
            assert row.arm_outcome in (shown.get(fault, "upstream_error"), "truncated")


async def test_nothing_is_left_open(tmp_path: Path) -> None:
    async def once(number: int) -> None:
        async with SimulatedEngine(Profile(name="chat")) as engine:
            async with running_proxy(tmp_path / str(number), snapshot({1: engine.url}), LIMITS) as proxy:
                for fault in ("ok", "stale", "rst", "cut-at-300", "5xx", "hang", "no-keepalive", "garbage"):
                    engine.misbehave(fault)
                    await asyncio.gather(*(receive(proxy, request(stream)) for stream in (True, False)))
                engine.misbehave("hang")
                asked, aborted = engine.counters.requests, engine.counters.aborted
                async with connected(proxy.port) as (_, writer):
                    writer.write(request(stream=True))
                    await engine.until(lambda counters: counters.requests > asked)
                await engine.until(lambda counters: counters.aborted > aborted)

    def opened() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    await once(0)
    files, tasks = opened(), len(asyncio.all_tasks())
    for number in (1, 2):
        await once(number)
    assert opened() <= files  # fewer: what other tests had left has gone
    assert len(asyncio.all_tasks()) <= tasks
