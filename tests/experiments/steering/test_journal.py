"""What was entered survives a torn write, and writing needs no new blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.steering.journal import SLOT_BYTES, Journal, JournalFull


def test_entries_are_there_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    journal = Journal(file)
    journal.add({"id": "a"})
    journal.add({"id": "b"})
    assert Journal(file).entries == [{"id": "a"}, {"id": "b"}]
    journal.remove("id", "a")
    assert Journal(file).entries == [{"id": "b"}]


def test_the_file_never_grows(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    journal = Journal(file)
    size, blocks = file.stat().st_size, file.stat().st_blocks
    assert size == 2 * SLOT_BYTES
    assert blocks * 512 >= size  # written, not merely promised
    for number in range(50):
        journal.add({"id": number})
        journal.remove("id", number - 3)
    assert (file.stat().st_size, file.stat().st_blocks) == (size, blocks)


@pytest.mark.parametrize("kept", [0, 5, 24, 40])
def test_a_torn_write_costs_itself_only(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "journal"
    journal = Journal(file)
    journal.add({"id": "first"})
    before = file.read_bytes()
    journal.add({"id": "second"})
    after = file.read_bytes()
    changed = next(at for at in range(len(before)) if before[at] != after[at])
    file.write_bytes(before[:changed] + after[changed : changed + kept] + before[changed + kept :])
    assert Journal(file).entries == [{"id": "first"}]


def test_more_than_fits_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.add({"id": "kept"})
    with pytest.raises(JournalFull):
        journal.add({"id": "x" * SLOT_BYTES})
    assert Journal(tmp_path / "journal").entries == [{"id": "kept"}]


def test_a_file_of_something_else_holds_no_entries(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_bytes(b"#!/bin/sh\n" * 100)
    assert Journal(file).entries == []
