"""What do metrics ask of an exchange, worked out once for each row?

`EXCHANGES` stands for the table `exchanges` with further columns: how the assigned arm itself ended, also
where control stepped in for it (intention to treat), and which of the classes that metrics ask for that is.
Sixty metrics can ask `x.own`; none compares strings.
"""

from __future__ import annotations

from typing import Final

from .exchange import FAILURES, MISSING


def _listed(names: tuple[str, ...]) -> str:
    """A list of SQL strings."""
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


#: Outcomes in such an order that each class of them is a stretch: those that were answered, those that were
#: cut short, failures, and all of which something is known.
_ENDS: Final = (
    "complete",
    "length",
    "truncated",
    *sorted(FAILURES - {"truncated"}),
    *sorted(MISSING),
    "rejected",
)
_KNOWN: Final = 2 + len(FAILURES)

# A function of one column of few values, such as `list_position`, is worked out once for each value and not
# once for each row; a comparison is not. 0: an outcome that this code does not know.
_ENDED: Final = f"""
    SELECT *, rowid, coalesce(CASE WHEN arm_outcome IS NULL THEN list_position({_listed(_ENDS)}, outcome)
        ELSE list_position({_listed(_ENDS)}, arm_outcome) END, 0) AS ended
    FROM exchanges
"""
#: A fallback's times and tokens are the control's, not the assigned arm's: only `own` ones count.
EXCHANGES: Final = f"""(
    SELECT *, ended BETWEEN 1 AND 2 AS answered, ended BETWEEN 1 AND 2 AND arm_outcome IS NULL AS own,
        ended BETWEEN 2 AND 3 AS cut, ended BETWEEN 3 AND {_KNOWN} AS failed, ended <= {_KNOWN} AS seen
    FROM ({_ENDED}))
"""

#: Rows of an experiment that arrived in a stretch of the ledger, and those of them that an arm can be blamed
#: or praised for. As functions, these conditions leave the range of row numbers the only one that the scan
#: itself applies: it goes to the new rows alone, and not first through every block for each string.
RECORDED: Final = """
    WHERE x.rowid >= $since AND x.rowid < $until AND list_contains([$experiment], x.experiment)
        AND x.phase >= $first AND list_contains(['primary'], x.role) AND list_contains(['live'], x.origin)
        AND NOT list_contains(['rejected'], x.outcome)
"""
ELIGIBLE: Final = (
    f"{RECORDED} AND x.unit IS NOT NULL AND list_contains([$control, $candidate], x.assigned_arm)"
)
#: What the experiment's units did before it began, of what had arrived before its own first row had: however
#: late a look is, these are the same rows.
PAST: Final = f"""
    FROM {EXCHANGES} x JOIN experiments e ON e.name = $experiment AND e.model = x.model
    WHERE x.rowid < $before AND x.role = 'primary' AND x.origin = 'live' AND x.outcome <> 'rejected'
        AND x.unit IS NOT NULL AND x.started_at < coalesce(e.started_at, e.created_at)
        AND x.started_at >= coalesce(e.started_at, e.created_at) - to_microseconds($history_us)
"""
#: Nothing of the experiment's own is of before it.
FIRST_ROW: Final = "SELECT min(rowid) FROM exchanges WHERE experiment = $experiment"
COUNTED: Final = f"FROM {EXCHANGES} x {ELIGIBLE}"
#: A row's phase and arm: 2 * phase + 1 for the candidate, 2 * phase for the control.
SLOT: Final = "CAST(2 * x.phase + list_position([$control, $candidate], x.assigned_arm) - 1 AS INTEGER)"
