"""Does the accounting close: what became of every request that the experiment could have had?"""

import streamlit as st

from .. import chips, figures
from ..answers import Accounting, Experiment, Replay, Verdict
from ..client import path
from ..live import Loaded, load, refreshed, usable


@refreshed
def tab(name: str) -> None:
    """Draw the tab."""
    loaded: Loaded[Experiment] = load(Experiment, path("experiments", name))
    one = usable(loaded, f"The accounting of {name}")
    if one is None:
        return
    books = one.accounting
    if books is None:
        st.info("The controller sent no accounting for this experiment.", icon=":material/receipt_long:")
        return
    if books.replay is not None:
        _replay(books.replay)
    _totals(books, one.mode == "shadow")
    _closes(books, one.mode == "shadow")
    st.subheader("By arm", anchor=False)
    if books.by_arm:
        st.dataframe(by_arm(books), hide_index=True)
        st.caption(
            "An exchange counts for the arm it was assigned to, also when control served it after a fallback."
        )
    else:
        st.info("No exchange has been counted yet.", icon=":material/hourglass_empty:")
    if one.verdict is not None and one.mode != "shadow":
        _split(one.verdict)


def _totals(books: Accounting, mirrored: bool) -> None:
    tiles = [
        ("Eligible", books.eligible, "requests the experiment could have had"),
        ("Without a unit", books.no_unit, "went to control, not analysed"),
        ("Recorded", books.recorded, "rows in the ledger"),
        ("Lost", books.lost, "counted, but their rows are gone"),
        ("Shed", books.shed, "shadow copies not sent"),
    ]
    # A shadow decides over no request: it has copies, and nothing else to account for.
    shown = tiles[2:] if mirrored else tiles[:4]
    with st.grid(len(shown), min_column_width=150, border=True, gap="small") as grid:
        for title, value, note in shown:
            with grid.cell():
                chips.fact(title, figures.count(value), note)
    if shed := ", ".join(
        f"{reason} {figures.count(copies)}" for reason, copies in books.shed_by_reason.items()
    ):
        st.text(f"Copies not sent, by reason: {shed}")


def _replay(progress: Replay) -> None:
    """The recorded requests, before what became of those that were asked."""
    skipped = sum(progress.skipped.values())
    tiles = [
        ("Selected", progress.selected, "recorded requests of control in the window"),
        ("Paired", progress.paired, "asked again, with both answers"),
        ("Skipped", skipped, "cannot be asked again"),
        ("Remaining", progress.remaining, "not asked yet: turnout replay goes on"),
    ]
    with st.grid(len(tiles), min_column_width=150, border=True, gap="small") as grid:
        for title, value, note in tiles:
            with grid.cell():
                chips.fact(title, figures.count(value), note)
    if progress.skipped:
        reasons = (f"{name.replace('_', ' ')} {figures.count(n)}" for name, n in progress.skipped.items())
        st.text(f"Skipped, by reason: {', '.join(reasons)}")


def _closes(books: Accounting, mirrored: bool) -> None:
    gap = unaccounted(books, mirrored)
    if gap is None:
        return
    if gap == 0:
        st.badge("the accounting closes", icon=":material/check:", color="green")
    else:
        st.badge(f"{figures.count(abs(gap))} unaccounted for", icon=":material/error:", color="red")


def unaccounted(books: Accounting, mirrored: bool) -> int | None:
    """Requests (for a shadow: copies) of which nobody says what became of them; None if it cannot be told."""
    assigned = [account.assigned for account in books.by_arm.values()]
    whole = books.recorded if mirrored else books.eligible
    if whole is None or not assigned or any(part is None for part in assigned):
        return None
    rest = 0 if mirrored else (books.no_unit or 0)  # a copy that was shed counts as assigned
    return whole - sum(part or 0 for part in assigned) - rest


def by_arm(books: Accounting) -> list[dict[str, str]]:
    """A row per arm: assigned, served, failed and its share, fallen back to control."""
    rows = []
    for arm, account in books.by_arm.items():
        known = account.failed is not None and account.assigned
        rows.append(
            {
                "Arm": arm,
                "Assigned": figures.count(account.assigned),
                "Served": figures.count(account.served),
                "Failed": figures.count(account.failed),
                "Failed share": figures.percent((account.failed or 0) / account.assigned, 2)
                if known and account.assigned
                else figures.DASH,
                "Fell back": figures.count(account.fell_back),
            }
        )
    return rows


def _split(verdict: Verdict) -> None:
    srm = verdict.srm
    st.subheader("Is the split as declared?", anchor=False)
    if srm is None or not srm.observed:
        st.info("Not enough units to say.", icon=":material/hourglass_empty:")
        return
    total = sum(value for value in srm.observed.values() if isinstance(value, int | float))
    rows = [
        {
            "Arm": arm,
            "Units": figures.count(units),
            "Observed share": figures.percent(units / total if total else None, 2),
            "Declared share": figures.percent(srm.expected.get(arm), 2),
        }
        for arm, units in srm.observed.items()
        if isinstance(units, int | float)
    ]
    st.dataframe(rows, hide_index=True)
    st.caption(
        f"Evidence against the declared split: e-value {figures.number(srm.e_value)}, "
        f"the alarm rings at {figures.number(srm.threshold)}. {figures.count(total)} units."
    )
