"""Where are golden runs kept, and which of them can be resumed or reused?

The controller's HTTP API keeps them (docs: control API, /api/golden). A run is told apart by its fingerprint:
what was asked, of what, and how it was judged. Equal fingerprints give equal results but for the model's own
chance, so a finished run can stand for a new one, and an unfinished one is gone on with.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final, Protocol

import orjson

from evaluators.canonical import content_hash
from evaluators.comparison import Comparison
from evaluators.errors import EvaluatorError, ResultsLost
from evaluators.golden import GoldenSet
from evaluators.models import Services
from evaluators.results import ResultRow
from evaluators.summary import RunResults, Summary
from experiments.client import path_part
from experiments.entries import LITELLM

_BATCH: Final = 400
_MOST_BYTES: Final = 16 * 1024 * 1024
_PATIENCE_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)


class ControlApi(Protocol):
    """The control API as this package needs it. Errors carry `status` (0: unreachable) and `code`."""

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any: ...
    def post(self, path: str, body: Mapping[str, Any]) -> Any: ...


class UnknownVersion(EvaluatorError):
    """The model has no such version or alias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Which version is asked, and a hash of where it is served: another endpoint is another subject.
    `provider` is the model in litellm's spelling where a provider serves it."""

    model: str
    version: int
    endpoint: str
    addresses: tuple[str, ...] = ()
    provider: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run in the ledger; `began` is a date and time (UTC), empty where it is not told."""

    run_id: str
    status: str
    version: int
    began: str
    parameters: Mapping[str, Any]

    @classmethod
    def of(cls, view: Mapping[str, Any]) -> StoredRun:
        return cls(
            run_id=view["run_id"],
            status=view["status"],
            version=view["version"],
            began=str(view.get("started_at") or "")[:16].replace("T", " "),
            parameters=view.get("parameters") or {},
        )


class GoldenLedger:
    """Golden runs and comparisons behind the control API."""

    def __init__(self, api: ControlApi) -> None:
        self._api = api

    @property
    def api(self) -> ControlApi:
        """The control API itself."""
        return self._api

    def subject(self, model: str, reference: str) -> Subject:
        """The version that a number or an alias names. Raises UnknownVersion, which lists those there are."""
        view = self._api.get(f"/api/models/{path_part(model, 'model')}")
        versions = view["versions"]
        for version in versions:
            if reference in (str(version["version"]), *version.get("aliases", ())):
                endpoint = version.get("endpoint")
                served = endpoint or {}
                return Subject(
                    model=model,
                    version=int(version["version"]),
                    endpoint=content_hash(endpoint),
                    addresses=tuple(served.get("replicas") or ()),
                    provider=served["served_name"] if served.get("engine") == LITELLM else None,
                )
        if reference == "production" and view.get("production") is not None:
            return self.subject(model, str(view["production"]))
        known = ", ".join(
            "/".join([str(version["version"]), *version.get("aliases", ())]) for version in versions
        )
        raise UnknownVersion(f"{model} has no version {reference!r}; there are {known or 'none'}")

    def stored(
        self, golden: GoldenSet, subject: Subject, repeats: int, services: Services
    ) -> list[StoredRun]:
        """The runs of this fingerprint, newest first."""
        wanted = fingerprint(golden, subject, repeats, services)
        filters: dict[str, str | int] = {
            "model": subject.model,
            "version": subject.version,
            "set_hash": golden.hash,
        }
        runs = [StoredRun.of(view) for view in self._api.get("/api/golden/runs", filters)]
        return [run for run in runs if run.parameters.get("fingerprint") == wanted]

    def open(self, golden: GoldenSet, subject: Subject, repeats: int, services: Services) -> StoredRun:
        """A new run."""
        body = {
            "run_id": uuid.uuid4().hex,
            "set_name": golden.name,
            "set_hash": golden.hash,
            "model": subject.model,
            "version": subject.version,
            "parameters": {
                "fingerprint": fingerprint(golden, subject, repeats, services),
                "items": len(golden.items),
                "repeats": repeats,
                "evaluators": golden.evaluators,
                "endpoint": subject.endpoint,
                **asdict(golden.policy),
            },
        }
        return StoredRun.of(self._api.post("/api/golden/runs", body))

    def rows(self, run: StoredRun) -> list[ResultRow]:
        """The run's results."""
        return [
            ResultRow.from_json(row) for row in self._api.get(f"/api/golden/runs/{run.run_id}")["results"]
        ]

    def results(self, golden: GoldenSet, run: StoredRun, repeats: int) -> RunResults:
        """The run's results, found by item."""
        return RunResults.of(run.run_id, run.version, golden.hash, repeats, self.rows(run))

    def sink(self, run: StoredRun) -> LedgerSink:
        """Where the run's results go."""
        return LedgerSink(self._api, run.run_id)

    def finish(self, run: StoredRun, status: str, summary: Summary) -> Mapping[str, Any]:
        """Close the run, or leave it `partial` to be gone on with. The view names its MLflow run."""
        body = {"status": status, "summary": summary.to_json()}
        view: Mapping[str, Any] = self._api.post(f"/api/golden/runs/{run.run_id}/finish", body)
        return view

    def save(self, model: str, comparison: Comparison, control: StoredRun, candidate: StoredRun) -> str:
        """Keep a comparison: the gate of experiments looks for it. Returns its id."""
        body = {
            "comparison_id": uuid.uuid4().hex,
            "set_name": comparison.set_name,
            "set_hash": comparison.set_hash,
            "model": model,
            "control_run": control.run_id,
            "candidate_run": candidate.run_id,
            "control_version": control.version,
            "candidate_version": candidate.version,
            "verdict": comparison.verdict,
            "result": comparison.to_json(),
        }
        return str(self._api.post("/api/golden/comparisons", body)["comparison_id"])


class LedgerSink:
    """Appends result rows through the API; waits out a restart of the controller, up to fifteen seconds.

    `rows` are those that it has appended; `exact` says that the ledger has them just so: none of them was
    there before, perhaps as something else.
    """

    def __init__(self, api: ControlApi, run_id: str, *, patience_s: Sequence[float] = _PATIENCE_S) -> None:
        self._api, self._path = api, f"/api/golden/runs/{run_id}/results"
        self._patience_s = tuple(patience_s)
        self.rows: list[ResultRow] = []
        self.exact = True

    def append(self, rows: Sequence[ResultRow]) -> None:
        """Store the rows, all of one answer together. Raises ResultsLost when they are not taken."""
        for batch in batches(rows, _BATCH):
            answer = self._post({"results": [row.to_json() for row in batch]})
            self.rows.extend(batch)
            self.exact = self.exact and answer.get("stored") == len(batch)

    def _post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        waits = iter(self._patience_s)
        while True:
            try:
                answer: Mapping[str, Any] = self._api.post(self._path, body)
                return answer
            except Exception as error:
                status = getattr(error, "status", None)
                if status is None:  # not an answer of the API, nor its silence: a fault of ours
                    raise
                wait = next(waits, None)
                if wait is None or 400 <= status < 500:
                    raise ResultsLost(f"the controller does not store the results: {error}") from error
            time.sleep(wait)


def batches(rows: Sequence[ResultRow], size: int) -> list[list[ResultRow]]:
    """Rows in batches of at most `size`, and of half of what the API takes at once; never is one answer's set
    of rows divided, so that a resumed run finds an answer whole or not at all."""
    result: list[list[ResultRow]] = [[]]
    room = _MOST_BYTES
    for _, found in groupby(rows, key=lambda row: (row.item_id, row.repeat)):
        answer = list(found)
        weight = sum(map(_weight, answer))
        if result[-1] and (len(result[-1]) + len(answer) > size or weight > room):
            result.append([])
            room = _MOST_BYTES
        result[-1].extend(answer)
        room -= weight
    return [batch for batch in result if batch]


def _weight(row: ResultRow) -> int:
    """Its bytes as JSON; what is none is told when it is sent."""
    try:
        return len(orjson.dumps(row.to_json()))
    except orjson.JSONEncodeError:
        return 0


def fingerprint(golden: GoldenSet, subject: Subject, repeats: int, services: Services) -> str:
    """A hash of what determines a run's results but for chance: set, scorers, policy, subject, repeats, and
    who judges and embeds: an alias that has moved since is another judge."""
    policy = golden.policy
    asked = {"judge": services.judge, "embedder": services.embedder}
    return content_hash(
        {
            "set": golden.hash,
            "evaluators": golden.evaluators,
            "target_errors": policy.target_errors,
            "length": policy.length,
            "model": subject.model,
            "version": subject.version,
            "endpoint": subject.endpoint,
            "repeats": repeats,
            **{name: model.identity for name, model in asked.items() if model is not None},
        }
    )
