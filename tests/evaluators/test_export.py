"""A stored run in the shapes of other tools: nothing without a score gets one, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from evaluators.formats.export import EXPORTS, RunRecord
from evaluators.golden import GoldenSet
from evaluators.results import ResultRow
from evaluators.score import Score
from evaluators.scoring import score_output
from tests.evaluators.sets import make_set, row, said

NASTY = 'wrong \x1b[31m <b>"&\x00'


@pytest.fixture
def golden(tmp_path: Path) -> GoldenSet:
    shown = [{"type": "exact"}, {"type": "contains", "values": ["thanks"], "gate": False}]
    return make_set(tmp_path, [row("good", checks=shown), row("bad", tags=["t"]), row("silent")])


@pytest.fixture
async def run(golden: GoldenSet) -> RunRecord:
    outputs = {
        "good": said("right", usage={"prompt_tokens": 3, "completion_tokens": 1}, finish_reason="stop"),
        "bad": said(NASTY, ("get", '{"id": 1}'), ("get", "no json")),
        "silent": said(outcome="overloaded", error="429"),
    }
    rows = [
        ResultRow.of(item, 0, check, score, outputs[item.id])
        for item in golden.items
        for check, score in await score_output(item, outputs[item.id], golden.policy)
    ]
    return RunRecord(
        run_id="run1",
        model="chat",
        version=2,
        started_at="2026-11-25T10:00:00+00:00",
        ended_at="2026-11-25T10:01:00+00:00",
        rows=rows,
    )


def test_junit_counts_failures_errors_and_what_does_not_gate(golden: GoldenSet, run: RunRecord) -> None:
    suite = Xml.fromstring(EXPORTS["junit"](golden, run)).find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    failure = suite.find("testcase[@name='bad exact']/failure")
    assert failure is not None
    assert '<b>"&' in (failure.text or "")


def test_a_graded_check_passes_from_its_threshold_on_and_a_judge_decides_nothing(tmp_path: Path) -> None:
    checks = [
        {"type": "similarity", "threshold": 0.8},
        {"type": "judge", "rubric": "It helps.", "gate": True},
    ]
    graded = make_set(tmp_path, [row("a", checks=checks)], "judge: {model: examiner}\n")
    [item] = graded.items
    scores = (Score.graded("similarity", 0.85, "near"), Score.graded("judge", 0.0, "it does not"))
    rows = [
        ResultRow.of(item, 0, check, score, said("right"))
        for check, score in zip(item.checks, scores, strict=True)
    ]
    found = RunRecord(run_id="r", model="chat", version=2, started_at="", ended_at=None, rows=rows)
    suite = Xml.fromstring(EXPORTS["junit"](graded, found)).find("testsuite")
    assert suite is not None
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "1")
    [result] = json.loads(EXPORTS["promptfoo"](graded, found))["results"]["results"]
    assert (result["success"], result["failureReason"], result["score"]) == (True, 0, 0.85)


def test_the_inspect_log_has_a_sample_per_answer(golden: GoldenSet, run: RunRecord) -> None:
    log = json.loads(EXPORTS["inspect"](golden, run))
    assert [sample["id"] for sample in log["samples"]] == ["good", "bad", "silent"]
    assert [sample["scores"]["exact"]["value"] for sample in log["samples"]] == [1.0, 0.0, "N"]
    assert log["samples"][2]["error"]["message"] == "429"
    calls = log["samples"][1]["messages"][-1]["tool_calls"]
    assert [call["arguments"] for call in calls] == [{"id": 1}, {"(not JSON)": "no json"}]
    [score] = [score for score in log["results"]["scores"] if score["name"] == "exact"]
    assert (score["scored_samples"], score["metrics"]["mean"]["value"]) == (2, 0.5)


def test_promptfoo_tells_failures_from_errors(golden: GoldenSet, run: RunRecord) -> None:
    found = json.loads(EXPORTS["promptfoo"](golden, run))["results"]
    assert found["stats"] == {"successes": 1, "failures": 1, "errors": 1}
    assert [(one["success"], one["score"]) for one in found["results"]] == [
        (True, 1),
        (False, 0),
        (False, None),
    ]


def test_mlflow_records_can_be_read_back(golden: GoldenSet, run: RunRecord, tmp_path: Path) -> None:
    from evaluators.formats import ImportOptions, import_files

    path = tmp_path / "records.jsonl"
    path.write_text(EXPORTS["mlflow"](golden, run), "utf-8")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0]["expectations"] == {"expected_response": "right"}
    assert records[2]["tags"]["turnout.check.exact"] == "unscored"
    back = import_files("mlflow", [path], ImportOptions(scorer="exact"))
    assert [one["input"]["messages"] for one in back.rows] == [list(item.messages) for item in golden.items]


def test_an_item_that_changed_since_the_run_is_left_out(run: RunRecord, tmp_path: Path) -> None:
    changed = make_set(tmp_path / "new", [row("good", reference="other"), row("bad", tags=["t"])])
    log = json.loads(EXPORTS["inspect"](changed, run))
    assert [sample["id"] for sample in log["samples"]] == ["bad"]
