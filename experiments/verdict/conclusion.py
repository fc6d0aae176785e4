"""What follows from the evidence? One pure function, `conclude`: no I/O, no clock, no state.

The same spec, evidence and past looks give the same bytes, here and elsewhere: a verdict can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from ..accounting import Accounting, accounting_of
from ..decision import VerdictKind
from ..evidence import (
    NOTHING,
    AnalysisSpec,
    Cut,
    Evidence,
    Goal,
    Golden,
    Look,
)
from ..figures import percent
from .comparison import candidate_shares
from .looks import LookState
from .reasons import differing_turns, open_windows, refused_copies, unrecorded
from .scorecard import Comparison, MetricResult
from .shipping import LABELS, days_left, progress
from .turns import TurnResult
from .validity import VALIDITY_THRESHOLD, SampleRatio, changed_instruments
from .weighing import Case, Reason, described, plural, version_names, weigh


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
    exhausted: bool = False
    accounting: Accounting | None = None
    #: Each goal on first and on later turns, where there are later ones.
    turns: tuple[TurnResult, ...] = ()

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


def conclude(spec: AnalysisSpec, evidence: Evidence, *, past_looks: tuple[Look, ...] = ()) -> Verdict:
    """The verdict on an experiment. Never raises, whatever finite or non-finite sums the evidence holds.

    The order of precedence is that of the reasons: validity, harm, shipping (at scheduled looks and at the
    end only), the end without a result, going on. Roll-back is judged at every call: its e-processes allow
    it. `past_looks` are the scheduled looks taken before, oldest first.
    """
    case = weigh(spec, evidence, past_looks)
    invalid, harmed = _validity(case), _harm(case)
    kind: VerdictKind = "keep_running"
    label, reasons = LABELS["keep_running"], [*invalid, *harmed]
    if invalid:
        kind, label = "invalid", LABELS["invalid"]
    elif harmed:
        kind, label = "roll_back", LABELS["roll_back"]
    else:
        kind, label, more = progress(case)
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
        days_left=days_left(case) if kind == "keep_running" else None,
        as_of_ns=evidence.as_of_ns,
        cut=evidence.cut,
        recorded=evidence.recorded,
        lost=evidence.lost,
        golden=evidence.golden,
        exhausted=evidence.exhausted,
        accounting=accounting_of(evidence.accounts, lost=evidence.lost, not_copied=evidence.not_copied),
        turns=case.turns,
    )


def _validity(case: Case) -> list[Reason]:
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
                text=f"{both:,} of {units:,} {plural(case.spec.unit, units)} were seen in two arms of one "
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


def _harm(case: Case) -> list[Reason]:
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


def _harm_text(case: Case, goal: Goal, comparison: Comparison) -> str:
    control, candidate = comparison.arms
    known = version_names(case.spec)
    counted = f"after {candidate.units:,} {plural(case.spec.unit, candidate.units)} on the candidate"
    zero, one = control.value or 0.0, candidate.value or 0.0
    if goal.metric.kind == "binary":
        ratio = f"rate ratio {one / zero:.1f}" if zero > 0.0 else "none at all in control"
        verb = "fails" if goal.metric.name == "error_rate" else f"has {goal.metric.title}"
        whom = plural(case.spec.unit, 2)
        return (
            f"Candidate {known[1]} {verb} more often than {known[0]}: {percent(one)} against "
            f"{percent(zero)} of {whom} ({ratio}, tolerated {goal.tolerated_ratio:g}), {counted}."
        )
    what = described(case, goal)
    return f"Candidate {known[1]} is worse than {known[0]} beyond the margin: {what}, {counted}."


def _warnings(case: Case, kind: VerdictKind) -> list[Reason]:
    """What a reader should know, whatever the verdict."""
    found = [*unrecorded(case.evidence), *refused_copies(case.evidence)]
    found += open_windows(case.spec, case.evidence)
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
    found += differing_turns(case.turns, told_opposed=case.look.scheduled)
    if kind in ("ship", "roll_back") and not case.look.final:
        found.append(
            Reason(
                code="early_look",
                severity="note",
                text="Estimates at an early stop overstate the effect: read the interval.",
            )
        )
    return found


def _sentence(case: Case, kind: VerdictKind, label: str, reasons: Sequence[Reason]) -> str:
    control, candidate = version_names(case.spec)
    units = f"{case.look.units:,} {plural(case.spec.unit, case.look.units)}"
    if kind in ("invalid", "roll_back"):
        return reasons[0].text
    if kind == "ship":
        better = [reason.text for reason in reasons if reason.code == "success"]
        what = better[0] if better else "No guardrail is harmed beyond its margin."
        where = "may go on to real traffic" if case.spec.mode == "shadow" else f"can replace {control}"
        return f"Candidate {candidate} {where}, after {units}. {what}"
    held = "".join(f" {reason.text}" for reason in refused_copies(case.evidence))
    if kind == "inconclusive":
        return f"{label} after {units}: keep {control}. {reasons[0].text}{held}"
    if case.look.units == 0:
        return f"No data yet: keep running.{held}"
    return f"Nothing is decided after {units} of {case.spec.horizon:,}: keep running."
