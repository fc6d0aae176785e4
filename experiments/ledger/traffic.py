"""What traffic did an experiment get, how did it end, and what was one exchange?

Queries over `exchanges`, `bodies`, `losses` and `segments` for the control API. They count and list; what
the numbers mean for a decision is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import orjson

from ..assignment import CONTROL
from ..errors import NotFound
from ..evidence import Cut
from . import accounts
from .accounts import Accounts
from .exchange import FAILURES
from .rows import unpack
from .store import Row, Store, instant, matching, rows_in, rows_so_far

_FAILURES: Final = sorted(FAILURES)

#: The exchanges of an experiment with the arm they count for; the primaries of a shadow are its control, at
#: the time and in the phase of their copy (of a replay, they were recorded earlier).
_ROWS: Final = """
    WITH counted AS (
        SELECT assigned_arm AS arm, false AS mirrored, * FROM exchanges
        WHERE experiment = $experiment AND origin IN ('live', 'replay')
        UNION ALL
        SELECT 'control', true, p.* REPLACE (s.started_at AS started_at, s.phase AS phase)
        FROM exchanges p JOIN (
            SELECT pair_id, min(started_at) AS started_at, min(phase) AS phase FROM exchanges
            WHERE experiment = $experiment AND role = 'shadow' GROUP BY pair_id) s
        ON s.pair_id = p.exchange_id AND p.role = 'primary')
"""

#: An experiment's own exchanges, and those whose copies are its pairs: these are its control.
_OF_EXPERIMENT: Final = """
    SELECT * FROM exchanges WHERE experiment = $experiment
    UNION ALL BY NAME
    SELECT p.* REPLACE ($control AS assigned_arm)
    FROM exchanges p SEMI JOIN (
        SELECT pair_id FROM exchanges
        WHERE experiment = $experiment AND role = 'shadow' AND outcome <> 'shed') s
    ON s.pair_id = p.exchange_id
    WHERE p.role = 'primary' AND p.origin = 'live' AND p.experiment IS DISTINCT FROM $experiment
"""

_LISTED: Final = """
    SELECT {columns} FROM {table}
    WHERE {wanted}
        AND (CAST($trace_id AS VARCHAR) IS NULL
            OR coalesce(substr(traceparent, 4, 32),
                replace(if(origin = 'replay', exchange_id, request_id), '-', '')) = $trace_id)
        AND (CAST($before AS VARCHAR) IS NULL
            OR started_at < $began OR (started_at = $began AND exchange_id > $before))
    ORDER BY started_at DESC, exchange_id LIMIT $limit OFFSET $offset
"""

_LOST: Final = """
    SELECT e.name, sum(l.count)::BIGINT AS lost FROM losses l JOIN experiments e
    ON l.until >= e.started_at AND (e.ended_at IS NULL OR l.since <= e.ended_at)
    WHERE list_contains($experiments, e.name) GROUP BY e.name
"""


def take_in(store: Store, books: Mapping[str, Accounts]) -> dict[str, int]:
    """Bring the experiments' accounts up to date; how many rows workers could not write while each ran."""
    with store.reading() as cursor:
        cursor.begin()
        cut = Cut(exchanges=rows_so_far(cursor))
        accounts.take_in(cursor, books.values(), cut)
        lost = {
            row["name"]: int(row["lost"])
            for row in rows_in(cursor.execute(_LOST, {"experiments": list(books)}))
        }
        cursor.commit()
    return {name: lost.get(name, 0) for name in books}


def timeline(store: Store, experiment: str, *, bucket_s: int = 10) -> list[Row]:
    """Per bucket, arm and phase: "at" (the bucket's begin), requests, failures and the medians in ms.

    `mirrored`: these requests are counted a second time, as the candidate's copies.
    """
    return store.read(
        _ROWS
        + """
        SELECT make_timestamp(epoch_us(started_at) // $width * $width) AS "at", arm, phase, mirrored,
            count(*) AS requests,
            count(*) FILTER (WHERE list_contains($failures, coalesce(arm_outcome, outcome))) AS failures,
            median(ttft_ms) FILTER (WHERE outcome IN ('complete', 'length')) AS p50_ttft_ms,
            median(duration_ms) FILTER (WHERE outcome IN ('complete', 'length')) AS p50_duration_ms
        FROM counted WHERE arm IS NOT NULL AND outcome NOT IN ('rejected', 'shed')
        GROUP BY ALL ORDER BY 1, 2, 3
        """,
        {"experiment": experiment, "failures": _FAILURES, "width": max(1, bucket_s) * 1_000_000},
    )


def exchange(store: Store, exchange_id: str) -> Row | None:
    """One exchange with its body, if that was kept: request and response as text, tool calls parsed."""
    rows = store.read(
        """
        SELECT e.*, b.request, b.response, b.prompt, b.text, b.reasoning, b.tool_calls, b.clipped, b.redacted
        FROM exchanges e LEFT JOIN bodies b ON b.exchange_id = e.exchange_id
        WHERE e.exchange_id = ?
        """,
        [exchange_id],
    )
    if not rows:
        return None
    row = rows[0]
    for name in ("request", "response"):
        body = unpack(row[name])
        row[name] = None if body is None else body.decode("utf-8", "backslashreplace")
    row["tool_calls"] = orjson.loads(row["tool_calls"]) if row["tool_calls"] else []
    return row


def exchanges(
    store: Store,
    *,
    model: str | None = None,
    experiment: str | None = None,
    arm: str | None = None,
    outcome: str | None = None,
    origin: str | None = None,
    trace_id: str | None = None,
    before: str | None = None,
    limit: int = 50,
    offset: int = 0,
) -> list[Row]:
    """Exchanges without their bodies, newest first. `arm` is the assigned arm; None means any.

    Of a shadow's or replay's pairs the primaries are found too: they are its control, whatever arm they
    were in themselves. `trace_id`: of the client's trace, or of one that is called as the request is.
    `before`: those that come after the exchange of that id, whatever came in meanwhile. Raises NotFound if
    there is none.
    """
    began = None if before is None else _began(store, before)
    wanted, values = matching(model=model, assigned_arm=arm, outcome=outcome, origin=origin)
    place = {"trace_id": trace_id, "before": before, "began": began, "limit": limit, "offset": offset}
    parameters = values | place
    if experiment is None:
        return store.read(_LISTED.format(table="exchanges", columns="*", wanted=wanted), parameters)
    # The page is found by the few columns that it takes; only its own rows are read whole.
    found = _LISTED.format(table=f"({_OF_EXPERIMENT})", columns="exchange_id", wanted=wanted)
    return store.read(
        f"SELECT * FROM exchanges WHERE exchange_id IN ({found}) ORDER BY started_at DESC, exchange_id",
        parameters | {"experiment": experiment, "control": CONTROL},
    )


def _began(store: Store, exchange_id: str) -> datetime:
    rows = store.read("SELECT started_at FROM exchanges WHERE exchange_id = ?", [exchange_id])
    if not rows:
        raise NotFound(f"no exchange {exchange_id!r} to go on from", code="unknown_exchange", param="before")
    began: datetime = rows[0]["started_at"]
    return began


def candidate_ends(
    store: Store, experiment: str, phase: int, version: int, since_ns: int
) -> tuple[int, int, int]:
    """How many requests a version answered since an instant in a phase, how many failed there, and how many
    clients left without a byte of an answer."""
    rows = store.read(
        """
        SELECT count(*) FILTER (WHERE arm_outcome IS NULL AND outcome IN ('complete', 'length')) AS answered,
            count(*) FILTER (WHERE list_contains(?, coalesce(arm_outcome, outcome))) AS failed,
            count(*) FILTER (WHERE arm_outcome IS NULL AND outcome = 'client_gone' AND first_byte_ms IS NULL)
                AS given_up
        FROM exchanges
        WHERE experiment = ? AND phase = ? AND role = 'primary' AND assigned_version = ? AND started_at >= ?
        """,
        [_FAILURES, experiment, phase, version, instant(since_ns)],
    )
    return rows[0]["answered"], rows[0]["failed"], rows[0]["given_up"]


def condition(store: Store) -> Row:
    """How the ledger is: last_segment_at, rows (exchanges), losses, torn_bytes, quarantined, bytes."""
    rows = store.read("""
        SELECT (SELECT max(collected_at) FROM segments) AS last_segment_at,
            (SELECT count(*) FROM exchanges) AS rows,
            (SELECT coalesce(sum(count), 0)::BIGINT FROM losses) AS losses,
            (SELECT coalesce(sum(torn_bytes), 0)::BIGINT FROM segments) AS torn_bytes,
            (SELECT coalesce(sum(quarantined), 0)::BIGINT FROM segments) AS quarantined
    """)
    return {**rows[0], "bytes": store.size()}
