"""How often do verdicts err where users have a past, feedback comes late, or several metrics are asked for?

`python -m bench.operating.several [past|late|metrics]` prints the tables. Each experiment is judged by the
verdict's own code: of the past by its comparison at one look, otherwise by `conclude` at every look.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from experiments.evidence import AnalysisSpec, ArmCount, Evidence, Goal, MetricSums, PastSums, Role
from experiments.metrics import closed, metric
from experiments.verdict.comparison import compare

from .told import Flags, Floats, arms_of, called, sums, verdicts

Random = np.random.Generator
_MARGIN: Final = 0.1


def _evidence(
    arm: Flags, found: Sequence[MetricSums], past: Sequence[PastSums] = (), at: int = 0
) -> Evidence:
    counts = [(name, int(which.sum())) for name, which in arms_of(arm)]
    arms = [
        ArmCount(phase=1, arm=name, expected_share=0.5, units=n, exchanges=n, present=n) for name, n in counts
    ]
    return Evidence(
        experiment="e", as_of_ns=at, started_ns=0, arms=tuple(arms), sums=tuple(found), past=tuple(past)
    )


# -- a past -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Users with several requests each, now and before, whose own level explains 64 % of the variance of the
    logarithm. `without`: who was not there before (half by chance, or those with high levels); `large`: when
    one has half of the requests, `before` or in `both`; `more`: how often the candidate's users ask."""

    name: str
    units: int = 400
    share: float = 0.5
    spread: float = 0.5
    without: str = ""
    large: str = ""
    more: float = 1.0


PASTS: Final = (
    Past(name="400 users, all with a past"),
    Past(name="half without, by chance", without="chance"),
    Past(name="those with high levels without", without="level"),
    Past(name="40 users", units=40),
    Past(name="heavy tails, now and before", spread=1.5),
    Past(name="one has half of the requests before", units=200, large="before"),
    Past(name="one has half of them now and before", units=200, large="both"),
    Past(name="5,000 users, 1 % on the candidate", units=5000, share=0.01),
    Past(name="the candidate's ask twice as often", more=2.0),
)


def _sizes(random: Random, n: int) -> Floats:
    return np.asarray(np.ceil(np.exp(1.0 + 0.5 * random.normal(size=n))))


def _with_past(case: Past, random: Random, factor: float) -> Evidence:
    n = case.units
    arm, level = random.random(n) < case.share, random.normal(size=n)
    m, b = _sizes(random, n), _sizes(random, n)
    m[arm] = np.ceil(m[arm] * case.more)
    now, before = (np.exp(case.spread * (0.8 * level + 0.6 * random.normal(size=n))) for _ in range(2))
    if case.large in ("before", "both"):
        b[0] = b.sum()
    if case.large == "both":
        m[0] = m.sum()
    gone = {
        "": np.zeros(n, np.bool_),
        "chance": random.random(n) < 0.5,
        "level": level + 0.5 * random.normal(size=n) > 0.0,
    }[case.without]
    b[gone] = 0.0
    y, a = m * now * np.where(arm, factor, 1.0), b * before
    past = []
    for name, which in arms_of(arm):
        of = {"a": a[which], "b": b[which], "y": y[which], "m": m[which]}
        terms = {p + q: float(of[p] @ of[q]) for p, q in ("aa", "ab", "bb", "ya", "yb", "ma", "mb")}
        ends = {"a": float(of["a"].sum()), "b": float(of["b"].sum())}
        past.append(PastSums(metric="cost", phase=1, arm=name, **ends, **terms))
    return _evidence(arm, [sums("cost", name, y[which], m[which]) for name, which in arms_of(arm)], past)


def of_past(case: Past, *, factor: float = 1.0, runs: int = 300, seed: int = 41) -> dict[str, float]:
    """Shares of the runs: called `better` and `worse` at 2.5 % each, `safe` (not worse by the margin) at 5 %,
    and the interval's `width` as a part of what it is without the past (median)."""
    random = np.random.default_rng(seed)
    goal = Goal(metric=metric("cost"), role="guardrail", margin=_MARGIN, adjusted=True)
    spec = AnalysisSpec(experiment="e", mode="ab", unit="user", goals=(goal,))
    said: Counter[str] = Counter()
    widths = []
    for run in range(runs):
        evidence = _with_past(case, random, factor)
        found = compare(spec, evidence, goal, harm_alpha=0.01)
        said.update(called(found))
        if run < 100:
            plain = compare(spec, evidence, replace(goal, adjusted=False), harm_alpha=0.01)
            if found.effect and plain.effect:
                ends, others = found.effect, plain.effect
                widths.append((ends.upper - ends.lower) / (others.upper - others.lower))
    return {key: count / runs for key, count in said.items()} | {"width": float(np.median(widths))}


# -- looks --------------------------------------------------------------------------------------------------


def _looked_at(spec: AnalysisSpec, looks: Sequence[Evidence]) -> set[str]:
    """What was said at any of the looks of one experiment, which goes on whatever is said."""
    said: set[str] = set()
    for verdict in verdicts(spec, looks):
        said.add(verdict.kind)
        for card in verdict.metrics:
            if card.role == "success" and card.z is not None and card.z_bound is not None:
                said |= {word for word, z in (("better", card.z), ("worse", -card.z)) if z >= card.z_bound}
    return said


def _rates(said: Sequence[set[str]]) -> dict[str, float]:
    counts = Counter(word for each in said for word in each)
    return {word: counts[word] / len(said) for word in ("better", "worse", "ship", "roll_back", "invalid")}


def _halves(random: Random, n: int) -> Flags:
    """Arms of which each pair of units has one of either: all looks weigh the same, and their bounds are
    reckoned once."""
    first = random.random(n // 2) < 0.5
    return np.stack([first, ~first], axis=1).ravel()


# -- late feedback ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """How long bad and good words take in the mean, as parts of the experiment, on control and candidate:
    the time that they take is exponential. Four users in ten say something, one in five of those a bad word.
    """

    name: str
    control: tuple[float, float]
    candidate: tuple[float, float]


_SLOW: Final = (0.03, 0.12)
_QUICK: Final = (0.015, 0.06)
LATES: Final = (
    Late(name="a third of the time, both alike", control=(0.3, 0.3), candidate=(0.3, 0.3)),
    Late(name="bad words sooner, the candidate's in half the time", control=_SLOW, candidate=_QUICK),
    Late(name="bad words sooner, the candidate's in twice the time", control=_QUICK, candidate=_SLOW),
)


def of_feedback(
    case: Late,
    *,
    window: float | None = None,
    gain: float = 0.0,
    units: int = 20_000,
    looks: int = 3,
    runs: int = 200,
    seed: int = 42,
) -> dict[str, float]:
    """What is said at any look of the success metric `feedback:ok`, nominal 2.5 % to either side; with a
    `window` (a part of the experiment) of `feedback:ok@...`. `gain` is how much fewer bad words are said."""
    random = np.random.default_rng(seed)
    days = 10
    name = "feedback:ok" if window is None else f"feedback:ok@{round(24 * days * window)}h"
    goal = Goal(metric=metric(name), role="success", mde=0.05)
    spec = AnalysisSpec(
        experiment="e", mode="ab", unit="user", goals=(goal,), horizon=units, looks=looks, max_duration_s=1e9
    )

    def once() -> set[str]:
        arm = _halves(random, units)
        came = np.arange(1, units + 1) / units
        good = random.random(units) < 0.8 + gain * arm
        mean = np.where(arm, np.where(good, *case.candidate[::-1]), np.where(good, *case.control[::-1]))
        after = np.where(random.random(units) < 0.4, mean * random.exponential(size=units), np.inf)

        def look(now: float) -> Evidence:
            told = (came + after <= now) & (after <= (window or np.inf))
            counted = [(goal.metric.name, told)]
            if window is not None:
                counted.append((closed(goal.metric).name, told & (came + window <= now)))
            found = [
                sums(name, side, good[which & heard].astype(np.float64), np.ones(int((which & heard).sum())))
                for name, heard in counted
                for side, which in arms_of(arm)
            ]
            return _evidence(arm[came <= now], found, at=round(now * days * 86_400e9))

        return _looked_at(spec, [look(number / looks) for number in range(1, looks + 1)])

    return _rates([once() for _ in range(runs)])


# -- several metrics ----------------------------------------------------------------------------------------


def of_metrics(
    *,
    success: int,
    guardrails: int,
    gain: float = 0.0,
    harm: float = 0.0,
    alike: float = 0.5,
    units: int = 2000,
    looks: int = 5,
    runs: int = 150,
    seed: int = 43,
) -> dict[str, float]:
    """What is said of several metrics with correlation `alike`, at any look: the first success
    metric is better by `gain` and the first guardrail worse by `harm`, relative; all others are the same."""
    random = np.random.default_rng(seed)
    asked: list[tuple[Role, int]] = [("success", success), ("guardrail", guardrails)]
    roles = [role for role, count in asked for _ in range(count)]
    goals = tuple(
        Goal(metric=metric(f"feedback:m{i}"), role=role, margin=_MARGIN if role == "guardrail" else None)
        for i, role in enumerate(roles)
    )
    spec = AnalysisSpec(
        experiment="e", mode="ab", unit="user", goals=goals, horizon=units, looks=looks, max_duration_s=1e9
    )
    change = (
        [gain] * (success > 0) + [0.0] * (success - 1) + [-harm] * (guardrails > 0) + [0.0] * (guardrails - 1)
    )

    def once() -> set[str]:
        arm = _halves(random, units)
        own, common = random.normal(size=(len(goals), units)), random.normal(size=units)
        values = 3.0 + 1.5 * (math.sqrt(alike) * common + math.sqrt(1.0 - alike) * own)
        values[:, arm] += 3.0 * np.asarray(change)[:, None]

        def look(count: int) -> Evidence:
            here = arm[:count]
            found = [
                sums(goal.metric.name, side, row[:count][which], np.ones(int(which.sum())))
                for goal, row in zip(goals, values, strict=True)
                for side, which in arms_of(here)
            ]
            return _evidence(here, found, at=count)

        return _looked_at(spec, [look(units * number // looks) for number in range(1, looks + 1)])

    return _rates([once() for _ in range(runs)])


# -- tables -------------------------------------------------------------------------------------------------


def _row(*cells: str | float) -> None:
    print(f"| {' | '.join(c if isinstance(c, str) else f'{c:.3f}' for c in cells)} |", flush=True)


def past_table() -> None:
    """Print what becomes of metrics that are adjusted for the past."""
    _row("users", "as good: called better", "called worse", "worse by 10 %: called not worse", "width")
    _row("---", "---", "---", "---", "---")
    for case in PASTS:
        same, other = of_past(case), of_past(case, factor=1.0 + _MARGIN)
        _row(case.name, same["better"], same["worse"], other["safe"], same["width"])


def late_table() -> None:
    """Print what becomes of feedback that comes late."""
    _row(
        "words",
        "as good: called better",
        "called worse",
        "with a window: better",
        "worse",
        "better by 4 points: found",
    )
    _row("---", "---", "---", "---", "---", "---")
    for case in LATES:
        plain, waited = of_feedback(case), of_feedback(case, window=0.5)
        found = of_feedback(case, window=0.5, gain=0.04)
        _row(case.name, plain["better"], plain["worse"], waited["better"], waited["worse"], found["better"])


def metrics_table() -> None:
    """Print what becomes of several metrics."""
    _row(
        "three success metrics, four guardrails",
        "called better",
        "called worse",
        "shipped",
        "rolled back",
    )
    _row("---", "---", "---", "---", "---")
    for what, gain, harm in (
        ("all the same", 0.0, 0.0),
        ("one success metric is better by 6 %", 0.06, 0.0),
        ("one is better by 16 %, a guardrail worse by its margin", 0.16, _MARGIN),
    ):
        found = of_metrics(success=3, guardrails=4, gain=gain, harm=harm)
        _row(what, *(found[word] for word in ("better", "worse", "ship", "roll_back")))


def main() -> None:
    """Print the tables that are asked for, or all."""
    tables = {"past": past_table, "late": late_table, "metrics": metrics_table}
    for name in sys.argv[1:] or tables:
        tables[name]()


if __name__ == "__main__":
    main()
