"""What follows from the evidence, without anybody asking?

Pure: an experiment as it stands and what was found out, in; one step, out, with its reason in words for the
audit row. Statistics are `verdict`'s, carrying a step out is `watch`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ..decision import VerdictKind
from ..lifecycle import Experiment, next_step
from ..quantities import duration_text
from ..spec import CanaryTraffic, Policies, Policy

Step = Literal[
    "none", "advance", "stage", "admit", "invalidate", "revalidate",
    "roll_back", "conclude", "keep", "promote",
]  # fmt: skip

#: Which policy of the experiment's file answers for a verdict's reason.
_POLICY_OF: Final[Mapping[str, str]] = {
    "sample_ratio_mismatch": "sample_ratio",
    "units_in_two_arms": "sample_ratio",
    "missing_differs": "missing_outcomes",
    "judge_changed": "judge_changed",
    "no_traffic": "no_traffic",
}
_STRICTEST: Final[Mapping[Policy, int]] = {"warn": 0, "hold": 1, "roll_back": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a response is decided on.

    `phase_units` are the candidate's units in the present phase, `guardrails` the state of each, `troubles`
    the codes of what makes the evidence unusable (an invalid verdict's reasons, `no_traffic`). `over`: the
    time or the units are used up.
    """

    kind: VerdictKind
    label: str
    phase_units: int
    guardrails: Mapping[str, str]
    troubles: tuple[str, ...] = ()
    over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the controller does next, and why, in words for the audit row."""

    action: Step
    reason: str
    weight_ppm: int = 0


def respond(experiment: Experiment, findings: Findings, now_ns: int) -> Response:
    """What follows from the evidence (docs/reference/experiments.md, Verdicts). Only an experiment whose
    candidate has traffic is acted on; where a `ship` waits for its operator, only a rollback is left.
    """
    if not experiment.has_traffic:
        return Response(action="none", reason=f"the experiment is {experiment.state_text}")
    crossed = sorted(metric for metric, state in findings.guardrails.items() if state == "crossed")
    if findings.kind == "roll_back":
        return Response(action="roll_back", reason=findings.label)
    if findings.kind == "invalid" and crossed:
        # An invalid comparison proves nothing about harm; leaving users with what looks harmful is worse.
        return Response(
            action="roll_back", reason=f"{findings.label} To be safe: {', '.join(crossed)} crossed."
        )
    policy = policy_for(experiment.spec.policies, findings)
    if policy == "roll_back":
        return Response(action="roll_back", reason=f"{findings.label} The policy is to roll back.")
    if experiment.state == "concluded":
        return Response(action="none", reason=findings.label)
    if findings.over and findings.kind in ("invalid", "inconclusive"):
        return Response(action="keep", reason=findings.label)
    if policy == "hold":
        action: Step = "none" if experiment.state == "invalid" else "invalidate"
        return Response(action=action, reason=findings.label)
    if experiment.state == "invalid":
        return Response(action="revalidate", reason=findings.label)
    return _usable(experiment, findings, now_ns)


def _usable(experiment: Experiment, findings: Findings, now_ns: int) -> Response:
    """The evidence can be used, or the policy is to warn and go on (an invalid verdict never ships)."""
    if findings.kind == "ship":
        following = experiment.next_stage
        if following is not None:
            return Response(
                action="stage",
                reason=f"{experiment.stage.mode} passed, {following.mode} begins. {findings.label}",
            )
        # A shadow's answers were seen by nobody: it passes on to real traffic, not to production.
        promotes = experiment.spec.on_ship == "promote" and experiment.routes
        return Response(action="promote" if promotes else "conclude", reason=findings.label)
    if findings.kind == "inconclusive":
        return Response(action="keep", reason=findings.label)
    return ramp(experiment, findings, now_ns)


def policy_for(policies: Policies, findings: Findings) -> Policy | None:
    """The strictest of the policies that apply, None where nothing is wrong with the evidence.

    An invalid verdict for a reason that no policy names is held.
    """
    troubles = findings.troubles or (("unnamed",) if findings.kind == "invalid" else ())
    found: list[Policy] = [
        getattr(policies, _POLICY_OF[code]) if code in _POLICY_OF else "hold" for code in troubles
    ]
    return max(found, key=_STRICTEST.__getitem__, default=None)


def ramp(experiment: Experiment, findings: Findings, now_ns: int) -> Response:
    """Whether a canary may take its next step: enough units, enough time, every guardrail measured and whole.

    A guardrail without figures holds the ramp: no result is a result, and it is not a good one.
    """
    traffic = experiment.stage.traffic
    following = next_step(experiment)
    if not isinstance(traffic, CanaryTraffic) or following is None:
        return Response(action="none", reason=findings.label)
    if findings.phase_units < traffic.min_units:
        return Response(
            action="none", reason=f"{findings.phase_units} of {traffic.min_units} candidate units"
        )
    waited = (now_ns - experiment.phase.started_ns) / 1e9
    if waited <= -1.0:
        ahead = f"this phase began {duration_text(-waited)} from now"
        return Response(action="none", reason=f"the clock has been set back: {ahead}")
    if waited < traffic.min_duration:
        return Response(action="none", reason=f"{waited:.0f} of {traffic.min_duration:.0f} s in this phase")
    held = sorted(m for m, state in findings.guardrails.items() if state not in ("ok", "better"))
    if held:
        return Response(action="none", reason=f"held by {', '.join(held)}")
    if experiment.phase.candidate_ppm in experiment.stage.holds_ppm:
        return Response(action="none", reason=f"waits for `turnout experiment advance {experiment.name}`")
    reason = f"{findings.phase_units} candidate units in phase {experiment.phase.number}, guardrails hold"
    return Response(action="advance", reason=reason, weight_ppm=following)


def admission(experiment: Experiment, golden: str | None, why_not: str | None) -> Response:
    """What follows for an experiment in preflight: `golden` is the newest comparison's verdict, `why_not`
    what else stands against traffic now, None if nothing does.
    """
    gate = experiment.spec.gate
    if gate is not None and golden == "fail":
        return Response(action="keep", reason=f"the golden set {gate.set!r} failed")
    if gate is not None and golden != "pass":
        found = "is inconclusive" if golden else "has not run"
        return Response(action="none", reason=f"the golden set {gate.set!r} {found}")
    if why_not is not None:
        return Response(action="none", reason=why_not)
    passed = f"the golden set {gate.set!r} passed" if gate else "nothing stands against it"
    return Response(action="admit", reason=passed)
