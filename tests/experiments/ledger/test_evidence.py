"""The sums that SQL makes against the same sums made row by row in plain Python."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from experiments.evidence import AnalysisSpec, Cut, Evidence, Goal, MetricSums, Overlap, PairSums
from experiments.ledger.collector import Collector
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.exchange import FAILURES, MISSING, ExchangeRecord, FeedbackRecord, LossRecord
from experiments.ledger.facts import EXCHANGES
from experiments.ledger.spool import SpoolWriter
from experiments.ledger.store import Store, instant
from experiments.metrics import CATALOGUE, metric

from .samples import START_NS, chat_answer, chat_request, record

END_NS = START_NS + 10**12
Value = Callable[[ExchangeRecord], float | None]


def declare(store: Store, mode: str, phases: dict[int, int]) -> None:
    store.write(
        lambda c: c.execute(
            "INSERT INTO experiments (name, model, mode, state, spec, spec_hash, created_at, started_at)"
            " VALUES ('e', 'chat', ?, 'running', '{}', 'h', ?, ?)",
            [mode, instant(START_NS), instant(START_NS)],
        )
    )
    rows = [["e", phase, instant(START_NS), ppm] for phase, ppm in phases.items()]
    store.write(lambda c: c.executemany("INSERT INTO phases VALUES (?, ?, ?, NULL, ?, 0, 0)", rows))


def collect(store: Store, *records: Any) -> None:
    writer = SpoolWriter(store.path.parent / "spool", f"w{time.monotonic_ns()}")
    for each in records:
        assert writer.append(each)
    writer.close()
    got = Collector(store, store.path.parent / "spool").collect_once()
    assert got.records == len(records)


def spec(mode: Any, *names: str) -> AnalysisSpec:
    goals = tuple(Goal(metric=metric(name), role="guardrail") for name in names)
    return AnalysisSpec(
        experiment="e", mode=mode, unit="user", goals=goals, control_version=1, candidate_version=2
    )


def fate(row: ExchangeRecord) -> str:
    return row.arm_outcome or row.outcome


def failed(row: ExchangeRecord) -> float | None:
    return None if fate(row) in MISSING else float(fate(row) in FAILURES)


def log_latency(row: ExchangeRecord) -> float | None:
    own = fate(row) in ("complete", "length") and row.arm_outcome is None
    return math.log(row.duration_us / 1000) if own else None


OUTCOMES = ["complete"] * 6 + ["upstream_error", "timeout", "client_gone", "rejected"]


def random_split(seed: int, count: int = 400) -> list[ExchangeRecord]:
    """Traffic in three phases with every kind of row that must and must not count."""
    chance, other = random.Random(seed), random.Random(seed + 1000)
    rows = []
    for number in range(count):
        unit = chance.choice([None, *(f"u{i}" for i in range(40))])
        phase = 1 + 3 * number // count
        arm = "candidate" if unit and int(unit[1:]) % 10 < (1, 3, 6)[phase - 1] else "control"
        outcome = chance.choice(OUTCOMES)
        fell_back = arm == "candidate" and outcome == "complete" and chance.random() < 0.2
        rows.append(
            record(
                number,
                experiment=chance.choice(["e", "e", "e", "e", "other"]),
                phase=phase,
                unit=unit,
                assigned_arm=arm if unit else None,
                served_arm="control" if fell_back else arm,
                origin=chance.choice(["live"] * 9 + ["forced"]),
                outcome=outcome,
                arm_outcome="upstream_error" if fell_back else None,
                status=200 if outcome == "complete" else 0,
                duration_us=chance.randrange(1000, 500_000),
                request=chat_request("Where?", turn=other.choice([1, 1, 2])),
                outside=None if unit else other.choice(["no_unit", "excluded", "holdout"]),
                serial=number + 1,
            )
        )
    return rows


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
        assert getattr(found, each.name) == pytest.approx(getattr(expected, each.name)), each.name


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


def test_without_later_turns_nothing_is_split_and_the_first_one_splits_everything(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    rows = random_split(31)
    declared, rollups = (
        spec("canary", "error_rate", "latency", "latency.p95", "feedback:stars"),
        Rollups(store),
    )
    opening = [row for row in rows if b"assistant" not in row.request]
    collect(store, *opening)
    early = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    assert {one.metric for one in early.sums} == {one.metric.name for one in declared.goals}
    collect(store, *(row for row in rows if b"assistant" in row.request))
    late = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    split = {f"{name}@{turn}" for name in ("error_rate", "latency") for turn in ("first", "later")}
    assert {one.metric for one in late.sums} == split | {one.metric.name for one in declared.goals}
    assert late == gather(store, declared, as_of_ns=END_NS)
    assert early == gather(store, declared, as_of_ns=END_NS, cut=early.cut)


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


def test_an_arm_that_got_nobody_is_there_with_zero(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    collect(store, record(1, experiment="e", phase=1, unit="u", assigned_arm="control"))
    arms = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS).arms
    assert [(a.arm, a.units, a.expected_share) for a in arms] == [("candidate", 0, 0.5), ("control", 1, 0.5)]


def test_a_unit_in_both_arms_of_a_phase_is_noticed_and_a_ramp_is_not_that(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 500_000})
    plain = {"experiment": "e", "phase": 1}
    collect(
        store,
        record(1, unit="both", assigned_arm="control", **plain),
        record(2, unit="both", assigned_arm="candidate", **plain),
        record(3, unit="ramped", assigned_arm="control", **plain),
        record(4, unit="ramped", assigned_arm="candidate", experiment="e", phase=2),
    )
    assert gather(store, spec("canary", "error_rate"), as_of_ns=END_NS).units_in_two_arms == 1


def test_a_fallback_counts_against_the_arm_that_failed(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    hidden = {"served_arm": "control", "arm_outcome": "upstream_error", "outcome": "complete"}
    collect(store, record(1, experiment="e", phase=1, unit="u", assigned_arm="candidate", **hidden))
    evidence = gather(store, spec("ab", "error_rate", "latency"), as_of_ns=END_NS)
    errors, latency = evidence.sums
    assert (errors.arm, errors.failing_units) == ("candidate", 1)
    assert (latency.m, latency.missing) == (0.0, 0)


def test_the_latest_feedback_of_a_name_is_its_value(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    rows = [record(n, experiment="e", phase=1, unit=f"u{n}", assigned_arm="control") for n in range(3)]

    def say(row: ExchangeRecord, name: str, value: float, at: int) -> FeedbackRecord:
        return FeedbackRecord(
            request_id=row.request_id, name=name, value=value, at_ns=START_NS + at, worker="w"
        )

    collect(
        store, *rows,
        say(rows[0], "stars", 5, 9000), say(rows[0], "stars", 1, 2000), say(rows[1], "stars", 3, 1000),
        say(rows[1], "clicks", 7, 1000),
    )  # fmt: skip
    evidence = gather(store, spec("ab", "feedback:stars", "error_rate", "feedback:clicks"), as_of_ns=END_NS)
    errors, stars, clicks = evidence.sums
    assert (stars.y, stars.m, stars.units, stars.yy, stars.missing) == (8.0, 2.0, 2, 34.0, 0)
    assert (errors.m, clicks.y, clicks.m) == (3.0, 7.0, 1.0)


def test_feedback_counts_within_its_window_from_the_request_on(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    hour = 3_600_000_000_000
    began = f"{START_NS // 1_000_000:012x}"
    ids = [f"{began[:8]}-{began[8:]}-7000-8000-{n:012x}" for n in range(3)]
    rows = [record(n, experiment="e", phase=1, unit=f"u{n}", assigned_arm="control") for n in range(3)]
    for row, name in zip(rows, ids, strict=True):
        row.exchange_id = row.request_id = name
    late = [
        FeedbackRecord(request_id=ids[n], name="ok", value=value, at_ns=START_NS + hours * hour, worker="w")
        for n, value, hours in ((0, 1, 1), (0, 5, 3), (1, 7, 2), (2, 9, 30))
    ]
    collect(store, *rows, *late)
    names = ("feedback:ok@2h", "feedback:ok", "feedback:ok@1d")
    evidence = gather(store, spec("ab", *names), as_of_ns=START_NS + 40 * hour)
    found = {one.metric: (one.y, one.m) for one in evidence.sums}
    assert found == {"feedback:ok@2h": (8.0, 2.0), "feedback:ok@1d": (12.0, 2.0), "feedback:ok": (21.0, 3.0)}


def test_what_came_later_is_not_yet_known(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    rows = [record(n, experiment="e", phase=1, unit="u", assigned_arm="control") for n in range(5)]
    collect(store, *rows)
    everything = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS)
    evidence = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS, cut=Cut(exchanges=3))
    assert (everything.recorded, everything.cut) == (5, Cut(exchanges=5))
    assert (evidence.recorded, evidence.sums[0].exchanges) == (3, 3)


def test_what_was_lost_meanwhile_is_told(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    before = LossRecord(worker="w", since_ns=START_NS - 10**10, until_ns=START_NS - 10**9, count=5)
    during = LossRecord(worker="w", since_ns=START_NS + 1000, until_ns=START_NS + 2000, count=7)
    collect(store, before, during)
    assert gather(store, spec("ab", "error_rate"), as_of_ns=END_NS).lost == 7


def test_an_unknown_experiment_is_refused(store: Store) -> None:
    with pytest.raises(LookupError, match="no experiment 'e'"):
        gather(store, spec("ab", "error_rate"), as_of_ns=END_NS)


def test_no_traffic_is_evidence_of_nothing(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    evidence = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS)
    assert (evidence.recorded, evidence.sums, evidence.units_in_two_arms) == (0, (), 0)
    assert evidence.started_ns == START_NS


@pytest.mark.parametrize(
    ("set_name", "expected"), [(None, "pass"), ("support", "pass"), ("other", "fail"), ("none", None)]
)
def test_the_latest_golden_comparison_of_the_two_versions_counts(
    store: Store, set_name: str | None, expected: str | None
) -> None:
    declare(store, "ab", {1: 500_000})
    for at, (name, candidate, verdict) in enumerate(
        [("support", 2, "fail"), ("other", 2, "fail"), ("support", 2, "pass"), ("support", 3, "fail")]
    ):
        row = [
            f"c{at}",
            name,
            "h",
            "chat",
            "r1",
            "r2",
            1,
            candidate,
            verdict,
            instant(START_NS + at * 10**9),
            "{}",
        ]
        store.write(
            lambda c, row=row: c.execute(
                "INSERT INTO golden_comparisons VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row
            )
        )
    evidence = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS, golden_set=set_name)
    assert evidence.golden == expected


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
    for found in evidence.pairs:
        clusters: dict[str, list[tuple[float, float]]] = defaultdict(list)
        missing = 0
        for shadow, primary in pairs:
            if shadow.phase != found.phase:
                continue
            theirs = None if primary is None else value(primary)
            mine = value(shadow)
            if mine is not None and theirs is not None:
                clusters[shadow.unit or shadow.exchange_id].append((mine, theirs))
            else:
                missing += name == "error_rate" or mine is not None or theirs is not None
        sums = [(len(c), sum(a - b for a, b in c)) for c in clusters.values()]
        firsts = [c[0] for c in clusters.values()] if name == "error_rate" else []
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
            n11=firsts.count((1.0, 1.0)),
            n10=firsts.count((0.0, 1.0)),
            n01=firsts.count((1.0, 0.0)),
            n00=firsts.count((0.0, 0.0)),
            control_y=sum(b for c in clusters.values() for _, b in c),
        )
        approx_equal(found, expected)


def test_the_same_ledger_gives_the_same_evidence(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *random_split(8))
    once, again = (gather(store, spec("canary", "error_rate"), as_of_ns=END_NS) for _ in range(2))
    assert isinstance(once, Evidence)
    assert once == again


def test_a_stage_is_judged_by_its_own_phases_alone(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 500_000})
    arms = itertools.cycle(("control", "candidate"))
    rows = [
        record(number, experiment="e", phase=phase, unit=f"u{number}", assigned_arm=next(arms))
        for number, phase in enumerate([1, 1, 1, 2, 2])
    ]
    collect(store, *rows)
    whole = gather(store, spec("canary", "error_rate"), as_of_ns=END_NS)
    late = gather(store, replace(spec("canary", "error_rate"), first_phase=2), as_of_ns=END_NS)
    assert {count.phase for count in whole.arms} == {1, 2}
    assert {count.phase for count in late.arms} == {2}
    assert (whole.recorded, late.recorded) == (5, 2)
    assert sum(count.units for count in late.arms) == 2


ALL = (
    "error_rate", "latency>100ms", "truncation_rate", "latency", "latency.p95", "latency_mean", "ttft",
    "inter_token_gap", "completion_tokens", "tokens_per_second", "cached_share", "feedback:stars",
)  # fmt: skip


@pytest.mark.parametrize("seed", [11, 12, 13, 14])
def test_taken_in_bit_by_bit_and_out_of_order_the_evidence_is_the_same_to_the_bit(
    store: Store, seed: int
) -> None:
    chance = random.Random(seed)
    rows: list[Any] = random_split(seed, 300)
    said = [
        FeedbackRecord(
            request_id=chance.choice(rows).request_id,
            name=chance.choice(["stars", "clicks"]),
            value=chance.uniform(-5, 5),
            at_ns=START_NS + chance.randrange(10**9),
            worker="w",
        )
        for _ in range(150)
    ]
    records = rows + said
    chance.shuffle(records)
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    declared = spec("canary", *ALL)
    rollups = Rollups(store)
    cuts = []
    for start in range(0, len(records), 50):
        collect(store, *records[start : start + 50])
        step = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
        assert step == gather(store, declared, as_of_ns=END_NS)
        cuts.append(step)
    assert any(one.y for one in cuts[-1].sums if one.metric == "feedback:stars")
    for then in cuts:  # and what was known then can be had again now
        assert gather(store, declared, as_of_ns=END_NS, cut=then.cut) == then


def test_a_cut_is_the_same_rows_after_a_checkpoint_and_a_new_start(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    rows = random_split(21)
    collect(store, *rows[:200])
    then = gather(store, spec("canary", *ALL), as_of_ns=END_NS)
    store.checkpoint()
    collect(store, *rows[200:])
    store.close()
    with Store(store.path) as again:
        again.checkpoint()
        assert gather(again, spec("canary", *ALL), as_of_ns=END_NS) != then
        assert gather(again, spec("canary", *ALL), as_of_ns=END_NS, cut=then.cut) == then


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


def test_a_look_that_fails_leaves_no_half_taken_sums(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    rows = random_split(22)
    collect(store, *rows[:100])
    rollups = Rollups(store)
    declared = spec("canary", "latency")
    gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    collect(store, *rows[100:])
    with pytest.raises(ZeroDivisionError), rollups.of(declared) as (rollup, cursor):
        cursor.begin()
        rollup.take_in(Cut(exchanges=250))
        raise ZeroDivisionError
    assert gather(store, declared, as_of_ns=END_NS, rollups=rollups) == gather(
        store, declared, as_of_ns=END_NS
    )


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


def test_other_experiments_rows_change_nothing(store: Store) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *random_split(31, 100))
    rollups, declared = Rollups(store), spec("canary", *ALL)
    before = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    collect(store, *(record(1000 + n, experiment="other", phase=1, unit=f"u{n}") for n in range(5)))
    after = gather(store, declared, as_of_ns=END_NS, rollups=rollups)
    assert after == replace(before, cut=after.cut)
    assert after.cut != before.cut


def test_whatever_a_metric_observes_it_has_expected(store: Store) -> None:
    """What a unit lacks is what it has fewer of than expected: that holds only so (`ledger.layout`)."""
    declare(store, "ab", {1: 500_000})
    collect(store, *random_split(7))
    made = ("latency.p95", "ttft.p50", "latency>100ms", "inter_token_gap>5ms")
    for one in [*CATALOGUE.values(), *(metric(name) for name in made)]:
        if one.source is None and not one.needs_prices:
            found = store.read(
                f"SELECT count(*) AS n FROM {EXCHANGES} x"
                f" WHERE ({one.observed_sql}) AND NOT coalesce({one.expected_sql}, false)"
            )
            assert found == [{"n": 0}], one.name


def test_counts_are_the_same_where_two_would_not_fit_into_one_number(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(store, "canary", {1: 100_000, 2: 300_000, 3: 600_000})
    collect(store, *random_split(11))
    declared = spec("canary", "latency", "error_rate", "latency>100ms", "tokens_per_second", "ttft")
    packed = gather(store, declared, as_of_ns=END_NS)
    monkeypatch.setattr("experiments.ledger.layout.PACK", 4)
    assert gather(store, declared, as_of_ns=END_NS) == packed
