"""Metrics less what their units' past explains: the same sums as in plain Python, less noise, no bias."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments.errors import DocumentError
from experiments.evidence import AnalysisSpec, ArmCount, Evidence, MetricSums, PastSums
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.store import Store
from experiments.spec import analysis_of, read_spec
from experiments.verdict import conclude
from experiments.verdict.comparison import compare

from .experiment import END_NS, collect, declare, spec
from .samples import START_NS, chat_answer, record

DAY_NS = 86_400 * 10**9


def adjusted(*names: str) -> AnalysisSpec:
    found = spec("canary", *names)
    return replace(found, goals=tuple(replace(goal, adjusted=True) for goal in found.goals))


def before(count: int, chance: random.Random) -> list[ExchangeRecord]:
    """Production's traffic of the weeks before; some of it too long ago, failed or of nobody."""
    return [
        record(
            n,
            started_ns=START_NS - chance.randrange(1, 20) * DAY_NS,
            unit=chance.choice([None, *(f"u{i}" for i in range(25))]),
            outcome=chance.choice(["complete", "complete", "complete", "timeout"]),
            duration_us=chance.randrange(1000, 500_000),
            response=chat_answer("Here.", completion_tokens=chance.randrange(1, 300)),
        )
        for n in range(count)
    ]


def since(count: int, chance: random.Random, first: int) -> list[ExchangeRecord]:
    """Two phases of a ramp."""
    return [
        record(
            first + n,
            started_ns=START_NS + n,
            experiment="e",
            phase=1 + 2 * n // count,
            unit=f"u{(unit := chance.randrange(40))}",
            assigned_arm="candidate" if unit % 10 < (2, 5)[2 * n // count] else "control",
            outcome=chance.choice(["complete"] * 4 + ["timeout"]),
            duration_us=chance.randrange(1000, 500_000),
            response=chat_answer("Here.", completion_tokens=chance.randrange(1, 300)),
        )
        for n in range(count)
    ]


def ledger(store: Store, seed: int) -> tuple[list[ExchangeRecord], list[ExchangeRecord]]:
    chance = random.Random(seed)
    declare(store, "canary", {1: 200_000, 2: 500_000})
    old, new = before(120, chance), since(200, chance, 1000)
    collect(store, *old)
    collect(store, *new[:90])
    return old, new


def totals(rows: list[ExchangeRecord]) -> dict[Any, list[float]]:
    found: dict[Any, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        if row.outcome == "complete" and row.unit:
            found[row.phase, row.assigned_arm, row.unit][0] += math.log(row.duration_us / 1000)
            found[row.phase, row.assigned_arm, row.unit][1] += 1
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_the_past_is_that_of_the_same_units_before_the_experiment(store: Store, seed: int) -> None:
    old, new = ledger(store, seed)
    collect(store, *new[90:])
    evidence = gather(store, adjusted("latency"), as_of_ns=END_NS)
    known = [row for row in old if row.started_ns >= START_NS - 14 * DAY_NS]
    past = {
        unit: sums
        for (_, _, unit), sums in totals([replace(r, phase=0, assigned_arm=None) for r in known]).items()
    }
    now = totals(new)
    assert len(evidence.past) == 4
    for sums in evidence.past:
        mine = [
            (y, m, *past.get(unit, [0.0, 0.0]))
            for (phase, arm, unit), (y, m) in now.items()
            if (phase, arm) == (sums.phase, sums.arm)
        ]
        of = {"y": 0, "m": 1, "a": 2, "b": 3}
        for term in ("a", "b", "aa", "ab", "bb", "ya", "yb", "ma", "mb"):
            expected = sum(math.prod(row[of[factor]] for factor in term) for row in mine)
            assert getattr(sums, term) == pytest.approx(expected, rel=1e-5), term
    assert evidence.past_overlaps
    for both in evidence.past_overlaps:
        a = {u: v for (p, arm, u), v in now.items() if (p, arm) == (both.phase_a, both.arm_a)}
        b = {u: v for (p, arm, u), v in now.items() if (p, arm) == (both.phase_b, both.arm_b)}
        shared = [(a[u], b[u], past.get(u, [0.0, 0.0])) for u in a.keys() & b.keys()]
        assert both.ya == pytest.approx(sum(one[0] * old[0] for one, _, old in shared), rel=1e-5)
        assert both.bm == pytest.approx(sum(old[1] * other[1] for _, other, old in shared), rel=1e-5)
        assert both.aa == pytest.approx(sum(old[0] * old[0] for *_, old in shared), rel=1e-5)


def test_updated_and_fresh_evidence_are_equal_and_what_comes_late_changes_nothing_before(
    store: Store,
) -> None:
    declared = adjusted("latency", "tokens_per_second")
    _old, new = ledger(store, 3)
    rollups = Rollups(store)
    gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    collect(store, *new[90:])
    # Of before the experiment, but arrived after its first row: a covariate is what was known at the draw.
    collect(store, record(5000, started_ns=START_NS - DAY_NS, unit="u1"))
    updated = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    rollups.keep(())
    fresh = gather(store, declared, as_of_ns=END_NS)
    assert updated == fresh
    assert updated.past


# -- what it is for ----------------------------------------------------------------------------------------


def drawn(seed: int, effect: float, units: int = 400, explained: float = 0.8) -> Evidence:
    """One phase of users whose level was there before; an arm by the coin."""
    chance = np.random.default_rng(seed)
    level = chance.normal(6.0, 0.5 * explained, units)
    m, b = chance.integers(3, 6, units).astype(float), chance.integers(3, 8, units).astype(float)
    arm = chance.random(units) < 0.5
    noise = 0.5 * math.sqrt(1 - explained**2)
    y = (level + chance.normal(0, noise, units) + effect * arm) * m
    a = (level + chance.normal(0, noise, units)) * b
    sums, past = [], []
    for name, mine in (("candidate", arm), ("control", ~arm)):
        u, v, w, x = y[mine], m[mine], a[mine], b[mine]
        sums.append(
            MetricSums(
                metric="latency",
                phase=1,
                arm=name,
                units=int(mine.sum()),
                exchanges=int(v.sum()),
                missing=0,
                y=float(u.sum()),
                m=float(v.sum()),
                yy=float(u @ u),
                mm=float(v @ v),
                ym=float(u @ v),
            )
        )
        past.append(
            PastSums(
                metric="latency",
                phase=1,
                arm=name,
                a=float(w.sum()),
                b=float(x.sum()),
                aa=float(w @ w),
                ab=float(w @ x),
                bb=float(x @ x),
                ya=float(u @ w),
                yb=float(u @ x),
                ma=float(v @ w),
                mb=float(v @ x),
            )
        )
    return Evidence(
        experiment="e",
        as_of_ns=0,
        started_ns=0,
        sums=tuple(sums),
        past=tuple(past),
        arms=tuple(
            ArmCount(phase=1, arm=one.arm, expected_share=0.5, units=one.units, exchanges=one.exchanges)
            for one in sums
        ),
    )


def effects(declared: AnalysisSpec, effect: float, runs: int) -> tuple[list[float], list[float], int]:
    """Logarithms of the estimates, the intervals' widths, and how many hold the truth."""
    values, widths, held = [], [], 0
    for seed in range(runs):
        found = compare(declared, drawn(seed, effect), declared.goals[0], harm_alpha=0.01).effect
        assert found is not None
        values.append(math.log(found.estimate))
        widths.append(math.log(found.upper / found.lower))
        held += found.lower <= math.exp(effect) <= found.upper
    return values, widths, held


def test_the_interval_is_narrower_is_unbiased_and_holds_the_truth() -> None:
    plain, less = spec("canary", "latency"), adjusted("latency")
    raw, wide, _ = effects(plain, 0.05, 400)
    values, narrow, held = effects(less, 0.05, 400)
    assert np.mean(narrow) < 0.85 * np.mean(wide)
    assert np.std(values) < 0.85 * np.std(raw)
    assert np.mean(values) == pytest.approx(0.05, abs=4 * np.std(values) / math.sqrt(400))
    assert held / 400 >= 0.92


def test_without_a_past_nothing_is_adjusted() -> None:
    evidence = replace(drawn(1, 0.1), past=())
    plain = compare(spec("canary", "latency"), evidence, spec("canary", "latency").goals[0], harm_alpha=0.01)
    less = compare(adjusted("latency"), evidence, adjusted("latency").goals[0], harm_alpha=0.01)
    assert plain == less


def test_a_past_that_explains_nothing_changes_little() -> None:
    evidence = drawn(5, 0.0, explained=0.0, units=4000)
    goal = adjusted("latency").goals[0]
    less = compare(adjusted("latency"), evidence, goal, harm_alpha=0.01).effect
    plain = compare(
        spec("canary", "latency"), evidence, replace(goal, adjusted=False), harm_alpha=0.01
    ).effect
    assert less is not None
    assert plain is not None
    assert less.estimate == pytest.approx(plain.estimate, rel=0.01)
    assert less.method == "welch-cuped-log"


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1e300])
def test_sums_that_are_no_sums_end_in_a_state(bad: float) -> None:
    evidence = drawn(2, 0.0)
    for name in ("a", "aa", "ya", "mb"):
        broken = replace(evidence, past=tuple(replace(one, **{name: bad}) for one in evidence.past))
        for result in conclude(adjusted("latency"), broken).metrics:
            assert result.effect is None or all(
                math.isfinite(value) for value in (result.effect.lower, result.effect.upper)
            )


SPEC = """\
experiment: e
model: chat
mode: ab
candidate: 2
metrics:
  success: [{metric: latency, mde: 5%, adjust: true}]
  guardrails: [{metric: tokens_per_second, margin: 10%, adjust: true}]
analysis: {history: 7d}
"""


def test_it_is_declared_with_the_metric() -> None:
    declared = analysis_of(read_spec(SPEC, "e.yaml"), control_version=1, candidate_version=2)
    assert [goal.adjusted for goal in declared.goals] == [True, True]
    assert declared.history_s == 7 * 86_400


@pytest.mark.parametrize("name", ["error_rate", "latency.p95", "score:tone", "feedback:stars"])
def test_what_has_no_past_cannot_be_adjusted(name: str) -> None:
    text = SPEC.replace("metric: tokens_per_second", f'metric: "{name}"')
    with pytest.raises(DocumentError, match="adjust"):
        read_spec(text, "e.yaml")
