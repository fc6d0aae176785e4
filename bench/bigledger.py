"""What is a ledger of ten million exchanges like? Made by SQL, through the ledger's own schema.

Units have as many exchanges as users have: the busiest ten thousand, most of them six or seven. Their arm is
sticky, and only ever moves from control to candidate as a ramp goes on. One answer in a hundred failed,
clients went away, engines that sent no usage leave tokens missing, and streams alone have a time to the first
token. Ids are as long as real ones (UUIDv7), units are sixteen hexadecimal digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from experiments.ledger.store import Connection, Store

START_US: Final = 1_800_000_000_000_000
#: What each phase gives the candidate, in percent.
RAMP: Final = (5, 10, 25, 40, 50)
#: Exchanges a transaction: what the making of a ledger holds in memory.
AT_ONCE: Final = 1_000_000

_ROWS: Final = """
    INSERT INTO exchanges BY NAME
    WITH drawn AS (
        SELECT i, least(1 + (i * $phases) // $exchanges, $phases)::INTEGER AS phase,
            floor($units * pow((hash(i, 0) % 16777216) / 16777216.0, 2))::BIGINT AS u,
            $start_us // 1000 + i AS ms, hash(i, 1) AS a, hash(i, 2) AS b, hash(i, 3) AS c
        FROM range($since, $until) t(i)),
    placed AS (
        SELECT *, CASE WHEN hash(u) % 100 < $shares[phase] THEN 'candidate' ELSE 'control' END AS arm,
            format('{:08x}-{:04x}-7{:03x}-8{:03x}-{:012x}', ms >> 16, ms & 65535, a & 4095,
                (a >> 12) & 4095, a >> 24 & 281474976710655) AS id,
            a % 10 < 8 AS stream,
            CASE WHEN b % 1000 < 10 THEN 'upstream_error' WHEN b % 1000 < 13 THEN 'client_gone'
                WHEN b % 1000 < 15 THEN 'timeout' WHEN b % 1000 < 35 THEN 'length'
                ELSE 'complete' END AS outcome,
            exp(6 + 0.8 * sqrt(-2 * ln((1 + (b >> 32)) / 4294967297.0))
                * cos(2 * pi() * (c >> 32) / 4294967296.0)) AS duration_ms
        FROM drawn),
    ended AS (SELECT *, outcome IN ('complete', 'length') AS answered FROM placed)
    SELECT id AS exchange_id, id AS request_id, 'primary' AS role, 'live' AS origin,
        make_timestamp(ms * 1000) AS started_at, '/v1/chat/completions' AS path, 'chat' AS model,
        $experiment AS experiment, phase, arm AS assigned_arm,
        CASE WHEN outcome = 'complete' AND arm = 'candidate' AND c % 1000 < 3 THEN 'control' ELSE arm END
            AS served_arm,
        CASE WHEN served_arm <> arm THEN 'upstream_error' END AS arm_outcome,
        CASE arm WHEN 'candidate' THEN 2 ELSE 1 END AS assigned_version,
        CASE served_arm WHEN 'candidate' THEN 2 ELSE 1 END AS served_version,
        format('{:016x}', hash(u)) AS unit, 'team-' || u % 20 AS tenant, 1 AS snapshot, stream,
        CASE WHEN answered THEN 200 ELSE 502 END AS status, outcome,
        CASE WHEN NOT answered THEN 'upstream_failed' END AS error_code, 1 AS attempts,
        CASE WHEN answered THEN 40 + (a >> 40) % 800 / 10.0 END AS first_byte_ms,
        CASE WHEN answered AND stream THEN 50 + (a >> 20) % 10000 / 100.0 END AS ttft_ms, duration_ms,
        CASE WHEN answered AND stream THEN 12 + (a >> 30) % 1000 / 100.0 END AS gap_mean_ms,
        gap_mean_ms * 3 AS gap_p99_ms, gap_mean_ms * 5 AS gap_max_ms,
        CASE WHEN answered AND c % 100 <> 0 THEN 50 + (b >> 10) % 500 END::BIGINT AS prompt_tokens,
        CASE WHEN answered AND c % 100 <> 0 THEN 20 + (b >> 20) % 300 END::BIGINT AS completion_tokens,
        prompt_tokens // 3 AS cached_tokens,
        CASE outcome WHEN 'complete' THEN 'stop' WHEN 'length' THEN 'length' END AS finish_reason,
        1 AS choices, completion_tokens::INTEGER AS chunks, 900 + b % 500 AS request_bytes,
        2000 + c % 5000 AS response_bytes, 'w' || i % 4 AS worker,
        format('w{}/{:08d}-0123456789abcdef', i % 4, i // 5000) AS segment
    FROM ended
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """An experiment's traffic: so many exchanges of so many units, spread over the first phases of a ramp."""

    exchanges: int
    units: int
    phases: int
    experiment: str = "bench"

    @property
    def shares(self) -> tuple[int, ...]:
        """Each phase's share in percent; a single phase is an even split."""
        return RAMP[-1:] if self.phases == 1 else RAMP[: self.phases]


def fill(store: Store, traffic: Traffic) -> None:
    """Declare the experiment and write all of its exchanges."""
    store.write(lambda connection: _declare(connection, traffic))
    for since in range(0, traffic.exchanges, AT_ONCE):
        append(store, traffic, since, min(traffic.exchanges, since + AT_ONCE))
    store.checkpoint()


def append(store: Store, traffic: Traffic, since: int, until: int) -> None:
    """Write the exchanges of these numbers; those beyond the traffic's end are of its last phase."""
    scope = {
        "since": since, "until": until, "units": traffic.units, "phases": traffic.phases,
        "exchanges": traffic.exchanges, "shares": list(traffic.shares), "start_us": START_US,
        "experiment": traffic.experiment,
    }  # fmt: skip
    store.write(lambda connection: connection.execute(_ROWS, scope))


def _declare(connection: Connection, traffic: Traffic) -> None:
    connection.execute(
        "INSERT INTO experiments (name, model, mode, state, spec, spec_hash, created_at, started_at)"
        " SELECT $name, 'chat', 'canary', 'running', '{}', '-', make_timestamp($at), make_timestamp($at)",
        {"name": traffic.experiment, "at": START_US},
    )
    for number, share in enumerate(traffic.shares, 1):
        began_us = START_US + 1000 * traffic.exchanges * (number - 1) // traffic.phases
        connection.execute(
            "INSERT INTO phases (experiment, phase, started_at, candidate_ppm, share_ppm)"
            " VALUES (?, ?, make_timestamp(?), ?, 0)",
            [traffic.experiment, number, began_us, share * 10_000],
        )
