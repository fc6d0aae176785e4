"""Versions only grow, workers are told at once, and who has not heard is named."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from experiments.snapshot import Snapshot
from experiments.steering.publication import Publication


def made(version: int) -> Snapshot:
    return Snapshot(version=version, published_ns=0, models={}, endpoints={})


@pytest.fixture
def publication(tmp_path: Path) -> Publication:
    return Publication(tmp_path / "snapshot.json")


def test_versions_grow_over_restarts(publication: Publication, tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        assert publication.publish(made).version == expected
    again = Publication(tmp_path / "snapshot.json")
    assert again.last == made(3)
    assert again.publish(made).version == 4


def test_versions_grow_over_a_lost_disk(tmp_path: Path) -> None:
    fresh = Publication(tmp_path / "snapshot.json")
    fresh.raise_version(17)  # the ledger remembers
    assert fresh.publish(made).version == 18
    fresh.raise_version(3)
    assert fresh.publish(made).version == 19


@pytest.mark.parametrize("torn", [b"", b"{", b'{"format": 1}'])
def test_a_torn_file_is_no_snapshot(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "snapshot.json").write_bytes(torn)
    assert Publication(tmp_path / "snapshot.json").last is None


async def test_a_waiting_worker_is_answered_at_once(publication: Publication) -> None:
    publication.publish(made)
    waiting = asyncio.ensure_future(publication.next_for("w1", 1, 20))
    await asyncio.sleep(0)
    started = asyncio.get_running_loop().time()
    thread = threading.Thread(target=publication.publish, args=(made,))
    thread.start()
    raw = await asyncio.wait_for(waiting, 5)
    thread.join()
    assert raw is not None
    assert Snapshot.from_json(raw).version == 2
    assert asyncio.get_running_loop().time() - started < 1


async def test_nothing_new_is_none_and_something_new_needs_no_waiting(publication: Publication) -> None:
    publication.publish(made)
    assert await publication.next_for("w1", 1, 0.01) is None
    assert await publication.next_for("w1", 0, 20) is not None


async def test_asking_is_the_acknowledgement(publication: Publication) -> None:
    publication.publish(made)
    await publication.next_for("w1", 0, 0)
    await publication.next_for("w2", 0, 0)
    await publication.next_for("w1", 1, 0)
    answer = await asyncio.to_thread(publication.wait_for, 1, 0.05)
    assert answer.acknowledged_by == ("w1",)
    assert answer.unacknowledged == ("w2",)
    waiting = asyncio.ensure_future(asyncio.to_thread(publication.wait_for, 1, 5))
    await publication.next_for("w2", 1, 0)
    assert (await waiting).unacknowledged == ()


async def test_a_worker_that_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    now = 100.0
    publication = Publication(tmp_path / "snapshot.json", clock=lambda: now)
    publication.publish(made)
    await publication.next_for("gone", 0, 0)
    now += 10
    assert publication.wait_for(1, 0).unacknowledged == ()
    assert [worker.last_seen_s for worker in publication.workers()] == [10.0]
    now += 1000
    assert publication.workers() == []


async def test_a_client_without_a_name_is_no_worker(publication: Publication) -> None:
    publication.publish(made)
    await publication.next_for("", 0, 0)
    assert publication.workers() == []
    assert publication.wait_for(1, 0).unacknowledged == ()


async def test_a_worker_that_is_ahead_is_followed_unless_it_makes_numbers_up(
    publication: Publication,
) -> None:
    publication.publish(made)
    await publication.next_for("w1", 40, 0)
    await publication.next_for("liar", 2**60, 0)
    assert publication.ahead() == {"w1": 40}


async def test_stopping_lets_every_worker_go(publication: Publication) -> None:
    publication.publish(made)
    waiting = asyncio.ensure_future(publication.next_for("w1", 1, 20))
    await asyncio.sleep(0)
    publication.release()
    assert await asyncio.wait_for(waiting, 2) is None
    assert await asyncio.wait_for(publication.next_for("w1", 1, 20), 2) is None


def test_a_full_disk_does_not_stop_a_publication(tmp_path: Path) -> None:
    publication = Publication(tmp_path / "missing" / "snapshot.json")
    assert publication.publish(made).version == 1
    assert publication.unsaved
    (tmp_path / "missing").mkdir()
    assert publication.save()
    assert not publication.unsaved
