"""What `bench.engine` compares on a real vLLM: answers, clients that leave, and the ledger, with figures."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from bench import engine
from tests.journey import Fleet

pytestmark = [pytest.mark.engines, pytest.mark.timeout(420)]


def test_the_bench_passes_and_the_engine_agrees_with_itself(fleet: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--concurrency", "1,4", "--rounds", "1", "--at-least", "8", "--tokens", "16", "--words", "16"]
    options += ["--leave", "1", "--leavers", "8", "--processes", "1"]
    assert engine.main([fleet.first, *options, "--out", str(out)]) == 0
    found = orjson.loads(out.read_bytes())
    assert set(found["alike"].values()) == {engine.SAME}
    refused = {name for name, status in found["statuses"].items() if status != 200}
    assert refused == {"a temperature that is refused"}
