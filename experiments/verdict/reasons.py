"""Which rows are not there, and which turns disagree? Reasons in words.

Pure. What follows from them is `shipping`'s and `verdict`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..evidence import AnalysisSpec, Evidence
from ..figures import percent
from ..ledger.exchange import RATE_LIMITED, UNKEYED
from ..metrics import closed
from .turns import TurnResult
from .weighing import Reason

#: The share of copies that a provider's limit may cost unsaid.
_FEW: Final = 0.05


def unrecorded(evidence: Evidence) -> list[Reason]:
    """Rows that are not there: what workers say that they lost, and gaps in what they have numbered."""
    found = []
    recorded, lost = evidence.recorded, evidence.lost
    if lost:
        share = lost / max(1, recorded + lost)
        found.append(
            Reason(
                code="records_lost",
                severity="warn" if share > 0.01 else "note",
                text=f"{lost:,} exchanges could not be recorded ({percent(share)}).",
            )
        )
    gaps = {account.place: account.missing for account in evidence.accounts if account.missing}
    if gaps:
        where = ", ".join(f"{place.replace('_', ' ')} {missing:,}" for place, missing in sorted(gaps.items()))
        found.append(
            Reason(
                code="rows_missing",
                severity="warn",
                text=f"The accounting does not close: rows that workers have numbered are missing ({where}).",
            )
        )
    return found


def refused_copies(evidence: Evidence) -> list[Reason]:
    """Copies that the candidate's provider or engine did not take for no fault of the candidate's: too many,
    where they are more than a few, so that what is compared is a part; or for want of a key."""
    arms = [account for account in evidence.accounts if account.inside]
    shed = [one for arm in arms for one in arm.shed]
    copies = sum(count for arm in arms for _, count in arm.outcomes)
    limited = sum(count for reason, count in shed if reason == RATE_LIMITED)
    unkeyed = sum(count for reason, count in shed if reason in UNKEYED)
    found = []
    if limited > _FEW * copies:
        text = (
            f"The candidate's provider answered 429 (too many requests): {limited:,} of {copies:,} copies "
            f"({percent(limited / copies)}) are in no comparison. A larger limit there, or a smaller "
            "`share`, brings pairs sooner."
        )
        found.append(Reason(code="copies_rate_limited", severity="warn", text=text))
    if unkeyed:
        text = (
            f"The proxy had no key that the candidate's provider or engine takes for {unkeyed:,} of "
            f"{copies:,} copies, which are in no comparison: put a good one into the variable that the "
            "version was registered with (--credential), in the proxy's environment, and restart the proxy."
        )
        found.append(Reason(code="copies_without_key", severity="warn", text=text))
    return found


def open_windows(spec: AnalysisSpec, evidence: Evidence) -> list[Reason]:
    """Feedback of requests whose window is still open: it tells of harm, and is in no comparison yet."""
    found = []
    for metric in {goal.metric.name: goal.metric for goal in spec.goals}.values():
        if metric.within_s is None:
            continue
        over = [sums.observed or 0 for sums in evidence.sums if sums.metric == closed(metric).name]
        came = sum(sums.observed or 0 for sums in evidence.sums if sums.metric == metric.name)
        counted = sum(over)
        if over and came > counted:
            text = (
                f"{metric.title}: {came - counted:,} of {came:,} answers with it wait for their window to be "
                "over, so that both versions' are compared after the same time."
            )
            found.append(Reason(code="windows_open", severity="note", text=text))
    return found


def opposed_turns(turns: Sequence[TurnResult]) -> list[Reason]:
    """First and later turns that speak against each other: nothing is shipped on their average."""
    return [
        Reason(
            code="turns_opposed",
            severity="block",
            text=f"First and later turns disagree, and one is against the candidate. {turn.text}.",
        )
        for turn in turns
        if turn.state == "opposed"
    ]


def differing_turns(turns: Sequence[TurnResult], *, told_opposed: bool) -> list[Reason]:
    """First and later turns with different effects; those that are opposed only where nobody else says so."""
    states = ("differ",) if told_opposed else ("differ", "opposed")
    return [
        Reason(
            code="turns_differ",
            severity="warn",
            text=f"The effect is not the same on first and on later turns: read them apart. {turn.text}.",
        )
        for turn in turns
        if turn.state in states
    ]
