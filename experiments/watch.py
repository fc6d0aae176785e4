"""What does the evidence say now, and what follows from it without anybody asking?

One look at every experiment whose candidate has traffic: evidence, verdict, the look kept, the response
carried out. Called every second; one experiment that cannot be judged holds up no other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .control import Author, Control
from .decision import CONTROLLER, Backing
from .errors import Conflict
from .evidence import Evidence
from .ledger import trials
from .ledger.evidence import gather
from .lifecycle import Experiment, Findings, respond
from .promotion import Promotion
from .settlement import SETBACKS
from .spec import analysis_of
from .verdict import Verdict, conclude

log = logging.getLogger("turnout.watch")

#: How often an unchanged verdict is kept: the band over time is drawn from what is kept.
KEEP_EVERY_NS: Final = 10 * 10**9
#: Without new rows only the clock can change a verdict (a duration that has passed): look this often.
STALE_NS: Final = 2 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The latest verdict on an experiment, as it was reached, and what holds a ramp or the next step."""

    document: dict[str, Any]
    evidence: Evidence
    waiting_for: str


class Watch:
    """Looks, and acts. One thread calls `look`; any may read `seen`."""

    def __init__(
        self,
        control: Control,
        promotion: Promotion,
        *,
        judge: Callable[..., Verdict] = conclude,
        revision: Callable[[], int] | None = None,
    ) -> None:
        self._control = control
        self._promotion = promotion
        self._judge = judge
        self._revision = revision
        self._looked: dict[str, tuple[int | None, Experiment, int]] = {}
        self._seen: dict[str, Seen] = {}
        self._kept: dict[str, tuple[int, str]] = {}
        self._unkept: dict[str, Verdict] = {}
        self._told: dict[str, str] = {}

    def seen(self, experiment: str) -> Seen | None:
        """What was last seen of an experiment since the controller started."""
        return self._seen.get(experiment)

    def look(self) -> None:
        """Judge and act on every experiment whose candidate has traffic; keep the last word on the others."""
        for experiment in self._control.junction.experiments():
            if not experiment.has_traffic and experiment.name in self._unkept:
                self._save(self._unkept[experiment.name])  # somebody ended it between two looks to be kept
            if experiment.has_traffic and self._news(experiment):
                try:
                    self._look_at(experiment)
                    self._told.pop(experiment.name, None)
                except (*SETBACKS, LookupError, NotImplementedError) as error:
                    self._tell(experiment.name, f"{type(error).__name__}: {error}")

    def _news(self, experiment: Experiment) -> bool:
        """Whether a look can show anything else than the last one: new rows, another phase, or time."""
        revision = self._revision() if self._revision else None
        now_ns = self._control.junction.now_ns()
        known, there, at_ns = self._looked.get(experiment.name, (None, None, 0))
        if known is not None and known == revision and there is experiment and now_ns - at_ns < STALE_NS:
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
        spec = analysis_of(
            experiment.spec,
            control_version=experiment.control_version,
            candidate_version=experiment.candidate_version,
        )
        golden = experiment.spec.golden
        evidence = gather(store, spec, as_of_ns=now_ns, golden_set=golden.set if golden else None)
        verdict = self._judge(spec, evidence, past_looks=trials.past_looks(store, experiment.name))
        if experiment.state == "concluded" and verdict.kind not in ("roll_back", "invalid"):
            # `ship` was said with all of alpha spent: a later look can find harm, but says nothing new about
            # shipping, and must not stand in the records as the verdict that the operator acts on.
            return
        document = verdict.document()
        findings = Findings(
            kind=verdict.kind,
            label=verdict.sentence or verdict.label,
            phase_units=trials.candidate_units(store, experiment.name, experiment.phase.number),
            guardrails={
                metric["metric"]: metric["state"]
                for metric in document["metrics"]
                if metric["role"] == "guardrail"
            },
        )
        response = respond(experiment, findings, now_ns)
        self._keep(experiment, verdict, document, acts=response.action != "none")
        self._seen[experiment.name] = Seen(document=document, evidence=evidence, waiting_for=response.reason)
        author = Author(actor=CONTROLLER, reason=response.reason)
        backing = Backing(kind=verdict.kind, digest=document["digest"], experiment=experiment.name)
        match response.action:
            case "roll_back":
                self._control.take_away(experiment.name, "roll_back", "rollback", author, backing)
            case "advance":
                self._control.ramp(experiment.name, response.weight_ppm, author, backing)
            case "conclude":
                self._control.conclude(experiment.name, author, backing)
            case "promote":
                self._promote(experiment, author, backing)
            case "none":
                return
        log.info("experiment %s: %s: %s", experiment.name, response.action, response.reason)

    def _promote(self, experiment: Experiment, author: Author, backing: Backing) -> None:
        """Promote what was found better. Where production has moved meanwhile, a person must look at it."""
        model = self._control.junction.model(experiment.model)
        if model.production != experiment.control_version:
            self._control.conclude(experiment.name, author, backing)
            raise Conflict(
                f"version {experiment.candidate_version} is better than version "
                f"{experiment.control_version}, but production is version {model.production}: not promoted"
            )
        self._promotion.promote(experiment.model, experiment.candidate_version, author, backing=backing)

    def _keep(
        self, experiment: Experiment, verdict: Verdict, document: dict[str, Any], *, acts: bool
    ) -> None:
        """Store the look if it is scheduled, is acted on, says something new, or is due for the band."""
        at_ns, kind = self._kept.get(experiment.name, (0, ""))
        due = verdict.as_of_ns - at_ns >= KEEP_EVERY_NS
        self._unkept[experiment.name] = verdict
        if verdict.look.scheduled or acts or due or kind != verdict.kind:
            self._save(verdict)

    def _save(self, verdict: Verdict) -> None:
        self._control.store.write(lambda connection: trials.save_look(connection, verdict))
        self._kept[verdict.experiment] = (verdict.as_of_ns, verdict.kind)
        self._unkept.pop(verdict.experiment, None)
