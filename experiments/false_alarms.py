"""How often does each rule raise a false alarm on this operator's own traffic? An A/A experiment, many times.

Units of the ledger are drawn with replacement and given arms by the coin; nothing differs but luck. They come
in random order, and the whole verdict is asked again and again on the way, as the controller asks it. Pure: a
seed in, counts out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .evidence import AnalysisSpec, ArmCount, Evidence, Look, MetricSums
from .history import History
from .looks import look_taken
from .statistics.estimate import Interval
from .statistics.proportion import wilson
from .verdict import Verdict, conclude

Floats = npt.NDArray[np.float64]

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
    """False-alarm rates of `runs` A/A experiments of `spec.horizon` units, each looked at `looks` times."""
    spec = _measurable(spec, history)
    random = np.random.default_rng(seed)
    columns = {name: _columns(history, name) for name in _names(spec)}
    alarms: Counter[tuple[str, str | None]] = Counter()
    for run in range(runs):
        alarms.update(_one(spec, columns, random, looks, share))
        progress(run + 1)
    return _rates(spec, alarms, runs)


def _names(spec: AnalysisSpec) -> list[str]:
    return list(dict.fromkeys(goal.metric.name for goal in spec.goals))


def _measurable(spec: AnalysisSpec, history: History) -> AnalysisSpec:
    """Without the metrics that a sample of totals does not have, and without a clock and a golden set."""
    goals = tuple(
        goal for goal in spec.goals if goal.metric.name in history.totals and goal.metric.kind != "quantile"
    )
    return replace(
        spec, goals=goals, mode="ab", min_duration_s=0.0, golden_required=False, full_share=0.0, first_phase=1
    )


def _columns(history: History, name: str) -> tuple[Floats, Floats, Floats]:
    totals = history.totals[name]
    return np.asarray(totals.y), np.asarray(totals.m), np.asarray(totals.failed, np.float64)


def _one(
    spec: AnalysisSpec,
    columns: Mapping[str, tuple[Floats, Floats, Floats]],
    random: np.random.Generator,
    looks: int,
    share: float,
) -> set[tuple[str, str | None]]:
    """What was said at any look of one A/A experiment."""
    size = len(next(iter(columns.values()))[0])
    chosen = random.integers(0, size, spec.horizon)
    arms = random.random(spec.horizon) < share
    sums = {name: _running(found, chosen, arms) for name, found in columns.items()}
    said: set[tuple[str, str | None]] = set()
    past: list[Look] = []
    for number in range(1, looks + 1):
        units = spec.horizon * number // looks
        evidence = _evidence(spec, sums, arms, units, share, number)
        verdict = conclude(spec, evidence, past_looks=tuple(past))
        taken = look_taken(verdict.document())
        if taken is not None:
            past.append(taken)
        said |= _said(verdict, last=number == looks)
    return said


def _running(
    found: tuple[Floats, Floats, Floats], chosen: npt.NDArray[np.int64], arms: npt.NDArray[np.bool_]
) -> dict[bool, Floats]:
    """Cumulative sums over units as they come, for each arm: units, y, m, yy, mm, ym, failing."""
    y, m, failed = (column[chosen] for column in found)
    seen = (m > 0).astype(np.float64)
    rows = np.stack([seen, y, m, y * y, m * m, y * m, failed])
    return {arm: np.cumsum(rows * (arms == arm), axis=1) for arm in (False, True)}


def _evidence(
    spec: AnalysisSpec,
    sums: Mapping[str, dict[bool, Floats]],
    arms: npt.NDArray[np.bool_],
    units: int,
    share: float,
    at: int,
) -> Evidence:
    names = {False: spec.control, True: spec.candidate}
    counts = {True: int(arms[:units].sum())}
    counts[False] = units - counts[True]
    return Evidence(
        experiment=spec.experiment,
        as_of_ns=at * 10**9,
        started_ns=0,
        arms=tuple(
            ArmCount(
                phase=1,
                arm=names[arm],
                expected_share=share if arm else 1.0 - share,
                units=counts[arm],
                exchanges=counts[arm],
            )
            for arm in (False, True)
        ),
        sums=tuple(
            _sums(name, names[arm], running[arm][:, units - 1])
            for name, running in sums.items()
            for arm in (False, True)
        ),
        recorded=units,
    )


def _sums(metric: str, arm: str, at: Floats) -> MetricSums:
    units, y, m, yy, mm, ym, failing = (float(value) for value in at)
    return MetricSums(
        metric=metric,
        phase=1,
        arm=arm,
        units=round(units),
        exchanges=round(m),
        missing=0,
        y=y,
        m=m,
        yy=yy,
        mm=mm,
        ym=ym,
        failing_units=round(failing),
    )


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
