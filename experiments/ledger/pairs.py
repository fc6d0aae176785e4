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

#: Both sides of each pair; a pair whose body was not kept has no text and so cannot be told different.
_PAIRS: Final = """
    WITH sides AS (
        SELECT e.*, b.prompt, b.text, b.tool_calls, b.exchange_id IS NOT NULL AS kept
        FROM exchanges e LEFT JOIN bodies b ON b.exchange_id = e.exchange_id
        WHERE (
            (e.experiment = $experiment AND e.role = 'shadow')
            OR (e.role = 'primary' AND e.origin = 'live' AND e.exchange_id IN (
                SELECT pair_id FROM exchanges WHERE experiment = $experiment AND role = 'shadow'))))
    SELECT s.pair_id, p.started_at AS "at", p.prompt,
        p.served_version AS control_version, p.text AS control_text, p.tool_calls AS control_tool_calls,
        p.outcome AS control_outcome, p.finish_reason AS control_finish_reason,
        p.ttft_ms AS control_ttft_ms, p.duration_ms AS control_duration_ms,
        p.completion_tokens AS control_completion_tokens,
        s.assigned_version AS candidate_version, s.text AS candidate_text,
        s.tool_calls AS candidate_tool_calls, s.outcome AS candidate_outcome,
        s.finish_reason AS candidate_finish_reason, s.ttft_ms AS candidate_ttft_ms,
        s.duration_ms AS candidate_duration_ms, s.completion_tokens AS candidate_completion_tokens,
        count(*) OVER () AS total
    FROM sides s JOIN sides p ON p.exchange_id = s.pair_id AND p.role = 'primary'
    WHERE s.role = 'shadow' AND s.outcome <> 'shed' AND CASE $kind
        WHEN 'different' THEN p.kept AND s.kept
            AND (p.text IS DISTINCT FROM s.text
                OR json_transform(p.tool_calls, $call) IS DISTINCT FROM json_transform(s.tool_calls, $call))
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
