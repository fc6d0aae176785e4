"""Is the candidate at least as good as the control on this golden set, within the declared margin?

Items are compared in pairs, by id and content hash, each by its mean over repeats. The gate is the share of
items that pass (and the mean of each evaluator to which the set gives a margin); the effect is candidate
minus control, with an interval at level 1 - alpha (`evaluators.deciding` has the rule for several gates):

    pass          the whole interval lies above -margin: non-inferior
    fail          it does not, and the whole interval lies below 0: worse; or the candidate is below the
                  set's own floor (`min_pass_rate`)
    inconclusive  anything else; too little coverage; or missing answers that could change the decision

No result is a result: inconclusive never lets traffic through, and says what it would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from evaluators.changes import Change, changes
from evaluators.deciding import conclude, decide, gauge, items_needed
from evaluators.golden import GoldenItem, GoldenSet, Policy
from evaluators.judges.health import JudgeHealth, judge_health
from evaluators.labels.cases import cases_of
from evaluators.labels.correction import Correction, correction
from evaluators.labels.label import NOBODY, People
from evaluators.metrics import MetricRow, metric_row, metric_rows
from evaluators.pairing import match_items, pair_of
from evaluators.preferences import NO_PREFERENCES, Preferences
from evaluators.summary import ITEMS, Gate, RunResults, summarise
from experiments.verdict import Reason

_OUTAGE: Final = 0.05  # share of unanswered questions at which the control itself is in doubt


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
    preferences: Preferences = NO_PREFERENCES
    corrections: tuple[Correction, ...] = ()
    judges: tuple[JudgeHealth, ...] = ()

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
            "judges": [judge.to_json() for judge in self.judges],
            "labels": [found.to_json() for found in self.corrections],
            **({"preferences": self.preferences.to_json()} if self.preferences.pairs else {}),
        }


def compare(
    golden: GoldenSet,
    control: RunResults,
    candidate: RunResults,
    preferences: Preferences = NO_PREFERENCES,
    people: People = NOBODY,
) -> Comparison:
    """Compare two runs of `golden`, with what a judge of pairs prefers (`evaluators.preferences`) and what
    people said (`evaluators.labels`). Items that changed since a run, or that it lacks, are listed apart."""
    comparable, changed, only_control, only_candidate = match_items(golden, control, candidate)
    policy = golden.policy
    pairs = [
        pair
        for item in comparable
        if (pair := pair_of(item, control, candidate, score=policy.item_score)) is not None
    ]
    gate = metric_row(ITEMS, "1", pairs, alpha=policy.alpha, gate=True, margin=policy.margin)
    metrics = metric_rows(golden, comparable, control, candidate, preferences)
    corrections = _corrections(golden, comparable, control, candidate, preferences, people)
    gauges = [
        gauge(row, found, corrections.get(row.evaluator), alpha=policy.alpha)
        for row, found in ((gate, pairs), *metrics)
        if row.margin is not None
    ]
    planned = sum(pair.control.planned for pair in pairs)
    observed = sum(min(pair.control.observed, pair.candidate.observed) for pair in pairs)
    coverage = observed / planned if planned else 0.0
    if golden.decided_by_means:
        gauges = gauges[1:]
        coverage = min((one.coverage for one in gauges), default=0.0)
    reasons = _reasons(golden, control, candidate, changed)
    verdict, sentence, more = conclude(policy, gauges, coverage, summarise(golden, candidate), reasons)
    return Comparison(
        set_name=golden.name,
        set_hash=golden.hash,
        verdict=verdict,
        sentence=sentence,
        reasons=tuple(reasons),
        policy=golden.policy,
        planned=len(comparable if golden.decided_by_means else pairs),
        coverage=coverage,
        gate=gate,
        metrics=tuple(row for row, _ in metrics),
        changed=tuple(changed),
        only_control=tuple(only_control),
        only_candidate=tuple(only_candidate),
        newly_failing=tuple(changes(pairs, better=control, worse=candidate)),
        newly_passing=tuple(changes(pairs, better=candidate, worse=control)),
        more_items=more,
        preferences=preferences,
        corrections=tuple(corrections.values()),
        judges=judge_health(
            chain(control.verdicts(), candidate.verdicts(), preferences.verdicts(golden.evaluators))
        ),
    )


def _corrections(
    golden: GoldenSet,
    comparable: Sequence[GoldenItem],
    control: RunResults,
    candidate: RunResults,
    preferences: Preferences,
    people: People,
) -> dict[str, Correction]:
    """What people's labels make of each judge's check, by its key."""
    return {
        key: correction(
            cases_of(key, comparable, control, candidate, golden.policy, preferences),
            people,
            alpha=golden.policy.alpha,
        )
        for key in golden.judged
    }


def _reasons(
    golden: GoldenSet, control: RunResults, candidate: RunResults, changed: Sequence[str]
) -> list[Reason]:
    """What is worth knowing beside the decision."""
    reasons = []
    if changed:
        text = f"{len(changed):,} items changed since a run and are not compared: {_some(changed)}."
        reasons.append(Reason(code="changed_items", severity="warn", text=text))
    outcomes = summarise(golden, control).outcomes
    unanswered = sum(n for outcome, n in outcomes.items() if outcome not in ("complete", "length"))
    total = sum(outcomes.values())
    if total and unanswered / total > _OUTAGE:
        left = f"left {unanswered:,} of {total:,} questions without an answer"
        text = f"version {control.version} (control) {left}."
        reasons.append(Reason(code="control_failing", severity="warn", text=text))
    if control.repeats != candidate.repeats:
        text = f"the runs have {control.repeats} and {candidate.repeats} repeats; means are compared."
        reasons.append(Reason(code="repeats_differ", severity="note", text=text))
    return reasons


def _some(names: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


__all__ = ["Change", "Comparison", "MetricRow", "compare", "decide", "items_needed"]
