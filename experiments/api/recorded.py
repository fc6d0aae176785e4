"""Recorded requests: which a replay asks, how far it is, and the requests themselves, page by page."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from .. import views
from ..errors import Conflict
from ..ledger.recorded import Selection, progress, remaining, skipped
from ..lifecycle import LIVE, Experiment
from ..recorded import foreseen, selection_of
from ..spec import ExperimentSpec, read_spec
from ..steering.admission import version_of
from .bodies import SpecText
from .gate import Known, require_token
from .refusals import documented

router = APIRouter(prefix="/api", tags=["recorded"])


@router.post(
    "/recorded",
    summary="What a spec would find among the recorded requests, if it began now",
    dependencies=[Depends(require_token)],  # it changes nothing, but takes the ledger's time
    responses=documented(400, 401, 404, 409),
)
def preview(body: SpecText, controller: Known) -> dict[str, Any]:
    spec = read_spec(body.spec_yaml, body.filename)
    model = controller.junction.model(spec.model)
    control, candidate = version_of(model, spec.control), version_of(model, spec.candidate)
    selection = foreseen(spec, control, controller.junction.now_ns())
    found = _declared(spec, selection)
    return {
        "control_version": control,
        "candidate_version": candidate,
        **views.replay(found, progress(controller.store, found)),
    }


@router.get(
    "/experiments/{name}/recorded",
    summary="How far a replay is: selected = paired + skipped + remaining",
    responses=documented(404, 409),
)
def show(name: str, controller: Known) -> dict[str, Any]:
    experiment, selection = _replay(name, controller)
    return {"state": experiment.state, **views.replay(selection, controller.standings.of(selection))}


@router.get(
    "/experiments/{name}/recorded/requests",
    summary="Recorded requests that have no copy yet, with their bodies, the oldest first",
    description="A page may be empty; `after` is for the next one, null after the last.",
    dependencies=[Depends(require_token)],  # what users wrote, in bulk
    responses=documented(401, 404, 409),
)
def requests(
    name: str,
    controller: Known,
    after: Annotated[str, Query(max_length=100, description="`after` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> dict[str, Any]:
    experiment, selection = _replay(name, controller)
    page = remaining(controller.store, selection, after=after, limit=limit)
    controller.standings.gave(name, (one["exchange_id"] for one in page.requests))
    return {
        "closed": _closed(experiment),
        "requests": [{**one, "request": (one["request"] or b"").decode()} for one in page.requests],
        "after": page.after,
    }


@router.get(
    "/experiments/{name}/recorded/skipped",
    summary="The recorded requests that get no pair, and why",
    responses=documented(404, 409),
)
def list_skipped(
    name: str, controller: Known, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> list[dict[str, Any]]:
    _, selection = _replay(name, controller)
    return skipped(controller.store, selection, limit=limit)


def _closed(experiment: Experiment) -> str | None:
    """Why an experiment takes no recorded requests now, None if it does."""
    if experiment.state not in LIVE:
        return f"it is {experiment.state_text}"
    return None if experiment.stage.recorded is not None else f"it is in its stage {experiment.stage.mode}"


def _replay(name: str, controller: Known) -> tuple[Experiment, Selection]:
    experiment = controller.junction.experiment(name)
    return experiment, _declared(experiment.spec, selection_of(experiment))


def _declared(spec: ExperimentSpec, selection: Selection | None) -> Selection:
    if selection is None:
        raise Conflict(
            f"{spec.experiment!r} has no `recorded` in its shadow's traffic: it copies live requests",
            code="not_recorded",
        )
    return selection
