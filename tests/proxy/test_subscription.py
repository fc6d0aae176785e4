"""A broken or hostile controller costs news, and never the subscription."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from experiments.snapshot import Snapshot
from proxy import subscription
from proxy.subscription import Subscription

from .harness import listening, snapshot

GOOD = snapshot({1: "http://127.0.0.1:9"}, version=7).to_json()


def answer(raw: bytes, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{extra}content-length: {len(raw)}\r\n\r\n".encode() + raw


@pytest.mark.parametrize(
    "bad",
    [
        answer(b"{}"),
        answer(GOOD.replace(b"http://127.0.0.1:9", b"http://[::1")),
        answer(b"", status="302 Found", extra="location: http://127.0.0.1:1/\r\n"),
        answer(b"x" * 2_000_000),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nslow",
    ],
    ids=["empty", "bad-url", "redirect", "huge", "garbage", "slow"],
)
async def test_bad_news_is_waited_out(tmp_path: Path, bad: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(subscription, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(subscription, "_LARGEST", 1_000_000)
    polls = 0

    async def controller(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal polls
        await reader.readuntil(b"\r\n\r\n")
        polls += 1
        writer.write(bad if polls == 1 else answer(GOOD))
        await reader.read()

    await taken_from(controller, tmp_path)


async def test_a_snapshot_that_cannot_be_taken_up_does_not_end_the_subscription(tmp_path: Path) -> None:
    async def controller(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(GOOD, extra="connection: close\r\n"))
        await reader.read()

    await taken_from(controller, tmp_path, failures=1)


async def taken_from(controller, folder: Path, failures: int = 0) -> None:  # type: ignore[no-untyped-def]
    """Version 7 is taken up and saved within seconds, although taking fails so many times first."""
    taken: list[int] = []
    done = asyncio.Event()

    def take(news: Snapshot) -> None:
        taken.append(news.version)
        if len(taken) <= failures:
            raise KeyError("a defect")
        done.set()

    async with listening(controller) as url:
        following = Subscription(url, folder / "snapshot.json", "w", take)
        task = asyncio.ensure_future(following.run())
        try:
            await asyncio.wait_for(done.wait(), 3)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert set(taken) == {7}
    assert following.version == 7
    assert Subscription(url, folder / "snapshot.json", "w", taken.append).load()  # type: ignore[arg-type]
