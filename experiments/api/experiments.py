"""Experiments: declared, looked at, paused, ended."""

from __future__ import annotations

import tarfile
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from .. import views
from ..ledger import pairs
from ..ledger.evidence import distinct
from ..ledger.history import history
from ..ledger.pairs import PairFilter
from ..reporting import write_dossier
from ..spec import analysis_of, read_spec
from ..steering.control import Author
from .bodies import NewExperiment, PastTraffic, Why
from .gate import Known, require_token
from .refusals import documented

router = APIRouter(prefix="/api/experiments", tags=["experiments"])


@router.get("", summary="Every experiment, the newest first")
def list_experiments(controller: Known) -> list[dict[str, Any]]:
    return views.summaries(controller, controller.junction.experiments())


@router.post(
    "",
    status_code=201,
    summary="Start the experiment that a YAML spec declares",
    description="A bad spec is answered with every problem at once: file, line, field, found, expected.",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409, 503),
)
def start(body: NewExperiment, controller: Known) -> dict[str, Any]:
    author = Author(actor=body.actor)
    experiment, done = controller.control.start(body.spec_yaml, body.filename, author, draft=body.draft)
    return {**views.summary(controller, experiment), "changed": list(done.decision.changed)}


@router.post(
    "/history",
    summary="What the units of a spec's model were like so far: to plan with",
    dependencies=[Depends(require_token)],  # it changes nothing, but takes the ledger's time
    responses=documented(400, 401),
)
def history_of(body: PastTraffic, controller: Known) -> dict[str, Any]:
    spec = read_spec(body.spec_yaml, body.filename)
    until_ns = controller.junction.now_ns()
    stages = [
        analysis_of(spec, control_version=1, candidate_version=2, stage=stage)
        for stage in range(len(spec.plan))
    ]
    metrics = {metric.name: metric for one in stages for metric in distinct(one)}
    found = history(
        controller.store,
        spec.model,
        tuple(metrics.values()),
        since_ns=until_ns - round(body.days * 86_400e9),
        until_ns=until_ns,
        limit=body.units,
    )
    return asdict(found)


@router.get("/{name}", summary="One experiment with its verdict", responses=documented(404))
def show(name: str, controller: Known) -> dict[str, Any]:
    return views.experiment(controller, controller.junction.experiment(name))


@router.post(
    "/{name}/stop",
    summary="End it; production stays",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409, 503),
)
def stop(name: str, body: Why, controller: Known) -> dict[str, Any]:
    return views.done(controller.control.stop(name, body.author))


@router.post(
    "/{name}/pause",
    summary="Take the candidate's traffic away for now",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409, 503),
)
def pause(name: str, body: Why, controller: Known) -> dict[str, Any]:
    return views.done(controller.control.pause(name, body.author))


@router.post(
    "/{name}/resume",
    summary="Give the candidate its traffic back",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409, 503),
)
def resume(name: str, body: Why, controller: Known) -> dict[str, Any]:
    return views.done(controller.control.resume(name, body.author))


@router.post(
    "/{name}/submit",
    summary="Let a draft begin as soon as nothing stands against it",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409, 503),
)
def submit(name: str, body: Why, controller: Known) -> dict[str, Any]:
    return views.done(controller.control.submit(name, body.author))


@router.post(
    "/{name}/advance",
    summary="Give the candidate the ramp's next weight now",
    dependencies=[Depends(require_token)],
    responses=documented(400, 401, 404, 409, 503),
)
def advance(name: str, body: Why, controller: Known) -> dict[str, Any]:
    return views.done(controller.control.advance(name, body.author))


@router.get("/{name}/timeline", summary="Traffic, effects and decisions over time", responses=documented(404))
def timeline(
    name: str, controller: Known, bucket_s: Annotated[int, Query(ge=1, le=86_400)] = 10
) -> dict[str, Any]:
    return views.timeline(controller, controller.junction.experiment(name), bucket_s)


@router.get("/{name}/pairs", summary="Mirrored pairs, side by side", responses=documented(404))
def list_pairs(
    name: str,
    controller: Known,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    filter: PairFilter = "all",
) -> dict[str, Any]:
    experiment = controller.junction.experiment(name)
    total, found = pairs.listed(controller.store, experiment.name, kind=filter, limit=limit, offset=offset)
    return {"total": total, "pairs": [views.row(pair) for pair in found]}


@router.get(
    "/{name}/report",
    summary="A verdict with all that it follows from, as a tar archive",
    description="The latest verdict, or the one with `digest`; it can be replayed elsewhere.",
    response_class=FileResponse,
    responses=documented(404, 409),
)
def report(name: str, controller: Known, digest: Annotated[str | None, Query()] = None) -> FileResponse:
    experiment = controller.junction.experiment(name)
    controller.watch.keep(name)
    place = TemporaryDirectory(prefix="report-", dir=controller.options.data)
    try:
        folder, archive = Path(place.name) / "report", Path(place.name) / "report.tar"
        folder.mkdir()
        write_dossier(controller.store, experiment, folder, digest=digest)
        with tarfile.open(archive, "w") as packed:
            for file in sorted(folder.iterdir()):
                packed.add(file, arcname=file.name)
    except BaseException:
        place.cleanup()
        raise
    return FileResponse(archive, media_type="application/x-tar", background=BackgroundTask(place.cleanup))
