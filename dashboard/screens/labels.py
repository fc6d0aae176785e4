"""How far are the labels by which people hold a comparison's judges to account?

Grades are given on a page of their own (`grading`), in the terminal or on a worksheet (`turnout golden
label`); this page says how many there are and where the rest are given.
"""

from typing import Any

import streamlit as st

from .. import figures, results
from ..answers import GoldenComparison
from ..client import path
from ..inert import label
from ..live import Loaded, load
from ..worksheet import LabelDraw, PersonsLabel
from . import grading

#: Enough for every grade of a sample, and not more than the control API gives at once.
MOST_LABELS = 10_000


def show(one: GoldenComparison) -> None:
    """The state of each judge's labels, and the command that asks for those that are missing."""
    for found in results.mappings(one.result.get("labels")):
        st.caption(label(state(found), 400))
        if _whole(found):
            continue
        if since := _since(one, found):
            st.caption(label(since, 400))
        _ways(one, str(found.get("evaluator")))


def state(found: dict[str, Any]) -> str:
    """What the comparison knew of one check's labels, in a sentence."""
    check = found.get("evaluator")
    drawn, done, open_, needed = (
        results.number(found.get(name)) for name in ("drawn", "labelled", "open", "needed")
    )
    if open_ == 0:
        return f"{check}: both versions gave the same answers; there is nothing to label."
    if not drawn:
        of = f"of {figures.count(open_)} items whose answers differ {figures.count(needed)} need a label"
        return f"{check}: nothing is drawn yet; {of}."
    if not _whole(found):
        return f"{check}: {figures.count(done)} of {figures.count(drawn)} drawn items were labelled."
    names = found.get("labellers")
    by = ", ".join(map(str, names)) if isinstance(names, list) and names else "people"
    undecided = results.number(found.get("undecided"))
    rest = f", {figures.count(undecided)} of them undecided" if undecided else ""
    return f"{check}: all {figures.count(drawn)} drawn items are labelled by {by}{rest}."


def _ways(one: GoldenComparison, check: str) -> None:
    """Where the rest is graded: here, or by what is to be typed."""
    if one.control_run is not None and one.candidate_run is not None:
        subject = grading.Subject(control_run=one.control_run, candidate_run=one.candidate_run, check=check)
        st.page_link(
            grading.here(),
            label=f"Grade answers for {label(check, 60)}",
            icon=":material/grading:",
            query_params=subject.query,
        )
    versions = (one.control_version, one.candidate_version)
    typed = grading.command("label", one.set_name, one.model, *versions, "--check", check)
    st.code(typed, language=None, wrap_lines=True)


def _whole(found: dict[str, Any]) -> bool:
    open_, drawn, done = (results.number(found.get(name)) for name in ("open", "drawn", "labelled"))
    return open_ == 0 or (bool(drawn) and done == drawn)


def _since(one: GoldenComparison, found: dict[str, Any]) -> str | None:
    """What people have done since the comparison was made: it knows nothing of that."""
    if one.control_run is None or one.candidate_run is None or one.set_name is None:
        return None
    check = str(found.get("evaluator"))
    runs: dict[str, str | int] = {
        "control_run": one.control_run,
        "candidate_run": one.candidate_run,
        "evaluator": check,
    }
    draws: Loaded[tuple[LabelDraw, ...]] = load(tuple[LabelDraw, ...], path("golden", "draws"), runs)
    if not draws.value:
        return None
    asked: dict[str, str | int] = {"set_name": one.set_name, "evaluator": check, "limit": MOST_LABELS}
    said: Loaded[tuple[PersonsLabel, ...]] = load(tuple[PersonsLabel, ...], path("golden", "labels"), asked)
    mine = {draw.draw_id for draw in draws.value}
    items = {given.item_id for given in said.value or () if given.draw_id in mine}
    declared = figures.count(draws.value[-1].size)
    return (
        f"By now {declared} items are declared, and of {figures.count(len(items))} an answer is graded; "
        "turnout golden compare says what follows once all are."
    )
