"""How a judge, and what people make of it, reads in a terminal and in JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from evaluators.comparison import Comparison
from evaluators.judges.health import Verdict, judge_health
from tests.evaluators.labelled import by_people, judged_run, judged_set
from turnout.judge_report import print_correction, print_judges

N = 60


def compared(folder: Path, *sizes: int) -> Comparison:
    golden = judged_set(folder, N)
    control = judged_run(golden, ["good a"] * N, ["fail"] * 6 + ["pass"] * (N - 6), version=1)
    candidate = judged_run(golden, ["good b"] * N, ["pass"] * (N - 3) + [None] * 3, version=2)
    return by_people(golden, control, candidate, lambda text: "pass", *sizes)


def printed(found: Comparison) -> str:
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    print_judges(console, found.judges)
    for one in found.corrections:
        print_correction(console, one, found.policy.alpha)
    return screen.getvalue()


def test_raw_and_corrected_differences_stand_together(tmp_path: Path) -> None:
    text = printed(compared(tmp_path, 30))
    assert "Labels of kind: 30 of 30 drawn items are labelled (of 60 that differ) by ann." in text
    assert "examiner@1 and people agree on" in text
    assert "Corrected difference" in text
    assert "95 % interval" in text
    assert "look" not in text
    assert "97.5 % interval" in printed(compared(tmp_path, 30, 40))
    assert "for it is look 2" in printed(compared(tmp_path, 30, 40))


def test_the_comparison_is_json_with_labels_and_judges(tmp_path: Path) -> None:
    found = json.loads(json.dumps(compared(tmp_path, 30).to_json(), allow_nan=False))
    [judge], [labels] = found["judges"], found["labels"]
    assert (judge["judge"], judge["asked"]) == ("examiner@1", 2 * N - 3)
    assert (labels["labelled"], labels["effect"]["level"]) == (30, 0.95)


def verdict(label: str | None = "pass", status: str = "scored", **detail: object) -> Verdict:
    return Verdict(evaluator="kind", evaluator_version="judge@1", status=status, label=label, detail=detail)


def test_health_counts_what_a_judge_did_and_nothing_else() -> None:
    asked = {"judge": "j@1", "latency_ms": 10.0, "cost_usd": 0.5, "tokens": 7}
    [found] = judge_health(
        [
            verdict(**asked),
            verdict("unparseable", "unscored", **{**asked, "latency_ms": 30.0}),
            verdict(**{**asked, "cached": True, "latency_ms": 999.0}),
            verdict("timeout"),  # by policy: nobody was asked
            verdict(None, "error", error="pattern_timeout"),
        ]
    )
    assert (found.asked, found.unparseable, found.errors, found.cached) == (3, 1, 0, 1)
    assert (found.cost_usd, found.tokens, found.latency_p50_ms, found.flips) == (1.0, 14, 20.0, None)
    [away] = judge_health([verdict(None, "error", error="model_unavailable")])
    assert (away.judge, away.asked, away.errors) == ("", 0, 1)


def test_a_judge_that_leans_towards_a_place_is_found() -> None:
    places = {"judge": "j@1", "control_first": "control", "candidate_first": "candidate", "flipped": True}
    agreed = {**places, "candidate_first": "control", "flipped": False}
    [found] = judge_health([*[verdict("tie", **places)] * 12, *[verdict("control", **agreed)] * 4])
    assert found.flips == 12
    assert found.position_bias_p is not None
    assert found.position_bias_p < 0.001
