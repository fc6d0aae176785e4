"""The process that asks providers for a worker: it answers, it dies, it hangs, it cannot be had."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.snapshot import Snapshot
from proxy.limits import Limits
from proxy.provider_process import Frames, Kind, ProviderProcess, RemoteCall, frame

from .harness import Engine, Proxy, ask, post, running_proxy, snapshot
from .provider_wires import TEXT, WIRES
from .test_providers import point_at, provider, saying, well

WIRE = WIRES["anthropic"]


@asynccontextmanager
async def asked(
    engine: Engine, data: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits | None = None
) -> AsyncIterator[Proxy]:
    """A worker whose model is a provider's, and which has asked for its child."""
    async with engine.running():
        point_at(WIRE, engine, monkeypatch)
        plain = snapshot({1: engine.url})
        table = Snapshot(
            version=1, published_ns=1, models=plain.models, endpoints={("chat", 1): provider(WIRE)}
        )
        async with running_proxy(data, table, limits) as proxy:
            yield proxy


def pid(proxy: Proxy) -> int:
    process = proxy.worker.providers._process
    assert process is not None
    return process.pid


async def another(proxy: Proxy, former: int) -> None:
    """Until the worker has another child."""
    while (process := proxy.worker.providers._process) is None or process.pid == former:
        await asyncio.sleep(0.02)


async def test_it_answers_it_is_killed_and_there_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = asyncio.Event()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if b"hang" not in request:
            await well(WIRE)(request, writer)
            return
        hanging.set()
        await asyncio.sleep(60)

    engine = Engine(answer)
    async with asked(engine, tmp_path, monkeypatch) as proxy:
        # A call that is given up before the child can be asked is never sent.
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(post(ask()))
        while not proxy.worker.relays:
            await asyncio.sleep(0.01)
        [call] = proxy.worker.providers._calls.values()
        assert not call.sent
        writer.transport.abort()
        while proxy.worker.relays:
            await asyncio.sleep(0.01)

        whole = await proxy.post(ask())
        assert orjson.loads(whole.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"] == TEXT
        streamed = await proxy.post(ask(stream=True))
        assert streamed.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        rows = proxy.exchanges()
        assert [row.outcome for row in rows] == ["client_gone", "complete", "complete"]
        assert len(rows[2].chunk_us) > 3  # the pieces came one by one
        assert len(engine.requests) == 2

        # A client that leaves ends the provider's work.
        hang = ask(messages=[{"role": "user", "content": "hang"}])
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(post(hang))
        await hanging.wait()
        writer.transport.abort()
        await asyncio.wait_for(engine.gone.wait(), 5)

        # What it was asked when it is killed has failed; then there is another.
        hanging.clear()
        waiting = asyncio.ensure_future(proxy.post(hang))
        await hanging.wait()
        first = pid(proxy)
        os.kill(first, signal.SIGKILL)
        assert (await waiting).startswith(b"HTTP/1.1 502 ")
        assert proxy.exchanges()[-1].error_code == "upstream_cut"
        # What comes next waits for that one: it has failed nobody.
        assert (await proxy.post(ask())).startswith(b"HTTP/1.1 200 ")
        await another(proxy, first)
        last = pid(proxy)
    with pytest.raises(ProcessLookupError):  # it has ended with its worker, and was waited for
        os.kill(last, 0)


async def test_one_that_is_killed_while_it_loads_has_failed_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(Engine(well(WIRE)), tmp_path, monkeypatch) as proxy:
        waiting = asyncio.ensure_future(proxy.post(ask()))
        while not proxy.worker.providers._calls:
            await asyncio.sleep(0.01)
        first = pid(proxy)
        os.kill(first, signal.SIGKILL)
        await asyncio.wait_for(another(proxy, first), 0.5)
        assert (await proxy.post(ask())).startswith(b"HTTP/1.1 200 ")
        assert (await waiting).startswith(b"HTTP/1.1 200 ")
        assert {row.outcome for row in proxy.exchanges()} == {"complete"}


async def test_when_to_ask_again_comes_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(saying("429 Busy\r\nretry-after: 7", b"{}"))
    async with asked(engine, tmp_path, monkeypatch) as proxy:
        answer = await proxy.post(ask())
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nretry-after: 7\r\n" in answer
        assert answer.endswith(b'"code":"provider_overloaded"}}')


async def test_one_that_hangs_is_ended_and_its_calls_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.provider_process._LATE_SECONDS", 0.2)
    engine = Engine(well(WIRE))
    async with asked(engine, tmp_path, monkeypatch, Limits(first_byte_seconds=0.3)) as proxy:
        first = pid(proxy)
        # What waited in vain for it to be loaded is no reason to end it.
        answer = await asyncio.wait_for(proxy.post(ask()), 10)
        assert answer.startswith(b"HTTP/1.1 504 ")
        await proxy.worker.providers.ready(60)
        stopped = pid(proxy)
        assert stopped == first
        os.kill(stopped, signal.SIGSTOP)
        answer = await asyncio.wait_for(proxy.post(ask()), 10)
        assert answer.startswith(b"HTTP/1.1 504 ")
        for row in proxy.exchanges():
            assert (row.outcome, row.error_code) == ("timeout", "upstream_timeout")
        await asyncio.wait_for(another(proxy, stopped), 10)


async def test_a_client_that_is_slow_to_read_is_no_reason_to_end_it() -> None:
    """Pieces that were on their way when the client was to be waited for do not shorten its time."""

    class Slow:
        def body(self, data: bytes, came: int, chunks: bytes = b"") -> None:
            call.pause()

    process = ProviderProcess(Limits(idle_seconds=10, stalled_reader_seconds=60))
    call = RemoteCall(process, 1, b"", Slow())  # type: ignore[arg-type]
    now = asyncio.get_running_loop().time()
    call.hear(Kind.BODY, b"data: 1\n\n")
    call.receiver.body = lambda *_: None  # type: ignore[method-assign]
    call.hear(Kind.BODY, b"data: 2\n\n")
    assert call.due > now + 60
    call.resume()
    call.hear(Kind.BODY, b"data: 3\n\n")
    assert call.due < now + 60


async def test_where_it_cannot_be_had_its_calls_fail_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    engine = Engine(well(WIRE))
    async with asked(engine, tmp_path, monkeypatch) as proxy:
        for _ in range(2):
            answer = await asyncio.wait_for(proxy.post(ask()), 5)
            assert answer.startswith(b"HTTP/1.1 502 ")
        await asyncio.wait_for(proxy.worker.providers.ready(60), 5)  # nobody waits for what does not come
    assert {row.error_code for row in proxy.exchanges()} == {"upstream_unreachable"}
    assert "ended with 1" in caplog.text


def test_it_ends_when_the_socket_to_its_worker_does() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "proxy.providers", str(theirs.fileno()), "{}"]
    child = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    theirs.close()
    try:
        ours.settimeout(120)
        assert ours.recv(64) == frame(0, Kind.READY)
        child.send_signal(signal.SIGTERM)  # its worker drains first
        child.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        ours.close()  # as when the worker is killed
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


async def test_without_an_endpoint_of_that_kind_there_is_none(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:1"})) as proxy:
        await asyncio.wait_for(proxy.worker.providers.ready(60), 1)
        assert proxy.worker.providers._process is None


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.sampled_from(Kind), st.binary(max_size=300)), max_size=6
    ),
    st.lists(st.integers(0, 2000), max_size=10),
)
def test_frames_do_not_depend_on_how_bytes_arrive(frames, cuts) -> None:
    whole = b"".join(frame(*one) for one in frames)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    reading = Frames()
    assert [one for a, b in pairwise(edges) for one in reading.feed(whole[a:b])] == frames
