"""How does an operator (or the controller itself) change what is being tried?

Start, pause, resume, ramp, conclude, stop. What gives a candidate traffic is recorded first and published
then; what takes traffic away is published first and recorded as soon as that is possible. Promote and
rollback of production are `promotion`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from .decision import Action, Backing, Decision, Done
from .errors import Conflict, NotFound, Refused, Unavailable
from .junction import Junction
from .ledger import decisions, trials
from .ledger.store import Connection, DatabaseError, Store
from .lifecycle import Event, Experiment, State, advance, begin, follow
from .quantities import points_text
from .routing import CatalogModel
from .settlement import Settlement
from .spec import ExperimentSpec, read_spec

#: How long a command waits for the workers' acknowledgement, and for the records after it.
ACKNOWLEDGE_S: Final = 1.0
RECORD_S: Final = 0.8

#: A command that finds its experiment there already changes nothing.
_TAKEN_AWAY: Final[Mapping[Event, State]] = {
    "pause": "paused",
    "stop": "stopped",
    "roll_back": "rolled_back",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who wants a change, and why."""

    actor: str
    reason: str | None = None


class Control:
    """The operations on experiments. Safe to use from threads; every call may wait for I/O."""

    def __init__(
        self,
        junction: Junction,
        store: Store,
        settlement: Settlement,
        *,
        at: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.junction = junction
        self.store = store
        self.settlement = settlement
        self.at = at
        self._one_at_a_time = threading.Lock()

    # -- gives traffic: records first --------------------------------------------------------------------

    def start(self, spec_yaml: str, file: str, author: Author) -> tuple[Experiment, Done]:
        """Begin the experiment that a spec declares. Raises DocumentError, NotFound, Conflict, Refused.

        The same spec again while it is open changes nothing.
        """
        spec = read_spec(spec_yaml, file)
        began = time.monotonic()
        with self._one_at_a_time:
            there = self._already(spec)
            if there is not None:
                return there, self.nothing(
                    "start", there.model, f"experiment {there.name!r} is {there.state}"
                )
            model = self.junction.model(spec.model)
            control = version_of(model, spec.control)
            candidate = version_of(model, spec.candidate)
            self._check_start(spec, model, control, candidate)
            experiment = begin(
                spec,
                spec_yaml,
                control_version=control,
                candidate_version=candidate,
                now_ns=self.junction.now_ns(),
            )
            changed = (f"experiment {experiment.name!r} runs: {share_text(experiment)}",)
            decision = self._decision("start", experiment, author, changed)
            self._write(None, experiment, decision)
        return experiment, self.acknowledged(decision, began)

    def _already(self, spec: ExperimentSpec) -> Experiment | None:
        """The open experiment with this very spec; None if the name is free."""
        if not self.junction.has(spec.experiment):
            return None
        there = self.junction.experiment(spec.experiment)
        if there.is_open and there.spec.digest() == spec.digest():
            return there
        raise Conflict(
            f"there is an experiment {spec.experiment!r} already ({there.state}): a name stands for one "
            "declaration, so that its records stay readable; choose another name",
            code="experiment_exists",
            param="experiment",
        )

    def _check_start(self, spec: ExperimentSpec, model: CatalogModel, control: int, candidate: int) -> None:
        if control == candidate:
            raise Conflict(
                f"control ({spec.control}) and candidate ({spec.candidate}) are both version {control}",
                code="same_version",
                param="candidate",
            )
        for version in (control, candidate):
            if version not in model.endpoints:
                raise Conflict(
                    f"version {version} of {model.name!r} has no endpoint, so nothing can be sent to it; "
                    f"register one, or `turnout serve models:/{model.name}/{version}`",
                    code="no_endpoint",
                )
        # One that is concluded without a `ship` waits for nothing: it need not be stopped by hand.
        rival = next(
            (
                one
                for one in self.junction.open_on(model.name)
                if one.routes and (one.has_traffic or one.state == "paused")
            ),
            None,
        )
        if spec.mode != "shadow" and rival is not None:
            raise Conflict(
                f"experiment {rival.name!r} ({rival.state}) already routes the traffic of {model.name!r}: "
                f"end it first (`turnout experiment stop {rival.name}`); shadows may run beside it",
                code="experiment_running",
            )
        if spec.golden is not None:
            self._check_golden(spec, control, candidate)

    def _check_golden(self, spec: ExperimentSpec, control: int, candidate: int) -> None:
        assert spec.golden is not None
        verdict = trials.golden_verdict(
            self.store,
            model=spec.model,
            set_name=spec.golden.set,
            control_version=control,
            candidate_version=candidate,
        )
        if verdict != "pass":
            found = f"it is {verdict}" if verdict else "there is none"
            raise Refused(
                f"version {candidate} of {spec.model!r} needs a passed comparison with version {control} on "
                f"the golden set {spec.golden.set!r} before it gets traffic; {found}",
                code="golden_required",
            )

    def resume(self, name: str, author: Author) -> Done:
        """Give a paused experiment its traffic back, in a new phase."""
        there = self.junction.experiment(name)
        if there.state == "running":
            return self.nothing("resume", there.model, f"experiment {name!r} is running already")
        return self._change(name, "resume", "resume", author)

    def ramp(self, name: str, weight_ppm: int, author: Author, backing: Backing | None = None) -> Done:
        """Give the candidate a larger share, in a new phase."""
        began = time.monotonic()
        with self._one_at_a_time:
            before = self.junction.experiment(name)
            after = advance(before, weight_ppm, self.junction.now_ns())
            changed = (f"experiment {name!r}: phase {after.phase.number}, {share_text(after)}",)
            decision = self._decision("ramp", after, author, changed, backing)
            self._write(before, after, decision)
        return self.acknowledged(decision, began)

    def conclude(self, name: str, author: Author, backing: Backing) -> Done:
        """End the looking. The candidate keeps its traffic only on a `ship`, until the operator promotes."""
        return self._change(name, "conclude", "conclude", author, backing)

    def _change(
        self, name: str, event: Event, action: Action, author: Author, backing: Backing | None = None
    ) -> Done:
        began = time.monotonic()
        with self._one_at_a_time:
            before = self.junction.experiment(name)
            verdict = backing.kind if backing else None
            after = follow(before, event, self.junction.now_ns(), verdict=verdict)
            changed = (f"experiment {name!r} is {after.state_text}: {share_text(after)}",)
            decision = self._decision(action, after, author, changed, backing)
            self._write(before, after, decision)
        return self.acknowledged(decision, began)

    def _write(self, before: Experiment | None, after: Experiment, decision: Decision) -> None:
        """Record, then take into memory. What a rollback has changed meanwhile is left as it is."""

        def overtaken() -> bool:
            with self.junction.lock:
                return before is not None and self.junction.experiment(after.name) is not before

        def write(connection: Connection) -> None:
            if overtaken():
                raise self._overtaken(after.name)
            trials.save(connection, after)
            decisions.record(connection, decision)

        try:
            self.store.write(write)
        except DatabaseError as error:
            raise Unavailable(f"the ledger cannot be written, nothing was changed: {error}") from error
        self.at("recorded")
        with self.junction.lock:
            if overtaken():
                raise self._overtaken(after.name)
            self.junction.put(after)
            self.junction.publish()
        self.at("published")

    @staticmethod
    def _overtaken(name: str) -> Conflict:
        return Conflict(f"experiment {name!r} was changed by another decision meanwhile", code="overtaken")

    def acknowledged(self, decision: Decision, began: float) -> Done:
        version = self.junction.publication.version
        answer = self.junction.publication.wait_for(version, ACKNOWLEDGE_S)
        return Done(
            decision=decision,
            snapshot=version,
            acknowledged_by=answer.acknowledged_by,
            unacknowledged=answer.unacknowledged,
            elapsed_ms=(time.monotonic() - began) * 1000,
        )

    # -- takes traffic away: traffic first ---------------------------------------------------------------

    def pause(self, name: str, author: Author) -> Done:
        """Take the candidate's traffic away; resuming gives every unit its arm back."""
        return self.take_away(name, "pause", "pause", author)

    def stop(self, name: str, author: Author) -> Done:
        """End an experiment; production stays as it is."""
        return self.take_away(name, "stop", "stop", author)

    def take_away(
        self,
        name: str,
        event: Event,
        action: Action,
        author: Author,
        backing: Backing | None = None,
    ) -> Done:
        """Release the candidate's units: memory, workers, disk, then the records, which may come later."""
        began = time.monotonic()
        with self.junction.lock:
            before = self.junction.experiment(name)
            if before.state == _TAKEN_AWAY.get(event):
                return self.nothing(
                    action, before.model, f"experiment {name!r} is {before.state_text} already"
                )
            after = follow(before, event, self.junction.now_ns(), note=author.reason)
            changed = (
                f"experiment {name!r} is {after.state_text}",
                f"version {after.candidate_version} of {after.model!r} gets no "
                f"{'copies' if not after.routes else 'traffic'} (before: {share_text(before)})",
            )
            decision = self._decision(action, after, author, changed, backing)
            if event == "roll_back":
                self.junction.note_rollback(after.model)
            self.settlement.owe(decision, (after,))
            self.at("owed")
            self.junction.put(after)
            self.junction.publish()
        self.at("published")
        return self.settled(decision, began)

    def settled(self, decision: Decision, began: float) -> Done:
        """Wait for the workers, then for the records, neither for long."""
        done = self.acknowledged(decision, began)
        self.settlement.wake()
        pending = self.settlement.wait(decision.decision_id, RECORD_S)
        return replace(done, pending=pending)

    # -- words -------------------------------------------------------------------------------------------

    def _decision(
        self,
        action: Action,
        experiment: Experiment,
        author: Author,
        changed: tuple[str, ...],
        backing: Backing | None = None,
    ) -> Decision:
        takes = action in ("pause", "stop", "rollback")
        return Decision(
            at_ns=self.junction.now_ns(),
            actor=author.actor,
            action=action,
            model=experiment.model,
            experiment=experiment.name,
            from_version=experiment.candidate_version if takes else experiment.control_version,
            to_version=experiment.control_version if takes else experiment.candidate_version,
            verdict_kind=backing.kind if backing else None,
            verdict_hash=backing.digest if backing else None,
            reason=author.reason,
            changed=changed,
            detail={"phase": experiment.phase.number, "candidate_ppm": experiment.weight_ppm},
        )

    def nothing(self, action: Action, model: str, why: str) -> Done:
        """The answer to a command that finds everything as it wants it."""
        decision = Decision(
            at_ns=self.junction.now_ns(),
            actor="",
            action=action,
            model=model,
            changed=(f"nothing to change: {why}",),
        )
        return Done(decision=decision, recorded=False, snapshot=self.junction.publication.version)


def version_of(model: CatalogModel, reference: int | str) -> int:
    """The version that a number or an alias names. Raises NotFound."""
    if reference == "production":
        if model.production is None:
            message = f"model {model.name!r} has no production version"
            raise NotFound(message, code="no_production", param="control")
        return model.production
    known = {version.version for version in model.entry.versions} if model.entry else set(model.endpoints)
    if isinstance(reference, int):
        if reference in known:
            return reference
        listed = ", ".join(map(str, sorted(known))) or "none"
        message = f"model {model.name!r} has no version {reference}; it has: {listed}"
        raise NotFound(message, code="unknown_version", param="version")
    aliases = model.entry.aliases if model.entry else {}
    if reference not in aliases:
        listed = ", ".join(sorted(aliases)) or "none"
        message = f"model {model.name!r} has no alias {reference!r}; it has: {listed}"
        raise NotFound(message, code="unknown_alias", param="version")
    return aliases[reference]


def share_text(experiment: Experiment) -> str:
    """Who gets how much, in words."""
    share = points_text(experiment.weight_ppm / 10_000)
    verb = "answers" if experiment.routes else "gets copies of"
    return f"version {experiment.candidate_version} of {experiment.model!r} {verb} {share} of the units"
