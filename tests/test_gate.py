"""A version that appears in the registry comes to its verdict, and traffic to its scores, by themselves."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.evaluators.sets import SUPPORT
from tests.journey import eventually
from tests.stack import MODEL, Stack
from turnout.processes import Program, programs
from turnout.simulation import AnswerKey, Profile, SimulatedEngine, running_engine

RULES: dict[str, Any] = {
    "gate": {MODEL: {"set": str(SUPPORT)}},
    "online": [
        {"name": "brief", "model": MODEL, "checks": [{"type": "length", "max": 100_000}], "rate": 1.0},
        {
            "name": "tone",
            "model": MODEL,
            "rate": 1.0,
            "judge": {"model": "examiner"},
            "checks": [{"type": "judge", "rubric": "The answer is polite."}],
        },
        {
            "name": "preferred",
            "model": MODEL,
            "of": "pairs",
            "rate": 1.0,
            "judge": {"model": "examiner"},
            "checks": [{"type": "pairwise"}],
        },
    ],
}
SHADOW = """\
experiment: mirrored
model: chat
mode: shadow
candidate: 2
unit: request
traffic: {{share: 100, tools: send, max_in_flight: 64}}
metrics:
  guardrails:
    - {{metric: error_rate, tolerated_ratio: 1.25}}
analysis: {{horizon: 1000, looks: 2, min_duration: 1h, max_duration: 2h}}
"""


def tags(stack: Stack, version: int) -> dict[str, str]:
    versions = stack.api.get(f"/api/models/{MODEL}")["versions"]
    found: dict[str, str] = next(one["tags"] for one in versions if one["version"] == version)
    return found


def concluded(stack: Stack, version: int) -> dict[str, str]:
    return eventually(
        lambda: tags(stack, version),
        within=90,
        until=lambda found: found.get("gate.state") in ("passed", "failed", "inconclusive"),
    )


def golden_runs(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.api.get("/api/golden/runs")
    return found


def versions_are_gated(stack: Stack, good: str, bad: str) -> int:
    """One passes and one fails; the number of golden runs that it took."""
    stack.register(good)
    found = concluded(stack, 2)
    assert found["gate.state"] == "passed", found
    assert found["gate.verdict"].startswith("pass sha256:")
    assert found["gate.golden"].startswith("golden@sha256:")
    assert found["gate.fingerprint"].startswith("sha256:")
    [preflight] = stack.api.get("/api/preflights")
    [comparison] = stack.api.get("/api/golden/comparisons")
    assert (preflight["verdict"], comparison["verdict"]) == ("pass", "pass")

    stack.register(bad)
    assert concluded(stack, 3)["gate.state"] == "failed"
    asked = len(golden_runs(stack))
    assert asked == 3  # production's answers served both comparisons
    return asked


def answers_are_scored(stack: Stack, judge: SimulatedEngine) -> None:
    stack.begin(SHADOW)
    eventually(stack.workers, within=30)
    for number in range(5):  # other questions, for what was judged before is not judged again
        message = {"role": "user", "content": f"Where is my parcel {number}?"}
        body = {"model": MODEL, "messages": [message]}
        answer = httpx.post(f"{stack.settings.proxy_address}/v1/chat/completions", json=body)
        assert answer.is_success
    scores = eventually(lambda: stack.api.get("/api/scores"), within=60, until=lambda rows: len(rows) >= 15)
    assert Counter((row["evaluator"], row["status"]) for row in scores) == {
        ("brief.length", "scored"): 5,
        ("tone.judge", "scored"): 5,
        ("preferred.pairwise", "scored"): 5,
    }
    assert all(row["value"] in (0.0, 0.5, 1.0) for row in scores)
    assert judge.counters.requests >= 5


def another_rubric_is_another_version(stack: Stack) -> None:
    """Of the score: what is kept is judged again, beside the old ones."""
    rules = copy.deepcopy(RULES)
    rules["online"][1]["checks"] = [{"type": "judge", "rubric": "The answer is brief."}]
    (stack.data / "evaluators.yaml").write_text(json.dumps(rules), "utf-8")
    tones = eventually(
        lambda: stack.api.get("/api/scores", {"evaluator": "tone.judge"}),
        within=60,
        until=lambda rows: len(rows) >= 10,
    )
    assert sorted(Counter(row["evaluator_version"] for row in tones).values()) == [5, 5]
    assert all(row["evaluator_version"].endswith(":examiner@1") for row in tones)
    assert set(Counter(row["exchange_id"] for row in tones).values()) == {2}


def a_restart_finds_everything_concluded(stack: Stack, evaluators: Program, asked: int) -> None:
    """And asks nothing anew."""
    stack.processes.replace(evaluators)
    log = stack.processes.log("evaluators")
    eventually(lambda: log.read_text().count("gates of"), within=60, until=lambda starts: starts == 2)
    stack.api.post(f"/api/models/{MODEL}/versions/3/gate", {"state": "seen", "key": "changed"})
    assert concluded(stack, 3)["gate.state"] == "failed"
    assert len(golden_runs(stack)) == asked


@pytest.mark.slow
def test_new_versions_are_gated_and_answers_scored_by_themselves(
    tmp_path: Path, empty_database: Path, support_key: AnswerKey
) -> None:
    production = Profile(name=MODEL, quality=0.7)
    good, bad = Profile(name=MODEL), Profile(name=MODEL, quality=0.3)
    stack = Stack(tmp_path / "data", workers=1, mlflow=empty_database)
    (stack.data / "evaluators.yaml").write_text(json.dumps(RULES), "utf-8")
    with (
        running_engine(production, key=support_key) as one,
        running_engine(good, key=support_key) as two,
        running_engine(bad, key=support_key) as three,
        running_engine(Profile(name="examiner")) as judge,
        stack.up([one.url]),
    ):
        evaluators = programs(stack.settings)[-1]
        assert evaluators.name == "evaluators"
        stack.register(judge.url, model="examiner")
        stack.processes.start(evaluators)
        asked = versions_are_gated(stack, good=two.url, bad=three.url)
        answers_are_scored(stack, judge)
        another_rubric_is_another_version(stack)
        a_restart_finds_everything_concluded(stack, evaluators, asked)
