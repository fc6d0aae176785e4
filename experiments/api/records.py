"""What happened and how things are: overview, decisions, exchanges, health."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from .. import views
from ..errors import ExperimentsError, NotFound
from ..ledger import decisions, traffic
from ..ledger.exchange import Origin, Outcome
from .bodies import Forget, Limit
from .gate import Known, require_token
from .refusals import documented

router = APIRouter(prefix="/api", tags=["records"])


def _only_known(request: Request) -> None:
    """Refuses a parameter that there is not: what is no filter would find everything."""
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            message = f"no parameter {name!r} here: there are {', '.join(known)}"
            raise ExperimentsError(message, code="unknown_parameter", param=name)


@router.get("/overview", summary="Models, experiments and health in one answer")
def overview(controller: Known) -> dict[str, Any]:
    return views.overview(controller)


@router.get("/health", summary="Collector, workers, registry, ledger, and what is still owed")
def health(controller: Known) -> dict[str, Any]:
    return views.health(controller)


@router.get(
    "/decisions",
    summary="Who did what, on which verdict; the newest first",
    dependencies=[Depends(_only_known)],
)
def list_decisions(
    controller: Known, model: str | None = None, experiment: str | None = None, limit: Limit = 100
) -> list[dict[str, Any]]:
    found = decisions.listed(controller.store, model=model, experiment=experiment, limit=limit)
    return [views.decision(one) for one in found]


@router.get(
    "/exchanges",
    summary="Exchanges without their bodies, the newest first",
    description="Page with `before`: by `offset` rows that come in meanwhile show some twice. Of a shadow or "
    "replay the requests of its pairs are found with their copies; they are its control.",
    dependencies=[Depends(_only_known)],
)
def list_exchanges(
    controller: Known,
    model: str | None = None,
    experiment: str | None = None,
    arm: str | None = None,
    outcome: Outcome | None = None,
    origin: Origin | None = None,
    trace_id: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None,
    before: Annotated[str | None, Query(description="the last exchange of the page before")] = None,
    limit: Limit = 50,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> list[dict[str, Any]]:
    found = traffic.exchanges(
        controller.store,
        model=model,
        experiment=experiment,
        arm=arm,
        outcome=outcome,
        origin=origin,
        trace_id=trace_id,
        before=before,
        limit=limit,
        offset=offset,
    )
    return [views.exchange(one) for one in found]


@router.get("/exchanges/{exchange_id}", summary="One exchange with its body", responses=documented(404))
def show_exchange(exchange_id: str, controller: Known) -> dict[str, Any]:
    found = traffic.exchange(controller.store, exchange_id)
    if found is None:
        message = f"no exchange {exchange_id!r}: it may still be on its way from the proxy"
        raise NotFound(message, code="unknown_exchange", param="exchange_id")
    return views.exchange(found)


@router.post(
    "/forget",
    summary="Forget units: everything in words goes, numbers stay under a name drawn by lot",
    description="With `dry_run` it is said what there is. Waits until the ledger's file is written anew.",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 503),
)
def forget(body: Forget, controller: Known) -> dict[str, Any]:
    return controller.erasure.forget(body.units, body.author, dry_run=body.dry_run).document()
