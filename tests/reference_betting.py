"""How are the kinds about betting and other e-processes computed?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments.statistics import (
    confidence_sequence,
    evalues,
    predictable,
)
from tests.reference_kinds import (
    Answer,
    Figures,
    Inputs,
    by_count,
    by_number,
    candidate_of,
    control_of,
    kind,
)

# --- the asymptotic sequence and its tunings -----------------------------------------------------------


def _bits(text: Any) -> list[float]:
    return [float(letter) for letter in text]


@kind("sequential/betting_cs")
def _(inputs: Inputs) -> Answer:
    x = _bits(inputs["x"])
    found = predictable.betting_sequence(
        x,
        alpha=inputs["alpha"],
        breaks=inputs.get("breaks", 1000),
        intersect=inputs.get("running_intersection", True),
    )
    return Answer(
        values={
            "lower": by_count(lambda n: float(found.lower[n - 1])),
            "upper": by_count(lambda n: float(found.upper[n - 1])),
            "mean": float(np.mean(x)),
        }
    )


@kind("sequential/betting_martingale")
def _(inputs: Inputs) -> Answer:
    logs = predictable.betting_log_capital(
        _bits(inputs["x"]), inputs["m"], alpha=inputs["alpha"], up_share=inputs.get("theta", 0.5)
    )
    return Answer(
        values={
            "capital": by_count(lambda n: math.exp(float(logs[n - 1]))),
            "anytime_p": evalues.e_to_p(float(logs.max())),
        }
    )


@kind("sequential/empirical_bernstein")
def _(inputs: Inputs) -> Answer:
    x, alpha = _bits(inputs["x"]), inputs["alpha"]
    intersect = inputs.get("running_intersection", False)
    bernstein = predictable.empirical_bernstein(x, alpha=alpha, intersect=intersect)
    plain = predictable.hoeffding(x, alpha=alpha, intersect=intersect)
    return Answer(
        values={
            "eb": by_count(lambda n: [float(bernstein.lower[n - 1]), float(bernstein.upper[n - 1])]),
            "hoeffding": by_count(lambda n: [float(plain.lower[n - 1]), float(plain.upper[n - 1])]),
        }
    )


@kind("sequential/ab_betting_and_asymptotic")
def _(inputs: Inputs) -> Answer:
    stored, alpha = inputs["data"], inputs["alpha"]
    y, treated = np.asarray(stored["converted"], float), np.asarray(stored["treated"], float)
    propensity = inputs.get("propensity", 0.5)
    reach = 1.0 / min(propensity, 1.0 - propensity)
    bounded = predictable.effect_outcomes(y, treated, propensity, centre=0.5)
    scaled = (bounded + reach) / (2.0 * reach)
    # The reference's ends lie on a grid, one step outwards of what is excluded; 1/2 is between its points.
    step = 1.0 / (2.0 * (inputs.get("grid", 20_000) - 1.0))
    rho = 1.0 / confidence_sequence.exact_tuning(alpha, inputs.get("t_opt", 500))
    free = predictable.effect_outcomes(y, treated, propensity)
    sequence = predictable.asymptotic_sequence(free, alpha=alpha, rho=rho)

    def betting(n: str) -> list[float]:
        found = predictable.betting_interval(scaled[: int(n)], alpha=alpha)
        return [found.lower * 2.0 * reach - reach, found.upper * 2.0 * reach - reach]

    def asymptotic(n: str) -> list[float]:
        return [float(sequence.lower[int(n) - 1]), float(sequence.upper[int(n) - 1])]

    def first(crossed: Any) -> int | None:
        return int(np.argmax(crossed)) + 1 if np.any(crossed) else None

    return Answer(
        values=Figures(
            {
                "betting_stop": predictable.betting_stop(scaled, 0.5, alpha=alpha, precision=step),
                "asymptotic_stop": first((sequence.lower > 0.0) | (sequence.upper < 0.0)),
            },
            {r"betting_ci_(\d+)": betting, r"asymptotic_ci_(\d+)": asymptotic},
        )
    )


@kind("sequential/msprt")
def _(inputs: Inputs) -> Answer:
    stored = inputs["data"]
    x = np.asarray(stored["x"] if isinstance(stored, dict) else stored, float)
    totals = np.cumsum(x)
    logs = evalues.msprt_log_e(
        totals,
        np.arange(1, x.size + 1),
        theta=inputs.get("theta0", 0.0),
        sigma=inputs.get("sigma", 1.0),
        tau=inputs["tau"],
    )
    running = np.maximum.accumulate(logs)
    return Answer(
        values={
            "e": by_count(lambda n: math.exp(float(logs[n - 1]))),
            "p": by_count(lambda n: evalues.e_to_p(float(running[n - 1]))),
            "cumsum": by_count(lambda n: float(totals[n - 1])),
        }
    )


@kind("sequential/safe_2x2")
def _(inputs: Inputs) -> Answer:
    logs = evalues.safe_two_by_two_log_e(
        _bits(candidate_of(inputs)), _bits(control_of(inputs)), prior=inputs.get("prior_gamma", 0.18)
    )
    return Answer(values={"log_e": by_count(lambda n: float(logs[n - 1]))})


@kind("sequential/e_values")
def _(inputs: Inputs) -> Answer:
    def log(value: float) -> float:
        return math.log(value) if value > 0.0 else -math.inf

    kappa = inputs.get("kappa")
    return Answer(
        values={
            "p_to_e": [math.exp(evalues.p_to_log_e(log(p), kappa=kappa)) for p in inputs.get("p", [])],
            "e_to_p": [evalues.e_to_p(log(e)) for e in inputs.get("e", [])],
        }
    )


@kind("sequential/anytime_valid_lm")
def _(inputs: Inputs) -> Answer:
    n, k, alpha = inputs["n"], inputs["coefficients"], inputs["alpha"]
    g = inputs.get("g") or evalues.best_g(n=n, coefficients=k, alpha=alpha)
    radius = evalues.regression_t_radius(n=n, coefficients=k, g=g, alpha=alpha)
    rows = []
    for row in inputs["rows"]:
        log_e = evalues.regression_t_log_e(row["est"] / row["se"], n=n, coefficients=k, g=g)
        half = radius * row["se"]
        rows.append(
            {
                "name": row["name"],
                "p": evalues.e_to_p(log_e),
                "ci": [row["est"] - half, row["est"] + half],
            }
        )
    return Answer(values={"g_star": g, "t_radius": radius, "rows": rows})


@kind("sequential/anytime_valid_t")
def _(inputs: Inputs) -> Answer:
    n, k, g = inputs["n"], inputs["coefficients"], inputs["g"]

    def p(t: float) -> float:
        return evalues.e_to_p(evalues.regression_t_log_e(t, n=n, coefficients=k, g=g))

    radius = evalues.regression_t_radius(n=n, coefficients=k, g=g, alpha=inputs.get("alpha", 0.05))
    return Answer(values={"p": by_number(p), "t_radius": radius})
