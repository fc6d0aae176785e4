"""A ledger of its own for each test, and a way to fill it as the collector does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.ledger.collector import Collector
from experiments.ledger.exchange import Record
from experiments.ledger.recording import RecordingPolicy
from experiments.ledger.spool import SpoolWriter
from experiments.ledger.store import Store

Collect = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "ledger.duckdb", threads=2) as opened:
        yield opened


@pytest.fixture
def collect(store: Store, tmp_path: Path) -> Collect:
    """Send records through spool and collector; all of them must arrive."""

    def through(*records: Record, policies: dict[str, RecordingPolicy] | None = None) -> None:
        writer = SpoolWriter(tmp_path / "spool", "w")
        for each in records:
            assert writer.append(each)
        writer.close()
        collector = Collector(store, tmp_path / "spool", policies)
        assert collector.collect_once().records == len(records)
        collector.collect_once()  # the dead worker's folder goes, its name is free again

    return through
