"""The grid puts what fails newly where the eye falls first, and calls nothing passed that has no score."""

import pytest

from dashboard import figures
from dashboard.answers import GoldenComparison, GoldenResult, GoldenRun, GoldenRunResults
from dashboard.screens.golden import controls, grid_rows, passed, states, summary
from dashboard.screens.judges import judge_rows


def result(item: str, value: float | None, status: str = "scored", label: str | None = None) -> GoldenResult:
    return GoldenResult(item_id=item, evaluator="exact", status=status, value=value, label=label)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (result("a", 1.0), True),
        (result("a", 0.0), False),
        (result("a", 1.0, status="error"), None),
        (result("a", None), None),
        (result("a", 1.0, label="fail"), False),
        (GoldenResult(item_id="a", status="scored", value=0.6, detail={"passes": False}), False),
        (GoldenResult(item_id="a", status="scored", value=0.3, detail={"passes": True}), True),
    ],
)
def test_what_counts_as_passed(one: GoldenResult, expected: bool | None) -> None:
    assert passed(one) is expected


def test_one_failing_repeat_fails_the_item_and_no_score_is_no_pass() -> None:
    scores = (("a", 1.0), ("a", 0.0), ("b", None), ("c", 1.0), ("c", None))
    found = states(result(item, value) for item, value in scores)
    assert found == {"a": ("fails", 2), "b": ("no score", 1), "c": ("passes", 2)}


def test_newly_failing_items_come_first() -> None:
    before = [result(item, value) for item, value in (("ok", 1), ("old", 0), ("none", None), ("new", 1))]
    after = [result(item, value) for item, value in (("ok", 1), ("old", 0), ("none", None), ("new", 0))]
    runs = [
        GoldenRunResults(run=GoldenRun(run_id=str(version), version=version), results=tuple(results))
        for version, results in ((1, before), (2, after))
    ]
    rows, items = grid_rows(runs, {})
    assert list(dict.fromkeys(row["item"] for row in rows)) == ["new", "old", "none", "ok"]
    assert items == 4
    assert len(rows) == 8
    assert [row["version"] for row in rows if row["state"] == "fails newly"] == ["v2"]


def test_a_check_that_only_informs_fails_no_item() -> None:
    checks = [{"evaluator": "exact", "gate": True}, {"evaluator": "tone", "gate": False}]
    both = (result("a", 1.0), GoldenResult(item_id="a", evaluator="tone", status="scored", value=0.0))
    run = GoldenRunResults(run=GoldenRun(run_id="1", version=1, summary={"evaluators": checks}), results=both)
    assert [row["state"] for row in grid_rows([run], {})[0]] == ["passes"]
    alone = run.model_copy(update={"results": both[1:]})
    assert [row["state"] for row in grid_rows([alone], {})[0]] == ["fails"]


def test_newly_is_measured_against_the_version_that_it_was_compared_with() -> None:
    runs = [
        GoldenRunResults(run=GoldenRun(run_id=str(version), version=version), results=(result("a", value),))
        for version, value in ((1, 1.0), (2, 0.0), (3, 0.0))
    ]
    comparisons = (GoldenComparison(model="chat", control_version=1, candidate_version=3),)
    against = controls(comparisons, "chat", "support")
    assert against == {3: 1}
    newly = [row["version"] for row in grid_rows(runs, against)[0] if row["state"] == "fails newly"]
    assert newly == ["v2", "v3"]
    assert [row["state"] for row in grid_rows(runs, {})[0]] == ["passes", "fails newly", "fails"]


def test_a_summary_says_what_is_missing() -> None:
    assert summary({"passed": 21, "scored": 23, "missing": 1}) == "21 of 23 passed, 1 missing"
    assert summary({}) == "–"


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"judges": None, "labels": "x", "metrics": 3},
        {"judges": [1, {"evaluator": None, "asked": "many", "latency_p50_ms": float("nan")}]},
        {
            "labels": [
                {"evaluator": "a", "agreement": [], "effect": {"estimate": None}, "among": [{"raters": 1}]}
            ]
        },
    ],
)
def test_a_comparison_of_another_shape_breaks_no_table_of_judges(result: dict[str, object]) -> None:
    rows = judge_rows(GoldenComparison(result=result))
    assert all(row["Kappa"] == figures.DASH for row in rows)
