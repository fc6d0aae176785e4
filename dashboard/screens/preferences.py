"""Whose answers does a judge of pairs prefer, and how far did the order in which it saw them decide?"""

from typing import Any

import streamlit as st

from .. import figures, results
from ..answers import GoldenComparison
from ..inert import label, one_line

#: Below this p-value a judge is said to lean towards the first or the second place.
LEANS = 0.05
MAX_LOST = 20


def show(one: GoldenComparison) -> None:
    """The win rates of one comparison, and where the control is preferred; nothing without judged pairs."""
    found = results.mapping(one.result.get("preferences"))
    rows = preference_rows(one)
    if not rows:
        return
    with st.expander("Preferences", icon=":material/thumbs_up_down:"):
        st.dataframe(rows, hide_index=True)
        st.caption(
            "The share of items in which the candidate's answer is preferred, a tie being half. Each pair is "
            "shown in both orders; where they disagree it is a tie, and counts as a flip of the judge."
        )
        for note in _leaning(found):
            st.caption(label(note))
        _lost(results.mappings(found.get("pairs")))


def preference_rows(one: GoldenComparison) -> list[dict[str, str]]:
    """A row for each check of pairs. What the comparison does not say is a dash."""
    metrics = results.named(one.result.get("metrics"))
    found = results.mapping(one.result.get("preferences"))
    return [
        _row(check, metrics.get(str(check.get("evaluator")), {}))
        for check in results.mappings(found.get("checks"))
    ]


def _row(check: dict[str, Any], metric: dict[str, Any]) -> dict[str, str]:
    wins, ties, losses = (results.number(check.get(name)) for name in ("wins", "ties", "losses"))
    asked = results.number(check.get("asked"))
    bias = results.number(check.get("position_bias_p"))
    return {
        "Check": one_line(str(check.get("evaluator")), 40),
        "Judge": one_line(str(check.get("judge") or figures.DASH), 40),
        "Candidate preferred": figures.count(wins),
        "Ties": figures.count(ties),
        "Control preferred": figures.count(losses),
        "Win rate": _win_rate(metric),
        "Items": figures.count(results.number(metric.get("n"))),
        "Wins less losses": results.points(metric.get("effect")),
        "Asked": figures.count(asked),
        "Flips": results.share(check.get("flips"), asked),
        "Leaning": figures.DASH if bias is None or not asked else f"p = {bias:.2g}",
        "No verdict": figures.count(results.number(check.get("missing"))),
        "Cost": results.dollars(check.get("cost_usd")),
    }


def _win_rate(metric: dict[str, Any]) -> str:
    """From wins less losses, d: the win rate is (1 + d) / 2, and so are the ends of its interval."""
    effect = results.mapping(metric.get("effect"))
    ends = [results.number(effect.get(name)) for name in ("estimate", "lower", "upper")]
    rate, low, high = (None if end is None else (1.0 + end) / 2.0 for end in ends)
    if rate is None or low is None or high is None:
        return figures.percent(rate)
    return f"{figures.percent(rate)} ({figures.percent(low)} to {figures.percent(high)})"


def _leaning(found: dict[str, Any]) -> list[str]:
    """Judges whose flips go one way more often than chance would have it."""
    return [
        f"{check.get('judge')} leans towards a place (p = {p:.2g}): the orders that disagree are ties, "
        "but what it prefers in both is less than it seems."
        for check in results.mappings(found.get("checks"))
        if (p := results.number(check.get("position_bias_p"))) is not None and p < LEANS
    ]


def _lost(pairs: list[dict[str, Any]]) -> None:
    """The pairs of which the control's answer is preferred, with the judge's reason."""
    lost = [pair for pair in pairs if pair.get("preferred") == "control"]
    if not lost:
        return
    st.caption("The control's answer is preferred:")
    for pair in lost[:MAX_LOST]:
        why = pair.get("explanation") or figures.DASH
        st.text(f"{pair.get('item_id')} · {pair.get('evaluator')}: {why}"[:400])
    if len(lost) > MAX_LOST:
        st.caption(f"and {figures.count(len(lost) - MAX_LOST)} more")
