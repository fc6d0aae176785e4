"""How far can the judges of a comparison be trusted, and what do people's labels make of them?"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from .. import figures
from ..answers import GoldenComparison
from ..inert import label, one_line

_COLUMNS = (
    "Check", "Judge", "Asked", "No verdict", "Not answered", "Flips", "Median", "Cost", "Labelled items",
    "People agree", "Kappa", "Judge alone", "Corrected by labels",
)  # fmt: skip


def show(one: GoldenComparison) -> None:
    """The judges of one comparison; nothing where it has none."""
    rows = judge_rows(one)
    if not rows:
        return
    with st.expander("Judges", icon=":material/balance:"):
        st.dataframe(rows, hide_index=True)
        st.caption(
            "A judge gates by the difference that people's labels make of its own, and only once the drawn "
            "sample is labelled: `turnout golden label`. Intervals stand in brackets; differences are points."
        )
        for note in _notes(one):
            st.caption(label(note))


def judge_rows(one: GoldenComparison) -> list[dict[str, str]]:
    """A row for each check and judge. What the comparison does not say is a dash."""
    labels = {str(found.get("evaluator")): found for found in _mappings(one.result.get("labels"))}
    own = {str(row.get("evaluator")): row for row in _mappings(one.result.get("metrics"))}
    rows = []
    seen = set()
    for judge in _mappings(one.result.get("judges")):
        check = str(judge.get("evaluator"))
        seen.add(check)
        rows.append(_row(check, judge, labels.get(check, {}), own.get(check, {})))
    rows += [
        _row(check, {}, found, own.get(check, {})) for check, found in labels.items() if check not in seen
    ]
    return rows


def _row(check: str, judge: dict[str, Any], labels: dict[str, Any], metric: dict[str, Any]) -> dict[str, str]:
    asked = _number(judge.get("asked"))
    agreement = _mapping(labels.get("agreement"))
    values = (
        one_line(check, 40),
        one_line(str(judge.get("judge") or figures.DASH), 40),
        figures.count(asked),
        _share(judge.get("unparseable"), asked),
        figures.count(_number(judge.get("errors"))),
        _share(judge.get("flips"), asked),
        figures.milliseconds(_number(judge.get("latency_p50_ms"))),
        _dollars(judge.get("cost_usd")),
        f"{figures.count(_number(labels.get('labelled')))} of {figures.count(_number(labels.get('drawn')))}",
        figures.percent(_number(agreement.get("raw")), 0),
        _interval(agreement.get("kappa"), agreement.get("lower"), agreement.get("upper"), 1.0, 2),
        _effect(metric.get("effect")),
        _effect(labels.get("effect")),
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _notes(one: GoldenComparison) -> list[str]:
    """Labellers against each other, and judges that lean towards a place."""
    said = []
    for found in _mappings(one.result.get("labels")):
        for pair in _mappings(found.get("among")):
            raters = pair.get("raters")
            if isinstance(raters, Sequence) and len(raters) == 2:
                kappa = _interval(pair.get("kappa"), pair.get("lower"), pair.get("upper"), 1.0, 2)
                said.append(
                    f"{found.get('evaluator')}: {raters[0]} and {raters[1]} agree with kappa {kappa}."
                )
    for judge in _mappings(one.result.get("judges")):
        p = _number(judge.get("position_bias_p"))
        if p is not None and p < 0.05:
            said.append(f"{judge.get('judge')} leans towards a place (p = {p:.2g}).")
    return said


def _effect(effect: object) -> str:
    found = _mapping(effect)
    return _interval(found.get("estimate"), found.get("lower"), found.get("upper"), 100.0, 1)


def _interval(value: object, lower: object, upper: object, times: float, places: int) -> str:
    middle, low, high = (_number(one) for one in (value, lower, upper))
    if middle is None:
        return figures.DASH
    text = f"{times * middle:+.{places}f}"
    if low is not None and high is not None:
        text += f" ({times * low:+.{places}f} to {times * high:+.{places}f})"
    return text.replace("-", figures.MINUS)


def _share(part: object, whole: float | None) -> str:
    of = _number(part)
    if of is None or not whole:
        return figures.DASH
    return f"{figures.count(of)} ({figures.percent(of / whole)})"


def _dollars(value: object) -> str:
    cost = _number(value)
    return figures.DASH if not cost else f"{cost:.4f} USD"


def _number(value: object) -> float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_one and figures.known(float(value)) else None  # type: ignore[arg-type]


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
