"""Do Turnout's statistics give what other people's software and the literature give?

    python -m tests.reference FILE.json

FILE has the form {"cases": [{"id", "kind", "inputs", "expected", "tolerance"}]}. Each kind has an adapter
that computes from `inputs` alone, through public functions; it sees neither ids nor expected values. A key of
`expected` that an adapter leaves out on purpose (another program's defect, an interval Turnout does not
offer) is listed as not compared. Kinds without an adapter fail as unsupported.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reference_kinds import ADAPTERS, Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one case."""

    case_id: str
    kind: str
    passed: bool
    expected: Any
    computed: Any
    problems: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    return {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}.get(value)


def _close(expected: float, computed: float, tolerance: Mapping[str, float]) -> bool:
    if math.isnan(expected) or math.isinf(expected):
        return (math.isnan(expected) and math.isnan(computed)) or expected == computed
    gap = abs(expected - computed)
    if "stop_abs" in tolerance and float(expected).is_integer() and expected > 1:
        return gap <= tolerance["stop_abs"]
    relative = tolerance.get("rel", tolerance.get("ab_p_rel", 0.0))
    return gap <= max(tolerance.get("abs", 0.0), relative * abs(expected), 1e-15)


def differences(
    expected: Any,
    computed: Any,
    tolerance: Mapping[str, float],
    at: str = "",
    left_out: tuple[str, ...] = (),
) -> list[str]:
    """Where computed is not what was expected; every path that is missing counts, but for those left out."""
    if isinstance(expected, Mapping):
        if not isinstance(computed, Mapping):
            return [f"{at or '.'}: nothing computed"]
        found: list[str] = []
        for key, value in expected.items():
            path = f"{at}.{key}"
            if path.removeprefix(".") in left_out:
                continue
            if key not in computed:
                found.append(f"{path}: not computed")
            else:
                found += differences(value, computed[key], tolerance, path, left_out)
        return found
    if isinstance(expected, list):
        if not isinstance(computed, list | tuple) or len(computed) != len(expected):
            return [f"{at}: {computed!r} is no list of {len(expected)}"]
        return [
            line
            for index, (one, other) in enumerate(zip(expected, computed, strict=True))
            for line in differences(one, other, tolerance, f"{at}[{index}]", left_out)
        ]
    number, other = _number(expected), _number(computed)
    if number is not None:
        same = other is not None and _close(number, other, tolerance)
    else:
        same = expected == computed
    return [] if same else [f"{at}: expected {expected!r}, computed {computed!r}"]


def judge(case: Mapping[str, Any]) -> Outcome:
    """One case, run through the adapter of its kind."""
    kind, expected = case["kind"], case["expected"]
    adapter = ADAPTERS.get(kind)
    answer: Answer | None = None
    if adapter is None:
        problems = ["unsupported kind"]
    else:
        try:
            answer = adapter(case["inputs"])
        except Exception as error:
            problems = [f"{type(error).__name__}: {error}"]
        else:
            if answer.holds is not None:
                problems = [] if answer.holds else ["the required behaviour does not hold"]
            else:
                problems = differences(
                    expected, answer.values, case.get("tolerance") or {}, left_out=answer.left_out
                )
    return Outcome(
        case_id=case["id"],
        kind=kind,
        passed=not problems,
        expected=expected,
        computed=None if answer is None else answer.values,
        problems=tuple(problems),
        not_compared=()
        if answer is None
        else tuple(key for key in answer.left_out if key.partition(".")[0] in expected),
    )


def main(arguments: list[str]) -> int:
    """Prints a line or more for each case; 0 if all passed."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tests.reference FILE.json\n")
        return 2
    cases = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))["cases"]
    outcomes = [judge(case) for case in cases]
    say = sys.stdout.write
    for outcome in outcomes:
        word = "pass" if outcome.passed else "FAIL"
        say(f"{word}  {outcome.case_id}  ({outcome.kind})\n")
        say(f"      expected {json.dumps(outcome.expected)}\n")
        say(f"      computed {json.dumps(outcome.computed, default=str)}\n")
        for problem in outcome.problems:
            say(f"      problem  {problem}\n")
        if outcome.not_compared:
            say(f"      not compared: {', '.join(outcome.not_compared)}\n")
    passed = sum(outcome.passed for outcome in outcomes)
    say(f"{passed} passed, {len(outcomes) - passed} failed\n")
    return 0 if passed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
