"""Which recorded requests is a candidate to be asked, which has it been asked, and why not the others?

A selection is a pure function of rows that are never deleted, so it stays what it was when the experiment
began. What has a copy is known by the copy's row and not given out again: that is how a replay goes on where
it broke off. A body that was not kept cannot be sent; its request stays in the books under that reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection

from ..assignment import PPM
from .rows import unpack
from .store import Row, Store, instant, registered, rows_in

#: What may stand between a request and its pair, besides the proxy's own reasons for not sending a copy.
NOT_RECORDED: Final = "not_recorded"  # numbers only, or the body's time is over
REDACTED: Final = "redacted"  # the model would be asked something else
#: The proxy's name for a second copy of the same request.
ASKED_AGAIN: Final = "asked_again"

#: The state of a request that has its pair.
PAIRED: Final = "paired"

Gate = tuple[str, int, int]
#: How many selected requests a page looks through for some that have no copy.
_STRETCH: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The requests that control was assigned in a window (unix nanoseconds, half-open), sampled as a live
    shadow samples: by the unit's point under `salt`, or the request's own where `by_unit` is false or it has
    none. `gates` are (salt, low, high) that a unit must pass; `limit` takes the oldest. `experiment` is whose
    copies count, None where nothing has begun.
    """

    experiment: str | None
    model: str
    control_version: int
    since_ns: int
    until_ns: int
    salt: str
    share_ppm: int = PPM
    by_unit: bool = True
    gates: tuple[Gate, ...] = ()
    tenants: tuple[str, ...] = field(default=())
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where every selected request stands: selected = paired + skipped + remaining. `units` are those of the
    requests that are, or can be, paired.
    """

    selected: int
    paired: int
    skipped: dict[str, int]
    remaining: int
    units: int


def progress(store: Store, selection: Selection) -> Progress:
    """Where every selected request stands now. Reads the whole window (`standings` does so seldom)."""
    with store.reading() as cursor:
        return progress_at(cursor, selection)


def progress_at(cursor: DuckDBPyConnection, selection: Selection) -> Progress:
    """The same, of what a cursor sees."""
    rows = rows_in(
        cursor.execute(
            f"WITH selected AS ({_selected(selection)}), {_standing('selected')}"
            + """
            SELECT state, GROUPING(state) = 1 AS is_total, state IN ('paired', 'remaining') AS may_pair,
                count(*) AS requests, count(DISTINCT hash(coalesce(unit, exchange_id))) AS units
            FROM standing GROUP BY GROUPING SETS ((state), (state IN ('paired', 'remaining'))) ORDER BY state
            """,
            _parameters(selection),
        )
    )
    by_state = {row["state"]: row["requests"] for row in rows if not row["is_total"]}
    return Progress(
        selected=sum(by_state.values()),
        paired=by_state.get(PAIRED, 0),
        skipped={state: n for state, n in by_state.items() if state not in ("paired", "remaining")},
        remaining=by_state.get("remaining", 0),
        units=sum(row["units"] for row in rows if row["is_total"] and row["may_pair"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Requests that have no copy yet: exchange_id, path, unit, tenant, and request, the bytes that the client
    sent. `after` is where the next page begins; None: there is none.
    """

    requests: list[Row]
    after: str | None


def remaining(
    store: Store, selection: Selection, *, after: str = "", limit: int = 200, max_bytes: int = 8 << 20
) -> Page:
    """The next requests that have no copy, in the order in which they were made, after the one called so: at
    most `limit`, and no more than `max_bytes` of bodies (but one at least). Only a stretch of the window is
    looked at, so that a page costs the same wherever it is; it may hold none.
    """
    stretch = f"""
        WITH selected AS ({_selected(selection)}), stretch AS (
            SELECT * FROM selected WHERE exchange_id > $after ORDER BY exchange_id LIMIT {_STRETCH}),
    """
    parameters = {**_parameters(selection), "after": after}
    with store.reading() as cursor:
        cursor.execute(
            f"CREATE TEMP TABLE standing AS {stretch} {_standing('stretch')} SELECT * FROM standing",
            parameters,
        )
        looked = cursor.execute("SELECT count(*), max(exchange_id) FROM standing").fetchone() or (0, None)
        found = cursor.execute(
            """
            SELECT exchange_id, path, unit, tenant,
                sum(request_bytes) OVER (ORDER BY exchange_id) - request_bytes AS before
            FROM standing WHERE state = 'remaining' ORDER BY exchange_id LIMIT $more
            """,
            {"more": limit + 1},
        ).fetchall()
        kept = [row for row in found[:limit] if row[4] <= max_bytes]
        bodies = dict(
            cursor.execute(
                "SELECT exchange_id, request FROM bodies WHERE list_contains($ids, exchange_id)",
                {"ids": [row[0] for row in kept]},
            ).fetchall()
        )
    following = looked[1] if looked[0] == _STRETCH else None
    # A body whose time ended between the two queries is simply not given out: it will be counted so.
    return Page(
        requests=[
            {
                "exchange_id": name,
                "path": path,
                "unit": unit,
                "tenant": tenant,
                "request": unpack(bodies[name]),
            }
            for name, path, unit, tenant, _ in kept
            if name in bodies
        ],
        after=kept[-1][0] if len(kept) < len(found) else following,
    )


def skipped(store: Store, selection: Selection, *, limit: int = 1000) -> list[Row]:
    """The selected requests that get no pair, the oldest first: exchange_id, path, unit and reason."""
    return store.read(
        f"WITH selected AS ({_selected(selection)}), {_standing('selected')}"
        + """
        SELECT exchange_id, path, unit, state AS reason FROM standing
        WHERE state NOT IN ('paired', 'remaining') ORDER BY exchange_id LIMIT $page
        """,
        {**_parameters(selection), "page": limit},
    )


def _selected(selection: Selection) -> str:
    """SQL for the selected requests."""
    subject = "coalesce(x.unit, x.exchange_id)"
    sampled = subject if selection.by_unit else "x.exchange_id"
    rules = [f"{_point('$salt', sampled)} < $share"] if selection.share_ppm < PPM else []
    rules += [
        f"{_point(f'$salt_{i}', subject)} >= $low_{i} AND {_point(f'$salt_{i}', subject)} < $high_{i}"
        for i in range(len(selection.gates))
    ]
    if selection.tenants:
        rules.append("NOT list_contains($tenants, coalesce(x.tenant, ''))")
    oldest = "ORDER BY x.exchange_id LIMIT $limit" if selection.limit is not None else ""
    return f"""
        SELECT x.exchange_id, x.path, x.unit, x.tenant, x.request_bytes FROM exchanges x
        WHERE x.model = $model AND x.role = 'primary' AND x.origin = 'live' AND x.outcome <> 'rejected'
            AND x.assigned_version = $control AND x.started_at >= $since AND x.started_at < $until
            {"".join(f" AND {rule}" for rule in rules)} {oldest}
    """


def _standing(of: str) -> str:
    """SQL for the table `standing`: the requests of a table like `selected`, each with its state.

    Of a request there is one copy at most (`without_repeats`), and one body.
    """
    return f"""
        standing AS (
            SELECT s.*, CASE WHEN c.pair_id IS NOT NULL THEN
                    if(c.outcome = 'shed', coalesce(c.error_code, 'unknown'), 'paired')
                WHEN k.exchange_id IS NULL THEN '{NOT_RECORDED}' WHEN k.redacted THEN '{REDACTED}'
                ELSE 'remaining' END AS state
            FROM {of} s
            LEFT JOIN (
                SELECT pair_id, outcome, error_code FROM exchanges
                WHERE experiment = $experiment AND role = 'shadow') c ON c.pair_id = s.exchange_id
            LEFT JOIN (
                SELECT exchange_id, redacted FROM bodies
                WHERE model = $model AND started_at >= $since AND started_at < $until) k
            ON k.exchange_id = s.exchange_id)
    """


def _point(salt: str, subject: str) -> str:
    """`assignment.point` in SQL."""
    digest = f"substr(sha256({salt} || ':' || {subject}), 1, 15)"
    return f"(('0x' || {digest})::UBIGINT::HUGEINT * {PPM}) // (1::HUGEINT << 60)"


def _parameters(selection: Selection) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": selection.model,
        "control": selection.control_version,
        "since": instant(selection.since_ns),
        "until": instant(selection.until_ns),
        "experiment": selection.experiment or "",
    }
    if selection.share_ppm < PPM:
        values |= {"salt": selection.salt, "share": selection.share_ppm}
    for i, (salt, low, high) in enumerate(selection.gates):
        values |= {f"salt_{i}": salt, f"low_{i}": low, f"high_{i}": high}
    if selection.tenants:
        values["tenants"] = list(selection.tenants)
    if selection.limit is not None:
        values["limit"] = selection.limit
    return values


# -- taking in ---------------------------------------------------------------------------------------------


def without_repeats(connection: DuckDBPyConnection, incoming: pa.Table) -> pa.Table:
    """The exchanges of a batch, of which each recorded request has one copy and no more in its experiment.

    Whoever replays may be killed between an answer and the note of it, and asks again. The first copy is the
    pair; a further one stays in the ledger, but in no experiment.
    """
    replayed = pc.equal(incoming["origin"], "replay")
    if not pc.any(replayed).as_py():
        return incoming
    with registered(connection, arriving=incoming.filter(replayed)):
        repeats = connection.execute("""
            SELECT exchange_id FROM (
                SELECT exchange_id, experiment, pair_id,
                    row_number() OVER (PARTITION BY experiment, pair_id ORDER BY exchange_id) AS place
                FROM arriving) a
            WHERE place > 1 OR EXISTS (
                SELECT 1 FROM exchanges x WHERE x.experiment = a.experiment AND x.pair_id = a.pair_id
                    AND x.role = 'shadow')
        """).fetchall()
    if not repeats:
        return incoming
    again = pc.is_in(incoming["exchange_id"], value_set=pa.array([row[0] for row in repeats], pa.string()))
    for column, value in (("experiment", None), ("pair_id", None), ("error_code", ASKED_AGAIN)):
        at = incoming.schema.get_field_index(column)
        replaced = pc.if_else(again, pa.scalar(value, pa.string()), incoming[column])
        incoming = incoming.set_column(at, incoming.schema.field(at), replaced)
    return incoming
