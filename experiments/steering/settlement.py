"""How does what was done to traffic get into the records, if need be after MLflow, the disk or the controller
have come back?

A settlement is what is still owed: rows of the ledger, and perhaps the registry's alias. It lies in the
journal before traffic is turned, is tried at once, and again until it is paid. Paying is safe to repeat.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from registry import NoSuchModel, NoSuchVersion, Registry, RegistryError

from ..decision import Decision, DecisionState, new_id
from ..errors import ExperimentsError
from ..ledger import decisions, trials
from ..ledger.store import Connection, DatabaseError, Store
from ..lifecycle import Experiment
from .journal import Journal, JournalFull
from .junction import Junction

log = logging.getLogger("turnout.settlement")

#: What a step that cannot be carried out now may raise; anything else is a fault of ours.
SETBACKS = (RegistryError, ExperimentsError, DatabaseError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """What a decision still owes. `alias` is the version that `production` must name, None if it stays."""

    decision: Decision
    experiments: tuple[str, ...] = ()
    alias: int | None = None
    recorded: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """What is owed, for the operator."""
        owed = () if self.recorded else ("the records in the ledger",)
        return owed if self.alias is None else (*owed, f"alias production -> {self.alias} in MLflow")


class Settlement:
    """The debts, and their payment by one thread of its own."""

    def __init__(
        self,
        junction: Junction,
        store: Store,
        registry: Registry,
        journal: Journal,
        *,
        at: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._junction = junction
        self._store = store
        self._registry = registry
        self._journal = journal
        self._at = at
        self._changed = threading.Condition()
        self._debts: dict[str, Debt] = {}
        self._wake = threading.Event()
        #: Held over a record of experiments and memory's keeping up with it, so that what is owed is never
        #: written over what was recorded after it. Taken before `Junction.lock`, never inside it.
        self.recording = threading.Lock()
        #: Held over a question to the registry and what follows from its answer, so that no answer is acted
        #: on that a move has overtaken. Taken before `Junction.lock`, never inside it.
        self.registry_lock = threading.RLock()

    @property
    def debts(self) -> list[Debt]:
        """What is owed now, oldest first."""
        with self._changed:
            return sorted(self._debts.values(), key=lambda debt: debt.decision.at_ns)

    def moving(self, model: str) -> Debt | None:
        """The debt that will move this model's alias, None if there is none."""
        return next((debt for debt in self.debts if debt.decision.model == model and debt.alias), None)

    def owe(self, decision: Decision, experiments: tuple[Experiment, ...], alias: int | None = None) -> None:
        """Take a debt on, journal first. A journal that fails is told, and stops nothing."""
        endings = [
            {"name": one.name, "state": one.state, "ended_ns": one.ended_ns, "note": one.note}
            for one in experiments
        ]
        entry = {"id": decision.decision_id, "decision": asdict(decision), "alias": alias, "endings": endings}
        try:
            self._journal.add(entry)
        except (OSError, JournalFull) as error:
            log.warning("the journal does not take %s of %s: %s", decision.action, decision.model, error)
        names = tuple(one.name for one in experiments)
        self._put(Debt(decision=decision, experiments=names, alias=alias))

    def rehearse(self) -> None:
        """Write into the journal as a rollback does, and take it out again. Raises OSError, JournalFull."""
        identity = new_id()
        self._journal.add({"id": identity, "rehearsal": True})
        self._journal.remove("id", identity)

    def adopt_journal(self) -> None:
        """Put what an earlier controller owed back into memory, before the first snapshot is published."""
        for entry in self._journal.entries:
            try:
                # Killed in the middle of a rehearsal, or before what is in the ledger was struck out: by now
                # its experiments may have been resumed.
                if entry.get("rehearsal") or decisions.state(self._store, entry["id"]) == "done":
                    self._strike_out(entry["id"])
                else:
                    self._adopt(entry)
            except (KeyError, TypeError, ValueError) as error:
                log.error("an entry of the journal cannot be read and is left there: %r", error)

    def _adopt(self, entry: dict[str, Any]) -> None:
        decision = Decision(**{**entry["decision"], "changed": tuple(entry["decision"]["changed"])})
        for ending in entry["endings"]:
            if self._junction.has(ending["name"]):
                known = self._junction.experiment(ending["name"])
                self._junction.put(
                    replace(known, state=ending["state"], ended_ns=ending["ended_ns"], note=ending["note"])
                )
        names = tuple(ending["name"] for ending in entry["endings"])
        self._put(Debt(decision=decision, experiments=names, alias=entry["alias"]))

    # -- paying ------------------------------------------------------------------------------------------

    def pay_all(self) -> None:
        """Try to pay every debt once."""
        for debt in self.debts:
            try:
                self._pay(debt)
            except SETBACKS as error:
                log.warning(
                    "%s of %s: still owing %s: %s",
                    debt.decision.action,
                    debt.decision.model,
                    " and ".join(debt.words),
                    error,
                )

    def _pay(self, debt: Debt) -> None:
        decision = debt.decision
        if not debt.recorded:
            self._record(debt)
            debt = replace(debt, recorded=True)
            self._put(debt)
            self._at("records")
        if debt.alias is not None:
            with self.registry_lock:
                state = self._move(decision.model, debt.alias)
                self._at("alias")
                self._store.write(lambda c: decisions.settle(c, decision.decision_id, state))
                self._forget(debt)
        else:
            self._forget(debt)

    def _record(self, debt: Debt) -> None:
        row = replace(debt.decision, state="intent" if debt.alias is not None else "done")
        with self.recording:
            experiments = [
                self._junction.experiment(name) for name in debt.experiments if self._junction.has(name)
            ]

            def write(connection: Connection) -> None:
                for experiment in experiments:
                    trials.save(connection, experiment)
                decisions.record(connection, row)

            self._store.write(write)

    def _move(self, model: str, version: int) -> DecisionState:
        """Let `production` name the version; as a rollback where it is one, so that it is marked as such.

        `failed` where other hands have deleted it meanwhile: what can never be paid is owed no longer, or the
        model would have no production, and could never be given another.
        """
        try:
            entry = self._registry.model(model)
            if entry.production == version:
                return "done"
            if entry.former == version:
                self._registry.rollback(model)
            else:
                self._registry.promote(model, version)
        except (NoSuchModel, NoSuchVersion) as error:
            log.warning("production of %s cannot be version %d any more: %s", model, version, error)
            return "failed"
        return "done"

    def _put(self, debt: Debt) -> None:
        with self._changed:
            self._debts[debt.decision.decision_id] = debt
            self._changed.notify_all()

    def _forget(self, debt: Debt) -> None:
        identity = debt.decision.decision_id
        with self._changed:
            self._debts.pop(identity, None)
            self._changed.notify_all()
        self._strike_out(identity)

    def _strike_out(self, identity: str) -> None:
        try:
            self._journal.remove("id", identity)
        except OSError as error:
            log.warning("the journal keeps a decision that is settled (harmless): %s", error)

    def wake(self) -> None:
        """Let the paying thread try now."""
        self._wake.set()

    def work(self, stopping: threading.Event, pause_s: float = 1.0) -> None:
        """Pay until told to stop: the body of the paying thread."""
        while not stopping.is_set():
            self._wake.wait(pause_s)
            self._wake.clear()
            if self.debts and not stopping.is_set():
                self.pay_all()

    def wait(self, decision_id: str, timeout_s: float) -> tuple[str, ...]:
        """Wait until a decision owes nothing, or for `timeout_s` seconds; in words what it still owes."""
        with self._changed:
            self._changed.wait_for(lambda: decision_id not in self._debts, timeout_s)
            debt = self._debts.get(decision_id)
        return debt.words if debt else ()
