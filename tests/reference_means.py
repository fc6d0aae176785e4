"""How are the kinds about means, ratios, quantiles and ranks computed?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.statistics import (
    bayes,
    confidence_sequence,
    covariate,
    elsewhere,
    mean,
    quantiles,
)
from experiments.statistics.estimate import Estimate
from experiments.statistics.mean import Alternative
from experiments.statistics.moments import Cluster, Moments
from tests.reference_kinds import (
    Answer,
    Inputs,
    as_published,
    candidate_of,
    control_of,
    ends,
    kind,
    moments,
    plain_variance,
)


def arms(inputs: Inputs, *, binary: bool = False) -> tuple[Moments, Moments]:
    read = plain_variance if binary else moments
    return read(candidate_of(inputs)), read(control_of(inputs))


def _difference(inputs: Inputs, candidate: Moments, control: Moments) -> Estimate:
    alternative: Alternative = inputs.get("alternative", "two-sided")
    method = mean.relative if inputs.get("difference") == "relative" else mean.welch
    return method(candidate, control, alpha=inputs.get("alpha", 0.05), alternative=alternative)


@kind("mean/two_sample_welch")
@kind("mean/one_sided")
def _(inputs: Inputs) -> Answer:
    return Answer(values=as_published(_difference(inputs, *arms(inputs))))


@kind("binary/welch_delta_relative")
def _(inputs: Inputs) -> Answer:
    relative = {"difference": "relative", **inputs}
    return Answer(values=as_published(_difference(relative, *arms(inputs, binary=True))))


def _sequence(inputs: Inputs, candidate: Moments, control: Moments) -> Answer:
    two_sided = {key: value for key, value in inputs.items() if key != "alternative"}
    found = _difference(two_sided, candidate, control)
    if found.value is None or found.se is None:
        return Answer(values=as_published(found))
    n, alpha = candidate.n + control.n, inputs.get("alpha", 0.05)
    best_at = inputs.get("tuning_N", 5000)
    side = inputs.get("alternative", "two-sided")
    values: dict[str, Any] = {"point": found.value, "se": found.se, "error": None}
    if side == "two-sided":
        log_e = confidence_sequence.log_e(found.value / found.se, n, alpha=alpha, best_at=best_at)
        values["ci"] = ends(confidence_sequence.band(found.value, found.se, n, alpha=alpha, best_at=best_at))
        values["p"] = math.exp(min(0.0, -log_e))
        return Answer(values=values)
    sign = 1.0 if side in ("greater", "larger") else -1.0
    bound = confidence_sequence.lower_bound(sign * found.value, found.se, n, alpha=alpha, best_at=best_at)
    values["ci"] = [bound, math.inf] if sign > 0 else [-math.inf, -bound]
    # The published p is a bisection that stops early; ours, exact, stands beside it.
    values["p"] = elsewhere.growthbook_one_sided_p(
        sign * found.value, found.se, n, alpha=alpha, best_at=best_at
    )
    values["p_exact"] = confidence_sequence.one_sided_p(
        sign * found.value / found.se, n, alpha=alpha, best_at=best_at
    )
    return Answer(values=values)


@kind("mean/asymptotic_cs")
@kind("mean/asymptotic_cs_one_sided")
def _(inputs: Inputs) -> Answer:
    return _sequence(inputs, *arms(inputs))


@kind("binary/asymptotic_cs")
def _(inputs: Inputs) -> Answer:
    return _sequence(inputs, *arms(inputs, binary=True))


# --- ratios of sums over units -----------------------------------------------------------------------


def _ratio_sums(raw: Inputs) -> Cluster:
    top, bottom = raw["m_statistic"], raw["d_statistic"]
    return Cluster(
        n=raw["n"],
        y=top["sum"],
        m=bottom["sum"],
        yy=top["sum_squares"],
        mm=bottom["sum_squares"],
        ym=raw["m_d_sum_of_products"],
    )


def _columns(raw: Inputs) -> tuple[str, str]:
    """The names of numerator and denominator, which stand first among the means."""
    top, bottom = [name for name in raw["mean"] if not name.endswith("_covariate")][:2]
    return top, bottom


def _covariance(raw: Inputs, one: str, other: str) -> float:
    if one == other:
        return float(raw["var"][one])
    pairs = raw["cov"]
    return float(pairs[f"{one}|{other}"] if f"{one}|{other}" in pairs else pairs[f"{other}|{one}"])


def _from_covariances(raw: Inputs) -> Cluster:
    top, bottom = _columns(raw)
    n, y, m = raw["n"], raw["mean"][top], raw["mean"][bottom]
    return Cluster(
        n=n,
        y=n * y,
        m=n * m,
        yy=raw["var"][top] * (n - 1) + n * y * y,
        mm=raw["var"][bottom] * (n - 1) + n * m * m,
        ym=_covariance(raw, top, bottom) * (n - 1) + n * y * m,
    )


def _expm1(value: float) -> float:
    return math.inf if value == math.inf else math.expm1(value)


def _named_effect(control: float, candidate: float, found: Estimate, logs: Estimate) -> dict[str, Any]:
    values: dict[str, Any] = {
        "control": control,
        "treatment": candidate,
        "effect_size": found.value,
        "pvalue": found.p,
    }
    if found.interval is not None and found.value is not None and found.se is not None:
        values |= {
            "effect_size_ci_lower": found.interval.lower,
            "effect_size_ci_upper": found.interval.upper,
            "statistic": found.value / found.se,
        }
    if logs.interval is not None and logs.value is not None:
        lower = logs.interval.lower
        values |= {
            "rel_effect_size": math.expm1(logs.value),
            # The reference writes a relative loss without limit as minus infinity, not as -100 %.
            "rel_effect_size_ci_lower": -math.inf if lower == -math.inf else _expm1(lower),
            "rel_effect_size_ci_upper": _expm1(logs.interval.upper),
        }
    return values


@kind("ratio/delta_method")
def _(inputs: Inputs) -> Answer:
    raw_candidate, raw_control = candidate_of(inputs), control_of(inputs)
    alpha = inputs.get("alpha", 0.05)
    if "mean" in raw_control:
        candidate, control = _from_covariances(raw_candidate), _from_covariances(raw_control)
        found = mean.ratio_difference(candidate, control, alpha=alpha)
        logs = mean.ratio_log_ratio(candidate, control, alpha=alpha)
        return Answer(values=_named_effect(control.ratio, candidate.ratio, found, logs))
    candidate, control = _ratio_sums(raw_candidate), _ratio_sums(raw_control)
    found = mean.ratio_difference(candidate, control, alpha=alpha)
    return Answer(
        values={
            **as_published(found),
            "ratio_control": control.ratio,
            "ratio_treatment": candidate.ratio,
            "var_control": control.variance * control.n,
            "var_treatment": candidate.variance * candidate.n,
        }
    )


# --- covariates ------------------------------------------------------------------------------------------


def _adjusted(raw: Inputs) -> covariate.Adjusted:
    return covariate.Adjusted(
        post=moments(raw["post_statistic"]),
        pre=moments(raw["pre_statistic"]),
        cross=raw["post_pre_sum_of_products"],
    )


@kind("mean/cuped")
def _(inputs: Inputs) -> Answer:
    candidate, control = _adjusted(candidate_of(inputs)), _adjusted(control_of(inputs))
    alpha, relative = inputs.get("alpha", 0.05), inputs.get("difference") == "relative"
    theta = candidate_of(inputs).get("theta")
    found = covariate.cuped(candidate, control, alpha=alpha, theta=theta, relative=relative)
    return Answer(
        values={
            **as_published(found),
            "theta": covariate.pooled_coefficient([candidate, control]) if theta is None else theta,
            "unadjusted": as_published(_difference(inputs, candidate.post, control.post)),
        }
    )


_PAIRS = {
    (0, 1): "m_post_d_post",
    (0, 2): "m_post_m_pre",
    (0, 3): "m_post_d_pre",
    (1, 2): "m_pre_d_post",
    (1, 3): "d_post_d_pre",
    (2, 3): "m_pre_d_pre",
}


def _adjusted_ratio(raw: Inputs) -> covariate.AdjustedRatio:
    """From sums and sums of products, by name."""
    parts = [moments(raw[f"{name}_statistic_{when}"]) for when in ("post", "pre") for name in ("m", "d")]
    n = raw["n"]
    matrix = np.diag([part.variance for part in parts])
    for (i, j), name in _PAIRS.items():
        product = raw[f"{name}_sum_of_products"]
        matrix[i, j] = matrix[j, i] = (product - parts[i].total * parts[j].mean) / (n - 1)
    return _ratio_of(n, [part.mean for part in parts], matrix.tolist())


def _ratio_of(n: int, means: list[float], matrix: list[list[float]]) -> covariate.AdjustedRatio:
    return covariate.AdjustedRatio(
        n=n,
        means=(means[0], means[1], means[2], means[3]),
        covariances=tuple(tuple(row) for row in matrix),
    )


def _named_ratio(raw: Inputs) -> covariate.AdjustedRatio:
    top, bottom = _columns(raw)
    names = [top, bottom, f"{top}_covariate", f"{bottom}_covariate"]
    matrix = [[_covariance(raw, one, other) for other in names] for one in names]
    return _ratio_of(raw["n"], [raw["mean"][name] for name in names], matrix)


@kind("ratio/cuped_delta")
def _(inputs: Inputs) -> Answer:
    raw_candidate, raw_control = candidate_of(inputs), control_of(inputs)
    alpha = inputs.get("alpha", 0.05)
    if "mean" not in raw_control:
        candidate, control = _adjusted_ratio(raw_candidate), _adjusted_ratio(raw_control)
        theta = raw_candidate.get("theta")
        if inputs.get("difference", "relative") == "relative":
            found = covariate.cuped_ratio_relative(candidate, control, alpha=alpha, theta=theta)
        else:
            found = covariate.cuped_ratio(candidate, control, alpha=alpha, theta=theta)
        return Answer(values=as_published(found))
    candidate, control = _named_ratio(raw_candidate), _named_ratio(raw_control)
    theta = covariate.ratio_coefficient([covariate.merged([candidate, control])])
    side: Alternative = inputs.get("alternative", "two-sided")
    normal = not inputs.get("use_t", True)
    found = covariate.cuped_ratio(
        candidate, control, alpha=alpha, theta=theta, alternative=side, normal=normal
    )
    logs = covariate.cuped_ratio_log(
        candidate, control, alpha=alpha, theta=theta, alternative=side, normal=normal
    )
    arms = covariate.adjusted_ratios(candidate, control, theta=theta)
    if arms is None:
        return Answer(values={"pvalue": None})
    return Answer(values=_named_effect(arms.control, arms.candidate, found, logs))


# --- posteriors ----------------------------------------------------------------------------------------


def _as_posterior(found: bayes.Posterior | None, alpha: float) -> dict[str, Any]:
    if found is None:
        return {"point": None, "ci": None, "chance_to_win": None, "risk": None, "post_sd": None}
    return {
        "point": found.mean,
        "ci": ends(found.interval(alpha)),
        "chance_to_win": found.chance_to_win,
        "risk": list(found.expected_loss),
        "post_sd": found.sd,
    }


def _posterior(inputs: Inputs, candidate: Moments, control: Moments) -> Answer:
    relative = {"difference": "relative", **inputs}
    found = _difference(relative, candidate, control)
    prior = inputs.get("prior")
    given = (
        bayes.Posterior(mean=prior["mean"], sd=math.sqrt(prior["var"]))
        if isinstance(prior, Mapping) and prior.get("proper", True)
        else None
    )
    posterior = (
        None
        if found.value is None or found.se is None
        else bayes.posterior(found.value, found.se, prior=given)
    )
    return Answer(values=_as_posterior(posterior, inputs.get("alpha", 0.05)))


@kind("bayes/proportion_flat_prior")
def _(inputs: Inputs) -> Answer:
    return _posterior(inputs, *arms(inputs, binary=True))


@kind("bayes/gaussian_prior")
def _(inputs: Inputs) -> Answer:
    binary = not isinstance(control_of(inputs), Mapping)
    return _posterior(inputs, *arms(inputs, binary=binary))


@kind("bayes/expected_loss")
def _(inputs: Inputs) -> Answer:
    found = bayes.Posterior(mean=inputs["mu"], sd=inputs["sigma"])
    return Answer(values={"risk": list(found.expected_loss)})


# --- quantiles -----------------------------------------------------------------------------------------


def _summary(raw: Any, inputs: Inputs) -> quantiles.QuantileSummary:
    if not isinstance(raw, Mapping):
        return quantiles.summarise(raw, inputs["nu"])
    clusters = None
    if "n_clusters" in raw:
        clusters = Cluster(
            n=raw["n_clusters"],
            y=raw["main_sum"],
            m=raw["denominator_sum"],
            yy=raw["main_sum_squares"],
            mm=raw["denominator_sum_squares"],
            ym=raw["main_denominator_sum_product"],
        )
    return quantiles.QuantileSummary(
        n=raw["n"],
        n_star=raw.get("n_star"),
        level=raw.get("nu", inputs.get("nu")),
        value=raw["quantile_hat"],
        lower=raw["quantile_lower"],
        upper=raw["quantile_upper"],
        clusters=clusters,
    )


@kind("quantile/difference_order_stat")
def _(inputs: Inputs) -> Answer:
    stored = inputs.get("data")
    arms = {"control": stored["la"], "treatment": stored["lb"]} if isinstance(stored, Mapping) else inputs
    candidate = _summary(candidate_of(arms), inputs)
    control = _summary(control_of(arms), inputs)
    relative = inputs.get("difference") == "relative"
    method = quantiles.quantile_relative if relative else quantiles.quantile_difference
    # Without a level of its own the case is a flat posterior, whose interval is the normal one.
    found = method(candidate, control, alpha=inputs.get("alpha", 0.05), normal="alpha" not in inputs)
    return Answer(
        values={
            **as_published(found),
            "q_control": control.value,
            "q_treatment": candidate.value,
            "lower_upper": [control.lower, control.upper, candidate.lower, candidate.upper],
        }
    )


@kind("quantile/cluster_adjust")
def _(inputs: Inputs) -> Answer:
    summary = _summary(inputs.get("stat", inputs), inputs)
    found = quantiles.quantile_estimate(summary)
    clustered = None if summary.clusters is None else summary.clusters.variance
    return Answer(
        values={
            "variance": summary.unit_variance,
            "cluster_var_of_Ibar": clustered,
            "iid_var_of_Ibar": None if clustered is None else clustered / summary.inflation,
            "se": found.se,
            "status": found.status,
        }
    )
