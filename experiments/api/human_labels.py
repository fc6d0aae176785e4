"""People's labels of golden runs: which items are to be labelled, what is to be read, and what was said.
Stored for the client that draws."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from .. import views
from ..controller import Controller
from ..errors import Conflict, NotFound
from ..ledger import human_labels
from ..ledger.store import instant
from .appending import append, enter
from .bodies import HumanLabels, LabelDraw, LabelWorksheet
from .gate import Known, require_token
from .golden import known_runs
from .refusals import documented

router = APIRouter(prefix="/api/golden", tags=["golden"])

Limit = Annotated[int, Query(ge=1, le=100_000)]


@router.post(
    "/draws",
    status_code=201,
    summary="Declare how many drawn items of two runs are to be labelled by people",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409),
)
def declare(body: LabelDraw, controller: Known, response: Response) -> dict[str, Any]:
    known_runs(controller, body.control_run, body.candidate_run)
    enter(controller, body, human_labels.declare, response)
    there = human_labels.draws(controller.store, draw_id=body.draw_id)
    if not there:
        raise _drawn_already(controller, body)
    return views.row(there[0])


def _drawn_already(controller: Controller, body: LabelDraw) -> Conflict:
    """A sample may grow, and is never drawn anew: whoever may draw twice may choose."""
    last = human_labels.draws(
        controller.store,
        control_run=body.control_run,
        candidate_run=body.candidate_run,
        evaluator=body.evaluator,
    )[-1]
    if last["seed"] != body.seed:
        message = f"these runs' items are drawn already, with the seed {last['seed']}"
        return Conflict(message, code="labels_drawn", param="seed")
    message = f"{last['size']} items are to be labelled already: a further draw is greater"
    return Conflict(message, code="labels_drawn", param="size")


@router.get("/draws", summary="Draws of items to be labelled, the first declared first")
def list_draws(
    controller: Known,
    control_run: str | None = None,
    candidate_run: str | None = None,
    evaluator: str | None = None,
) -> list[dict[str, Any]]:
    found = human_labels.draws(
        controller.store, control_run=control_run, candidate_run=candidate_run, evaluator=evaluator
    )
    return [views.row(one) for one in found]


@router.post(
    "/worksheet",
    summary="Hand in what people may be asked about two runs, in the place of an earlier worksheet",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404),
)
def keep_worksheet(body: LabelWorksheet, controller: Known) -> dict[str, int]:
    known_runs(controller, body.control_run, body.candidate_run)
    now = instant(controller.junction.now_ns())
    controller.store.write(
        lambda connection: human_labels.keep_worksheet(connection, body.model_dump(), at=now)
    )
    return {"tasks": len(body.tasks)}


@router.get(
    "/worksheet",
    summary="What people may be asked about two runs by one check, in the order of the draw",
    responses=documented(404),
)
def show_worksheet(control_run: str, candidate_run: str, evaluator: str, controller: Known) -> dict[str, Any]:
    control, candidate = known_runs(controller, control_run, candidate_run)
    found = human_labels.worksheet(
        controller.store, control_run=control_run, candidate_run=candidate_run, evaluator=evaluator
    )
    if found is None:
        message = (
            f"nothing of these runs was handed out to be graded for {evaluator!r}: `turnout golden compare` "
            "and `turnout golden label` do it, where answers differ that a judge graded"
        )
        raise NotFound(message, code="unknown_worksheet", param="evaluator")
    return views.row(found) | {
        "model": candidate["model"],
        "control_version": control["version"],
        "candidate_version": candidate["version"],
    }


@router.post(
    "/labels",
    summary="Append labels; one that is there already stays as it is",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404),
)
def append_labels(body: HumanLabels, controller: Known) -> dict[str, int]:
    for draw_id in {label.draw_id for label in body.labels}:
        if not human_labels.draws(controller.store, draw_id=draw_id):
            message = f"no draw {draw_id!r}: only what was drawn can be labelled"
            raise NotFound(message, code="unknown_draw", param="draw_id")
    return append(controller, body.labels, human_labels.add_labels)


@router.get("/labels", summary="What each labeller said last of each task, the first said first")
def list_labels(
    controller: Known, set_name: str | None = None, evaluator: str | None = None, limit: Limit = 10_000
) -> list[dict[str, Any]]:
    found = human_labels.labels(controller.store, set_name=set_name, evaluator=evaluator, limit=limit)
    return [views.row(one) for one in found]
