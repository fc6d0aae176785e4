"""How are the kinds about looking more than once computed: sequences, e-values, group-sequential looks?"""

from __future__ import annotations

import math
import re
from typing import Any

from experiments.statistics import (
    confidence_sequence,
    elsewhere,
    group_sequential,
    mixtures,
    quantiles,
    stitching,
)
from experiments.statistics.estimate import quantile
from tests.reference_kinds import (
    Answer,
    Figures,
    Inputs,
    by_count,
    ends,
    kind,
)

# --- the asymptotic sequence and its tunings -----------------------------------------------------------


@kind("sequential/tuning_rho")
def _(inputs: Inputs) -> Answer:
    alpha, best_at = inputs["alpha"], inputs["tuning_N"]

    def two(n: int) -> float:
        return confidence_sequence.critical_value(n, alpha=alpha, best_at=best_at) / math.sqrt(n)

    def one(n: int) -> float:
        return confidence_sequence.one_sided_critical_value(n, alpha=alpha, best_at=best_at) / math.sqrt(n)

    return Answer(
        values={
            "rho": math.sqrt(confidence_sequence.tuning(alpha, best_at)),
            "halfwidths_unit_sd": by_count(two),
            "halfwidths_one_sided": by_count(one),
        }
    )


@kind("sequential/asymptotic_cs_margin")
def _(inputs: Inputs) -> Answer:
    alpha, best_at = inputs["alpha"], inputs["t_opt"]
    sd = math.sqrt(inputs.get("variance", 1.0))
    exact = confidence_sequence.exact_tuning(alpha, best_at)
    as_exact = best_at * confidence_sequence.tuning(alpha, best_at) / exact

    def critical(n: int) -> float:
        return confidence_sequence.critical_value(n, alpha=alpha, best_at=as_exact)

    z = quantile(1 - alpha / 2)
    return Answer(
        values={
            "rho2_exact": exact,
            "rho2_gbstats_approx": confidence_sequence.tuning(alpha, best_at),
            "rho2_tensorzero_default_formula": elsewhere.tensorzero_rho(alpha, best_at=best_at) ** 2,
            "margins": by_count(lambda n: sd * critical(n) / math.sqrt(n)),
            "ratio_to_fixed_z": by_count(lambda n: critical(n) / z),
        }
    )


@kind("sequential/platform_critical_values")
def _(inputs: Inputs) -> Answer:
    alpha = inputs["alpha"]
    if "n_treat" in inputs:
        one, zero = inputs["n_treat"], inputs["n_ctrl"]
        half = (one + zero) / 2.0

        def z_star(n_one: float, n_zero: float) -> float:
            return elsewhere.statsig_critical_value(
                n_one,
                n_zero,
                variance_candidate=inputs.get("var_t", 1.0),
                variance_control=inputs.get("var_c", 1.0),
                alpha=alpha,
            )

        return Answer(values={"z_star": z_star(one, zero), "z_star_balanced": z_star(half, half)})
    totals = inputs["total_n"]

    def tuned(best_at: str) -> dict[str, float]:
        return {
            str(n): confidence_sequence.critical_value(n, alpha=alpha, best_at=float(best_at)) for n in totals
        }

    statsig = {str(n): elsewhere.statsig_critical_value(n / 2, n / 2, alpha=alpha) for n in totals}
    return Answer(
        values=Figures(
            {"statsig_balanced": statsig},
            {r"(?:growthbook|eppo|spotify|\w+)_N(\d+)": tuned},
        )
    )


@kind("sequential/tensorzero_asymp_cs")
def _(inputs: Inputs) -> Answer:
    n, variance, alpha = inputs["n"], inputs["variance"], inputs["alpha"]
    return Answer(
        values={
            "margin": elsewhere.tensorzero_margin(n, variance, alpha=alpha, rho=inputs.get("rho")),
            "margin_default_rho": elsewhere.tensorzero_margin(n, variance, alpha=alpha),
            "default_rho": elsewhere.tensorzero_rho(alpha),
        }
    )


@kind("sequential/peer_pitfall")
def _(inputs: Inputs) -> Answer:
    """Our own sequence is as wide in any unit, and has no width to give without variance."""
    n, alpha = inputs["n"], inputs["alpha"]
    stated = re.search(r"sd\s*=\s*([\d.]+)", inputs.get("note", ""))
    sd = float(inputs.get("sd", stated[1] if stated else 1.0))

    def in_sd(unit: float) -> float:
        return elsewhere.tensorzero_margin(n, (sd * unit) ** 2, alpha=alpha) / (sd * unit)

    def ours(unit: float) -> float | None:
        band = confidence_sequence.band(0.0, sd * unit / math.sqrt(n), n, alpha=alpha, best_at=n)
        return None if band is None else band.upper / (sd * unit)

    seconds, milliseconds = ours(1.0), ours(1000.0)
    flat = confidence_sequence.band(0.0, 0.0, n, alpha=alpha, best_at=n)
    sound = seconds is not None and milliseconds is not None
    sound = sound and math.isclose(seconds or 0.0, milliseconds or 1.0, rel_tol=1e-12) and flat is None
    return Answer(
        values=Figures(
            {
                "halfwidth_in_sd_units_seconds": in_sd(1.0),
                "halfwidth_in_sd_units_milliseconds": in_sd(1000.0),
                "turnout_in_sd_units_seconds": seconds,
                "turnout_in_sd_units_milliseconds": milliseconds,
                "turnout_without_variance": flat,
                "turnout_is_scale_free": sound,
            },
            {
                r"zero_variance_n(\d+)_halfwidth": lambda count: elsewhere.tensorzero_margin(
                    int(count), 0.0, alpha=alpha
                )
            },
        )
    )


# --- group-sequential looks ----------------------------------------------------------------------------


@kind("sequential/group_sequential")
def _(inputs: Inputs) -> Answer:
    looks, alpha = inputs["looks"], inputs["alpha"]
    information = inputs.get("info") or [(k + 1) / looks for k in range(looks)]
    sides = 2 if inputs.get("two_sided", True) else 1
    pocock = group_sequential.classical_bounds(information, alpha=alpha, sides=sides, power=0.0)
    return Answer(
        values={
            "pocock_z": pocock[0],
            "obf_z": group_sequential.classical_bounds(information, alpha=alpha, sides=sides, power=0.5),
        }
    )


@kind("sequential/alpha_spending")
def _(inputs: Inputs) -> Answer:
    text = inputs.get("spending", "OBF")
    exponent = re.search(r"t\^(\d+(?:\.\d+)?)", text)
    if exponent:
        spending = group_sequential.power_spending(float(exponent[1]))
    elif re.search(r"pocock", text, re.IGNORECASE):
        spending = group_sequential.pocock_spending
    elif re.search(r"alpha\s*\*\s*t\b|linear|uniform", text, re.IGNORECASE):
        spending = group_sequential.power_spending(1.0)
    else:
        spending = group_sequential.obrien_fleming
    info = inputs["info"]
    found = group_sequential.bounds(
        info, alpha=inputs["alpha"], sides=inputs.get("sides", 2), spending=spending, final=info[-1] >= 1.0
    )
    return Answer(values={"z": found})


@kind("sequential/naive_peeking_inflation")
def _(inputs: Inputs) -> Answer:
    z = quantile(1 - inputs["nominal_alpha"] / 2)

    def rate(looks: int) -> float:
        return group_sequential.crossing_probability([z] * looks, [k + 1.0 for k in range(looks)])

    return Answer(values={"type1": by_count(rate)})


# --- mixtures and stitching ----------------------------------------------------------------------------


@kind("sequential/normal_mixture")
def _(inputs: Inputs) -> Answer:
    one_sided = not inputs.get("two_sided", True)
    tuned_for = inputs.get("alpha_opt", 0.05)
    rho = (mixtures.one_sided_rho if one_sided else mixtures.two_sided_rho)(inputs["v_opt"], tuned_for)
    mixture = mixtures.NormalMixture(rho=rho, one_sided=one_sided)
    return Answer(
        values=Figures(
            {"bound": mixture.bound(inputs["v"], inputs["alpha"]), "best_rho": rho},
            {
                r"log_mixture_at_s(\d+(?:\.\d+)?)": lambda s: mixture.log_value(float(s), inputs["v"]),
            },
        )
    )


def _bounded(mixture: mixtures.Mixture, inputs: Inputs, most: float = math.inf) -> Answer:
    return Answer(
        values={
            "bound": mixtures.solve(mixture, inputs["v"], inputs["alpha"], most=most),
            "log_mixture": mixture.log_value(inputs["s"], inputs["v"]),
        }
    )


@kind("sequential/gamma_exponential")
def _(inputs: Inputs) -> Answer:
    rho = mixtures.one_sided_rho(inputs["v_opt"], inputs.get("alpha_opt", 0.05))
    return _bounded(mixtures.GammaExponential(rho=rho, c=inputs["c"]), inputs)


@kind("sequential/gamma_poisson")
def _(inputs: Inputs) -> Answer:
    rho = mixtures.one_sided_rho(inputs["v_opt"], inputs.get("alpha_opt", 0.05))
    return _bounded(mixtures.GammaPoisson(rho=rho, c=inputs["c"]), inputs)


@kind("sequential/beta_binomial")
def _(inputs: Inputs) -> Answer:
    mixture = mixtures.BetaBinomial.tuned(
        inputs["v_opt"],
        g=inputs["g"],
        h=inputs["h"],
        alpha=inputs.get("alpha_opt", 0.05),
        one_sided=not inputs.get("two_sided", True),
    )
    return _bounded(mixture, inputs, inputs["v"] / inputs["g"])


@kind("sequential/bernoulli_cs")
def _(inputs: Inputs) -> Answer:
    found = mixtures.bernoulli_sequence(
        inputs["successes"],
        inputs["n"],
        alpha=inputs["alpha"],
        best_at=inputs["t_opt"],
        alpha_opt=inputs.get("alpha_opt", 0.05),
    )
    return Answer(values={"ci": ends(found)})


def _listed(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


@kind("sequential/stitching")
def _(inputs: Inputs) -> Answer:
    more = {name: inputs[name] for name in ("s", "eta") if name in inputs}
    found = [
        stitching.polynomial_bound(inputs["v"], inputs["alpha"], v_min=inputs["v_min"], c=c, **more)
        for c in _listed(inputs.get("c", 0.0))
    ]
    return Answer(values={"bounds": found, "bound": found[0]})


@kind("sequential/cdf_band")
def _(inputs: Inputs) -> Answer:
    radius = stitching.distribution_radius(
        inputs["t"], inputs["alpha"], t_min=inputs["t_min"], a=inputs.get("A", 0.85)
    )
    return Answer(values={"radius": radius})


@kind("sequential/quantile_uniform")
def _(inputs: Inputs) -> Answer:
    more = {name: inputs[name] for name in ("delta", "s", "eta") if name in inputs}
    found = [
        stitching.quantile_bound(p, inputs["t"], inputs["alpha"], t_opt=inputs["t_opt"], **more)
        for p in _listed(inputs["p"])
    ]
    return Answer(values={"bounds": found})


# --- quantiles -----------------------------------------------------------------------------------------


@kind("sequential/quantile_ab_test")
def _(inputs: Inputs) -> Answer:
    found = quantiles.quantile_test_p(
        inputs["b"],
        inputs["a"],
        inputs["p"],
        best_at=inputs["t_opt"],
        alpha_opt=inputs.get("alpha_opt", 0.05),
    )
    return Answer(values={"p_value": found})


@kind("sequential/quantile_cs")
def _(inputs: Inputs) -> Answer:
    stored, alpha, best_at = inputs["data"], inputs["alpha"], inputs["t_opt"]
    if "q" in inputs:
        return _subgaussian(stored["x"] if isinstance(stored, dict) else stored, inputs)
    arms = (stored["la"], stored["lb"]) if isinstance(stored, dict) else (stored, stored)
    level, tuned_for = inputs["p"], inputs.get("alpha_opt", 0.05)

    def sequence(values: list[float]) -> list[float] | None:
        return ends(
            quantiles.quantile_sequence(
                sorted(values), level, alpha=alpha, best_at=best_at, alpha_opt=tuned_for
            )
        )

    return Answer(
        values={
            "control": sequence(arms[0]),
            "treatment": sequence(arms[1]),
            "ab_p_value": quantiles.quantile_test_p(
                arms[1], arms[0], level, best_at=best_at, alpha_opt=tuned_for
            ),
        }
    )


def _subgaussian(values: list[float], inputs: Inputs) -> Answer:
    def after(n: int) -> list[float] | None:
        return ends(
            quantiles.subgaussian_quantile_sequence(
                sorted(values[:n]), inputs["q"], alpha=inputs["alpha"], best_at=inputs["t_opt"]
            )
        )

    def intersected(n: int) -> list[float]:
        each = [after(k) or [-math.inf, math.inf] for k in range(1, n + 1)]
        return [max(lower for lower, _ in each), min(upper for _, upper in each)]

    return Answer(values={"ci": by_count(intersected if inputs.get("intersect") else after)})
