"""A controller on a real SQLite MLflow and a real DuckDB. MLflow's file is made once and copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .plane import Plane


@pytest.fixture
def plane(stocked_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    """A started controller without loops: a test takes every step itself."""
    # Nobody pays in the background here, so there is nothing to wait for.
    monkeypatch.setattr("experiments.steering.control.RECORD_S", 0.0)
    made = Plane(tmp_path / "data", stocked_mlflow)
    made.start()
    yield made
    made.kill()
