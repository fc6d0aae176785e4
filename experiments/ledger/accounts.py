"""What became of every request that an experiment could have had, counted as rows arrive?

A worker numbers its rows of each arm, and of those that stay outside; so what is lost shows as a gap in the
numbers, in the arm to which it belongs. Only rows that are new since the last time are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import Account, Cut

#: The strings are compared by functions, for the reason that `facts.RECORDED` has.
_NEW: Final = """
    SELECT x.experiment, x.assigned_arm IS NOT NULL AS inside,
        coalesce(x.assigned_arm, x.outside, 'no_unit') AS place,
        x.worker, x.phase, coalesce(x.arm_outcome, x.outcome) AS ended,
        CASE WHEN ended = 'shed' THEN coalesce(x.error_code, 'unknown') END AS reason,
        count(*) AS n, count(x.arm_outcome) AS fell_back,
        count(x.serial) AS numbered, max(x.serial) AS highest
    FROM exchanges x
    WHERE x.rowid >= $since AND x.rowid < $until AND list_contains($experiments, x.experiment)
        AND x.phase >= $first AND list_contains(['live', 'replay'], x.origin)
    GROUP BY ALL
"""

#: (inside, place): an arm, or a reason for being in none.
_Place = tuple[bool, str]


class Accounts:
    """The accounts of one experiment's rows from the phase `first` on. Not safe for threads."""

    def __init__(self, experiment: str, first: int = 1) -> None:
        self.experiment = experiment
        self._first = first
        self._rows = 0
        self._ended: defaultdict[_Place, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._shed: defaultdict[_Place, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._fell_back: defaultdict[_Place, int] = defaultdict(int)
        #: By place, worker and phase: rows with a number, and the highest number.
        self._serials: dict[tuple[_Place, str, int], tuple[int, int]] = {}

    def take_in(self, cursor: DuckDBPyConnection, until: Cut) -> None:
        """Read what has arrived since the last time, up to the cut."""
        take_in(cursor, [self], until)

    def _add(self, row: tuple[Any, ...]) -> None:
        inside, name, worker, phase, ended, reason, count, fell_back, numbered, highest = row
        place = (inside, name)
        self._ended[place][ended] += count
        self._fell_back[place] += fell_back
        if reason is not None:
            self._shed[place][reason] += count
        if numbered:
            rows, top = self._serials.get((place, worker, phase), (0, 0))
            self._serials[place, worker, phase] = (rows + numbered, max(top, highest))

    def found(self) -> tuple[Account, ...]:
        """An account for each arm and for each reason to be in none that has occurred, by name."""
        missing: defaultdict[_Place, int] = defaultdict(int)
        for (place, _, _), (rows, highest) in self._serials.items():
            missing[place] += highest - rows
        return tuple(
            Account(
                place=place[1],
                inside=place[0],
                outcomes=tuple(sorted(self._ended[place].items())),
                shed=tuple(sorted(self._shed[place].items())),
                fell_back=self._fell_back[place],
                missing=missing[place],
            )
            for place in sorted(self._ended, key=lambda place: (not place[0], place[1]))
        )


def take_in(cursor: DuckDBPyConnection, books: Iterable[Accounts], until: Cut) -> None:
    """Read what has arrived since the last time, up to the cut: once, for however many experiments."""
    together: defaultdict[tuple[int, int], list[Accounts]] = defaultdict(list)
    for one in books:
        if one._rows < until.exchanges:
            together[one._rows, one._first].append(one)
    for (since, first), group in together.items():
        named = {one.experiment: one for one in group}
        scope = {"experiments": list(named), "since": since, "until": until.exchanges, "first": first}
        for experiment, *row in cursor.execute(_NEW, scope).fetchall():
            named[experiment]._add(tuple(row))
        for one in group:
            one._rows = until.exchanges
