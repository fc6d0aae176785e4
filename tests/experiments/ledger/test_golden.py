"""Golden runs, results and comparisons go in once and come out as they were."""

from __future__ import annotations

from typing import Any

from experiments.ledger import golden
from experiments.ledger.store import Store, instant

from .samples import START_NS

RUN: dict[str, Any] = {
    "run_id": "r1",
    "set_name": "support",
    "set_hash": "golden@sha256:1",
    "model": "chat",
    "version": 3,
    "parameters": {"repeats": 1},
}
RESULT: dict[str, Any] = {
    "item_id": "i1", "item_hash": "h", "repeat": 0, "evaluator": "exact", "evaluator_version": "1",
    "status": "scored", "value": 1.0, "label": None, "explanation": None,
    "output": {"text": "yes", "tool_calls": []}, "outcome": "complete", "request_id": "q",
    "detail": {"cost_usd": 0.01},
}  # fmt: skip
COMPARISON: dict[str, Any] = {
    "comparison_id": "c1", "set_name": "support", "set_hash": "golden@sha256:1", "model": "chat",
    "control_run": "r1", "candidate_run": "r2", "control_version": 1, "candidate_version": 3,
    "verdict": "pass", "result": {"coverage": 1.0},
}  # fmt: skip


def begin(store: Store, *, seconds: int = 0, **changes: Any) -> bool:
    at = instant(START_NS + seconds * 10**9)
    return store.write(lambda c: golden.begin_run(c, RUN | changes, at=at))


def test_a_run_from_its_beginning_to_its_end(store: Store) -> None:
    assert begin(store)
    ended = instant(START_NS + 60 * 10**9)
    for _ in range(2):
        store.write(
            lambda c: golden.finish_run(c, "r1", status="complete", summary={"passed": 1}, ended_at=ended)
        )
    store.write(lambda c: golden.set_mlflow_run(c, "r1", "m1"))
    found = golden.run(store, "r1")
    assert found == RUN | {
        "status": "complete", "started_at": instant(START_NS), "ended_at": ended,
        "summary": {"passed": 1}, "mlflow_run_id": "m1", "results": 0,
    }  # fmt: skip
    assert golden.run(store, "r2") is None


def finish(store: Store, status: str, passed: int, *, seconds: int) -> dict[str, Any]:
    at = instant(START_NS + seconds * 10**9)
    store.write(lambda c: golden.finish_run(c, "r1", status=status, summary={"passed": passed}, ended_at=at))
    found = golden.run(store, "r1")
    assert found is not None
    return found


def test_a_run_that_was_stopped_and_gone_on_with_ends_when_it_is_through(store: Store) -> None:
    begin(store)
    assert finish(store, "partial", 1, seconds=60)["status"] == "partial"
    through = finish(store, "complete", 2, seconds=90)
    assert (through["status"], through["ended_at"]) == ("complete", instant(START_NS + 90 * 10**9))


def test_whoever_comes_late_to_a_run_that_is_through_changes_nothing(store: Store) -> None:
    begin(store)
    through = finish(store, "complete", 2, seconds=90)
    assert finish(store, "partial", 1, seconds=95) == through


def test_beginning_again_changes_nothing(store: Store) -> None:
    assert begin(store)
    assert not begin(store, version=9)
    assert golden.runs(store)[0]["version"] == 3


def test_runs_by_filter_newest_first(store: Store) -> None:
    begin(store)
    begin(store, seconds=5, run_id="r2", version=4)
    assert [row["run_id"] for row in golden.runs(store)] == ["r2", "r1"]
    assert [row["run_id"] for row in golden.runs(store, version=3, model="chat", status="running")] == ["r1"]
    assert golden.runs(store, set_hash="other") == []
    assert len(golden.runs(store, limit=1)) == 1


def test_a_run_that_a_clock_ahead_has_dated_is_not_the_newest_for_ever(store: Store) -> None:
    begin(store, run_id="ahead", seconds=3 * 86_400)
    begin(store, run_id="right", set_hash="golden@sha256:2")
    for name in ("ahead", "right"):
        end: dict[str, Any] = {"status": "complete", "summary": {}, "ended_at": instant(START_NS)}
        store.write(lambda c, name=name, end=end: golden.finish_run(c, name, **end))
    newest, older = golden.runs(store)
    assert [newest["run_id"], older["run_id"]] == ["right", "ahead"]
    assert (golden.is_latest(store, newest), golden.is_latest(store, older)) == (True, False)
    assert golden.latest_sets(store, "chat") == {3: "support@golden@sha256:2"}


def test_results_are_stored_once(store: Store) -> None:
    begin(store)
    batch = [RESULT, RESULT | {"evaluator": "contains", "value": None, "status": "error", "output": None}]
    assert store.write(lambda c: golden.add_results(c, "r1", batch)) == 2
    changed = RESULT | {"value": 0.0}
    assert store.write(lambda c: golden.add_results(c, "r1", [changed, RESULT | {"repeat": 1}])) == 1
    found = golden.results(store, "r1")
    assert [(row["evaluator"], row["repeat"]) for row in found] == [
        ("contains", 0),
        ("exact", 0),
        ("exact", 1),
    ]
    assert found[1] == RESULT
    assert golden.runs(store)[0]["results"] == 3


def test_comparisons(store: Store) -> None:
    at = instant(START_NS)
    assert store.write(lambda c: golden.save_comparison(c, COMPARISON, at=at))
    assert not store.write(lambda c: golden.save_comparison(c, COMPARISON | {"verdict": "fail"}, at=at))
    later = instant(START_NS + 10**9)
    store.write(lambda c: golden.save_comparison(c, COMPARISON | {"comparison_id": "c2"}, at=later))
    assert golden.comparisons(store, model="chat", control_version=1, candidate_version=3)[
        1
    ] == COMPARISON | {"at": at}
    assert [row["comparison_id"] for row in golden.comparisons(store, set_name="support")] == ["c2", "c1"]
    assert golden.comparisons(store, candidate_version=4) == []
