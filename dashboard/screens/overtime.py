"""How did the effect and the traffic move, and what was done meanwhile?"""

from collections.abc import Sequence

import altair as alt
import streamlit as st

from .. import charts, chips, figures
from ..answers import EffectAt, Event, Experiment, Metric, Timeline, TrafficBucket
from ..client import path
from ..inert import label
from ..live import Loaded, load, refreshed, usable
from . import paging

BUCKETS = {"auto": 0, "1 s": 1, "10 s": 10, "1 min": 60, "10 min": 600, "1 h": 3600}
WIDTHS_S = (1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600, 21_600)
# More buckets than this are too narrow to be told apart; the small chart has room for fewer.
MAX_BUCKETS = 120
GLANCE_BUCKETS = 40
GLANCE_HEIGHT = 160
# All of it is drawn anew every few seconds: hundreds of rows would never be drawn to their end.
PER_PAGE = 25


def tab(name: str) -> None:
    """Draw the tab. The control stands outside the live part: no refresh takes it from under the hand."""
    bucket = st.segmented_control(
        "Bucket",
        list(BUCKETS),
        default="auto",
        required=True,
        key="bucket",
        bind="query-params",
        label_visibility="collapsed",
    )
    live(name, BUCKETS[str(bucket or "auto")])


def fitting(age_s: float | None, most: int = MAX_BUCKETS) -> int:
    """The narrowest bucket, in seconds, with which `age_s` seconds make at most `most` buckets."""
    return next((size for size in WIDTHS_S if (age_s or 0.0) / size <= most), 86_400)


def glance(one: Experiment) -> None:
    """The traffic per arm as a small chart for the first screen. Part of a live fragment already."""
    bucket_s = fitting(one.age_s, GLANCE_BUCKETS)
    loaded: Loaded[Timeline] = load(
        Timeline, path("experiments", one.name, "timeline"), {"bucket_s": bucket_s}
    )
    traffic = loaded.value.traffic if loaded.value is not None else ()
    palette = charts.PALETTES[chips.page_theme()]
    chart = charts.over_time(traffic, (), palette, "requests", bucket_s, GLANCE_HEIGHT)
    with st.container(gap=None):
        st.caption(f"Traffic per arm and {figures.span(bucket_s)}")
        if chart is None:
            st.text("No traffic has been recorded yet.")
            return
        st.altair_chart(chart, key="glance")


@refreshed
def live(name: str, bucket_s: int) -> None:
    """The charts, drawn anew every few seconds. `bucket_s` 0: as the experiment's age suggests."""
    if not bucket_s:
        about: Loaded[Experiment] = load(Experiment, path("experiments", name))
        bucket_s = fitting(about.value.age_s if about.value is not None else None)
    loaded: Loaded[Timeline] = load(Timeline, path("experiments", name, "timeline"), {"bucket_s": bucket_s})
    timeline = usable(loaded, f"The course of {name}")
    if timeline is None:
        return
    _effects(name, timeline)
    _traffic(timeline, bucket_s)
    _events(name, timeline.events)


def _effects(name: str, timeline: Timeline) -> None:
    st.subheader("Effect", anchor=False)
    names = list(dict.fromkeys(effect.metric for effect in timeline.effects))
    if not names:
        st.info(
            "No look at the data yet: the band starts with the first one.", icon=":material/hourglass_empty:"
        )
        return
    # A select box shows options as plain text; a segmented control reads Markdown, also in a metric's name.
    chosen = st.selectbox(
        "Metric", names, key="metric", bind="query-params", label_visibility="collapsed", width=280
    )
    chosen = chosen if chosen in names else names[0]
    metric = _declared(name, str(chosen))
    series = [effect for effect in timeline.effects if effect.metric == chosen]
    if not any(figures.known(effect.estimate) for effect in series):
        st.info(
            f"{label(chosen, 60)} has no estimate yet: both arms need data.",
            icon=":material/hourglass_empty:",
        )
        return
    _effect_chart(series, timeline.events, metric)


def _effect_chart(series: Sequence[EffectAt], events: Sequence[Event], metric: Metric) -> None:
    st.altair_chart(
        charts.effect_over_time(series, events, metric, charts.PALETTES[chips.page_theme()]),
        key="effect-time",
    )
    st.caption(
        "Shaded: confidence sequence, valid at every look at once. Dashed: margin. Grey line: no effect. "
        f"{figures.count(len(series))} look{'' if len(series) == 1 else 's'} kept. Times are UTC."
    )


def _declared(name: str, metric: str) -> Metric:
    """The metric as the verdict has it (kind and scale say how to write it), or a bare one."""
    loaded: Loaded[Experiment] = load(Experiment, path("experiments", name))
    verdict = loaded.value.verdict if loaded.value is not None else None
    found = [one for one in verdict.metrics if one.metric == metric] if verdict is not None else []
    return found[0] if found else Metric(metric=metric)


def _traffic(timeline: Timeline, bucket_s: int) -> None:
    st.subheader("Traffic", anchor=False)
    palette = charts.PALETTES[chips.page_theme()]
    requests = charts.over_time(timeline.traffic, timeline.events, palette, "requests", bucket_s)
    if requests is None:
        none = "No traffic has been recorded for this experiment yet."
        if timeline.traffic:
            none = "No copy has been sent yet: the tab Accounting says why."
        st.info(none, icon=":material/hourglass_empty:")
        return
    st.altair_chart(requests, key="traffic")
    st.caption(
        f"{total(timeline.traffic)}, one bucket is {figures.span(bucket_s)} wide. "
        "Numbered lines: what was done, listed below."
    )
    left, right = st.columns(2, gap="medium")
    with left:
        _small(
            charts.over_time(timeline.traffic, timeline.events, palette, "failures", bucket_s, 160),
            "Failed share",
            "failures",
        )
    with right:
        _small(
            charts.over_time(timeline.traffic, timeline.events, palette, "p50_ttft_ms", bucket_s, 160),
            "Time to first token",
            "ttft",
        )


def total(traffic: Sequence[TrafficBucket]) -> str:
    """What the stacked bars hold: requests, of a shadow the copies that were sent, or some of both."""
    shadowed = {bucket.phase for bucket in traffic if bucket.mirrored}
    counted = {"requests": 0, "copies": 0}
    for bucket in traffic:
        if not bucket.mirrored:
            counted["copies" if bucket.phase in shadowed else "requests"] += bucket.requests
    return " and ".join(f"{figures.count(n)} {what}" for what, n in counted.items() if n) or "0 requests"


def _small(chart: alt.LayerChart | None, title: str, key: str) -> None:
    st.markdown(f"**{title}**")
    if chart is None:
        st.caption("No figures: nothing of this kind was measured.")
        return
    st.altair_chart(chart, key=key)


def _events(name: str, events: Sequence[Event]) -> None:
    if not events:
        return
    st.subheader("What was done", anchor=False)
    newest, shown = [*enumerate(events, start=1)][::-1], f"events-{name}"
    with st.container(border=True, gap="xxsmall"):
        for number, event in paging.part(newest, shown, PER_PAGE):
            place, when, action, text = st.columns((0.3, 1.9, 1.0, 7.0), gap="small")
            place.caption(str(number))
            when.caption(figures.moment(event.at))
            with action, st.container(gap="xxsmall"):
                st.markdown(f"**{label(event.action, 40)}**")
                if unfinished := chips.unfinished(event.state):
                    chips.show(unfinished)
            with text, st.container(gap=None):
                st.text(event.text)
                if said := ": ".join(part for part in (event.actor, event.reason) if part):
                    st.caption(label(f"by {said}", 300))
    paging.turn(shown, len(events), PER_PAGE)
