"""Models: which versions there are, promote, roll back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from registry import EndpointSpec, names

from .. import views
from ..errors import Conflict, ExperimentsError
from ..ledger.recording import RecordingPolicy
from .bodies import NewVersion, Promote, Rollback, Why
from .gate import Known, require_signature, require_token
from .refusals import documented

router = APIRouter(prefix="/api/models", tags=["models"])


@router.get("", summary="Every model with its versions")
def list_models(controller: Known) -> list[dict[str, Any]]:
    return [views.model(model) for model in controller.junction.models()]


@router.post(
    "/changed",
    status_code=202,
    summary="A hint that the registry has changed",
    description="For MLflow's webhooks, which sign what they send (`registry` in turnout.yaml); or with the "
    "token. What it says is not believed: the registry is asked at once instead of at the next poll.",
    dependencies=[Depends(require_signature)],
    responses=documented(401),
)
def changed(controller: Known) -> dict[str, bool]:
    controller.hint()
    return {"accepted": True}


@router.get("/{model}", summary="One model with its versions", responses=documented(404))
def show_model(model: str, controller: Known) -> dict[str, Any]:
    return views.model(controller.junction.model(model))


@router.get(
    "/{model}/recording",
    summary="How much of a model's bodies is kept, and what is blotted out of them",
    responses=documented(404),
)
def show_recording(model: str, controller: Known) -> dict[str, Any]:
    controller.junction.model(model)
    policy = controller.config.get(model, RecordingPolicy())
    return {
        "recording": policy.recording,
        "redact": [pattern.pattern for pattern in policy.redact],
        "keep_s": policy.keep_s,
        "keep_bytes": policy.keep_bytes,
    }


@router.post(
    "/{model}/versions",
    status_code=201,
    summary="Register a version and where it is served",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 409, 503),
)
def register(model: str, body: NewVersion, controller: Known) -> dict[str, Any]:
    names.model_name(model)  # first: the served name defaults to it
    provided = body.engine == names.LITELLM
    if not (body.replicas or provided) and body.source is None:
        raise ExperimentsError(
            "neither replicas nor a source: say where the version is served, or where its weights are",
            code="nothing_to_register",
            param="replicas",
        )
    endpoint = None
    if body.replicas or provided:
        endpoint = EndpointSpec(
            replicas=tuple(body.replicas),
            served_name=body.served_name or model,
            engine=body.engine,
            credential=body.credential,
        )
    known = {one.name: one for one in controller.junction.models()}
    if "production" in body.aliases and model in known and known[model].production is not None:
        raise Conflict(
            f"{model!r} has a production version ({known[model].production}): register without the alias, "
            "then promote, so that the move is decided on and recorded",
            code="production_taken",
            param="aliases",
        )
    made = controller.registry.register(
        model, endpoint, source=body.source, aliases=body.aliases, tags=body.tags
    )
    controller.reconcile()
    versions: list[dict[str, Any]] = views.model(controller.junction.model(model))["versions"]
    return next(version for version in versions if version["version"] == made.version)


@router.post(
    "/{model}/promote",
    summary="Make a version production",
    description="Refused without a passing verdict (`ship`) for the version, unless forced with a reason.",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409, 503),
)
def promote(model: str, body: Promote, controller: Known) -> dict[str, Any]:
    for experiment in controller.junction.experiments():
        if experiment.model == model and not body.dry_run:
            controller.watch.keep(experiment.name)  # the decision names the verdict that is the last one now
    promotion = controller.promotion
    done = promotion.promote(model, body.version, body.author, force=body.force, dry_run=body.dry_run)
    return views.done(done)


@router.post(
    "/{model}/rollback",
    summary="Release every candidate, or take production back to the former version",
    description="Traffic first: what could not be written yet is listed under `pending` and retried.",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409),
)
def rollback(model: str, body: Rollback, controller: Known) -> dict[str, Any]:
    author, promotion = body.author, controller.promotion
    if body.experiment is not None and body.production:
        raise ExperimentsError(
            "experiment and production are both given, and take back different things: send `experiment` to "
            "release its candidate, or `production: true` to go back to the former version",
            code="ambiguous_rollback",
            param="production",
        )
    if body.experiment is not None:
        return views.done(promotion.release(model, body.experiment, author, dry_run=body.dry_run))
    return views.done(promotion.rollback(model, author, production=body.production, dry_run=body.dry_run))


@router.post(
    "/{model}/rehearse",
    summary="Prove that a rollback would work, and how long it would take",
    description="All that a rollback does but for moving requests; `state` is `failed` if it would not work.",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409),
)
def rehearse(model: str, body: Why, controller: Known) -> dict[str, Any]:
    return views.done(controller.rehearsal.rehearse(model, body.author))
