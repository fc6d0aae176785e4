"""How do an experiment's numbers read: what each metric says of the arms, and where the requests went?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from experiments.figures import percent, points
from experiments.metrics import LOGARITHMIC

Json = Mapping[str, Any]

#: By a verdict's kind.
VERDICT_STYLES: Final = {"ship": "green", "roll_back": "red", "invalid": "red", "inconclusive": "yellow"}

SCORECARD: Final = (
    "metric",
    "role",
    "control",
    "candidate",
    "n",
    "missing",
    "effect",
    "interval",
    "margin",
    "state",
)


def scorecard_row(metric: Json) -> tuple[object, ...]:
    """One metric of a verdict as cells for people: every number with its n and what is missing."""
    arms = {arm["arm"]: arm for arm in metric["arms"]}
    control, candidate = arms.get("control", {}), arms.get("candidate", {})
    estimate, interval = effect_text(metric)
    return (
        metric["metric"], metric["role"], _value(control, metric), _value(candidate, metric),
        f"{control.get('n', 0)} / {candidate.get('n', 0)}",
        f"{control.get('missing', 0)} / {candidate.get('missing', 0)}",
        estimate, interval, _margin(metric), metric["state"],
    )  # fmt: skip


def _value(arm: Json, metric: Json) -> str:
    value = arm.get("value")
    if value is None:
        return "-"
    if metric["kind"] == "binary":
        return percent(value)
    return f"{value:.3g} {metric['display_unit'] or ''}".rstrip()


def metric_text(metric: Json) -> str:
    """One metric in a line: control to candidate, and the change with its interval."""
    arms = {arm["arm"]: arm for arm in metric["arms"]}
    estimate, interval = effect_text(metric)
    values = " to ".join(_value(arms.get(arm, {}), metric) for arm in ("control", "candidate"))
    return f"{metric['metric']} {values}: {estimate} {interval}"


def effect_text(metric: Json) -> tuple[str, str]:
    """The candidate against the control: the estimate, and the interval in the same unit."""
    effect = metric["effect"] or metric["band"]
    if effect is None or effect["estimate"] is None:
        return "-", "-"
    unit, ratio = effect_scale(metric)
    low, at, high = (_change(effect[key], unit, ratio) for key in ("lower", "estimate", "upper"))
    return f"{at}{unit}", f"[{low}, {high}]"


def _margin(metric: Json) -> str:
    """The margin in the unit of the effect that it bounds."""
    unit, ratio = effect_scale(metric)
    return "-" if metric["margin"] is None else f"{_change(metric['margin'], unit, ratio)}{unit}"


def effect_scale(metric: Json) -> tuple[str, bool]:
    """The unit in which a metric's effect is told, and whether it is a ratio; also of one not known yet."""
    ratio = metric["effect"]["scale"] == "ratio" if metric["effect"] else metric["kind"] in LOGARITHMIC
    return " %" if ratio else " points" if metric["kind"] == "binary" else "", ratio


def _change(value: float | None, unit: str, ratio: bool) -> str:
    if value is None:
        return "-"
    if not unit:
        return f"{value:+.3g}"
    return f"{100 * (value - 1):+.1f}" if ratio else points(value, digits=1)


def accounting(document: Json) -> str:
    """Where the requests went, in a line, of an experiment or of a verdict."""
    books = document["accounting"]
    arms = [
        f"{arm} {one['assigned']:,} ({_ends(one)})"
        for arm, one in sorted(books["by_arm"].items(), reverse=True)
    ]
    outside = [f"{why.replace('_', ' ')} {count:,}" for why, count in books["outside"].items() if count]
    told = f"{books['eligible']:,} eligible = {' + '.join([*arms, *outside]) or 'nothing yet'}"
    if books["not_copied"] is not None:
        told += f"; {books['not_copied']:,} not copied"
    closes = f"{books['missing']:,} rows are MISSING" if books["missing"] else "the accounting closes"
    return f"{told}; {closes}" + (f"; {books['lost']:,} lost" if books["lost"] else "")


def _ends(arm: Json) -> str:
    """How an arm's requests ended, whole answers first."""
    outcomes = sorted(arm["outcomes"].items(), key=lambda one: (one[0] != "complete", one[0]))
    ends = [f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in outcomes]
    return ", ".join([*ends, *([f"{arm['missing']:,} missing"] if arm["missing"] else [])])
