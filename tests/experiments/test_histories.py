"""No history leaves production half moved: a few here; with `-m bars` 500, and 50 on an MLflow server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.registry.server import MlflowServer

from .histories import Histories, ServedPlane
from .plane import Plane

UNHURRIED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def nobody_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread pays in the background here, and no worker acknowledges: there is nothing to wait for."""
    monkeypatch.setattr("experiments.steering.control.RECORD_S", 0.0)


def test_a_few_histories() -> None:
    told = settings(
        max_examples=12, stateful_step_count=12, deadline=None, derandomize=True,
        suppress_health_check=UNHURRIED, database=None,
    )  # fmt: skip
    run_state_machine_as_test(Histories, settings=told)


def test_a_few_histories_on_a_real_registry(stocked_mlflow: Path) -> None:
    told = settings(
        max_examples=8, stateful_step_count=10, deadline=None, derandomize=True,
        suppress_health_check=UNHURRIED, database=None,
    )  # fmt: skip
    run_state_machine_as_test(lambda: Histories(lambda data: Plane(data, stocked_mlflow)), settings=told)


@pytest.mark.bars
@pytest.mark.timeout(0)
def test_fifty_histories_on_an_mlflow_server(
    empty_database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow behind HTTP, on SQLite; kills also between the two writes of a move of its alias."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    server = MlflowServer(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    Histories.told = Histories.kills = 0
    told = settings(
        max_examples=50, stateful_step_count=20, deadline=None,
        suppress_health_check=UNHURRIED, database=None, print_blob=True,
    )  # fmt: skip
    try:
        server.wait()
        run_state_machine_as_test(lambda: Histories(lambda data: ServedPlane(data, server)), settings=told)
    finally:
        server.stop()
    with capsys.disabled():
        print(f"\nMLflow server: {Histories.told} histories, {Histories.kills} kills, 0 half states")  # noqa: T201
    assert Histories.told >= 50


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
