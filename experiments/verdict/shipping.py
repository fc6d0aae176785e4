"""May the candidate ship at this look, what stands against it, and how long will it take?

Pure, and only where nothing is invalid and nothing harmed: those come first, in `verdict`.
"""

from __future__ import annotations

import math
from typing import Final

from ..decision import VerdictKind
from ..evidence import Goal
from ..quantities import duration_text
from ..statistics.estimate import quantile
from ..statistics.planning import allocate_risks
from .reasons import opposed_turns
from .scorecard import Comparison
from .weighing import Case, Reason, described

LABELS: Final = {
    "invalid": "Invalid",
    "roll_back": "Roll back",
    "ship": "Ship",
    "keep_running": "Keep running",
    "inconclusive": "Inconclusive",
}


def progress(case: Case) -> tuple[VerdictKind, str, list[Reason]]:
    """Neither invalid nor harmful: ship, end without a result, or go on."""
    blocking = _blocking(case)
    if case.look.scheduled and not blocking:
        return "ship", LABELS["ship"], _grounds(case)
    if case.look.final:
        sub = _sublabel(case)
        return (
            "inconclusive",
            f"{LABELS['inconclusive']}: {sub.replace('_', ' ')}",
            [
                Reason(code=sub, severity="warn", text=_END_TEXTS[sub]),
                *blocking,
            ],
        )
    if case.look.scheduled:
        return "keep_running", LABELS["keep_running"], blocking
    waiting = Reason(code="next_look", severity="note", text=f"The next look is {_when(case)}.")
    return "keep_running", LABELS["keep_running"], [waiting]


def _when(case: Case) -> str:
    """When the next look is; where its units have come already, what it waits for."""
    spec, units = case.spec, case.look.units
    if spec.recorded and units >= spec.horizon:
        return "at the end of the replay: all units have a pair, and some will have more"
    if units >= _next_look(case) and case.elapsed_s < spec.min_duration_s:
        return f"{duration_text(spec.min_duration_s)} after the begin (min_duration); its units have come"
    if units >= _next_look(case) and spec.mode == "canary":
        return "at the last step of the ramp; its units have come"
    return f"at {_next_look(case):,} of {spec.horizon:,} units; there are {units:,}"


_END_TEXTS: Final = {
    "nothing_declared": "Neither a success metric nor a guardrail is declared: there is nothing to ship on.",
    "no_data": "The experiment ended without data from both arms.",
    "no_interval": "A metric that decides has no interval: it never varies, or too few units have it.",
    "mixed": "Some metrics speak for the candidate, others against it.",
    "worse": "The candidate is worse on a success metric.",
    "underpowered": "The interval of a metric is wider than its margin: there was too little data to say.",
    "equivalent": "The arms are the same within every margin: there is no gain that would justify a change.",
    "no_improvement": "No success metric improved beyond what luck explains.",
    "not_shown_safe": "A guardrail was not shown to be within its margin.",
}


def _blocking(case: Case) -> list[Reason]:
    """Everything that stands against shipping at this look, most severe first."""
    found = []
    golden = case.evidence.golden
    if golden == "fail" or (case.spec.golden_required and golden != "pass"):
        state = {"fail": "failed", "inconclusive": "is inconclusive", None: "has not run"}[golden]
        found.append(Reason(code="golden_not_passed", severity="block", text=f"The golden set {state}."))
    for goal, comparison in case.of("guardrail"):
        z = comparison.z_noninferior
        if z is None or z < case.margin_bounds[goal.metric.name]:
            found.append(
                Reason(
                    code="guardrail_not_shown_safe",
                    severity="block",
                    text=f"Not yet shown to be within the margin: {described(case, goal)}.",
                )
            )
    found += opposed_turns(case.turns)
    success = case.of("success")
    if success and not case.crossed:
        found.append(
            Reason(
                code="no_success_yet",
                severity="block",
                text="No success metric has crossed its bound: "
                + "; ".join(described(case, goal) for goal, _ in success)
                + ".",
            )
        )
    if not success and not case.of("guardrail"):
        found.append(Reason(code="nothing_declared", severity="block", text=_END_TEXTS["nothing_declared"]))
    return found


def _grounds(case: Case) -> list[Reason]:
    better = [
        Reason(
            code="success",
            severity="note",
            text=f"{'The same within its margin' if goal.equivalent else 'Better'}: {described(case, goal)}.",
        )
        for goal, _ in case.of("success")
        if goal.metric.name in case.crossed
    ]
    safe = [
        Reason(code="guardrail_safe", severity="note", text=f"Within its margin: {described(case, goal)}.")
        for goal, _ in case.of("guardrail")
    ]
    return better + safe


def _sublabel(case: Case) -> str:
    """What an end without a result is called."""
    decisive = [one for one in case.found if one[0].role != "exploratory"]
    if not decisive:
        return "nothing_declared"
    if any(arm.n == 0 for _, comparison in decisive for arm in comparison.arms):
        return "no_data"
    if any(comparison.effect is None for _, comparison in decisive):
        return "no_interval"
    bound = case.look.z_bound or quantile(1.0 - case.spec.alpha / 2.0)
    zs = [comparison.z_better or 0.0 for _, comparison in case.of("success")]
    unsafe = [
        comparison
        for goal, comparison in case.of("guardrail")
        if (comparison.z_noninferior or 0.0) < case.margin_bounds[goal.metric.name]
    ]
    if case.crossed and (unsafe or any(z <= -bound for z in zs)):
        return "mixed"
    if any(z <= -bound for z in zs):
        return "worse"
    if any(_wider_than_margin(comparison) for comparison in unsafe):
        return "underpowered"
    if all(_within_margin(case, goal, comparison) for goal, comparison in decisive):
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


def _within_margin(case: Case, goal: Goal, comparison: Comparison) -> bool:
    """Two one-sided tests (TOST) against the margin on either side, each at alpha."""
    return (comparison.z_equivalent or -math.inf) >= case.margin_bounds[goal.metric.name]


def _next_look(case: Case) -> int:
    step = min(case.look.planned, case.look.done + 1)
    return -(-case.spec.horizon * step // case.look.planned)


def days_left(case: Case) -> float | None:
    """Until a decision may be expected, at the rate so far; None before the first unit.

    That is the look by which every goal has the units that it still needs: from its standard error now, for
    its `mde` (or, of a guardrail, for showing a harmless candidate to be within its margin) to be found with
    the power asked for. At most until the horizon, or the longest duration.
    """
    if case.look.units <= 0 or case.elapsed_s <= 0.0:
        return None
    looks = math.ceil(min(1.0, _units_needed(case) / case.spec.horizon) * case.look.planned - 1e-9)
    reached = case.spec.horizon * max(looks, case.look.done + 1) / case.look.planned
    units = min(float(case.spec.horizon), reached)
    needed = max(0.0, units - case.look.units) / (case.look.units / case.elapsed_s)
    needed = max(needed, case.spec.min_duration_s - case.elapsed_s)
    return max(0.0, min(needed, case.spec.max_duration_s - case.elapsed_s)) / 86_400.0


def _units_needed(case: Case) -> float:
    """Units after which every goal that decides can be expected to; the horizon where that cannot be told."""
    success, guardrails = case.spec.named("success"), case.spec.named("guardrail")
    risks = allocate_risks(len(success), len(guardrails), alpha=case.spec.alpha, power=case.spec.power)
    needed = 0.0
    for goal, comparison in case.found:
        if goal.role == "exploratory" or goal.metric.name in case.crossed:
            continue
        one_sided = goal.role == "guardrail" or goal.equivalent
        alpha = risks.alpha_guardrail if goal.role == "guardrail" else risks.alpha_success
        distance = _distance(goal, comparison, one_sided)
        se = _standard_error(comparison)
        if distance is None or se is None:
            return float(case.spec.horizon)
        z = quantile(1.0 - alpha / (1 if one_sided else 2)) + quantile(risks.power)
        needed = max(needed, case.look.units * (z * se / distance) ** 2)
    return needed


def _distance(goal: Goal, comparison: Comparison, to_margin: bool) -> float | None:
    """What must be told from nothing, on the effect's scale (of a ratio: its logarithm)."""
    effect, control = comparison.effect, comparison.arms[0].value
    if effect is None:
        return None
    ratio = effect.scale == "ratio"
    if to_margin:
        if comparison.margin is None:
            return None
        found = math.log(comparison.margin) if ratio and comparison.margin > 0.0 else comparison.margin
    elif goal.mde is None:
        return None
    else:
        found = math.log1p(goal.mde) if ratio else goal.mde * (control or 0.0)
    return abs(found) or None


def _standard_error(comparison: Comparison) -> float | None:
    effect = comparison.effect
    if effect is None or (effect.scale == "ratio" and effect.lower <= 0.0):
        return None
    ends = (effect.lower, effect.upper)
    low, high = map(math.log, ends) if effect.scale == "ratio" else ends
    return (high - low) / (2.0 * quantile((1.0 + effect.level) / 2.0))
