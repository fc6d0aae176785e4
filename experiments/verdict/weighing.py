"""What is known of an experiment, put on scales once: each goal compared, each check of validity, the look.

The shapes of it and the words for it. What follows is `shipping`'s and `verdict`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..evidence import AnalysisSpec, Evidence, Goal, Look, Role
from ..statistics.estimate import log_two_sided, quantile
from ..statistics.multiplicity import benjamini_hochberg
from .comparison import compare
from .looks import LookState, bounds_now, look_state
from .scorecard import Comparison, MetricResult, card
from .turns import TurnResult, by_turn
from .validity import SampleRatio, sample_ratio_of

Severity = Literal["block", "warn", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why, in a code for scripts and a sentence for people."""

    code: str
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that the rule weighs, computed once."""

    spec: AnalysisSpec
    evidence: Evidence
    found: tuple[tuple[Goal, Comparison], ...]
    cards: tuple[MetricResult, ...]
    srm: SampleRatio
    look: LookState
    #: What z must pass to be within a margin at this look, by metric; infinite between looks.
    margin_bounds: Mapping[str, float]
    #: The success metrics that have crossed their bound at this look, by name.
    crossed: frozenset[str]
    turns: tuple[TurnResult, ...]

    def of(self, role: Role) -> list[tuple[Goal, Comparison]]:
        return [(goal, comparison) for goal, comparison in self.found if goal.role == role]

    @property
    def elapsed_s(self) -> float:
        return max(0.0, (self.evidence.as_of_ns - self.evidence.started_ns) / 1e9)


def weigh(spec: AnalysisSpec, evidence: Evidence, past_looks: tuple[Look, ...]) -> Case:
    """Compare everything; nothing is decided here."""
    guardrails = max(1, len(spec.named("guardrail")))
    harm_alpha = spec.rollback_alpha / guardrails
    found = tuple((goal, compare(spec, evidence, goal, harm_alpha=harm_alpha)) for goal in spec.goals)
    look, past = look_state(spec, evidence, past_looks)
    margin_bounds = {
        goal.metric.name: _bound(spec, look, past, goal, comparison, alpha=spec.alpha, sides=1)
        for goal, comparison in found
    }
    bounds = _success_bounds(spec, found, look, past)
    adjusted = _adjusted(found)
    # Between looks nothing is called better: the fixed-look level is for the eye, and exploratory.
    eye = quantile(1.0 - spec.alpha / 2.0)
    instruments = {one.metric: one.version for one in evidence.instruments if one.counted}
    cards = []
    for goal, comparison in found:
        name, called, bound = goal.metric.name, eye, math.inf
        if goal.role == "success":
            called = bound = bounds[name]
        elif goal.role == "guardrail":
            bound = margin_bounds[name]
        elif adjusted.get(name, 1.0) > spec.alpha:
            called = math.inf
        cards.append(
            card(
                goal,
                comparison,
                unit=spec.unit,
                log_threshold=-math.log(harm_alpha) if goal.role == "guardrail" else None,
                z_called=called,
                z_bound=bound,
                instrument=instruments.get(name),
                adjusted_p=adjusted.get(name) if goal.role == "exploratory" else None,
            )
        )
    return Case(
        spec=spec,
        evidence=evidence,
        found=found,
        cards=tuple(cards),
        srm=sample_ratio_of(spec, evidence),
        look=look,
        margin_bounds=margin_bounds,
        crossed=frozenset(
            goal.metric.name
            for goal, comparison in found
            if goal.role == "success" and _strength(goal, comparison) >= bounds[goal.metric.name]
        ),
        turns=by_turn(spec, evidence),
    )


def _strength(goal: Goal, comparison: Comparison) -> float:
    """The z by which a success metric is a success; below all bounds if it is not known."""
    found = comparison.strength(goal)
    return -math.inf if found is None else found


def _bound(
    spec: AnalysisSpec,
    look: LookState,
    past: tuple[Look, ...],
    goal: Goal,
    comparison: Comparison,
    *,
    alpha: float,
    sides: int,
) -> float:
    known = comparison.information
    return bounds_now(spec, look, past, alpha=alpha, sides=sides, metric=goal.metric.name, information=known)


def _success_bounds(
    spec: AnalysisSpec,
    found: Sequence[tuple[Goal, Comparison]],
    look: LookState,
    past: tuple[Look, ...],
) -> dict[str, float]:
    """What z must pass at this look, by Holm's steps: alpha / S for the surest success metric, and once that
    has passed alpha / (S - 1) for the next (Maurer and Bretz 2013: the bounds of a looks' plan may be stepped
    up too). Shipping needs one, so that the steps only say which others are better as well."""
    goals = sorted(
        ((goal, comparison) for goal, comparison in found if goal.role == "success"),
        key=lambda one: -_strength(*one),
    )
    bounds: dict[str, float] = {}
    left = len(goals)
    for goal, comparison in goals:
        sides = 1 if goal.equivalent else 2
        bound = _bound(spec, look, past, goal, comparison, alpha=spec.alpha / left, sides=sides)
        bounds[goal.metric.name] = bound
        if _strength(goal, comparison) >= bound:
            left = max(1, left - 1)
    return bounds


def _adjusted(found: Sequence[tuple[Goal, Comparison]]) -> Mapping[str, float]:
    """Exploratory metrics' two-sided p at this look, adjusted by Benjamini and Hochberg (1995)."""
    looked = {
        goal.metric.name: math.exp(log_two_sided(comparison.z_better))
        for goal, comparison in found
        if goal.role == "exploratory" and comparison.z_better is not None
    }
    return dict(zip(looked, benjamini_hochberg(tuple(looked.values())), strict=True))


def described(case: Case, goal: Goal) -> str:
    """What a goal's card says."""
    return next(
        result.text for (other, _), result in zip(case.found, case.cards, strict=True) if other is goal
    )


def version_names(spec: AnalysisSpec) -> tuple[str, str]:
    """Control and candidate for people: `v3`."""
    control = "control" if spec.control_version is None else f"v{spec.control_version}"
    candidate = "" if spec.candidate_version is None else f"v{spec.candidate_version}"
    return control, candidate or "(unversioned)"


def plural(unit: str, n: int) -> str:
    """The unit's word for n of them."""
    word = unit if unit in ("user", "session", "tenant", "request") else "unit"
    return word if n == 1 else f"{word}s"
