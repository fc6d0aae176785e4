"""The journey on the simulated engine: from two endpoints to a promotion and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journey import Fleet, Turnout, journey
from turnout.simulation import Profile, running_engine


@pytest.mark.slow
def test_the_journey(tmp_path: Path) -> None:
    turnout = Turnout(tmp_path)
    with (
        running_engine(Profile(name="chat", seed=1, ttft_ms=5, tokens_per_s=1000)) as first,
        running_engine(Profile(name="chat", seed=2, ttft_ms=5, tokens_per_s=1000)) as second,
        turnout.up(),
    ):
        journey(turnout, Fleet(first=first.url, second=second.url, served_name="chat", engine="simulated"))
