"""Which tables does the ledger have, and how does an older file become a current one?

Migrations are named functions in the order in which they were written; the file says which ones it has
had. A migration that has been released is never edited: the next change is the next function.
Every TIMESTAMP is UTC. This module knows tables, and nothing of what fills them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from duckdb import DuckDBPyConnection

from ..errors import Unavailable

Migration = Callable[[DuckDBPyConnection], None]


class LedgerError(Unavailable):
    """The ledger cannot be used: held by another process, closed, unreadable or too new.

    LedgerError
    ├── LedgerHeld     another process owns the file
    ├── LedgerClosed   this process has closed it
    └── LedgerTooNew   a newer Turnout wrote it
    """

    code = "ledger_unavailable"


class LedgerHeld(LedgerError):
    """Another process owns the file: DuckDB admits one."""

    code = "ledger_held"


class LedgerClosed(LedgerError):
    """The store was closed; nothing was read or written."""

    code = "ledger_closed"


class LedgerTooNew(LedgerError):
    """The file has migrations that this code does not know."""

    code = "ledger_too_new"


def traffic(connection: DuckDBPyConnection) -> None:
    """Exchanges, their bodies, feedback, losses, and the segments that they came in.

    `exchanges` has no primary key: exactly-once follows from the segment that is inserted in the same
    transaction, and an index over every row would cost more memory than the rows' own statistics.
    Requests and responses are LZ4 frames (`rows.unpack` reads them): a stream shrinks to a tenth, and with
    it what every commit writes.
    """
    connection.execute("""
        CREATE TABLE exchanges (
            exchange_id VARCHAR NOT NULL, request_id VARCHAR NOT NULL, pair_id VARCHAR,
            role VARCHAR NOT NULL, origin VARCHAR NOT NULL, started_at TIMESTAMP NOT NULL,
            path VARCHAR NOT NULL, model VARCHAR NOT NULL,
            experiment VARCHAR, phase INTEGER NOT NULL, assigned_arm VARCHAR, served_arm VARCHAR,
            assigned_version INTEGER, served_version INTEGER, unit VARCHAR, tenant VARCHAR,
            snapshot BIGINT NOT NULL, stream BOOLEAN NOT NULL, status INTEGER NOT NULL,
            outcome VARCHAR NOT NULL, arm_outcome VARCHAR, error_code VARCHAR, attempts INTEGER NOT NULL,
            first_byte_ms DOUBLE, ttft_ms DOUBLE, duration_ms DOUBLE NOT NULL,
            gap_mean_ms DOUBLE, gap_p99_ms DOUBLE, gap_max_ms DOUBLE,
            prompt_tokens BIGINT, completion_tokens BIGINT, cached_tokens BIGINT,
            finish_reason VARCHAR, choices INTEGER, chunks INTEGER,
            request_bytes BIGINT NOT NULL, response_bytes BIGINT NOT NULL,
            worker VARCHAR NOT NULL, segment VARCHAR NOT NULL)
    """)
    connection.execute("""
        CREATE TABLE bodies (
            exchange_id VARCHAR NOT NULL, model VARCHAR NOT NULL, started_at TIMESTAMP NOT NULL,
            request BLOB, response BLOB, prompt VARCHAR, text VARCHAR, reasoning VARCHAR,
            tool_calls JSON, clipped BOOLEAN NOT NULL, redacted BOOLEAN NOT NULL, bytes BIGINT NOT NULL)
    """)
    connection.execute("""
        CREATE TABLE feedback (
            request_id VARCHAR NOT NULL, name VARCHAR NOT NULL, value DOUBLE NOT NULL,
            "at" TIMESTAMP NOT NULL, segment VARCHAR NOT NULL)
    """)
    connection.execute("""
        CREATE TABLE losses (
            worker VARCHAR NOT NULL, since TIMESTAMP NOT NULL, until TIMESTAMP NOT NULL,
            count BIGINT NOT NULL)
    """)
    connection.execute("""
        CREATE TABLE segments (
            name VARCHAR PRIMARY KEY, collected_at TIMESTAMP NOT NULL, records BIGINT NOT NULL,
            torn_bytes BIGINT NOT NULL, quarantined BIGINT NOT NULL)
    """)


def trials(connection: DuckDBPyConnection) -> None:
    """Experiments with their phases, the ranges that a model's arms own, and every look at the verdict."""
    connection.execute("""
        CREATE TABLE experiments (
            name VARCHAR PRIMARY KEY, model VARCHAR NOT NULL, mode VARCHAR NOT NULL, state VARCHAR NOT NULL,
            spec JSON NOT NULL, spec_yaml VARCHAR, spec_hash VARCHAR NOT NULL,
            control_version INTEGER, candidate_version INTEGER,
            created_at TIMESTAMP NOT NULL, started_at TIMESTAMP, ended_at TIMESTAMP, note VARCHAR)
    """)
    connection.execute("""
        CREATE TABLE phases (
            experiment VARCHAR NOT NULL, phase INTEGER NOT NULL, started_at TIMESTAMP NOT NULL,
            ended_at TIMESTAMP, candidate_ppm INTEGER NOT NULL, share_ppm INTEGER NOT NULL,
            PRIMARY KEY (experiment, phase))
    """)
    connection.execute(
        "CREATE TABLE routes (model VARCHAR PRIMARY KEY, experiment VARCHAR, ranges JSON NOT NULL)"
    )
    connection.execute("""
        CREATE TABLE looks (
            experiment VARCHAR NOT NULL, "at" TIMESTAMP NOT NULL, units BIGINT NOT NULL,
            verdict_kind VARCHAR NOT NULL, verdict JSON NOT NULL)
    """)


def decisions(connection: DuckDBPyConnection) -> None:
    """The audit rows, and the settings that must survive a restart."""
    connection.execute("""
        CREATE TABLE decisions (
            decision_id VARCHAR PRIMARY KEY, "at" TIMESTAMP NOT NULL, actor VARCHAR NOT NULL,
            action VARCHAR NOT NULL, model VARCHAR, experiment VARCHAR, from_version INTEGER,
            to_version INTEGER, verdict_kind VARCHAR, verdict_hash VARCHAR, forced BOOLEAN NOT NULL,
            reason VARCHAR, state VARCHAR NOT NULL, detail JSON)
    """)
    connection.execute("CREATE TABLE settings (key VARCHAR PRIMARY KEY, value VARCHAR)")


def golden(connection: DuckDBPyConnection) -> None:
    """Golden runs, a result per item, repeat and evaluator, and comparisons of two runs."""
    connection.execute("""
        CREATE TABLE golden_runs (
            run_id VARCHAR PRIMARY KEY, set_name VARCHAR NOT NULL, set_hash VARCHAR NOT NULL,
            model VARCHAR NOT NULL, version INTEGER NOT NULL, status VARCHAR NOT NULL,
            started_at TIMESTAMP NOT NULL, ended_at TIMESTAMP, parameters JSON, summary JSON,
            mlflow_run_id VARCHAR)
    """)
    connection.execute("""
        CREATE TABLE golden_results (
            run_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, item_hash VARCHAR NOT NULL,
            repeat INTEGER NOT NULL, evaluator VARCHAR NOT NULL, evaluator_version VARCHAR,
            status VARCHAR NOT NULL, value DOUBLE, label VARCHAR, explanation VARCHAR, output JSON,
            outcome VARCHAR, request_id VARCHAR, PRIMARY KEY (run_id, item_id, repeat, evaluator))
    """)
    connection.execute("""
        CREATE TABLE golden_comparisons (
            comparison_id VARCHAR PRIMARY KEY, set_name VARCHAR NOT NULL, set_hash VARCHAR NOT NULL,
            model VARCHAR NOT NULL,
            control_run VARCHAR NOT NULL, candidate_run VARCHAR NOT NULL, control_version INTEGER NOT NULL,
            candidate_version INTEGER NOT NULL, verdict VARCHAR NOT NULL, "at" TIMESTAMP NOT NULL,
            result JSON NOT NULL)
    """)


def golden_details(connection: DuckDBPyConnection) -> None:
    """What a score cost, why an instrument failed, what a judge said on the way."""
    connection.execute("ALTER TABLE golden_results ADD COLUMN detail JSON")


def stages(connection: DuckDBPyConnection) -> None:
    """Phases and looks know the stage that they belong to; what ended without a promotion is `kept`."""
    connection.execute("ALTER TABLE phases ADD COLUMN stage INTEGER DEFAULT 0")
    connection.execute("ALTER TABLE looks ADD COLUMN stage INTEGER DEFAULT 0")
    connection.execute("UPDATE experiments SET state = 'kept' WHERE state = 'stopped'")


def evaluations(connection: DuckDBPyConnection) -> None:
    """Preflights of a candidate against a control, and scores of exchanges, one per evaluator's version."""
    connection.execute("""
        CREATE TABLE preflights (
            preflight_id VARCHAR PRIMARY KEY, model VARCHAR NOT NULL, control_version INTEGER NOT NULL,
            candidate_version INTEGER NOT NULL, verdict VARCHAR NOT NULL, "at" TIMESTAMP NOT NULL,
            result JSON NOT NULL)
    """)
    connection.execute("""
        CREATE TABLE scores (
            exchange_id VARCHAR NOT NULL, evaluator VARCHAR NOT NULL, evaluator_version VARCHAR NOT NULL,
            status VARCHAR NOT NULL, value DOUBLE, label VARCHAR, explanation VARCHAR,
            cost_usd DOUBLE, tokens BIGINT, latency_ms DOUBLE, "at" TIMESTAMP NOT NULL,
            PRIMARY KEY (exchange_id, evaluator, evaluator_version))
    """)


def events(connection: DuckDBPyConnection) -> None:
    """Every state that a decision came into, numbered as they were committed; and who has been told how far.

    Decisions of before are not told of again.
    """
    connection.execute("CREATE SEQUENCE event_numbers")
    connection.execute("""
        CREATE TABLE events (
            number BIGINT PRIMARY KEY DEFAULT nextval('event_numbers'), decision_id VARCHAR NOT NULL,
            state VARCHAR NOT NULL)
    """)
    connection.execute("""
        CREATE TABLE subscribers (
            url VARCHAR PRIMARY KEY, number BIGINT NOT NULL, attempts INTEGER NOT NULL,
            next_at TIMESTAMP NOT NULL, told BIGINT NOT NULL, given_up BIGINT NOT NULL, error VARCHAR)
    """)


def feedback_of_units(connection: DuckDBPyConnection) -> None:
    """Feedback may be about a unit's last answer, and may carry a key by which it counts once."""
    connection.execute("ALTER TABLE feedback ADD COLUMN unit VARCHAR")
    connection.execute("ALTER TABLE feedback ADD COLUMN key VARCHAR")


def human_labels(connection: DuckDBPyConnection) -> None:
    """Which items of two golden runs people are to label, and what they said. Labels are only added; `number`
    is the order in which they came. A grade of NULL is "cannot tell"."""
    connection.execute("""
        CREATE TABLE label_draws (
            draw_id VARCHAR PRIMARY KEY, control_run VARCHAR NOT NULL, candidate_run VARCHAR NOT NULL,
            evaluator VARCHAR NOT NULL, seed VARCHAR NOT NULL, size INTEGER NOT NULL,
            declared_by VARCHAR NOT NULL, "at" TIMESTAMP NOT NULL)
    """)
    connection.execute("CREATE SEQUENCE label_numbers")
    connection.execute("""
        CREATE TABLE human_labels (
            label_id VARCHAR PRIMARY KEY, number BIGINT DEFAULT nextval('label_numbers'),
            task VARCHAR NOT NULL, labeller VARCHAR NOT NULL, grade VARCHAR, note VARCHAR,
            set_name VARCHAR NOT NULL, item_id VARCHAR NOT NULL, item_hash VARCHAR NOT NULL,
            evaluator VARCHAR NOT NULL, evaluator_version VARCHAR NOT NULL, judge VARCHAR,
            criterion VARCHAR NOT NULL, draw_id VARCHAR NOT NULL, "at" TIMESTAMP NOT NULL)
    """)


def accounting(connection: DuckDBPyConnection) -> None:
    """Rows say why a request stayed outside, are numbered by worker and arm, and know the turn they are."""
    connection.execute("ALTER TABLE exchanges ADD COLUMN outside VARCHAR")
    connection.execute("ALTER TABLE exchanges ADD COLUMN serial BIGINT")
    connection.execute("ALTER TABLE exchanges ADD COLUMN turn VARCHAR")


def label_worksheets(connection: DuckDBPyConnection) -> None:
    """What people may be asked about two golden runs, so that whoever has not the set's folder can ask it."""
    connection.execute("""
        CREATE TABLE label_worksheets (
            control_run VARCHAR NOT NULL, candidate_run VARCHAR NOT NULL, evaluator VARCHAR NOT NULL,
            set_name VARCHAR NOT NULL, seed VARCHAR NOT NULL, needed INTEGER NOT NULL,
            open_items INTEGER NOT NULL, items INTEGER NOT NULL, tasks JSON NOT NULL,
            "at" TIMESTAMP NOT NULL, PRIMARY KEY (control_run, candidate_run, evaluator))
    """)


def trace_context(connection: DuckDBPyConnection) -> None:
    """Rows know the client's span that they are a part of, so that an application's trace finds them."""
    connection.execute("ALTER TABLE exchanges ADD COLUMN traceparent VARCHAR")


def routes_of_experiments(connection: DuckDBPyConnection) -> None:
    """Several experiments may route a model's traffic: each has ranges of its own."""
    connection.execute("ALTER TABLE routes RENAME TO model_routes")
    connection.execute("""
        CREATE TABLE routes (
            experiment VARCHAR PRIMARY KEY, model VARCHAR NOT NULL, ranges JSON NOT NULL)
    """)
    connection.execute("""
        INSERT INTO routes SELECT experiment, model, ranges FROM model_routes WHERE experiment IS NOT NULL
    """)
    connection.execute("DROP TABLE model_routes")


def order_of_evaluations(connection: DuckDBPyConnection) -> None:
    """Preflights and comparisons are numbered as they are kept: a clock may be set back between two."""
    connection.execute("ALTER TABLE preflights ADD COLUMN number BIGINT")
    connection.execute("ALTER TABLE golden_comparisons ADD COLUMN number BIGINT")


def order_of_golden_runs(connection: DuckDBPyConnection) -> None:
    """So are golden runs."""
    connection.execute("ALTER TABLE golden_runs ADD COLUMN number BIGINT")


def scheduled_looks(connection: DuckDBPyConnection) -> None:
    """Each look is begun by asking for the scheduled ones before it: all verdicts were read for that."""
    connection.execute("ALTER TABLE looks ADD COLUMN scheduled BOOLEAN")
    connection.execute(
        "UPDATE looks SET scheduled ="
        " coalesce(CAST(json_extract(verdict, '$.look.scheduled') AS BOOLEAN), false)"
    )


#: The number of the next preflight or comparison, and the order in which the newest comes first; those that
#: have none were kept before there were numbers.
NEXT_EVALUATION: Final = """(
    SELECT coalesce(max(number), 0) + 1
    FROM (SELECT number FROM preflights UNION ALL SELECT number FROM golden_comparisons))"""
NEWEST_EVALUATION: Final = 'number DESC NULLS LAST, "at" DESC'
#: The same of golden runs.
NEXT_RUN: Final = "(SELECT coalesce(max(number), 0) + 1 FROM golden_runs)"
NEWEST_RUN: Final = "number DESC NULLS LAST, started_at DESC, run_id"

MIGRATIONS: Final[tuple[Migration, ...]] = (
    traffic,
    trials,
    decisions,
    golden,
    golden_details,
    stages,
    evaluations,
    events,
    feedback_of_units,
    human_labels,
    accounting,
    label_worksheets,
    trace_context,
    routes_of_experiments,
    order_of_evaluations,
    order_of_golden_runs,
    scheduled_looks,
)


def migrate(connection: DuckDBPyConnection, migrations: tuple[Migration, ...] = MIGRATIONS) -> list[str]:
    """Bring the file up to date, one transaction per migration; the names of those that were run.

    Raises LedgerTooNew if the file has had migrations that are not in the list.
    """
    connection.execute("""
        CREATE TABLE IF NOT EXISTS migrations (
            number INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL)
    """)
    had = connection.execute("SELECT name FROM migrations ORDER BY number").fetchall()
    names = [migration.__name__ for migration in migrations]
    unknown = [name for (name,) in had if name not in names]
    if unknown:
        raise LedgerTooNew(
            f"the ledger was written by a newer Turnout (it has {', '.join(unknown)}): "
            "install that version, or start with another data folder"
        )
    for number in range(len(had), len(migrations)):
        _apply(connection, number, migrations[number])
    return names[len(had) :]


def _apply(connection: DuckDBPyConnection, number: int, migration: Migration) -> None:
    connection.begin()
    try:
        migration(connection)
        connection.execute(
            "INSERT INTO migrations VALUES (?, ?, now()::TIMESTAMP)", [number, migration.__name__]
        )
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
