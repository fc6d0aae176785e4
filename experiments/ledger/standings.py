"""Where does each replay stand, without going through its whole window each time somebody asks?

What was selected is fixed when an experiment begins, and each copy that arrives takes one request out of what
remains: only rows that are new are read. The whole window is, now and then, because bodies are deleted when
their time is over; when requests of the window arrive late; and before it is said that nothing remains.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from duckdb import DuckDBPyConnection

from .recorded import PAIRED, Progress, Selection, progress_at
from .store import Store, instant, rows_so_far

#: How long a count may go without the whole window, in seconds.
RECOUNT_S: Final = 60.0

#: Requests that were given out and may still be under way: two of the largest pages.
_UNDER_WAY: Final = 2000

_CAME: Final = """
    SELECT count(DISTINCT pair_id) AS came FROM exchanges
    WHERE experiment = $experiment AND role = 'shadow' AND list_contains($given, pair_id)
"""

#: As functions, conditions on strings leave the range of row numbers to be the filter of the scan.
_NEW: Final = """
    SELECT list_contains([$experiment], x.experiment) AND list_contains(['shadow'], x.role) AS is_copy,
        if(x.outcome = 'shed', coalesce(x.error_code, 'unknown'), $paired) AS state, count(*)
    FROM exchanges x WHERE x.rowid >= $since AND (
        list_contains([$experiment], x.experiment) AND list_contains(['shadow'], x.role)
        OR list_contains(['primary'], x.role) AND list_contains([$model], x.model)
            AND x.started_at >= $from AND x.started_at < $until)
    GROUP BY ALL
"""


@dataclass(slots=True)
class _Known:
    """What was counted of a selection, up to a row of the ledger; `at_s` is when all of it was."""

    selection: Selection
    found: Progress
    cut: int
    at_s: float


class Standings:
    """The replays of a ledger. Safe to use from threads."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._given: dict[str, tuple[deque[str], float]] = {}  # the latest, and when anything last happened

    def gave(self, experiment: str, requests: Iterable[str]) -> None:
        """These requests were given out to be asked."""
        with self._lock:
            given, _ = self._given.get(experiment, (deque(maxlen=_UNDER_WAY), 0.0))
            given.extend(requests)
            self._given[experiment] = given, self._clock()

    def awaited(self, experiment: str, patience_s: float) -> bool:
        """Whether copies may be under way of requests that were given out, also of those whose bodies have
        gone since: until nothing has been given out, and nothing has come, for so long."""
        with self._lock:
            given, at_s = self._given.get(experiment, (deque[str](), 0.0))
            if not given or self._clock() - at_s >= patience_s:
                return False
            asked = sorted(set(given))
        found = self._store.read(_CAME, {"experiment": experiment, "given": asked})
        return int(found[0]["came"]) < len(asked)

    def of(self, selection: Selection) -> Progress:
        """Where every request of an experiment's selection stands. `units` are those of the last recount."""
        name = selection.experiment or ""
        with self._lock, self._store.reading() as cursor:
            cursor.begin()  # the rows that are counted are those that the number says
            cut, known = rows_so_far(cursor), self._known.get(name)
            found = None
            if known is not None and known.selection == selection and self._clock() - known.at_s < RECOUNT_S:
                found = self._with_news(cursor, known, cut)
            if known is None or found is None:
                whole = progress_at(cursor, selection)
                if known is not None and known.cut != cut and name in self._given:
                    self._given[name] = self._given[name][0], self._clock()
                self._known[name] = _Known(selection, whole, cut, self._clock())
                return whole
            if found != known.found and name in self._given:
                self._given[name] = self._given[name][0], self._clock()
            known.found, known.cut = found, cut
            return found

    @staticmethod
    def _with_news(cursor: DuckDBPyConnection, known: _Known, cut: int) -> Progress | None:
        """The count with what has arrived since; None if only a recount can tell."""
        if cut == known.cut:
            return known.found
        asked = known.selection
        news = cursor.execute(
            _NEW,
            {
                "experiment": asked.experiment or "",
                "model": asked.model,
                "paired": PAIRED,
                "since": known.cut,
                "from": instant(asked.since_ns),
                "until": instant(asked.until_ns),
            },
        ).fetchall()
        if not news:
            return known.found
        if not all(is_copy for is_copy, _, _ in news):
            return None  # a request of the window that came late
        arrived = Counter({state: count for _, state, count in news})
        before = known.found
        if arrived.total() >= before.remaining:
            return None
        skipped = Counter(before.skipped) + Counter({s: n for s, n in arrived.items() if s != PAIRED})
        return Progress(
            selected=before.selected,
            paired=before.paired + arrived[PAIRED],
            skipped=dict(sorted(skipped.items())),
            remaining=before.remaining - arrived.total(),
            units=before.units,
        )
