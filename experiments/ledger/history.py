"""What were the units of a model's own traffic like, before anything was tried on it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import Cut
from ..history import History, UnitTotals
from ..metrics import Metric
from .facts import EXCHANGES
from .layout import SCALE, Columns, bin_of, layout_of, whole
from .said import KEY, WORDS, asked
from .store import Row, Store, instant, rows_in

#: Production's own answers: a candidate's say nothing about what is usual.
_OWN: Final = """
    x.model = $model AND x.role = 'primary' AND x.origin = 'live' AND x.outcome <> 'rejected'
    AND coalesce(x.assigned_arm, 'control') = 'control' AND x.started_at >= $since AND x.started_at < $until
"""
#: Copies, which a judge of pairs has put beside production's answers.
_COPIES: Final = """
    x.model = $model AND x.role = 'shadow' AND x.started_at >= $since AND x.started_at < $until
"""
_UNIT: Final = "hash(coalesce(x.unit, x.request_id)) AS h"
_TRAFFIC: Final = f"""
    SELECT count(*) AS exchanges, count(DISTINCT coalesce(x.unit, x.request_id)) AS units,
        count(*) FILTER (x.unit IS NULL) AS without_unit,
        coalesce(date_diff('second', min(x.started_at), max(x.started_at)), 0) AS seconds
    FROM {EXCHANGES} x WHERE {_OWN}
"""
_ALL: Final = Cut(exchanges=2**62, feedback=2**62, scores=2**62)


def history(
    store: Store, model: str, metrics: Sequence[Metric], *, since_ns: int, until_ns: int, limit: int
) -> History:
    """Totals of up to `limit` units between two instants, chosen by their hash; a request without a unit is
    one of its own. Scores are of one version of their evaluator: the one that has made the most of them."""
    layout = layout_of([metric for metric in metrics if metric.source is None])
    scope: dict[str, Any] = {"model": model, "since": instant(since_ns), "until": instant(until_ns)}
    each = layout.values_of_control(_UNIT, f"FROM {EXCHANGES} x WHERE {_OWN}")
    bins = "".join(
        f", list({bin_of(value)}) FILTER (s{seen}) AS b{i}"
        for i, (value, seen) in enumerate(layout.histograms)
    )
    failed = "".join(f", ({bit}) AS f{i}" for i, bit in enumerate(layout.bits))
    with store.reading() as cursor:
        (traffic,) = rows_in(cursor.execute(_TRAFFIC, scope))
        totals = layout.totals(traffic["exchanges"])
        rows = rows_in(
            cursor.execute(
                f"SELECT *{failed} FROM (SELECT h, {totals}{bins} FROM ({each}) x GROUP BY h)"
                " ORDER BY h LIMIT $limit",
                {**scope, "limit": limit},
            )
        )
        place = {row["h"]: number for number, row in enumerate(rows)}
        found = {one.metric.name: _of_rows(one, rows) for one in layout.of}
        for metric in metrics:
            if metric.source is not None:
                found[metric.name] = _of_words(cursor, metric, scope, place)
    return History(model=model, totals=found, **traffic)


def _of_rows(one: Columns, rows: Sequence[Row]) -> UnitTotals:
    """What is in the exchanges themselves."""
    scale = 1 if one.weight is None else SCALE
    return UnitTotals(
        y=tuple(0.0 if one.value is None else row[f"y{one.value}"] / SCALE for row in rows),
        m=tuple(
            (row[f"w{one.seen}"] if one.weight is None else row[f"y{one.weight}"]) / scale for row in rows
        ),
        failed=tuple(one.failed is not None and row[f"f{one.failed}"] for row in rows),
        bins=()
        if one.histogram is None
        else tuple(tuple(sorted(row[f"b{one.histogram}"] or ())) for row in rows),
    )


def _of_words(
    cursor: DuckDBPyConnection, metric: Metric, scope: Mapping[str, Any], place: Mapping[int, int]
) -> UnitTotals:
    """What was said of the exchanges later: feedback, scores, and of pairs which half was preferred."""
    source = metric.source or "feedback"
    event = "false" if metric.below is None else f"value < {metric.below!r}"
    found = cursor.execute(
        f"WITH word AS ({WORDS[source]}), spoken AS ("
        f"SELECT {_UNIT}, version, value FROM {EXCHANGES} x JOIN word ON x.{KEY[source]} = word.key"
        f" WHERE {_COPIES if metric.preference else _OWN} AND {metric.observed_sql} AND value IS NOT NULL)"
        f" SELECT h, sum({whole('value')})::BIGINT, count(*), bool_or({event}) FROM spoken WHERE version ="
        " (SELECT version FROM spoken GROUP BY version ORDER BY count(*) DESC, version LIMIT 1) GROUP BY h",
        {**scope, **asked(metric, _ALL)},
    ).fetchall()
    y, m, failed = [0.0] * len(place), [0.0] * len(place), [False] * len(place)
    for h, total, count, occurred in found:
        at = place.get(h)
        if at is not None:
            y[at], m[at], failed[at] = total / SCALE, float(count), bool(occurred)
    return UnitTotals(y=tuple(y), m=tuple(m), failed=tuple(failed))
