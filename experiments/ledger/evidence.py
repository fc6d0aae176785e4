"""Which sums over the ledger does a verdict start from?

Everything is aggregated in SQL: the rows of an experiment are scanned once into totals per unit, phase and
assigned arm, and those are summed up. No row leaves the database. Assignment counts as it was made
(intention to treat): a fallback's answer belongs to the arm that failed. This module judges nothing.

SQL text is put together from the metric catalogue and from numbered column names only; every value is a
parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import AnalysisSpec, ArmCount, Evidence, Golden, MetricSums, Overlap, PairSums
from ..metrics import Metric
from .store import Row, Store, instant, nanoseconds, rows_in


def gather(store: Store, spec: AnalysisSpec, *, as_of_ns: int, golden_set: str | None = None) -> Evidence:
    """All that is known of an experiment about exchanges that began up to `as_of_ns`.

    `golden_set` names the golden set whose comparison counts; None: any set's latest does. Raises
    LookupError if the ledger has no such experiment.
    """
    metrics = _distinct(spec)
    scope = {"experiment": spec.experiment, "as_of": instant(as_of_ns), "first": spec.first_phase}
    with store.reading() as cursor:
        trial = rows_in(cursor.execute(_TRIAL, {"experiment": spec.experiment, "first": spec.first_phase}))
        if not trial:
            raise LookupError(f"the ledger has no experiment {spec.experiment!r}")
        started = trial[0]["started_at"] or trial[0]["created_at"]
        shadow = spec.mode == "shadow"
        pairs = _pairs(cursor, metrics, scope) if shadow else ()
        if not shadow:
            _totals(cursor, metrics, scope)
        return Evidence(
            experiment=spec.experiment,
            as_of_ns=as_of_ns,
            started_ns=nanoseconds(started),
            arms=() if shadow else _arms(cursor, spec),
            sums=() if shadow else _sums(cursor, metrics),
            pairs=pairs,
            overlaps=() if shadow else _overlaps(cursor, metrics),
            units_in_two_arms=0 if shadow else _number(cursor, _TWO_ARMS, {}),
            recorded=_number(cursor, _RECORDED, {**scope, "role": "shadow" if shadow else "primary"}),
            lost=_number(cursor, _LOST, {"since": started, "until": instant(as_of_ns)}),
            golden=_golden(cursor, spec, trial[0]["model"], golden_set),
        )


def _distinct(spec: AnalysisSpec) -> tuple[Metric, ...]:
    """Each metric once, though it may be a success metric and a guardrail too."""
    return tuple({goal.metric.name: goal.metric for goal in spec.goals}.values())


#: The stage that is judged began with its first phase; without one, with the experiment.
_TRIAL: Final = """
    SELECT e.model, e.created_at, coalesce(p.started_at, e.started_at) AS started_at
    FROM experiments e LEFT JOIN phases p ON p.experiment = e.name AND p.phase = $first
    WHERE e.name = $experiment
"""

_RECORDED: Final = """
    SELECT count(*) FROM exchanges
    WHERE experiment = $experiment AND role = $role AND origin = 'live' AND started_at <= $as_of
        AND outcome <> 'rejected' AND phase >= $first
"""

#: Losses are a worker's, not an experiment's: whatever was lost meanwhile may have been of this one.
_LOST: Final = """
    SELECT coalesce((SELECT sum(count) FROM losses WHERE until >= $since AND since <= $until), 0)
        + coalesce((SELECT sum(quarantined) FROM segments
                    WHERE collected_at >= $since AND collected_at <= $until), 0)
"""

_GOLDEN: Final = """
    SELECT verdict FROM golden_comparisons
    WHERE model = $model AND control_version = $control AND candidate_version = $candidate
        AND (CAST($set AS VARCHAR) IS NULL OR set_name = $set)
    ORDER BY "at" DESC LIMIT 1
"""


def _number(cursor: DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> int:
    row = cursor.execute(sql, parameters).fetchone()
    return int(row[0]) if row else 0


def _golden(
    cursor: DuckDBPyConnection, spec: AnalysisSpec, model: str, set_name: str | None
) -> Golden | None:
    found = cursor.execute(
        _GOLDEN,
        {
            "model": model,
            "control": spec.control_version,
            "candidate": spec.candidate_version,
            "set": set_name,
        },
    ).fetchone()
    return found[0] if found else None


# -- arms of a split -------------------------------------------------------------------------------


def _totals(cursor: DuckDBPyConnection, metrics: Sequence[Metric], scope: dict[str, Any]) -> None:
    """The temporary table `totals`: one row for each unit, phase and assigned arm.

    For metric i: `y<i>` and `m<i>` are the sum of its values and their number, `missing<i>` how many are
    missing, `failed<i>` (binary) when it first was 1, `lacked<i>` when it first was missing.
    """
    columns = "".join(_unit_columns(i, metric) for i, metric in enumerate(metrics))
    names = {f"feedback{i}": metric.feedback for i, metric in enumerate(metrics) if metric.feedback}
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE totals AS"
        " SELECT x.unit, x.phase, x.assigned_arm AS arm, count(*) AS exchanges"
        + columns
        + " FROM exchanges x"
        + "".join(_feedback_join(i) for i, metric in enumerate(metrics) if metric.feedback)
        + " WHERE x.experiment = $experiment AND x.origin = 'live' AND x.role = 'primary'"
        " AND x.unit IS NOT NULL AND x.assigned_arm IS NOT NULL AND x.outcome <> 'rejected'"
        " AND x.started_at <= $as_of AND x.phase >= $first GROUP BY x.unit, x.phase, x.assigned_arm",
        {**scope, **names},
    )


def _feedback_join(i: int) -> str:
    """Of what was reported several times, the latest counts."""
    return (
        f' LEFT JOIN (SELECT request_id, arg_max(value, "at") AS value FROM feedback'
        f" WHERE name = $feedback{i} GROUP BY request_id) f{i} ON f{i}.request_id = x.request_id"
    )


def _expressions(i: int, metric: Metric) -> tuple[str, str, str]:
    """What the catalogue says of value, observed and expected; a feedback metric has its own join."""
    value, observed, expected = metric.value_sql, metric.observed_sql, metric.expected_sql
    if metric.feedback is None:
        return value, observed, expected
    joined = f"f{i}.value"
    return tuple(text.replace("f.value", joined) for text in (value, observed, expected))  # type: ignore[return-value]


def _unit_columns(i: int, metric: Metric) -> str:
    value, observed, expected = _expressions(i, metric)
    failed = (
        f", min(x.started_at) FILTER (WHERE ({observed}) AND ({value}) = 1.0) AS failed{i}"
        if metric.kind == "binary"
        else f", NULL::TIMESTAMP AS failed{i}"
    )
    lacking = f"({expected}) AND NOT ({observed})"
    return (
        f", coalesce(sum({value}) FILTER (WHERE {observed}), 0.0) AS y{i}"
        f", count(*) FILTER (WHERE {observed}) AS m{i}"
        f", count(*) FILTER (WHERE {lacking}) AS missing{i}"
        f", min(x.started_at) FILTER (WHERE {lacking}) AS lacked{i}" + failed
    )


#: Every arm of every declared phase, also those that got nobody: a missing arm must not go unseen.
_ARMS: Final = """
    WITH declared AS (
        SELECT phase, $control AS arm, (1000000 - candidate_ppm) / 1e6 AS share
        FROM phases WHERE experiment = $experiment AND phase >= $first
        UNION ALL
        SELECT phase, $candidate, candidate_ppm / 1e6 FROM phases
        WHERE experiment = $experiment AND phase >= $first),
    firsts AS (SELECT unit, min(phase) AS phase FROM totals GROUP BY unit),
    seen AS (
        SELECT t.phase, t.arm, count(f.unit) AS units, sum(t.exchanges) AS exchanges
        FROM totals t LEFT JOIN firsts f ON f.unit = t.unit AND f.phase = t.phase GROUP BY t.phase, t.arm)
    SELECT phase, arm, coalesce(d.share, 0.0) AS expected_share, coalesce(s.units, 0) AS units,
        coalesce(s.exchanges, 0)::BIGINT AS exchanges
    FROM declared d FULL JOIN seen s USING (phase, arm) ORDER BY phase, arm
"""

_TWO_ARMS: Final = """
    SELECT count(DISTINCT unit) FROM (
        SELECT unit FROM totals GROUP BY unit, phase HAVING count(*) > 1)
"""


def _arms(cursor: DuckDBPyConnection, spec: AnalysisSpec) -> tuple[ArmCount, ...]:
    parameters = {
        "experiment": spec.experiment,
        "control": spec.control,
        "candidate": spec.candidate,
        "first": spec.first_phase,
    }
    return tuple(ArmCount(**row) for row in rows_in(cursor.execute(_ARMS, parameters)))


_SUMMED: Final = ("units", "missing", "y", "m", "yy", "mm", "ym", "failing_units", "missing_units")


def _sums(cursor: DuckDBPyConnection, metrics: Sequence[Metric]) -> tuple[MetricSums, ...]:
    columns = "".join(
        f", count(*) FILTER (WHERE m{i} > 0) AS units{i}, sum(missing{i})::BIGINT AS missing{i}"
        f", sum(y{i}) AS y{i}, sum(m{i})::DOUBLE AS m{i}, sum(y{i} * y{i}) AS yy{i}"
        f", sum(m{i} * m{i})::DOUBLE AS mm{i}, sum(y{i} * m{i}) AS ym{i}"
        f", count(*) FILTER (WHERE failed{i} = first_failed{i}) AS failing_units{i}"
        f", count(*) FILTER (WHERE lacked{i} = first_lacked{i}) AS missing_units{i}"
        for i in range(len(metrics))
    )
    rows = rows_in(
        cursor.execute(
            "WITH firsts AS (SELECT unit AS who"
            + "".join(
                f", min(failed{i}) AS first_failed{i}, min(lacked{i}) AS first_lacked{i}"
                for i in range(len(metrics))
            )
            + " FROM totals GROUP BY unit)"
            " SELECT phase, arm, sum(exchanges)::BIGINT AS exchanges"
            + columns
            + " FROM totals JOIN firsts ON unit = who GROUP BY phase, arm ORDER BY phase, arm"
        )
    )
    return tuple(
        MetricSums(
            metric=metric.name,
            phase=row["phase"],
            arm=row["arm"],
            exchanges=row["exchanges"],
            **_numbered(row, i, _SUMMED),
        )
        for i, metric in enumerate(metrics)
        for row in rows
    )


def _overlaps(cursor: DuckDBPyConnection, metrics: Sequence[Metric]) -> tuple[Overlap, ...]:
    columns = "".join(
        f", sum(a.y{i} * b.y{i}) AS yy{i}, sum(a.y{i} * b.m{i}) AS ym{i}, sum(a.m{i} * b.y{i}) AS my{i}"
        f", sum(a.m{i} * b.m{i})::DOUBLE AS mm{i}"
        for i in range(len(metrics))
    )
    rows = rows_in(
        cursor.execute(
            "SELECT a.phase AS phase_a, a.arm AS arm_a, b.phase AS phase_b, b.arm AS arm_b"
            + columns
            + " FROM totals a JOIN totals b ON a.unit = b.unit AND a.phase < b.phase"
            " GROUP BY ALL ORDER BY phase_a, arm_a, phase_b, arm_b"
        )
    )
    places = ("phase_a", "arm_a", "phase_b", "arm_b")
    return tuple(
        Overlap(
            metric=metric.name,
            **{place: row[place] for place in places},
            **_numbered(row, i, ("yy", "ym", "my", "mm")),
        )
        for i, metric in enumerate(metrics)
        for row in rows
    )


def _numbered(row: Row, i: int, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[f"{name}{i}"] for name in names}


# -- pairs of a shadow -----------------------------------------------------------------------------

#: A unit's pairs hang together; a request without a unit stands for itself.
_PAIRED: Final = """
    FROM shadows s LEFT JOIN controls c ON c.exchange_id = s.pair_id
    GROUP BY s.phase, coalesce(s.unit, s.pair_id)
"""


def _pairs(
    cursor: DuckDBPyConnection, metrics: Sequence[Metric], scope: dict[str, Any]
) -> tuple[PairSums, ...]:
    """Sums over clusters of pairs. Feedback is about what the user saw, so it has no pairs."""
    kept = [metric for metric in metrics if metric.feedback is None]
    sides = "".join(_side_columns(i, metric) for i, metric in enumerate(kept))
    rows = rows_in(
        cursor.execute(
            "WITH shadows AS (SELECT x.pair_id, x.phase, x.unit, x.started_at"
            + sides
            + " FROM exchanges x WHERE x.experiment = $experiment AND x.role = 'shadow'"
            " AND x.origin = 'live' AND x.started_at <= $as_of AND x.phase >= $first),"
            " controls AS (SELECT x.exchange_id"
            + sides
            + " FROM exchanges x WHERE x.role = 'primary' AND x.origin = 'live'"
            " AND x.exchange_id IN (SELECT pair_id FROM shadows)),"
            " clusters AS (SELECT s.phase AS phase"
            + "".join(_cluster_columns(i) for i in range(len(kept)))
            + _PAIRED
            + ") SELECT phase"
            + "".join(_pair_sum_columns(i) for i in range(len(kept)))
            + " FROM clusters GROUP BY phase ORDER BY phase",
            scope,
        )
    )
    names = ("clusters", "pairs", "missing", "d", "dd", "md", "mm", "control_y")
    cells = ("n11", "n10", "n01", "n00")
    return tuple(
        PairSums(
            metric=metric.name,
            phase=row["phase"],
            **_numbered(row, i, names),
            **(_numbered(row, i, cells) if metric.kind == "binary" else {}),
        )
        for i, metric in enumerate(kept)
        for row in rows
    )


def _side_columns(i: int, metric: Metric) -> str:
    return (
        f", CASE WHEN {metric.observed_sql} THEN {metric.value_sql} END AS v{i}"
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
        f", sum(m{i} * d{i}) AS md{i}, sum(m{i} * m{i})::DOUBLE AS mm{i}, sum(control{i}) AS control_y{i}"
        + cells
    )
