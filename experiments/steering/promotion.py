"""How does another version become production, and how does the former one come back?

Promoting is a recoverable transaction: intent, alias in the registry, snapshot, records; killed between any
two it is finished or undone at the next start (`reconciliation`). Rolling back turns traffic first and writes
afterwards.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from registry import Registry, RegistryError, RegistryUnreachable

from ..decision import Backing, Decision, Done, new_id
from ..errors import Conflict, NotFound, Refused, Unavailable
from ..ledger import decisions, trials
from ..ledger.store import Connection, DatabaseError
from ..lifecycle import Experiment, follow
from ..readiness import Probe
from ..routing import CatalogModel
from .admission import version_of
from .control import Author, Control, ended_by, moved, released
from .permission import Permission
from .settlement import SETBACKS

log = logging.getLogger("turnout.promotion")

#: A second `rollback` within this time is a repetition of the first, not a wish to go further back.
REPEATED_S = 60


class Promotion:
    """Moves of `production`. Safe to use from threads; every call may wait for I/O."""

    def __init__(self, control: Control, registry: Registry, *, probe: Probe) -> None:
        self._control = control
        self._junction = control.junction
        self._store = control.store
        self._settlement = control.settlement
        self._registry = registry
        self._at = control.at
        self._permission = Permission(control.junction, control.store, probe)
        self._busy: set[str] = set()
        self._guard = threading.Lock()
        self._moved_ns: dict[str, int] = {}

    # -- promote -----------------------------------------------------------------------------------------

    def promote(
        self,
        name: str,
        version: int | str | None,
        author: Author,
        *,
        force: bool = False,
        dry_run: bool = False,
        backing: Backing | None = None,
    ) -> Done:
        """Make a version production. Raises Refused without a `ship` for it, unless forced with a reason.

        Without a version: the one that the latest experiment says to ship. `backing` is a verdict that has
        just been reached and is not in the records yet.
        """
        began = time.monotonic()
        with self._alone(name):
            model = self._junction.model(name)
            target = self._permission.shippable(model) if version is None else version_of(model, version)
            if target == model.production:
                why = f"version {target} of {name!r} is production already"
                why += f" ({model.held})" if model.held else ""
                return self._control.nothing("promote", name, why)
            backing = backing or self._permission.backing(model, target, author, force)
            if not force:
                self._permission.check_endpoints(model, target)
                if model.held:  # MLflow would remember what cannot answer as the version to go back to
                    raise Refused(
                        f"{model.held}. Let the alias name version {model.production} again, then promote; "
                        "`--force --reason '...'` promotes it all the same, and records that",
                        code="production_held",
                    )
            ending = self.endings(model, target)
            decision = Decision(
                at_ns=self._junction.now_ns(),
                actor=author.actor,
                action="promote",
                model=name,
                experiment=backing.experiment if backing else None,
                from_version=model.production,
                to_version=target,
                verdict_kind=backing.kind if backing else None,
                verdict_hash=backing.digest if backing else None,
                forced=force and (backing is None or backing.kind != "ship"),
                reason=author.reason,
                state="intent",
                changed=moved(model, target, self._junction.still_open(ending)),
                detail=ended_by(ending),
            )
            if dry_run:
                return Done(decision=decision, recorded=False, snapshot=self._junction.publication.version)
            return self._carry_out(decision, began)

    def busy(self, model: str) -> bool:
        """Whether a promotion of the model is under way in this process."""
        return model in self._busy

    @contextmanager
    def _alone(self, model: str) -> Iterator[None]:
        """One promotion per model at a time: the second operator is told, not queued."""
        with self._guard:
            if model in self._busy:
                message = f"another promotion of {model!r} is under way: look at its result, then decide"
                raise Conflict(message, code="promotion_running")
            self._busy.add(model)
        try:
            owed = self._settlement.moving(model)
            if owed is not None:
                raise Conflict(
                    f"{owed.decision.action} of {model!r} still owes {' and '.join(owed.words)}: "
                    "promote when MLflow answers again",
                    code="move_pending",
                )
            yield
        finally:
            with self._guard:
                self._busy.discard(model)

    def endings(self, model: CatalogModel, target: int) -> list[Experiment]:
        """The open experiments that the move ends, as they will be: the winner, and those without control."""
        now = self._junction.now_ns()
        ended: list[Experiment] = []
        for one in self._junction.open_on(model.name):
            if one.candidate_version == target:
                ended.append(follow(one, "promote", now))
            elif one.control_version != target:
                ended.append(follow(one, "stop", now, note=f"version {target} became production"))
        again = self._junction.promoted(model.name, target)
        return ended + [replace(one, note=None) for one in again if one.note]

    def _carry_out(self, decision: Decision, began: float) -> Done:
        assert decision.to_version is not None
        name, target = decision.model, decision.to_version
        rollbacks = self._junction.rollbacks(name)
        self._record(decision)
        self._at("intent")
        with self._settlement.registry_lock:
            try:
                self._registry.promote(name, target)
            except RegistryError as error:
                self._give_up(decision, error)
                raise
            self._at("alias")
            ended = self._turn(decision, target, rollbacks)
        self._at("snapshot")
        done = self._control.acknowledged(decision, began)
        pending = self.finish(decision, ended)
        self._at("done")
        return replace(done, decision=replace(decision, state="done"), pending=pending)

    def _record(self, decision: Decision) -> None:
        try:
            self._store.write(lambda connection: decisions.record(connection, decision))
        except DatabaseError as error:
            raise Unavailable(f"the ledger cannot be written, nothing was changed: {error}") from error

    def _give_up(self, decision: Decision, error: RegistryError) -> None:
        """MLflow said no, or nothing. If it moved the alias all the same, `reconcile` sees that."""
        unclear = isinstance(error, RegistryUnreachable)
        log.warning(
            "promotion of %s failed%s: %s", decision.model, ", outcome unknown" if unclear else "", error
        )
        self.fail(decision)

    def _turn(self, decision: Decision, target: int, rollbacks: int) -> list[Experiment]:
        """Memory and snapshot follow the alias, unless a rollback was faster."""
        with self._junction.lock:
            if self._junction.rollbacks(decision.model) != rollbacks:
                self.undo(decision)
                message = f"a rollback of {decision.model!r} has overtaken this promotion: it was undone"
                raise Conflict(message, code="overtaken")
            model = self._junction.model(decision.model)
            ended = self.endings(model, target)
            self._junction.put_model(
                replace(model, production=target, former=model.production, came_back_from=None)
            )
            self._junction.put(*ended)
            self._junction.publish()
            self._moved_ns[model.name] = self._junction.now_ns()
            return ended

    def undo(self, decision: Decision) -> None:
        """The alias has moved and must go back. Where production was rolled back, that debt moves it."""
        if self._settlement.moving(decision.model) is None and decision.from_version is not None:
            back = replace(
                decision,
                decision_id=new_id(),
                action="rollback",
                from_version=decision.to_version,
                to_version=decision.from_version,
                reason="a rollback has overtaken the promotion",
                changed=(f"production of {decision.model!r} stays version {decision.from_version}",),
                detail={},
            )
            self._settlement.owe(back, (), alias=decision.from_version)
            self._settlement.wake()
        self.fail(decision)

    def finish(self, decision: Decision, ended: list[Experiment]) -> tuple[str, ...]:
        """The last step; what it cannot write now is owed. In words, what is owed."""

        def write(connection: Connection) -> None:
            for experiment in ended:
                trials.save(connection, experiment)
            decisions.settle(connection, decision.decision_id, "done")

        try:
            self._store.write(write)
            return ()
        except SETBACKS as error:
            log.warning("promotion of %s: the records must wait: %s", decision.model, error)
            self._settlement.owe(replace(decision, state="done"), tuple(ended))
            return ("the records in the ledger",)

    # -- rollback ----------------------------------------------------------------------------------------

    def rollback(self, name: str, author: Author, *, production: bool = False, dry_run: bool = False) -> Done:
        """With experiments that route: release their candidates. Else: production goes back to the former.

        `production` True: production goes back whatever runs. Traffic first, records after. Raises NotFound,
        Conflict where there is nothing to go back to.
        """
        done = None
        while done is None:  # production has moved meanwhile: judged anew
            done = self._roll_back(self._junction.model(name), author, production, dry_run)
        return done

    def _roll_back(self, model: CatalogModel, author: Author, production: bool, dry_run: bool) -> Done | None:
        name = model.name
        routing = self.tried_on_users(name)
        if routing and not production:
            if dry_run:
                return self._would(name, tuple(map(_would_lose, routing)))
            if len(routing) == 1:
                return self._control.take_away(routing[0].name, "roll_back", "rollback", author)
            return self._release_all(name, author)
        if not production and (just := self._just_released(name)):
            return self._control.nothing("rollback", name, just)
        if model.came_back_from is not None:
            why = f"production of {name!r} came back from version {model.came_back_from} already"
            return self._control.nothing("rollback", name, f"{why} and is version {model.production}")
        return self._back(model, author, dry_run)

    def tried_on_users(self, model: str) -> list[Experiment]:
        """What a rollback ends. A draft, or what waits in preflight, has taken nobody anywhere yet."""
        return [one for one in self._junction.open_on(model) if one.routes and one.phase.number]

    def release(self, name: str, experiment: str, author: Author, *, dry_run: bool = False) -> Done:
        """Take back what one experiment has given its candidate, whatever runs beside it. Raises NotFound,
        and Conflict where it has given nothing."""
        one = self._junction.experiment(experiment)
        if one.model != name:
            raise NotFound(
                f"experiment {experiment!r} is one of {one.model!r}, not of {name!r}",
                code="unknown_experiment",
                param="experiment",
            )
        if one.state != "rolled_back" and one not in self.tried_on_users(name):
            raise Conflict(
                f"experiment {experiment!r} is {one.state_text} and has no unit of {name!r}: there is "
                "nothing to take back",
                code="nothing_to_roll_back",
            )
        if dry_run:
            return self._would(name, (_would_lose(one),))
        return self._control.take_away(experiment, "roll_back", "rollback", author)

    def _release_all(self, name: str, author: Author) -> Done | None:
        """Every candidate that is tried on users at once: who is in trouble need not know first which of them
        it is. None if they are gone by now."""
        began = time.monotonic()
        with self._junction.lock:
            routing = self.tried_on_users(name)
            if not routing:
                return None
            now_ns, model = self._junction.now_ns(), self._junction.model(name)
            ended = [follow(one, "roll_back", now_ns, note=author.reason) for one in routing]
            pairs = zip(routing, ended, strict=True)
            decision = Decision(
                at_ns=now_ns,
                actor=author.actor,
                action="rollback",
                model=name,
                to_version=model.production,
                reason=author.reason,
                changed=tuple(word for before, after in pairs for word in released(before, after)),
                detail=ended_by(ended),
            )
            self._turn_back(decision, ended, model)
        self._at("published")
        return self._control.settled(decision, began)

    def _turn_back(
        self, decision: Decision, ended: list[Experiment], model: CatalogModel, alias: int | None = None
    ) -> None:
        """Journal, memory, workers. Call it with the junction's lock."""
        self._junction.note_rollback(model.name)
        self._settlement.owe(decision, tuple(ended), alias=alias)
        self._at("owed")
        self._junction.put_model(model)
        self._junction.put(*ended)
        self._junction.publish()

    def _just_released(self, model: str) -> str | None:
        """Pressing the button twice must not roll production back as well."""
        released_ns = max(
            (
                one.ended_ns or 0
                for one in self._junction.experiments()
                if one.model == model and one.state == "rolled_back" and one.routes
            ),
            default=0,
        )
        age_s = (self._junction.now_ns() - released_ns) / 1e9
        # Before it happened it is no repetition: the clock has been set back, and a rollback is not to wait.
        if not 0 <= age_s < REPEATED_S or released_ns < self._moved_ns.get(model, 0):
            return None
        return (
            f"the candidate was released {age_s:.0f} s ago; to take production itself back to the former "
            f"version: `turnout rollback {model} --production`"
        )

    def _back(self, model: CatalogModel, author: Author, dry_run: bool) -> Done | None:
        """None if production is another version by now."""
        began = time.monotonic()
        target = model.former or decisions.former_production(self._store, model.name, model.production)
        if target is None:
            raise Conflict(
                f"no version of {model.name!r} was in production before version {model.production}",
                code="nothing_to_roll_back",
            )
        if target not in model.endpoints:
            raise Conflict(
                f"the former version {target} of {model.name!r} has no endpoint any more: register one, or "
                f"promote another version with --force --reason",
                code="no_endpoint",
            )
        with self._junction.lock:
            there = self._junction.model(model.name)
            if there.production != model.production:
                return None
            ended = self._endings_after_rollback(model, target)
            changed = moved(model, target, ended)
            note = f"version {model.production} was taken back: production went back to version {target}"
            undone = self._junction.promoted(model.name, model.production)
            ended += [replace(one, note=note) for one in undone]
            if dry_run:
                return self._would(model.name, changed)
            decision = Decision(
                at_ns=self._junction.now_ns(),
                actor=author.actor,
                action="rollback",
                model=model.name,
                from_version=model.production,
                to_version=target,
                reason=author.reason,
                changed=changed,
                detail=ended_by(ended),
            )
            left = model.production
            coming = replace(there, production=target, former=None, came_back_from=left)
            self._turn_back(decision, ended, coming, alias=target)
            self._moved_ns[model.name] = decision.at_ns
        self._at("published")
        return self._control.settled(decision, began)

    def _endings_after_rollback(self, model: CatalogModel, target: int) -> list[Experiment]:
        now = self._junction.now_ns()
        note = f"production went back to version {target}"
        return [
            follow(one, "roll_back" if one.routes else "stop", now, note=note)
            for one in self._junction.open_on(model.name)
            if one.routes or one.control_version != target
        ]

    def _would(self, model: str, words: tuple[str, ...]) -> Done:
        """A rollback that is only asked about."""
        decision = Decision(
            at_ns=self._junction.now_ns(), actor="", action="rollback", model=model, changed=words
        )
        return Done(decision=decision, recorded=False, snapshot=self._junction.publication.version)

    def fail(self, decision: Decision) -> None:
        """An intent that came to nothing."""
        self._store.write(lambda connection: decisions.settle(connection, decision.decision_id, "failed"))


def _would_lose(one: Experiment) -> str:
    return f"version {one.candidate_version} of {one.model!r} would get no traffic"
