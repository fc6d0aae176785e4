"""Which sums over mirrored pairs does a verdict on a shadow start from?

A pair is the same request to both versions; pairs of one unit hang together. Everything is aggregated in
SQL. Of scores, those of one version of their evaluator count. This module judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import Cut, Instrument, PairSums
from ..metrics import Metric
from .layout import SCALE, whole
from .said import counted_version, versions_of
from .store import Row, rows_in

#: A unit's pairs hang together; a request without a unit stands for itself.
_PAIRED: Final = """
    FROM shadows s LEFT JOIN controls c ON c.exchange_id = s.pair_id
    GROUP BY s.phase, coalesce(s.unit, s.pair_id)
"""


def pair_sums(
    cursor: DuckDBPyConnection, metrics: Sequence[Metric], scope: dict[str, Any], cut: Cut
) -> tuple[tuple[PairSums, ...], tuple[Instrument, ...]]:
    """Sums over clusters of pairs, for the metrics that pairs have, and by which versions they were scored.

    `scope` has experiment, first (the first phase that counts) and cut (rows of `exchanges` that count).
    """
    kept = [metric for metric in metrics if metric.in_pairs]
    judges = _score_tables(cursor, kept, scope, cut)
    sides = "".join(_side_columns(i, metric) for i, metric in enumerate(kept))
    joins = "".join(
        f" LEFT JOIN scored{i} ON scored{i}.key = x.exchange_id"
        for i, metric in enumerate(kept)
        if metric.source == "scores"
    )
    rows = rows_in(
        cursor.execute(
            "WITH shadows AS (SELECT x.pair_id, x.phase, x.unit, x.started_at"
            + sides.format(side="shadow")
            + f" FROM exchanges x{joins} WHERE x.experiment = $experiment AND x.role = 'shadow'"
            " AND x.origin = 'live' AND x.phase >= $first AND x.rowid < $cut),"
            " controls AS (SELECT x.exchange_id"
            + sides.format(side="primary")
            + f" FROM exchanges x{joins} WHERE x.role = 'primary' AND x.origin = 'live'"
            " AND x.rowid < $cut AND x.exchange_id IN (SELECT pair_id FROM shadows)),"
            " clusters AS (SELECT s.phase AS phase"
            + "".join(_cluster_columns(i) for i in range(len(kept)))
            + _PAIRED
            + ") SELECT phase"
            + "".join(_pair_sum_columns(i) for i in range(len(kept)))
            + " FROM clusters GROUP BY phase ORDER BY phase",
            scope,
        )
    )
    cells = ("n11", "n10", "n01", "n00")
    found = tuple(
        PairSums(
            metric=metric.name,
            phase=row["phase"],
            **_counted(row, i, ("clusters", "pairs", "missing")),
            **_scaled(row, i, metric),  # type: ignore[arg-type]  # not the counts
            **(_counted(row, i, cells) if metric.kind == "binary" else {}),
        )
        for i, metric in enumerate(kept)
        for row in rows
    )
    return found, judges


#: Scores of both halves of the experiment's pairs.
_SCORES: Final = """
    CREATE OR REPLACE TEMP TABLE scored AS
    SELECT s.exchange_id AS key, s.evaluator_version AS version, s.rowid AS last,
        CASE WHEN s.status = 'scored' AND isfinite(s.value) THEN s.value END AS value
    FROM scores s
    WHERE s.evaluator = $named AND s.status <> 'skipped' AND s.rowid < $heard_until
        AND (CAST($version AS VARCHAR) IS NULL OR s.evaluator_version = $version)
        AND s.exchange_id IN (
            SELECT unnest([x.exchange_id, x.pair_id]) FROM exchanges x
            WHERE x.experiment = $experiment AND x.role = 'shadow' AND x.origin = 'live'
                AND x.phase >= $first AND x.rowid < $cut)
"""


def _score_tables(
    cursor: DuckDBPyConnection, kept: Sequence[Metric], scope: dict[str, Any], cut: Cut
) -> tuple[Instrument, ...]:
    """A table `scoredI` of the scores that count for each metric that is of scores."""
    found: list[Instrument] = []
    for i, metric in enumerate(kept):
        if metric.source == "scores":
            named = {"named": metric.named, "version": metric.version, "heard_until": cut.scores}
            cursor.execute(_SCORES, {**scope, **named})
            versions = versions_of(cursor.execute, metric, "scored")
            found += versions
            cursor.execute(
                f"CREATE OR REPLACE TEMP TABLE scored{i} AS SELECT key, value FROM scored WHERE version = ?",
                [counted_version(versions)],
            )
    return tuple(found)


def _side_columns(i: int, metric: Metric) -> str:
    """One half's value and whether it should have one; `{side}` is the half's role."""
    if metric.source == "scores":
        value, seen, expected = (
            f"scored{i}.value",
            f"scored{i}.value IS NOT NULL",
            f"scored{i}.key IS NOT NULL",
        )
        if metric.preference:  # the copy's score is the candidate's part of the pair's 1; its rival's is half
            value, seen = (
                f"CASE WHEN '{{side}}' = 'shadow' THEN {value} ELSE 0.5 END",
                f"('{{side}}' = 'primary' OR {seen})",
            )
        if metric.below is not None:
            value = f"{value} < {metric.below!r}"
    else:
        value, seen, expected = metric.value_sql, metric.observed_sql, metric.expected_sql
    value = f"CAST({value} AS BIGINT)" if metric.kind == "binary" else whole(value)
    return f", CASE WHEN {seen} THEN {value} END AS v{i}, coalesce({expected}, false) AS expected{i}"


def _cluster_columns(i: int) -> str:
    complete = f"s.v{i} IS NOT NULL AND c.v{i} IS NOT NULL"
    wanted = f"s.expected{i} OR coalesce(c.expected{i}, false)"
    return (
        f", count(*) FILTER (WHERE {complete}) AS m{i}"
        f", coalesce(sum(s.v{i} - c.v{i}), 0.0) AS d{i}"
        f", coalesce(sum(c.v{i}) FILTER (WHERE {complete}), 0.0) AS control{i}"
        f", count(*) FILTER (WHERE ({wanted}) AND NOT ({complete})) AS missing{i}"
        # The earliest pair's two values in one: 2 * control + candidate.
        f", arg_min(2 * c.v{i} + s.v{i}, s.started_at) FILTER (WHERE {complete}) AS cell{i}"
    )


def _pair_sum_columns(i: int) -> str:
    cells = "".join(
        f", count(*) FILTER (WHERE cell{i} = {code}) AS {name}{i}"
        for name, code in (("n11", 3), ("n10", 2), ("n01", 1), ("n00", 0))
    )
    return (
        f", count(*) FILTER (WHERE m{i} > 0) AS clusters{i}, sum(m{i})::BIGINT AS pairs{i}"
        f", sum(missing{i})::BIGINT AS missing{i}, sum(d{i}) AS d{i}, sum(d{i} * d{i}) AS dd{i}"
        f", sum(m{i} * d{i}) AS md{i}, sum(m{i} * m{i}) AS mm{i}, sum(control{i}) AS control_y{i}" + cells
    )


def _counted(row: Row, i: int, names: tuple[str, ...]) -> dict[str, int]:
    return {name: row[f"{name}{i}"] for name in names}


def _scaled(row: Row, i: int, metric: Metric) -> dict[str, float]:
    """Sums of whole millionths in the metric's own unit."""
    one = 1 if metric.kind == "binary" else SCALE
    units = {"d": one, "dd": one * one, "md": one, "mm": 1, "control_y": one}
    return {name: int(row[f"{name}{i}"]) / unit for name, unit in units.items()}
