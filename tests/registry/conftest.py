"""A real MLflow on SQLite for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry import Registry
from tests.experiments.plane import restock


@pytest.fixture
def database(empty_database: Path) -> str:
    """The tracking URI of an SQLite file in which nothing is registered. One at a time in a process."""
    used = empty_database.with_name(f"registry-{os.getpid()}.db")
    restock(empty_database, used)
    return f"sqlite:///{used}"


@pytest.fixture
def registry(database: str) -> Registry:
    return Registry(database)
