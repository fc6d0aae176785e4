"""The grid puts what fails newly where the eye falls first, and calls nothing passed that has no score."""

import pytest

from dashboard import figures
from dashboard.answers import GoldenComparison, GoldenResult, GoldenRun, GoldenRunResults
from dashboard.screens.golden import COMPARISONS, RUNS, controls, grid_rows, passed, states, summary
from dashboard.screens.judges import judge_rows
from dashboard.screens.panes import ADDED

from .conftest import OpenPage, texts
from .fake_control_api import FakeControlApi


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


def test_items_whose_long_names_begin_alike_are_told_apart() -> None:
    names = [f"{'multi-hop-question-answering-' * 3}{number}" for number in range(3)]
    results = tuple(result(name, 1.0) for name in names)
    rows, items = grid_rows([GoldenRunResults(run=GoldenRun(run_id="1", version=1), results=results)], {})
    assert (items, [row["item"] for row in rows]) == (3, names)


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


@pytest.mark.parametrize("control", ["rich"], indirect=True)
def test_a_comparison_is_found_also_when_others_came_after_it(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    one = control.story["comparisons"][0]
    control.story["comparisons"] = [
        {**one, "set_name": f"nr{n}", "at": f"2026-11-{n + 1:02}T00:00:00Z"} for n in range(7)
    ]
    app = open_page("golden")
    assert "set nr6" in texts(app)
    assert "set nr0" not in texts(app)
    app.session_state["comparisons-page"] = 2
    assert "set nr0" in texts(app.run())


def test_what_passes_is_green_and_what_fails_is_red_as_in_the_grid(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    marked = [str(block.value) for block in open_page("golden").get("html") if "<mark" in str(block.value)]
    colours = [("green" if ADDED in text else "red") for text in marked]
    assert colours == ["green", "red"] * (len(colours) // 2)
    assert "within 30 days." in marked[0]  # which the passing answer has beyond the other


def test_a_list_that_has_no_end_says_how_much_of_it_is_shown(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    assert "(the newest" not in texts(open_page("golden"))
    for name, limit in (("runs", RUNS), ("comparisons", COMPARISONS)):
        control.story[name] = (control.story[name] * limit)[:limit]
    app = open_page("golden")
    assert f"{COMPARISONS} comparisons (the newest {COMPARISONS})" in texts(app).replace("\\", "")
    assert f"{RUNS} runs (the newest {RUNS})" in texts(app).replace("\\", "")
    assert any(f"/golden/runs?limit={RUNS}" in route for route in control.asked), control.asked


def test_a_preflight_of_another_engine_is_marked(control: FakeControlApi, open_page: OpenPage) -> None:
    app = open_page("preflight")
    assert texts(app).count("Outdated: a later preflight found another engine") == 1
    assert [one.label for one in app.expander] == ["7 findings", "1 finding"]


def test_every_preflight_is_found_page_by_page(control: FakeControlApi, open_page: OpenPage) -> None:
    one = control.story["preflights"][0]
    control.story["preflights"] = [{**one, "model": f"nr{n}"} for n in range(12)]
    app = open_page("preflight")
    assert "nr0 " in texts(app)
    assert "nr11 " not in texts(app)
    app.session_state["preflights-page"] = 3
    assert "nr11 " in texts(app.run())
