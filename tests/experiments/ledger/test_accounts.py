"""Where every request went: each class once, to the row; and what is missing shows where it is missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args
from unittest.mock import Mock

from experiments.accounting import Accounting, accounting_of
from experiments.evidence import Cut
from experiments.ledger import traffic
from experiments.ledger.accounts import Accounts, take_in
from experiments.ledger.exchange import FAILURES, ExchangeRecord, LossRecord, Outcome, Outside
from experiments.ledger.store import Store, instant, rows_so_far

from .conftest import Collect
from .samples import START_NS, record

CONTROL = {"experiment": "e", "phase": 1, "assigned_arm": "control", "served_arm": "control", "unit": "u"}
CANDIDATE = CONTROL | {"assigned_arm": "candidate", "served_arm": "candidate", "unit": "v"}
OUTSIDE = {"experiment": "e", "phase": 1, "unit": "w"}


def books(store: Store) -> Accounting:
    accounts = Accounts("e")
    lost = traffic.take_in(store, {"e": accounts})
    return accounting_of(accounts.found(), lost=lost["e"])


def numbered(rows: list[ExchangeRecord]) -> list[ExchangeRecord]:
    """The rows with the numbers that a worker gives them."""
    given: dict[Any, int] = {}
    for row in rows:
        key = (row.worker, row.experiment, row.phase, row.assigned_arm or row.outside)
        if row.experiment and row.origin == "live":
            row.serial = given[key] = given.get(key, 0) + 1
    return rows


def every_class() -> list[ExchangeRecord]:
    """Each outcome once in each arm, each reason to be outside twice, a fallback, and what does not count."""
    made: list[dict[str, Any]] = [
        arm | {"outcome": outcome, "status": 200 if outcome == "complete" else 0}
        for arm in (CONTROL, CANDIDATE)
        for outcome in get_args(Outcome)
    ]
    made += [OUTSIDE | {"outside": reason} for reason in get_args(Outside)] * 2
    made += [CANDIDATE | {"served_arm": "control", "arm_outcome": "timeout"}]
    made += [CONTROL | {"phase": 2}, CONTROL | {"worker": "other"}]
    aside = [CONTROL | {"origin": "forced"}, CONTROL | {"origin": "golden"}, CONTROL | {"experiment": "f"}]
    return numbered([record(number, **fields) for number, fields in enumerate([*made, *aside, {}])])


def test_every_class_is_counted_once_and_the_books_close(store: Store, collect: Collect) -> None:
    collect(*every_class())
    found = books(store)
    outcomes = dict.fromkeys(get_args(Outcome), 1)
    control, candidate = found.by_arm["control"], found.by_arm["candidate"]
    assert control.outcomes == outcomes | {"complete": 3}
    assert candidate.outcomes == outcomes | {"timeout": 2}
    assert (candidate.fell_back, candidate.failed, control.failed) == (1, len(FAILURES) + 1, len(FAILURES))
    assert candidate.shed == {"unknown": 1}
    assert found.outside == dict.fromkeys(get_args(Outside), 2)
    assigned = control.assigned + candidate.assigned
    assert found.eligible == assigned + sum(found.outside.values()) == found.recorded == 13 + 12 + 8
    assert (found.missing, found.closes) == (0, True)


def test_a_lost_row_is_a_gap_in_the_arm_that_it_was_of(store: Store, collect: Collect) -> None:
    rows = every_class()
    lost = [rows[3], rows[14], rows[15], rows[22]]  # control, candidate twice, outside without a unit
    collect(*(row for row in rows if row not in lost))
    found = books(store)
    assert {arm: account.missing for arm, account in found.by_arm.items()} == {"control": 1, "candidate": 2}
    assert (found.missing, found.closes) == (4, False)
    assert found.eligible == found.recorded + 4 == 33
    assert found.outside["no_unit"] == 2  # with the one that is known by its number only


def test_read_bit_by_bit_and_out_of_order_the_books_are_the_same(store: Store, collect: Collect) -> None:
    rows = every_class()
    accounts = Accounts("e")
    for start in range(0, len(rows), 7):
        collect(*reversed(rows[start : start + 7]))
        traffic.take_in(store, {"e": accounts})
        fresh = Accounts("e")
        traffic.take_in(store, {"e": fresh})
        assert accounts.found() == fresh.found()
    assert accounting_of(accounts.found(), lost=0) == books(store)
    with store.reading() as cursor:
        accounts.take_in(cursor, Cut())  # an older cut takes nothing away
    assert accounting_of(accounts.found(), lost=0) == books(store)


def test_the_rows_are_read_once_for_many_experiments(store: Store, collect: Collect) -> None:
    names = [f"e{number}" for number in range(5)]
    collect(*(record(number, **CONTROL | {"experiment": name}) for number, name in enumerate(names, 1)))
    shelf = {name: Accounts(name) for name in names[:4]}
    traffic.take_in(store, shelf)
    collect(*(record(number, **CANDIDATE | {"experiment": name}) for number, name in enumerate(names, 11)))
    shelf["e4"] = Accounts("e4")  # begins from nothing, beside those that have read
    with store.reading() as cursor:
        asked = Mock(wraps=cursor)
        take_in(asked, shelf.values(), Cut(exchanges=rows_so_far(cursor)))
    assert asked.execute.call_count == 2
    for accounts in shelf.values():
        assert accounting_of(accounts.found(), lost=0).eligible == 2
        assert [one.place for one in accounts.found()] == ["candidate", "control"]


def test_rows_of_before_there_were_numbers_are_counted_and_miss_nothing(
    store: Store, collect: Collect
) -> None:
    collect(record(1, **CONTROL), record(2, **CONTROL | {"unit": None, "assigned_arm": None}))
    found = books(store)
    assert (found.eligible, found.recorded, found.missing) == (2, 2, 0)
    assert found.outside["no_unit"] == 1


def test_a_stage_counts_from_its_first_phase_on(store: Store, collect: Collect) -> None:
    collect(*every_class())
    late = Accounts("e", first=2)
    traffic.take_in(store, {"e": late})
    assert accounting_of(late.found(), lost=0).eligible == 1


def test_what_was_shed_is_counted_by_reason(store: Store, collect: Collect) -> None:
    copy = {"experiment": "e", "phase": 1, "role": "shadow", "outcome": "shed", "assigned_arm": "candidate"}
    collect(*(record(n, **copy, error_code=code) for n, code in enumerate(["a", "b", "b"])))
    assert books(store).by_arm["candidate"].shed == {"a": 1, "b": 2}


def test_what_workers_could_not_write_meanwhile_is_told_and_nothing_else(
    store: Store, collect: Collect
) -> None:
    store.write(
        lambda c: c.execute(
            "INSERT INTO experiments (name, model, mode, state, spec, spec_hash, created_at, started_at)"
            " VALUES ('e', 'chat', 'ab', 'running', '{}', 'h', ?, ?)",
            [instant(START_NS), instant(START_NS)],
        )
    )
    collect(
        LossRecord(worker="w", since_ns=START_NS + 1000, until_ns=START_NS + 2000, count=2),
        LossRecord(worker="w", since_ns=START_NS - 10**9, until_ns=START_NS - 10**8, count=50),
    )
    assert books(store).lost == 2


def test_an_unknown_experiment_has_no_traffic(store: Store) -> None:
    assert asdict(books(store)) == {
        "eligible": 0, "recorded": 0, "missing": 0, "lost": 0, "by_arm": {}, "not_copied": None,
        "outside": dict.fromkeys(get_args(Outside), 0),
    }  # fmt: skip
    assert traffic.timeline(store, "e") == []
