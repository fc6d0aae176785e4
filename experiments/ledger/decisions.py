"""How do decisions and settings lie in the ledger?

Writes take the connection of a `Store.write`, so that a decision is recorded with what it changed.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from duckdb import DuckDBPyConnection

from ..decision import Action, Decision, DecisionState
from .store import Row, Store, instant, matching, nanoseconds

#: Of a row of `decisions`: whether it is of the experiment, or has ended it beside others. A promotion that
#: failed has ended nothing.
_CONCERNS: Final = """
    (experiment = $experiment OR (NOT (action = 'promote' AND decisions.state = 'failed')
        AND list_contains(json_extract_string(detail, '$.ended[*]'), $experiment)))
"""

#: When a decision came, in the order of the commits (clocks are set back); NULL before there were events.
_CAME: Final = "(SELECT min(number) FROM events WHERE events.decision_id = decisions.decision_id)"
_NEWEST_FIRST: Final = f'{_CAME} DESC NULLS LAST, "at" DESC, decision_id'


def record(connection: DuckDBPyConnection, decision: Decision) -> None:
    """Write the row. A decision that is there already keeps its row, but for its state: safe to repeat."""
    _announce(connection, decision.decision_id, decision.state)
    connection.execute(
        """
        INSERT INTO decisions (decision_id, "at", actor, action, model, experiment, from_version, to_version,
            verdict_kind, verdict_hash, forced, reason, state, detail)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (decision_id) DO UPDATE SET state = excluded.state, detail = excluded.detail
        """,
        [
            decision.decision_id,
            instant(decision.at_ns),
            decision.actor,
            decision.action,
            decision.model,
            decision.experiment,
            decision.from_version,
            decision.to_version,
            decision.verdict_kind,
            decision.verdict_hash,
            decision.forced,
            decision.reason,
            decision.state,
            orjson.dumps({**decision.detail, "changed": decision.changed}).decode(),
        ],
    )


def settle(connection: DuckDBPyConnection, decision_id: str, state: DecisionState) -> None:
    """An intent becomes done or failed."""
    _announce(connection, decision_id, state)
    connection.execute("UPDATE decisions SET state = ? WHERE decision_id = ?", [state, decision_id])


def _announce(connection: DuckDBPyConnection, decision_id: str, state: DecisionState) -> None:
    """An event, unless the decision is in that state already."""
    connection.execute(
        """
        INSERT INTO events (decision_id, state) SELECT $id, $state
        WHERE NOT EXISTS (SELECT 1 FROM decisions WHERE decision_id = $id AND state = $state)
        """,
        {"id": decision_id, "state": state},
    )


def state(store: Store, decision_id: str) -> DecisionState | None:
    """The state that a decision is in, None if it is not recorded."""
    rows = store.read("SELECT state FROM decisions WHERE decision_id = ?", [decision_id])
    return rows[0]["state"] if rows else None


def intents(store: Store) -> list[Decision]:
    """What was begun and neither finished nor given up, oldest first."""
    rows = store.read(
        f"SELECT * FROM decisions WHERE state = 'intent' ORDER BY {_CAME} NULLS FIRST, \"at\", decision_id"
    )
    return [decision_of(row) for row in rows]


def listed(
    store: Store, *, model: str | None = None, experiment: str | None = None, limit: int = 100
) -> list[Decision]:
    """The latest decisions on a model, those that concern an experiment, or all; newest first."""
    wanted, values = concerning(model, experiment)
    rows = store.read(
        f"SELECT * FROM decisions WHERE {wanted} ORDER BY {_NEWEST_FIRST} LIMIT $limit",
        values | {"limit": limit},
    )
    return [decision_of(row) for row in rows]


def concerning(model: str | None, experiment: str | None) -> tuple[str, dict[str, Any]]:
    """The condition that a row of `decisions` is on the model and concerns the experiment (None: on any), and
    its parameters."""
    wanted, values = matching(model=model)
    if experiment is None:
        return wanted, values
    return f"{wanted} AND {_CONCERNS}", values | {"experiment": experiment}


def latest(store: Store, action: Action) -> Decision | None:
    """The latest decision of that kind, None if there is none."""
    rows = store.read(f"SELECT * FROM decisions WHERE action = ? ORDER BY {_NEWEST_FIRST} LIMIT 1", [action])
    return decision_of(rows[0]) if rows else None


def applied(store: Store) -> frozenset[str]:
    """The experiments that an apply began."""
    rows = store.read(
        "SELECT DISTINCT experiment FROM decisions WHERE action IN ('start', 'preflight')"
        " AND json_extract_string(detail, '$.plan') IS NOT NULL"
    )
    return frozenset(row["experiment"] for row in rows)


def taken(store: Store, plan: str, since_ns: int) -> int:
    """How many steps of a plan have been taken since then."""
    rows = store.read(
        "SELECT count(*) AS steps FROM decisions WHERE action != 'apply' AND state = 'done'"
        " AND json_extract_string(detail, '$.plan') = ? AND \"at\" >= ?",
        [plan, instant(since_ns)],
    )
    return int(rows[0]["steps"])


def former_production(store: Store, model: str, production: int | None) -> int | None:
    """The version that was production before this one, as far as the decisions tell."""
    rows = store.read(
        f"""
        SELECT from_version FROM decisions
        WHERE model = ? AND action = 'promote' AND state = 'done' AND to_version = ?
        ORDER BY {_NEWEST_FIRST} LIMIT 1
        """,
        [model, production],
    )
    return rows[0]["from_version"] if rows else None


def verdict_hashes(store: Store, model: str) -> dict[str, str]:
    """By experiment of the model, the hash of the verdict that was last acted on."""
    rows = store.read(
        f"""
        SELECT experiment, verdict_hash FROM decisions
        WHERE model = ? AND experiment IS NOT NULL AND verdict_hash IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY experiment ORDER BY {_NEWEST_FIRST}) = 1
        """,
        [model],
    )
    return {row["experiment"]: row["verdict_hash"] for row in rows}


def decision_of(row: Row) -> Decision:
    """A row of `decisions` as the value it was made from."""
    detail: dict[str, Any] = orjson.loads(row["detail"]) if row["detail"] else {}
    changed = tuple(detail.pop("changed", ()))
    return Decision(
        decision_id=row["decision_id"],
        at_ns=nanoseconds(row["at"]),
        actor=row["actor"],
        action=row["action"],
        model=row["model"],
        experiment=row["experiment"],
        from_version=row["from_version"],
        to_version=row["to_version"],
        verdict_kind=row["verdict_kind"],
        verdict_hash=row["verdict_hash"],
        forced=row["forced"],
        reason=row["reason"],
        state=row["state"],
        changed=changed,
        detail=detail,
    )


def setting(store: Store, key: str) -> str | None:
    """A setting's value, None if it was never set."""
    rows = store.read("SELECT value FROM settings WHERE key = ?", [key])
    return rows[0]["value"] if rows else None


def set_setting(connection: DuckDBPyConnection, key: str, value: str) -> None:
    """Write a setting."""
    connection.execute(
        "INSERT INTO settings VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [key, value],
    )
