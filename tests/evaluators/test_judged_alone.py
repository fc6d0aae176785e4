"""A golden set of open questions, on which nothing but a judge has an opinion, comes to a verdict as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.comparison import compare
from evaluators.golden import GoldenSet
from evaluators.summary import RunResults, summarise

from .labelled import by_people, judged_run, judged_set
from .test_labels import GOOD, N, truly, two_runs


@pytest.fixture
def alone(tmp_path: Path) -> GoldenSet:
    return judged_set(tmp_path, N, alone=True)


def test_without_labels_it_says_that_they_are_missing(alone: GoldenSet) -> None:
    control, candidate = two_runs(alone, ["good b"] * N)
    found = compare(alone, control, candidate)
    assert (found.verdict, found.reasons[-1].code) == ("inconclusive", "judge_unlabelled")
    assert "turnout golden label" in found.sentence
    assert found.planned == N
    assert "no item passes or fails by itself" in summarise(alone, candidate).sentence


def test_with_labels_it_passes_or_fails_by_them(alone: GoldenSet) -> None:
    control, as_good = two_runs(alone, ["good b"] * N)
    passed = by_people(alone, control, as_good, truly, 40)
    assert passed.verdict == "pass", passed.sentence
    assert passed.sentence.startswith("Pass: kind: difference")
    assert passed.sentence.endswith("no drop beyond the margin of 15.0 points.")
    assert passed.coverage == 1.0
    _, worse = two_runs(alone, [f"{'good' if k % 2 else 'bad'} b" for k in range(N)])
    failed = by_people(alone, control, worse, truly, 40)
    assert failed.verdict == "fail", failed.sentence


def test_answers_that_are_missing_are_no_coverage(alone: GoldenSet) -> None:
    control, whole = two_runs(alone, ["good b"] * N)
    rows = [one for rows in whole.rows.values() for one in rows][: N - 10]
    candidate = RunResults.of("run-2", 2, alone.hash, 1, rows)
    found = by_people(alone, control, candidate, truly, 40)
    assert (found.verdict, found.reasons[-1].code) == ("inconclusive", "coverage")
    assert f"{100 * (N - 10) / N:.1f} %" in found.sentence


def test_a_judge_without_verdicts_costs_no_coverage(alone: GoldenSet) -> None:
    control = judged_run(alone, GOOD, ["pass"] * N, version=1)
    silent: list[str | None] = [None] * 6 + ["pass"] * (N - 6)
    candidate = judged_run(alone, ["good b"] * N, silent, version=2)
    assert by_people(alone, control, candidate, truly, 40).verdict == "pass"


def test_nothing_to_compare_is_said_to_be_nothing(alone: GoldenSet) -> None:
    control, _ = two_runs(alone, ["good b"] * N)
    found = compare(alone, control, RunResults.of("run-2", 2, alone.hash, 1, []))
    assert found.verdict == "inconclusive"
    assert "no item with answers in both versions" in found.sentence
