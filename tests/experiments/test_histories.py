"""No history leaves production half moved: a few here, 500 with `-m bars`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from .histories import Histories

UNHURRIED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def nobody_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread pays in the background here, and no worker acknowledges: there is nothing to wait for."""
    monkeypatch.setattr("experiments.control.RECORD_S", 0.0)


def test_a_few_histories() -> None:
    told = settings(
        max_examples=12, stateful_step_count=12, deadline=None, derandomize=True,
        suppress_health_check=UNHURRIED, database=None,
    )  # fmt: skip
    run_state_machine_as_test(Histories, settings=told)


@pytest.mark.bars
@pytest.mark.timeout(0)
@pytest.mark.parametrize("batch", range(10))
def test_fifty_histories(batch: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten times 50 histories with kills at every step; a failing one is shrunk and printed."""
    Histories.told = Histories.kills = 0
    told = settings(
        max_examples=50, stateful_step_count=20, deadline=None,
        suppress_health_check=UNHURRIED, database=None, print_blob=True,
    )  # fmt: skip
    run_state_machine_as_test(Histories, settings=told)
    with capsys.disabled():
        print(f"\nbatch {batch}: {Histories.told} histories, {Histories.kills} kills, 0 half states")  # noqa: T201
    assert Histories.told >= 50
