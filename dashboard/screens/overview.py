"""Page 1: which version is production, what is being tried against it, and what does the verdict say?

No p-values here, and every number with what it rests on.
"""

from collections.abc import Sequence

import streamlit as st

from .. import chips, figures
from ..answers import Experiment, ModelAnswer, Overview, VersionAnswer
from ..client import path
from ..inert import badge, label, prose
from ..live import STALE_AFTER_S, load, refreshed, usable
from . import experiment, paging

# What a model's card tells at a glance; the cards of the experiments tell the rest.
MAX_TOLD = 2
MAX_VERSIONS = 6
# All of it is drawn anew every few seconds: hundreds of cards would never be drawn to their end.
PER_PAGE = 10


def page() -> None:
    """Draw the page."""
    body()


@refreshed
def body() -> None:
    """Everything below the status line, drawn anew every few seconds."""
    overview = usable(load(Overview, path("overview")), "The overview")
    if overview is None:
        return
    _models(overview.models, overview.experiments)
    _experiments(overview)


def needs_you(one: Experiment) -> bool:
    """Does this experiment wait for a person: a verdict to act on, or figures that cannot be trusted?"""
    if one.state == "concluded":
        return True
    return (
        one.state not in chips.OVER
        and one.verdict is not None
        and one.verdict.kind in ("ship", "roll_back", "invalid")
    )


def _models(models: Sequence[ModelAnswer], experiments: Sequence[Experiment]) -> None:
    if not models:
        st.info(
            "No model is registered yet. `turnout models register` adds the first version.",
            icon=":material/inventory_2:",
        )
        return
    for model in paging.part(models, "models-page", PER_PAGE):
        with st.container(border=True, gap="small"):
            _model(model, telling(model, experiments))
    paging.turn("models-page", len(models), PER_PAGE)


def telling(model: ModelAnswer, experiments: Sequence[Experiment]) -> list[Experiment]:
    """The model's experiments under way, those that wait for a person first; else the last that ended."""
    mine = [one for one in experiments if one.model == model.name]
    current = [one for one in mine if one.state not in chips.OVER]
    if current:
        return sorted(current, key=lambda one: (not needs_you(one), one.age_s or 0.0))
    return sorted(mine, key=lambda one: one.ended_at.timestamp() if one.ended_at else 0.0)[-1:]


def _model(model: ModelAnswer, shown: Sequence[Experiment]) -> None:
    name, tried, verdict = st.columns((1.5, 2.0, 5.2), gap="medium")
    with name:
        _production(model)
    if not shown:
        with tried, st.container(gap="xsmall"):
            st.caption("Being tried")
            st.text("nothing")
        with verdict:
            chips.fact("Verdict", "none: no experiment has been started on this model")
    for one in shown[:MAX_TOLD]:
        with tried:
            _tried(one)
        with verdict:
            _said(one)
    if len(shown) > MAX_TOLD:
        with verdict:
            st.caption(f"and {len(shown) - MAX_TOLD} more under way, below")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for version in sorted(model.versions, key=lambda one: -one.version)[:MAX_VERSIONS]:
            _version(model, version)
        if not model.versions:
            st.caption("No version is registered.")
        elif len(model.versions) > MAX_VERSIONS:
            st.caption(f"and {len(model.versions) - MAX_VERSIONS} earlier versions", width="content")


def _production(model: ModelAnswer) -> None:
    with st.container(gap=None):
        st.metric(label(f"{model.name}: production", 80), figures.version(model.production))
        if model.production is None:
            st.badge("no production version", icon=":material/warning:", color="orange")
        if model.former is not None:
            st.caption(f"before: {figures.version(model.former)}")


def _tried(one: Experiment) -> None:
    candidate = one.candidate
    with st.container(gap=None):
        st.metric(
            "Tried last" if one.state in chips.OVER else "Being tried",
            figures.version(candidate.version if candidate is not None else None),
        )
        st.caption(label(share(one), 120))


def _said(one: Experiment) -> None:
    with st.container(gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            chips.show(chips.verdict_chip(one.verdict))
            chips.show(chips.chip_of(chips.STATES, one.state))
            st.page_link(experiment.here(), label=label(one.name, 80), query_params={"name": one.name})
        st.markdown(f"**{label(chips.sentence(one), 400)}**")


def share(one: Experiment) -> str:
    """Who gets, or got, the candidate: A/B on 50 % of users."""
    mode = chips.MODES[one.mode].words if one.mode in chips.MODES else one.mode
    candidate = one.candidate
    now = candidate.weight_pct if candidate is not None else None
    part = one.candidate_pct if one.state in chips.OVER or now is None else now
    if part is None:
        return mode
    part *= one.entering_pct / 100
    whom = f"{one.unit}s" if one.unit in ("user", "session", "tenant", "request") else "units"
    verb = "copies of" if one.mode == "shadow" else "on"
    return f"{mode} {verb} {figures.weight(part)} of {whom}"


def _version(model: ModelAnswer, version: VersionAnswer) -> None:
    words = [figures.version(version.version), *roles(model, version)]
    st.badge(badge(" · ".join(words)), color="blue" if version.version == model.production else "gray")
    for name, verdict in golden_tags(version):
        chips.show(chips.chip_of(chips.GOLDEN, verdict), prefix=name)
    endpoint = version.endpoint
    if version.problem:
        st.badge(badge(version.problem, 80), icon=":material/warning:", color="orange")
    elif endpoint is None:
        st.caption("no endpoint", width="content")
    elif not endpoint.replicas:  # a provider
        st.caption(label(f"{endpoint.engine}, {endpoint.served_name}", 60), width="content")
    else:
        count = len(endpoint.replicas)
        replicas = f"{count} replica{'s' if count != 1 else ''}"
        st.caption(label(f"{endpoint.engine or 'engine unknown'}, {replicas}", 60), width="content")


def golden_tags(version: VersionAnswer) -> list[tuple[str, str]]:
    """(set's name, verdict) of each golden set that the version was compared on."""
    found = [(key, value) for key, value in version.tags.items() if key.startswith("golden.")]
    return [(key.removeprefix("golden."), str(value).split(" ", 1)[0]) for key, value in found]


def roles(model: ModelAnswer, version: VersionAnswer) -> list[str]:
    """What a version is to its model: production, former, and its aliases, each once."""
    found = ["production"] if version.version == model.production else []
    if version.version == model.former:
        found.append("former")
    return list(dict.fromkeys([*found, *version.aliases]))


def _experiments(overview: Overview) -> None:
    experiments = overview.experiments
    current = [one for one in experiments if one.state not in chips.OVER]
    ended = [one for one in experiments if one.state in chips.OVER]
    waiting = sum(1 for one in experiments if needs_you(one))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.subheader("Experiments", anchor=False, width="content")
        st.caption(
            f"{figures.count(len(current))} under way, {figures.count(waiting)} waiting for you, "
            f"{figures.count(len(ended))} ended" + _ledger(overview),
            width="content",
        )
    if not experiments:
        st.info(
            "No experiment has been started. `turnout experiment start FILE.yaml` starts one.",
            icon=":material/science:",
        )
    _cards(sorted(current, key=lambda one: (not needs_you(one), one.age_s or 0.0)), "current-page")
    if ended and current:
        st.subheader("Ended", anchor=False)
    newest = sorted(ended, key=lambda one: one.ended_at.timestamp() if one.ended_at else 0.0, reverse=True)
    _cards(newest, "ended-page")


def _cards(experiments: Sequence[Experiment], place: str) -> None:
    for one in paging.part(experiments, place, PER_PAGE):
        _card(one)
    paging.turn(place, len(experiments), PER_PAGE)


def _ledger(overview: Overview) -> str:
    health = overview.health
    if health is None or health.ledger is None:
        return ""
    return (
        f" · {figures.count(health.ledger.exchanges)} exchanges recorded, {figures.count(health.losses)} lost"
    )


def _card(one: Experiment) -> None:
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            chips.show(chips.verdict_chip(one.verdict))
            st.page_link(
                experiment.here(), label=f"**{label(one.name, 80)}**", query_params={"name": one.name}
            )
            st.caption(label(one.model, 80), width="content")
            chips.show(chips.chip_of(chips.MODES, one.mode))
            chips.show(chips.chip_of(chips.STATES, one.state))
        st.markdown(f"**{label(chips.sentence(one), 400)}**")
        if waiting := chips.waiting(one):
            st.caption(prose(f"Waiting: {waiting}", 300))
        with st.grid(5, min_column_width=150, gap="small") as grid:
            with grid.cell():
                chips.fact("Tried" if one.state in chips.OVER else "Split", *split_lines(one))
            with grid.cell():
                _progress(one)
            with grid.cell():
                _lights(one)
            with grid.cell():
                chips.fact("Coverage", *coverage(one))
            with grid.cell():
                chips.fact(
                    "Ran for" if one.state in chips.OVER else "Age", figures.span(one.age_s), freshness(one)
                )


def split_lines(one: Experiment) -> tuple[str, str]:
    """What the candidate gets in one line, the versions in the next."""
    names = (f"{arm.arm} {figures.version(arm.version)}" for arm in one.arms)
    versions = " · ".join((*names, *chips.entering(one)))
    if one.state in chips.OVER or one.mode == "shadow":
        return share(one), versions
    weights = " / ".join(figures.weight(arm.weight_pct) for arm in one.arms) or figures.DASH
    return weights, versions


def _progress(one: Experiment) -> None:
    with st.container(gap=None):
        st.caption(f"{one.unit}s".capitalize() if one.unit in ("user", "session", "tenant") else "Units")
        if one.units is None:
            st.text(figures.DASH)
            return
        if not one.horizon:
            st.text(figures.count(one.units))
            return
        st.text(f"{figures.count(one.units)} of {figures.count(one.horizon)}")
        left = (
            f"about {figures.span(one.days_left * 86400)} left"
            if one.days_left is not None and one.state not in chips.OVER
            else ""
        )
        st.progress(min(1.0, max(0.0, one.units / one.horizon)))
        if left:
            st.caption(left)


def _lights(one: Experiment) -> None:
    with st.container(gap="xxsmall"):
        st.caption("Guardrails" + (" at the end" if one.state in chips.OVER else ""))
        if not one.guardrails:
            st.text("none declared")
        for light in one.guardrails:
            chips.show(chips.chip_of(chips.GUARDRAILS, light.state), prefix=light.metric)


def coverage(one: Experiment) -> tuple[str, str]:
    """The share of exchanges that reached the ledger, and the two counts behind it."""
    books = one.accounting
    if books is None or books.recorded is None:
        return figures.DASH, "no accounting"
    lost = books.lost or 0
    if books.recorded + lost == 0:
        return "no data", "0 recorded, 0 lost"
    share = books.recorded / (books.recorded + lost)
    # 99.98 % must not be rounded to "all".
    shown = "100\u202f%" if lost == 0 else figures.percent(min(share, 0.9999), 2)
    return shown, f"{figures.count(books.recorded)} recorded, {figures.count(lost)} lost"


def freshness(one: Experiment) -> str:
    """How old the newest row behind this card is."""
    if one.data_age_s is None:
        return "no data yet"
    if one.state in chips.OVER and one.ended_at is not None:
        return f"ended {figures.moment(one.ended_at)}"
    # Of any other nothing new is looked at: it is paused, or its verdict waits for somebody.
    awaited = one.state in ("running", "invalid")
    late = " — late" if awaited and one.data_age_s > STALE_AFTER_S else ""
    return f"data as of {figures.span(one.data_age_s)} ago{late}"
