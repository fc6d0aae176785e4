"""Which states can an experiment be in, what leads from one to the next, and what follows from a verdict?

Pure: a value in, a value out, no clock, no registry, no ledger. `experiments.control` carries out what is
decided here.

                pause            conclude               promote
      running ────────▶ paused   ────────▶ concluded ────────▶ promoted
         ▲ └─────────────┘            │
         └──── resume                 └── roll_back ▶ rolled_back,  stop ▶ stopped   (from every open state)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Literal

from .assignment import CONTROL, PPM, Range, initial_ranges, reweigh
from .errors import Conflict
from .snapshot import Arm, Mirror, Split
from .spec import CanaryTraffic, ExperimentSpec, ShadowTraffic

State = Literal["running", "paused", "concluded", "promoted", "rolled_back", "stopped"]
Event = Literal["pause", "resume", "conclude", "promote", "roll_back", "stop"]
VerdictKind = Literal["invalid", "roll_back", "ship", "keep_running", "inconclusive"]

CANDIDATE: Final = "candidate"
OPEN: Final[frozenset[State]] = frozenset(("running", "paused", "concluded"))

_ENDINGS: Final[Mapping[Event, State]] = {
    "promote": "promoted",
    "roll_back": "rolled_back",
    "stop": "stopped",
}
TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    ("running", "pause"): "paused",
    ("paused", "resume"): "running",
    ("running", "conclude"): "concluded",
    **{(state, event): ended for state in OPEN for event, ended in _ENDINGS.items()},
}


class NoSuchTransition(Conflict):
    """The experiment's state does not allow this; the message says which state and what it does allow."""

    code = "wrong_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch with constant weights. For a shadow `candidate_ppm` is 0 and `share_ppm` what is mirrored."""

    number: int
    started_ns: int
    candidate_ppm: int
    share_ppm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment as it stands. Times are unix nanoseconds.

    `ranges` are the arms' ranges, kept while paused, so that resuming gives every unit its arm back.
    `concluded_on` is the verdict that ended it, None while it runs.
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

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def state_text(self) -> str:
        """The state in words."""
        return self.state.replace("_", " ")

    @property
    def routes(self) -> bool:
        """Whether it decides which version answers (a shadow does not)."""
        return self.spec.mode != "shadow"

    @property
    def has_traffic(self) -> bool:
        """Whether the candidate gets requests: while it runs, and while a `ship` waits for its operator.

        Every other conclusion gives the units back to control: nobody stays on a version that was not shown
        to be good.
        """
        return self.state == "running" or (self.state == "concluded" and self.concluded_on == "ship")

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
            experiment=self.name, phase=self.phase.number, salt=self.salt, unit=self.spec.unit, arms=arms
        )

    def mirror(self) -> Mirror | None:
        """The mirroring of the model's traffic, None if this experiment does not mirror now."""
        traffic = self.spec.traffic
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
        )


def begin(
    spec: ExperimentSpec, spec_yaml: str, *, control_version: int, candidate_version: int, now_ns: int
) -> Experiment:
    """A new experiment in its first phase."""
    now_ns -= now_ns % 1000  # the ledger keeps microseconds, and the salt must survive a restart
    weight = spec.weights_ppm[0]
    routes = spec.mode != "shadow"
    return Experiment(
        name=spec.experiment,
        model=spec.model,
        state="running",
        spec=spec,
        spec_yaml=spec_yaml,
        control_version=control_version,
        candidate_version=candidate_version,
        created_ns=now_ns,
        started_ns=now_ns,
        phase=_phase(1, now_ns, weight, routes),
        ranges=initial_ranges({CANDIDATE: weight}) if routes else {CONTROL: ((0, PPM),)},
    )


def _phase(number: int, now_ns: int, weight_ppm: int, routes: bool) -> Phase:
    return Phase(
        number=number,
        started_ns=now_ns,
        candidate_ppm=weight_ppm if routes else 0,
        share_ppm=0 if routes else weight_ppm,
    )


def advance(experiment: Experiment, weight_ppm: int, now_ns: int) -> Experiment:
    """A new phase with another weight. Ranges grow from control only, so nobody is moved without need."""
    if experiment.state != "running":
        raise NoSuchTransition(_refusal(experiment, "advance"))
    routes = experiment.routes
    return replace(
        experiment,
        phase=_phase(experiment.phase.number + 1, now_ns, weight_ppm, routes),
        ranges=reweigh(experiment.ranges, {CANDIDATE: weight_ppm}) if routes else experiment.ranges,
    )


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
    changed = replace(experiment, state=target, note=note or experiment.note)
    if event == "resume":
        weight = experiment.phase.candidate_ppm or experiment.phase.share_ppm
        number = experiment.phase.number + 1
        return replace(changed, phase=_phase(number, now_ns, weight, experiment.routes))
    if event == "conclude":
        return replace(changed, concluded_on=verdict)
    return changed if target in OPEN else replace(changed, ended_ns=now_ns)


def _refusal(experiment: Experiment, event: str) -> str:
    allowed = sorted(step for state, step in TRANSITIONS if state == experiment.state)
    possible = f"possible now: {', '.join(allowed)}" if allowed else "nothing more can be done with it"
    return f"experiment {experiment.name!r} is {experiment.state}, which does not allow {event}: {possible}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a response is decided on: the verdict's kind, the phase's candidate units, crossed guardrails."""

    kind: VerdictKind
    label: str
    phase_units: int
    guardrails: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the controller does next, and why, in words for the audit row."""

    action: Literal["none", "advance", "roll_back", "conclude", "promote"]
    reason: str
    weight_ppm: int = 0


def respond(experiment: Experiment, findings: Findings, now_ns: int) -> Response:
    """What follows from the evidence (statistics.md §3). Only a running experiment, or one whose `ship`
    waits for its operator, is acted on; for the latter only a rollback is left.
    """
    if not experiment.has_traffic:
        return Response(action="none", reason=f"the experiment is {experiment.state}")
    crossed = sorted(metric for metric, state in findings.guardrails.items() if state == "crossed")
    if findings.kind == "roll_back":
        return Response(action="roll_back", reason=findings.label)
    if findings.kind == "invalid" and crossed:
        # An invalid comparison proves nothing about harm; leaving users with what looks harmful is worse.
        return Response(
            action="roll_back", reason=f"{findings.label} To be safe: {', '.join(crossed)} crossed."
        )
    if experiment.state != "running" or findings.kind == "invalid":
        return Response(action="none", reason=findings.label)
    if findings.kind == "ship":
        action: Literal["promote", "conclude"] = (
            "promote" if experiment.spec.on_ship == "promote" else "conclude"
        )
        return Response(action=action, reason=findings.label)
    if findings.kind == "inconclusive":
        return Response(action="conclude", reason=findings.label)
    return ramp(experiment, findings, now_ns)


def ramp(experiment: Experiment, findings: Findings, now_ns: int) -> Response:
    """Whether a canary may take its next step: enough units, enough time, every guardrail measured and whole.

    A guardrail without figures holds the ramp: no result is a result, and it is not a good one.
    """
    traffic = experiment.spec.traffic
    following = next_step(experiment)
    if not isinstance(traffic, CanaryTraffic) or following is None:
        return Response(action="none", reason="no further step")
    if findings.phase_units < traffic.min_units:
        return Response(
            action="none", reason=f"{findings.phase_units} of {traffic.min_units} candidate units"
        )
    waited = (now_ns - experiment.phase.started_ns) / 1e9
    if waited < traffic.min_duration:
        return Response(action="none", reason=f"{waited:.0f} of {traffic.min_duration:.0f} s in this phase")
    held = sorted(m for m, state in findings.guardrails.items() if state not in ("ok", "better"))
    if held:
        return Response(action="none", reason=f"held by {', '.join(held)}")
    reason = f"{findings.phase_units} candidate units in phase {experiment.phase.number}, guardrails hold"
    return Response(action="advance", reason=reason, weight_ppm=following)


def next_step(experiment: Experiment) -> int | None:
    """The ramp's next weight in ppm, None at its end."""
    return next((step for step in experiment.spec.weights_ppm if step > experiment.phase.candidate_ppm), None)


def open_on(experiments: Iterable[Experiment], model: str) -> list[Experiment]:
    """The model's experiments that have not ended, oldest first."""
    found = [one for one in experiments if one.model == model and one.is_open]
    return sorted(found, key=lambda one: (one.created_ns, one.name))
