"""The engines' own figures: read as they write them, believed while they are fresh."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from proxy.pressure import STALE_SECONDS, PressureGauge, Reading, read_metrics

from .harness import listening

VLLM = b"""\
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a b} c"} 3.0
vllm:num_requests_waiting{engine="1",model_name="chat"} 4.0
vllm:num_requests_waiting_by_reason{engine="1",reason="capacity"} 4.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="chat"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="chat"} 0.913
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VLLM, (7, 913_000)),
        (b'vllm:num_requests_waiting{m="x"} 2.0\nvllm:gpu_cache_usage_perc{m="x"} 0.5\n', (2, 500_000)),
        (b'sglang:num_queue_reqs{m="x"} 5\nsglang:token_usage{m="x"} 0.1\n', (5, 100_000)),
        (b"tgi_queue_size 12\n", (12, 0)),
        (b"vllm:num_requests_waiting NaN\ntgi_queue_size 1\n", (1, 0)),
    ],
)
def test_what_an_engine_writes_is_read(text: bytes, expected: tuple[int, int]) -> None:
    found = read_metrics(text, 1.0)
    assert found == Reading(waiting=expected[0], kv_ppm=expected[1], at=1.0)


@pytest.mark.parametrize("text", [b"", b"<html>", b"vllm:num_requests_waiting x\n", b"up 1\n", b"\xff\x00"])
def test_what_says_nothing_of_it_is_no_reading(text: bytes) -> None:
    assert read_metrics(text, 1.0) is None


def test_a_reading_counts_while_it_is_fresh_and_only_for_what_is_watched() -> None:
    now = 100.0
    gauge = PressureGauge(lambda: now)
    gauge.watch(["a", "b"])
    gauge.readings["b"] = Reading(waiting=9, kv_ppm=500_000, at=100.0)
    assert gauge.busy(["a", "b"], waiting=8, kv_ppm=0)
    assert gauge.busy(["b"], waiting=0, kv_ppm=499_999)
    assert not gauge.busy(["b"], waiting=9, kv_ppm=500_000)
    assert not gauge.busy(["b"], waiting=0, kv_ppm=0)
    assert not gauge.busy(["a"], waiting=1, kv_ppm=1)
    now += STALE_SECONDS + 0.1
    assert not gauge.busy(["b"], waiting=1, kv_ppm=1)  # an engine that is silent is not called busy
    gauge.watch(["a"])
    assert gauge.readings == {}


async def test_engines_are_asked_and_one_that_hangs_holds_up_no_other() -> None:
    async def metrics(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(VLLM), VLLM))
        await reader.read()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(metrics) as good, listening(hang) as bad:
        gauge = PressureGauge(asyncio.get_running_loop().time)
        gauge.watch([bad, good, "http://127.0.0.1:1"])
        task = asyncio.ensure_future(gauge.run())
        async with asyncio.timeout(10):
            while good not in gauge.readings:
                await asyncio.sleep(0.01)
        assert set(gauge.readings) == {good}
        assert gauge.busy([bad, good], waiting=6, kv_ppm=0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
