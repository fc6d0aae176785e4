"""Which exchanges wait for a score, and that a score is kept once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from experiments.ledger import evaluations, golden, trials
from experiments.ledger.store import Store

from .conftest import Collect
from .samples import record

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC).replace(tzinfo=None)


def score(exchange_id: str, version: str = "1", **fields: Any) -> dict[str, Any]:
    base = {"exchange_id": exchange_id, "evaluator": "judge", "evaluator_version": version}
    return base | {"status": "scored", "value": 1.0, "cost_usd": 0.25} | fields


def waiting(store: Store, version: str = "1", **fields: Any) -> list[str]:
    asked = {"model": "chat", "evaluator": "judge", "version": version, "rate": 1.0, "limit": 1000} | fields
    return [row["exchange_id"] for row in evaluations.pending(store, **asked)]


def add(store: Store, *scores: dict[str, Any]) -> int:
    return store.write(lambda connection: evaluations.add_scores(connection, scores, at=NOW))


def test_a_scored_exchange_waits_no_more_and_a_new_judge_begins_anew(store: Store, collect: Collect) -> None:
    collect(*(record(n) for n in range(3)))
    ids = waiting(store)
    assert len(ids) == 3
    assert add(store, score(ids[0])) == 1
    assert waiting(store) == ids[1:]
    assert waiting(store, version="2") == ids
    assert add(store, score(ids[0], "2", value=0.0)) == 1
    kept = evaluations.scores(store, exchange_id=ids[0])
    assert {(row["evaluator_version"], row["value"]) for row in kept} == {("1", 1.0), ("2", 0.0)}


def test_a_score_that_comes_twice_stays_as_it_was(store: Store, collect: Collect) -> None:
    collect(record(1))
    [id_] = waiting(store)
    assert add(store, score(id_), score(id_, value=0.0)) == 1
    assert add(store, score(id_, value=0.0)) == 0
    [kept] = evaluations.scores(store)
    assert kept["value"] == 1.0


def test_an_errors_row_is_kept_so_that_it_is_not_tried_for_ever(store: Store, collect: Collect) -> None:
    collect(record(1))
    [id_] = waiting(store)
    add(store, score(id_, status="error", value=None))
    assert waiting(store) == []
    [row] = evaluations.summary(store, model="chat")
    assert (row["n"], row["scored"], row["errors"], row["mean"]) == (1, 0, 1, None)


def test_what_a_judge_does_is_summed_up(store: Store, collect: Collect) -> None:
    collect(*(record(n) for n in range(3)))
    one, two, three = waiting(store)
    add(store, score(one, cost_usd=0.5, latency_ms=10.0), score(two, cost_usd=0.25, latency_ms=30.0))
    add(store, score(three, status="unscored", value=None, label="unparseable", latency_ms=20.0))
    [row] = evaluations.summary(store, model="chat")
    assert (row["n"], row["scored"], row["unparseable"]) == (3, 2, 1)
    assert (row["cost_usd"], row["latency_p50_ms"]) == (1.0, 20.0)


def test_the_sample_is_a_share_and_the_same_for_every_evaluator(store: Store, collect: Collect) -> None:
    collect(*(record(n) for n in range(400)))
    half = waiting(store, rate=0.5)
    assert 150 < len(half) < 250
    assert set(waiting(store, rate=0.2)) < set(half)
    assert waiting(store, rate=0.5, evaluator="other") == half
    assert waiting(store, rate=0.0) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": "golden"},
        {"status": 500, "outcome": "upstream_error"},
        {"model": "other"},
        {"role": "shadow"},
    ],
)
def test_what_has_nothing_to_score_does_not_wait(
    store: Store, collect: Collect, fields: dict[str, Any]
) -> None:
    collect(record(1, **fields))
    assert waiting(store) == []


def test_a_pair_is_sampled_as_one(store: Store, collect: Collect) -> None:
    primaries = [record(n) for n in range(60)]
    copies = [
        record(100 + n, role="shadow", pair_id=primary.exchange_id) for n, primary in enumerate(primaries)
    ]
    collect(*primaries, *copies)
    rows = evaluations.pending(
        store, model="chat", evaluator="pairwise", version="1", rate=0.5, role="shadow", limit=1000
    )
    assert {row["pair_id"] for row in rows} == set(waiting(store, rate=0.5))


@pytest.mark.parametrize("control", [None, {"status": 500, "outcome": "upstream_error"}])
def test_a_pair_waits_until_both_have_answered(
    store: Store, collect: Collect, control: dict[str, Any] | None
) -> None:
    """Else only the control's failures would be judged, and all for the candidate."""
    answered = record(3)
    there = [] if control is None else [record(1, **control)]
    mirrored = [record(number + 1, role="shadow", pair_id=record(number).exchange_id) for number in (1, 3)]
    collect(*there, answered, *mirrored)
    pairs = evaluations.pending(
        store, model="chat", evaluator="pairwise", version="1", rate=1.0, role="shadow"
    )
    assert [row["pair_id"] for row in pairs] == [answered.exchange_id]


def test_spending_counts_all_versions(store: Store, collect: Collect) -> None:
    collect(record(1))
    [id_] = waiting(store)
    add(store, score(id_), score(id_, "2"))
    assert evaluations.spent(store, evaluator="judge", since=NOW) == {"scores": 2, "cost_usd": 0.5}


def held(store: Store, verdict: str, minutes: int) -> None:
    body = {"preflight_id": f"{minutes:032x}", "model": "chat", "control_version": 1, "candidate_version": 2}
    body |= {"verdict": verdict, "result": {}}
    at = NOW + timedelta(minutes=minutes)
    store.write(lambda connection: evaluations.save_preflight(connection, body, at=at))


def compared(store: Store, verdict: str, minutes: int) -> None:
    body = {"comparison_id": f"{minutes:032x}", "set_name": "support", "set_hash": "h", "model": "chat"}
    body |= {"control_run": "a", "candidate_run": "b", "control_version": 1, "candidate_version": 2}
    body |= {"verdict": verdict, "result": {}}
    at = NOW + timedelta(minutes=minutes)
    store.write(lambda connection: golden.save_comparison(connection, body, at=at))


def test_a_preflight_that_failed_since_takes_the_permission_back(store: Store) -> None:
    def verdict() -> str | None:
        return trials.golden_verdict(
            store, model="chat", set_name="support", control_version=1, candidate_version=2
        )

    assert verdict() is None
    held(store, "pass", 1)
    assert verdict() is None  # a preflight alone permits nothing
    compared(store, "pass", 2)
    assert verdict() == "pass"
    held(store, "fail", 3)
    assert verdict() == "fail"
    held(store, "pass", 4)
    assert verdict() == "pass"
    held(store, "fail", 5)
    compared(store, "pass", 6)
    assert verdict() == "pass"


def test_what_was_kept_while_the_clock_was_ahead_is_not_the_latest_for_ever(store: Store) -> None:
    def verdict() -> str | None:
        return trials.golden_verdict(
            store, model="chat", set_name="support", control_version=1, candidate_version=2
        )

    year = 365 * 24 * 60
    compared(store, "pass", year)
    compared(store, "fail", 1)
    assert verdict() == "fail"
    assert [row["verdict"] for row in golden.comparisons(store)] == ["fail", "pass"]
    assert [row["verdict"] for row in golden.latest_comparisons(store, "chat")] == ["fail"]
    held(store, "fail", year)
    compared(store, "pass", 2)
    assert verdict() == "pass"
    held(store, "pass", 3)
    assert [row["verdict"] for row in evaluations.preflights(store)] == ["pass", "fail"]
    assert [row["verdict"] for row in evaluations.latest_preflights(store, "chat")] == ["pass"]
    held(store, "fail", 4)
    assert verdict() == "fail"


def test_those_that_were_kept_before_there_were_numbers_are_older_in_their_own_order(store: Store) -> None:
    compared(store, "fail", 1)
    compared(store, "pass", 2)
    store.write(lambda connection: connection.execute("UPDATE golden_comparisons SET number = NULL"))
    assert [row["verdict"] for row in golden.comparisons(store)] == ["pass", "fail"]
    compared(store, "inconclusive", 0)
    assert [row["verdict"] for row in golden.comparisons(store)] == ["inconclusive", "pass", "fail"]
