"""Good and broken tables while requests run: none fails, and each row keeps to the table that it names."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from proxy.subscription import Subscription
from turnout.simulation import Profile, SimulatedEngine

from .harness import ask, listening, running_proxy
from .offers import BROKEN, Offers


async def test_no_reload_fails_a_request_or_moves_a_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # each refusal is logged, and there are many
    async with SimulatedEngine(Profile(name="chat")) as engine:
        offers = Offers(engine.url, reloads=24)
        async with (
            listening(offers.serve) as address,
            running_proxy(tmp_path, offers.valid[1]) as proxy,
        ):
            polling = Subscription(address, tmp_path / "kept.json", "w", proxy.worker.adopt)
            polling.version = 1
            task = asyncio.ensure_future(polling.run())
            number = 0
            async with asyncio.timeout(60):
                while not offers.done.is_set():
                    number += 1
                    assert b" 200 OK" in await proxy.post(ask(user=str(number)))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            rows = proxy.exchanges()
    assert set(offers.offered) == {"valid", *BROKEN}
    assert len(rows) == number
    assert polling.version == offers.version == max(offers.valid)
    for row in rows:
        table = offers.valid[row.snapshot]
        assert row.unit is not None
        assert (row.assigned_arm, row.phase) == (table.route("chat", row.unit).arm, row.snapshot)
