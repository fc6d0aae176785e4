"""Did anything succeed at a candidate, and how did the rest end?"""

from __future__ import annotations

from .exchange import FAILURES
from .store import Store, instant


def candidate_ends(
    store: Store, experiment: str, phase: int, version: int, since_ns: int
) -> tuple[int, int, int]:
    """How many requests a version answered since an instant in a phase, how many failed there, and how many
    clients left without a byte of an answer."""
    rows = store.read(
        """
        SELECT count(*) FILTER (WHERE arm_outcome IS NULL AND outcome IN ('complete', 'length')) AS answered,
            count(*) FILTER (WHERE list_contains(?, coalesce(arm_outcome, outcome))) AS failed,
            count(*) FILTER (WHERE arm_outcome IS NULL AND outcome = 'client_gone' AND first_byte_ms IS NULL)
                AS given_up
        FROM exchanges
        WHERE experiment = ? AND phase = ? AND role = 'primary' AND assigned_version = ? AND started_at >= ?
        """,
        [sorted(FAILURES), experiment, phase, version, instant(since_ns)],
    )
    return rows[0]["answered"], rows[0]["failed"], rows[0]["given_up"]
