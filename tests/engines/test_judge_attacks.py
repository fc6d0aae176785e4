"""A real engine as a judge, under the attacks of tests/evaluators/attacks.py: noise is never a verdict.

The tiny model's weights are drawn from a seed, so it examines nothing. What is on trial is everything around
it: the questions as a real template and tokenizer take them, structured output as a real engine holds a model
to it, and the reading of whatever comes back. `python -m bench.judge_attacks --url ...` runs three seeds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.judge_attacks import SHORT, DirectJudge, judged_item, measure
from tests.evaluators.attacks import attacks
from tests.journey import Fleet

pytestmark = [pytest.mark.engines, pytest.mark.timeout(420)]

TEXTS = [text for text in attacks() if len(text) < SHORT]


@pytest.mark.parametrize("structured", [False, True], ids=["free", "schema"])
async def test_no_attack_gains_anything_over_an_empty_answer(
    fleet: Fleet, tmp_path: Path, structured: bool
) -> None:
    assert len(TEXTS) >= 60
    item = judged_item(tmp_path)
    judge = DirectJudge(fleet.first, fleet.served_name, structured=structured, max_tokens=32)
    async with judge:
        empty, found = await measure(item, judge, [""]), await measure(item, judge, TEXTS)
    assert found.over(empty) <= 2.0, found
    assert found.unscored > 0.5, "a model of noise that mostly gives verdicts is not read as it should be"
