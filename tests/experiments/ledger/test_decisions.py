"""Decisions keep the order in which they were made, whatever the clock did meanwhile."""

from __future__ import annotations

from dataclasses import replace

from experiments.decision import Decision
from experiments.ledger import decisions
from experiments.ledger.store import Store

from .samples import START_NS

HOUR_NS = 3600 * 10**9


def promoted(store: Store, before: int, after: int, at_ns: int, **fields: str) -> Decision:
    """A promotion as it is recorded: begun, then done."""
    made = Decision(
        at_ns=at_ns, actor="ada", action="promote", model="chat", from_version=before, to_version=after,
        state="intent", **fields,  # type: ignore[arg-type]
    )  # fmt: skip
    store.write(lambda connection: decisions.record(connection, made))
    store.write(lambda connection: decisions.settle(connection, made.decision_id, "done"))
    return replace(made, state="done")


def test_a_clock_that_was_set_back_makes_no_older_decision_the_newest(store: Store) -> None:
    promoted(store, 1, 3, START_NS, experiment="e", verdict_hash="old")
    promoted(store, 3, 2, START_NS + HOUR_NS)
    last = promoted(store, 2, 3, START_NS - HOUR_NS, experiment="e", verdict_hash="new")
    assert decisions.former_production(store, "chat", 3) == 2
    assert decisions.listed(store)[0] == decisions.latest(store, "promote") == last
    assert [one.to_version for one in decisions.listed(store, limit=2)] == [3, 2]
    assert decisions.verdict_hashes(store, "chat") == {"e": "new"}


def test_decisions_from_before_there_were_events_are_the_oldest(store: Store) -> None:
    promoted(store, 1, 3, START_NS + HOUR_NS)
    store.write(lambda connection: connection.execute("DELETE FROM events"))
    promoted(store, 2, 3, START_NS)
    assert decisions.former_production(store, "chat", 3) == 2
