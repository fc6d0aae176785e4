"""What does the registry say, what was begun and not finished, and what follows?

The registry is the truth about versions. An alias that other hands have moved is taken up and recorded; a
promotion that an earlier controller began is finished if its alias has moved, and undone if not. What Turnout
knows of a version is written on it as tags. The registry may be away: then what is in force stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from registry import NoSuchModel, RegisteredModel, Registry, RegistryError, RegistryUnreachable

from ..decision import REGISTRY, Decision
from ..labels import Labels, differences, tags_of, wanted
from ..ledger import decisions, evaluations, golden, trials
from ..ledger.store import Connection
from ..lifecycle import Experiment
from ..routing import CatalogModel, catalog_model, hold
from .control import Author, Control, ended_by, moved
from .promotion import Promotion
from .settlement import SETBACKS

log = logging.getLogger("turnout.reconciliation")


class Reconciliation:
    """Takes up what the registry says. One thread calls it."""

    def __init__(self, control: Control, registry: Registry, promotion: Promotion) -> None:
        self._control = control
        self._junction = control.junction
        self._store = control.store
        self._settlement = control.settlement
        self._registry = registry
        self._promotion = promotion
        self._unlabelled: dict[tuple[str, int], str] = {}  # and why, as it was told

    def adopt(self, model: CatalogModel, version: int) -> None:
        """Take up, without writing, that production is to be this version: it is owed to the registry."""
        if version in model.endpoints and model.production != version:
            left = model.production
            self._junction.put_model(replace(model, production=version, former=None, came_back_from=left))

    def anticipate(self) -> None:
        """Before the first publication: where the last snapshot had a begun promotion, so has the next one.

        The registry may be away; `recover` finishes the records when it answers.
        """
        for intent in decisions.intents(self._store):
            with self._junction.lock:
                model = next((one for one in self._junction.models() if one.name == intent.model), None)
                if intent.action == "promote" and model and model.production == intent.to_version:
                    assert intent.to_version is not None
                    self._junction.put(*self._promotion.endings(model, intent.to_version))

    def recover(self) -> None:
        """Finish or undo what an earlier controller had begun: finished if the alias has moved and nobody has
        rolled the model back since, else undone.

        Before the first publication, and again whenever the registry answers. Raises RegistryError.
        """
        for intent in decisions.intents(self._store):
            owed = {debt.decision.decision_id for debt in self._settlement.debts}
            if intent.action != "promote" or intent.decision_id in owed or self._promotion.busy(intent.model):
                continue
            with self._settlement.registry_lock:
                try:
                    entry = self._registry.model(intent.model)
                except NoSuchModel as error:
                    log.warning("promotion of %s to %s is over: %s", intent.model, intent.to_version, error)
                    self._promotion.fail(intent)
                    continue
                moved = entry.production == intent.to_version
                if moved and not self._rolled_back_since(intent):
                    self._complete(intent, catalog_model(entry))
                    continue
                log.warning("promotion of %s to %s is undone", intent.model, intent.to_version)
                if moved:
                    self._promotion.undo(intent)
                else:
                    self._promotion.fail(intent)

    def _rolled_back_since(self, intent: Decision) -> bool:
        """Whether a rollback has overtaken a promotion: it lies in the journal until it is in the ledger."""
        owed = [debt.decision for debt in self._settlement.debts]
        return any(
            one.action == "rollback" and one.model == intent.model and one.at_ns >= intent.at_ns
            for one in (*owed, *decisions.listed(self._store, model=intent.model))
        )

    def _complete(self, intent: Decision, model: CatalogModel) -> None:
        """The alias has moved: the rest follows."""
        assert intent.to_version is not None
        log.warning("promotion of %s to %s is finished", intent.model, intent.to_version)
        with self._settlement.recording:
            with self._junction.lock:
                self._junction.put(*self._promotion.endings(model, intent.to_version))
                self._junction.put_model(model)
                self._junction.publish(even_if_same=False)
                touched = [one for one in self._junction.experiments() if one.model == model.name]
            self._promotion.finish(intent, touched)

    def reconcile(self) -> None:
        """Take up what the registry says now. Raises RegistryError if it does not answer."""
        with self._settlement.registry_lock:
            entries = self._registry.models()
            moves = self._take_up(entries)
        for decision, ended in moves:
            self._record_move(decision, ended)
        self._end_what_has_lost_a_version()

    def _take_up(self, entries: list[RegisteredModel]) -> list[tuple[Decision, list[Experiment]]]:
        moves: list[tuple[Decision, list[Experiment]]] = []
        with self._junction.lock:
            known = {model.name: model for model in self._junction.models()}
            for entry in entries:
                coming, before = catalog_model(entry), known.get(entry.name)
                if before is not None and self._settlement.moving(entry.name):
                    # Traffic is ahead of the registry: the alias will follow.
                    coming = coming.standing_as(before)
                elif before is not None and (held := hold(before, coming)) is not None:
                    if before.held != held.held:
                        moves.append((self._held(before, held), []))
                    coming = held
                elif before is not None and before.production != coming.production:
                    moves.append(self._moved_by_others(before, coming))
                self._junction.put_model(coming)
            if entries:
                self._junction.keep_models({entry.name for entry in entries})
            else:
                self._go_on_without(known.values())
            for _, ended in moves:
                self._junction.put(*ended)
            self._junction.publish(even_if_same=False)
        return moves

    def _go_on_without(self, models: Iterable[CatalogModel]) -> None:
        """A registry that knows no model at all is more likely another one, an empty one or one that shows us
        nothing than the end of them all: users are answered as before, and that is told."""
        for model in models:
            held = f"the registry knows no model any more; {model.name!r} goes on as it was last known"
            self._junction.put_model(replace(model, entry=None, held=held))

    def _moved_by_others(
        self, before: CatalogModel, coming: CatalogModel
    ) -> tuple[Decision, list[Experiment]]:
        ended = self._promotion.endings(coming, coming.production) if coming.production is not None else []
        back = coming.came_back_from is not None and coming.came_back_from == before.production
        decision = Decision(
            at_ns=self._junction.now_ns(),
            actor=REGISTRY,
            action="rollback" if back else "promote",
            model=coming.name,
            from_version=before.production,
            to_version=coming.production,
            reason="the alias was moved in the registry by other hands",
            changed=moved(before, coming.production, self._junction.still_open(ended)),
            detail=ended_by(ended),
        )
        return decision, ended

    def _held(self, before: CatalogModel, held: CatalogModel) -> Decision:
        """Other hands have named what cannot answer: nothing moves, and that is told once."""
        return Decision(
            at_ns=self._junction.now_ns(),
            actor=REGISTRY,
            action="promote",
            model=held.name,
            from_version=before.production,
            to_version=held.entry.production if held.entry else None,
            reason="the alias was moved in the registry by other hands",
            state="failed",
            changed=(str(held.held),),
        )

    def _end_what_has_lost_a_version(self) -> None:
        """A version that was deleted in the registry does not come back: its experiments are over."""
        for one in self._junction.experiments():
            models = {model.name: model for model in self._junction.models()}
            entry = models[one.model].entry if one.model in models else None
            if not one.is_open or entry is None:
                continue
            there = {version.version for version in entry.versions}
            lost = sorted({one.control_version, one.candidate_version} - there)
            if lost:
                named = " and ".join(f"version {number}" for number in lost)
                why = f"{named} of {one.model!r} was deleted in the registry by other hands"
                self._control.stop(one.name, Author(actor=REGISTRY, reason=why))

    def _record_move(self, decision: Decision, ended: list[Experiment]) -> None:
        log.warning("%s (%s)", decision.changed[0], decision.reason)

        def write(connection: Connection) -> None:
            for experiment in ended:
                trials.save(connection, experiment)
            decisions.record(connection, decision)

        try:
            self._store.write(write)
        except SETBACKS as error:
            log.warning("the move of %s must be recorded later: %s", decision.model, error)
            self._settlement.owe(decision, tuple(ended))

    def label(self) -> None:
        """Write on each version what Turnout knows of it, where it is not there yet. Raises RegistryError.

        A version that has gone meanwhile is passed over; the next round sees the registry as it is then.
        """
        for model in self._junction.models():
            if model.entry is None:
                continue
            hashes = decisions.verdict_hashes(self._store, model.name)
            tried = [one for one in self._junction.experiments() if one.model == model.name]
            compared = tags_of(
                evaluations.latest_preflights(self._store, model.name),
                golden.latest_comparisons(self._store, model.name),
            )
            sets = golden.latest_sets(self._store, model.name)
            known = wanted(model, tried, hashes, sets, compared)
            for version, labels in differences(model.entry, known).items():
                self._label(model.name, version, labels)

    def _label(self, model: str, version: int, labels: Labels) -> None:
        try:
            self._registry.label(model, version, labels)
            self._unlabelled.pop((model, version), None)
        except RegistryUnreachable:
            raise  # nor will it answer for the next one, and each waits for it
        except RegistryError as error:
            if self._unlabelled.get((model, version)) != str(error):
                log.warning("version %d of %s is not labelled: %s", version, model, error)
            self._unlabelled[model, version] = str(error)
