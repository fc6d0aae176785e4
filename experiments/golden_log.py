"""Which golden runs does MLflow have, and how does it get those that it has not?

MLflow's copy of what is in the ledger: each run that is complete, once, with its numbers. One that ends is
logged at once; what MLflow did not take then (it was away, or slow) is logged when it answers again.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from registry import GOLDEN_RUN, Registry, RegistryError, RegistryUnreachable

from .errors import ExperimentsError
from .ledger import golden
from .ledger.store import Connection, DatabaseError, Row, Store, nanoseconds

log = logging.getLogger("turnout.golden")

#: Who ends a run is told where MLflow has it, if MLflow takes it within so long.
PATIENCE_S: Final = 10.0
#: A round of catching up begins no other run after so long: the registry is to be looked at again.
ROUND_S: Final = 2.0


class GoldenLog:
    """Logs golden runs. Safe to use from threads: one run at a time, so that none is logged twice."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._alone = threading.Lock()
        self._refused: set[str] = set()

    def ended(self, run_id: str) -> None:
        """Log a run that has just ended, or begin to: a slow MLflow holds nobody up for longer."""
        logging_it = threading.Thread(target=self._try, args=(run_id,), name="turnout-golden", daemon=True)
        logging_it.start()
        logging_it.join(PATIENCE_S)

    def _try(self, run_id: str) -> None:
        try:
            self._log(run_id)
        except (RegistryError, ExperimentsError, DatabaseError) as error:
            log.warning("golden run %s is in the ledger, but not in MLflow yet: %s", run_id, error)

    def catch_up(self) -> None:
        """Log what MLflow has not, the oldest first. Raises RegistryUnreachable.

        What it refuses for good (the version is gone) is not tried again before the next start.
        """
        began = time.monotonic()
        for run_id in golden.unlogged(self._store):
            if run_id in self._refused:
                continue
            try:
                self._log(run_id)
            except RegistryUnreachable:
                raise
            except RegistryError as error:
                log.warning("golden run %s stays in the ledger alone: %s", run_id, error)
                self._refused.add(run_id)
            if time.monotonic() - began > ROUND_S:
                return

    def _log(self, run_id: str) -> None:
        with self._alone:
            run = golden.run(self._store, run_id)
            if run is None or run["status"] != "complete" or run["mlflow_run_id"] is not None:
                return
            mlflow_run = self._registry.log_golden_run(
                run["model"],
                run["version"],
                name=f"golden {run['set_name']}",
                params={"set_hash": run["set_hash"], **(run["parameters"] or {})},
                metrics=_metrics(run),
                tags={
                    "turnout.golden.set": run["set_name"],
                    "turnout.golden.hash": run["set_hash"],
                    GOLDEN_RUN: run_id,
                },
                lasted_ms=(nanoseconds(run["started_at"]) // 10**6, nanoseconds(run["ended_at"]) // 10**6),
                latest=golden.is_latest(self._store, run),
            )

            def note(connection: Connection) -> None:
                golden.set_mlflow_run(connection, run_id, mlflow_run)

            self._store.write(note)


def _metrics(run: Row) -> dict[str, float]:
    found = run["summary"].get("metrics") or {}
    return {str(name): float(value) for name, value in found.items() if isinstance(value, (int, float))}
