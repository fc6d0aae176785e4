"""Which sums over mirrored pairs does a verdict on a shadow start from?

A pair is the same request to both versions; pairs of one unit hang together. Everything is aggregated in
SQL. Of scores, those of one version of their evaluator count. This module judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import AnalysisSpec, Cut, Histogram, Instrument, PairQuantile, PairSums
from ..metrics import Metric
from .facts import EXCHANGES
from .layout import BINS, SCALE, whole
from .said import counted_version, versions_of
from .store import Row, rows_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What SQL makes of mirrored pairs: sums by the phase of a unit's first pair, and of quantiles
    the two halves' histograms."""

    sums: tuple[PairSums, ...]
    histograms: tuple[Histogram, ...]
    quantiles: tuple[PairQuantile, ...]
    judges: tuple[Instrument, ...]


def pair_sums(cursor: DuckDBPyConnection, spec: AnalysisSpec, metrics: Sequence[Metric], cut: Cut) -> Pairs:
    """Sums over clusters of pairs for the metrics that pairs have, and by which versions they were scored."""
    scope = {"experiment": spec.experiment, "first": spec.first_phase, "cut": cut.exchanges}
    kept = [metric for metric in metrics if metric.in_pairs]
    judges = _score_tables(cursor, kept, scope, cut)
    _pair_table(cursor, kept, scope)
    rows = rows_in(
        cursor.execute(
            "WITH clusters AS (SELECT min(phase) AS phase"
            + "".join(_cluster_columns(i, metric) for i, metric in enumerate(kept))
            + " FROM paired GROUP BY cluster) SELECT phase"
            + "".join(_pair_sum_columns(i, metric) for i, metric in enumerate(kept))
            + " FROM clusters GROUP BY phase ORDER BY phase"
        )
    )
    cells = ("n11", "n10", "n01", "n00")
    sums = tuple(
        PairSums(
            metric=metric.name,
            phase=row["phase"],
            **_counted(row, i, ("clusters", "pairs", "missing")),
            **_scaled(row, i, metric),
            **(_counted(row, i, cells) if metric.kind == "binary" else {}),
            **(_of_ratio(row, i) if metric.kind == "ratio" else {}),
            cubes=_cubes(row, i) if metric.limits else (),
        )
        for i, metric in enumerate(kept)
        for row in rows
    )
    histograms: list[Histogram] = []
    quantiles: list[PairQuantile] = []
    for i, metric in enumerate(kept):
        if metric.kind == "quantile":
            halves = [_histogram(cursor, i, side, metric, spec, arm) for side, arm in _halves(spec)]
            if all(half.counts for half in halves):
                histograms += halves
                quantiles.append(_quantile(cursor, i, metric, halves))
    return Pairs(sums=sums, histograms=tuple(histograms), quantiles=tuple(quantiles), judges=judges)


def _pair_table(cursor: DuckDBPyConnection, kept: Sequence[Metric], scope: dict[str, Any]) -> None:
    """The table `paired`: a row for each copy, with its values (s0, ...) and those of its primary (c0, ...).

    A unit's pairs hang together; a request without a unit stands for itself.
    """
    sides = "".join(_side_columns(i, metric) for i, metric in enumerate(kept))
    joins = "".join(
        f" LEFT JOIN scored{i} ON scored{i}.key = x.exchange_id"
        for i, metric in enumerate(kept)
        if metric.source == "scores"
    )
    columns = "".join(
        f", s.v{i} AS s{i}, c.v{i} AS c{i}, s.w{i} AS sw{i}, c.w{i} AS cw{i}"
        f", s.expected{i} OR coalesce(c.expected{i}, false) AS expected{i}"
        for i in range(len(kept))
    )
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE paired AS WITH"
        " shadows AS (SELECT x.pair_id, x.phase, x.unit, x.started_at"
        + sides.format(side="shadow")
        + f" FROM {EXCHANGES} x{joins} WHERE x.experiment = $experiment AND x.role = 'shadow'"
        " AND x.phase >= $first AND x.rowid < $cut),"
        " controls AS (SELECT x.exchange_id"
        + sides.format(side="primary")
        + f" FROM {EXCHANGES} x{joins} WHERE x.role = 'primary' AND x.origin = 'live'"
        " AND x.rowid < $cut AND x.exchange_id IN (SELECT pair_id FROM shadows))"
        " SELECT s.phase, coalesce(s.unit, s.pair_id) AS cluster, s.started_at, s.pair_id"
        + columns
        + " FROM shadows s LEFT JOIN controls c ON c.exchange_id = s.pair_id",
        scope,
    )


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
            WHERE x.experiment = $experiment AND x.role = 'shadow' AND x.phase >= $first AND x.rowid < $cut)
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
    weight = whole(metric.weight_sql) if metric.kind == "ratio" else "1"
    return (
        f", CASE WHEN {seen} THEN {value} END AS v{i}, CASE WHEN {seen} THEN {weight} END AS w{i}"
        f", coalesce({expected}, false) AS expected{i}"
    )


def _cluster_columns(i: int, metric: Metric) -> str:
    complete = f"s{i} IS NOT NULL AND c{i} IS NOT NULL"
    found = (
        f", count(*) FILTER (WHERE {complete}) AS m{i}"
        f", coalesce(sum(s{i} - c{i}), 0.0) AS d{i}"
        f", coalesce(sum(c{i}) FILTER (WHERE {complete}), 0.0) AS control{i}"
        f", count(*) FILTER (WHERE expected{i} AND NOT ({complete})) AS missing{i}"
    )
    if metric.kind == "ratio":
        found += "".join(
            f", CAST(coalesce(sum({column}{i}) FILTER (WHERE {complete}), 0) AS HUGEINT) AS t{i}_{k}"
            for k, column in enumerate(_RATIO)
        )
    if metric.limits:  # cubes of millionths would not fit
        limit = f"count(*) FILTER (WHERE {complete}) * {_CUBED}"
        d = f"coalesce(sum(s{i} - c{i}), 0.0) / {SCALE // _CUBED}"
        found += f", CAST(round(greatest(-{limit}, least({limit}, {d}))) AS HUGEINT) AS thousandths{i}"
    if metric.kind == "binary":  # the earliest pair's two values in one: 2 * control + candidate
        found += f", arg_min(2 * c{i} + s{i}, (started_at, pair_id)) FILTER (WHERE {complete}) AS cell{i}"
    return found


#: The parts of a difference's unit of which cubes are summed: whole numbers of 128 bits hold them.
_CUBED: Final = 1000
#: A ratio's numbers: the candidate's numerator and denominator, the control's.
_RATIO: Final = ("s", "sw", "c", "cw")


def _pair_sum_columns(i: int, metric: Metric) -> str:
    found = (
        f", count(*) FILTER (WHERE m{i} > 0) AS clusters{i}, sum(m{i})::BIGINT AS pairs{i}"
        f", sum(missing{i})::BIGINT AS missing{i}, sum(d{i}) AS d{i}, sum(d{i} * d{i}) AS dd{i}"
        f", sum(m{i} * d{i}) AS md{i}, sum(m{i} * m{i}) AS mm{i}, sum(control{i}) AS control_y{i}"
    )
    if metric.kind == "binary":
        found += "".join(
            f", count(*) FILTER (WHERE cell{i} = {code}) AS {name}{i}"
            for name, code in (("n11", 3), ("n10", 2), ("n01", 1), ("n00", 0))
        )
    if metric.limits:
        found += "".join(
            f", sum({'*'.join([f'm{i}'] * k + [f'thousandths{i}'] * (3 - k))}) AS cubes{i}_{k}"
            for k in range(4)
        )
    if metric.kind == "ratio":
        found += "".join(f", sum(t{i}_{k}) AS t{i}_{k}" for k in range(4))
        found += "".join(f", sum(t{i}_{j} * t{i}_{k}) AS p{i}_{j}{k}" for j in range(4) for k in range(j, 4))
    return found


def _of_ratio(row: Row, i: int) -> dict[str, Any]:
    pairs = [(j, k) for j in range(4) for k in range(j, 4)]
    return {
        "totals": tuple(int(row[f"t{i}_{k}"]) / SCALE for k in range(4)),
        "products": tuple(int(row[f"p{i}_{j}{k}"]) / SCALE**2 for j, k in pairs),
    }


def _cubes(row: Row, i: int) -> tuple[float, ...]:
    return tuple(int(row[f"cubes{i}_{k}"]) / _CUBED ** (3 - k) for k in range(4))


def _halves(spec: AnalysisSpec) -> tuple[tuple[str, str], ...]:
    return ("s", spec.candidate), ("c", spec.control)


def _bin(column: str) -> str:
    """The bin of a logarithm in millionths, as `layout.bin_of` has it."""
    return f"CAST(floor({column} / {SCALE / BINS}) AS INTEGER)"


def _histogram(
    cursor: DuckDBPyConnection, i: int, side: str, metric: Metric, spec: AnalysisSpec, arm: str
) -> Histogram:
    found = cursor.execute(
        f"SELECT {_bin(f'{side}{i}')} AS bin, count(*) FROM paired"
        f" WHERE s{i} IS NOT NULL AND c{i} IS NOT NULL GROUP BY bin ORDER BY bin"
    ).fetchall()
    bins, counts = zip(*found, strict=True) if found else ((), ())
    return Histogram(metric=metric.name, phase=spec.first_phase, arm=arm, bins=bins, counts=counts)


def _quantile(
    cursor: DuckDBPyConnection, i: int, metric: Metric, halves: Sequence[Histogram]
) -> PairQuantile:
    a, b = (half.bins[half.place(metric.quantile or 0.5)] for half in halves)
    names = ("clusters", "a", "b", "m", "aa", "bb", "ab", "am", "bm", "mm")
    sums = ", ".join(f"sum({'*'.join(name)})::BIGINT" for name in names[1:])
    row = cursor.execute(
        f"SELECT count(*), {sums} FROM (SELECT count(*) FILTER ({_bin(f's{i}')} <= {a}) AS a,"
        f" count(*) FILTER ({_bin(f'c{i}')} <= {b}) AS b, count(*) AS m"
        f" FROM paired WHERE s{i} IS NOT NULL AND c{i} IS NOT NULL GROUP BY cluster)"
    ).fetchone()
    return PairQuantile(metric=metric.name, bins=(a, b), **dict(zip(names, row or (), strict=True)))


def _counted(row: Row, i: int, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[f"{name}{i}"] for name in names}


def _scaled(row: Row, i: int, metric: Metric) -> dict[str, Any]:
    """Sums of whole millionths in the metric's own unit."""
    one = 1 if metric.kind == "binary" else SCALE
    units = {"d": one, "dd": one * one, "md": one, "mm": 1, "control_y": one}
    return {name: int(row[f"{name}{i}"]) / unit for name, unit in units.items()}
