"""Which recorded requests are selected, why some get no pair, and that each is given out once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from experiments.assignment import point, unit_id
from experiments.ledger import recorded, standings
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.recorded import Selection
from experiments.ledger.recording import RecordingPolicy
from experiments.ledger.store import Store
from experiments.patterns import compiled

from .conftest import Collect
from .samples import START_NS, chat_request, record

ALL = Selection(
    experiment="e", model="chat", control_version=1, since_ns=START_NS, until_ns=START_NS + 10**12, salt="s"
)


def asked(number: int, **fields: Any) -> ExchangeRecord:
    """A recorded request of production."""
    plain = {"assigned_version": 1, "served_version": 1, "request": chat_request(f"question {number}")}
    return record(number, **(plain | {"unit": unit_id(f"user-{number % 10}")} | fields))


def copy(number: int, of: int, **fields: Any) -> ExchangeRecord:
    """Its copy to the candidate."""
    pair = asked(of).exchange_id
    shadow = {
        "role": "shadow", "origin": "replay", "pair_id": pair, "request_id": pair, "experiment": "e",
        "phase": 1, "assigned_arm": "candidate", "assigned_version": 2, "served_version": 2,
    }  # fmt: skip
    return record(1000 + number, **(shadow | fields))


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["exchange_id"] for row in rows]


def test_only_what_control_was_asked_live_in_the_window(store: Store, collect: Collect) -> None:
    collect(
        asked(1),
        asked(2, assigned_version=2),
        asked(3, origin="golden"),
        asked(4, outcome="rejected", status=400),
        asked(5, model="other"),
        asked(6, outcome="client_gone"),
        asked(7, outcome="upstream_error", status=500),
        asked(8, started_ns=START_NS - 1000),
        asked(9, started_ns=ALL.until_ns),
        copy(1, 7, experiment="another"),
    )
    found = recorded.remaining(store, ALL).requests
    assert names(found) == [asked(number).exchange_id for number in (1, 6, 7)]
    assert found[0]["request"] == chat_request("question 1")
    assert (found[0]["unit"], found[0]["path"]) == (unit_id("user-1"), "/v1/chat/completions")
    assert recorded.progress(store, ALL).selected == 3


def test_every_selected_request_is_accounted_for(store: Store, collect: Collect) -> None:
    collect(*(asked(number) for number in range(6)))
    collect(asked(6), policies={"chat": RecordingPolicy(recording="numbers")})
    collect(asked(7), policies={"chat": RecordingPolicy(recording="redacted", redact=(compiled("x"),))})
    collect(
        copy(1, 0),
        copy(2, 1, outcome="upstream_error", status=500),
        copy(3, 2, outcome="shed", status=0, error_code="tools_skipped"),
    )
    found = recorded.progress(store, ALL)
    assert found == recorded.Progress(
        selected=8,
        paired=2,
        skipped={"not_recorded": 1, "redacted": 1, "tools_skipped": 1},
        remaining=3,
        units=5,
    )
    assert names(recorded.remaining(store, ALL).requests) == [
        asked(number).exchange_id for number in (3, 4, 5)
    ]
    told = {row["exchange_id"]: row["reason"] for row in recorded.skipped(store, ALL)}
    assert told == {
        asked(2).exchange_id: "tools_skipped",
        asked(6).exchange_id: "not_recorded",
        asked(7).exchange_id: "redacted",
    }


@pytest.mark.parametrize("by_unit", [True, False])
def test_a_share_is_the_one_that_a_live_shadow_would_take(
    store: Store, collect: Collect, by_unit: bool
) -> None:
    rows = [
        asked(number, unit=None if number % 7 == 0 else unit_id(f"user-{number}")) for number in range(300)
    ]
    collect(*rows)
    share = replace(ALL, share_ppm=300_000, by_unit=by_unit, gates=(("g", 0, 800_000),))
    expected = [
        row.exchange_id
        for row in rows
        if point("s", row.unit if row.unit and by_unit else row.exchange_id) < 300_000
        and point("g", row.unit or row.exchange_id) < 800_000
    ]
    assert names(recorded.remaining(store, share, limit=1000).requests) == expected
    assert 30 < len(expected) < 120


def test_tenants_and_a_limit(store: Store, collect: Collect) -> None:
    collect(*(asked(number, tenant="acme" if number % 2 else None) for number in range(10)))
    some = replace(ALL, tenants=("acme",), limit=3)
    assert names(recorded.remaining(store, some).requests) == [
        asked(number).exchange_id for number in (0, 2, 4)
    ]
    collect(copy(1, 0))
    assert recorded.progress(store, some).selected == 3, (
        "what is paired stays selected: the limit is of requests"
    )
    assert names(recorded.remaining(store, some).requests) == [asked(number).exchange_id for number in (2, 4)]


def test_pages_are_bounded_in_number_and_bytes_and_miss_nothing(
    store: Store, collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "_STRETCH", 5)
    collect(*(asked(number, request=b"x" * (10_000 if number == 4 else 1000)) for number in range(20)))
    collect(*(copy(number, number) for number in range(5, 17)))
    seen: list[str] = []
    after: str | None = ""
    sizes = []
    while after is not None:
        page = recorded.remaining(store, ALL, after=after, limit=4, max_bytes=2500)
        assert page.after is None or page.after > after
        seen, after = seen + names(page.requests), page.after
        sizes.append(len(page.requests))
    assert seen == [asked(number).exchange_id for number in range(20) if not 5 <= number < 17]
    assert max(sizes) <= 4
    assert 0 in sizes, "a stretch of which everything has its copy is an empty page, and not the end"


def test_a_second_copy_makes_no_second_pair_and_stays_in_the_ledger(store: Store, collect: Collect) -> None:
    collect(asked(1), asked(2), copy(1, 1), copy(2, 1))  # in one batch
    collect(copy(3, 1), copy(4, 2), copy(5, 1, experiment="another"))  # and later
    rows = store.read(
        "SELECT exchange_id, experiment, pair_id, error_code FROM exchanges WHERE role = 'shadow'"
    )
    assert Counter((row["experiment"], row["error_code"]) for row in rows) == {
        ("e", None): 2,
        ("another", None): 1,
        (None, "asked_again"): 2,
    }
    assert {row["exchange_id"] for row in rows if row["experiment"] == "e"} == {
        copy(1, 1).exchange_id,
        copy(4, 2).exchange_id,
    }
    assert recorded.progress(store, ALL).paired == 2


def test_live_copies_are_left_as_they_are(store: Store, collect: Collect) -> None:
    collect(asked(1), copy(1, 1, origin="live"), copy(2, 1, origin="live"))
    rows = store.read("SELECT count(*) AS n FROM exchanges WHERE experiment = 'e' AND role = 'shadow'")
    assert rows[0]["n"] == 2


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_standing_follows_the_rows_and_is_what_the_whole_window_says(
    store: Store, collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, counted = Clock(), []
    whole = standings.progress_at
    monkeypatch.setattr(standings, "progress_at", lambda *a: counted.append(1) or whole(*a))
    known = standings.Standings(store, clock=clock)
    collect(*(asked(number) for number in range(8)))
    assert known.of(ALL) == recorded.progress(store, ALL)
    collect(copy(1, 0), copy(2, 1, outcome="shed", status=0, error_code="tools_skipped"))
    collect(copy(3, 2, outcome="upstream_error", status=500))
    collect(asked(20, model="other"), asked(21, started_ns=ALL.until_ns), copy(9, 5, experiment="another"))
    found = known.of(ALL)
    assert (found.paired, found.skipped, found.remaining) == (2, {"tools_skipped": 1}, 5)
    assert replace(found, units=0) == replace(recorded.progress(store, ALL), units=0)
    assert len(counted) == 1, "the window was read once"
    collect(asked(8))  # late
    assert known.of(ALL) == recorded.progress(store, ALL)
    assert (known.of(ALL).selected, len(counted)) == (9, 2)
    collect(*(copy(10 + number, number) for number in range(3, 9)))
    assert known.of(ALL).remaining == 0
    assert len(counted) == 3, "that nothing remains is not concluded, but seen"
    collect(asked(30, model="other"))
    assert known.of(ALL).remaining == 0
    assert len(counted) == 3
    clock.seconds += standings.RECOUNT_S
    known.of(ALL)
    assert len(counted) == 4, "bodies are deleted when their time is over"
    assert known.of(replace(ALL, limit=4)).selected == 4
