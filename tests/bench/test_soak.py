"""Load that leaves and fails leaves nothing behind in a worker."""

from __future__ import annotations

from pathlib import Path

from bench.soak import soak


async def test_descriptors_and_tasks_return_and_every_answer_has_one_row(tmp_path: Path) -> None:
    report = await soak(tmp_path, seconds=4.0, rate=100)
    assert (report.returned, report.missing, report.failed) == (True, 0, 0)
    assert report.ends["left"] > 40
    assert report.rows["client_gone"] > 0
    assert len(report.answered) > 200
