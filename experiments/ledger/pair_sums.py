"""Which sums over mirrored pairs does a verdict on a shadow start from?

A pair is the same request to both versions; pairs of one unit hang together. Everything is aggregated in
SQL. This module judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import PairSums
from ..metrics import Metric
from .layout import SCALE, whole
from .store import Row, rows_in

#: A unit's pairs hang together; a request without a unit stands for itself.
_PAIRED: Final = """
    FROM shadows s LEFT JOIN controls c ON c.exchange_id = s.pair_id
    GROUP BY s.phase, coalesce(s.unit, s.pair_id)
"""


def pair_sums(
    cursor: DuckDBPyConnection, metrics: Sequence[Metric], scope: dict[str, Any]
) -> tuple[PairSums, ...]:
    """Sums over clusters of pairs, for the metrics that pairs have.

    `scope` has experiment, first (the first phase that counts) and cut (rows of `exchanges` that count).
    """
    kept = [metric for metric in metrics if metric.in_pairs]
    sides = "".join(_side_columns(i, metric) for i, metric in enumerate(kept))
    rows = rows_in(
        cursor.execute(
            "WITH shadows AS (SELECT x.pair_id, x.phase, x.unit, x.started_at"
            + sides
            + " FROM exchanges x WHERE x.experiment = $experiment AND x.role = 'shadow'"
            " AND x.origin = 'live' AND x.phase >= $first AND x.rowid < $cut),"
            " controls AS (SELECT x.exchange_id"
            + sides
            + " FROM exchanges x WHERE x.role = 'primary' AND x.origin = 'live'"
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
    return tuple(
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


def _side_columns(i: int, metric: Metric) -> str:
    value = f"CAST({metric.value_sql} AS BIGINT)" if metric.kind == "binary" else whole(metric.value_sql)
    return (
        f", CASE WHEN {metric.observed_sql} THEN {value} END AS v{i}"
        f", coalesce({metric.expected_sql}, false) AS expected{i}"
    )


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
