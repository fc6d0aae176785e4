"""A real MLflow on SQLite for every test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry import Registry


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> str:
    """The tracking URI of an SQLite file of the test's own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def registry(database: str) -> Registry:
    return Registry(database)
