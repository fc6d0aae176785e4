"""One experiment: its verdict in a sentence, why, what may be done, and the evidence behind it in tabs."""

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from .. import chips, figures
from ..answers import Experiment, Reason, Verdict, Window
from ..client import path
from ..inert import label, prose
from ..live import REFRESH_S, Loaded, load, refreshed, usable
from . import accounting, actions, outputs, overtime, pipeline, scorecard

OPEN = ("draft", "preflight", "running", "paused", "invalid", "concluded")
TABS = ("Scorecard", "Over time", "Outputs", "Accounting", "Spec")


def here() -> StreamlitPage:
    """This page, as a target for links."""
    return st.Page(page, title="Experiment", url_path="experiment")


def page() -> None:
    """Draw the page. `?name=` says which experiment and `?view=` which tab, so that a view can be pasted."""
    listed: Loaded[tuple[Experiment, ...]] = load(tuple[Experiment, ...], path("experiments"))
    experiments = usable(listed, "The list of experiments")
    if experiments is None:
        _try_again()
        return
    if not experiments:
        st.info(
            "No experiment has been started. `turnout experiment start FILE.yaml` starts one.",
            icon=":material/science:",
        )
        return
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", gap="small"
    ):
        name = _choose(experiments)
        if name is not None:
            actions.bar(name)
    if name is None:
        return
    verdict_panel(name)
    tabs = st.tabs(list(TABS), key="view", bind="query-params", on_change="rerun")
    draw = (scorecard.tab, overtime.tab, outputs.tab, accounting.tab, spec_tab)
    for tab, one in zip(tabs, draw, strict=True):
        if tab.open:
            with tab:
                one(name)


@st.fragment(run_every=REFRESH_S)
def _try_again() -> None:
    """The choice stands outside the live parts: once the controller answers, draw the whole page."""
    again: Loaded[tuple[Experiment, ...]] = load(tuple[Experiment, ...], path("experiments"))
    if again.error is None:
        st.rerun()


def _choose(experiments: tuple[Experiment, ...]) -> str | None:
    names = [one.name for one in experiments]
    asked = st.query_params.get("name")
    unknown = asked is not None and asked not in names
    if unknown:
        st.warning(
            f"There is no experiment called {label(asked, 80)}. Choose one of these.",
            icon=":material/search_off:",
        )
    # Instead of one that was asked for, no other shall be promoted.
    return st.selectbox(
        "Experiment",
        names,
        index=None if unknown else 0,
        placeholder="Choose an experiment",
        key="name",
        bind="query-params",
        label_visibility="collapsed",
        width=380,
    )


def view(name: str) -> Experiment | None:
    """The experiment with its full verdict, or None after the page has said why not."""
    loaded: Loaded[Experiment] = load(Experiment, path("experiments", name))
    return usable(loaded, f"The experiment {name}")


@refreshed
def verdict_panel(name: str) -> None:
    """Chips, the sentence, its reasons in order of precedence, the traffic, and what it all rests on."""
    one = view(name)
    if one is None:
        return
    verdict = one.verdict
    with st.container(border=True, gap="small"):
        left, right = st.columns((2.5, 1.0), gap="medium")
        with left, st.container(gap="xsmall"):
            _headline(one)
            st.markdown("  \n".join(why(one)))
        with right:
            overtime.glance(one)
        if one.recorded is not None:
            st.caption(label(replayed(one.recorded), 400))
        st.caption(label(rests_on(one), 400))
    if chips.blocked(verdict):
        _blocked(verdict)
    pipeline.draw(one)


def _headline(one: Experiment) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chips.show(chips.verdict_chip(one.verdict))
        chips.show(chips.chip_of(chips.MODES, one.mode))
        if one.recorded is not None:
            chips.show(chips.REPLAY)
        chips.show(chips.chip_of(chips.STATES, one.state))
        st.caption(label(f"{one.model} · {chips.split(one)}"), width="content")
    st.subheader(label(chips.sentence(one), 600), anchor=False)


def in_order(verdict: Verdict | None) -> list[Reason]:
    """What blocks, then what warns, then notes; within one severity as the controller ordered them."""
    reasons = verdict.reasons if verdict is not None else ()
    rank = {severity: place for place, severity in enumerate(chips.SEVERITY_ORDER)}
    return sorted(reasons, key=lambda reason: rank.get(reason.severity, len(rank)))


def why(one: Experiment) -> list[str]:
    """The reasons that the sentence does not say already, what is waited for, and the note: as Markdown."""
    found = []
    for reason in in_order(one.verdict):
        chip = chips.chip_of(chips.SEVERITIES, reason.severity)
        text = reason.text or reason.code
        if text.rstrip(".") not in chips.sentence(one):
            found.append(_line(chip.icon, text, chip.colour))
    if waiting := chips.waiting(one):
        found.append(_line(":material/hourglass_top:", f"Waiting: {waiting}", "gray"))
    if one.note and one.note != chips.sentence(one):
        found.append(_line(":material/edit_note:", f"Note: {one.note}", "gray"))
    return found


def _line(icon: str, text: str, colour: chips.Colour) -> str:
    return f":{colour}[{icon}] {prose(text, 600)}"


def _blocked(verdict: Verdict | None) -> None:
    srm = verdict.srm if verdict is not None else None
    why = "The figures below are shown without colours, because they cannot be trusted until this is mended."
    if srm is not None and srm.observed and srm.state == "crossed":
        held = ", ".join(f"{arm} {figures.count(n)}" for arm, n in srm.observed.items())
        planned = ", ".join(f"{arm} {figures.percent(share)}" for arm, share in srm.expected.items())
        why = f"Sample-ratio mismatch: the arms hold {held} units, the split says {planned}. {why}"
    st.error(label(why, 600), icon=":material/report:")


def rests_on(one: Experiment) -> str:
    """The figures behind the sentence in one line: units, looks, exchanges, duration, age, evidence."""
    verdict, books = one.verdict, one.accounting
    units = f"{one.unit}s" if one.unit in ("user", "session", "tenant", "request") else "units"
    parts = [f"{_of(one.units, one.horizon)} {units}"]
    if verdict is not None and verdict.look is not None:
        parts.append(f"planned look {_of(verdict.look.done, verdict.look.planned)}")
    if books is not None:
        parts.append(f"{figures.count(books.recorded)} exchanges, {figures.count(books.lost)} lost")
    phase = f" (phase {one.phase})" if one.phase is not None else ""
    open_ = one.state in OPEN
    parts.append(f"{'running for' if open_ else 'ran for'} {figures.span(one.age_s)}{phase}")
    if one.days_left is not None and open_:
        parts.append(f"about {figures.span(one.days_left * 86400)} left at this rate")
    if not open_ and one.ended_at is not None:
        parts.append(f"ended {figures.moment(one.ended_at)}")
    elif one.data_age_s is not None:
        parts.append(f"data {figures.span(one.data_age_s)} old")
    if verdict is not None and verdict.digest:
        parts.append(f"evidence {verdict.digest[:12]}")
    return " · ".join(parts)


def replayed(window: Window) -> str:
    """Of when the requests are, and what therefore is not compared."""
    return (
        f"Requests recorded from {figures.moment(window.since)} to {figures.moment(window.until)}, asked "
        "again by turnout replay. The two answers are of different hours and loads: no time is compared."
    )


def _of(part: int | None, whole: int | None) -> str:
    return figures.count(part) + (f" of {figures.count(whole)}" if whole else "")


def spec_tab(name: str) -> None:
    """The declaration as it was given, and the phases it went through."""
    one = view(name)
    if one is None:
        return
    if one.phases:
        rows = [
            {
                "Phase": phase.phase,
                "Candidate": figures.weight(phase.candidate_pct),
                "From": figures.moment(phase.started_at),
                "To": figures.moment(phase.ended_at) if phase.ended_at else "now",
            }
            for phase in one.phases
        ]
        st.dataframe(rows, hide_index=True)
    if one.spec_yaml:
        st.code(one.spec_yaml, language="yaml")
    else:
        st.info("The controller sent no specification.", icon=":material/description:")
