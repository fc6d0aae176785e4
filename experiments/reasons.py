"""Which rows are not there, and which turns disagree? Reasons in words.

Pure. What follows from them is `shipping`'s and `verdict`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from .evidence import Evidence
from .scorecard import percent
from .turns import TurnResult
from .weighing import Reason


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
