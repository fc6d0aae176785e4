"""Which states can an experiment be in, what leads from one to the next, and what is it then?

Pure: a value in, a value out, no clock, no registry, no ledger. `steering.control` carries out what
`steering.response` decides, and writes a decision for every transition.

      draft ── submit ──▶ preflight ── admit ──▶ running ◀─ resume ── paused        (pause: from invalid too)
                                                 │  ▲ │
                            stage, next phase ◀──┘  │ └─ invalidate ──▶ invalid
                                                    └─── revalidate ───────┘
      running ── conclude ──▶ concluded ── promote ──▶ promoted
      running ── keep ──▶ kept                        (inconclusive: production is kept)
      every open state ── promote ▶ promoted,  roll_back ▶ rolled_back,  stop ▶ kept
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Literal

from .assignment import CONTROL, PPM, Range, initial_ranges, reweigh
from .decision import VerdictKind
from .errors import Conflict
from .evidence import AnalysisSpec
from .snapshot import HOLDOUT_SALT, Arm, Exclusion, Gate, Mirror, Split
from .spec import ExperimentSpec, ShadowTraffic, Stage, analysis_of

State = Literal[
    "draft", "preflight", "running", "paused", "invalid", "concluded", "promoted", "rolled_back", "kept"
]
Event = Literal[
    "submit", "admit", "pause", "resume", "invalidate", "revalidate", "conclude", "keep",
    "promote", "roll_back", "stop",
]  # fmt: skip

CANDIDATE: Final = "candidate"
OPEN: Final[frozenset[State]] = frozenset(("draft", "preflight", "running", "paused", "invalid", "concluded"))
#: States in which the candidate gets requests (a `concluded` one only after a `ship`).
LIVE: Final[frozenset[State]] = frozenset(("running", "invalid"))

_ENDINGS: Final[Mapping[Event, State]] = {
    "promote": "promoted",
    "roll_back": "rolled_back",
    "stop": "kept",
}
TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    ("draft", "submit"): "preflight",
    ("preflight", "admit"): "running",
    ("running", "pause"): "paused",
    ("invalid", "pause"): "paused",
    ("paused", "resume"): "running",
    ("running", "invalidate"): "invalid",
    ("invalid", "revalidate"): "running",
    ("running", "conclude"): "concluded",
    ("running", "keep"): "kept",
    ("invalid", "keep"): "kept",
    ("preflight", "keep"): "kept",
    **{(state, event): ended for state in OPEN for event, ended in _ENDINGS.items()},
}

_STATE_TEXTS: Final[Mapping[State, str]] = {
    "rolled_back": "rolled back",
    "kept": "over: production is kept",
    "preflight": "in preflight",
    "draft": "a draft",
}


class NoSuchTransition(Conflict):
    """The experiment's state does not allow this; the message says which state and what it does allow."""

    code = "wrong_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch with constant weights. For a shadow `candidate_ppm` is 0 and `share_ppm` what is mirrored.

    `stage` counts the stages with traffic from 0. Before the first phase the number is 0.
    """

    number: int
    started_ns: int
    candidate_ppm: int
    share_ppm: int
    stage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment as it stands. Times are unix nanoseconds.

    `ranges` are the arms' ranges, kept while paused, so that resuming gives every unit its arm back.
    `concluded_on` is the verdict that ended it, None while it runs. `first_phase` is the number of the phase
    with which the present stage began.
    """

    name: str
    model: str
    state: State
    spec: ExperimentSpec
    spec_yaml: str
    control_version: int
    candidate_version: int
    created_ns: int
    started_ns: int
    ended_ns: int | None = None
    note: str | None = None
    phase: Phase
    ranges: Mapping[str, tuple[Range, ...]]
    concluded_on: VerdictKind | None = None
    first_phase: int = 1

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def state_text(self) -> str:
        """The state in words."""
        return _STATE_TEXTS.get(self.state, self.state)

    @property
    def stage(self) -> Stage:
        """The stage that it is in."""
        return self.spec.plan[self.phase.stage]

    @property
    def analysis(self) -> AnalysisSpec:
        """What the present stage is judged by."""
        return analysis_of(
            self.spec,
            control_version=self.control_version,
            candidate_version=self.candidate_version,
            stage=self.phase.stage,
            first_phase=self.first_phase,
        )

    @property
    def next_stage(self) -> Stage | None:
        """The stage that a passing verdict leads to; None in the last one."""
        return None if self.stage.last else self.spec.plan[self.phase.stage + 1]

    @property
    def passed(self) -> bool:
        """Whether it waits for its operator with a `ship` that carries a promotion."""
        return self._shipped and self.routes and self.next_stage is None

    @property
    def _shipped(self) -> bool:
        return self.state == "concluded" and self.concluded_on == "ship"

    @property
    def routes(self) -> bool:
        """Whether it decides which version answers (a shadow does not)."""
        return self.stage.mode != "shadow"

    @property
    def will_route(self) -> bool:
        """Whether it routes, or will in a later stage: two such experiments cannot share a model."""
        return any(stage.mode != "shadow" for stage in self.spec.plan[self.phase.stage :])

    @property
    def has_traffic(self) -> bool:
        """Whether the candidate gets requests: while it runs, its evidence valid or not, and while a `ship`
        waits for its operator.

        Every other conclusion gives the units back to control: nobody stays on a version that was not shown
        to be good.
        """
        return self.state in LIVE or self._shipped

    @property
    def salt(self) -> str:
        """The hash's salt: one per experiment, so that ramps are monotone and two experiments independent."""
        return sha256(f"{self.name}\n{self.created_ns}".encode()).hexdigest()[:16]

    @property
    def weight_ppm(self) -> int:
        """The candidate's present share of the units (a shadow: the share that is mirrored)."""
        if not self.has_traffic:
            return 0
        return self.phase.candidate_ppm if self.routes else self.phase.share_ppm

    def split(self) -> Split | None:
        """The routing of the model's traffic, None if this experiment does not route now."""
        if not self.routes or not self.has_traffic:
            return None
        versions = {CONTROL: self.control_version, CANDIDATE: self.candidate_version}
        arms = tuple(
            Arm(name=arm, version=versions[arm], ranges=tuple(owned)) for arm, owned in self.ranges.items()
        )
        return Split(
            experiment=self.name,
            phase=self.phase.number,
            salt=self.salt,
            unit=self.spec.unit,
            arms=arms,
            gates=gates(self.spec),
            exclude=exclusion(self.spec),
        )

    def mirror(self) -> Mirror | None:
        """The mirroring of the model's traffic, None if this experiment does not mirror now."""
        traffic = self.stage.traffic
        if not isinstance(traffic, ShadowTraffic) or not self.has_traffic:
            return None
        return Mirror(
            experiment=self.name,
            phase=self.phase.number,
            salt=self.salt,
            unit=self.spec.unit,
            arm=CANDIDATE,
            version=self.candidate_version,
            share_ppm=self.phase.share_ppm,
            tools=traffic.tools,
            max_in_flight=traffic.max_in_flight,
            sample=traffic.sample,
            max_bytes=traffic.max_bytes,
            max_tokens=traffic.max_tokens or 0,
            max_cost=round((traffic.max_cost or 0) * 1e6),
            prompt_price=round(traffic.prices.prompt * 1e6) if traffic.prices else 0,
            completion_price=round(traffic.prices.completion * 1e6) if traffic.prices else 0,
            timeout_ms=round(traffic.timeout * 1000),
            waiting=traffic.pressure.waiting,
            kv_ppm=round((traffic.pressure.kv_cache or 0) * PPM),
            priority=traffic.priority,
            gates=gates(self.spec),
            exclude=exclusion(self.spec),
            recorded=traffic.recorded is not None,
        )


def gates(spec: ExperimentSpec) -> tuple[Gate, ...]:
    """Where a unit must lie to be in the experiment at all: inside its group's part, outside the holdout.

    The part comes first: another experiment's unit is that one's, to hold out or not.
    """
    found = []
    if spec.exclusive:
        low, high = spec.exclusive.units
        found.append(Gate(salt=f"exclusive:{spec.exclusive.group}", low=_ppm(low), high=_ppm(high)))
    if spec.holdout:
        found.append(Gate(salt=HOLDOUT_SALT, low=_ppm(spec.holdout), high=PPM))
    return tuple(found)


def entering_share(spec: ExperimentSpec) -> float:
    """The share of the units that the gates admit; they are independent of each other."""
    return math.prod((gate.high - gate.low) / PPM for gate in gates(spec))


def exclusion(spec: ExperimentSpec) -> Exclusion | None:
    """Which requests production answers outside the experiment, None if there are no such rules."""
    rules = spec.exclude
    if rules is None:
        return None
    return Exclusion(
        tenants=tuple(sorted(rules.tenants)),
        headers=tuple(sorted((name.lower(), value) for name, value in rules.headers.items())),
        tags=tuple(sorted(rules.tags.items())),
    )


def _ppm(percentage: float) -> int:
    return round(percentage * 10_000)


def begin(
    spec: ExperimentSpec,
    spec_yaml: str,
    *,
    control_version: int,
    candidate_version: int,
    now_ns: int,
    state: Literal["draft", "preflight", "running"] = "running",
) -> Experiment:
    """A new experiment: in its first phase, or before it."""
    now_ns -= now_ns % 1000  # the ledger keeps microseconds, and the salt must survive a restart
    waiting = Experiment(
        name=spec.experiment,
        model=spec.model,
        state=state,
        spec=spec,
        spec_yaml=spec_yaml,
        control_version=control_version,
        candidate_version=candidate_version,
        created_ns=now_ns,
        started_ns=now_ns,
        phase=Phase(number=0, started_ns=now_ns, candidate_ppm=0, share_ppm=0),
        ranges={CONTROL: ((0, PPM),)},
    )
    return _enter(waiting, 0, now_ns) if state == "running" else waiting


def _enter(experiment: Experiment, stage: int, now_ns: int) -> Experiment:
    """The experiment in the first phase of a stage."""
    here = experiment.spec.plan[stage]
    weight, number = here.weights_ppm[0], experiment.phase.number + 1
    phase = _phase(number, now_ns, weight, stage, routes=here.mode != "shadow")
    entered = replace(experiment, phase=phase, first_phase=number)
    return _weighed(entered, weight)


def _weighed(experiment: Experiment, weight_ppm: int) -> Experiment:
    if not experiment.routes:
        return experiment
    fresh = CANDIDATE not in experiment.ranges
    weights = {CANDIDATE: weight_ppm}
    return replace(
        experiment, ranges=initial_ranges(weights) if fresh else reweigh(experiment.ranges, weights)
    )


def _phase(number: int, now_ns: int, weight_ppm: int, stage: int, *, routes: bool) -> Phase:
    return Phase(
        number=number,
        started_ns=now_ns - now_ns % 1000,
        candidate_ppm=weight_ppm if routes else 0,
        share_ppm=0 if routes else weight_ppm,
        stage=stage,
    )


def advance(experiment: Experiment, weight_ppm: int, now_ns: int) -> Experiment:
    """A new phase with another weight. Ranges grow from control only, so nobody is moved without need."""
    if experiment.state != "running":
        raise NoSuchTransition(_refusal(experiment, "advance"))
    before = experiment.phase
    phase = _phase(before.number + 1, now_ns, weight_ppm, before.stage, routes=experiment.routes)
    return _weighed(replace(experiment, phase=phase), weight_ppm)


def enter_next_stage(experiment: Experiment, now_ns: int) -> Experiment:
    """The first phase of the next stage: its evidence and its looks start from nothing."""
    if experiment.state != "running" or experiment.stage.last:
        raise NoSuchTransition(_refusal(experiment, "the next stage"))
    return _enter(experiment, experiment.phase.stage + 1, now_ns)


def follow(
    experiment: Experiment,
    event: Event,
    now_ns: int,
    *,
    verdict: VerdictKind | None = None,
    note: str | None = None,
) -> Experiment:
    """The experiment after an event. Raises NoSuchTransition if its state does not allow the event.

    Resuming opens a new phase: the units that come back have been away, and are not pooled with those before.
    """
    target = TRANSITIONS.get((experiment.state, event))
    if target is None:
        raise NoSuchTransition(_refusal(experiment, event))
    changed = replace(experiment, state=target, note=note)
    if event == "admit":
        return _enter(replace(changed, started_ns=now_ns - now_ns % 1000), 0, now_ns)
    if event == "resume":
        before = experiment.phase
        weight = before.candidate_ppm or before.share_ppm
        phase = _phase(before.number + 1, now_ns, weight, before.stage, routes=experiment.routes)
        return replace(changed, phase=phase)
    if event in ("conclude", "keep"):
        changed = replace(changed, concluded_on=verdict)
    return changed if target in OPEN else replace(changed, ended_ns=now_ns)


def _refusal(experiment: Experiment, event: str) -> str:
    allowed = sorted(step for state, step in TRANSITIONS if state == experiment.state)
    possible = f"possible now: {', '.join(allowed)}" if allowed else "nothing more can be done with it"
    return f"experiment {experiment.name!r} is {experiment.state}, which does not allow {event}: {possible}"


def next_step(experiment: Experiment) -> int | None:
    """The ramp's next weight in ppm, None at its end."""
    return next(
        (step for step in experiment.stage.weights_ppm if step > experiment.phase.candidate_ppm), None
    )


def open_on(experiments: Iterable[Experiment], model: str) -> list[Experiment]:
    """The model's experiments that have not ended, oldest first."""
    found = [one for one in experiments if one.model == model and one.is_open]
    return sorted(found, key=lambda one: (one.created_ns, one.name))
