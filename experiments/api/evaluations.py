"""Preflights, where a version stands at the gate, and scores of exchanges: for the evaluators' process."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response

from .. import views
from ..controller import Controller
from ..labels import preflight_tag
from ..ledger import evaluations
from ..ledger.store import Row, instant
from ..steering.admission import version_of
from .appending import append, enter
from .bodies import ExchangeScores, GateState, Limit, Preflight, Version
from .gate import Known, require_token
from .refusals import documented
from .tagging import tag

router = APIRouter(prefix="/api", tags=["evaluations"])


@router.post(
    "/preflights",
    status_code=201,
    summary="Record a preflight; the verdict becomes a tag of the candidate",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404),
)
def record(body: Preflight, controller: Known, response: Response) -> dict[str, Any]:
    known = controller.junction.model(body.model)
    for version in (body.control_version, body.candidate_version):
        version_of(known, version)
    if enter(controller, body, evaluations.save_preflight, response):
        tag(controller, body.model, body.candidate_version, preflight_tag(body.model_dump()))
    [found] = evaluations.preflights(controller.store, preflight_id=body.preflight_id)
    return views.row(found) | {"outdated": _outdated(controller, [found])[0]}


@router.get(
    "/preflights", summary="Preflights, the newest first; `outdated` says what is another engine since"
)
def list_preflights(
    controller: Known,
    model: str | None = None,
    control_version: Version | None = None,
    candidate_version: Version | None = None,
    limit: Limit = 100,
) -> list[dict[str, Any]]:
    found = evaluations.preflights(
        controller.store,
        model=model,
        control_version=control_version,
        candidate_version=candidate_version,
        limit=limit,
    )
    told = _outdated(controller, found)
    return [views.row(one) | {"outdated": why} for one, why in zip(found, told, strict=True)]


def _outdated(controller: Controller, found: list[Row]) -> list[list[str]]:
    """Of each preflight, what has changed since in what it was asked of: where a version is served, or what a
    later preflight found there."""
    prints = evaluations.latest_fingerprints(controller.store)
    known = {model.name: model for model in controller.junction.models()}
    told = []
    for one in found:
        reasons: list[str] = []
        for side in ("control", "candidate"):
            version, result = one[f"{side}_version"], one["result"]
            model, asked = known.get(one["model"]), result.get(f"{side}_endpoint")
            now = model.endpoints.get(version) if model is not None else None
            print_, later = result.get(f"{side}_fingerprint"), prints.get((one["model"], version))
            if asked and now and any(asked.get(name) != value for name, value in views.served(now).items()):
                reasons.append(f"version {version} is served elsewhere, or by another engine, since")
            elif print_ and later and print_ != later:
                reasons.append(f"a later preflight found another engine behind version {version}")
        told.append(reasons)
    return told


@router.post(
    "/models/{model}/versions/{version}/gate",
    summary="Note in the version's tags where it stands on its way to traffic",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 503),
)
def gate(model: str, version: int, body: GateState, controller: Known) -> dict[str, str]:
    version_of(controller.junction.model(model), version)
    tags = {f"gate.{name}": value for name, value in body.model_dump().items() if value is not None}
    # The registry takes one tag at a time. Whoever reads between them is to see a conclusion only with what
    # it rests on, and no other state beside a key that it has not been concluded for.
    concluded = body.verdict is not None
    for key, value in sorted(tags.items(), key=lambda tag: (tag[0] == "gate.state") == concluded):
        controller.registry.tag_version(model, version, key, value)
    return tags


@router.get("/scores/pending", summary="Sampled exchanges that an evaluator's version has no score of")
def pending(
    controller: Known,
    model: str,
    evaluator: Annotated[str, Query(min_length=1, max_length=200)],
    version: Annotated[str, Query(min_length=1, max_length=200)],
    rate: Annotated[float, Query(ge=0, le=1, description="the share of exchanges that are scored")] = 1.0,
    role: Annotated[
        Literal["primary", "shadow"], Query(description="shadow: the mirrored halves of pairs")
    ] = "primary",
    hours: Annotated[float | None, Query(gt=0, le=24 * 3660, description="not older than this")] = None,
    limit: Limit = 100,
) -> list[dict[str, Any]]:
    found = evaluations.pending(
        controller.store,
        model=model,
        evaluator=evaluator,
        version=version,
        rate=rate,
        role=role,
        since=None if hours is None else _ago(controller, hours),
        limit=limit,
    )
    return [views.row(one) for one in found]


@router.post(
    "/scores",
    summary="Append scores; those that are there already stay as they are",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401),
)
def append_scores(body: ExchangeScores, controller: Known) -> dict[str, int]:
    return append(controller, body.scores, evaluations.add_scores)


@router.get("/scores", summary="Scores of exchanges, the newest first")
def list_scores(
    controller: Known, exchange_id: str | None = None, evaluator: str | None = None, limit: Limit = 100
) -> list[dict[str, Any]]:
    found = evaluations.scores(controller.store, exchange_id=exchange_id, evaluator=evaluator, limit=limit)
    return [views.row(one) for one in found]


@router.get("/scores/summary", summary="What evaluators say of a model's exchanges, by version")
def summary(controller: Known, model: str) -> list[dict[str, Any]]:
    return [views.row(one) for one in evaluations.summary(controller.store, model=model)]


@router.get("/scores/spent", summary="What an evaluator has cost in the last hours")
def spent(
    controller: Known,
    evaluator: Annotated[str, Query(min_length=1, max_length=200)],
    hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24.0,
) -> dict[str, Any]:
    since = _ago(controller, hours)
    return views.row(evaluations.spent(controller.store, evaluator=evaluator, since=since))


def _ago(controller: Controller, hours: float) -> datetime:
    return instant(controller.junction.now_ns()) - timedelta(hours=hours)
