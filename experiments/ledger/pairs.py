"""What did control and candidate say to the same request?

The mirrored pairs of a shadow experiment for people to read side by side. How the pairs differ on the
whole is `evidence`'s business.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import orjson

from .exchange import FAILURES
from .store import Row, Store

PairFilter = Literal["all", "different", "failed", "longer"]

_SIDE: Final = (
    "version",
    "text",
    "tool_calls",
    "outcome",
    "finish_reason",
    "ttft_ms",
    "duration_ms",
    "completion_tokens",
)

#: What two tool calls are compared by: their ids are the engine's and never the same.
_CALL: Final = '[{"name": "VARCHAR", "arguments": "VARCHAR"}]'

#: Both sides of each pair; a pair whose body was not kept has no text and so cannot be told different. Of the
#: bodies those of the pairs alone are read, not a month's.
_PAIRS: Final = """
    WITH copies AS MATERIALIZED (
        SELECT * FROM exchanges
        WHERE experiment = $experiment AND role = 'shadow' AND outcome <> 'shed'),
    asked AS MATERIALIZED (
        SELECT * FROM exchanges
        WHERE role = 'primary' AND origin = 'live' AND exchange_id IN (SELECT pair_id FROM copies)),
    said AS MATERIALIZED (
        SELECT exchange_id, prompt, text, tool_calls FROM bodies
        WHERE exchange_id IN (SELECT exchange_id FROM copies UNION ALL SELECT exchange_id FROM asked))
    SELECT s.pair_id, p.started_at AS "at", b.prompt,
        p.served_version AS control_version, b.text AS control_text, b.tool_calls AS control_tool_calls,
        p.outcome AS control_outcome, p.finish_reason AS control_finish_reason,
        p.ttft_ms AS control_ttft_ms, p.duration_ms AS control_duration_ms,
        p.completion_tokens AS control_completion_tokens,
        s.assigned_version AS candidate_version, t.text AS candidate_text,
        t.tool_calls AS candidate_tool_calls, s.outcome AS candidate_outcome,
        s.finish_reason AS candidate_finish_reason, s.ttft_ms AS candidate_ttft_ms,
        s.duration_ms AS candidate_duration_ms, s.completion_tokens AS candidate_completion_tokens,
        count(*) OVER () AS total
    FROM copies s JOIN asked p ON p.exchange_id = s.pair_id
        LEFT JOIN said b ON b.exchange_id = p.exchange_id LEFT JOIN said t ON t.exchange_id = s.exchange_id
    WHERE CASE $kind
        WHEN 'different' THEN b.exchange_id IS NOT NULL AND t.exchange_id IS NOT NULL
            AND (b.text IS DISTINCT FROM t.text
                OR json_transform(b.tool_calls, $call) IS DISTINCT FROM json_transform(t.tool_calls, $call))
        WHEN 'failed' THEN list_contains($failures, p.outcome) OR list_contains($failures, s.outcome)
        WHEN 'longer' THEN coalesce(s.completion_tokens > p.completion_tokens, false)
        ELSE true END
    ORDER BY "at" DESC, s.pair_id LIMIT $limit OFFSET $offset
"""


def listed(
    store: Store, experiment: str, *, kind: PairFilter = "all", limit: int = 50, offset: int = 0
) -> tuple[int, list[Row]]:
    """How many pairs there are of a kind, and a page of them, newest first.

    `different` compares text and tool calls, `failed` means either side, `longer` that the candidate's
    answer has more tokens. Past the last page the number is 0.
    """
    rows = store.read(
        _PAIRS,
        {
            "experiment": experiment,
            "kind": kind,
            "failures": sorted(FAILURES),
            "call": _CALL,
            "limit": limit,
            "offset": offset,
        },
    )
    return (rows[0]["total"] if rows else 0), [_pair(row) for row in rows]


def _pair(row: Row) -> dict[str, Any]:
    return {
        "pair_id": row["pair_id"],
        "at": row["at"],
        "prompt": row["prompt"],
        "control": _side(row, "control"),
        "candidate": _side(row, "candidate"),
    }


def _side(row: Row, arm: str) -> dict[str, Any]:
    side = {name: row[f"{arm}_{name}"] for name in _SIDE}
    side["tool_calls"] = orjson.loads(side["tool_calls"]) if side["tool_calls"] else []
    return side
