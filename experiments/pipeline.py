"""Which way has a candidate come, what let it in at each stage, and what is still before it?

Reads the ledger, for the control API; decides nothing.
"""

from __future__ import annotations

from typing import Any, Final

from .decision import Decision
from .ledger import decisions, trials
from .ledger.store import Row, Store, nanoseconds
from .lifecycle import Experiment

_ENTERING: Final = ("start", "stage")


def pipeline(
    store: Store, experiment: Experiment, now_ns: int, latest: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The stages in their order, and the promotion at the end.

    `latest` is the latest verdict's document, which need not be in the ledger yet.

    Each: `state` (passed, the experiment's own, or to_come), `time_s` spent in it, the last `verdict` on it
    (kind, label, sentence), and the `permission` (at_ns, reason, verdict hash) that let the candidate in;
    None where there is none.
    """
    made = list(reversed(decisions.listed(store, experiment=experiment.name, limit=500)))
    entered = {str(one.detail.get("stage")): one for one in made if one.action in _ENTERING}
    phases = trials.phases(store, experiment.name)
    steps = [_golden(experiment, now_ns)] if experiment.spec.gate is not None else []
    for index, stage in enumerate(experiment.spec.plan):
        here = [phase for phase in phases if phase["stage"] == index]
        document = None
        if here and index == experiment.phase.stage and latest and latest["as_of_ns"] >= _began_ns(here):
            document = latest
        elif here:
            document = trials.last_verdict(store, experiment.name, index)
        steps.append(
            {
                "stage": stage.mode,
                "state": _state(experiment, index),
                "time_s": _time_s(here, experiment, now_ns),
                "verdict": document and {key: document[key] for key in ("kind", "label", "sentence")},
                "permission": _permission(entered.get(stage.mode)),
            }
        )
    promoted = next((one for one in made if _promotes(one, experiment)), None)
    end = {"stage": "promote", "time_s": None, "verdict": None, "permission": _permission(promoted)}
    return [*steps, {**end, "state": "passed" if experiment.state == "promoted" else "to_come"}]


def _promotes(decision: Decision, experiment: Experiment) -> bool:
    """Not so one of a rival, which ends this experiment too."""
    promotes = decision.action == "promote" and decision.state == "done"
    return promotes and decision.to_version == experiment.candidate_version


def _golden(experiment: Experiment, now_ns: int) -> dict[str, Any]:
    waits = not experiment.phase.number
    ended_ns = experiment.ended_ns or now_ns if waits else experiment.started_ns
    return {
        "stage": "golden",
        "state": experiment.state if waits else "passed",
        "time_s": (ended_ns - experiment.created_ns) / 1e9,
        "verdict": None,
        "permission": None,
    }


def _state(experiment: Experiment, index: int) -> str:
    if not experiment.phase.number or index > experiment.phase.stage:
        return "to_come"
    passed = index < experiment.phase.stage or experiment.state == "promoted"
    return "passed" if passed else experiment.state


def _began_ns(phases: list[Row]) -> int:
    return nanoseconds(phases[0]["started_at"])


def _time_s(phases: list[Row], experiment: Experiment, now_ns: int) -> float | None:
    if not phases:
        return None
    ended = phases[-1]["ended_at"]
    ended_ns = nanoseconds(ended) if ended is not None else experiment.ended_ns or now_ns
    return max(0.0, (ended_ns - _began_ns(phases)) / 1e9)  # a clock may be set back


def _permission(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    return {"at_ns": decision.at_ns, "reason": decision.reason, "verdict_hash": decision.verdict_hash}
