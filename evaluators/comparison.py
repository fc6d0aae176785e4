"""Is the candidate at least as good as the control on this golden set, within the declared margin?

Items are compared in pairs, by id and content hash, each by its mean over repeats. The gate is the share of
items that pass; the effect is candidate minus control, with an interval at level 1 - alpha:

    pass          the whole interval lies above -margin: non-inferior
    fail          it does not, and the whole interval lies below 0: worse; or the candidate is below the
                  set's own floor (`min_pass_rate`)
    inconclusive  anything else; too little coverage; or missing answers that could change the decision

No result is a result: inconclusive never lets traffic through, and says what it would take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from evaluators.estimates import Effect, PairedValue, paired_effect
from evaluators.golden import Check, GoldenItem, GoldenSet, Policy
from evaluators.results import ResultRow, text_of
from evaluators.summary import ITEMS, Gate, RunResults, Summary, Tally, summarise
from experiments.verdict import Reason

_MOST_ITEMS: Final = 100_000  # beyond it "needs N more items" is no advice
_OUTAGE: Final = 0.05  # share of unanswered questions at which the control itself is in doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One item in both runs."""

    item: GoldenItem
    control: Tally
    candidate: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An item that passes in one version and not in the other, by one of its checks."""

    item_id: str
    tags: tuple[str, ...]
    evaluator: str
    expected: str
    got: str
    explanation: str

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "tags": list(self.tags)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One evaluator (or `items`, the gate) in both versions; counts are items whose every answer passed."""

    evaluator: str
    evaluator_version: str
    gate: bool
    n: int
    missing: int
    control: float | None
    candidate: float | None
    effect: Effect | None
    both: int = 0
    only_control: int = 0
    only_candidate: int = 0
    neither: int = 0

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        effect = None if self.effect is None else self.effect.to_json()
        return {**fields, "effect": effect, "p_value": None if self.effect is None else self.effect.p_value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two runs say about each other. `more_items` is how many more items of this kind would decide."""

    set_name: str
    set_hash: str
    verdict: Gate
    sentence: str
    reasons: tuple[Reason, ...]
    policy: Policy
    planned: int
    coverage: float
    gate: MetricRow
    metrics: tuple[MetricRow, ...]
    changed: tuple[str, ...]
    only_control: tuple[str, ...]
    only_candidate: tuple[str, ...]
    newly_failing: tuple[Change, ...]
    newly_passing: tuple[Change, ...]
    more_items: int | None

    @property
    def missing(self) -> int:
        """Items without a score in one of the runs."""
        return self.gate.missing

    def to_json(self) -> dict[str, Any]:
        """The result as the control API stores it."""
        return {
            "set_name": self.set_name,
            "set_hash": self.set_hash,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "reasons": [
                {"code": reason.code, "severity": reason.severity, "text": reason.text}
                for reason in self.reasons
            ],
            "alpha": self.policy.alpha,
            "margin": self.policy.margin,
            "coverage": self.coverage,
            "coverage_floor": self.policy.coverage_floor,
            "items": {
                "planned": self.planned,
                "compared": self.gate.n,
                "missing": self.gate.missing,
                "changed": list(self.changed),
                "only_control": list(self.only_control),
                "only_candidate": list(self.only_candidate),
            },
            "gate": self.gate.to_json(),
            "metrics": [row.to_json() for row in self.metrics],
            "newly_failing": [change.to_json() for change in self.newly_failing],
            "newly_passing": [change.to_json() for change in self.newly_passing],
            "more_items": self.more_items,
        }


def compare(golden: GoldenSet, control: RunResults, candidate: RunResults) -> Comparison:
    """Compare two runs of `golden`. Items that changed since a run, or that it lacks, are listed apart."""
    comparable, changed, only_control, only_candidate = _match(golden, control, candidate)
    pairs = [pair for item in comparable if (pair := _pair(item, control, candidate)) is not None]
    gate = _metric(ITEMS, "1", True, pairs, golden.policy.alpha)
    planned = sum(pair.control.planned for pair in pairs)
    observed = sum(min(pair.control.observed, pair.candidate.observed) for pair in pairs)
    coverage = observed / planned if planned else 0.0
    reasons = _reasons(golden, control, candidate, changed)
    verdict, sentence, more = _conclude(
        golden.policy, pairs, gate, coverage, summarise(golden, candidate), reasons
    )
    return Comparison(
        set_name=golden.name,
        set_hash=golden.hash,
        verdict=verdict,
        sentence=sentence,
        reasons=tuple(reasons),
        policy=golden.policy,
        planned=len(pairs),
        coverage=coverage,
        gate=gate,
        metrics=_metrics(golden, comparable, control, candidate),
        changed=tuple(changed),
        only_control=tuple(only_control),
        only_candidate=tuple(only_candidate),
        newly_failing=tuple(_changes(pairs, better=control, worse=candidate)),
        newly_passing=tuple(_changes(pairs, better=candidate, worse=control)),
        more_items=more,
    )


def decide(effect: Effect | None, margin: float) -> Gate:
    """The three-way decision; that it is worse must be said by the test as well as by the interval."""
    if effect is None:
        return "inconclusive"
    if effect.lower > -margin:
        return "pass"
    if effect.upper < 0 and effect.significant:
        return "fail"
    return "inconclusive"


def items_needed(effect: Effect, n: int, margin: float) -> int | None:
    """About how many more items would decide, if they came out as these did; None if that is no advice.

    The half-width of the interval goes with 1/sqrt(n), so a width w at n items becomes h at n (w/h)^2.
    """
    below, above = effect.estimate - effect.lower, effect.upper - effect.estimate
    rooms = [(below, effect.estimate + margin), (above, -effect.estimate)]
    needs = [n * (width / room) ** 2 for width, room in rooms if room > 0]
    if not needs or min(needs) - n > _MOST_ITEMS:
        return None
    return max(1, math.ceil(min(needs)) - n)


def _match(
    golden: GoldenSet, control: RunResults, candidate: RunResults
) -> tuple[list[GoldenItem], list[str], list[str], list[str]]:
    """The items to compare; the ids of those that are another question in a run; and of those that only the
    control run or only the candidate run has."""
    comparable: list[GoldenItem] = []
    changed: list[str] = []
    only: dict[str, list[str]] = {"control": [], "candidate": []}
    for item in golden.items:
        in_control, in_candidate = _presence(golden, item, control), _presence(golden, item, candidate)
        if "changed" in (in_control, in_candidate):
            changed.append(item.id)
        elif in_control == in_candidate == "present":
            comparable.append(item)
        elif in_control == "present":
            only["control"].append(item.id)
        elif in_candidate == "present":
            only["candidate"].append(item.id)
    known = {item.id for item in golden.items}
    only["control"].extend(sorted(set(control.rows) - set(candidate.rows) - known))
    only["candidate"].extend(sorted(set(candidate.rows) - set(control.rows) - known))
    return comparable, changed, only["control"], only["candidate"]


def _presence(golden: GoldenSet, item: GoldenItem, run: RunResults) -> str:
    rows = run.rows.get(item.id, ())
    if not rows:  # a run of this very set was to ask it: missing there, and counted so
        return "present" if run.set_hash == golden.hash else "absent"
    return "present" if any(row.item_hash == item.hash for row in rows) else "changed"


def _pair(
    item: GoldenItem, control: RunResults, candidate: RunResults, checks: Sequence[Check] | None = None
) -> Pair | None:
    left, right = control.tally(item, checks), candidate.tally(item, checks)
    return None if left is None or right is None else Pair(item=item, control=left, candidate=right)


def _metrics(
    golden: GoldenSet, comparable: Sequence[GoldenItem], control: RunResults, candidate: RunResults
) -> tuple[MetricRow, ...]:
    rows = []
    for key, version in golden.evaluators.items():
        with_check = [(item, [c for c in item.checks if c.key == key]) for item in comparable]
        used = [(item, checks) for item, checks in with_check if checks]
        pairs = [pair for item, checks in used if (pair := _pair(item, control, candidate, checks))]
        gate = any(check.gate for _, checks in used for check in checks)
        rows.append(_metric(key, version, gate, pairs, golden.policy.alpha))
    return tuple(rows)


def _metric(evaluator: str, version: str, gate: bool, pairs: Sequence[Pair], alpha: float) -> MetricRow:
    values = _observed(pairs)
    cells = [(value.control >= 1.0, value.candidate >= 1.0) for value in values]
    n = len(values)
    return MetricRow(
        evaluator=evaluator,
        evaluator_version=version,
        gate=gate,
        n=n,
        missing=len(pairs) - n,
        control=math.fsum(value.control for value in values) / n if n else None,
        candidate=math.fsum(value.candidate for value in values) / n if n else None,
        effect=paired_effect(values, alpha=alpha),
        both=cells.count((True, True)),
        only_control=cells.count((True, False)),
        only_candidate=cells.count((False, True)),
        neither=cells.count((False, False)),
    )


def _observed(pairs: Sequence[Pair]) -> list[PairedValue]:
    return [
        PairedValue(control=control, candidate=candidate, cluster=pair.item.cluster)
        for pair in pairs
        if (control := pair.control.mean) is not None and (candidate := pair.candidate.mean) is not None
    ]


def _imputed(pairs: Sequence[Pair], *, worst: bool) -> list[PairedValue]:
    """All pairs, with what is missing taken at its worst (or best) for the candidate."""
    return [
        PairedValue(
            control=pair.control.highest if worst else pair.control.lowest,
            candidate=pair.candidate.lowest if worst else pair.candidate.highest,
            cluster=pair.item.cluster,
        )
        for pair in pairs
    ]


def _reasons(
    golden: GoldenSet, control: RunResults, candidate: RunResults, changed: Sequence[str]
) -> list[Reason]:
    """What is worth knowing beside the decision."""
    reasons = []
    if changed:
        text = f"{len(changed)} items changed since a run and are not compared: {_some(changed)}."
        reasons.append(Reason(code="changed_items", severity="warn", text=text))
    outcomes = summarise(golden, control).outcomes
    unanswered = sum(n for outcome, n in outcomes.items() if outcome not in ("complete", "length"))
    total = sum(outcomes.values())
    if total and unanswered / total > _OUTAGE:
        text = (
            f"version {control.version} (control) left {unanswered} of {total} questions without an answer."
        )
        reasons.append(Reason(code="control_failing", severity="warn", text=text))
    if control.repeats != candidate.repeats:
        text = f"the runs have {control.repeats} and {candidate.repeats} repeats; means are compared."
        reasons.append(Reason(code="repeats_differ", severity="note", text=text))
    return reasons


def _conclude(
    policy: Policy,
    pairs: Sequence[Pair],
    gate: MetricRow,
    coverage: float,
    own: Summary,
    reasons: list[Reason],
) -> tuple[Gate, str, int | None]:
    """The verdict, its sentence, and the items that would decide; blocking reasons are added to `reasons`."""

    def blocked(verdict: Gate, code: str, text: str) -> tuple[Gate, str, None]:
        reasons.append(Reason(code=code, severity="block", text=text))
        return verdict, f"{verdict.capitalize()}: {text}", None

    effect = gate.effect
    if effect is None:
        return blocked("inconclusive", "no_pairs", "no item was scored in both versions.")
    if policy.min_pass_rate is not None and own.gate == "fail":
        return blocked("fail", "below_floor", own.sentence.removeprefix("Fail: "))
    if coverage < policy.coverage_floor:
        needed = f"{policy.coverage_floor:.0%} are needed"
        text = f"{coverage:.1%} of the answers are scored in both versions, {needed}."
        return blocked("inconclusive", "coverage", text)
    decision = decide(effect, policy.margin)
    extremes = {
        decide(paired_effect(_imputed(pairs, worst=worst), alpha=policy.alpha), policy.margin)
        for worst in (True, False)
    }
    if extremes != {decision}:
        text = "what the missing answers would have been decides: at worst and at best they say otherwise."
        return blocked("inconclusive", "missing_decides", text)
    if policy.min_pass_rate is not None and own.gate == "inconclusive":
        return blocked("inconclusive", "floor_undecided", own.sentence.removeprefix("Inconclusive: "))
    numbers = _numbers(gate, effect)
    if decision == "pass":
        worse = " It is worse, but within what is tolerated." if effect.upper < 0 else ""
        return "pass", f"Pass: {numbers}; no drop beyond the margin of {_points(policy.margin)}.{worse}", None
    if decision == "fail":
        return "fail", f"Fail: {numbers}; the candidate is worse.", None
    more = items_needed(effect, gate.n, policy.margin)
    advice = (
        f"needs about {more} more items" if more is not None else "no number of such items would decide it"
    )
    text = f"{numbers}; the margin of {_points(policy.margin)} lies inside the interval; {advice}."
    reasons.append(Reason(code="underpowered", severity="block", text=text))
    return "inconclusive", f"Inconclusive: {text}", more


def _changes(pairs: Sequence[Pair], *, better: RunResults, worse: RunResults) -> list[Change]:
    """Every gating check that one run passes in every repeat and the other fails in some."""
    found = []
    for pair in pairs:
        good, bad = better.of_item(pair.item), worse.of_item(pair.item)
        for check in (check for check in pair.item.checks if check.gate):
            passed = [row for (_, key), row in good.items() if key == check.key]
            failed = [row for (_, key), row in bad.items() if key == check.key and row.value == 0.0]
            if failed and passed and all(row.value == 1.0 for row in passed):
                found.append(_change(pair.item, check, failed[0]))
    return found


def _change(item: GoldenItem, check: Check, failed: ResultRow) -> Change:
    expected = check.options.expects(item.reference)
    return Change(
        item_id=item.id,
        tags=item.tags,
        evaluator=check.key,
        expected=f"not {expected}" if check.negate else expected,
        got=text_of(failed),
        explanation=failed.explanation or "",
    )


def _numbers(gate: MetricRow, effect: Effect) -> str:
    estimate, lower, upper = (
        _points(end, sign=True) for end in (effect.estimate, effect.lower, effect.upper)
    )
    return (
        f"{gate.candidate:.1%} of {gate.n} items pass with the candidate, {gate.control:.1%} with the "
        f"control, difference {estimate} ({effect.level:.0%} interval {lower} to {upper})"
    )


def _points(share: float, *, sign: bool = False) -> str:
    return f"{100 * share:{'+' if sign else ''}.1f} points"


def _some(names: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


__all__ = ["Change", "Comparison", "MetricRow", "Pair", "compare", "decide", "items_needed"]
