"""Do Turnout's statistics give what other people's software and the literature give?

    python -m tests.reference FILE.json

FILE has the form {"cases": [{"id", "kind", "inputs", "expected", "tolerance"}]}. Each kind has an adapter
that computes from `inputs` alone, through public functions; it sees neither ids nor expected values. Three
things that stand under `expected` are not compared, and listed as such: prose; another program's failure
(NaN, an exception's text) in place of a number; and what an adapter leaves out on purpose (an interval of no
width that Turnout refuses to give). Kinds without an adapter fail as unsupported.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reference_data import Collection
from tests.reference_kinds import ADAPTERS, Answer

FAMILIES = (
    "means", "pairs", "shares", "counts", "sequential", "betting", "quality", "simulation",
)  # fmt: skip
for _family in FAMILIES:
    importlib.import_module(f"tests.reference_{_family}")

#: Keys of `expected` that are written for people.
PROSE = frozenset({"correct", "requirement", "recommended", "note", "meaning"})
#: Where a case tells no tolerance for a number.
DEFAULT_RELATIVE = 1e-6


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
    if isinstance(value, str):
        return {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}.get(value)
    return None


def _failed_elsewhere(value: Any) -> bool:
    """Whether this stands for another program's failure: NaN, a complex number, an exception."""
    if isinstance(value, str):
        return value == "NaN" or value.startswith("complex:") or "Error(" in value
    return isinstance(value, float) and math.isnan(value)


def _close(expected: float, computed: float, tolerance: Mapping[str, float], at: str) -> bool:
    if math.isinf(expected):
        return expected == computed
    gap = abs(expected - computed)
    key = at.rpartition(".")[2].partition("[")[0]
    if "stop_abs" in tolerance and "stop" in key:
        return gap <= tolerance["stop_abs"]
    absolute, relative = tolerance.get("abs", 0.0), tolerance.get("rel", 0.0)
    if key == "ci":
        absolute = tolerance.get("abs_ci", absolute)
    if key == "p" or key.endswith(("_p", "p_value")):
        relative = tolerance.get("rel_p", tolerance.get("ab_p_rel", relative))
    if not absolute and not relative:
        relative = DEFAULT_RELATIVE
    return gap <= max(absolute, relative * abs(expected), 1e-15)


@dataclass(slots=True)
class Comparison:
    """Walks through what was expected, and notes what differs and what could not be compared."""

    tolerance: Mapping[str, float]
    left_out: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def compare(self, expected: Any, computed: Any, at: str = "") -> None:
        """Every path of `expected` that is missing or different counts."""
        if at.removeprefix(".") in self.left_out or _failed_elsewhere(expected):
            self.skipped.append(at.removeprefix("."))
        elif isinstance(expected, Mapping):
            self._mapping(expected, computed, at)
        elif isinstance(expected, list):
            self._list(expected, computed, at)
        else:
            self._scalar(expected, computed, at)

    def _mapping(self, expected: Mapping[str, Any], computed: Any, at: str) -> None:
        if not isinstance(computed, Mapping):
            self.problems.append(f"{at or '.'}: nothing computed")
            return
        for key, value in expected.items():
            path = f"{at}.{key}"
            if key in PROSE and isinstance(value, str):
                self.skipped.append(path.removeprefix("."))
            elif key not in computed and path.removeprefix(".") not in self.left_out:
                self.problems.append(f"{path}: not computed")
            else:
                self.compare(value, computed.get(key), path)

    def _list(self, expected: list[Any], computed: Any, at: str) -> None:
        if not isinstance(computed, list | tuple) or len(computed) != len(expected):
            if any(_failed_elsewhere(value) for value in expected) and computed is None:
                self.skipped.append(at.removeprefix("."))
                return
            self.problems.append(f"{at}: {computed!r} is no list of {len(expected)}")
            return
        for index, (one, other) in enumerate(zip(expected, computed, strict=True)):
            self.compare(one, other, f"{at}[{index}]")

    def _scalar(self, expected: Any, computed: Any, at: str) -> None:
        number, other = _number(expected), _number(computed)
        if number is not None:
            same = other is not None and _close(number, other, self.tolerance, at)
        else:
            same = expected == computed
        if not same:
            self.problems.append(f"{at}: expected {expected!r}, computed {computed!r}")


def differences(expected: Any, computed: Any, tolerance: Mapping[str, float]) -> list[str]:
    """Where computed is not what was expected."""
    found = Comparison(tolerance)
    found.compare(expected, computed)
    return found.problems


def _within_ranges(expected: Mapping[str, Any], values: Mapping[str, Any], found: Comparison) -> None:
    """A simulated rate counts by the range that the case accepts; a median within a tenth."""
    low, high = expected["accept_range"]
    rate = values.get("rate")
    if rate is None or not low <= rate <= high:
        found.problems.append(f".rate: expected within {expected['accept_range']}, computed {rate!r}")
    median, other = expected.get("median_n"), values.get("median_n")
    if median is not None and (other is None or abs(other - median) > 0.1 * median):
        found.problems.append(f".median_n: expected about {median!r}, computed {other!r}")


def _shown(values: Any) -> Any:
    """Plain dictionaries and lists, as far as they were asked for."""
    if isinstance(values, Mapping):
        return {key: _shown(value) for key, value in values.items()}
    return [_shown(value) for value in values] if isinstance(values, list | tuple) else values


def judge(case: Mapping[str, Any], collection: Collection | None = None) -> Outcome:
    """One case, run through the adapter of its kind. It never raises: what cannot be computed has failed."""
    name, expected = str(case.get("kind")), case.get("expected") or {}
    known = collection or Collection([case], Path.cwd())
    found = Comparison(case.get("tolerance") or {})
    answer: Answer | None = None
    try:
        adapter = ADAPTERS[name]
    except KeyError:
        found.problems.append("unsupported kind")
    else:
        try:
            answer = adapter(known.resolved(case["inputs"]))
            found.left_out = answer.left_out
            if answer.holds is not None:
                if not answer.holds:
                    found.problems.append("the required behaviour does not hold")
            elif "accept_range" in expected:
                _within_ranges(expected, answer.values, found)
            else:
                found.compare(expected, answer.values)
        except Exception as error:
            found.problems.append(f"{type(error).__name__}: {error}")
    return Outcome(
        case_id=str(case.get("id")),
        kind=name,
        passed=not found.problems,
        expected=expected,
        computed=None if answer is None else _shown(answer.values),
        problems=tuple(found.problems),
        not_compared=tuple(dict.fromkeys(found.skipped)),
    )


def main(arguments: list[str]) -> int:
    """Prints a line or more for each case; 0 if all passed."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tests.reference FILE.json\n")
        return 2
    path = Path(arguments[0])
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    collection = Collection(cases, path.resolve().parent)
    outcomes = [judge(case, collection) for case in cases]
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
