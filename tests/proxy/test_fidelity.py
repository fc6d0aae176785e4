"""No byte is changed that is not the proxy's business. The heavy version is bench/fidelity.py."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from proxy import wire
from proxy.stripping import UsageStripper

from .pairs import bench, pair


async def test_random_exchanges_of_all_endpoints_pass_untouched(tmp_path: Path) -> None:
    pairs = [pair(Random(f"test:{number}")) for number in range(60)]
    assert {one.path for one in pairs} == set(wire.APIS)
    async with bench(tmp_path) as checked:
        for one in pairs:
            await checked.check(one)


async def test_eight_megabytes_pass_untouched(tmp_path: Path) -> None:
    async with bench(tmp_path) as checked:
        for number in range(2):
            await checked.check(pair(Random(f"large:{number}"), large=True))


async def test_a_changed_byte_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UsageStripper, "feed", lambda self, data: data)
    seen = 0
    async with bench(tmp_path) as checked:
        for number in range(60):
            try:
                await checked.check(pair(Random(f"test:{number}")))
            except AssertionError:
                seen += 1
    assert seen > 0
