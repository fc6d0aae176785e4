"""Did workers stop asking a candidate, did anything succeed there since, and what have copies used up?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .exchange import FAILURES
from .store import Store, instant, nanoseconds

#: What the row of a unit says that a worker sent to control because nothing succeeded at the candidate.
BREAKER_OPEN: Final = "breaker_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One worker's breaker: how many units it sent to control, since when (unix nanoseconds)."""

    worker: str
    units: int
    since_ns: int


def trips(store: Store, experiment: str, phase: int) -> list[Trip]:
    """The breakers that have opened in a phase, the earliest first."""
    rows = store.read(
        """
        SELECT worker, count(*) AS units, min(started_at) AS since FROM exchanges
        WHERE experiment = ? AND phase = ? AND error_code = ? GROUP BY worker ORDER BY since, worker
        """,
        [experiment, phase, BREAKER_OPEN],
    )
    return [
        Trip(worker=row["worker"], units=row["units"], since_ns=nanoseconds(row["since"])) for row in rows
    ]


def candidate_ends(store: Store, experiment: str, phase: int, version: int, since_ns: int) -> tuple[int, int]:
    """How many requests a version answered since an instant in a phase, and how many failed there."""
    rows = store.read(
        """
        SELECT count(*) FILTER (WHERE arm_outcome IS NULL AND outcome IN ('complete', 'length')) AS answered,
            count(*) FILTER (WHERE list_contains(?, coalesce(arm_outcome, outcome))) AS failed
        FROM exchanges
        WHERE experiment = ? AND phase = ? AND role = 'primary' AND assigned_version = ? AND started_at >= ?
        """,
        [sorted(FAILURES), experiment, phase, version, instant(since_ns)],
    )
    return rows[0]["answered"], rows[0]["failed"]


def copied_tokens(store: Store, experiment: str) -> tuple[int, int]:
    """Prompt and completion tokens of all copies of a shadow, as far as the engines counted."""
    rows = store.read(
        """
        SELECT coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt,
            coalesce(sum(completion_tokens), 0)::BIGINT AS completion
        FROM exchanges WHERE experiment = ? AND role = 'shadow'
        """,
        [experiment],
    )
    return rows[0]["prompt"], rows[0]["completion"]
