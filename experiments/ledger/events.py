"""What happened since a number, in the order in which it was committed? Decisions, and how each came out.

An event is a decision's state: begun (`intent`), `done`, `failed`. Its number only grows, so that whoever
has seen one can ask for what came after it, and a decision that is recorded late is not overlooked. Who has
been told is kept here as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from duckdb import DuckDBPyConnection

from ..decision import Decision
from .decisions import concerning, decision_of
from .store import Row, Store, instant, nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A decision in the state that it came into then."""

    number: int
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """A URL that is told of events: the last one that it has (or that was given up), and how the next fares.

    Times are unix nanoseconds. `attempts` is how often the next event was tried in vain.
    """

    url: str
    number: int
    attempts: int = 0
    next_ns: int = 0
    told: int = 0
    given_up: int = 0
    error: str | None = None


def after(
    store: Store, number: int, *, model: str | None = None, experiment: str | None = None, limit: int = 100
) -> list[Event]:
    """The events with a larger number, the oldest first."""
    wanted, values = concerning(model, experiment)
    rows = store.read(
        f"""
        SELECT e.number, e.state AS reached, decisions.*
        FROM events e JOIN decisions USING (decision_id)
        WHERE e.number > $number AND {wanted} ORDER BY e.number LIMIT $limit
        """,
        values | {"number": number, "limit": limit},
    )
    return [_event(row) for row in rows]


def latest(store: Store) -> int:
    """The number of the last event, 0 if there was none."""
    found: int = store.read("SELECT coalesce(max(number), 0) AS number FROM events")[0]["number"]
    return found


def subscribers(store: Store) -> dict[str, Subscriber]:
    """Everyone who was ever told, by URL."""
    rows = store.read("SELECT * FROM subscribers")
    return {row["url"]: _subscriber(row) for row in rows}


def save_subscriber(connection: DuckDBPyConnection, one: Subscriber) -> None:
    """Write how far a subscriber has come."""
    progress: list[Any] = [one.number, one.attempts, instant(one.next_ns), one.told, one.given_up, one.error]
    connection.execute(
        "INSERT OR REPLACE INTO subscribers VALUES (?, ?, ?, ?, ?, ?, ?)", [one.url, *progress]
    )


def _event(row: Row) -> Event:
    number, reached = row.pop("number"), row.pop("reached")
    return Event(number=number, decision=replace(decision_of(row), state=reached))


def _subscriber(row: Row) -> Subscriber:
    next_at = row.pop("next_at")
    return Subscriber(**row, next_ns=nanoseconds(next_at))
