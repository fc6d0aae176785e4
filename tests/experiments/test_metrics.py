"""What each metric of the catalogue reads off a ledger's rows, by hand-made numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from experiments.evidence import AnalysisSpec, Goal, MetricSums
from experiments.ledger.evidence import gather
from experiments.ledger.exchange import OUTCOMES
from experiments.ledger.store import Store, instant
from experiments.metrics import CATALOGUE, Metric, MetricError, Prices, metric, priced

START_NS = 1_800_000_000_000_000_000
#: A stream of 2 s: first token after 300 ms, 40 ms between tokens, 100 tokens in (20 cached), 50 out.
ANSWER: dict[str, Any] = {
    "unit": "ada",
    "stream": True,
    "outcome": "complete",
    "duration_ms": 2000.0,
    "ttft_ms": 300.0,
    "gap_mean_ms": 40.0,
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "cached_tokens": 20,
}


@pytest.fixture
def store(tmp_path: Any) -> Any:
    with Store(tmp_path / "ledger.duckdb") as opened:
        yield opened


def write(store: Store, *rows: dict[str, Any]) -> None:
    fixed = {
        "role": "primary", "origin": "live", "started_at": instant(START_NS), "path": "/", "model": "chat",
        "experiment": "e", "phase": 1, "assigned_arm": "control", "served_arm": "control", "snapshot": 1,
        "status": 200, "attempts": 1, "request_bytes": 1, "response_bytes": 1, "worker": "w", "segment": "s",
    }  # fmt: skip

    def insert(connection: Any) -> None:
        for number, row in enumerate(rows):
            whole = {**fixed, **ANSWER, "exchange_id": f"x{number}", "request_id": f"r{number}", **row}
            places = ", ".join("?" for _ in whole)
            connection.execute(
                f"INSERT INTO exchanges ({', '.join(whole)}) VALUES ({places})", [*whole.values()]
            )
        connection.execute(
            "INSERT INTO experiments (name, model, mode, state, spec, spec_hash, created_at, started_at)"
            " VALUES ('e', 'chat', 'ab', 'running', '{}', 'h', ?, ?)",
            [instant(START_NS), instant(START_NS)],
        )
        connection.execute(
            "INSERT INTO phases (experiment, phase, started_at, candidate_ppm, share_ppm)"
            " VALUES ('e', 1, ?, 500000, 0)",
            [instant(START_NS)],
        )

    store.write(insert)


def sums(store: Store, found: Metric, arm: str = "control") -> MetricSums:
    spec = AnalysisSpec(
        experiment="e", mode="ab", unit="user", goals=(Goal(metric=found, role="exploratory"),)
    )
    gathered = gather(store, spec, as_of_ns=START_NS + 10**12).sums
    return next(one for one in gathered if one.arm == arm)


@pytest.mark.parametrize(
    ("name", "y", "m"),
    [
        ("latency", math.log(2000.0), 1),
        ("ttft", math.log(300.0), 1),
        ("inter_token_gap", math.log(40.0), 1),
        ("latency.p95", math.log(2000.0), 1),
        ("latency_mean", 2000.0, 1),
        ("completion_tokens", 50, 1),
        ("prompt_tokens", 100, 1),
        ("tokens_per_second", 50, 2.0),
        ("cached_share", 20, 100),
    ],
)
def test_what_one_answer_is_worth(store: Store, name: str, y: float, m: float) -> None:
    write(store, {})
    found = sums(store, metric(name))
    assert found.y == pytest.approx(y, abs=1e-6)
    assert found.m == pytest.approx(m)
    assert (found.units, found.observed, found.missing) == (1, 1, 0)


@pytest.mark.parametrize(
    ("name", "outcome", "failing"),
    [
        ("error_rate", "complete", 0),
        ("error_rate", "length", 0),
        ("error_rate", "upstream_error", 1),
        ("error_rate", "timeout", 1),
        ("error_rate", "truncated", 1),
        ("truncation_rate", "length", 1),
        ("truncation_rate", "truncated", 1),
        ("truncation_rate", "timeout", 0),
        ("latency>1999ms", "complete", 1),
        ("latency>2s", "complete", 0),
        ("ttft>299ms", "complete", 1),
        ("inter_token_gap>40ms", "complete", 0),
    ],
)
def test_what_counts_as_failing(store: Store, name: str, outcome: str, failing: int) -> None:
    write(store, {"outcome": outcome})
    assert sums(store, metric(name)).failing_units == failing


def test_the_cost_of_a_thousand_requests_is_that_of_each_arms_prices(store: Store) -> None:
    write(store, {}, {"assigned_arm": "candidate", "unit": "bob"})
    cost = priced(
        metric("cost"),
        (
            ("control", Prices(prompt=1.0, completion=4.0)),
            ("candidate", Prices(prompt=1.0, completion=4.0, cached=0.5)),
        ),
    )
    assert sums(store, cost).y == pytest.approx((100 * 1 + 50 * 4) / 1000)
    assert sums(store, cost, "candidate").y == pytest.approx((80 * 1 + 20 * 0.5 + 50 * 4) / 1000)


@pytest.mark.parametrize("outcome", sorted(OUTCOMES - {"rejected"}))
@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "cost"])
def test_every_outcome_is_observed_or_missing_or_no_concern_but_never_two_of_them(
    store: Store, name: str, outcome: str
) -> None:
    empty = {"ttft_ms": None, "gap_mean_ms": None, "completion_tokens": None, "prompt_tokens": None}
    write(store, {"outcome": outcome, **empty}, {"outcome": outcome, "unit": "bob", "arm_outcome": "timeout"})
    found = sums(store, metric(name))
    assert (found.observed or 0) + found.missing <= 2
    if outcome == "complete" and name in ("ttft", "inter_token_gap", "completion_tokens", "prompt_tokens"):
        assert found.missing == 1  # the first should have had it; of the second the control answered


def test_a_name_that_is_none_says_what_there_is() -> None:
    with pytest.raises(MetricError, match=r"error_rate.*latency>800ms"):
        metric("speed")
    with pytest.raises(MetricError, match="no duration"):
        metric("latency>fast")
    with pytest.raises(MetricError, match="needs prices"):
        priced(metric("cost"), ())
    assert metric("feedback:thumbs").named == "thumbs"
    assert metric("feedback:thumbs").within_s is None
    windowed = metric("feedback:thumbs@36h")
    assert (windowed.named, windowed.within_s) == ("thumbs", 36 * 3600)
    with pytest.raises(MetricError, match="no duration"):
        metric("feedback:thumbs@soon")
