"""What do the rows of the experiments say that must be known every second?

How many requests have come, whose breakers are open, what copies have used up. Each row is read once, when
it arrives: ten million that are known cost nothing.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from .store import Store, nanoseconds, rows_so_far

#: What the row of a unit says that a worker sent to control because nothing succeeded at the candidate.
BREAKER_OPEN: Final = "breaker_open"

_NEW: Final = """
    SELECT x.experiment, x.phase, x.role, x.worker, coalesce(x.error_code = $breaker_open, false) AS tripped,
        count(*), min(x.started_at), count(x.assigned_arm),
        coalesce(sum(x.prompt_tokens), 0)::BIGINT, coalesce(sum(x.completion_tokens), 0)::BIGINT
    FROM exchanges x WHERE x.rowid >= $since AND x.experiment IS NOT NULL GROUP BY ALL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One worker's breaker: how many units it sent to control, since when (unix nanoseconds)."""

    worker: str
    units: int
    since_ns: int


class Tally:
    """Counts over all rows that have arrived. Any thread may ask; whoever does reads what is new."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._rows = 0
        self._assigned: defaultdict[str, int] = defaultdict(int)
        self._copied: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._trips: defaultdict[tuple[str, int], dict[str, tuple[int, datetime]]] = defaultdict(dict)

    def requests(self, experiment: str) -> int:
        """How many requests in an arm of the experiment have arrived."""
        with self._lock:
            self._read()
            return self._assigned.get(experiment, 0)

    def copied_tokens(self, experiment: str) -> tuple[int, int]:
        """Prompt and completion tokens of all copies of a shadow, as far as the engines counted."""
        with self._lock:
            self._read()
            return self._copied.get(experiment, (0, 0))

    def trips(self, experiment: str, phase: int) -> list[Trip]:
        """The breakers that have opened in a phase, the earliest first."""
        with self._lock:
            self._read()
            found = self._trips.get((experiment, phase), {}).items()
            return [
                Trip(worker=worker, units=units, since_ns=nanoseconds(since))
                for worker, (units, since) in sorted(found, key=lambda one: (one[1][1], one[0]))
            ]

    def _read(self) -> None:
        with self._store.reading() as cursor:
            cursor.begin()  # the rows that are counted are those that the number says
            cut = rows_so_far(cursor)
            if cut == self._rows:
                return
            new = cursor.execute(_NEW, {"since": self._rows, "breaker_open": BREAKER_OPEN}).fetchall()
        self._rows = cut
        for experiment, phase, role, worker, tripped, rows, first, assigned, prompt, completion in new:
            self._assigned[experiment] += assigned
            if role == "shadow":
                before = self._copied[experiment]
                self._copied[experiment] = (before[0] + prompt, before[1] + completion)
            if tripped:
                units, since = self._trips[experiment, phase].get(worker, (0, first))
                self._trips[experiment, phase][worker] = (units + rows, min(since, first))
