"""Who decided what, when, on which verdict, and why: the audit trail, also as a file."""

from collections.abc import Sequence

import streamlit as st

from .. import chips, figures
from ..answers import Decision
from ..client import path
from ..inert import badge, csv_bytes, label
from ..live import Loaded, load, refreshed, usable
from . import paging

LIMIT = 500
PER_PAGE = 25
WIDTHS = (1.6, 1.3, 1.6, 5.5)
ACTIONS: dict[str, tuple[str, chips.Colour]] = {
    "promote": (":material/arrow_upward:", "green"),
    "rollback": (":material/undo:", "red"),
    "ramp": (":material/trending_up:", "blue"),
    "start": (":material/play_arrow:", "gray"),
    "conclude": (":material/flag:", "gray"),
    "pause": (":material/pause:", "orange"),
    "resume": (":material/play_arrow:", "gray"),
    "stop": (":material/stop:", "gray"),
}
COLUMNS = (
    "decision_id",
    "at",
    "actor",
    "action",
    "model",
    "experiment",
    "from_version",
    "to_version",
    "verdict_kind",
    "verdict_hash",
    "forced",
    "reason",
    "state",
    "changed",
)


def page() -> None:
    """Draw the page."""
    body()


@refreshed
def body() -> None:
    """The table and its export."""
    loaded: Loaded[tuple[Decision, ...]] = load(tuple[Decision, ...], path("decisions"), {"limit": LIMIT})
    decisions = usable(loaded, "The audit trail")
    if decisions is None:
        return
    if not decisions:
        st.info(
            "Nothing has been decided yet. "
            "Every promote, roll back, ramp, pause and stop will stand here, with its reason.",
            icon=":material/gavel:",
        )
        return
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        more = paging.newest(len(decisions), LIMIT)
        forced = sum(1 for one in decisions if one.forced)
        st.caption(
            f"{figures.count(len(decisions))} decisions{more}, {figures.count(forced)} of them forced",
            width="content",
        )
        st.download_button(
            "Export as CSV",
            data=export(decisions),
            file_name="turnout-decisions.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
    with st.container(border=True, gap="small"):
        for one in paging.part(decisions, "decisions-page", PER_PAGE):
            _decision(one)
    paging.turn("decisions-page", len(decisions), PER_PAGE)


def _decision(one: Decision) -> None:
    when, what, versions, why = st.columns(WIDTHS, gap="small")
    with when, st.container(gap=None):
        st.text(figures.moment(one.at).removesuffix(" UTC"))
        st.caption(label(f"UTC · by {one.actor or 'unknown'}", 120))
    with what, st.container(gap="xxsmall"):
        icon, colour = ACTIONS.get(one.action, (":material/gavel:", "gray"))
        with st.container(horizontal=True, gap="xsmall"):
            st.badge(badge(one.action.replace("_", " ") or "unknown"), icon=icon, color=colour)
            if one.forced:
                st.badge("forced", icon=":material/warning:", color="orange")
            if unfinished := chips.unfinished(one.state):
                chips.show(unfinished)
        st.caption(label(one.experiment or one.model or figures.DASH, 80))
    with versions, st.container(gap=None):
        st.text(moved(one))
        st.caption(label(one.model or "", 80))
    with why, st.container(gap=None):
        if one.reason:
            st.text(one.reason)
        for sentence in one.changed:
            st.caption(label(sentence, 300))
        if one.verdict_kind:
            verdict = chips.chip_of(chips.VERDICTS, one.verdict_kind).words.lower()
            evidence = f", evidence {one.verdict_hash[:12]}" if one.verdict_hash else ""
            st.caption(label(f"on the verdict: {verdict}{evidence}"))


#: After these every unit is where it was.
STILL = ("draft", "preflight", "amend", "warn", "invalidate", "revalidate", "conclude")


def moved(one: Decision) -> str:
    """From which version to which: production, or the units of an experiment."""
    if one.from_version is None and one.to_version is None:
        return figures.DASH
    before, after = figures.version(one.from_version), figures.version(one.to_version)
    # A promotion moves production, and a rollback from a version; not so one of several candidates at once.
    of_model = one.experiment is None and one.from_version is not None
    if one.action == "promote" or (one.action == "rollback" and of_model):
        return f"production {before} → {after}"
    if one.action in STILL:
        return f"{before} and {after}"
    return f"units {before} → {after}"


def export(decisions: Sequence[Decision]) -> bytes:
    """The audit trail as CSV, whole and with every cell inert."""
    return csv_bytes(
        COLUMNS,
        (
            [
                "; ".join(one.changed)
                if column == "changed"
                else one.at.isoformat()
                if column == "at" and one.at is not None
                else getattr(one, column)
                for column in COLUMNS
            ]
            for one in decisions
        ),
    )
