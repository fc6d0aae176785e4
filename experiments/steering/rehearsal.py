"""Would a rollback work now, and how long would it take?

Every step of a rollback is taken but the one that changes where requests go: the version to go back to is
asked, the journal is written, the routing table is published as it is and acknowledged by every worker.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ..decision import Decision, Done
from ..errors import Conflict
from ..ledger import decisions
from ..readiness import Probe
from ..routing import CatalogModel
from .control import Author, Control
from .promotion import Promotion
from .settlement import SETBACKS


class Rehearsal:
    """Proves rollbacks. Safe to use from threads."""

    def __init__(self, control: Control, promotion: Promotion, *, probe: Probe) -> None:
        self._control = control
        self._junction = control.junction
        self._promotion = promotion
        self._probe = probe

    def rehearse(self, name: str, author: Author) -> Done:
        """A rollback of the model with nothing moved. Raises NotFound, Conflict where there is no way back.

        `elapsed_ms` is what a rollback takes until every worker acts on it; the question to the engine is
        not part of it, since a rollback asks nobody.
        """
        model = self._junction.model(name)
        would = self._promotion.rollback(name, author, dry_run=True)
        target = self._target(model)
        if target is None:  # it has been rolled back already
            raise Conflict(would.decision.changed[0], code="nothing_to_roll_back", param="model")
        endpoint = model.endpoints.get(target)
        trouble = "it has no endpoint" if endpoint is None else self._probe(endpoint)
        began = time.monotonic()
        self._control.settlement.rehearse()
        journal_ms = (time.monotonic() - began) * 1000
        with self._junction.lock:
            self._junction.publish()
        decision = Decision(
            at_ns=self._junction.now_ns(),
            actor=author.actor,
            action="rehearse",
            model=name,
            to_version=target,
            reason=author.reason,
        )
        done = self._control.acknowledged(decision, began)
        words = (
            *(f"a rollback would do this: {sentence}" for sentence in would.decision.changed),
            f"version {target} does not answer: {trouble}" if trouble else f"version {target} answers",
            f"the journal took {journal_ms:.0f} ms",
            f"every worker had the routing table after {done.elapsed_ms:.0f} ms"
            if not done.unacknowledged
            else f"workers that did not acknowledge: {', '.join(done.unacknowledged)}",
        )
        passed = not trouble and not done.unacknowledged
        decision = replace(
            decision,
            state="done" if passed else "failed",
            changed=words,
            detail={"elapsed_ms": round(done.elapsed_ms, 1), "journal_ms": round(journal_ms, 1)},
        )
        pending = self._record(decision)
        return replace(done, decision=decision, pending=pending)

    def _target(self, model: CatalogModel) -> int | None:
        """Where the units would go: to production from a candidate, else to the former version."""
        if self._promotion.tried_on_users(model.name):
            return model.production
        former = decisions.former_production(self._control.store, model.name, model.production)
        return model.former or former

    def _record(self, decision: Decision) -> tuple[str, ...]:
        try:
            self._control.store.write(lambda connection: decisions.record(connection, decision))
        except SETBACKS:
            return ("the record of this rehearsal",)
        return ()
