"""What did the two versions answer to the same request?

Everything here was written by users and models: it is shown by `st.code` and `st.text`, which read no markup,
or as HTML in which every character of it is escaped.
"""

import json
from typing import Any

import streamlit as st

from .. import figures
from ..answers import Output, Pair, Pairs
from ..client import path
from ..inert import badge, label
from ..live import Loaded, load, usable
from ..worddiff import Difference, Stretch, word_diff
from . import paging
from .panes import ADDED, MAX_SHOWN, REMOVED, pane

FILTERS = {
    "different": "Different",
    "failed": "Failed",
    "longer": "Candidate longer",
    "all": "All",
}
SUCCESSES = ("complete", "length")
PER_PAGE = 10


def tab(name: str) -> None:
    """Draw the tab. Filter and page are in the URL; the list is not refreshed under the reader's eyes."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        wanted = st.segmented_control(
            "Show",
            list(FILTERS),
            format_func=FILTERS.__getitem__,
            default="different",
            required=True,
            key="filter",
            bind="query-params",
            label_visibility="collapsed",
        )
        as_diff = st.toggle("Mark differing words", key="diff", bind="query-params", value=True)
    pairs_list(name, str(wanted or "different"), bool(as_diff))


def pairs_list(name: str, wanted: str, as_diff: bool) -> None:
    """The pairs of one filter, page by page."""
    place = f"pairs-{wanted}-{name}"  # of another experiment there may be no such page
    page = max(1, int(st.session_state.get(place, 1)))
    query: dict[str, str | int] = {"limit": PER_PAGE, "offset": (page - 1) * PER_PAGE, "filter": wanted}
    loaded: Loaded[Pairs] = load(Pairs, path("experiments", name, "pairs"), query)
    pairs = usable(loaded, "The pairs of outputs")
    if pairs is None:
        return
    if not pairs.pairs:
        _none(name, wanted)
        return
    st.caption(f"{figures.count(pairs.total)} pairs, newest first")
    for number, pair in enumerate(pairs.pairs):
        _pair(pair, as_diff, key=f"pair-{page}-{number}")
    paging.turn(place, pairs.total, PER_PAGE)


def _none(name: str, wanted: str) -> None:
    """Say whether there are no pairs at all, or none of this kind."""
    every: Loaded[Pairs] = load(Pairs, path("experiments", name, "pairs"), {"limit": 1, "filter": "all"})
    if every.value is not None and every.value.total:
        total = figures.count(every.value.total)
        st.info(f"No pair matches “{FILTERS[wanted]}”: there are {total} in all.", icon=":material/compare:")
        return
    st.info(
        "There are no pairs: only mirrored requests (mode shadow) with recorded bodies give some.",
        icon=":material/compare:",
    )


def _pair(pair: Pair, as_diff: bool, key: str) -> None:
    with st.container(border=True, gap="small", key=key):
        with st.container(gap=None):
            st.caption(f"Request · {figures.moment(pair.at)}")
            st.text(_shown(pair.prompt, "The request was not recorded."))
        difference = _difference(pair) if as_diff else None
        left, right = st.columns(2, gap="medium")
        with left:
            _output("Control", pair.control, difference.control if difference else None, REMOVED)
        with right:
            _output("Candidate", pair.candidate, difference.candidate if difference else None, ADDED)
        if difference is not None and difference.clipped:
            st.caption(
                "Only the first words were compared and are shown: switch the marks off for the whole."
            )


def _difference(pair: Pair) -> Difference | None:
    """The words that differ, if both sides said something."""
    control = (pair.control.text if pair.control else None) or ""
    candidate = (pair.candidate.text if pair.candidate else None) or ""
    if not control or not candidate:
        return None
    return word_diff(control[:MAX_SHOWN], candidate[:MAX_SHOWN])


def _output(
    title: str, output: Output | None, stretches: tuple[Stretch, ...] | None = None, colour: str = ""
) -> None:
    with st.container(gap="xsmall"):
        if output is None:
            st.caption(title)
            st.text("No answer was recorded.")
            return
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f"**{title} {figures.version(output.version)}**", width="content")
            if output.outcome is not None and output.outcome not in SUCCESSES:
                st.badge(badge(output.outcome.replace("_", " ")), icon=":material/error:", color="red")
            st.caption(label(facts(output), 300), width="content")
        if stretches is not None:
            pane(stretches, colour)
        elif output.text:
            pane([Stretch(_shown(output.text, ""), own=False)])
        elif not output.tool_calls:
            st.caption("No text.")
        if output.tool_calls:
            st.code(as_json(unfolded(output.tool_calls)), language="json", wrap_lines=True)


def unfolded(calls: Any) -> Any:
    """Tool calls as name and arguments, the arguments' JSON read; their ids always differ and say nothing."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return calls
    return [{str(call.get("name") or "call"): _read(call.get("arguments"))} for call in calls]


def _read(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def facts(output: Output) -> str:
    """Finish reason, tokens, TTFT and duration in one line; what is missing is left out."""
    parts = [] if output.outcome else ["outcome unknown"]
    if output.finish_reason:
        parts.append(f"finish: {output.finish_reason}")
    if output.completion_tokens is not None:
        parts.append(f"{figures.count(output.completion_tokens)} tokens")
    if figures.known(output.ttft_ms):
        parts.append(f"TTFT {figures.milliseconds(output.ttft_ms)}")
    if figures.known(output.duration_ms):
        parts.append(f"total {figures.milliseconds(output.duration_ms)}")
    return " · ".join(parts)[:300]


def _shown(text: str | None, otherwise: str) -> str:
    if not text:
        return otherwise
    if len(text) <= MAX_SHOWN:
        return text
    return (
        text[:MAX_SHOWN] + f"\n… {figures.count(len(text) - MAX_SHOWN)} further characters are in the ledger"
    )


def as_json(value: Any) -> str:
    """Tool calls as indented JSON; a string that holds JSON is unfolded, any other is shown as it is."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return _shown(value, "")
    return _shown(json.dumps(value, indent=2, ensure_ascii=False, default=str), "")
