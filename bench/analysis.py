"""How long does a look take: ten million exchanges of a million users, twelve metrics, then 10,000 rows more?

    .venv/bin/python bench/analysis.py [--exchanges 10000000] [--users 1000000] [--phases 1] [--refreshes 5]

The ledger is made by SQL (a minute), in a temporary folder, with users in random order and log-normal
latencies. Then: from the file to the verdict, as the controller does after a restart; and looks after 10,000
new rows each, as it does while it runs. Prints JSON: seconds of wall clock and of CPU, and the largest
resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from experiments.evidence import AnalysisSpec, Evidence, Goal
from experiments.ledger.evidence import Rollups, gather
from experiments.ledger.store import Store
from experiments.metrics import metric
from experiments.verdict import conclude

START_US = 1_800_000_000_000_000
BATCH = 10_000
SUCCESS = ("latency", "tokens_per_second")
GUARDRAILS = (
    "error_rate", "truncation_rate", "latency>2s", "ttft>145ms", "latency.p95", "ttft", "inter_token_gap",
    "latency_mean", "completion_tokens", "prompt_tokens",
)  # fmt: skip
SHARES = (50, 10, 25, 50)

_ROWS = """
    INSERT INTO exchanges BY NAME
    WITH drawn AS (
        SELECT i, hash(i, 0) % $users AS u, 1 + (i * $phases) // $exchanges AS phase
        FROM range($since, $until) t(i)),
    placed AS (
        SELECT *, CASE WHEN hash(u) % 100 < $shares[phase] THEN 'candidate' ELSE 'control' END AS arm
        FROM drawn)
    SELECT 'x' || i AS exchange_id, 'r' || i AS request_id, 'primary' AS role, 'live' AS origin,
        make_timestamp($start + i * 1000) AS started_at, '/v1/chat/completions' AS path, 'chat' AS model,
        'bench' AS experiment, phase::INTEGER AS phase, arm AS assigned_arm, arm AS served_arm,
        1 AS assigned_version, 1 AS served_version, 'user-' || u AS unit, 1 AS snapshot,
        hash(i, 1) % 10 < 8 AS stream, 200 AS status,
        CASE WHEN hash(i, 2) % 1000 < 15 THEN 'upstream_error' WHEN hash(i, 2) % 1000 < 18 THEN 'client_gone'
            WHEN hash(i, 2) % 1000 < 38 THEN 'length' ELSE 'complete' END AS outcome,
        1 AS attempts, 80.0 AS first_byte_ms, 50 + 100 * (hash(i, 3) % 10000) / 10000.0 AS ttft_ms,
        exp(6 + 0.8 * sqrt(-2 * ln((1 + hash(i, 4) % 1000000) / 1000001.0))
            * cos(2 * pi() * (hash(i, 5) % 1000000) / 1e6)) AS duration_ms,
        12.0 + (hash(i, 6) % 1000) / 100 AS gap_mean_ms, (50 + hash(i, 7) % 500)::BIGINT AS prompt_tokens,
        (20 + hash(i, 8) % 300)::BIGINT AS completion_tokens, 'stop' AS finish_reason, 1 AS choices,
        30 AS chunks, 900 AS request_bytes, 2000 AS response_bytes, 'w' AS worker,
        'w/' || (i // 5000) AS segment
    FROM placed
"""


def main() -> None:
    """Make the ledger, look, look again, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--phases", type=int, default=1)
    parser.add_argument("--refreshes", type=int, default=5)
    asked = parser.parse_args()
    with TemporaryDirectory(dir="/var/tmp") as place:
        file = Path(place) / "ledger.duckdb"
        made = time.perf_counter()
        with Store(file, threads=2) as store:
            fill(store, asked)
        print(json.dumps({"ledger made in s": round(time.perf_counter() - made, 1)}), flush=True)
        with Store(file, threads=2, memory_limit="1200MB") as store:
            print(json.dumps(measured(store, asked), indent=2))


def fill(store: Store, asked: argparse.Namespace) -> None:
    shares = [SHARES[0]] if asked.phases == 1 else list(SHARES[1 : 1 + asked.phases])
    store.write(
        lambda c: c.execute(
            "INSERT INTO experiments (name, model, mode, state, spec, spec_hash, created_at, started_at)"
            " SELECT 'bench', 'chat', 'canary', 'running', '{}', '-', make_timestamp($s), make_timestamp($s)",
            {"s": START_US},
        )
    )
    for number, share in enumerate(shares, 1):
        row = [number, START_US, share * 10_000]
        store.write(
            lambda c, row=row: c.execute(  # type: ignore[misc]
                "INSERT INTO phases (experiment, phase, started_at, candidate_ppm, share_ppm)"
                " VALUES ('bench', ?, make_timestamp(?), ?, 0)",
                row,
            )
        )
    for since in range(0, asked.exchanges, 1_000_000):
        append(store, asked, since, min(asked.exchanges, since + 1_000_000))
    store.checkpoint()


def append(store: Store, asked: argparse.Namespace, since: int, until: int) -> None:
    shares = [SHARES[0]] if asked.phases == 1 else list(SHARES[1 : 1 + asked.phases])
    scope = {
        "since": since, "until": until, "users": asked.users, "phases": asked.phases,
        "exchanges": asked.exchanges, "shares": [*shares, shares[-1]], "start": START_US,
    }  # fmt: skip
    store.write(lambda connection: connection.execute(_ROWS, scope))


def measured(store: Store, asked: argparse.Namespace) -> dict[str, Any]:
    spec = AnalysisSpec(
        experiment="bench",
        mode="canary",
        unit="user",
        goals=(
            *(Goal(metric=metric(name), role="success") for name in SUCCESS),
            *(Goal(metric=metric(name), role="guardrail", margin=0.1) for name in GUARDRAILS),
        ),
        horizon=asked.users * 2,
    )
    rollups = Rollups(store)

    def look() -> tuple[float, float, Evidence]:
        wall, cpu = time.perf_counter(), time.process_time()
        evidence = gather(store, spec, as_of_ns=START_US * 1000 + 10**15, rollups=rollups)
        conclude(spec, evidence)
        return time.perf_counter() - wall, time.process_time() - cpu, evidence

    first = look()
    more = []
    for step in range(asked.refreshes):
        since = asked.exchanges + step * BATCH
        append(store, asked, since, since + BATCH)
        more.append(look())
    evidence = more[-1][2] if more else first[2]
    assert evidence.recorded == asked.exchanges + asked.refreshes * BATCH
    return {
        "exchanges": evidence.recorded,
        "units": sum(arm.units for arm in evidence.arms),
        "phases": asked.phases,
        "metrics": len(spec.goals),
        "from the ledger to the verdict, wall s": round(first[0], 2),
        "from the ledger to the verdict, cpu s": round(first[1], 2),
        "10,000 rows more, wall ms (median)": round(1000 * median(one[0] for one in more)),
        "10,000 rows more, cpu ms (median)": round(1000 * median(one[1] for one in more)),
        "largest resident MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
