"""Is a new version safe to ask at all: what did the preflight find against production?"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from .. import chips, figures
from ..answers import Preflight
from ..client import path
from ..inert import label
from ..live import Loaded, load, refreshed, usable
from . import paging

# What stands against the candidate is read first, what could not be looked at before what is well.
ORDER = ("fail", "warn", "unchecked", "note", "ok")
PER_PAGE = 5
LIMIT = 100
PAGE = "preflights-page"


def page() -> None:
    """Draw the page."""
    body()


@refreshed
def body() -> None:
    """The preflights, the newest first, each with its findings."""
    loaded: Loaded[tuple[Preflight, ...]] = load(tuple[Preflight, ...], path("preflights"), {"limit": LIMIT})
    found = usable(loaded, "The preflights")
    if found is None:
        return
    if not found:
        st.info(
            "No candidate has been held against production yet. "
            "`turnout preflight MODEL --candidate ALIAS` does it.",
            icon=":material/flight_takeoff:",
        )
        return
    for one in paging.part(found, PAGE, PER_PAGE):
        _preflight(one, opened=one is found[0])
    paging.turn(PAGE, len(found), PER_PAGE)
    paging.tell_newest(len(found), LIMIT, "preflights")


def _preflight(one: Preflight, *, opened: bool) -> None:
    with st.container(border=True, gap="xsmall"):
        chips.compared(one, figures.moment(one.at))
        for why in one.outdated:
            st.warning(f"Outdated: {label(why, 120)}.", icon=":material/history:")
        said = one.result.get("sentence")
        if said:
            st.text(str(said)[:600])
        findings = ranked(one.result.get("findings"))
        title = f"{figures.count(len(findings))} finding{'' if len(findings) == 1 else 's'}"
        with st.expander(title, icon=":material/checklist:", expanded=opened):
            for finding in findings:
                _finding(finding)
        prints = [one.result.get(f"{side}_fingerprint") for side in ("control", "candidate")]
        if all(prints):
            same = "the same" if prints[0] == prints[1] else "different"
            st.caption(label(f"Fingerprints: {same}, {str(prints[1])[:24]}"))


def ranked(findings: Any) -> Sequence[dict[str, Any]]:
    """The findings, what stands against the candidate first; what is no finding is left out."""
    known = [one for one in findings if isinstance(one, dict)] if isinstance(findings, list) else []
    return sorted(known, key=lambda one: ORDER.index(one["status"]) if one.get("status") in ORDER else 0)


def _finding(finding: dict[str, Any]) -> None:
    with st.container(horizontal=True, vertical_alignment="top", gap="small"):
        with st.container(width=130):
            chips.show(chips.chip_of(chips.FINDINGS, str(finding.get("status") or "")))
        with st.container(gap=None):
            st.caption(label(str(finding.get("check") or "").replace("_", " "), 60))
            st.text(str(finding.get("sentence") or figures.DASH)[:600])
            items = finding.get("items")
            if isinstance(items, list) and items:
                st.caption(label(", ".join(map(str, items[:12]))[:300]))
