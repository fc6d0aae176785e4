"""Golden runs and comparisons: stored for the client that makes them, and logged to MLflow."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Response

from .. import views
from ..controller import Controller
from ..errors import Conflict, NotFound
from ..labels import golden_tag
from ..ledger import golden
from ..ledger.store import Row, instant
from ..steering.admission import version_of
from .appending import append, enter
from .bodies import Comparison, Finish, Limit, NewRun, Results, Version
from .gate import Known, require_token
from .refusals import documented
from .tagging import tag

router = APIRouter(prefix="/api/golden", tags=["golden"])


@router.post(
    "/runs",
    status_code=201,
    summary="Begin a golden run",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409),
)
def begin(body: NewRun, controller: Known, response: Response) -> dict[str, Any]:
    version_of(controller.junction.model(body.model), body.version)
    enter(controller, body, golden.begin_run, response)
    found = known_run(controller, body.run_id)
    if any(found[name] != getattr(body, name) for name in ("set_hash", "model", "version")):
        raise Conflict(
            f"golden run {body.run_id} is of {found['model']!r} version {found['version']} on "
            f"{found['set_hash']}: make a new id for another run",
            code="golden_run_exists",
            param="run_id",
        )
    return views.golden_run(found)


@router.post(
    "/runs/{run_id}/results",
    summary="Append results; those that are there already stay as they are",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409),
)
def append_results(run_id: str, body: Results, controller: Known) -> dict[str, int]:
    status = golden.status(controller.store, run_id)
    if status is None:
        raise _unknown(run_id)
    if status == "complete":
        message = f"golden run {run_id} is complete: no further results can be added"
        raise Conflict(message, code="golden_run_finished")
    return append(
        controller, body.results, lambda connection, rows, *, at: golden.add_results(connection, run_id, rows)
    )


@router.post(
    "/runs/{run_id}/finish",
    summary="End a run; one that is complete is logged to MLflow",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404),
)
def finish(run_id: str, body: Finish, controller: Known) -> dict[str, Any]:
    known_run(controller, run_id)
    ended = instant(controller.junction.now_ns())
    controller.store.write(
        lambda connection: golden.finish_run(
            connection, run_id, status=body.status, summary=body.summary, ended_at=ended
        )
    )
    found = known_run(controller, run_id)
    # What has been logged stays: the numbers of a run that is gone on with are not those of its end.
    if found["status"] == "complete" and found["mlflow_run_id"] is None:
        controller.golden_log.ended(run_id)
    return views.golden_run(known_run(controller, run_id))


@router.get("/runs", summary="Golden runs, the newest first")
def list_runs(
    controller: Known,
    model: str | None = None,
    version: Version | None = None,
    set_hash: str | None = None,
    status: str | None = None,
    limit: Limit = 100,
) -> list[dict[str, Any]]:
    found = golden.runs(
        controller.store, model=model, version=version, set_hash=set_hash, status=status, limit=limit
    )
    return [views.golden_run(run) for run in found]


@router.get("/runs/{run_id}", summary="One run with its results", responses=documented(404))
def show(run_id: str, controller: Known) -> dict[str, Any]:
    return views.golden_run_with_results(controller, known_run(controller, run_id))


@router.post(
    "/comparisons",
    status_code=201,
    summary="Record how two runs compare; the verdict becomes a tag of the version",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404),
)
def compare(body: Comparison, controller: Known, response: Response) -> dict[str, Any]:
    known_runs(controller, body.control_run, body.candidate_run)
    if enter(controller, body, golden.save_comparison, response):
        tag(controller, body.model, body.candidate_version, golden_tag(body.model_dump()))
    return views.row(golden.comparisons(controller.store, comparison_id=body.comparison_id)[0])


@router.get("/comparisons", summary="Comparisons, the newest first")
def list_comparisons(
    controller: Known,
    model: str | None = None,
    candidate_version: Version | None = None,
    control_version: Version | None = None,
    set_hash: str | None = None,
    set_name: str | None = None,
    limit: Limit = 100,
) -> list[dict[str, Any]]:
    found = golden.comparisons(
        controller.store,
        model=model,
        candidate_version=candidate_version,
        control_version=control_version,
        set_hash=set_hash,
        set_name=set_name,
        limit=limit,
    )
    return [views.row(one) for one in found]


def known_run(controller: Controller, run_id: str) -> Row:
    """The golden run. Raises NotFound."""
    found = golden.run(controller.store, run_id)
    if found is None:
        raise _unknown(run_id)
    return found


def known_runs(controller: Controller, *run_ids: str) -> list[Row]:
    """The golden runs. Raises NotFound."""
    return [known_run(controller, run_id) for run_id in run_ids]


def _unknown(run_id: str) -> NotFound:
    return NotFound(f"no golden run {run_id!r}", code="unknown_golden_run", param="run_id")
