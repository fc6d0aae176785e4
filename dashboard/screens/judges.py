"""How far can the judges of a comparison be trusted, and what do people's labels make of them?"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from .. import figures, results
from ..answers import GoldenComparison
from ..inert import label, one_line
from . import labels

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
            "sample is labelled. Intervals stand in brackets; differences are points."
        )
        for note in _notes(one):
            st.caption(label(note))
        labels.show(one)


def judge_rows(one: GoldenComparison) -> list[dict[str, str]]:
    """A row for each check and judge. What the comparison does not say is a dash."""
    people, own = results.named(one.result.get("labels")), results.named(one.result.get("metrics"))
    rows = []
    seen = set()
    for judge in results.mappings(one.result.get("judges")):
        check = str(judge.get("evaluator"))
        seen.add(check)
        rows.append(_row(check, judge, people.get(check, {}), own.get(check, {})))
    rows += [
        _row(check, {}, found, own.get(check, {})) for check, found in people.items() if check not in seen
    ]
    return rows


def _row(check: str, judge: dict[str, Any], people: dict[str, Any], metric: dict[str, Any]) -> dict[str, str]:
    asked = results.number(judge.get("asked"))
    agreement = results.mapping(people.get("agreement"))
    values = (
        one_line(check, 40),
        one_line(str(judge.get("judge") or figures.DASH), 40),
        figures.count(asked),
        results.share(judge.get("unparseable"), asked),
        figures.count(results.number(judge.get("errors"))),
        results.share(judge.get("flips"), asked),
        figures.milliseconds(results.number(judge.get("latency_p50_ms"))),
        results.dollars(judge.get("cost_usd")),
        " of ".join(figures.count(results.number(people.get(name))) for name in ("labelled", "drawn")),
        figures.percent(results.number(agreement.get("raw")), 0),
        results.interval(agreement.get("kappa"), agreement.get("lower"), agreement.get("upper"), 1.0, 2),
        results.points(metric.get("effect")),
        results.points(people.get("effect")),
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _notes(one: GoldenComparison) -> list[str]:
    """Labellers against each other."""
    said = []
    for found in results.mappings(one.result.get("labels")):
        for pair in results.mappings(found.get("among")):
            raters = pair.get("raters")
            if isinstance(raters, Sequence) and len(raters) == 2:
                kappa = results.interval(pair.get("kappa"), pair.get("lower"), pair.get("upper"), 1.0, 2)
                said.append(
                    f"{found.get('evaluator')}: {raters[0]} and {raters[1]} agree with kappa {kappa}."
                )
    return said
