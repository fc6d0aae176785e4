"""How does what the controller knows look on the wire?

Values in, JSON documents out, in the shapes of the control API. Reads the ledger where a number lies there;
decides nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from registry import EndpointSpec, ModelVersion

from .assignment import CONTROL, PPM
from .controller import Controller
from .decision import Decision, Done
from .ledger import decisions, golden, traffic, trials
from .ledger.recorded import Progress, Selection
from .ledger.store import Row, instant, nanoseconds
from .lifecycle import CANDIDATE, Experiment, entering_share
from .pipeline import pipeline
from .recorded import selection_of
from .routing import CatalogModel
from .snapshot import Endpoint
from .traces import trace_id_of

Json = dict[str, Any]

#: Bytes that two workers' open segments, a commit and a checkpoint of the ledger may need at once.
_NEARLY_FULL: Final = 64 << 20


def at(value: datetime | int | None) -> str | None:
    """An instant (naive UTC, or unix nanoseconds) as ISO 8601 with Z."""
    if value is None:
        return None
    moment = instant(value) if isinstance(value, int) else value
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def row(found: Row) -> Json:
    """A row with its instants as text."""
    return {key: at(value) if isinstance(value, datetime) else value for key, value in found.items()}


def model(known: CatalogModel) -> Json:
    """ModelView."""
    if known.entry is None:  # the registry has not answered since the start: what the last snapshot says
        bare: Json = {"aliases": [], "tags": {}, "created_at": None}
        versions = [
            {"version": one.version, "endpoint": _endpoint(one), **bare} for one in known.endpoints.values()
        ]
    else:
        versions = [_version(version) for version in known.entry.versions]
    return {"name": known.name, "production": known.production, "former": known.former, "versions": versions}


def _version(version: ModelVersion) -> Json:
    return {
        "version": version.version,
        "aliases": list(version.aliases),
        "endpoint": _endpoint(version.endpoint) if version.endpoint else None,
        "problem": version.problem,
        "source": version.source,
        "tags": dict(version.tags),
        "created_at": at(version.created_ms * 1_000_000),
    }


def _endpoint(endpoint: Endpoint | EndpointSpec) -> Json:
    return served(endpoint) | {"credential": endpoint.credential or None}


def served(endpoint: Endpoint | EndpointSpec) -> Json:
    """Where an endpoint is, and what serves it."""
    return {
        "replicas": list(endpoint.replicas),
        "served_name": endpoint.served_name,
        "engine": endpoint.engine,
    }


def summary(controller: Controller, experiment: Experiment) -> Json:
    """ExperimentSummary."""
    return summaries(controller, [experiment])[0]


def summaries(controller: Controller, experiments: Sequence[Experiment]) -> list[Json]:
    """An ExperimentSummary of each. What is asked of the ledger does not grow with those that have ended."""
    books = controller.accountings(experiments)
    return [_summary(controller, one, controller.watch.gist(one), books[one.name]) for one in experiments]


def _summary(
    controller: Controller, experiment: Experiment, document: dict[str, Any] | None, accounting: Json
) -> Json:
    now_ns = controller.junction.now_ns()
    units = document["units"] if document else 0
    end_ns = experiment.ended_ns or now_ns
    data_age_s = None if document is None else max(0.0, (now_ns - document["as_of_ns"]) / 1e9)
    return {
        "name": experiment.name,
        "model": experiment.model,
        "mode": experiment.stage.mode,
        "stages": _stages(experiment),
        "state": experiment.state,
        "arms": _arms(experiment),
        "unit": experiment.spec.unit,
        # Arms and steps are shares of the units that may enter at all.
        "entering_pct": round(100 * entering_share(experiment.spec), 6),
        "phase": experiment.phase.number,
        # The arms say who gets what now; an ended experiment is read by what was tried.
        "candidate_pct": (experiment.phase.candidate_ppm or experiment.phase.share_ppm) / 10_000,
        "started_at": at(experiment.started_ns),
        "ended_at": at(experiment.ended_ns),
        "age_s": (end_ns - experiment.started_ns) / 1e9,
        "verdict": None if document is None else {k: document[k] for k in ("kind", "label", "sentence")},
        "waiting_for": _waiting_for(controller, experiment, accounting),
        "units": units,
        "horizon": experiment.stage.analysis.horizon,
        "days_left": document.get("days_left") if document and experiment.has_traffic else None,
        "guardrails": _guardrails(experiment, document),
        "data_age_s": data_age_s,
        "note": experiment.note,
        "recorded": _window(experiment),
        "accounting": accounting,
    }


def _window(experiment: Experiment) -> Json | None:
    """Of which stretch of the past the present stage asks, None if its requests are live."""
    selection = selection_of(experiment) if experiment.stage.recorded is not None else None
    return None if selection is None else {"since": at(selection.since_ns), "until": at(selection.until_ns)}


def replay(selection: Selection, found: Progress) -> Json:
    """Where the requests of a replay stand, and of which window they are."""
    return {"since": at(selection.since_ns), "until": at(selection.until_ns), **asdict(found)}


def _waiting_for(controller: Controller, experiment: Experiment, accounting: Json) -> str | None:
    """What goes on without anybody, or whose word it takes; None where nothing is awaited."""
    unserved = controller.junction.unserved(experiment.name)
    if unserved is not None:
        return f"traffic, which it does not get: {unserved}"
    waits = controller.watch.waiting_for(experiment)
    if experiment.state == "concluded" and experiment.has_traffic and waits is None:
        promote = f"`turnout promote {experiment.model} --version {experiment.candidate_version}`"
        word = promote if experiment.routes else "real traffic"
        return f"{word}, or the end of it: `turnout experiment stop {experiment.name}`"
    left = accounting.get("replay", {}).get("remaining", 0)
    if experiment.has_traffic and experiment.stage.recorded is not None and left:
        return f"`turnout replay {experiment.name}`, which asks the {left:,} recorded requests that remain"
    nobodys, eligible = accounting["outside"]["no_unit"], accounting["eligible"]
    if waits and experiment.has_traffic and 2 * nobodys > eligible:
        unit = experiment.spec.unit
        return (
            f"{waits.rstrip('.')}; {nobodys:,} of {eligible:,} requests are in no arm, for they name no "
            f"{unit.removeprefix('header:')}: send {_NAMED_BY.get(unit, 'that header')}"
        )
    return waits


#: By what a request names its unit (`proxy.units`).
_NAMED_BY: Final = {
    "user": "the field `user`, or the header `x-turnout-user`",
    "session": "the header `x-turnout-session`, or `metadata.session_id`",
    "tenant": "an API key",
}


def _stages(experiment: Experiment) -> list[Json]:
    """The stages in their order, and how far each is: `passed`, the experiment's state, or `to_come`."""
    found = []
    if experiment.spec.gate is not None:
        gone = bool(experiment.phase.number)
        found.append({"stage": "golden", "state": "passed" if gone else experiment.state})
    for index, stage in enumerate(experiment.spec.plan):
        here = experiment.state if experiment.phase.number else "to_come"
        states = {-1: "passed", 0: here, 1: "to_come"}
        place = (index > experiment.phase.stage) - (index < experiment.phase.stage)
        found.append({"stage": stage.mode, "state": states[place]})
    return found


def _arms(experiment: Experiment) -> list[Json]:
    weight = experiment.weight_ppm / 10_000
    control = (PPM - experiment.weight_ppm) / 10_000 if experiment.routes else 100.0
    return [
        {"arm": CONTROL, "version": experiment.control_version, "weight_pct": control},
        {"arm": CANDIDATE, "version": experiment.candidate_version, "weight_pct": weight},
    ]


_LIGHTS: Final = {
    "ok": "ok",
    "better": "ok",
    "equivalent": "ok",
    "crossed": "crossed",
    "worse": "worse",
    "insufficient_data": "insufficient_data",
}


def _guardrails(experiment: Experiment, document: Mapping[str, Any] | None) -> list[Json]:
    """Each with its light; before the first verdict those that were declared, without data."""
    if document is None:
        goals = experiment.analysis.goals
        found = [{"metric": one.metric.name, "role": one.role, "state": "no_data"} for one in goals]
    else:
        found = document["metrics"]
    return [
        {"metric": metric["metric"], "state": _LIGHTS.get(metric["state"], "no_data")}
        for metric in found
        if metric["role"] == "guardrail"
    ]


def experiment(controller: Controller, found: Experiment) -> Json:
    """ExperimentView: the summary with the spec, the phases and the whole verdict."""
    document = controller.watch.latest(found.name)  # asked once, so that its parts are of one look
    phases = [
        {
            "phase": phase["phase"],
            "started_at": at(phase["started_at"]),
            "ended_at": at(phase["ended_at"]),
            "candidate_pct": (phase["candidate_ppm"] or phase["share_ppm"]) / 10_000,
        }
        for phase in trials.phases(controller.store, found.name)
    ]
    # All of a model's requests are gone through for it: that is left to the looks.
    not_copied = ((document or {}).get("accounting") or {}).get("not_copied")
    return {
        **_summary(controller, found, document, controller.accounting(found) | {"not_copied": not_copied}),
        "spec_yaml": found.spec_yaml,
        "phases": phases,
        "pipeline": pipeline(controller.store, found, controller.junction.now_ns(), document),
        "verdict": verdict(document),
    }


def verdict(document: Mapping[str, Any] | None) -> Json | None:
    """A verdict with its instant as text too."""
    return None if document is None else {**document, "as_of": at(document["as_of_ns"])}


def timeline(controller: Controller, experiment: Experiment, bucket_s: int) -> Json:
    """Traffic per bucket, the effects as they were seen stage by stage, and what was decided when."""
    name = experiment.name
    effects = [
        {
            "at": at(document["as_of_ns"]),
            "stage": stage.mode,
            "metric": metric["metric"],
            "estimate": band["estimate"],
            "lower": band["lower"],
            "upper": band["upper"],
            "scale": (metric.get("effect") or {}).get("scale"),
            "margin": metric.get("margin"),
        }
        for index, stage in enumerate(experiment.spec.plan[: experiment.phase.stage + 1])
        for document in trials.verdicts(controller.store, name, stage=index)
        for metric in document["metrics"]
        if (band := metric.get("band") or metric.get("effect"))
    ]
    events = [
        {
            "at": at(one.at_ns),
            "action": one.action,
            "actor": one.actor,
            "reason": one.reason,
            "text": "; ".join(one.changed) or one.action,
            "state": one.state,
        }
        for one in reversed(decisions.listed(controller.store, experiment=name, limit=500))
    ]
    buckets = [row(found) for found in traffic.timeline(controller.store, name, bucket_s=bucket_s)]
    return {"traffic": buckets, "effects": effects, "events": events}


def decision(made: Decision) -> Json:
    """A decision row."""
    return made.document()


def done(result: Done) -> Json:
    """DecisionView: the decision, who acts on it already, and what is still to be written."""
    view = decision(result.decision)
    if not result.recorded:
        view |= {"decision_id": None, "state": None}
    return view | {
        "snapshot": result.snapshot,
        "acknowledged_by": list(result.acknowledged_by),
        "unacknowledged": list(result.unacknowledged),
        "pending": list(result.pending),
        "elapsed_ms": round(result.elapsed_ms, 1),
    }


def exchange(found: Row) -> Json:
    """An exchange's row, and the trace in which a backend has it."""
    return row(found) | {"trace_id": trace_id_of(found)}


def golden_run(found: Row) -> Json:
    """RunView."""
    return row(found) | {"parameters": found.get("parameters") or {}}


def golden_run_with_results(controller: Controller, found: Row) -> Json:
    """A run and everything that was scored in it."""
    results = [row(result) for result in golden.results(controller.store, found["run_id"])]
    return {"run": golden_run(found), "results": results}


def health(controller: Controller) -> Json:
    """How the parts are, in numbers and words."""
    now_ns = controller.junction.now_ns()
    condition = traffic.condition(controller.store)
    last = condition["last_segment_at"]
    registry = controller.registry_condition()
    return {
        "as_of": at(now_ns),
        "collector": {
            "last_segment_at": at(last),
            "lag_s": None if last is None else max(0.0, (now_ns - nanoseconds(last)) / 1e9),
            "segments_waiting": controller.collected.waiting,
            "rows": condition["rows"],
            "torn_bytes": condition["torn_bytes"],
            "quarantined": condition["quarantined"],
        },
        "workers": [
            {"worker": one.worker, "snapshot": one.snapshot, "last_seen_s": one.last_seen_s}
            for one in controller.publication.workers()
        ],
        "snapshot": controller.publication.version,
        "snapshot_saved": not controller.publication.unsaved,
        "losses": condition["losses"],
        "registry": {"ok": registry.ok, "error": registry.error, "last_ok_s": registry.last_ok_s},
        "ledger": {
            "path": str(controller.store.path),
            "bytes": condition["bytes"],
            "exchanges": condition["rows"],
        },
        "pending": [
            f"{debt.decision.action} of {debt.decision.model}: {' and '.join(debt.words)}"
            for debt in controller.settlement.debts
        ],
        "not_routed": list(controller.junction.left_out),
        "traces": None if controller.tracing is None else asdict(controller.tracing.progress),
        "config_error": controller.config.error,
        "troubles": list(_troubles(controller)),
    }


def _troubles(controller: Controller) -> Iterator[str]:
    """What is declared and does not come about, in words that name no secret."""
    folder = controller.store.path.parent
    left = wanted = _NEARLY_FULL
    with suppress(OSError):
        wanted = controller.store.room_wanted()
        left = shutil.disk_usage(folder).free
    if _NEARLY_FULL <= left < wanted:
        yield (
            f"{folder} has {left >> 20} MiB left: the ledger's log is moved into its file once there are "
            f"{wanted >> 20}, and grows until then"
        )
    if left < _NEARLY_FULL:
        yield (
            f"{folder} has {left >> 20} MiB left: once it is full, requests are still answered and none is "
            "recorded until there is room again"
        )
    stuck = controller.collector.stuck
    if stuck:
        name, why = next(iter(stuck.items()))
        yield (
            f"{len(stuck)} files of the spool are in the ledger and cannot be deleted ({name[:60]}: {why}): "
            "they fill the disk until the controller may write there"
        )
    for one in controller.notices.state():
        if one.error is not None:
            lost = f"; {one.given_up} events are given up" if one.given_up else ""
            yield f"decisions are not told to {urlsplit(one.url).hostname}: {one.error}{lost}"
    for model_name, count in controller.collector.withheld.items():
        yield (
            f"{count} bodies of {model_name!r} are not kept (since the controller's start): its `redact` "
            "patterns were not through with them in time; the controller's log names the pattern"
        )


def overview(controller: Controller) -> Json:
    """Everything that the first page shows."""
    return {
        "as_of": at(controller.junction.now_ns()),
        "models": [model(known) for known in controller.junction.models()],
        "experiments": summaries(controller, controller.junction.experiments()),
        "health": health(controller),
    }
