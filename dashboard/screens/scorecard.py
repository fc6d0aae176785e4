"""The scorecard: each metric with both arms, the difference, its intervals, the margin, n and missing.

A difference is coloured only if every interval shown excludes "no effect", never if the verdict is invalid.
"""

from collections.abc import Sequence

import streamlit as st

from .. import charts, chips, figures
from ..answers import Effect, Experiment, Metric, MetricArm, TurnStratum, Verdict
from ..client import path
from ..inert import badge, label
from ..live import Loaded, load, refreshed, usable

DECLARED, EXPLORATORY = ("success", "guardrail"), ("exploratory",)
NOTHING_SEEN = chips.Chip("no difference seen", ":material/drag_handle:", "gray")
TURN_STATES = {
    "alike": "no difference seen",
    "differ": "they differ",
    "opposed": "opposed",
    "insufficient_data": "too little data",
}
COLUMNS = (1.7, 1.5, 1.5, 2.4, 4.2)


@refreshed
def tab(name: str) -> None:
    """Draw the tab."""
    loaded: Loaded[Experiment] = load(Experiment, path("experiments", name))
    one = usable(loaded, f"The scorecard of {name}")
    if one is None:
        return
    verdict = one.verdict
    if verdict is None or not verdict.metrics:
        st.info(
            "No metric has a figure yet: the first answers have to be collected. "
            "This page looks again by itself.",
            icon=":material/hourglass_empty:",
        )
        return
    grey = chips.blocked(verdict)
    for group in (DECLARED, EXPLORATORY):
        metrics = [metric for role in group for metric in verdict.metrics if metric.role == role]
        if metrics:
            with st.container(border=True, gap="small"):
                if group is EXPLORATORY:
                    st.caption(
                        "Not declared beforehand: read as hints. p is adjusted for all of them at this look "
                        "(Benjamini and Hochberg); they decide nothing."
                    )
                for metric in metrics:
                    _row(metric, grey)
    _legend(verdict.metrics)
    if verdict.turns:
        _turns(verdict)


def _turns(verdict: Verdict) -> None:
    st.subheader("First and later turns", anchor=False)
    st.dataframe(turn_rows(verdict), hide_index=True)
    st.caption(
        "A later turn is a request that carries an earlier answer. What comes after an arm's own first "
        "answer is that arm's doing too: where the two differ, the figure over all turns describes neither. "
        "While they are opposed, nothing is shipped."
    )


def turn_rows(verdict: Verdict) -> list[dict[str, str]]:
    """A row per metric that was split: its difference on either kind of turn, and whether they agree."""
    cards = {metric.metric: metric for metric in verdict.metrics}
    return [
        {
            "Metric": turn.metric,
            "First turns": _on_turns(cards[turn.metric], turn.first),
            "Later turns": _on_turns(cards[turn.metric], turn.later),
            "Agreement": TURN_STATES.get(turn.state, turn.state),
        }
        for turn in verdict.turns
        if turn.metric in cards
    ]


def _on_turns(metric: Metric, stratum: TurnStratum) -> str:
    counts = " / ".join(figures.count(arm.n) for arm in stratum.arms)
    if stratum.effect is None:
        return f"too little data (n = {counts})"
    change = figures.change(metric, stratum.effect.estimate)
    return f"{change}, {figures.interval(metric, stratum.effect)} (n = {counts})"


def _row(metric: Metric, grey: bool) -> None:
    name, control, candidate, effect, plot = st.columns(COLUMNS, vertical_alignment="center", gap="small")
    with name, st.container(gap="xxsmall"):
        st.markdown(f"**{label(metric.metric, 60)}**")
        if not grey:
            chips.show(state_chip(metric))
        wanted = {"increase": "higher is better", "decrease": "lower is better"}.get(metric.direction or "")
        st.caption(label(" · ".join(part for part in (metric.role, wanted) if part), 80))
        if metric.instrument:
            st.caption(label(f"measured by {metric.instrument}", 120))
    with control:
        _arm("Control", metric, metric.arm("control"))
    with candidate:
        rest = [arm for arm in metric.arms if arm.arm != "control"]
        _arm("Candidate", metric, rest[0] if rest else None)
    with effect:
        _effect(metric, grey)
    with plot:
        _plot(metric, grey)


def state_chip(metric: Metric) -> chips.Chip:
    """The state in words, never more than the intervals shown support."""
    state = metric.state
    if state == "better" and figures.is_better(metric) is not True:
        state = "ok"
    if state == "ok":
        return chips.METRIC_STATES["ok"] if figures.is_within(metric) else NOTHING_SEEN
    return chips.chip_of(chips.METRIC_STATES, metric.state)


def _arm(title: str, metric: Metric, arm: MetricArm | None) -> None:
    if arm is None:
        chips.fact(title, "no data", "n = 0")
        return
    note = f"n = {figures.count(arm.n)}, missing {figures.count(arm.missing)}"
    chips.fact(f"{title} {figures.version(arm.version)}", figures.arm_value(metric, arm.value), note)


def delta(metric: Metric, grey: bool) -> tuple[str, chips.Colour]:
    """The difference as text and its colour name: green, red, or gray where nothing may be coloured."""
    shown = metric.effect or metric.band
    text = figures.change(metric, shown.estimate if shown is not None else None)
    better = None if grey else figures.is_better(metric)
    colours: dict[bool | None, chips.Colour] = {True: "green", False: "red", None: "gray"}
    return text, colours[better]


def _effect(metric: Metric, grey: bool) -> None:
    text, colour = delta(metric, grey)
    with st.container(gap=None):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.caption("Difference", width="content")
            if text != figures.DASH and colour != "gray":
                st.badge(badge(text), color=colour)
            elif text != figures.DASH:
                st.text(text, width="content")
        if text == figures.DASH:
            st.text(metric.text or "not enough data")
            return
        for title, part in (("any time", metric.band), ("planned look", metric.effect)):
            if part is not None:
                st.caption(label(f"{_level(part)}{title}: {figures.interval(metric, part)}"))
        if metric.margin is not None:
            st.caption(label(f"margin: {figures.change(metric, metric.margin)}"))
        for line in why(metric):
            st.caption(label(line))


def why(metric: Metric) -> list[str]:
    """By which number the state came about: z against its bound at this look, e against harm, adjusted p."""
    found = []
    if figures.known(metric.z) and figures.known(metric.z_bound):
        needed = f"{figures.number(metric.z)} of {figures.number(metric.z_bound)} needed"
        found.append(f"{'within its margin' if metric.role == 'guardrail' else 'this look'}: z {needed}")
    if metric.role == "guardrail" and figures.known(metric.e_value):
        found.append(
            f"evidence of harm: e {figures.evidence(metric.e_value)}, rolled back at "
            f"{figures.evidence(metric.threshold)}"
        )
    if figures.known(metric.adjusted_p):
        found.append(f"adjusted p: {figures.probability(metric.adjusted_p)}")
    return found


def _level(part: Effect) -> str:
    return f"{figures.level(part.level)} " if figures.known(part.level) else ""


def _plot(metric: Metric, grey: bool) -> None:
    palette = charts.PALETTES[chips.page_theme()]
    better = None if grey else figures.is_better(metric)
    colour = {True: palette.better, False: palette.worse, None: palette.muted}[better]
    chart = charts.forest(metric, palette, colour)
    if chart is None:
        return  # the column of the difference says why there is none
    st.altair_chart(chart, key=f"forest-{metric.role}-{metric.metric}")


def _legend(metrics: Sequence[Metric]) -> None:
    methods = sorted(
        {part.method for metric in metrics for part in (metric.effect, metric.band) if part and part.method}
    )
    st.caption(
        "Point: estimate. Thick bar: interval at the planned look. Thin line with caps: interval that holds "
        "however often one looks. Dashed: margin. Grey line: no effect. A difference whose interval covers "
        "“no effect” is never coloured." + (f" Methods: {label(', '.join(methods))}." if methods else "")
    )
