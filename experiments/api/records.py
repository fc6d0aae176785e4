"""What happened and how things are: overview, decisions, exchanges, health."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from .. import views
from ..errors import NotFound
from ..ledger import decisions, traffic
from .gate import Known
from .refusals import documented

router = APIRouter(prefix="/api", tags=["records"])

Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/overview", summary="Models, experiments and health in one answer")
def overview(controller: Known) -> dict[str, Any]:
    return views.overview(controller)


@router.get("/health", summary="Collector, workers, registry, ledger, and what is still owed")
def health(controller: Known) -> dict[str, Any]:
    return views.health(controller)


@router.get("/decisions", summary="Who did what, on which verdict; the newest first")
def list_decisions(
    controller: Known, model: str | None = None, experiment: str | None = None, limit: Limit = 100
) -> list[dict[str, Any]]:
    found = decisions.listed(controller.store, model=model, experiment=experiment, limit=limit)
    return [views.decision(one) for one in found]


@router.get("/exchanges", summary="Exchanges without their bodies, the newest first")
def list_exchanges(
    controller: Known,
    model: str | None = None,
    experiment: str | None = None,
    arm: str | None = None,
    outcome: str | None = None,
    trace_id: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None,
    limit: Limit = 50,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> list[dict[str, Any]]:
    found = traffic.exchanges(
        controller.store,
        model=model,
        experiment=experiment,
        arm=arm,
        outcome=outcome,
        trace_id=trace_id,
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
