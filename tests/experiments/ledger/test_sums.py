"""The sums that SQL makes against the same sums made row by row in plain Python."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from experiments.evidence import MetricSums, Overlap, PairSums
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.exchange import FAILURES, MISSING, ExchangeRecord
from experiments.ledger.store import Store

from .experiment import END_NS, OUTCOMES, collect, declare, random_split, spec
from .samples import chat_answer, record

Value = Callable[[ExchangeRecord], float | None]


def fate(row: ExchangeRecord) -> str:
    return row.arm_outcome or row.outcome


def failed(row: ExchangeRecord) -> float | None:
    return None if fate(row) in MISSING else float(fate(row) in FAILURES)


def log_latency(row: ExchangeRecord) -> float | None:
    own = fate(row) in ("complete", "length") and row.arm_outcome is None
    return math.log(row.duration_us / 1000) if own else None


def eligible(rows: list[ExchangeRecord]) -> list[ExchangeRecord]:
    return [
        row
        for row in rows
        if row.experiment == "e" and row.origin == "live" and row.unit and row.outcome != "rejected"
    ]


def unit_totals(rows: list[ExchangeRecord], value: Value) -> dict[tuple[int, str, str], list[float]]:
    totals: dict[tuple[int, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in eligible(rows):
        found = value(row)
        total = totals[row.phase, str(row.assigned_arm), str(row.unit)]
        if found is not None:
            total[0] += found
            total[1] += 1
    return totals


def on_turn(turn: str, value: Value) -> Value:
    return lambda row: value(row) if (b"assistant" in row.request) == (turn == "later") else None


def first_rows(rows: list[ExchangeRecord], chosen: Callable[[ExchangeRecord], bool]) -> list[ExchangeRecord]:
    firsts: dict[str, ExchangeRecord] = {}
    for row in sorted(eligible(rows), key=lambda row: row.started_ns):
        if chosen(row):
            firsts.setdefault(str(row.unit), row)
    return list(firsts.values())


def approx_equal(found: object, expected: object) -> None:
    for each in fields(expected):  # type: ignore[arg-type]
        wanted = getattr(expected, each.name)
        if isinstance(wanted, float):  # of values to the millionth
            wanted = pytest.approx(wanted, rel=1e-6, abs=1e-4)
        assert getattr(found, each.name) == wanted, each.name


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "value", "lacking"),
    [
        ("error_rate", failed, lambda row: fate(row) in MISSING),
        (
            "latency",
            log_latency,
            lambda row: fate(row) in ("complete", "length") and log_latency(row) is None,
        ),
    ],
)
@pytest.mark.parametrize("turn", [None, "first", "later"])
def test_sums_over_units(
    store: Store, seed: int, name: str, value: Value, lacking: Callable[[ExchangeRecord], bool], turn: Any
) -> None:
    rows = random_split(seed)
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *rows)
    evidence = gather(store, spec("canary", name), as_of_ns=END_NS)
    if turn is not None:
        value, lacking, name = on_turn(turn, value), lambda row: False, f"{name}@{turn}"
    totals = unit_totals(rows, value)
    failures = first_rows(rows, lambda row: value(row) == 1.0 and name.startswith("error_rate"))
    missing = first_rows(rows, lacking)
    sums = [one for one in evidence.sums if one.metric == name]
    assert len(sums) == 6
    for found in sums:
        here = (found.phase, found.arm)
        mine = [total for (phase, arm, _), total in totals.items() if (phase, arm) == here]
        place = [row for row in eligible(rows) if (row.phase, row.assigned_arm) == here]
        expected = MetricSums(
            metric=name,
            phase=found.phase,
            arm=found.arm,
            units=sum(m > 0 for _, m in mine),
            exchanges=len(place),
            observed=sum(m for _, m in mine),  # type: ignore[arg-type]
            missing=sum(map(lacking, place)),
            y=sum(y for y, _ in mine),
            m=sum(m for _, m in mine),
            yy=sum(y * y for y, _ in mine),
            mm=sum(m * m for _, m in mine),
            ym=sum(y * m for y, m in mine),
            failing_units=sum((row.phase, row.assigned_arm) == here for row in failures),
            missing_units=sum((row.phase, row.assigned_arm) == here for row in missing),
        )
        if name.startswith("error_rate"):  # of failures, units are counted, not exchanges
            expected = replace(expected, y=0.0, yy=0.0, ym=0.0)
        approx_equal(found, expected)


def test_units_seen_in_two_phases(store: Store) -> None:
    rows = random_split(4)
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *rows)
    found = gather(store, spec("canary", "latency"), as_of_ns=END_NS).overlaps
    found = tuple(one for one in found if one.metric == "latency")
    totals = unit_totals(rows, log_latency)
    expected: dict[tuple[int, str, int, str], list[float]] = defaultdict(lambda: [0.0] * 4)
    for (phase, arm, unit), (y, m) in totals.items():
        for (later, other, same), (y2, m2) in totals.items():
            if unit == same and phase < later:
                for i, product in enumerate((y * y2, y * m2, m * y2, m * m2)):
                    expected[phase, arm, later, other][i] += product
    assert [(o.phase_a, o.arm_a, o.phase_b, o.arm_b) for o in found] == sorted(expected)
    for each in found:
        yy, ym, my, mm = expected[each.phase_a, each.arm_a, each.phase_b, each.arm_b]
        place = {name: getattr(each, name) for name in ("phase_a", "arm_a", "phase_b", "arm_b")}
        approx_equal(each, Overlap(metric="latency", **place, yy=yy, ym=ym, my=my, mm=mm))


def test_units_are_counted_in_the_phase_where_they_were_first_seen(store: Store) -> None:
    rows = random_split(5)
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *rows)
    arms = gather(store, spec("canary", "error_rate"), as_of_ns=END_NS).arms
    firsts = first_rows(rows, lambda row: True)
    assert sum(arm.units for arm in arms) == len(firsts)
    for arm in arms:
        assert arm.units == sum((row.phase, row.assigned_arm) == (arm.phase, arm.arm) for row in firsts)
        share = {1: 0.1, 2: 0.3, 3: 0.6}[arm.phase]
        assert arm.expected_share == pytest.approx(share if arm.arm == "candidate" else 1 - share)


def shadow_pairs(seed: int) -> list[tuple[ExchangeRecord, ExchangeRecord | None]]:
    """Shadow exchanges and their primaries, some of which are not in the ledger (yet)."""
    chance = random.Random(seed)
    pairs = []
    for number in range(300):
        unit = chance.choice([None, *(f"u{i}" for i in range(25))])
        primary = record(
            2 * number,
            unit=unit,
            outcome=chance.choice(OUTCOMES[:-1]),
            status=0,
            response=chat_answer("a"),
            duration_us=chance.randrange(1000, 90_000),
        )
        shadow = record(
            2 * number + 1,
            role="shadow",
            pair_id=primary.exchange_id,
            request_id=primary.request_id,
            experiment="e",
            phase=1 + number // 150,
            unit=unit,
            assigned_arm="candidate",
            outcome=chance.choice([*OUTCOMES[:-1], "shed"]),
            status=0,
            duration_us=chance.randrange(1000, 90_000),
        )
        pairs.append((shadow, primary if chance.random() < 0.9 else None))
    return pairs


@pytest.mark.parametrize(
    ("name", "value"),
    [("error_rate", failed), ("latency", log_latency)],
)
def test_pairs_of_a_shadow(store: Store, name: str, value: Value) -> None:
    pairs = shadow_pairs(6)
    declare(store, "shadow", {1: 0, 2: 0})
    collect(store, *(row for pair in pairs for row in pair if row is not None))
    evidence = gather(store, spec("shadow", name, "feedback:stars"), as_of_ns=END_NS)
    assert (evidence.arms, evidence.sums, evidence.overlaps) == ((), (), ())
    assert evidence.recorded == len(pairs)
    assert [found.phase for found in evidence.pairs] == [1, 2]
    firsts: dict[str, int] = {}  # a unit is one cluster, also of a shadow that was paused
    for shadow, _ in pairs:
        firsts.setdefault(shadow.unit or shadow.exchange_id, shadow.phase)
    assert len(firsts) < len({(shadow.unit or shadow.exchange_id, shadow.phase) for shadow, _ in pairs})
    for found in evidence.pairs:
        clusters: dict[str, list[tuple[float, float]]] = defaultdict(list)
        missing = 0
        for shadow, primary in pairs:
            if firsts[shadow.unit or shadow.exchange_id] != found.phase:
                continue
            theirs = None if primary is None else value(primary)
            mine = value(shadow)
            if mine is not None and theirs is not None:
                clusters[shadow.unit or shadow.exchange_id].append((mine, theirs))
            else:
                missing += name == "error_rate" or mine is not None or theirs is not None
        sums = [(len(c), sum(a - b for a, b in c)) for c in clusters.values()]
        cells = [c[0] for c in clusters.values()] if name == "error_rate" else []
        expected = PairSums(
            metric=name,
            phase=found.phase,
            clusters=len(clusters),
            pairs=sum(m for m, _ in sums),
            missing=missing,
            d=sum(d for _, d in sums),
            dd=sum(d * d for _, d in sums),
            md=sum(m * d for m, d in sums),
            mm=sum(m * m for m, _ in sums),
            n11=cells.count((1.0, 1.0)),
            n10=cells.count((0.0, 1.0)),
            n01=cells.count((1.0, 0.0)),
            n00=cells.count((0.0, 0.0)),
            control_y=sum(b for c in clusters.values() for _, b in c),
        )
        approx_equal(found, expected)


def test_quantiles_have_a_histogram(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    rows = [
        record(n, experiment="e", phase=1, unit=f"u{n}", assigned_arm="control", duration_us=ms * 1000)
        for n, ms in enumerate([10, 10, 300])
    ]
    collect(store, *rows)
    (found,) = gather(store, spec("ab", "latency.p95"), as_of_ns=END_NS).histograms
    assert found.counts == (2, 1)
    low, high = (math.exp(bin_ / 1000) for bin_ in found.bins)
    assert 10 * 0.999 <= low <= 10
    assert 300 * 0.999 <= high <= 300


@pytest.mark.parametrize("ms", [3, 900_000_000])
def test_products_are_exact_however_large_the_values(store: Store, ms: int) -> None:
    """Sums of products of 64 bits where they suffice, of 128 where they do not: to the last digit."""
    declare(store, "canary", {1: 500_000, 2: 500_000})
    chance = random.Random(ms)
    rows = [
        record(
            number,
            experiment="e",
            phase=1 + number % 2,
            unit=f"u{number % 7}",
            assigned_arm="control",
            duration_us=ms * 1000 + chance.randrange(1000),
        )
        for number in range(60)
    ]
    totals: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        total = totals[row.phase, str(row.unit)]
        total[0] += row.duration_us * 1000  # millionths of a millisecond
        total[1] += 1
    rollups, declared = Rollups(store), spec("canary", "latency_mean")
    for part in (rows[:31], rows[31:]):
        collect(store, *part)
        evidence = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    for found in evidence.sums:
        mine = [total for (phase, _), total in totals.items() if phase == found.phase]
        assert found.y == sum(y for y, _ in mine) / 10**6
        assert found.yy == sum(y * y for y, _ in mine) / 10**12
        assert found.ym == sum(y * m for y, m in mine) / 10**6
    (overlap,) = evidence.overlaps
    pairs = [(totals[1, f"u{unit}"], totals[2, f"u{unit}"]) for unit in range(7)]
    assert overlap.yy == sum(one[0] * two[0] for one, two in pairs) / 10**12
    assert overlap.ym == sum(one[0] * two[1] for one, two in pairs) / 10**6


def test_counts_are_the_same_where_two_would_not_fit_into_one_number(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *random_split(11))
    declared = spec("canary", "latency", "error_rate", "latency>100ms", "tokens_per_second", "ttft")
    packed = gather(store, declared, as_of_ns=END_NS)
    monkeypatch.setattr("experiments.ledger.layout.PACK", 4)
    assert gather(store, declared, as_of_ns=END_NS) == packed
