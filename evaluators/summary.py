"""What came of one run: how many items passed, by which evaluator, and how much of it is missing?

An item's answer passes when every deciding check of it passes. One failed check fails it, whatever the others
say; otherwise an unscored or failed check, or a row that is not there, leaves it missing. Missing is never 0.
With `item_score: mean` an answer is worth the weighted mean of its deciding checks instead, and is missing as
soon as one of them is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from evaluators.golden import Check, GoldenItem, GoldenSet, ItemScore
from evaluators.judges.health import JudgeHealth, Verdict, judge_health
from evaluators.results import ResultRow
from experiments.figures import percent

Gate = Literal["pass", "fail", "inconclusive"]

#: The pseudo-evaluator of a whole item: all its gating checks.
ITEMS = "items"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """An item's answers over the repeats: `observed` of `planned`, worth `total` (each in [0, 1]) together;
    `passes` says whether every one of them passed."""

    planned: int
    observed: int
    total: float
    passes: bool = False

    @property
    def mean(self) -> float | None:
        """What an observed answer is worth; None when nothing was observed."""
        return self.total / self.observed if self.observed else None

    @property
    def lowest(self) -> float:
        """The mean if all that is missing were worth 0."""
        return self.total / self.planned

    @property
    def highest(self) -> float:
        """The mean if all that is missing were worth 1."""
        return (self.total + self.planned - self.observed) / self.planned


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """The rows of one run, found by item. `set_hash` is the set it was run with."""

    run_id: str
    version: int
    set_hash: str
    repeats: int
    rows: Mapping[str, tuple[ResultRow, ...]]
    _found: dict[str, tuple[GoldenItem, dict[tuple[int, str], ResultRow]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls, run_id: str, version: int, set_hash: str, repeats: int, rows: Iterable[ResultRow]
    ) -> RunResults:
        """Sort rows by item."""
        by_item: dict[str, list[ResultRow]] = {}
        for row in rows:
            by_item.setdefault(row.item_id, []).append(row)
        grouped = {item: tuple(found) for item, found in by_item.items()}
        return cls(run_id=run_id, version=version, set_hash=set_hash, repeats=repeats, rows=grouped)

    def of_item(self, item: GoldenItem) -> Mapping[tuple[int, str], ResultRow]:
        """The item's rows by repeat and evaluator, of this very content and these evaluator versions."""
        known = self._found.get(item.id)
        if known is not None and known[0] is item:  # a summary and a comparison look many times
            return known[1]
        versions = {check.key: check.evaluator_version for check in item.checks}
        rows = {
            (row.repeat, row.evaluator): row
            for row in self.rows.get(item.id, ())
            if row.item_hash == item.hash and versions.get(row.evaluator) == row.evaluator_version
        }
        self._found[item.id] = (item, rows)
        return rows

    def verdicts(self) -> Iterator[Verdict]:
        """Every row, as a judge's health sees it."""
        return (Verdict.of_row(row) for rows in self.rows.values() for row in rows)

    def tally(
        self, item: GoldenItem, checks: Iterable[Check] | None = None, *, score: ItemScore = "all"
    ) -> Tally | None:
        """How the item fared by `checks` (by default its deciding ones); None if none applies to it."""
        chosen = [check for check in item.checks if check.decisive] if checks is None else list(checks)
        rows = self.of_item(item)
        worths = [
            _worth([(check, rows.get((repeat, check.key))) for check in chosen], score)
            for repeat in range(self.repeats)
        ]
        applicable = [worth for worth in worths if worth != "skipped"]
        if not chosen or not applicable:
            return None
        seen = [worth for worth in applicable if not isinstance(worth, str)]
        return Tally(
            planned=len(applicable),
            observed=len(seen),
            total=math.fsum(worth.value for worth in seen),
            passes=all(worth.passes for worth in seen),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorTally:
    """One evaluator's rows over a run: `passed` of the `scored` ones, whose values sum to `total`. The rates
    are None when nothing was scored."""

    evaluator: str
    evaluator_version: str
    gate: bool
    planned: int
    scored: int
    unscored: int
    errors: int
    skipped: int
    passed: float
    total: float

    @property
    def pass_rate(self) -> float | None:
        return self.passed / self.scored if self.scored else None

    @property
    def mean(self) -> float | None:
        return self.total / self.scored if self.scored else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "pass_rate": self.pass_rate, "mean": self.mean}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in numbers. `planned`, `scored` and `missing` count answers (items times repeats) that a
    deciding check applies to; `passed` of the scored ones passed (with `item_score: mean`: their worth)."""

    items: int
    planned: int
    scored: int
    passed: float
    evaluators: tuple[EvaluatorTally, ...]
    outcomes: Mapping[str, int] = field(default_factory=dict)
    gate: Gate
    sentence: str
    judges: tuple[JudgeHealth, ...] = ()

    @property
    def missing(self) -> int:
        return self.planned - self.scored

    @property
    def pass_rate(self) -> float | None:
        return self.passed / self.scored if self.scored else None

    @property
    def coverage(self) -> float:
        return self.scored / self.planned if self.planned else 0.0

    def metrics(self) -> dict[str, float]:
        """Flat finite numbers, as experiment trackers want them."""
        rates = {f"pass_rate.{tally.evaluator}": tally.pass_rate for tally in self.evaluators}
        means = {f"mean.{tally.evaluator}": tally.mean for tally in self.evaluators}
        found = {"pass_rate": self.pass_rate, "coverage": self.coverage, **rates, **means}
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """What the control API takes as a run's summary."""
        return {
            "items": self.items,
            "planned": self.planned,
            "scored": self.scored,
            "missing": self.missing,
            "passed": self.passed,
            "pass_rate": self.pass_rate,
            "coverage": self.coverage,
            "metrics": self.metrics(),
            "evaluators": [tally.to_json() for tally in self.evaluators],
            "outcomes": dict(self.outcomes),
            "gate": self.gate,
            "sentence": self.sentence,
            "judges": [judge.to_json() for judge in self.judges],
        }


def summarise(golden: GoldenSet, results: RunResults) -> Summary:
    """The run in numbers, and its gate: see `_judge`."""
    score = golden.policy.item_score
    tallies = [tally for item in golden.items if (tally := results.tally(item, score=score)) is not None]
    planned = sum(tally.planned for tally in tallies)
    scored = sum(tally.observed for tally in tallies)
    passed = math.fsum(tally.total for tally in tallies)
    gate, sentence = _judge(golden, planned, scored, passed)
    return Summary(
        items=len(golden.items),
        planned=planned,
        scored=scored,
        passed=passed,
        evaluators=tuple(_evaluator_tally(golden, results, key) for key in golden.evaluators),
        outcomes=_outcomes(golden, results),
        gate=gate,
        sentence=sentence,
        judges=judge_health(results.verdicts()),
    )


def _judge(golden: GoldenSet, planned: int, scored: int, passed: float) -> tuple[Gate, str]:
    """Pass needs coverage and, if the set declares one, the pass rate whatever the missing answers were."""
    policy = golden.policy
    missing = planned - scored
    if golden.decided_by_means:
        return (
            "inconclusive",
            "Inconclusive: no item passes or fails by itself; judges count where two versions are compared.",
        )
    if not scored or scored / planned < policy.coverage_floor:
        floor = percent(policy.coverage_floor)
        return (
            "inconclusive",
            f"Inconclusive: {missing:,} of {planned:,} answers have no score, {floor} are needed.",
        )
    rate = f"{counted(passed)} of {scored:,} answers passed ({percent(passed / scored)})"
    if policy.min_pass_rate is None:
        return "pass", f"{rate}; the set declares no floor."
    floor = f"the floor of {percent(policy.min_pass_rate)}"
    if passed / planned >= policy.min_pass_rate:
        return "pass", f"Pass: {rate}, at or above {floor}."
    if (passed + missing) / planned < policy.min_pass_rate:
        return "fail", f"Fail: {rate}, below {floor}."
    return "inconclusive", f"Inconclusive: {rate}, and the {missing:,} missing decide about {floor}."


def counted(passed: float) -> str:
    """How many passed, or what they are worth together: 9,999 or 12.5."""
    return f"{round(passed, 2):,.12g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worth:
    value: float
    passes: bool


def _worth(
    rows: list[tuple[Check, ResultRow | None]], score: ItemScore
) -> _Worth | Literal["missing", "skipped"]:
    """What one answer is worth by its checks' rows."""
    scored = [(check, row.value) for check, row in rows if row is not None and row.value is not None]
    passes = all(check.passes(value) for check, value in scored)
    if score == "all" and not passes:
        return _Worth(value=0.0, passes=False)
    if any(row is None or row.status in ("unscored", "error") for _, row in rows):
        return "missing"
    if not scored:
        return "skipped"
    if score == "all":
        return _Worth(value=1.0, passes=True)
    weight = math.fsum(check.weight for check, _ in scored)
    return _Worth(value=math.fsum(check.weight * value for check, value in scored) / weight, passes=passes)


def _evaluator_tally(golden: GoldenSet, results: RunResults, key: str) -> EvaluatorTally:
    checks = [(item, check) for item in golden.items for check in item.checks if check.key == key]
    statuses: Counter[str] = Counter()
    passed = total = 0.0
    for item, check in checks:
        rows = results.of_item(item)
        for repeat in range(results.repeats):
            row = rows.get((repeat, check.key))
            statuses["error" if row is None else row.status] += 1
            if row is not None and row.value is not None:
                passed += check.passes(row.value)
                total += row.value
    return EvaluatorTally(
        evaluator=key,
        evaluator_version=golden.evaluators[key],
        gate=any(check.gate for _, check in checks),
        planned=sum(statuses.values()),
        scored=statuses["scored"],
        unscored=statuses["unscored"],
        errors=statuses["error"],
        skipped=statuses["skipped"],
        passed=passed,
        total=total,
    )


def _outcomes(golden: GoldenSet, results: RunResults) -> dict[str, int]:
    """How the answers ended, one count per answer; `unreached` where no engine was."""
    ends = {
        (item.id, row.repeat): row.outcome or "unreached"
        for item in golden.items
        for row in results.of_item(item).values()
    }
    return dict(sorted(Counter(ends.values()).items()))
