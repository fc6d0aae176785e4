"""Does the accounting close: what became of every request that the experiment could have had?"""

from collections.abc import Sequence

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
    _closes(books)
    st.subheader("By arm", anchor=False)
    if books.by_arm:
        st.dataframe(by_arm(books), hide_index=True)
        st.caption(
            "Each request counts for the arm it was assigned to, and by how that arm itself ended, also "
            "where control answered in its stead (fell back)."
        )
        _shed(books)
    else:
        st.info("No exchange has been counted yet.", icon=":material/hourglass_empty:")
    if any(books.outside.values()):
        _outside(books)
    if one.verdict is not None and one.mode != "shadow":
        _split(one.verdict)


def _totals(books: Accounting, mirrored: bool) -> None:
    outside = sum(books.outside.values())
    assigned = sum(arm.assigned or 0 for arm in books.by_arm.values())
    tiles = [
        ("Eligible", books.eligible, "requests the experiment could have had"),
        ("In an arm", assigned, "assigned, each to one"),
        ("Outside", outside, "answered by production, not analysed"),
        ("Recorded", books.recorded, "rows in the ledger"),
        ("Missing", books.missing, "numbered by a worker, not in the ledger"),
        ("Lost", books.lost, "could not be written, of any experiment"),
    ]
    if mirrored:  # a shadow decides over no request: it has copies
        tiles = [
            ("Copies", assigned, "sent, or shed with a reason"),
            ("Not copied", books.not_copied, "by the last look: not sampled, or kept out by a rule"),
            *tiles[3:],
        ]
    _facts(tiles, width=130)


def _facts(tiles: Sequence[tuple[str, float | None, str]], *, width: int) -> None:
    """Counts side by side: what each is called, and what it means."""
    with st.grid(len(tiles), min_column_width=width, border=True, gap="small") as grid:
        for title, value, note in tiles:
            with grid.cell():
                chips.fact(title, figures.count(value), note)


def _replay(progress: Replay) -> None:
    """The recorded requests, before what became of those that were asked."""
    skipped = sum(progress.skipped.values())
    tiles = [
        ("Selected", progress.selected, "recorded requests of control in the window"),
        ("Paired", progress.paired, "asked again, with both answers"),
        ("Skipped", skipped, "cannot be asked again"),
        ("Remaining", progress.remaining, "not asked yet: turnout replay goes on"),
    ]
    _facts(tiles, width=150)
    if progress.skipped:
        reasons = (f"{name.replace('_', ' ')} {figures.count(n)}" for name, n in progress.skipped.items())
        st.text(f"Skipped, by reason: {', '.join(reasons)}")


def _closes(books: Accounting) -> None:
    if books.eligible is None:
        return
    gap = unaccounted(books)
    if gap == 0:
        st.badge("the accounting closes", icon=":material/check:", color="green")
    else:
        st.badge(f"{figures.count(gap)} unaccounted for", icon=":material/error:", color="red")


def unaccounted(books: Accounting) -> int:
    """Requests (for a shadow: copies) of which nobody says what became of them."""
    parts = sum(arm.assigned or 0 for arm in books.by_arm.values()) + sum(books.outside.values())
    rows = sum(sum(arm.outcomes.values()) for arm in books.by_arm.values()) + sum(books.outside.values())
    return max(abs((books.eligible or 0) - parts), (books.eligible or 0) - rows, books.missing or 0)


def by_arm(books: Accounting) -> list[dict[str, str]]:
    """A row per arm: assigned, how its requests ended (only what has occurred), fallen back, missing."""
    ends = sorted({end for arm in books.by_arm.values() for end in arm.outcomes}, key=_order)
    rows = []
    for arm, account in books.by_arm.items():
        known = account.failed is not None and account.assigned
        rows.append(
            {
                "Arm": arm,
                "Assigned": figures.count(account.assigned),
                **{words(end): figures.count(account.outcomes.get(end, 0)) for end in ends},
                "Missing": figures.count(account.missing),
                "Failed share": figures.percent((account.failed or 0) / account.assigned, 2)
                if known and account.assigned
                else figures.DASH,
                "Fell back": figures.count(account.fell_back),
            }
        )
    return rows


def _order(end: str) -> tuple[bool, str]:
    """Whole answers first."""
    return end != "complete", end


def words(code: str) -> str:
    """A code of the ledger's for people: `no_unit` is "No unit"."""
    return code.replace("_", " ").capitalize()


def _outside(books: Accounting) -> None:
    st.subheader("Why outside", anchor=False)
    st.dataframe(
        [{"Why": words(why), "Requests": figures.count(count)} for why, count in books.outside.items()],
        hide_index=True,
    )
    st.caption(
        "No unit: nobody to assign. Excluded: by a rule of the file. Holdout: kept out of every experiment. "
        "Exclusive: the unit is not in this experiment's part of its group."
    )


def _shed(books: Accounting) -> None:
    for arm, account in books.by_arm.items():
        if account.shed:
            reasons = ", ".join(f"{words(why)} {figures.count(n)}" for why, n in account.shed.items())
            st.text(f"Not sent, {arm}, by reason: {reasons}")


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
