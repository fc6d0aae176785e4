"""Numbers that other people's software gave, each case with its source."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.reference import differences, judge
from tests.reference_data import Collection, recipe
from tests.reference_kinds import ADAPTERS

FOLDER = Path(__file__).parent / "cases"
CASES = json.loads((FOLDER / "reference.json").read_text(encoding="utf-8"))["cases"]
COLLECTION = Collection(CASES, FOLDER)
#: Minutes of drawing rather than milliseconds of arithmetic: `python -m tests.reference` runs them.
SIMULATED = "simulation/"


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not case["kind"].startswith(SIMULATED)],
    ids=lambda case: case["id"],
)
def test_agrees(case: dict[str, Any]) -> None:
    assert judge(case, COLLECTION).problems == ()


def test_the_runner_sees_what_differs() -> None:
    assert differences({"a": 1.0}, {"a": 1.1}, {"abs": 0.01}) != []
    assert differences({"a": [1.0, 2.0]}, {"a": [1.0]}, {"abs": 0.01}) != []
    assert differences({"a": 1.0}, {}, {"abs": 0.01}) == [".a: not computed"]
    assert differences({"a": "Infinity"}, {"a": float("inf")}, {}) == []
    assert differences({"a": None}, {"a": 0.0}, {"abs": 1.0}) != []
    unknown = {"id": "x", "kind": "no/such", "inputs": {}, "expected": {}, "tolerance": None}
    assert not judge(unknown).passed


def test_what_is_no_number_elsewhere_is_not_compared() -> None:
    assert differences({"a": "NaN", "b": ["complex:(1+1j)", 2.0]}, {"a": 1.0, "b": [1.0, 2.0]}, {}) == []
    assert differences({"b": ["complex:(1+1j)", 2.0]}, {"b": [1.0, 3.0]}, {}) != []
    assert differences({"correct": "do as it should", "a": 1.0}, {"a": 1.0}, {}) == []
    assert (
        differences({"p": 1.01, "ci": [1.01]}, {"p": 1.0, "ci": [1.0]}, {"rel_p": 0.02, "abs_ci": 0.02}) == []
    )


def test_every_kind_has_an_adapter_and_none_raises_on_nothing() -> None:
    assert {case["kind"] for case in CASES} <= set(ADAPTERS) | {
        "simulation/operating_characteristic",
        "simulation/golden_coverage",
    }
    for name in ADAPTERS:
        broken = judge({"id": "x", "kind": name, "inputs": {}, "expected": {"a": 1.0}, "tolerance": None})
        assert not broken.passed


def test_data_is_drawn_by_recipe_and_by_nothing_else() -> None:
    drawn = recipe("rng=default_rng(1); n,m=6,2; a=(rng.random(n)<.5); b=where(a,1,-1); first=first m")
    assert drawn["b"].tolist() == [1 if one else -1 for one in drawn["a"]]
    assert drawn["first"] == 2
    for text in ("a=__import__('os')", "a=(1).__class__", "a=open(1)", "a=[i for i in n]"):
        with pytest.raises((ValueError, SyntaxError, KeyError)):
            recipe(text)


def test_inputs_refer_to_other_cases_and_to_files() -> None:
    known = Collection([{"id": "one", "inputs": {"x": "101"}}], FOLDER)
    assert known.resolved({"x": "same x as one", "run": "1+70..3+70"}) == {"x": "101", "run": [71, 72, 73]}
    stored = known.resolved({"control": "reference_lognormal_2000.json la[:3]"})
    assert len(stored["control"]) == 3
    assert known.resolved({"note": "see the file x.json later"}) == {"note": "see the file x.json later"}


NOTHING = {"n": 0, "sum": 0, "sum_squares": 0}
SOME = {"n": 5, "sum": 15.0, "sum_squares": 49.0}


@pytest.mark.parametrize(
    ("kind", "inputs", "path", "value"),
    [
        ("mean/two_sample_welch", {"control": NOTHING, "treatment": SOME}, "error", "no_data"),
        (
            "mean/two_sample_welch",
            {"control": SOME | {"sum": math.nan}, "treatment": SOME},
            "error",
            "not_finite",
        ),
        (
            "mean/two_sample_welch",
            {"control": {"n": 1, "sum": 3.0, "sum_squares": 9.0}, "treatment": SOME},
            "error",
            "insufficient_data",
        ),
        ("latency/rank", {"control": [], "candidate": [1.0]}, "brunner_munzel", None),
        ("latency/rank", {"control": [1.0] * 4, "candidate": [1.0] * 4}, "prob_ci", None),
        ("paired_mean/battery", {"control": [], "candidate": [], "alpha": 0.05}, "mean_diff", None),
        ("binary/two_sample_ci", {"candidate": [0, 0], "control": [3, 10], "alpha": 0.05}, "newcombe", None),
        # scipy's binomtest has 5.57201e-09 here; the chi-square's quantile over 2n says otherwise.
        (
            "binary/one_sample_ci",
            {"successes": 1, "n": 10**9, "alpha": 0.05},
            "clopper_pearson",
            5.5716434e-9,
        ),
        ("pairwise/bradley_terry", {"wins": [[0, 10], [0, 0]]}, "log_strength_centered", None),
        ("stratified/cmh", {"strata": []}, "p", None),
        ("agreement/cohen_kappa", {"table": [[10, 0], [0, 0]]}, "kappa", None),
        ("sequential/bernoulli_cs", {"successes": 0, "n": 0, "alpha": 0.05, "t_opt": 100}, "ci", [0.0, 1.0]),
    ],
)
def test_awkward_inputs_get_a_state_or_no_number(
    kind: str, inputs: dict[str, Any], path: str, value: Any
) -> None:
    found = ADAPTERS[kind]({"alpha": 0.05, "difference": "absolute"} | inputs).values[path]
    if path == "clopper_pearson":
        assert found[1] == pytest.approx(value, rel=1e-7)
    else:
        assert found == value


def test_an_e_process_of_millions_of_failures_is_finite() -> None:
    points = [(0, 0), (10**6, 9 * 10**6), (5000, 0), (0, 10**7), (10**6 + 5000, 9 * 10**6)]
    inputs = {
        "points": [{"canary_failures": one, "control_failures": zero} for one, zero in points],
        "canary_share": 0.1, "k": 10, "margin_rate_ratio": [1.0, 1.25],
    }  # fmt: skip
    values = ADAPTERS["guardrail/one_sided_e_process"](inputs).values
    for name in ("log_e_margin_1", "log_e_margin_1_25"):
        log_e = values[name]
        assert all(map(math.isfinite, log_e))
        assert log_e[0] == 0.0
        assert log_e[2] > 10_000.0
        assert log_e[3] < 0.0
    # Five standard deviations more than its share, of the rate itself: evidence, but none beyond the margin.
    assert values["log_e_margin_1"][4] > 5.0
    assert values["log_e_margin_1_25"][4] < 0.0
