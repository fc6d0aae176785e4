"""How often does each rule raise a false alarm on this operator's own traffic? An A/A experiment, many times.

Units of the ledger are drawn with replacement and given arms by the coin (`drawn`); nothing differs but luck.
The whole verdict is asked again and again on the way, as the controller asks it. Pure: a seed in, counts out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from .drawn import Units, drawn
from .evidence import AnalysisSpec, Look
from .history import History
from .statistics.estimate import Interval
from .statistics.proportion import wilson
from .verdict import Verdict, conclude
from .verdict.looks import look_taken

#: What is counted, and how often it may happen by the spec.
RULES: Final = {
    "invalid": "the verdict was invalid at any look (nominal 1 % for each check)",
    "roll_back": "the verdict was roll back at any look (nominal: rollback_alpha)",
    "success": "a success metric was called better or worse at a scheduled look (nominal: alpha)",
    "interval": "the last look's intervals exclude no difference, per metric (nominal: alpha)",
    "band": "a band excluded no difference at any look, per metric (nominal: alpha)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often a rule spoke of `runs`, and the interval of that rate."""

    rule: str
    metric: str | None
    alarms: int
    runs: int
    nominal: float

    @property
    def interval(self) -> Interval:
        """Wilson's, 95 %."""
        return wilson(self.alarms, self.runs)

    @property
    def too_often(self) -> bool:
        """Whether the nominal rate lies below the whole interval."""
        return self.interval.lower > self.nominal


def rehearse(
    spec: AnalysisSpec,
    history: History,
    *,
    runs: int,
    looks: int,
    share: float,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Rate]:
    """False-alarm rates of `runs` A/A experiments of `spec.horizon` units, each looked at `looks` times, but
    at most once a unit.

    Of those metrics that the sample has; none, if it has none of them.
    """
    spec = _measurable(spec, history)
    if not spec.goals:
        return []
    random = np.random.default_rng(seed)
    units = Units(history, spec.goals)
    alarms: Counter[tuple[str, str | None]] = Counter()
    looks = min(looks, spec.horizon)
    for run in range(runs):
        alarms.update(_one(spec, units, random, looks, share))
        progress(run + 1)
    return _rates(spec, alarms, runs)


def unheard(spec: AnalysisSpec, history: History) -> list[str]:
    """The metrics that no unit of the sample has: nothing can be said of them."""
    return [name for name in _names(spec) if name not in _names(_measurable(spec, history))]


def _names(spec: AnalysisSpec) -> list[str]:
    return list(dict.fromkeys(goal.metric.name for goal in spec.goals))


def _measurable(spec: AnalysisSpec, history: History) -> AnalysisSpec:
    """Without the metrics that no unit has, and without a clock, a golden set and a recording."""
    return replace(
        spec,
        goals=tuple(goal for goal in spec.goals if history.of(goal.metric) is not None),
        mode="shadow" if spec.mode == "shadow" else "ab",
        min_duration_s=0.0,
        golden_required=False,
        full_share=0.0,
        recorded=False,
        first_phase=1,
    )


def _one(
    spec: AnalysisSpec, units: Units, random: np.random.Generator, looks: int, share: float
) -> set[tuple[str, str | None]]:
    """What was said at any look of one A/A experiment."""
    experiment = drawn(spec, units, random, share=share)
    said: set[tuple[str, str | None]] = set()
    past: list[Look] = []
    for number in range(1, looks + 1):
        evidence = experiment.evidence(spec.horizon * number // looks, number)
        verdict = conclude(spec, evidence, past_looks=tuple(past))
        taken = look_taken(verdict.document())
        if taken is not None:
            past.append(taken)
        said |= _said(verdict, last=number == looks)
    return said


def _said(verdict: Verdict, *, last: bool) -> set[tuple[str, str | None]]:
    said: set[tuple[str, str | None]] = set()
    if verdict.kind in ("invalid", "roll_back"):
        said.add((verdict.kind, None))
    for result in verdict.metrics:
        if result.role == "success" and verdict.look.scheduled and result.state in ("better", "worse"):
            said.add(("success", None))
        if result.effect is None:
            continue
        null = result.effect.null
        if last and not result.effect.lower <= null <= result.effect.upper:
            said.add(("interval", result.metric))
        if result.band is not None and not result.band.lower <= null <= result.band.upper:
            said.add(("band", result.metric))
    return said


def _rates(spec: AnalysisSpec, alarms: Mapping[tuple[str, str | None], int], runs: int) -> list[Rate]:
    def rate(rule: str, metric: str | None, nominal: float) -> Rate:
        return Rate(
            rule=rule, metric=metric, alarms=alarms.get((rule, metric), 0), runs=runs, nominal=nominal
        )

    checks = 1 + len(_names(spec))  # the sample ratio, and what is missing of each metric
    whole: list[tuple[str, Any]] = [("invalid", 0.01 * checks), ("roll_back", spec.rollback_alpha)]
    if spec.named("success"):
        whole.append(("success", spec.alpha))
    return [
        *(rate(rule, None, nominal) for rule, nominal in whole),
        *(rate(rule, name, spec.alpha) for rule in ("interval", "band") for name in _names(spec)),
    ]
