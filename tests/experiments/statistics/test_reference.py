"""Numbers that other people's software gave, each case with its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reference import differences, judge

CASES = json.loads((Path(__file__).parent / "cases" / "reference.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_agrees(case: dict[str, Any]) -> None:
    assert judge(case).problems == ()


def test_the_runner_sees_what_differs() -> None:
    assert differences({"a": 1.0}, {"a": 1.1}, {"abs": 0.01}) != []
    assert differences({"a": [1.0, 2.0]}, {"a": [1.0]}, {"abs": 0.01}) != []
    assert differences({"a": 1.0}, {}, {"abs": 0.01}) == [".a: not computed"]
    assert differences({"a": "Infinity"}, {"a": float("inf")}, {}) == []
    assert differences({"a": None}, {"a": 0.0}, {"abs": 1.0}) != []
    unknown = {"id": "x", "kind": "no/such", "inputs": {}, "expected": {}, "tolerance": None}
    assert not judge(unknown).passed
