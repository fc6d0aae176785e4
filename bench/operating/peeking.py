"""How often does a whole verdict err that is asked again and again, while traffic drifts and units return?

`python -m bench.operating.peeking` streams requests of sticky units past `conclude`, look after look: how
often is a band ever left by the truth, a candidate that is as good called better or worse at a declared look,
and one that is worse by the margin rolled back, or called not worse?
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from experiments.evidence import (
    AnalysisSpec,
    ArmCount,
    Evidence,
    Goal,
    Overlap,
    Role,
)
from experiments.metrics import metric
from experiments.verdict import Verdict

from .told import Floats, Integers, bins_of, histogram, sums, verdicts

Random = np.random.Generator

ARMS: Final = ("control", "candidate")
MARGIN: Final = 0.1
#: The nominal rate of everything that is counted, but for better and worse: half of it each.
ALPHA: Final = 0.05


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests in the order in which they came: of which unit, the phase, and the value's logarithm."""

    unit: Integers
    phase: Integers
    log: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Users who come at any time and, from then on, `requests` times in the mean (1: each of them once).

    `between` and `within` are standard deviations of the logarithm, over users and over a user's requests;
    `level` what is added to all at a time from 0 to 1. `slow_users` of the users, and `slow` of all requests,
    take `times` as long, and what is slow varies as the rest does.
    """

    requests: float = 8.0
    between: float = 0.3
    within: float = 0.5
    level: Callable[[Floats], Floats] | None = None
    slow_users: float = 0.0
    slow: float = 0.0
    times: float = 8.0

    def stream(self, random: Random, units: int, phases: int) -> Stream:
        counts = random.geometric(1.0 / self.requests, units)
        unit = np.repeat(np.arange(units), counts)
        came = random.random(units)
        at = came[unit] + (1.0 - came[unit]) * random.random(unit.size)
        at[np.cumsum(counts) - counts] = came
        order = np.argsort(at)
        unit, at = unit[order], at[order]
        log = (
            6.0 + (self.between * random.normal(size=units))[unit] + self.within * random.normal(size=at.size)
        )
        slow = (random.random(units) < self.slow_users)[unit] | (random.random(at.size) < self.slow)
        log += math.log(self.times) * slow
        if self.level is not None:
            log += self.level(at)
        return Stream(unit, 1 + np.minimum(phases - 1, (phases * at).astype(np.int64)), log)


def _daily(at: Floats) -> Floats:
    """Four days, of which nights are three times as fast."""
    return 0.55 * np.sin(8.0 * math.pi * at)


def _rising(by: float) -> Callable[[Floats], Floats]:
    """A level that ends `by` times as high."""
    return lambda at: math.log(by) * at


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`shares` are the candidate's in phases of the same length. `metric` is of times: a quantile, the mean
    of their logarithms, or `latency_mean`."""

    name: str
    metric: str
    traffic: Traffic
    units: int = 1000
    shares: tuple[float, ...] = (0.5,)
    looks: int = 15


#: What is counted: the band ever without the truth, called better or worse at a declared look, the verdict
#: "roll back" and "ship".
EVENTS: Final = ("band", "better", "worse", "roll_back", "ship")


def rates(
    case: Case, role: Role, *, factor: float = 1.0, runs: int = 200, seed: int = 41
) -> dict[str, float]:
    """Shares of the runs in which each event ever came, of a candidate whose values are `factor` times
    control's."""
    random = np.random.default_rng(seed)
    counts = Counter(event for _ in range(runs) for event in _events(case, role, factor, random))
    return {event: counts[event] / runs for event in EVENTS}


def _spec(case: Case, role: Role) -> AnalysisSpec:
    return AnalysisSpec(
        experiment="e",
        mode="canary" if len(case.shares) > 1 else "ab",
        unit="user",
        goals=(Goal(metric=metric(case.metric), role=role, margin=MARGIN),),
        alpha=ALPHA,
        rollback_alpha=ALPHA,
        horizon=case.units,
        full_share=case.shares[-1] if len(case.shares) > 1 else 0.0,
    )


def _events(case: Case, role: Role, factor: float, random: Random) -> set[str]:
    """What one experiment ever said."""
    spec, stream = _spec(case, role), case.traffic.stream(random, case.units, len(case.shares))
    draws = random.random(case.units)
    arm = draws[stream.unit] < np.asarray(case.shares)[stream.phase - 1]
    log = stream.log + math.log(factor) * arm
    told = _Told(case, stream, arm, log)
    numbers = range(1, case.looks + 1)
    looks = (told.evidence(stream.unit.size * number // case.looks, number) for number in numbers)
    return {said for verdict in verdicts(spec, looks) for said in _said(verdict, factor)}


def _said(verdict: Verdict, factor: float) -> set[str]:
    (card,) = verdict.metrics
    said = {str(verdict.kind)} & {"ship", "roll_back"}
    if card.role == "success" and verdict.look.scheduled:
        said |= {card.state} & {"better", "worse"}
    if card.effect is not None and card.band is not None:
        truth = factor if card.effect.scale == "ratio" else (factor - 1.0) * (card.arms[0].value or 0.0)
        if not card.band.lower <= truth <= card.band.upper:
            said.add("band")
    return said


class _Told:
    """What the ledger would tell of a stream's first requests."""

    def __init__(self, case: Case, stream: Stream, arm: npt.NDArray[np.bool_], log: Floats) -> None:
        self._stream, self._arm = stream, arm.astype(np.int64)
        self._metric, self._shares = metric(case.metric), case.shares
        self._value = log if self._metric.on_log_scale else np.exp(log)
        self._bins = bins_of(log)
        self._units = int(stream.unit.max()) + 1
        self._phases = int(stream.phase.max())
        self._slot = 2 * (stream.phase - 1) + self._arm
        first = np.full(self._units, stream.unit.size)
        np.minimum.at(first, stream.unit, np.arange(stream.unit.size))
        self._first = np.zeros(stream.unit.size, np.bool_)
        self._first[first[first < stream.unit.size]] = True

    def evidence(self, requests: int, at: int) -> Evidence:
        """After so many requests, `at` seconds after the begin."""
        slot, unit, value = self._slot[:requests], self._stream.unit[:requests], self._value[:requests]
        slots = 2 * self._phases
        shape, at_unit = (slots, self._units), slot * self._units + unit
        m = np.bincount(at_unit, minlength=slots * self._units).astype(np.float64).reshape(shape)
        summed = np.bincount(at_unit, weights=value, minlength=slots * self._units)
        y = summed.reshape(shape).astype(np.float64)
        arrived = np.bincount(slot[self._first[:requests]], minlength=slots)
        known = [k for k in range(slots) if m[k].any()]
        return Evidence(
            experiment="e",
            as_of_ns=at * 10**9,
            started_ns=0,
            arms=tuple(self._count(k, int(arrived[k]), m[k]) for k in self._seen(slot)),
            sums=tuple(sums(self._metric.name, ARMS[k % 2], y[k], m[k], k // 2 + 1) for k in known),
            overlaps=tuple(self._overlap(i, j, y, m) for i in known for j in known if i // 2 < j // 2),
            histograms=tuple(
                histogram(self._metric.name, ARMS[k % 2], self._bins[:requests][slot == k], k // 2 + 1)
                for k in known
            )
            if self._metric.kind == "quantile"
            else (),
            recorded=requests,
        )

    def _seen(self, slot: Integers) -> list[int]:
        return [2 * phase + arm for phase in range(int(slot.max()) // 2 + 1) for arm in (0, 1)]

    def _count(self, k: int, units: int, m: Floats) -> ArmCount:
        share = self._shares[k // 2]
        return ArmCount(
            phase=k // 2 + 1,
            arm=ARMS[k % 2],
            expected_share=share if k % 2 else 1.0 - share,
            units=units,
            exchanges=int(m.sum()),
        )

    def _overlap(self, i: int, j: int, y: Floats, m: Floats) -> Overlap:
        return Overlap(
            metric=self._metric.name,
            phase_a=i // 2 + 1,
            arm_a=ARMS[i % 2],
            phase_b=j // 2 + 1,
            arm_b=ARMS[j % 2],
            yy=float(y[i] @ y[j]),
            ym=float(y[i] @ m[j]),
            my=float(m[i] @ y[j]),
            mm=float(m[i] @ m[j]),
        )


_RAMP: Final = (0.01, 0.05, 0.2, 0.5)
ONCE: Final = Traffic(requests=1.0, between=0.0, within=0.6)
QUANTILES: Final = (
    Case(name="independent requests", metric="latency.p95", traffic=ONCE, units=4000),
    Case(name="independent requests", metric="latency.p50", traffic=ONCE, units=2000),
    Case(name="independent requests, 10 %", metric="latency.p95", traffic=ONCE, units=4000, shares=(0.1,)),
    Case(name="users with eight requests", metric="latency.p95", traffic=Traffic()),
    Case(name="the same, a daily cycle", metric="latency.p95", traffic=Traffic(level=_daily)),
    Case(name="the same, a daily cycle", metric="ttft.p50", traffic=Traffic(level=_daily)),
    Case(
        name="the same, four times as slow at the end",
        metric="latency.p95",
        traffic=Traffic(level=_rising(4.0)),
    ),
    Case(
        name="the same on a ramp",
        metric="latency.p95",
        traffic=Traffic(level=_rising(4.0)),
        units=3000,
        shares=_RAMP,
    ),
    Case(name="5 % of the users always slow", metric="latency.p95", traffic=Traffic(slow_users=0.05)),
    Case(
        name="1 % of the users always slow",
        metric="latency.p99",
        traffic=Traffic(slow_users=0.01),
        units=2000,
    ),
    Case(
        name="5 % of the requests slow, alike",
        metric="latency.p95",
        traffic=Traffic(requests=1.0, between=0.0, within=0.2, slow=0.05),
        units=4000,
    ),
    Case(
        name="half of the requests slow, alike",
        metric="latency.p50",
        traffic=Traffic(requests=1.0, between=0.0, within=0.2, slow=0.5),
        units=2000,
    ),
)
MEANS: Final = (
    Case(name="users with eight requests", metric="latency_mean", traffic=Traffic()),
    Case(name="ramp, level the same", metric="latency_mean", traffic=Traffic(), units=3000, shares=_RAMP),
    Case(
        name="ramp, ten times as high at the end",
        metric="latency_mean",
        traffic=Traffic(level=_rising(10.0)),
        units=3000,
        shares=_RAMP,
    ),
    Case(
        name="ramp, a tenth at the end",
        metric="latency_mean",
        traffic=Traffic(level=_rising(0.1)),
        units=3000,
        shares=_RAMP,
    ),
    Case(
        name="ramp, a daily cycle, heavy tail",
        metric="latency_mean",
        traffic=Traffic(level=_daily, between=0.8, within=0.8),
        units=3000,
        shares=_RAMP,
    ),
    Case(
        name="ramp, ten times as high at the end",
        metric="latency",
        traffic=Traffic(level=_rising(10.0)),
        units=3000,
        shares=_RAMP,
    ),
)


def main(chosen: Sequence[str] = ()) -> None:
    """Print the tables."""
    print("| metric | traffic | band | better | worse | 10 % worse: rolled back | called not worse |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in (*QUANTILES, *MEANS):
        if chosen and not any(word in f"{case.metric} {case.name}" for word in chosen):
            continue
        same, edge = rates(case, "success"), rates(case, "guardrail", factor=1.0 + MARGIN)
        cells = (same["band"], same["better"], same["worse"], edge["roll_back"], edge["ship"])
        told = " | ".join(f"{cell:.3f}" for cell in cells)
        print(f"| `{case.metric}` | {case.units:,}, {case.name} | {told} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
