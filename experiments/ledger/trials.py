"""How do experiments, their phases and the looks at them lie in the ledger?

Writes take the connection of a `Store.write`, so that an experiment changes in the same transaction as the
decision that changed it. What the states mean is `experiments.lifecycle`'s. Looks are in the order in which
they were kept: a clock may have been set back between two of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import orjson
from duckdb import DuckDBPyConnection

from ..assignment import CONTROL, PPM, Range
from ..errors import DocumentError
from ..lifecycle import Experiment, Phase
from ..spec import read_spec
from ..verdict import Look, Verdict, look_taken
from .schema import NEWEST_EVALUATION
from .store import Row, Store, instant, nanoseconds

log = logging.getLogger(__name__)

_WHOLE: Final[dict[str, tuple[Range, ...]]] = {CONTROL: ((0, PPM),)}


def save(connection: DuckDBPyConnection, experiment: Experiment) -> None:
    """Write the experiment as it stands now: its row, its phase, and its ranges while it is open."""
    ended = None if experiment.ended_ns is None else instant(experiment.ended_ns)
    connection.execute(
        """
        INSERT INTO experiments (name, model, mode, state, spec, spec_yaml, spec_hash, control_version,
            candidate_version, created_at, started_at, ended_at, note)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (name) DO UPDATE SET
            state = excluded.state, started_at = excluded.started_at, ended_at = excluded.ended_at,
            note = excluded.note, spec = excluded.spec, spec_yaml = excluded.spec_yaml,
            spec_hash = excluded.spec_hash
        """,
        [
            experiment.name,
            experiment.model,
            experiment.spec.mode,
            experiment.state,
            orjson.dumps(experiment.spec.model_dump()).decode(),
            experiment.spec_yaml,
            experiment.spec.digest(),
            experiment.control_version,
            experiment.candidate_version,
            instant(experiment.created_ns),
            instant(experiment.started_ns),
            ended,
            experiment.note,
        ],
    )
    if experiment.phase.number:
        _save_phase(connection, experiment)
    if experiment.routes:
        _save_ranges(connection, experiment)


def _save_phase(connection: DuckDBPyConnection, experiment: Experiment) -> None:
    phase = experiment.phase
    # A later one was overtaken between its record and its coming into force: there is no such phase.
    connection.execute(
        "DELETE FROM phases WHERE experiment = ? AND phase > ?", [experiment.name, phase.number]
    )
    connection.execute(
        "UPDATE phases SET ended_at = ? WHERE experiment = ? AND phase < ? AND ended_at IS NULL",
        [instant(phase.started_ns), experiment.name, phase.number],
    )
    connection.execute(
        """
        INSERT INTO phases (experiment, phase, started_at, ended_at, candidate_ppm, share_ppm, stage)
        VALUES (?, ?, ?, NULL, ?, ?, ?) ON CONFLICT DO NOTHING
        """,
        [
            experiment.name,
            phase.number,
            instant(phase.started_ns),
            phase.candidate_ppm,
            phase.share_ppm,
            phase.stage,
        ],
    )
    if experiment.ended_ns is not None:
        connection.execute(
            "UPDATE phases SET ended_at = ? WHERE experiment = ? AND ended_at IS NULL",
            [instant(experiment.ended_ns), experiment.name],
        )


def _save_ranges(connection: DuckDBPyConnection, experiment: Experiment) -> None:
    if experiment.is_open and experiment.phase.number:
        connection.execute(
            "INSERT INTO routes (model, experiment, ranges) VALUES (?, ?, ?)"
            " ON CONFLICT (experiment) DO UPDATE SET ranges = excluded.ranges",
            [experiment.model, experiment.name, orjson.dumps(experiment.ranges).decode()],
        )
    else:
        connection.execute("DELETE FROM routes WHERE experiment = ?", [experiment.name])


def load(store: Store) -> dict[str, Experiment]:
    """Every experiment by name. One that this version of Turnout cannot read is told and left out."""
    phases = {row["experiment"]: row for row in store.read(_LAST_PHASES)}
    firsts = {row["experiment"]: row["phase"] for row in store.read(_FIRST_PHASES)}
    ranges = {row["experiment"]: row["ranges"] for row in store.read("SELECT experiment, ranges FROM routes")}
    verdicts = {row["experiment"]: row["verdict_kind"] for row in store.read(_CONCLUSIONS)}
    found: dict[str, Experiment] = {}
    for row in store.read("SELECT * FROM experiments ORDER BY created_at, name"):
        name = row["name"]
        try:
            found[name] = _experiment(
                row, phases.get(name), firsts.get(name, 1), ranges.get(name), verdicts.get(name)
            )
        except (DocumentError, KeyError, ValueError) as error:
            log.error("the experiment %r in the ledger cannot be read, it stays out: %s", name, error)
    return found


_LAST_PHASES: Final = """
    SELECT experiment, max(phase) AS phase, arg_max(started_at, phase) AS started_at,
           arg_max(candidate_ppm, phase) AS candidate_ppm, arg_max(share_ppm, phase) AS share_ppm,
           arg_max(stage, phase) AS stage
    FROM phases GROUP BY experiment
"""
#: Of each stage the first phase; the last stage's comes last.
_FIRST_PHASES: Final = """
    SELECT experiment, min(phase) AS phase FROM phases GROUP BY experiment, stage ORDER BY experiment, stage
"""
_CONCLUSIONS: Final = """
    SELECT experiment, arg_max(verdict_kind, "at") AS verdict_kind
    FROM decisions WHERE action = 'conclude' AND state = 'done' GROUP BY experiment
"""


def _experiment(
    row: Row, phase: Row | None, first_phase: int, ranges: str | None, concluded_on: Any
) -> Experiment:
    owned = _WHOLE if ranges is None else _ranges(ranges)
    return Experiment(
        name=row["name"],
        model=row["model"],
        state=row["state"],
        spec=read_spec(row["spec_yaml"], f"{row['name']} in the ledger"),
        spec_yaml=row["spec_yaml"],
        control_version=row["control_version"],
        candidate_version=row["candidate_version"],
        created_ns=nanoseconds(row["created_at"]),
        started_ns=nanoseconds(row["started_at"]),
        ended_ns=None if row["ended_at"] is None else nanoseconds(row["ended_at"]),
        note=row["note"],
        phase=Phase(
            number=phase["phase"],
            started_ns=nanoseconds(phase["started_at"]),
            candidate_ppm=phase["candidate_ppm"],
            share_ppm=phase["share_ppm"],
            stage=phase["stage"],
        )
        if phase
        else Phase(number=0, started_ns=nanoseconds(row["started_at"]), candidate_ppm=0, share_ppm=0),
        first_phase=first_phase,
        ranges=owned,
        concluded_on=concluded_on,
    )


def _ranges(text: str) -> dict[str, tuple[Range, ...]]:
    return {
        arm: tuple((int(low), int(high)) for low, high in owned) for arm, owned in orjson.loads(text).items()
    }


def phases(store: Store, experiment: str) -> list[Row]:
    """The experiment's phases, the first one first."""
    return store.read("SELECT * FROM phases WHERE experiment = ? ORDER BY phase", [experiment])


def save_look(connection: DuckDBPyConnection, verdict: Verdict, stage: int = 0) -> None:
    """Keep a stage's verdict: the band over time is drawn from these, and scheduled looks are counted."""
    connection.execute(
        'INSERT INTO looks (experiment, "at", units, verdict_kind, verdict, stage, scheduled)'
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            verdict.experiment,
            instant(verdict.as_of_ns),
            verdict.units,
            verdict.kind,
            verdict.to_json().decode(),
            stage,
            verdict.look.scheduled,
        ],
    )


def past_looks(
    store: Store, experiment: str, stage: int = 0, *, before: int | None = None
) -> tuple[Look, ...]:
    """The scheduled looks that were taken in a stage (before the one of that number), oldest first."""
    rows = store.read(
        "SELECT verdict FROM looks WHERE experiment = $experiment AND stage = $stage"
        " AND (CAST($before AS BIGINT) IS NULL OR rowid < $before)"
        " AND scheduled"
        " ORDER BY rowid",
        {"experiment": experiment, "stage": stage, "before": before},
    )
    looks = (look_taken(orjson.loads(row["verdict"])) for row in rows)
    return tuple(look for look in looks if look is not None)


def verdicts(
    store: Store, experiment: str, *, stage: int | None = None, until: int | None = None, limit: int = 500
) -> list[dict[str, Any]]:
    """Verdicts (up to the one of that number) as JSON documents, oldest first; of one stage, or of all.

    Of more than `limit` there are about so many, evenly over the whole time, the last one among them.
    """
    rows = store.read(_COURSE, {"experiment": experiment, "stage": stage, "until": until, "limit": limit})
    return [orjson.loads(row["verdict"]) for row in rows]


#: Where there are too many, the last one of each stretch of time.
_COURSE: Final = """
    WITH kept AS (
        SELECT rowid AS number, epoch_us("at") AS us FROM looks
        WHERE experiment = $experiment AND (CAST($stage AS INTEGER) IS NULL OR stage = $stage)
            AND (CAST($until AS BIGINT) IS NULL OR rowid <= $until)),
    about AS (SELECT count(*) AS n, min(us) AS first, max(us) AS last, max(number) AS latest FROM kept),
    chosen AS (
        SELECT max(number) AS number FROM kept, about
        GROUP BY CASE WHEN n <= $limit THEN number ELSE (us - first) * $limit // (last - first + 1) END
        UNION SELECT latest FROM about)
    SELECT verdict FROM looks WHERE rowid IN (SELECT number FROM chosen) ORDER BY rowid
"""


def last_verdict(store: Store, experiment: str, stage: int | None = None) -> dict[str, Any] | None:
    """The latest verdict (of a stage) as a JSON document, None if there was none yet."""
    rows = store.read(
        "SELECT verdict FROM looks WHERE experiment = $experiment"
        " AND (CAST($stage AS INTEGER) IS NULL OR stage = $stage) ORDER BY rowid DESC LIMIT 1",
        {"experiment": experiment, "stage": stage},
    )
    found: dict[str, Any] | None = orjson.loads(rows[0]["verdict"]) if rows else None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLook:
    """A verdict as it was stored, to the byte; its number, its stage, and the phase with which that began."""

    number: int
    verdict: bytes
    stage: int
    first_phase: int


def kept_look(store: Store, experiment: str, digest: str | None = None) -> KeptLook | None:
    """The latest verdict that was stored, or the one with that digest; None if there is none."""
    rows = store.read(
        """
        SELECT l.rowid AS number, l.verdict, l.stage,
            (SELECT min(p.phase) FROM phases p
             WHERE p.experiment = l.experiment AND p.stage = l.stage) AS first
        FROM looks l WHERE l.experiment = $experiment
            AND (CAST($digest AS VARCHAR) IS NULL OR json_extract_string(l.verdict, '$.digest') = $digest)
        ORDER BY l.rowid DESC LIMIT 1
        """,
        {"experiment": experiment, "digest": digest},
    )
    if not rows:
        return None
    found = rows[0]
    return KeptLook(
        number=found["number"],
        verdict=found["verdict"].encode(),
        stage=found["stage"],
        first_phase=found["first"] or 1,
    )


def golden_verdict(
    store: Store, *, model: str, set_name: str, control_version: int, candidate_version: int
) -> str | None:
    """The newest comparison of two versions on a golden set: pass, fail, inconclusive; None without one.

    A preflight of the two that has failed since, and is the last, is `fail` too: the engine has changed.
    """
    rows = store.read(
        f"""
        WITH held AS (
            SELECT verdict, "at", number, row_number() OVER (ORDER BY {NEWEST_EVALUATION}) AS place
            FROM preflights
            WHERE model = $model AND control_version = $control AND candidate_version = $candidate)
        SELECT verdict FROM (
            SELECT verdict, "at", number FROM golden_comparisons
            WHERE model = $model AND control_version = $control AND candidate_version = $candidate
                AND set_name = $set_name
            UNION ALL SELECT verdict, "at", number FROM held WHERE place = 1 AND verdict = 'fail')
        ORDER BY {NEWEST_EVALUATION} LIMIT 1
        """,
        {
            "model": model,
            "control": control_version,
            "candidate": candidate_version,
            "set_name": set_name,
        },
    )
    return rows[0]["verdict"] if rows else None
