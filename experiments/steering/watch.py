"""What does the evidence say now, and what follows from it without anybody asking?

One look at every experiment whose candidate has traffic: evidence, verdict, the look kept, the response
carried out. Called every second; one experiment that cannot be judged holds up no other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from registry import RegistryError

from ..decision import CONTROLLER, Backing
from ..errors import Conflict, ExperimentsError, Refused, Unavailable
from ..evidence import AnalysisSpec, Evidence
from ..ledger import trials
from ..ledger.evidence import Rollups, gather
from ..ledger.standings import Standings
from ..ledger.store import Connection
from ..ledger.tally import Tally
from ..lifecycle import Experiment
from ..quantities import duration_text
from ..recorded import exhausted
from ..verdict.conclusion import Verdict, conclude
from .control import Author, Control
from .promotion import Promotion
from .response import Findings, admission, policy_for, respond
from .settlement import SETBACKS

log = logging.getLogger("turnout.watch")

#: How often an unchanged verdict is kept: the band over time is drawn from what is kept. The longer a phase
#: lasts the less often, or weeks would be kept as a hundred thousand verdicts.
KEEP_EVERY_NS: Final = 10 * 10**9
KEEP_SHARE: Final = 1 / 200
#: Without new rows only the clock can change a verdict (a duration that has passed): look this often.
STALE_NS: Final = 2 * 10**9
#: Between two looks no more than this is counted as time in which a request could have been seen: what is
#: longer is a clock that jumped, a machine that slept, or a controller that was held up.
AWAKE_NS: Final = 5 * 10**9
#: When a promotion is tried again that an endpoint or the registry stood in the way of: first, and at the
#: longest; the wait doubles.
AGAIN_NS: Final = 30 * 10**9
AGAIN_AT_MOST_NS: Final = 600 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The latest verdict on an experiment, as it was reached, and what holds a ramp or the next step."""

    document: dict[str, Any]
    evidence: Evidence
    waiting_for: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _PutOff:
    """A promotion that could not be carried out: why, and when it is tried again."""

    reason: str
    wait_ns: int
    again_ns: int


class Watch:
    """Looks, and acts. One thread calls `look`; any may read `seen`."""

    def __init__(
        self,
        control: Control,
        promotion: Promotion,
        *,
        judge: Callable[..., Verdict] = conclude,
        revision: Callable[[], int] | None = None,
        tally: Tally | None = None,
        standings: Standings | None = None,
    ) -> None:
        self._control = control
        self._promotion = promotion
        self._judge = judge
        self._revision = revision
        self._rollups = Rollups(control.store)
        self._tally = tally or Tally(control.store)
        self._standings = standings or Standings(control.store)
        self._looked: dict[str, tuple[int | None, Experiment, int]] = {}
        self._seen: dict[str, Seen] = {}
        self._gists: dict[str, dict[str, Any] | None] = {}
        self._kept: dict[str, tuple[int, str]] = {}
        self._unkept: dict[str, tuple[Verdict, int]] = {}
        self._told: dict[str, str] = {}
        self._waiting: dict[str, str] = {}
        self._warned: dict[str, tuple[str, ...]] = {}
        self._put_off: dict[str, _PutOff] = {}
        self._woke_ns: int | None = None
        self._awake_ns = 0
        #: By experiment its phase and how many requests had come, and since when (of `_awake_ns`) that is so.
        self._heard: dict[str, tuple[int, int, int]] = {}

    def seen(self, experiment: str) -> Seen | None:
        """What was last seen of an experiment since the controller started."""
        return self._seen.get(experiment)

    def gist(self, experiment: Experiment) -> dict[str, Any] | None:
        """What a list says of the latest verdict, None if there was none yet. Of an experiment that has ended
        it is read once, however often the list is asked for.
        """
        name = experiment.name
        if experiment.is_open or name in self._seen:
            return self.latest(name)
        if name not in self._gists:
            found = self.latest(name)
            self._gists[name] = None if found is None else _gist(found)
        return self._gists[name]

    def latest(self, experiment: str) -> dict[str, Any] | None:
        """The latest verdict's document, also of a look before the controller started; None without one."""
        seen = self._seen.get(experiment)
        return seen.document if seen else trials.last_verdict(self._control.store, experiment)

    def keep(self, experiment: str) -> None:
        """Store the latest verdict, if it was not kept yet: somebody asks for what follows from it."""
        unkept = self._unkept.get(experiment)
        if unkept is None:
            return

        def write(connection: Connection) -> None:
            if self._unkept.get(experiment) is unkept:  # else a later one may be stored already
                trials.save_look(connection, *unkept)
                self._unkept.pop(experiment, None)

        self._control.store.write(write)

    def prepare(self) -> None:
        """Load what formulas ask for as soon as there is something to judge: neither does a controller keep
        silent for its second and a half, nor a rollback wait for it."""
        if any(experiment.is_open for experiment in self._control.junction.experiments()):
            import scipy.optimize
            import scipy.special
            import scipy.stats  # noqa: F401

    def look(self) -> None:
        """Judge and act on every experiment whose candidate has traffic; keep the last word on the others."""
        self.prepare()
        self._wake()
        for experiment in self._control.junction.experiments():
            if not experiment.has_traffic and experiment.name in self._unkept:
                self._save(*self._unkept[experiment.name])  # somebody ended it between two looks to be kept
            waits = experiment.state == "preflight"
            if waits or (experiment.has_traffic and self._news(experiment)):
                try:
                    if waits:
                        self._admit(experiment)
                    else:
                        self._look_at(experiment)
                    self._told.pop(experiment.name, None)
                except (*SETBACKS, LookupError, NotImplementedError) as error:
                    self._tell(experiment.name, f"{type(error).__name__}: {error}")
        self._rollups.keep({one.name for one in self._control.junction.experiments() if one.has_traffic})

    def _wake(self) -> None:
        now_ns = self._control.junction.now_ns()
        if self._woke_ns is not None:
            self._awake_ns += min(max(0, now_ns - self._woke_ns), AWAKE_NS)
        self._woke_ns = now_ns

    def _news(self, experiment: Experiment) -> bool:
        """Whether a look can show anything else than the last one: new rows, another phase, or time."""
        revision = self._revision() if self._revision else None
        now_ns = self._control.junction.now_ns()
        known, there, at_ns = self._looked.get(experiment.name, (None, None, 0))
        unchanged = known is not None and known == revision and there is experiment
        if unchanged and 0 <= now_ns - at_ns < STALE_NS:  # a clock may have been set back
            return False
        self._looked[experiment.name] = (revision, experiment, now_ns)
        return True

    def _tell(self, name: str, trouble: str) -> None:
        """Say it once, not every second."""
        if self._told.get(name) != trouble:
            self._told[name] = trouble
            log.warning("experiment %s: no step taken: %s", name, trouble)

    def _look_at(self, experiment: Experiment) -> None:
        store, now_ns = self._control.store, self._control.junction.now_ns()
        spec, golden = experiment.analysis, experiment.spec.gate
        nothing_left = exhausted(self._standings, experiment)  # before the evidence: then that is all of it
        evidence = gather(
            store, spec, as_of_ns=now_ns, golden_set=golden.set if golden else None, rollups=self._rollups
        )
        evidence = replace(evidence, exhausted=nothing_left)
        past = trials.past_looks(store, experiment.name, experiment.phase.stage)
        verdict = self._judge(spec, evidence, past_looks=past)
        if experiment.state == "concluded" and verdict.kind not in ("roll_back", "invalid"):
            # `ship` was said with all of alpha spent: a later look can find harm, but says nothing new about
            # shipping, and must not stand in the records as the verdict that the operator acts on.
            self._promote_again(experiment, now_ns)
            return
        document = verdict.document()
        units = self._phase_units(experiment, spec, evidence)
        findings = self._findings(experiment, verdict, document, units, now_ns)
        response = respond(experiment, findings, now_ns)
        self._keep(experiment, verdict, document, acts=response.action != "none")
        self._seen[experiment.name] = Seen(document=document, evidence=evidence, waiting_for=response.reason)
        backing = Backing(kind=verdict.kind, digest=document["digest"], experiment=experiment.name)
        if policy_for(experiment.spec.policies, findings) == "warn":
            self._warn(experiment, findings, backing)
        author = Author(actor=CONTROLLER, reason=response.reason)
        match response.action:
            case "roll_back":
                self._control.take_away(experiment.name, "roll_back", "rollback", author, backing)
            case "advance":
                self._control.ramp(experiment.name, response.weight_ppm, author, backing)
            case "stage":
                self._control.next_stage(experiment.name, author, backing)
            case "invalidate":
                self._control.invalidate(experiment.name, author, backing)
            case "revalidate":
                self._control.revalidate(experiment.name, author, backing)
            case "conclude" | "keep":
                self._control.conclude(experiment.name, author, backing)
            case "promote":
                self._promote(experiment, author, backing)
            case _:
                return
        log.info("experiment %s: %s: %s", experiment.name, response.action, response.reason)

    def _findings(
        self, experiment: Experiment, verdict: Verdict, document: dict[str, Any], units: int, now_ns: int
    ) -> Findings:
        label, troubles = verdict.sentence or verdict.label, self._troubles(verdict)
        silence = self._silence_s(experiment)
        if silence is not None:
            troubles = (*troubles, "no_traffic")
            label = f"No request has come for {duration_text(silence)}. {label}"
        return Findings(
            kind=verdict.kind,
            label=label,
            phase_units=units,
            guardrails={
                metric["metric"]: metric["state"]
                for metric in document["metrics"]
                if metric["role"] == "guardrail"
            },
            troubles=troubles,
            over=verdict.look.final,
        )

    @staticmethod
    def _troubles(verdict: Verdict) -> tuple[str, ...]:
        if verdict.kind != "invalid":
            return ()
        return tuple(sorted({reason.code for reason in verdict.reasons if reason.severity == "block"}))

    def _silence_s(self, experiment: Experiment) -> float | None:
        """Whole seconds in which the controller has looked and no request has arrived, None if that is not
        long enough to be told. A replay goes on when its operator says so: between two runs of it nothing is
        amiss."""
        if experiment.stage.recorded is not None:
            return None
        arrived = (experiment.phase.number, self._tally.requests(experiment.name))
        *known, since_ns = self._heard.get(experiment.name, (0, 0, 0))
        if arrived != tuple(known):
            since_ns = self._awake_ns
            self._heard[experiment.name] = (*arrived, since_ns)
        silent = (self._awake_ns - since_ns) // 10**9
        return float(silent) if silent >= experiment.spec.policies.no_traffic_after else None

    def _warn(self, experiment: Experiment, findings: Findings, backing: Backing) -> None:
        """Once for each kind of trouble, not every second."""
        if self._warned.get(experiment.name) == findings.troubles:
            return
        self._warned[experiment.name] = findings.troubles
        self._control.warn(experiment.name, Author(actor=CONTROLLER, reason=findings.label), backing)

    def _admit(self, experiment: Experiment) -> None:
        """An experiment in preflight begins once its golden set has passed and nothing stands against it."""
        spec, control, candidate = experiment.spec, experiment.control_version, experiment.candidate_version
        why_not: str | None = None
        try:
            self._control.admission.check(spec, control, candidate)
        except ExperimentsError as error:
            why_not = str(error)
        response = admission(experiment, self._control.admission.golden(spec, control, candidate), why_not)
        author = Author(actor=CONTROLLER, reason=response.reason)
        self._waiting[experiment.name] = response.reason
        if response.action == "admit":
            self._control.admit(experiment.name, author)
        elif response.action == "keep":
            self._control.keep(experiment.name, author)

    def waiting_for(self, experiment: Experiment) -> str | None:
        """What holds an experiment up, in words; None if nothing is known."""
        if experiment.state == "preflight":
            return self._waiting.get(experiment.name)
        if experiment.state == "concluded":
            put_off = self._put_off.get(experiment.name)
            return None if put_off is None else f"{put_off.reason}: the promotion is tried again by itself"
        seen = self._seen.get(experiment.name)
        return seen.waiting_for if seen and experiment.has_traffic else None

    def _phase_units(self, experiment: Experiment, spec: AnalysisSpec, evidence: Evidence) -> int:
        """How many units the candidate has answered in the present phase; a ramp asks for it."""
        here = (experiment.phase.number, spec.candidate)
        return sum(arm.present for arm in evidence.arms if (arm.phase, arm.arm) == here)

    def _promote(self, experiment: Experiment, author: Author, backing: Backing) -> None:
        """Promote what was found better. Where production has moved meanwhile, a person must look at it."""
        model = self._control.junction.model(experiment.model)
        if model.production != experiment.control_version:
            self._control.conclude(experiment.name, author, backing)
            raise Conflict(
                f"version {experiment.candidate_version} is better than version "
                f"{experiment.control_version}, but production is version {model.production}: not promoted"
            )
        try:
            self._promotion.promote(experiment.model, experiment.candidate_version, author, backing=backing)
        except (Refused, Conflict, RegistryError, Unavailable) as error:
            # An endpoint or the registry does not answer now, or another move is not over. The `ship` stands,
            # it is not judged anew.
            self._put_promotion_off(experiment.name, error)
            self._control.conclude(experiment.name, author, backing)
            raise

    def _promote_again(self, experiment: Experiment, now_ns: int) -> None:
        """Carry out what `on_ship: promote` declared and what something stood in the way of, also of an
        earlier controller. Where production has moved meanwhile, it is left to a person."""
        put_off = self._put_off.get(experiment.name)
        # A clock that has been set back must not make it wait for longer than it was to.
        due = put_off is None or not 0 < put_off.again_ns - now_ns <= put_off.wait_ns
        production = self._control.junction.model(experiment.model).production
        if (
            not due
            or experiment.spec.on_ship != "promote"
            or not experiment.routes
            or experiment.next_stage is not None
            or production != experiment.control_version
        ):
            return
        author = Author(actor=CONTROLLER, reason="the promotion that was put off")
        try:
            self._promotion.promote(experiment.model, experiment.candidate_version, author)
        except (Refused, Conflict, RegistryError, Unavailable) as error:
            self._put_promotion_off(experiment.name, error)
            raise
        self._put_off.pop(experiment.name, None)

    def _put_promotion_off(self, name: str, error: Exception) -> None:
        before = self._put_off.get(name)
        wait_ns = AGAIN_NS if before is None else min(2 * before.wait_ns, AGAIN_AT_MOST_NS)
        again_ns = self._control.junction.now_ns() + wait_ns
        self._put_off[name] = _PutOff(reason=str(error), wait_ns=wait_ns, again_ns=again_ns)

    def _keep(
        self, experiment: Experiment, verdict: Verdict, document: dict[str, Any], *, acts: bool
    ) -> None:
        """Store the look if it is scheduled, is acted on, says something new, or is due for the band."""
        at_ns, kind = self._kept.get(experiment.name, (0, ""))
        every_ns = max(KEEP_EVERY_NS, KEEP_SHARE * (verdict.as_of_ns - experiment.phase.started_ns))
        due = abs(verdict.as_of_ns - at_ns) >= every_ns  # a clock may have been set back
        self._unkept[experiment.name] = (verdict, experiment.phase.stage)
        if verdict.look.scheduled or acts or due or kind != verdict.kind:
            self._save(verdict, experiment.phase.stage)

    def _save(self, verdict: Verdict, stage: int) -> None:
        self._control.store.write(lambda connection: trials.save_look(connection, verdict, stage))
        self._kept[verdict.experiment] = (verdict.as_of_ns, verdict.kind)
        self._unkept.pop(verdict.experiment, None)


def _gist(document: dict[str, Any]) -> dict[str, Any]:
    """The few parts of a verdict's document that lists are made of."""
    metrics = [{name: metric[name] for name in ("metric", "role", "state")} for metric in document["metrics"]]
    parts = ("kind", "label", "sentence", "units", "days_left", "as_of_ns")
    return {name: document.get(name) for name in parts} | {"metrics": metrics}
