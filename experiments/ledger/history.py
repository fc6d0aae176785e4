"""What were the units of a model's own traffic like, before anything was tried on it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..history import History, UnitTotals
from ..metrics import Metric
from .facts import EXCHANGES
from .layout import SCALE, layout_of
from .said import words
from .store import Connection, Row, Store, instant, rows_in

#: Production's own answers: a candidate's say nothing about what is usual.
_OWN: Final = """
    x.model = $model AND x.role = 'primary' AND x.origin = 'live'
        AND x.outcome <> 'rejected' AND coalesce(x.assigned_arm, 'control') = 'control'
        AND x.started_at >= $since AND x.started_at < $until
"""
_WHERE: Final = f"FROM {EXCHANGES} x WHERE {_OWN}"
_TRAFFIC: Final = f"""
    SELECT count(*) AS exchanges, count(DISTINCT coalesce(x.unit, x.request_id)) AS units,
        count(*) FILTER (x.unit IS NULL) AS without_unit,
        coalesce(date_diff('second', min(x.started_at), max(x.started_at)), 0) AS seconds {_WHERE}
"""


def history(
    store: Store, model: str, metrics: Sequence[Metric], *, since_ns: int, until_ns: int, limit: int
) -> History:
    """Totals of up to `limit` units between two instants, chosen by their hash; a request without a unit is
    one of its own. Scores are those of the version that scored last."""
    layout = layout_of([metric for metric in metrics if metric.source is None])
    scope: dict[str, Any] = {"model": model, "since": instant(since_ns), "until": instant(until_ns)}
    # What each arm's tokens cost is the spec's; here all are the control's.
    each = layout.values(layout.rows("hash(coalesce(x.unit, x.request_id)) AS h", _WHERE))
    each = each.replace("x.assigned_arm = 'control'", "true")
    with store.reading() as cursor:
        (traffic,) = rows_in(cursor.execute(_TRAFFIC, scope))
        rows = rows_in(
            cursor.execute(
                f"SELECT h, {layout.totals()} FROM ({each}) GROUP BY h ORDER BY h LIMIT $limit",
                {**scope, "limit": limit},
            )
        )
        said = {
            metric.name: _said(cursor, metric, rows, scope)
            for metric in metrics
            if metric.source is not None and not metric.preference
        }
    found = dict(said)
    for one in layout.of:
        scale = 1 if one.weight is None else SCALE
        found[one.metric.name] = UnitTotals(
            y=tuple(0.0 if one.value is None else row[f"y{one.value}"] / SCALE for row in rows),
            m=tuple(
                (row[f"w{one.seen}"] if one.weight is None else row[f"y{one.weight}"]) / scale for row in rows
            ),
            failed=tuple(one.failed is not None and bool(row["flags"] >> one.failed & 1) for row in rows),
        )
    return History(model=model, totals=found, **traffic)


def _said(cursor: Connection, metric: Metric, rows: Sequence[Row], scope: Mapping[str, Any]) -> UnitTotals:
    """What was said of the answers of the units in `rows`: units of which nothing was said are in it too."""
    key, known, asked = words(metric)
    below = "false" if metric.below is None else f"value < {metric.below!r}"
    said = cursor.execute(
        f"""
        WITH word AS ({known}),
        spoken AS (SELECT hash(coalesce(x.unit, x.request_id)) AS h, version, last, value
            FROM {EXCHANGES} x JOIN word ON key = x.{key}
            WHERE {_OWN} AND {metric.observed_sql} AND value IS NOT NULL)
        SELECT h, sum(value), count(*), bool_or({below}) FROM spoken
        WHERE version = (SELECT arg_max(version, last) FROM spoken) GROUP BY h
        """,
        {**scope, **asked},
    ).fetchall()
    by_unit = {h: (float(y), float(m), bool(failed)) for h, y, m, failed in said}
    each = [by_unit.get(row["h"], (0.0, 0.0, False)) for row in rows]
    return UnitTotals(
        y=tuple(y for y, _, _ in each), m=tuple(m for _, m, _ in each), failed=tuple(f for _, _, f in each)
    )
