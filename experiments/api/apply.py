"""Apply: what a folder of files declares, compared with what is, and brought about."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from .. import views
from ..declared import File
from ..errors import ExperimentsError
from ..steering.control import Author
from ..steering.enactment import Outline, Step
from .bodies import Apply
from .gate import Known, require_token
from .refusals import documented

router = APIRouter(prefix="/api/apply", tags=["apply"])


@router.post(
    "",
    summary="Bring about what files declare; with `dry_run`, the plan of it",
    description="A dry run answers the plan with its digest. Sent again as `plan`, it is carried out if "
    "it is still what follows (409 `stale_plan` otherwise). Nothing is changed unless every file is right.",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409, 503),
)
def apply(body: Apply, controller: Known) -> dict[str, Any]:
    files = tuple(File(path=file.path, text=file.text) for file in body.files)
    if body.dry_run:
        return _view(controller.enactment.outline(files, prune=body.prune))
    if body.plan is None:
        raise ExperimentsError(
            "no plan: ask for one with dry_run, look at it, and send its digest as `plan`",
            code="no_plan",
            param="plan",
        )
    origin = "turnout apply" + (f" of {body.reference}" if body.reference else "")
    author = Author(actor=body.actor, reason=origin, detail={"reference": body.reference})
    outline, done = controller.enactment.apply(files, author, plan=body.plan, prune=body.prune)
    return _view(outline) | {"done": [views.done(one) for one in done]}


def _view(outline: Outline) -> dict[str, Any]:
    """The plan: its digest, how many steps change something, and the steps."""
    last = outline.cut_short
    return {
        "plan": outline.digest(),
        "changes": len(outline.changing),
        "refused": len(outline.refused),
        "cut_short": None if last is None else views.decision(last),
        "steps": [_step(step) for step in outline.steps],
        "done": [],
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "verb": step.verb,
        "name": step.name,
        "file": step.file.path if step.file else None,
        "sentences": list(step.sentences),
        "diff": list(step.diff),
    }
