"""How does a verdict's folder look to somebody who reads it? A page in Markdown, and two plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from .scorecard import SCORECARD, accounting, effect_scale, scorecard_row

Json = dict[str, Any]

_WIDTH: Final = 560


def write_page(folder: Path) -> None:
    """Write `report.md`, `effects.svg` and `history.svg` beside the files of a verdict's folder."""
    verdict, sealed = (orjson.loads((folder / name).read_bytes()) for name in ("verdict.json", "code.json"))
    history = orjson.loads((folder / "history.json").read_bytes())
    plots = [
        name
        for name, chart in (("effects.svg", _effects(verdict)), ("history.svg", _history(history, verdict)))
        if chart is not None and _saved(chart, folder / name)
    ]
    (folder / "report.md").write_text("\n".join(_page(verdict, sealed, plots)) + "\n", "utf-8")


def _page(verdict: Json, sealed: Json, plots: list[str]) -> Iterator[str]:
    yield f"# {_text(verdict['experiment'])}: {_text(verdict['label'])}\n"
    yield f"{_text(verdict['sentence'])}\n"
    if verdict["reasons"]:
        yield "## Why\n"
        yield from (f"- {one['severity']}: {_text(one['text'])}" for one in verdict["reasons"])
        yield ""
    yield "## The metrics\n"
    yield f"| {' | '.join(SCORECARD)} |\n|{' --- |' * len(SCORECARD)}"
    for metric in verdict["metrics"]:
        yield f"| {' | '.join(_text(str(cell)) for cell in scorecard_row(metric))} |"
    yield "\nAn interval is for one look. Estimates at an early stop overstate the effect.\n"
    yield from (f"![{name.removesuffix('.svg')}]({name})\n" for name in plots)
    yield from _grounds(verdict)
    yield "## By which code\n"
    packages = ", ".join(f"{name} {version}" for name, version in sealed["packages"].items())
    yield f"Python {sealed['python']}; {packages}; `experiments/` {sealed['experiments'][:16]}.\n"
    yield "`turnout report --replay` of this folder makes the sums of the rows and the verdict of the sums,"
    yield "and compares each with what is here, to the byte."


def _grounds(verdict: Json) -> Iterator[str]:
    look, srm, cut = verdict["look"], verdict["srm"], verdict["cut"]
    yield "## What it rests on\n"
    yield f"- {verdict['units']:,} units of {verdict['horizon']:,}; look {look['done']} of {look['planned']}"
    yield f"- {verdict['recorded']:,} exchanges recorded, {verdict['lost']:,} lost"
    arms = ", ".join(f"{arm} {units:,}" for arm, units in sorted(srm["observed"].items()))
    if arms:
        yield f"- units by arm: {arms}; sample-ratio test: {srm['state'].replace('_', ' ')}"
    yield f"- golden set: {verdict['golden'] or 'none'}"
    if verdict.get("accounting"):  # not in the verdicts of an older Turnout
        yield f"- {_text(accounting(verdict))}"
    yield from (f"- {turn['metric']}, {_text(turn['text'])}" for turn in verdict.get("turns", ()))
    seen = ", ".join(f"{rows:,} rows of `{table}`" for table, rows in sorted(cut.items()))
    yield f"- it saw {seen}\n- digest {verdict['digest']}\n"


def _text(value: str) -> str:
    """Text from elsewhere, that cannot end a cell or begin a tag."""
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")


def _effects(verdict: Json) -> Any:
    """Every effect with its interval and margin, as a change in percent (shares: in points)."""
    import altair as alt

    rows = [row for metric in verdict["metrics"] if (row := _effect_row(metric)) is not None]
    if not rows:
        return None
    base = alt.Chart(_values(rows)).encode(y=alt.Y("metric:N", title=None, sort=None))
    span = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("lower:Q", title="candidate against control, % (shares: points)"), x2="upper:Q"
    )
    point = base.mark_point(filled=True, size=60, opacity=1).encode(x="estimate:Q")
    margin = base.mark_tick(color="firebrick", thickness=2, size=16).encode(x="margin:Q")
    zero = alt.Chart(_values([{"x": 0}])).mark_rule(strokeDash=[3, 3]).encode(x="x:Q")
    return (zero + span + point + margin).properties(width=_WIDTH)


def _effect_row(metric: Json) -> Json | None:
    effect = metric["effect"]
    if effect is None:
        return None
    control = next((arm["value"] for arm in metric["arms"] if arm["arm"] == "control"), None)
    ratio, share = effect["scale"] == "ratio", metric["kind"] == "binary"
    if ratio or share:
        scale = 100.0
    elif control:
        scale = 100.0 / abs(control)
    else:
        return None
    null = effect["null"]
    margin = metric["margin"]
    return {
        "metric": metric["metric"],
        "margin": None if margin is None else scale * (margin - null),
        **{name: scale * (effect[name] - null) for name in ("estimate", "lower", "upper")},
    }


def _history(history: list[Mapping[str, Any]], verdict: Json) -> Any:
    """How each band narrowed while units came, in its effect's unit; dashed: no effect."""
    import altair as alt

    told = {metric["metric"]: effect_scale(metric) for metric in verdict["metrics"]}
    rows = []
    for one in history:
        for metric, band in one["bands"].items():
            unit, ratio = told.get(metric, ("", False))
            null, times = (1.0 if ratio else 0.0), (100.0 if unit else 1.0)
            ends = (None if value is None else times * (value - null) for value in band)
            rows.append(
                {"units": one["units"], "metric": f"{metric}{unit and ','}{unit}", "none": 0.0}
                | dict(zip(("estimate", "lower", "upper"), ends, strict=True))
            )
    if len({row["units"] for row in rows}) < 2:
        return None
    base = alt.Chart(_values(rows)).encode(x=alt.X("units:Q", title="units"))
    area = base.mark_area(opacity=0.25).encode(y=alt.Y("lower:Q", title=None), y2="upper:Q")
    line = base.mark_line().encode(y="estimate:Q")
    none = base.mark_line(color="black", strokeWidth=1, strokeDash=[3, 3]).encode(y="none:Q")
    return (
        (area + line + none)
        .properties(width=_WIDTH, height=90)
        .facet(row=alt.Row("metric:N", title=None, sort=None))
        .resolve_scale(y="independent")
    )


def _values(rows: list[Json]) -> Any:
    import altair as alt

    return alt.Data(values=rows)  # type: ignore[no-untyped-call]


def _saved(chart: Any, file: Path) -> bool:
    chart.save(str(file))
    return True
