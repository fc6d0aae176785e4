"""How do the operating characteristics look? Small SVG plots for the documentation, of the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import vl_convert

from experiments.statistics import confidence_sequence

from . import rules, running
from .streams import Stream
from .tables import Found

Spec = dict[str, Any]
_WIDTH, _HEIGHT = 520, 240
_CONFIG = {
    "background": "white",
    "font": "sans-serif",
    "axis": {"gridColor": "#e6e6e6", "labelFontSize": 11, "titleFontSize": 11},
    "legend": {"labelFontSize": 11, "title": None, "orient": "bottom", "labelLimit": 400},
    "range": {"category": ["#1f5fa8", "#c4502e", "#3d8a5a", "#7a5aa6", "#8a8a8a"]},
}


def _save(spec: Spec, path: Path) -> None:
    whole = {"width": _WIDTH, "height": _HEIGHT, "config": _CONFIG, **spec}
    path.write_text(vl_convert.vegalite_to_svg(whole), encoding="utf-8")


def _axis(name: str, title: str, **more: Any) -> Spec:
    return {"field": name, "type": "quantitative", "axis": {"title": title, **more}}


def false_alarms(replications: int = 1000) -> Spec:
    """The share of healthy experiments that a rule has rejected by a request."""
    stream = Stream(name="pass95")
    these = {
        "fixed-look test after every request": rules.naive(),
        "asymptotic sequence after every request": rules.sequence(),
        "group-sequential, 20 looks": rules.group_looks(20),
        "failures e-process (F9) after every request": rules.failure_harm(),
    }
    values = []
    for label, rule in these.items():
        ever = []
        for draw in stream.draws(replications, seed=6):
            crossed = rule(draw, stream)
            crossed[:, :99] = False
            ever.append(np.maximum.accumulate(crossed, axis=1)[:, 99::50])
        share = np.concatenate(ever).mean(axis=0)
        values += [{"n": 100 + 50 * i, "share": float(value), "rule": label} for i, value in enumerate(share)]
    return {
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {
                    "x": _axis("n", "requests seen"),
                    "y": _axis("share", "healthy candidates rejected so far", format="%"),
                    "color": {
                        "field": "rule",
                        "type": "nominal",
                        "sort": list(these),
                        "legend": {"columns": 2},
                    },
                },
            },
            {
                "data": {"values": [{"y": 0.05}]},
                "mark": {"type": "rule", "strokeDash": [4, 4]},
                "encoding": {"y": {"field": "y", "type": "quantitative"}},
            },
        ],
    }


def rollback(found: Found) -> Spec:
    """How many of a bad canary's requests are served before it is rolled back."""
    shown = {
        "F9, alpha .05": "F9, alpha .05",
        "F9, alpha .01 shared by four guardrails": "F9, alpha .01, four guardrails",
        "*window of 50 > 5 %, five failed checks*": "window of 50 > 5 %, five failures",
    }
    values = [
        {"error": error, "exposed": exposed, "rule": shown[label]}
        for label, points in found.canary.items()
        if label in shown
        for error, _, exposed in points[1:]
        if exposed is not None
    ]
    return {
        "data": {"values": values},
        "mark": {"type": "line", "point": True, "strokeWidth": 2},
        "encoding": {
            "x": _axis(
                "error",
                "failure rate of the canary (control: 2 %)",
                format="%",
                values=[0.04, 0.06, 0.08, 0.1],
            ),
            "y": _axis("exposed", "its requests until the rollback (median)"),
            "color": {"field": "rule", "type": "nominal", "sort": list(shown.values())},
        },
    }


def band(seed: int = 11) -> Spec:
    """One experiment with a true difference of -.02, as the screen would show it."""
    stream = Stream(name="pass95", effect=-0.02)
    draw = next(stream.draws(1, seed))
    found = running.differences(draw)
    values = []
    for n in range(150, stream.requests + 1, 25):
        estimate, se = float(found.estimate[0, n - 1]), float(found.se[0, n - 1])
        half = confidence_sequence.critical_value(n, alpha=0.05, best_at=stream.requests / 2) * se
        for label, reach in (("valid at every moment", half), ("valid at one look", 1.96 * se)):
            values.append(
                {"n": n, "low": estimate - reach, "high": estimate + reach, "of": label, "at": estimate}
            )

    def ruled(y: float, dash: list[int]) -> Spec:
        return {
            "data": {"values": [{"y": y}]},
            "mark": {"type": "rule", "strokeDash": dash},
            "encoding": {"y": {"field": "y", "type": "quantitative"}},
        }

    return {
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.35},
                "encoding": {
                    "x": _axis("n", "requests seen"),
                    "y": {
                        **_axis("low", "difference of pass rates", format="+.0%"),
                        "scale": {"domain": [-0.12, 0.08], "clamp": True},
                    },
                    "y2": {"field": "high"},
                    "color": {
                        "field": "of",
                        "type": "nominal",
                        "sort": ["valid at every moment", "valid at one look"],
                    },
                },
            },
            {
                "mark": {"type": "line", "color": "#333", "strokeWidth": 1},
                "encoding": {
                    "x": _axis("n", "requests seen"),
                    "y": _axis("at", "difference of pass rates", format="+.0%"),
                },
            },
            ruled(0.0, [1, 0]),
            ruled(-0.02, [4, 4]),
        ],
    }


def coverage(found: Found) -> Spec:
    """Coverage of every kind of interval, with two Monte-Carlo errors."""
    values = [
        {
            "what": f"{one.case.method}: {one.case.setting}",
            "coverage": one.coverage,
            "low": one.coverage - 2 * one.error,
            "high": one.coverage + 2 * one.error,
        }
        for one in found.covered
    ]
    y = {"field": "what", "type": "nominal", "sort": None, "axis": {"title": None, "labelLimit": 420}}
    scale = {"domain": [0.92, 1.0]}
    return {
        "data": {"values": values},
        "height": 18 * len(values),
        "width": 300,
        "layer": [
            {
                "mark": {"type": "rule"},
                "encoding": {
                    "y": y,
                    "x": {**_axis("low", "coverage of nominal 95 % intervals", format="%"), "scale": scale},
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 40, "color": "#1f5fa8"},
                "encoding": {"y": y, "x": {**_axis("coverage", "", format="%"), "scale": scale}},
            },
            {
                "data": {"values": [{"x": 0.95}]},
                "mark": {"type": "rule", "strokeDash": [4, 4]},
                "encoding": {"x": {"field": "x", "type": "quantitative"}},
            },
        ],
    }


def write(found: Found, folder: Path) -> None:
    """All plots, as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(false_alarms(), folder / "false-alarms.svg")
    _save(rollback(found), folder / "rollback.svg")
    _save(band(), folder / "band.svg")
    _save(coverage(found), folder / "coverage.svg")
