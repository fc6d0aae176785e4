"""What counts as evidence: which rows, which feedback, which comparison, and for whom."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.exchange import ExchangeRecord, FeedbackRecord, LossRecord
from experiments.ledger.facts import EXCHANGES
from experiments.ledger.store import Store, instant
from experiments.metrics import CATALOGUE, metric
from experiments.verdict import conclude

from .experiment import END_NS, collect, declare, random_split, spec
from .samples import START_NS, chat_stream, even_chunks, record


def test_an_arm_that_got_nobody_is_there_with_zero(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    collect(store, record(1, experiment="e", phase=1, unit="u", assigned_arm="control"))
    arms = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS).arms
    assert [(a.arm, a.units, a.expected_share) for a in arms] == [("candidate", 0, 0.5), ("control", 1, 0.5)]


def test_a_clock_that_is_set_back_takes_no_arms_share_away(store: Store) -> None:
    """A phase that is to begin by the clock, and of which there are rows, has begun."""
    declare(store, "canary", {1: 100_000, 2: 500_000})
    later = instant(START_NS + 10 * 10**9)
    store.write(lambda c: c.execute("UPDATE phases SET started_at = ? WHERE phase = 2", [later]))
    rows = [
        record(n, experiment="e", phase=2, unit=f"u{n}", assigned_arm=("control", "candidate")[n % 2])
        for n in range(50)
    ]
    asked, now_ns = spec("canary", "error_rate"), START_NS + 5 * 10**9
    assert {arm.phase for arm in gather(store, asked, as_of_ns=now_ns).arms} == {1}
    collect(store, *rows)
    evidence = gather(store, asked, as_of_ns=now_ns)
    assert [arm.expected_share for arm in evidence.arms if arm.phase == 2] == [0.5, 0.5]
    assert conclude(asked, evidence).kind == "keep_running"


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
    found = {one.metric: (one.y, one.m) for one in evidence.sums if not one.metric.endswith("@closed")}
    assert found == {"feedback:ok@2h": (8.0, 2.0), "feedback:ok@1d": (12.0, 2.0), "feedback:ok": (21.0, 3.0)}


def test_requests_are_compared_once_their_window_is_over(store: Store) -> None:
    declare(store, "ab", {1: 500_000})
    hour = 3_600_000_000_000
    rows, said = [], []
    for n in range(4):
        began = START_NS + 10 * n * hour
        stamp = f"{began // 1_000_000:012x}"
        row = record(n, experiment="e", phase=1, unit=f"u{n // 2}", assigned_arm="control", started_ns=began)
        row.exchange_id = row.request_id = f"{stamp[:8]}-{stamp[8:]}-7000-8000-{n:012x}"
        rows.append(row)
        said.append(
            FeedbackRecord(request_id=row.request_id, name="ok", value=n + 1, at_ns=began + hour, worker="w")
        )
    collect(store, *rows, *said)
    rollups, asked = Rollups(store), spec("ab", "feedback:ok@1d", "error_rate")

    def over(hours: int) -> tuple[float, float, int]:
        evidence = gather(store, asked, as_of_ns=START_NS + hours * hour, rollups=rollups)
        assert evidence == gather(store, asked, as_of_ns=START_NS + hours * hour)
        whole, waited = (
            next(one for one in evidence.sums if one.metric == name)
            for name in ("feedback:ok@1d", "feedback:ok@1d@closed")
        )
        assert (whole.y, whole.m, whole.units) == (10.0, 4.0, 2)
        return waited.y, waited.m, waited.units

    # Nothing comes meanwhile but time, and once it goes back.
    assert [over(hours) for hours in (23, 24, 40, 100, 34, 60)] == [
        (0.0, 0.0, 0),
        (1.0, 1.0, 1),
        (3.0, 2.0, 1),
        (10.0, 4.0, 2),
        (3.0, 2.0, 1),
        (10.0, 4.0, 2),
    ]


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
                "INSERT INTO golden_comparisons VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", row
            )
        )
    evidence = gather(store, spec("ab", "error_rate"), as_of_ns=END_NS, golden_set=set_name)
    assert evidence.golden == expected


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


def test_whatever_a_metric_observes_it_has_expected(store: Store) -> None:
    """What a unit lacks is what it has fewer of than expected: that holds only so (`ledger.layout`)."""
    declare(store, "ab", {1: 500_000})
    streamed = even_chunks(chat_stream(["went", "well"]), 60, step_us=9_000)
    streams = [
        replace(row, stream=True, content_type="text/event-stream", **streamed) if row.status == 200 else row
        for row in random_split(8)
    ]
    streams = [replace(row, exchange_id=f"{row.exchange_id}-s", serial=0) for row in streams]
    collect(store, *random_split(7), *streams)
    made = ("latency.p95", "ttft.p50", "latency>100ms", "inter_token_gap>5ms")
    for one in [*CATALOGUE.values(), *(metric(name) for name in made)]:
        if one.source is None and not one.needs_prices:
            found = store.read(
                f"SELECT count(*) AS n FROM {EXCHANGES} x"
                f" WHERE ({one.observed_sql}) AND NOT coalesce({one.expected_sql}, false)"
            )
            assert found == [{"n": 0}], one.name
            seen = store.read(f"SELECT count(*) AS n FROM {EXCHANGES} x WHERE {one.observed_sql}")
            assert seen[0]["n"] > 0, one.name
