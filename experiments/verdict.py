"""What follows from the evidence? One pure function, `conclude`: no I/O, no clock, no state.

The same spec, evidence and past looks give the same bytes, here and elsewhere: a verdict can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final, Literal

import orjson

from .comparison import candidate_shares, compare
from .evidence import (
    NOTHING,
    AnalysisSpec,
    ArmCount,
    Cut,
    Evidence,
    Goal,
    Golden,
    Look,
    MetricSums,
    Mode,
    Overlap,
    PairSums,
    Role,
)
from .looks import LookState, look_state, look_taken
from .scorecard import Comparison, MetricResult, card, percent
from .statistics.estimate import quantile
from .validity import VALIDITY_THRESHOLD, SampleRatio, changed_instruments, sample_ratio_of

__all__ = [
    "AnalysisSpec",
    "ArmCount",
    "Evidence",
    "Goal",
    "Look",
    "LookState",
    "MetricSums",
    "Mode",
    "Overlap",
    "PairSums",
    "Reason",
    "Role",
    "SampleRatio",
    "Verdict",
    "VerdictKind",
    "conclude",
    "look_taken",
]

VerdictKind = Literal["invalid", "roll_back", "ship", "keep_running", "inconclusive"]
Severity = Literal["block", "warn", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why, in a code for scripts and a sentence for people."""

    code: str
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the statistics say, why, and the numbers behind it. Everything is in JSON's terms."""

    experiment: str
    kind: VerdictKind
    label: str
    sentence: str
    reasons: tuple[Reason, ...]
    metrics: tuple[MetricResult, ...]
    srm: SampleRatio
    look: LookState
    units: int
    horizon: int
    days_left: float | None
    as_of_ns: int
    #: How far into the ledger it looked, and what else it was told: enough to gather the evidence again.
    cut: Cut = NOTHING
    recorded: int = 0
    lost: int = 0
    golden: Golden | None = None

    def document(self) -> dict[str, Any]:
        """The verdict as the control API shows it, with its own digest."""
        body = asdict(self)
        return {**body, "digest": sha256(_bytes(body)).hexdigest()}

    def to_json(self) -> bytes:
        """`document` as bytes: sorted keys, so the same verdict is the same bytes."""
        return _bytes(self.document())

    def digest(self) -> str:
        """SHA-256 (hex) of the verdict without this very field."""
        return sha256(_bytes(asdict(self))).hexdigest()


def _bytes(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


#: More of the units than this in two arms of one phase, and the assignment is not what it should be.
CROSSOVER_LIMIT: Final = 0.01
_LABELS: Final = {
    "invalid": "Invalid",
    "roll_back": "Roll back",
    "ship": "Ship",
    "keep_running": "Keep running",
    "inconclusive": "Inconclusive",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """All that the rule weighs, computed once."""

    spec: AnalysisSpec
    evidence: Evidence
    found: tuple[tuple[Goal, Comparison], ...]
    cards: tuple[MetricResult, ...]
    srm: SampleRatio
    look: LookState
    #: What z must pass for a guardrail at this look; infinite between looks.
    guardrail_bound: float

    def of(self, role: Role) -> list[tuple[Goal, Comparison]]:
        return [(goal, comparison) for goal, comparison in self.found if goal.role == role]

    @property
    def elapsed_s(self) -> float:
        return max(0.0, (self.evidence.as_of_ns - self.evidence.started_ns) / 1e9)


def conclude(spec: AnalysisSpec, evidence: Evidence, *, past_looks: tuple[Look, ...] = ()) -> Verdict:
    """The verdict on an experiment. Never raises, whatever finite or non-finite sums the evidence holds.

    The order of precedence is that of the reasons: validity, harm, shipping (at scheduled looks and at the
    end only), the end without a result, going on. Roll-back is judged at every call: its e-processes allow
    it. `past_looks` are the scheduled looks taken before, oldest first.
    """
    case = _weigh(spec, evidence, past_looks)
    invalid, harmed = _validity(case), _harm(case)
    kind: VerdictKind = "keep_running"
    label, reasons = _LABELS["keep_running"], [*invalid, *harmed]
    if invalid:
        kind, label = "invalid", _LABELS["invalid"]
    elif harmed:
        kind, label = "roll_back", _LABELS["roll_back"]
    else:
        kind, label, more = _progress(case)
        reasons += more
    return Verdict(
        experiment=spec.experiment,
        kind=kind,
        label=label,
        sentence=_sentence(case, kind, label, reasons),
        reasons=(*reasons, *_warnings(case, kind)),
        metrics=case.cards,
        srm=case.srm,
        look=case.look,
        units=case.look.units,
        horizon=spec.horizon,
        days_left=_days_left(case) if kind == "keep_running" else None,
        as_of_ns=evidence.as_of_ns,
        cut=evidence.cut,
        recorded=evidence.recorded,
        lost=evidence.lost,
        golden=evidence.golden,
    )


def _weigh(spec: AnalysisSpec, evidence: Evidence, past_looks: tuple[Look, ...]) -> _Case:
    guardrails = max(1, len(spec.named("guardrail")))
    harm_alpha = spec.rollback_alpha / guardrails
    found = tuple((goal, compare(spec, evidence, goal, harm_alpha=harm_alpha)) for goal in spec.goals)
    look, guardrail_bound = look_state(spec, evidence, past_looks)
    # Between looks nothing is called better: the fixed-look level is for the eye, and exploratory.
    eye = quantile(1.0 - spec.alpha / 2.0)
    cards = tuple(
        card(
            goal,
            comparison,
            unit=spec.unit,
            log_threshold=-math.log(harm_alpha) if goal.role == "guardrail" else None,
            z_bound=(look.z_bound or math.inf) if goal.role == "success" else eye,
            instrument=next(
                (
                    one.version
                    for one in evidence.instruments
                    if one.counted and one.metric == goal.metric.name
                ),
                None,
            ),
        )
        for goal, comparison in found
    )
    return _Case(
        spec=spec,
        evidence=evidence,
        found=found,
        cards=cards,
        srm=sample_ratio_of(spec, evidence),
        look=look,
        guardrail_bound=guardrail_bound,
    )


def _validity(case: _Case) -> list[Reason]:
    """What makes every other number worthless."""
    found = []
    if case.srm.state == "crossed":
        shares = ", ".join(
            f"{arm} has {case.srm.observed[arm]:,} (expected share {percent(share)})"
            for arm, share in sorted(case.srm.expected.items())
        )
        found.append(
            Reason(
                code="sample_ratio_mismatch",
                severity="block",
                text=f"The arms do not have the units that their weights give them: {shares}. "
                "Something drops or moves units of one arm; no comparison holds until it is found.",
            )
        )
    both, units = case.evidence.units_in_two_arms, case.look.units
    if units and both > CROSSOVER_LIMIT * units:
        found.append(
            Reason(
                code="units_in_two_arms",
                severity="block",
                text=f"{both:,} of {units:,} {_plural(case.spec.unit, units)} were seen in two arms of one "
                "phase, more than 1 %: the assignment is not sticky.",
            )
        )
    found += [
        Reason(code="judge_changed", severity="block", text=text)
        for text, decisive in changed_instruments(case.spec, case.evidence)
        if decisive
    ]
    for goal, comparison in case.found:
        if goal.role != "exploratory" and comparison.missing_log_e >= math.log(VALIDITY_THRESHOLD):
            control, candidate = comparison.arms
            found.append(
                Reason(
                    code="missing_differs",
                    severity="block",
                    text=f"{goal.metric.title}: values are missing more often in one arm (candidate "
                    f"{candidate.missing:,}, control {control.missing:,}): the rest is no fair sample.",
                )
            )
    return found


def _harm(case: _Case) -> list[Reason]:
    """The guardrails that were crossed, the surest first."""
    crossed = [
        (result.log_e or 0.0, goal, comparison)
        for (goal, comparison), result in zip(case.found, case.cards, strict=True)
        if result.state == "crossed"
    ]
    return [
        Reason(code="guardrail_crossed", severity="block", text=_harm_text(case, goal, comparison))
        for _, goal, comparison in sorted(crossed, key=lambda one: -one[0])
    ]


def _harm_text(case: _Case, goal: Goal, comparison: Comparison) -> str:
    control, candidate = comparison.arms
    names = _names(case.spec)
    counted = f"after {candidate.units:,} {_plural(case.spec.unit, candidate.units)} on the candidate"
    zero, one = control.value or 0.0, candidate.value or 0.0
    if goal.metric.kind == "binary":
        ratio = f"rate ratio {one / zero:.1f}" if zero > 0.0 else "none at all in control"
        verb = "fails" if goal.metric.name == "error_rate" else f"has {goal.metric.title}"
        whom = _plural(case.spec.unit, 2)
        return (
            f"Candidate {names[1]} {verb} more often than {names[0]}: {percent(one)} against "
            f"{percent(zero)} of {whom} ({ratio}, tolerated {goal.tolerated_ratio:g}), {counted}."
        )
    what = _described(case, goal)
    return f"Candidate {names[1]} is worse than {names[0]} beyond the margin: {what}, {counted}."


def _progress(case: _Case) -> tuple[VerdictKind, str, list[Reason]]:
    """Neither invalid nor harmful: ship, end without a result, or go on."""
    blocking = _blocking(case)
    if case.look.scheduled and not blocking:
        return "ship", _LABELS["ship"], _grounds(case)
    if case.look.final:
        sub = _sublabel(case)
        return (
            "inconclusive",
            f"{_LABELS['inconclusive']}: {sub.replace('_', ' ')}",
            [
                Reason(code=sub, severity="warn", text=_END_TEXTS[sub]),
                *blocking,
            ],
        )
    if case.look.scheduled:
        return "keep_running", _LABELS["keep_running"], blocking
    waiting = Reason(
        code="next_look",
        severity="note",
        text=f"The next look is at {_next_look(case):,} of {case.spec.horizon:,} units; "
        f"there are {case.look.units:,}.",
    )
    return "keep_running", _LABELS["keep_running"], [waiting]


_END_TEXTS: Final = {
    "nothing_declared": "Neither a success metric nor a guardrail is declared: there is nothing to ship on.",
    "no_data": "The experiment ended without data from both arms.",
    "mixed": "Some metrics speak for the candidate, others against it.",
    "worse": "The candidate is worse on a success metric.",
    "underpowered": "The interval of a metric is wider than its margin: there was too little data to say.",
    "equivalent": "The arms are the same within every margin: there is no gain that would justify a change.",
    "no_improvement": "No success metric improved beyond what luck explains.",
    "not_shown_safe": "A guardrail was not shown to be within its margin.",
}


def _blocking(case: _Case) -> list[Reason]:
    """Everything that stands against shipping at this look, most severe first."""
    found = []
    golden = case.evidence.golden
    if golden == "fail" or (case.spec.golden_required and golden != "pass"):
        state = {"fail": "failed", "inconclusive": "is inconclusive", None: "has not run"}[golden]
        found.append(Reason(code="golden_not_passed", severity="block", text=f"The golden set {state}."))
    for goal, comparison in case.of("guardrail"):
        z = comparison.z_noninferior
        if z is None or z < case.guardrail_bound:
            found.append(
                Reason(
                    code="guardrail_not_shown_safe",
                    severity="block",
                    text=f"Not yet shown to be within the margin: {_described(case, goal)}.",
                )
            )
    bound = case.look.z_bound or math.inf
    success = case.of("success")
    if success and not any((comparison.z_better or 0.0) >= bound for _, comparison in success):
        found.append(
            Reason(
                code="no_success_yet",
                severity="block",
                text="No success metric has crossed its bound: "
                + "; ".join(_described(case, goal) for goal, _ in success)
                + ".",
            )
        )
    if not success and not case.of("guardrail"):
        found.append(Reason(code="nothing_declared", severity="block", text=_END_TEXTS["nothing_declared"]))
    return found


def _grounds(case: _Case) -> list[Reason]:
    bound = case.look.z_bound or math.inf
    better = [
        Reason(code="success", severity="note", text=f"Better: {_described(case, goal)}.")
        for goal, comparison in case.of("success")
        if (comparison.z_better or 0.0) >= bound
    ]
    safe = [
        Reason(code="guardrail_safe", severity="note", text=f"Within its margin: {_described(case, goal)}.")
        for goal, _ in case.of("guardrail")
    ]
    return better + safe


def _sublabel(case: _Case) -> str:
    """What an end without a result is called."""
    decisive = [one for one in case.found if one[0].role != "exploratory"]
    if not decisive:
        return "nothing_declared"
    if any(comparison.effect is None for _, comparison in decisive):
        return "no_data"
    bound = case.look.z_bound or quantile(1.0 - case.spec.alpha / 2.0)
    zs = [comparison.z_better or 0.0 for _, comparison in case.of("success")]
    unsafe = [c for _, c in case.of("guardrail") if (c.z_noninferior or 0.0) < case.guardrail_bound]
    if any(z >= bound for z in zs) and (unsafe or any(z <= -bound for z in zs)):
        return "mixed"
    if any(z <= -bound for z in zs):
        return "worse"
    if any(_wider_than_margin(comparison) for comparison in unsafe):
        return "underpowered"
    if all(_within_margin(comparison) for _, comparison in decisive):
        return "equivalent"
    return "no_improvement" if case.of("success") else "not_shown_safe"


def _margin_width(comparison: Comparison) -> tuple[float, float, float] | None:
    """The effect's interval and margin as distances from the null."""
    effect, margin = comparison.effect, comparison.margin
    if effect is None or margin is None:
        return None
    return effect.lower - effect.null, effect.upper - effect.null, abs(margin - effect.null)


def _wider_than_margin(comparison: Comparison) -> bool:
    found = _margin_width(comparison)
    return found is None or (found[1] - found[0]) / 2.0 > found[2]


def _within_margin(comparison: Comparison) -> bool:
    found = _margin_width(comparison)
    return found is not None and -found[2] < found[0] and found[1] < found[2]


def _warnings(case: _Case, kind: VerdictKind) -> list[Reason]:
    """What a reader should know, whatever the verdict."""
    found = []
    recorded, lost = case.evidence.recorded, case.evidence.lost
    if lost:
        share = lost / max(1, recorded + lost)
        severity: Severity = "warn" if share > 0.01 else "note"
        found.append(
            Reason(
                code="records_lost",
                severity=severity,
                text=f"{lost:,} exchanges could not be recorded ({percent(share)}).",
            )
        )
    missing_share = case.spec.mode != "shadow" and not candidate_shares(case.spec, case.evidence)
    if missing_share and case.look.units:
        found.append(
            Reason(
                code="no_share",
                severity="warn",
                text="No phase has traffic in both arms: failures cannot be compared.",
            )
        )
    found += [
        Reason(code="judge_changed", severity="warn", text=text)
        for text, decisive in changed_instruments(case.spec, case.evidence)
        if not decisive
    ]
    if kind in ("ship", "roll_back") and not case.look.final:
        found.append(
            Reason(
                code="early_look",
                severity="note",
                text="Estimates at an early stop overstate the effect: read the interval.",
            )
        )
    return found


def _next_look(case: _Case) -> int:
    step = min(case.look.planned, case.look.done + 1)
    return -(-case.spec.horizon * step // case.look.planned)


def _days_left(case: _Case) -> float | None:
    """Until the horizon at the rate so far, or until the longest duration; None before the first unit."""
    if case.look.units <= 0 or case.elapsed_s <= 0.0:
        return None
    needed = max(0, case.spec.horizon - case.look.units) / (case.look.units / case.elapsed_s)
    needed = max(needed, case.spec.min_duration_s - case.elapsed_s)
    return max(0.0, min(needed, case.spec.max_duration_s - case.elapsed_s)) / 86_400.0


def _described(case: _Case, goal: Goal) -> str:
    return next(
        result.text for (other, _), result in zip(case.found, case.cards, strict=True) if other is goal
    )


def _names(spec: AnalysisSpec) -> tuple[str, str]:
    control = "control" if spec.control_version is None else f"v{spec.control_version}"
    candidate = "" if spec.candidate_version is None else f"v{spec.candidate_version}"
    return control, candidate or "(unversioned)"


def _plural(unit: str, n: int) -> str:
    word = unit if unit in ("user", "session", "tenant", "request") else "unit"
    return word if n == 1 else f"{word}s"


def _sentence(case: _Case, kind: VerdictKind, label: str, reasons: Sequence[Reason]) -> str:
    control, candidate = _names(case.spec)
    units = f"{case.look.units:,} {_plural(case.spec.unit, case.look.units)}"
    if kind in ("invalid", "roll_back"):
        return reasons[0].text
    if kind == "ship":
        better = [reason.text for reason in reasons if reason.code == "success"]
        what = better[0] if better else "No guardrail is harmed beyond its margin."
        where = "may go on to real traffic" if case.spec.mode == "shadow" else f"can replace {control}"
        return f"Candidate {candidate} {where}, after {units}. {what}"
    if kind == "inconclusive":
        return f"{label} after {units}: keep {control}. {reasons[0].text}"
    if case.look.units == 0:
        return "No data yet: keep running."
    return f"Nothing is decided after {units} of {case.spec.horizon:,}: keep running."
