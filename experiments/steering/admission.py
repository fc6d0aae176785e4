"""May an experiment have traffic now, and which versions does it compare?

Asked before anything is changed: which version a reference names, whether its golden set has passed, whether
another experiment stands in its way. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Conflict, NotFound, Refused
from ..ledger import trials
from ..ledger.store import Store
from ..lifecycle import Experiment, begin
from ..recorded import check_something_recorded
from ..routing import CatalogModel
from ..spec import ExperimentSpec
from .junction import Junction


class Admission:
    """The questions. Safe to use from threads; every call may wait for the ledger."""

    def __init__(self, junction: Junction, store: Store) -> None:
        self._junction = junction
        self._store = store

    def prepare(
        self,
        spec: ExperimentSpec,
        spec_yaml: str,
        *,
        draft: bool = False,
        others: Sequence[Experiment] | None = None,
    ) -> Experiment:
        """The experiment as it would begin now; nothing is changed. Raises NotFound, Conflict, Refused.

        `others` are the experiments that there will be beside it; by default those that there are.
        """
        model = self._junction.model(spec.model)
        control = version_of(model, spec.control)
        candidate = version_of(model, spec.candidate)
        if control == candidate:
            raise Conflict(
                f"control ({spec.control}) and candidate ({spec.candidate}) are both version {control}",
                code="same_version",
                param="candidate",
            )
        check_something_recorded(self._store, spec, control, self._junction.now_ns())
        waits = not draft and self._waits(spec, control, candidate)
        if not draft and not waits:
            self.check(spec, control, candidate, others)
        return begin(
            spec,
            spec_yaml,
            control_version=control,
            candidate_version=candidate,
            now_ns=self._junction.now_ns(),
            state="draft" if draft else "preflight" if waits else "running",
        )

    def already(self, spec: ExperimentSpec) -> Experiment | None:
        """The open experiment with this very spec; None if the name is free."""
        if not self._junction.has(spec.experiment):
            return None
        there = self._junction.experiment(spec.experiment)
        if there.is_open and there.spec.digest() == spec.digest():
            return there
        raise Conflict(
            f"there is an experiment {spec.experiment!r} already ({there.state}): a name stands for one "
            "declaration, so that its records stay readable; choose another name",
            code="experiment_exists",
            param="experiment",
        )

    def _waits(self, spec: ExperimentSpec, control: int, candidate: int) -> bool:
        """Whether a golden run must come first. Raises Refused where waiting would not help."""
        if spec.gate is None:
            return False
        verdict = self.golden(spec, control, candidate)
        if verdict == "pass":
            return False
        if spec.mode == "chain" and verdict != "fail":
            return True
        none = "there is none (`turnout golden compare` makes it; the set's name is that of its set.yaml)"
        found = f"it is {verdict}" if verdict else none
        raise Refused(
            f"version {candidate} of {spec.model!r} needs a passed comparison with version {control} on "
            f"the golden set {spec.gate.set!r} before it gets traffic; {found}",
            code="golden_required",
        )

    def golden(self, spec: ExperimentSpec, control: int, candidate: int) -> str | None:
        """What the newest comparison says that must be passed before any traffic; None without one."""
        if spec.gate is None:
            return None
        return trials.golden_verdict(
            self._store,
            model=spec.model,
            set_name=spec.gate.set,
            control_version=control,
            candidate_version=candidate,
        )

    def check(
        self,
        spec: ExperimentSpec,
        control: int,
        candidate: int,
        others: Sequence[Experiment] | None = None,
    ) -> None:
        """Raises NotFound, Conflict if the experiment cannot have traffic now, whatever its quality."""
        model = self._junction.model(spec.model)
        for version in (control, candidate):
            if version not in model.endpoints:
                raise Conflict(
                    f"version {version} of {model.name!r} has no endpoint, so nothing can be sent to it; "
                    f"register one, or `turnout serve models:/{model.name}/{version}`",
                    code="no_endpoint",
                )
        there = self._junction.experiments() if others is None else others
        # One that has ended, or still waits in preflight, stands in nobody's way.
        holding = [
            one for one in there if one.name != spec.experiment and (one.has_traffic or one.state == "paused")
        ]
        routes = any(stage.mode != "shadow" for stage in spec.plan)
        rivals = [one for one in holding if routes and one.model == spec.model and one.will_route]
        for rival in rivals:
            if what_to_do := _to_be_beside(rival.spec, spec):
                raise Conflict(
                    f"experiment {rival.name!r} ({rival.state}) already routes the traffic of "
                    f"{model.name!r}: end it first (`turnout experiment stop {rival.name}`), or "
                    f"{what_to_do}; shadows may run beside it",
                    code="experiment_running",
                )
        taken = next((one for one in holding if _share_units(one.spec, spec)), None)
        if taken is not None:
            raise Conflict(
                f"experiment {taken.name!r} has units of the group that {spec.experiment!r} asks for: "
                "choose another part of the group's units, or end it first",
                code="units_taken",
                param="exclusive",
            )


def _share_units(one: ExperimentSpec, other: ExperimentSpec) -> bool:
    """Whether two experiments of one group ask for the same units."""
    mine, theirs = one.exclusive, other.exclusive
    if mine is None or theirs is None or mine.group != theirs.group:
        return False
    return mine.units[0] < theirs.units[1] and theirs.units[0] < mine.units[1]


def _to_be_beside(rival: ExperimentSpec, spec: ExperimentSpec) -> str | None:
    """What it takes for two experiments to divide a model's units between them; None where they do. Which of
    a group's units they ask for is `_share_units`' question."""
    theirs, mine = rival.exclusive, spec.exclusive
    if theirs is None:
        return "have both declare a part of one group's units (`exclusive`) from the start"
    if mine is None or mine.group != theirs.group:
        return f"declare another part of its group's units (`exclusive: {{group: {theirs.group}, ...}}`)"
    if spec.unit != rival.unit:
        return f"declare its unit, {rival.unit}: by another one, somebody would be in both"
    return None


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
