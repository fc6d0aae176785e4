"""How are effects, intervals, margins and traffic drawn?

Pure functions from answers to Altair charts. They must not fetch, and must not decide what is good or bad:
colours of effects come in from the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import altair as alt
import pandas as pd

from . import figures
from .answers import Effect, EffectAt, Event, Metric, TrafficBucket
from .inert import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of one theme; the same hues as in .streamlit/config.toml."""

    control: str
    candidate: str
    further: str
    better: str
    worse: str
    margin: str
    muted: str
    line: str
    text: str
    ground: str


PALETTES: dict[Literal["light", "dark"], Palette] = {
    "light": Palette(
        control="#8a97a8",
        candidate="#3355c8",
        further="#8a5cc7",
        better="#1a8a5a",
        worse="#cc3d4a",
        margin="#c8741a",
        muted="#64748b",
        line="#c3ccd8",
        text="#1b2330",
        ground="#ffffff",
    ),
    "dark": Palette(
        control="#7d8a9c",
        candidate="#8ba3ff",
        further="#b79cf0",
        better="#57c795",
        worse="#f0808a",
        margin="#e8a04e",
        muted="#8b98aa",
        line="#3a4554",
        text="#e4e9f1",
        ground="#10141b",
    ),
}

FOREST_HEIGHT = 70


def _axis(**more: Any) -> alt.Axis:
    return alt.Axis(
        ticks=False, domain=False, labelFontSize=11, titleFontSize=11, titlePadding=6, labelPadding=6, **more
    )


def _framed(layers: Sequence[alt.Chart], height: int) -> alt.LayerChart:
    chart: alt.LayerChart = alt.layer(*layers).properties(height=height).configure_view(strokeWidth=0)
    return chart


def forest(metric: Metric, palette: Palette, colour: str) -> alt.LayerChart | None:
    """One metric's effect on an axis of its own, with intervals, "no effect" and margin. None: no estimate.

    Thick: interval of the planned look. Thin, with end caps: the one that holds however often one looks.
    """
    scale = (metric.effect or metric.band or Effect()).scale
    shown = {
        name: tuple(
            figures.on_screen(metric, value, scale) for value in (part.estimate, part.lower, part.upper)
        )
        for name, part in (("fixed", metric.effect), ("anytime", metric.band))
        if part is not None and part.scale == scale
    }
    centre = next((ends[0] for ends in shown.values() if ends[0] is not None), None)
    if centre is None:
        return None
    margin = figures.on_screen(metric, metric.margin, scale)
    low, high = _domain([0.0, margin, *(value for ends in shown.values() for value in ends)])
    unit = figures.effect_unit(metric, scale)
    x = alt.X(
        "value:Q",
        title=None,
        scale=alt.Scale(domain=[low, high], nice=False, zero=False),
        axis=_axis(
            tickCount=5, labelExpr=_with_sign(unit), grid=True, gridColor=palette.line, gridOpacity=0.35
        ),
    )
    layers = [_rule(0.0, x, palette.muted, "no effect", unit)]
    if margin is not None:
        layers += [
            _rule(margin, x, palette.margin, "margin", unit, dash=[5, 4]),
            _margin_word(margin, x, palette),
        ]
    for name, (_, lower, upper) in shown.items():
        if lower is not None or upper is not None:
            layers += _span(name, lower, upper, (low, high), x, unit, colour)
    point = alt.Chart(pd.DataFrame([{"value": centre}]))
    layers.append(
        point.mark_point(
            filled=True, size=70, color=colour, opacity=1, stroke=palette.ground, strokeWidth=1.5
        ).encode(x=x, tooltip=[alt.Tooltip("value:Q", title=f"Δ {unit}".strip(), format="+.3~g")])
    )
    return _framed(layers, FOREST_HEIGHT)


_WHAT = {"fixed": "interval at the planned look", "anytime": "interval that holds at any time"}


def _span(
    name: str,
    lower: float | None,
    upper: float | None,
    edges: tuple[float, float],
    x: alt.X,
    unit: str,
    colour: str,
) -> list[alt.Chart]:
    # An open end is drawn to the edge of the plot: it is not known to be anywhere nearer.
    ends = {"value": edges[0] if lower is None else lower, "to": edges[1] if upper is None else upper}
    tooltip = [
        alt.Tooltip("what:N", title="which"),
        alt.Tooltip("value:Q", title=f"lower {unit}".strip(), format="+.3~g"),
        alt.Tooltip("to:Q", title=f"upper {unit}".strip(), format="+.3~g"),
    ]
    span = alt.Chart(pd.DataFrame([{**ends, "what": _WHAT[name]}])).encode(x=x, x2="to:Q", tooltip=tooltip)
    if name == "fixed":
        return [span.mark_bar(height=10, cornerRadius=3, color=colour, opacity=0.4)]
    caps = alt.Chart(pd.DataFrame([{"value": value} for value in (lower, upper) if value is not None]))
    return [
        span.mark_rule(color=colour, strokeWidth=1.6),
        caps.mark_tick(color=colour, thickness=1.6, size=12).encode(x=x),
    ]


def _with_sign(unit: str) -> str:
    """A Vega expression for axis labels. `unit` is foreign text: only the two known ones get into it."""
    shown = f"\u202f{unit}" if unit in ("%", "pp") else ""
    return f"replace((datum.value > 0 ? '+' : '') + format(datum.value, ',~g'), '-', '\u2212') + '{shown}'"


def _rule(
    at: float, x: alt.X, colour: str, what: str, unit: str, dash: Sequence[float] | None = None
) -> alt.Chart:
    mark = alt.Chart(pd.DataFrame([{"value": at, "what": what}])).mark_rule(
        color=colour, strokeWidth=1.5, strokeDash=list(dash or [1, 0])
    )
    tooltip = [
        alt.Tooltip("what:N", title="line"),
        alt.Tooltip("value:Q", title=unit or "at", format="+.3~g"),
    ]
    chart: alt.Chart = mark.encode(x=x, tooltip=tooltip)
    return chart


def _margin_word(at: float, x: alt.X, palette: Palette) -> alt.Chart:
    word = alt.Chart(pd.DataFrame([{"value": at, "what": "margin"}])).mark_text(
        color=palette.margin, fontSize=10, dy=-5, baseline="bottom"
    )
    chart: alt.Chart = word.encode(x=x, y=alt.value(0), text="what:N")
    return chart


def _domain(values: Sequence[float | None]) -> tuple[float, float]:
    there = [value for value in values if value is not None]
    low, high = min(there), max(there)
    room = (high - low) * 0.12 or 1.0
    return low - room, high + room


def _ms(at: datetime) -> float:
    """Milliseconds since 1970: a time that no step on the way to the browser can shift by a zone."""
    return at.timestamp() * 1000


AT = alt.X("at:T", title=None, scale=alt.Scale(type="utc", nice=False))


def _time(instants: Sequence[datetime]) -> alt.Chart:
    """An empty layer with the time axis (UTC, like every table) and a little room at both ends.

    The room is made by two points that nobody sees: Vega loses a domain given in numbers between layers.
    """
    low, high = min(instants), max(instants)
    span = (high - low).total_seconds()
    form = "%H:%M:%S" if span < 600 else "%H:%M" if span < 36 * 3600 else "%d %b"
    room = max(span * 0.02, 0.5) * 1000
    axis = _axis(format=form, tickCount=6, grid=False, labelOverlap=True, labelBound=True)
    ends = pd.DataFrame([{"at": _ms(low) - room}, {"at": _ms(high) + room}])
    x = alt.X("at:T", title=None, scale=alt.Scale(type="utc", nice=False), axis=axis)
    layer: alt.Chart = alt.Chart(ends).mark_point(opacity=0, tooltip=None).encode(x=x)
    return layer


def _instants(traffic: Sequence[TrafficBucket], events: Sequence[Event], bucket_s: int) -> list[datetime]:
    """What a time axis has to hold: whole buckets, and what was done."""
    ends = [bucket.at + timedelta(seconds=bucket_s) for bucket in traffic]
    return [*(bucket.at for bucket in traffic), *ends, *(event.at for event in events)]


def effect_over_time(
    effects: Sequence[EffectAt], events: Sequence[Event], metric: Metric, palette: Palette
) -> alt.LayerChart:
    """The effect of one metric at every look, with the band that holds at all of them, and the margin. Each
    stage measures anew: no line leads from one to the next."""
    scale = effects[-1].scale or (metric.band or metric.effect or Effect()).scale
    columns = ("estimate", "lower", "upper", "margin")
    drawn = [(effect.estimate, effect.lower, effect.upper, effect.margin) for effect in effects]
    values = [[figures.on_screen(metric, value, scale) for value in four] for four in drawn]
    rows = [
        {
            "at": _ms(effect.at),
            "when": figures.moment(effect.at),
            "stage": one_line(effect.stage, 40),
            **dict(zip(columns, four, strict=True)),
        }
        for effect, four in zip(effects, values, strict=True)
    ]
    unit = figures.effect_unit(metric, scale)
    # The first looks have bands so wide that they would flatten all that follows: they are cut, not hidden.
    low, high = _domain([0.0, *(value for four in values[len(values) // 5 :] for value in four)])
    y_scale = alt.Scale(domain=[low, high], clamp=True, zero=False, nice=False)
    axis = _axis(tickCount=5, labelExpr=_with_sign(unit), grid=True, gridColor=palette.line, gridOpacity=0.35)

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title="Δ candidate − control", scale=y_scale, axis=axis)

    tooltip = [alt.Tooltip("when:N", title="look"), alt.Tooltip("stage:N")]
    tooltip += [alt.Tooltip(f"{name}:Q", title=f"{name} {unit}".strip(), format="+.3~g") for name in columns]
    base = alt.Chart(pd.DataFrame(rows)).encode(x=AT, detail="stage:N")
    zero = alt.Chart(pd.DataFrame([{"estimate": 0.0}]))
    layers = [
        _time([*(effect.at for effect in effects), *(event.at for event in events)]),
        base.mark_area(opacity=0.16, color=palette.candidate).encode(y=y("lower"), y2="upper:Q"),
        # A first look alone has no area yet.
        base.mark_rule(opacity=0.5, color=palette.candidate).encode(y=y("lower"), y2="upper:Q"),
        zero.mark_rule(color=palette.muted, strokeWidth=1.5).encode(y=y("estimate")),
        base.mark_line(color=palette.margin, strokeDash=[5, 4], strokeWidth=1.5).encode(y=y("margin")),
        base.mark_line(color=palette.candidate, strokeWidth=2.2).encode(y=y("estimate")),
        base.mark_point(filled=True, size=34, color=palette.candidate, opacity=1).encode(
            y=y("estimate"), tooltip=tooltip
        ),
    ]
    return _framed([*layers, *_event_lines(events, palette)], 260)


def _event_lines(events: Sequence[Event], palette: Palette) -> list[alt.Chart]:
    if not events:
        return []
    rows = [
        {
            "at": _ms(event.at),
            "when": figures.moment(event.at),
            "number": str(index),
            "what": one_line(event.action, 40) + (" (failed)" if event.state == "failed" else ""),
            "text": one_line(event.text, 160),
        }
        for index, event in enumerate(events, start=1)
    ]
    tooltip = [alt.Tooltip(f"{name}:N", title=title) for name, title in _EVENT_TOOLTIP]
    base = alt.Chart(pd.DataFrame(rows)).encode(x=AT, tooltip=tooltip)
    disc = base.mark_point(
        filled=True, size=200, color=palette.ground, stroke=palette.muted, strokeWidth=1, opacity=1
    )
    return [
        base.mark_rule(color=palette.muted, strokeWidth=1, strokeDash=[2, 3]),
        disc.encode(y=alt.value(0)),
        base.mark_text(fontSize=10, fontWeight=600, color=palette.muted).encode(
            y=alt.value(0), text="number:N"
        ),
    ]


_EVENT_TOOLTIP = (("when", "when"), ("what", "action"), ("text", "what"))


def _arms(arms: Sequence[str], palette: Palette) -> alt.Color:
    """Control grey, candidate in the accent, further ones in a third colour, on every chart alike."""
    named = {"control": palette.control, "candidate": palette.candidate}
    legend = alt.Legend(title=None, orient="bottom", direction="horizontal", symbolType="circle", offset=4)
    scale = alt.Scale(domain=list(arms), range=[named.get(arm, palette.further) for arm in arms])
    return alt.Color("arm:N", scale=scale, legend=legend)


def over_time(
    traffic: Sequence[TrafficBucket],
    events: Sequence[Event],
    palette: Palette,
    what: Literal["requests", "failures", "p50_ttft_ms"],
    bucket_s: int,
    height: int = 200,
) -> alt.LayerChart | None:
    """Requests (stacked), failed share or median TTFT per arm and bucket. None: nothing to draw.

    A request that was mirrored is in the stack as its copy, once.
    """
    if what == "requests":
        traffic = [bucket for bucket in traffic if not bucket.mirrored]
    rows = [row for row in (_bucket(bucket, what) for bucket in traffic) if row["value"] is not None]
    if not rows:
        return None
    arms = sorted({row["arm"] for row in rows}, key=lambda arm: (arm != "control", arm))
    title, form, tip = _AXES[what]
    axis = _axis(tickCount=4, format=form, grid=True, gridColor=palette.line, gridOpacity=0.35)
    tooltip = [
        alt.Tooltip("when:N", title="from"),
        alt.Tooltip("arm:N", title="arm"),
        alt.Tooltip("value:Q", title=title, format=tip),
        alt.Tooltip("requests:Q", title="n", format=","),
        alt.Tooltip("phase:N", title="phase"),
    ]
    time = _time(_instants(traffic, events, bucket_s))
    if what == "requests":
        rows = _stacked(rows, arms, bucket_s)
    base = alt.Chart(pd.DataFrame(rows)).encode(x=AT, color=_arms(arms, palette), tooltip=tooltip)
    if what == "requests":
        mark = base.mark_rect(opacity=0.9, stroke=palette.ground, strokeWidth=0.5).encode(
            x2="to:T", y=alt.Y("low:Q", title=title, axis=axis), y2="high:Q"
        )
    else:
        mark = base.mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=30, filled=True)).encode(
            y=alt.Y("value:Q", title=title, axis=axis)
        )
    return _framed([time, mark, *_event_lines(events, palette)], height)


def _stacked(rows: Sequence[dict[str, Any]], arms: Sequence[str], bucket_s: int) -> list[dict[str, Any]]:
    """The rows with the corners of their bars, candidates below control. Vega stacks no bars of a width."""
    tops: dict[float, float] = {}
    found = []
    for row in sorted(rows, key=lambda row: (row["at"], -arms.index(row["arm"]))):
        low = tops.get(row["at"], 0.0)
        tops[row["at"]] = low + row["value"]
        found.append(row | {"low": low, "high": tops[row["at"]], "to": row["at"] + bucket_s * 1000})
    return found


_AXES = {
    "requests": ("requests", ",d", ",d"),
    "failures": ("failed share", ".1~%", ".2%"),
    "p50_ttft_ms": ("median TTFT, ms", ",~r", ",.4~r"),
}


def _bucket(bucket: TrafficBucket, what: str) -> dict[str, Any]:
    value: float | None = bucket.requests
    if what == "failures":
        value = None if bucket.failures is None or not bucket.requests else bucket.failures / bucket.requests
    elif what == "p50_ttft_ms":
        value = bucket.p50_ttft_ms
    return {
        "at": _ms(bucket.at),
        "when": figures.moment(bucket.at),
        "arm": one_line(bucket.arm or "no arm", 60),
        "phase": bucket.phase,
        "requests": bucket.requests,
        "value": value,
    }


# What legend and slanted names of items take of the height.
GOLDEN_WORDS = 110
GOLDEN_STATES = ("passes", "fails", "fails newly", "no score")


def golden_grid(rows: Sequence[dict[str, Any]], palette: Palette) -> alt.LayerChart | None:
    """Versions (`version`, rows) by items (`item`, columns), coloured by `state`, one of GOLDEN_STATES."""
    if not rows:
        return None
    items = list(dict.fromkeys(row["item"] for row in rows))
    versions = list(dict.fromkeys(row["version"] for row in rows))
    # Passing is the normal case and stays quiet; what fails newly is what the eye shall find.
    quiet = [(palette.better, 0.24), (palette.margin, 0.34), (palette.worse, 0.95), (palette.line, 0.6)]
    colours = [_on_ground(colour, part, palette.ground) for colour, part in quiet]
    present = {row["state"] for row in rows}
    colour = alt.Color(
        "state:N",
        scale=alt.Scale(domain=list(GOLDEN_STATES), range=colours),
        legend=alt.Legend(
            title=None,
            orient="top",
            direction="horizontal",
            symbolType="square",
            values=[state for state in GOLDEN_STATES if state in present],
        ),
    )
    plain: dict[str, Any] = {"ticks": False, "domain": False, "grid": False, "labelOverlap": False}
    below = alt.Axis(orient="bottom", labelAngle=-60, labelLimit=110, labelFontSize=10, **plain)
    beside = alt.Axis(labelPadding=8, labelFontSize=13, labelFontWeight=600, **plain)
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("item", "version", "state", "against")]
    base = alt.Chart(pd.DataFrame(list(rows))).encode(
        x=alt.X("item:N", title=None, sort=items, axis=below),
        y=alt.Y("version:N", title=None, sort=versions, axis=beside),
        tooltip=[*tooltip, alt.Tooltip("n:Q", title="results")],
    )
    cells = base.mark_rect(cornerRadius=3, stroke=palette.ground, strokeWidth=2, opacity=1)
    return _framed([cells.encode(color=colour)], 36 * len(versions) + GOLDEN_WORDS)


def _on_ground(colour: str, part: float, ground: str) -> str:
    """`colour` (#rrggbb) of which `part` covers the ground: also in the legend, unlike an opacity."""
    pairs = [(int(colour[at : at + 2], 16), int(ground[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(front * part + back * (1 - part)):02x}" for front, back in pairs)
