"""Numbers that other people's software gave, each case with its source."""

from __future__ import annotations

import json
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
