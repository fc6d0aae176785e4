"""What was done, by whom, on which verdict? The audit row, and what its author is told.

Values only; `control` and `promotion` make them, `ledger.decisions` keeps them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Action = Literal[
    "draft", "preflight", "start", "ramp", "stage", "pause", "resume", "invalidate", "revalidate", "warn",
    "conclude", "stop", "promote", "rollback", "breaker", "rehearse", "amend", "configure", "apply",
    "forget",
]  # fmt: skip
VerdictKind = Literal["invalid", "roll_back", "ship", "keep_running", "inconclusive"]
DecisionState = Literal["intent", "done", "failed"]

#: Actors that are no person.
CONTROLLER = "controller"
REGISTRY = "registry"
SETTINGS_FILE = "turnout.yaml"
EVALUATORS_FILE = "evaluators.yaml"


def new_id() -> str:
    """An id for a decision."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """The verdict that a decision stands on."""

    kind: VerdictKind
    digest: str
    experiment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One row of the audit. `changed` says in sentences what is different now; times are unix nanoseconds.

    `model` is empty where a decision concerns no single model. `detail["ended"]` names the experiments that
    a move of the whole model ends, and the one whose promotion it takes back, so that each can tell of it.
    """

    decision_id: str = field(default_factory=new_id)
    at_ns: int
    actor: str
    action: Action
    model: str
    experiment: str | None = None
    from_version: int | None = None
    to_version: int | None = None
    verdict_kind: str | None = None
    verdict_hash: str | None = None
    forced: bool = False
    reason: str | None = None
    state: DecisionState = "done"
    changed: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The row as others get to read it: over the API, in an event, in a webhook."""
        moment = datetime.fromtimestamp(self.at_ns // 1_000_000_000, tz=UTC)
        at = moment.replace(microsecond=self.at_ns % 1_000_000_000 // 1000, tzinfo=None)
        return {
            "decision_id": self.decision_id,
            "at": f"{at.isoformat(timespec='milliseconds')}Z",
            "actor": self.actor,
            "action": self.action,
            "model": self.model or None,
            "experiment": self.experiment,
            "from_version": self.from_version,
            "to_version": self.to_version,
            "verdict_kind": self.verdict_kind,
            "verdict_hash": self.verdict_hash,
            "forced": self.forced,
            "reason": self.reason,
            "state": self.state,
            "changed": list(self.changed),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What the author of a decision is told. `pending` is what could not be written yet and is being retried.

    `decision` is what was (or, in a dry run, would be) recorded; `recorded` is False where nothing changed.
    """

    decision: Decision
    recorded: bool = True
    snapshot: int = 0
    acknowledged_by: tuple[str, ...] = ()
    unacknowledged: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    elapsed_ms: float = 0.0
