"""Whenever a client leaves, the engine is freed and the ledger says what became of the request."""

from __future__ import annotations

import socket
import sys

import pytest

from bench.disconnects import STATES, Full, run

#: Far above the bar, which is for a quiet machine, and below what a connection may take to be made.
TOO_LATE_MS = 2500.0


def queue_can_be_full() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    with Full() as full, socket.socket() as late:
        late.setblocking(False)
        late.connect_ex(("127.0.0.1", full.port))
        return full.attempts() == 1


@pytest.mark.skipif(not queue_can_be_full(), reason="a full listening queue cannot be made here")
async def test_in_every_state_the_engine_is_freed_and_the_row_is_true() -> None:
    report = await run(3 * len(STATES))
    assert report.wrong == []
    assert report.left_running == 0
    assert report.disconnects == 3 * len(STATES)
    assert max(ms for times in report.times.values() for ms in times) < TOO_LATE_MS
