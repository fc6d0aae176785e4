"""What is counted as rows arrive, against the same counts made over all rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.store import Store
from experiments.ledger.tally import BREAKER_OPEN, Tally, Trip

from .samples import record

Collect = Callable[..., None]


def rows(seed: int, count: int = 120) -> list[ExchangeRecord]:
    chance = random.Random(seed)
    made = []
    for number in range(count):
        inside = chance.random() < 0.8
        fields: dict[str, Any] = {
            "experiment": chance.choice(["e", "f", None]),
            "phase": chance.choice([1, 2]),
            "role": chance.choice(["primary", "shadow"]),
            "worker": chance.choice(["w1", "w2"]),
            "assigned_arm": "candidate" if inside else None,
            "error_code": chance.choice([None, "upstream_failed", BREAKER_OPEN]),
        }
        made.append(record(number, **fields))
    chance.shuffle(made)
    return made


def test_read_bit_by_bit_it_is_what_all_rows_say(store: Store, collect: Collect) -> None:
    traffic, tally = rows(1), Tally(store)
    for start in range(0, len(traffic), 30):
        collect(*traffic[start : start + 30])
        tally.requests("e")  # what is new is read here, and never again
    for name in ("e", "f", "nobody"):
        mine = [row for row in traffic if row.experiment == name]
        assert tally.requests(name) == sum(row.assigned_arm is not None for row in mine)
        copies = [row for row in mine if row.role == "shadow"]
        known = store.read(
            "SELECT coalesce(sum(prompt_tokens), 0)::BIGINT AS p,"
            " coalesce(sum(completion_tokens), 0)::BIGINT AS c FROM exchanges"
            " WHERE experiment = ? AND role = 'shadow'",
            [name],
        )[0]
        assert tally.copied_tokens(name) == (known["p"], known["c"])
        assert bool(copies) == bool(known["p"])
        for phase in (1, 2):
            tripped = [row for row in mine if row.phase == phase and row.error_code == BREAKER_OPEN]
            expected = [
                Trip(worker=worker, units=len(those), since_ns=min(row.started_ns for row in those))
                for worker in ("w1", "w2")
                if (those := [row for row in tripped if row.worker == worker])
            ]
            assert tally.trips(name, phase) == sorted(expected, key=lambda trip: trip.since_ns)


def test_a_tally_that_was_made_late_says_the_same(store: Store, collect: Collect) -> None:
    early = Tally(store)
    collect(*rows(2, 60))
    assert early.trips("e", 1)
    collect(*rows(3, 60))
    late = Tally(store)
    for phase in (1, 2):
        assert early.trips("e", phase) == late.trips("e", phase)
    assert early.requests("f") == late.requests("f")
    assert early.copied_tokens("f") == late.copied_tokens("f")
