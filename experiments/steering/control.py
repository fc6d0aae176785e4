"""How does an operator (or the controller itself) change what is being tried?

Start, pause, resume, ramp, conclude, stop. What gives a candidate traffic is recorded first and published
then; what takes traffic away is published first and recorded as soon as that is possible. Promote and
rollback of production are `promotion`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..amendment import amendments, sentence
from ..decision import Action, Backing, Decision, Done
from ..errors import Conflict, Unavailable
from ..ledger import decisions, trials
from ..ledger.store import Connection, DatabaseError, Store
from ..lifecycle import (
    LIVE,
    Event,
    Experiment,
    NoSuchTransition,
    State,
    advance,
    enter_next_stage,
    entering_share,
    follow,
    next_step,
)
from ..quantities import points_text
from ..routing import CatalogModel
from ..spec import read_spec
from .admission import Admission
from .junction import Junction
from .settlement import Settlement

#: How long a command waits for the workers' acknowledgement, and for the records after it.
ACKNOWLEDGE_S: Final = 1.0
RECORD_S: Final = 0.5

#: What the beginning of an experiment is called, by the state that it begins in.
_BEGINNING: Final[Mapping[State, Action]] = {"draft": "draft", "preflight": "preflight", "running": "start"}
#: A command that finds its experiment there already changes nothing.
_TAKEN_AWAY: Final[Mapping[Event, State]] = {
    "pause": "paused",
    "stop": "kept",
    "roll_back": "rolled_back",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who wants a change, and why; `detail` is kept with the decision."""

    actor: str
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


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
        self.admission = Admission(junction, store)
        self.at = at
        self._one_at_a_time = threading.Lock()

    # -- gives traffic: records first --------------------------------------------------------------------

    def start(
        self, spec_yaml: str, file: str, author: Author, *, draft: bool = False
    ) -> tuple[Experiment, Done]:
        """Begin the experiment that a spec declares. Raises DocumentError, NotFound, Conflict, Refused.

        The same spec again while it is open changes nothing. A draft gets no traffic before `submit`; a
        chain whose golden set has not passed yet waits in preflight.
        """
        spec = read_spec(spec_yaml, file)
        began = time.monotonic()
        with self._one_at_a_time:
            there = self.admission.already(spec)
            if there is not None:
                return there, self.nothing(
                    "start", there.model, f"experiment {there.name!r} is {there.state}"
                )
            experiment = self.admission.prepare(spec, spec_yaml, draft=draft)
            decision = self._decision(_BEGINNING[experiment.state], experiment, author, (begun(experiment),))
            self._write(None, experiment, decision)
        return experiment, self.acknowledged(decision, began)

    def amend(self, spec_yaml: str, file: str, author: Author) -> Done:
        """Change what no verdict follows from. Raises DocumentError, NotFound, Conflict."""
        spec = read_spec(spec_yaml, file)
        began = time.monotonic()
        with self._one_at_a_time:
            before = self.junction.experiment(spec.experiment)
            if not before.is_open:
                raise NoSuchTransition(
                    f"experiment {before.name!r} is {before.state_text}: nothing can change"
                )
            fields = amendments(before.spec, spec)
            if not fields:
                return self.nothing(
                    "amend", before.model, f"experiment {before.name!r} is declared so already"
                )
            after = replace(before, spec=spec, spec_yaml=spec_yaml)
            words = (sentence(path, before.spec_yaml, spec_yaml) for path in fields)
            changed = tuple(f"experiment {before.name!r}: {one}" for one in words)
            decision = self._decision("amend", after, author, changed)
            self._write(before, after, decision)
        return self.acknowledged(decision, began)

    def submit(self, name: str, author: Author) -> Done:
        """A draft goes into preflight: it gets traffic as soon as nothing stands against it."""
        return self._change(name, "submit", "preflight", author)

    def admit(self, name: str, author: Author) -> Done:
        """What has passed its preflight gets its first traffic. Raises Conflict."""
        return self._change(name, "admit", "start", author, check=self._nothing_in_the_way)

    def _nothing_in_the_way(self, there: Experiment) -> None:
        self.admission.check(there.spec, there.control_version, there.candidate_version)

    def resume(self, name: str, author: Author) -> Done:
        """Give a paused experiment its traffic back, in a new phase. Raises Conflict, also where a version
        has no endpoint any more."""
        there = self.junction.experiment(name)
        if there.state == "running":
            return self.nothing("resume", there.model, f"experiment {name!r} is running already")

        def nothing_in_the_way(there: Experiment) -> None:
            if there.state == "paused":  # else that is what is wrong
                self._nothing_in_the_way(there)

        return self._change(name, "resume", "resume", author, check=nothing_in_the_way)

    def advance(self, name: str, author: Author) -> Done:
        """The operator gives the candidate the ramp's next weight, whatever the ramp waits for."""
        step = next_step(self.junction.experiment(name))
        if step is None:
            raise NoSuchTransition(f"experiment {name!r} is at the last step of its ramp")
        return self.ramp(name, step, author)

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

    def next_stage(self, name: str, author: Author, backing: Backing) -> Done:
        """A stage has passed: the next one begins, in a new phase, with evidence of its own."""
        began = time.monotonic()
        with self._one_at_a_time:
            before = self.junction.experiment(name)
            after = enter_next_stage(before, self.junction.now_ns())
            changed = (f"experiment {name!r}: stage {after.stage.mode}, {share_text(after)}",)
            decision = self._decision("stage", after, author, changed, backing)
            self._write(before, after, decision)
        return self.acknowledged(decision, began)

    def conclude(self, name: str, author: Author, backing: Backing) -> Done:
        """End the looking. On a `ship` the candidate keeps its traffic until the operator promotes; else
        production is kept, and the experiment is over.
        """
        return self._change(
            name, "conclude" if backing.kind == "ship" else "keep", "conclude", author, backing
        )

    def keep(self, name: str, author: Author) -> Done:
        """What has not passed its preflight is over before it began."""
        return self._change(name, "keep", "conclude", author)

    def invalidate(self, name: str, author: Author, backing: Backing) -> Done:
        """The evidence cannot be used: the arms stay as they are, and nothing advances."""
        return self._change(name, "invalidate", "invalidate", author, backing)

    def revalidate(self, name: str, author: Author, backing: Backing) -> Done:
        """The evidence can be used again."""
        return self._change(name, "revalidate", "revalidate", author, backing)

    def warn(self, name: str, author: Author, backing: Backing) -> None:
        """Record that something is wrong with the evidence, where the policy is to go on all the same."""
        there = self.junction.experiment(name)
        decision = self._decision("warn", there, author, (f"experiment {name!r} goes on",), backing)
        self.store.write(lambda connection: decisions.record(connection, decision))

    def _change(
        self,
        name: str,
        event: Event,
        action: Action,
        author: Author,
        backing: Backing | None = None,
        *,
        check: Callable[[Experiment], None] = lambda there: None,
    ) -> Done:
        """`check` raises what stands against it, while nothing else can begin."""
        began = time.monotonic()
        with self._one_at_a_time:
            before = self.junction.experiment(name)
            check(before)
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

        with self.settlement.recording:
            try:
                self.store.write(write)
            except DatabaseError as error:
                raise Unavailable(f"the ledger cannot be written, nothing was changed: {error}") from error
            self.at("recorded")
            with self.junction.lock:
                came_into_force = not overtaken()
                if came_into_force:
                    self.junction.put(after)
                    self.junction.publish()
        if not came_into_force:  # the debt of what was faster writes the experiment
            self.store.write(lambda connection: decisions.settle(connection, decision.decision_id, "failed"))
            raise self._overtaken(after.name)
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
            decision = self._decision(action, after, author, released(before, after), backing)
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
        takes = action in ("pause", "stop", "rollback") or experiment.state == "kept"
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
            detail={
                "state": experiment.state,
                "phase": experiment.phase.number,
                "stage": experiment.stage.mode,
                "candidate_ppm": experiment.weight_ppm,
                **author.detail,
            },
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


def begun(experiment: Experiment) -> str:
    """What an experiment is when it begins, in words."""
    if experiment.state in LIVE:
        return f"experiment {experiment.name!r} runs: {share_text(experiment)}"
    return f"experiment {experiment.name!r} is {experiment.state_text}: nothing is sent to its candidate yet"


def released(before: Experiment, after: Experiment) -> tuple[str, ...]:
    """What a candidate loses, in words."""
    lost = "traffic" if after.routes else "copies"
    return (
        f"experiment {after.name!r} is {after.state_text}",
        f"version {after.candidate_version} of {after.model!r} gets no {lost} (before: {share_text(before)})",
    )


def moved(model: CatalogModel, target: int | None, ended: Sequence[Experiment]) -> tuple[str, ...]:
    """What is different where another version is production, in words."""
    before, after = ("none" if one is None else one for one in (model.production, target))
    return (
        f"production of {model.name!r}: version {before} -> {after}",
        *(f"experiment {one.name!r} is {one.state_text}" for one in ended),
    )


def ended_by(ended: Sequence[Experiment]) -> dict[str, list[str]]:
    """What a decision on a whole model keeps of the experiments that it ends."""
    return {"ended": [one.name for one in ended]}


def share_text(experiment: Experiment) -> str:
    """Who gets how much, in words."""
    share = points_text(experiment.weight_ppm / 10_000)
    verb = "answers" if experiment.routes else "gets copies of"
    whose = "the recorded units" if experiment.stage.recorded else "the units"
    entering = entering_share(experiment.spec)
    if entering < 1:
        whose += f" that may enter ({points_text(100 * entering)} of all)"
    return f"version {experiment.candidate_version} of {experiment.model!r} {verb} {share} of {whose}"
