"""What is said of exchanges after they ended, and what does a unit's row become by it?

Feedback: of what was said several times of a request, the latest counts. Scores: those of one version of
their evaluator count; two instruments' numbers are never added up. Either may have come first, the exchange
or what is said of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import Cut, Instrument
from ..metrics import Metric
from .facts import COUNTED, ELIGIBLE, EXCHANGES, SLOT
from .layout import SCALE, Layout, whole

#: By source, among what had arrived in time: the latest word on each request, or what each version of an
#: evaluator made of each exchange that concerned it (no value: it could not score it). When a request began
#: stands in its id, a UUIDv7.
WORDS: Final = {
    "feedback": """
        SELECT request_id AS key, '' AS version, arg_max(value, ("at", rowid)) AS value, max(rowid) AS last
        FROM feedback
        WHERE name = $named AND rowid < $heard_until
            AND ($within_us IS NULL OR epoch_us("at") - 1000 * TRY_CAST(
                '0x' || substr(replace(request_id, '-', ''), 1, 12) AS BIGINT) <= $within_us)
            AND ($closed_ms IS NULL OR TRY_CAST(
                '0x' || substr(replace(request_id, '-', ''), 1, 12) AS BIGINT) <= $closed_ms)
        GROUP BY request_id
    """,
    "scores": """
        SELECT exchange_id AS key, evaluator_version AS version,
            CASE WHEN status = 'scored' AND isfinite(value) THEN value END AS value, rowid AS last
        FROM scores
        WHERE evaluator = $named AND status <> 'skipped' AND rowid < $heard_until
            AND (CAST($version AS VARCHAR) IS NULL OR evaluator_version = $version)
    """,
}
#: The column of `exchanges` that it is known by.
KEY: Final = {"feedback": "request_id", "scores": "exchange_id"}


class Said:
    """What has been heard so far. `take_in` adds to the table `fresh` what changes in units' rows by it.

    `firsts` counts units by the slot in which they first had a bit's event, `missing` exchanges that could
    not be scored, by metric and slot. `instruments` has, by the number of what is said, the
    versions of the evaluator.
    """

    def __init__(self, cursor: DuckDBPyConnection, layout: Layout) -> None:
        self._run = cursor.execute
        self._layout = layout
        self.firsts: dict[tuple[int, int], int] = {}
        self.missing: dict[tuple[int, int], int] = {}
        self.instruments: dict[int, list[Instrument]] = {}
        self._run(
            "CREATE OR REPLACE TEMP TABLE heard (said INTEGER, key VARCHAR, version VARCHAR, last BIGINT,"
            " h UBIGINT, slot INTEGER, value BIGINT)"
        )

    def take_in(self, scope: dict[str, Any], since: Cut, until: Cut, as_of_ns: int) -> None:
        """What is new between two cuts, of what is said or of the exchanges that it is said of, and what
        counts since windows are over."""
        self.firsts, self.missing = {}, {}
        of_rows = len(self._layout.of) - len(self._layout.said)
        for number, (metric, _, _) in enumerate(self._layout.said):
            self._hear(number, metric, scope, since, until, as_of_ns)
            index = of_rows + number
            one = self._layout.of[index]
            if one.lacking is not None:
                unscored = self._heard(number, "value IS NULL")
                self.missing |= self._counted(f"SELECT slot {unscored}", number, index)
                self.firsts |= self._counted(
                    f"SELECT min(slot) AS slot {unscored} GROUP BY h", number, one.lacking
                )
            if one.failed is not None and metric.below is not None:
                under = self._heard(number, f"value < {round(metric.below * SCALE)}")
                self.firsts |= self._counted(
                    f"SELECT min(slot) AS slot {under} GROUP BY h", number, one.failed
                )

    def _hear(
        self, number: int, metric: Metric, scope: dict[str, Any], since: Cut, until: Cut, as_of_ns: int
    ) -> None:
        """What had been heard of a request is taken out, and what is heard now is put in."""
        source = metric.source or "feedback"
        key, run = f"x.{KEY[source]}", self._run
        run(f"CREATE OR REPLACE TEMP TABLE word AS {WORDS[source]}", asked(metric, until, as_of_ns))
        run(
            "CREATE OR REPLACE TEMP TABLE concerned AS SELECT key FROM word WHERE last >= $heard_since"
            f" UNION SELECT {key} {COUNTED} AND {key} IN (SELECT key FROM word)",
            {**scope, "heard_since": getattr(since, source)},
        )
        if metric.closed:  # whatever time, and a clock that was set back, have made of it
            mine = f"SELECT key FROM heard WHERE said = {number}"
            run(f"INSERT INTO concerned SELECT key FROM word WHERE key NOT IN ({mine})")
            run(f"INSERT INTO concerned {mine} AND key NOT IN (SELECT key FROM word)")
        run(
            f"CREATE OR REPLACE TEMP TABLE spoken AS SELECT {number} AS said, key, version, last,"
            f" hash(x.unit) AS h, {SLOT} AS slot,"
            f" CASE WHEN value IS NOT NULL THEN {whole('value')} END AS value"
            f" FROM {EXCHANGES} x JOIN word ON key = {key} {ELIGIBLE}"
            f" AND key IN (SELECT key FROM concerned) AND {metric.observed_sql}",
            {**scope, "since": 0},
        )
        kept = f"FROM heard WHERE said = {number} AND key NOT IN (SELECT key FROM concerned)"
        before = counted_version(self.instruments.get(number, ()))
        if source == "scores":
            known = f"(SELECT key, version, last FROM spoken UNION ALL SELECT key, version, last {kept})"
            self.instruments[number] = versions_of(run, metric, known)
        now = counted_version(self.instruments.get(number, ()))
        if before != now:  # then all that was heard is heard anew
            run(f"INSERT INTO spoken SELECT * {kept}")
            run(f"INSERT INTO concerned SELECT DISTINCT key {kept}")
        old = f"FROM heard WHERE said = {number} AND key IN (SELECT key FROM concerned)"
        for sign, rows, version in ((1, "FROM spoken WHERE true", now), (-1, old, before)):
            columns = ", ".join(self._columns(number, sign))
            run(f"INSERT INTO fresh SELECT h, slot, {columns} {rows} AND version = ?", [version])
        run(f"DELETE {old}")
        run("INSERT INTO heard SELECT * FROM spoken")

    def _columns(self, number: int, sign: int) -> Iterator[str]:
        _, y, w = self._layout.said[number]
        for name in self._layout.names:
            if name == f"y{y}":
                yield f"{sign} * coalesce(value, 0)"
            else:
                yield f"{sign} * CAST(value IS NOT NULL AS BIGINT)" if name == f"w{w}" else "0"

    def _heard(self, number: int, event: str) -> str:
        return f"FROM heard WHERE said = {number} AND version = ? AND {event}"

    def _counted(self, slots: str, number: int, of: int) -> dict[tuple[int, int], int]:
        """How often each slot occurs, under (of, slot)."""
        version = counted_version(self.instruments.get(number, ()))
        found = self._run(f"SELECT slot, count(*) FROM ({slots}) GROUP BY slot", [version])
        return {(of, slot): count for slot, count in found.fetchall()}


def versions_of(run: Callable[..., DuckDBPyConnection], metric: Metric, scores: str) -> list[Instrument]:
    """How many of the `scores` (a table of key, version, last) each version made, and which version counts.

    The one that has scored all, else the first that there was: a judge that was changed, and has scored
    again all that the former had, is a valid one.
    """
    found = run(
        f"SELECT version, count(*) FROM {scores} GROUP BY version ORDER BY min(last), version"
    ).fetchall()
    row = run(f"SELECT count(DISTINCT key) FROM {scores}").fetchone()
    complete = [version for version, count in found if row and count == row[0]]
    counted = next(iter([*complete, *(version for version, _ in found)]), None)
    return [
        Instrument(
            metric=metric.name,
            version=version,
            scores=count,
            counted=version == counted,
            complete=version in complete,
        )
        for version, count in found
    ]


def counted_version(instruments: Sequence[Instrument]) -> str:
    """The version whose scores count; empty if there is none."""
    return next((one.version for one in instruments if one.counted), "")


def asked(metric: Metric, until: Cut, as_of_ns: int = 0) -> dict[str, Any]:
    """What the query of a metric's source wants to know. `as_of_ns` tells which windows are over."""
    if metric.source == "scores":
        return {"named": metric.named, "heard_until": until.scores, "version": metric.version}
    within_us = None if metric.within_s is None else round(metric.within_s * 1e6)
    closed_ms = (as_of_ns // 1000 - within_us) // 1000 if metric.closed and within_us is not None else None
    return {
        "named": metric.named,
        "heard_until": until.feedback,
        "within_us": within_us,
        "closed_ms": closed_ms,
    }
