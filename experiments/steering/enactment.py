"""How does what a folder of files declares come to be: which steps does it take, and when may they be taken?

A plan is made from the files and from what is there now, and carries a digest of both; it is carried out only
while it is still the plan that follows. Each step is a transaction of its own (`control`, `adoption`), so a
kill leaves whole steps done and the others for the next time. What is already so takes no step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import orjson

from ..amendment import amendments, sentence
from ..config import differences
from ..decision import EVALUATORS_FILE, SETTINGS_FILE, Decision, Done
from ..declared import (
    DeclaredEvaluators,
    DeclaredExperiment,
    DeclaredSettings,
    File,
    Folder,
    canonical,
    difference,
    read_folder,
)
from ..errors import Conflict, ExperimentsError, Unavailable
from ..ledger import decisions
from ..lifecycle import Experiment
from ..replacing import digest, digest_of
from .adoption import Adoption
from .control import Author, Control, begun
from .settlement import SETBACKS

Verb = Literal["configure", "stop", "change", "create", "refused", "unchanged", "missing"]

#: The steps that change something, in their order: settings hold for what comes after, and what is stopped
#: makes room for what is created.
CHANGING: Final[tuple[Verb, ...]] = ("configure", "stop", "change", "create")
_ORDER: Final[tuple[Verb, ...]] = ("unchanged", "missing", *CHANGING, "refused")


class Partial(Unavailable):
    """Some steps were taken, the next one could not be. Applying again goes on with the rest."""

    code = "partly_applied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What becomes of one thing, or why nothing can (`refused`). `basis` is what the step starts from and
    leads to.
    """

    verb: Verb
    name: str
    sentences: tuple[str, ...]
    file: File | None = None
    basis: tuple[str | int | None, ...] = ()
    diff: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """All steps, in their order. `cut_short` is the last apply, if it did not end and something is left."""

    steps: tuple[Step, ...]
    cut_short: Decision | None = None

    @property
    def changing(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.verb in CHANGING)

    @property
    def refused(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.verb == "refused")

    def digest(self) -> str:
        """SHA-256 (hex) of every step that changes something, with what it starts from and leads to."""
        taken = [(step.verb, step.name, *step.basis) for step in self.changing]
        return sha256(orjson.dumps(taken)).hexdigest()


class Enactment:
    """Plans and carries out. Safe to use from threads: one apply at a time, the second operator is told."""

    def __init__(
        self, control: Control, adoption: Adoption, *, at: Callable[[str], None] = lambda step: None
    ) -> None:
        self._control = control
        self._adoption = adoption
        self._junction = control.junction
        self._store = control.store
        self._at = at
        self._one_at_a_time = threading.Lock()

    # -- what would be done ------------------------------------------------------------------------------

    def outline(self, files: tuple[File, ...], *, prune: bool) -> Outline:
        """What the files make different. Raises DocumentError with every problem of every file.

        What is missing in the files is left alone; with `prune` it is stopped if an apply began it.
        """
        folder = read_folder(files)
        steps = [self._settings(folder.settings)] if folder.settings else []
        steps += [self._evaluators(folder.evaluators)] if folder.evaluators else []
        missing = self._missing(folder, prune=prune)
        stopped = {step.name for step in missing if step.verb == "stop"}
        beside = [one for one in self._junction.experiments() if one.name not in stopped]
        for declared in folder.experiments:
            step, coming = self._experiment(declared, beside)
            steps.append(step)
            beside += [coming] if coming else []
        steps += missing
        found = Outline(steps=tuple(sorted(steps, key=lambda step: _ORDER.index(step.verb))))
        last = decisions.latest(self._store, "apply")
        was_cut_short = last is not None and last.state == "failed"
        return replace(found, cut_short=last) if was_cut_short and found.changing else found

    def _settings(self, declared: DeclaredSettings) -> Step:
        config, file = self._adoption.config, declared.file
        if config.file.is_symlink():
            return _linked(config.file, file)
        there = digest_of(config.file)
        if there and config.error is None and declared.declared == config.declared:
            return Step(verb="unchanged", name=SETTINGS_FILE, sentences=("in force",), file=file)
        trouble = (f"the file there is not in force: {config.error}",) if config.error else ()
        return Step(
            verb="configure",
            name=SETTINGS_FILE,
            sentences=(*trouble, *differences(config.declared, declared.declared))
            or ("nothing is different",),
            file=file,
            basis=(there, digest(file.text)),
            diff=difference(config.text, file.text, file.path),
        )

    def _evaluators(self, declared: DeclaredEvaluators) -> Step:
        place, file = self._adoption.evaluators, declared.file
        if place.is_symlink():
            return _linked(place, file)
        absent = [
            f"the golden set of {model!r} is not at {place.parent / at}: paths in {place.name} are the "
            "controller's, relative to its data folder"
            for model, at in declared.sets.items()
            if not (place.parent / at).exists()
        ]
        if absent:
            return Step(verb="refused", name=place.name, sentences=tuple(absent), file=file)
        there, coming = digest_of(place), digest(file.text)
        if there == coming:
            return Step(verb="unchanged", name=place.name, sentences=("in its place",), file=file)
        before = place.read_text("utf-8", "replace") if there else ""
        return Step(
            verb="configure",
            name=place.name,
            sentences=("new versions are gated and answers scored as it says, within seconds",),
            file=file,
            basis=(there, coming),
            diff=difference(before, file.text, file.path),
        )

    def _experiment(
        self, declared: DeclaredExperiment, beside: list[Experiment]
    ) -> tuple[Step, Experiment | None]:
        """The step, and the experiment that it would begin."""
        file, spec = declared.file, declared.spec
        there = self._junction.experiment(spec.experiment) if self._junction.has(spec.experiment) else None
        before = canonical(there.spec_yaml) if there else ""
        diff = difference(before, canonical(file.text), file.path)
        try:
            if there is None:
                coming = self._control.admission.prepare(spec, file.text, others=beside)
                versions = (coming.control_version, coming.candidate_version)
                basis = (coming.state, *versions, spec.digest())
                step = Step(
                    verb="create",
                    name=spec.experiment,
                    sentences=(begun(coming),),
                    file=file,
                    basis=basis,
                    diff=diff,
                )
                return step, coming
            return self._there(declared, there, diff), None
        except ExperimentsError as error:
            refused = Step(
                verb="refused",
                name=spec.experiment,
                sentences=(str(error),),
                file=file,
                diff=diff,
            )
            return refused, None

    @staticmethod
    def _there(declared: DeclaredExperiment, there: Experiment, diff: tuple[str, ...]) -> Step:
        """What becomes of an experiment that is or was there. Raises Conflict."""
        file, spec = declared.file, declared.spec
        if there.spec.digest() == spec.digest():
            return Step(verb="unchanged", name=there.name, sentences=(there.state_text,), file=file)
        if not there.is_open:
            raise Conflict(
                f"experiment {there.name!r} is {there.state_text}, and its name stands for what it was: "
                "declare the new one under another name",
                code="experiment_exists",
                param="experiment",
            )
        fields = amendments(there.spec, spec)
        return Step(
            verb="change",
            name=there.name,
            sentences=tuple(sentence(path, there.spec_yaml, file.text) for path in fields),
            file=file,
            basis=(there.state, there.spec.digest(), spec.digest()),
            diff=diff,
        )

    def _missing(self, folder: Folder, *, prune: bool) -> list[Step]:
        """What is under way and in no file."""
        named = {one.spec.experiment for one in folder.experiments}
        applied = decisions.applied(self._store)
        found = []
        for one in self._junction.experiments():
            if not one.is_open or one.name in named:
                continue
            ours = one.name in applied
            by = "in no file" if ours else "in no file; it was started by hand, and stays"
            stops = prune and ours
            found.append(
                Step(
                    verb="stop" if stops else "missing",
                    name=one.name,
                    sentences=(f"{one.state_text}, {by}",),
                    basis=(one.state,),
                    diff=difference(canonical(one.spec_yaml), "", "") if stops else (),
                )
            )
        return found

    # -- doing it ----------------------------------------------------------------------------------------

    def apply(
        self, files: tuple[File, ...], author: Author, *, plan: str, prune: bool
    ) -> tuple[Outline, tuple[Done, ...]]:
        """Carry out the plan of that digest. Raises DocumentError, Conflict, Partial.

        Nothing is changed if a file is wrong, if a step is refused, or if another plan follows by now.
        """
        if not self._one_at_a_time.acquire(blocking=False):
            raise Conflict(
                "another apply is under way: look at its result, then plan anew", code="apply_running"
            )
        try:
            outline = self.outline(files, prune=prune)
            if outline.refused:
                reasons = "\n".join(f"{step.name}: {step.sentences[0]}" for step in outline.refused)
                raise Conflict(
                    f"nothing was changed, for not everything can be:\n{reasons}", code="plan_refused"
                )
            if outline.digest() != plan:
                raise Conflict(
                    "the plan is not what follows any more: something has changed since it was made, the "
                    "files or what is running. Nothing was changed; look at the new plan",
                    code="stale_plan",
                    param="plan",
                )
            return outline, self._carry_out(outline, author) if outline.changing else ()
        finally:
            self._one_at_a_time.release()

    def _carry_out(self, outline: Outline, author: Author) -> tuple[Done, ...]:
        steps = outline.changing
        author = replace(author, detail={**author.detail, "plan": outline.digest()})
        row = Decision(
            at_ns=self._junction.now_ns(),
            actor=author.actor,
            action="apply",
            model="",
            reason=author.reason,
            state="intent",
            changed=tuple(f"{step.verb} {step.name}" for step in steps),
            detail={**author.detail, "steps": len(steps)},
        )
        self._record(row)
        done: list[Done] = []
        try:
            for step in steps:
                self._at(f"before {step.verb} {step.name}")
                done.append(self._take(step, author))
            self._record(replace(row, state="done"))
        except SETBACKS as error:
            self._give_up(row, len(done), str(error))
            if not done:
                raise
            named = ", ".join(step.name for step in steps[: len(done)])
            raise Partial(
                f"{len(done)} of {len(steps)} steps were taken ({named}), then: {error}. "
                "Mend it and apply again: it goes on with the rest"
            ) from error
        return tuple(done)

    def _take(self, step: Step, author: Author) -> Done:
        if step.file is None:
            return self._control.stop(step.name, author)
        text, path = step.file.text, step.file.path
        if step.verb == "configure" and step.name == EVALUATORS_FILE:
            return self._adoption.replace_evaluators(text, author)
        if step.verb == "configure":
            return self._adoption.replace(text, author)
        if step.verb == "change":
            return self._control.amend(text, path, author)
        return self._control.start(text, path, author)[1]

    def recover(self) -> None:
        """What an earlier controller was applying when it ended is not finished: the rest is for the next
        apply, and the record says how far it came.
        """
        for row in decisions.intents(self._store):
            if row.action == "apply":
                plan = row.detail["plan"]
                owed = [debt for debt in self._control.settlement.debts if not debt.recorded]
                taken = decisions.taken(self._store, plan, row.at_ns)
                taken += sum(debt.decision.detail.get("plan") == plan for debt in owed)
                self._give_up(row, taken, "the controller ended")

    def _give_up(self, row: Decision, taken: int, why: str) -> None:
        count = f"after {taken} of {row.detail['steps']} steps: {why}"
        try:
            self._record(replace(row, state="failed", changed=(*row.changed, f"cut short {count}")))
        except SETBACKS:
            return  # the row stays an intent, which the next start finds

    def _record(self, row: Decision) -> None:
        self._store.write(lambda connection: decisions.record(connection, row))


def _linked(place: Path, file: File) -> Step:
    why_not = (
        f"{place} is a symbolic link to {place.readlink()}: whoever put it there keeps it; remove the link, "
        f"or leave {place.name} out of the folder"
    )
    return Step(verb="refused", name=place.name, sentences=(why_not,), file=file)
