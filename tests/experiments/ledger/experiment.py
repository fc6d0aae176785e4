"""An experiment in a ledger: declared, and filled with random traffic that must and must not count."""

from __future__ import annotations

import random
import time
from typing import Any

from experiments.evidence import AnalysisSpec, Goal
from experiments.ledger.collector import Collector
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import SpoolWriter
from experiments.ledger.store import Store, instant
from experiments.metrics import metric

from .samples import START_NS, chat_request, record

END_NS = START_NS + 10**12
OUTCOMES = ["complete"] * 6 + ["upstream_error", "timeout", "client_gone", "rejected"]


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
