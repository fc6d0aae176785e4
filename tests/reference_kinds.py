"""How is each kind of reference case computed by Turnout's public functions, from its inputs alone?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.statistics import (
    confidence_sequence,
    failures,
    group_sequential,
    mean,
    multiplicity,
    paired,
    proportion,
    sample_ratio,
    strata,
)
from experiments.statistics.estimate import Estimate, Interval, quantile
from experiments.statistics.moments import Cluster, Moments

Inputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was computed. `holds` decides a behavioural case; `left_out` are paths that are not compared."""

    values: dict[str, Any]
    left_out: tuple[str, ...] = ()
    holds: bool | None = None


Adapter = Callable[[Inputs], Answer]
ADAPTERS: dict[str, Adapter] = {}


def kind(name: str) -> Callable[[Adapter], Adapter]:
    """Registers the adapter of a kind."""

    def register(adapter: Adapter) -> Adapter:
        ADAPTERS[name] = adapter
        return adapter

    return register


def moments(raw: Inputs) -> Moments:
    squares = raw.get("sum_squares", raw.get("sumsq"))
    return Moments(n=raw["n"], total=raw["sum"], squares=squares)


def plain_variance(share: list[int]) -> Moments:
    """A share as moments whose variance is p(1 - p), as some platforms have it, without n - 1."""
    count, n = share
    p = count / n
    return Moments(n=n, total=float(count), squares=p * (1 - p) * (n - 1) + n * p * p)


def ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.lower, interval.upper]


def as_published(found: Estimate) -> dict[str, Any]:
    return {
        "point": found.value,
        "ci": ends(found.interval),
        "p": found.p,
        "se": found.se,
        "error": None if found.status == "ok" else found.status,
    }


@kind("mean/two_sample_welch")
def _(inputs: Inputs) -> Answer:
    method = mean.relative if inputs.get("difference") == "relative" else mean.welch
    return Answer(
        values=as_published(
            method(moments(inputs["treatment"]), moments(inputs["control"]), alpha=inputs["alpha"])
        )
    )


@kind("binary/welch_delta_relative")
def _(inputs: Inputs) -> Answer:
    found = mean.relative(
        plain_variance(inputs["treatment"]), plain_variance(inputs["control"]), alpha=inputs["alpha"]
    )
    return Answer(values=as_published(found))


def _sequence(candidate: Moments, control: Moments, inputs: Inputs) -> Answer:
    method = mean.relative if inputs.get("difference") == "relative" else mean.welch
    found = method(candidate, control, alpha=inputs["alpha"])
    assert found.value is not None
    assert found.se is not None
    n, alpha, best_at = candidate.n + control.n, inputs["alpha"], inputs["tuning_N"]
    if inputs.get("alternative") == "greater":
        bound = confidence_sequence.lower_bound(found.value, found.se, n, alpha=alpha, best_at=best_at)
        p = confidence_sequence.one_sided_p(found.value / found.se, n, alpha=alpha, best_at=best_at)
        interval = [bound, math.inf]
    else:
        interval = ends(confidence_sequence.band(found.value, found.se, n, alpha=alpha, best_at=best_at))
        p = math.exp(
            min(0.0, -confidence_sequence.log_e(found.value / found.se, n, alpha=alpha, best_at=best_at))
        )
    return Answer(values={"point": found.value, "ci": interval, "p": p, "se": found.se, "error": None})


@kind("mean/asymptotic_cs")
@kind("mean/asymptotic_cs_one_sided")
def _(inputs: Inputs) -> Answer:
    return _sequence(moments(inputs["treatment"]), moments(inputs["control"]), inputs)


@kind("binary/asymptotic_cs")
def _(inputs: Inputs) -> Answer:
    return _sequence(plain_variance(inputs["treatment"]), plain_variance(inputs["control"]), inputs)


@kind("mean/one_sided")
def _(inputs: Inputs) -> Answer:
    return Answer(
        values=as_published(
            mean.welch(
                moments(inputs["treatment"]),
                moments(inputs["control"]),
                alpha=inputs["alpha"],
                alternative=inputs["alternative"],
            )
        )
    )


@kind("sequential/tuning_rho")
def _(inputs: Inputs) -> Answer:
    alpha, best_at = inputs["alpha"], inputs["tuning_N"]
    counts = (100, 1000, 5000, 20000)
    return Answer(
        values={
            "rho": math.sqrt(confidence_sequence.tuning(alpha, best_at)),
            "halfwidths_unit_sd": {
                str(n): confidence_sequence.critical_value(n, alpha=alpha, best_at=best_at) / math.sqrt(n)
                for n in counts
            },
            "halfwidths_one_sided": {
                str(n): confidence_sequence.one_sided_critical_value(n, alpha=alpha, best_at=best_at)
                / math.sqrt(n)
                for n in counts
            },
        }
    )


@kind("sequential/asymptotic_cs_margin")
def _(inputs: Inputs) -> Answer:
    alpha, best_at = inputs["alpha"], inputs["t_opt"]
    exact = confidence_sequence.exact_tuning(alpha, best_at)
    as_exact = best_at * confidence_sequence.tuning(alpha, best_at) / exact
    counts = (100, 500, 1000, 5000)
    margins = {
        str(n): confidence_sequence.critical_value(n, alpha=alpha, best_at=as_exact) / math.sqrt(n)
        for n in counts
    }
    z = quantile(1 - alpha / 2)
    return Answer(
        values={
            "rho2_exact": exact,
            "rho2_gbstats_approx": confidence_sequence.tuning(alpha, best_at),
            "margins": margins,
            "ratio_to_fixed_z": {str(n): margins[str(n)] * math.sqrt(n) / z for n in counts},
        },
        left_out=("rho2_tensorzero_default_formula",),
    )


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


@kind("srm/chi_square")
def _(inputs: Inputs) -> Answer:
    return Answer(
        values={"p": math.exp(sample_ratio.chi_square_log_p(inputs["observed"], inputs["weights"]))}
    )


@kind("srm/sequential_dirichlet")
def _(inputs: Inputs) -> Answer:
    totals = np.cumsum(np.asarray(inputs["data"]), axis=0)
    null = inputs["null"]
    logs = sample_ratio.log_e(totals, null, concentration=inputs["dirichlet_concentration"])
    running = np.minimum(1.0, np.minimum.accumulate(np.exp(-logs)))
    final = float(logs[-1])
    return Answer(
        values={
            "sequential_p": running.tolist(),
            "log_bayes_factor": logs.tolist(),
            "posterior_probability": 1.0 / (1.0 + math.exp(-final)),
            "chi2_p_final": math.exp(sample_ratio.chi_square_log_p(totals[-1].tolist(), null)),
        }
    )


@kind("srm/mixture_dirichlet")
def _(inputs: Inputs) -> Answer:
    shares, ks = tuple(inputs["null"]), inputs["concentrations"]
    each = [
        [float(sample_ratio.log_e(counts, shares, concentration=k)) for k in ks]
        for counts in inputs["counts"]
    ]
    mixed = [
        sample_ratio.mismatch([sample_ratio.ArmCounts(units=tuple(counts), shares=shares)], concentrations=ks)
        for counts in inputs["counts"]
    ]
    return Answer(values={"log_e_each": each, "log_e_mixture": mixed})


@kind("guardrail/one_sided_e_process")
def _(inputs: Inputs) -> Answer:
    candidate = [point["canary_failures"] for point in inputs["points"]]
    control = [point["control_failures"] for point in inputs["points"]]
    share, k = inputs["canary_share"], inputs["k"]
    plain, margin = inputs["margin_rate_ratio"]
    return Answer(
        values={
            "log_e_margin_1": failures.harm_log_e(
                candidate, control, share, ratio=plain, concentration=k
            ).tolist(),
            "log_e_margin_1_25": failures.harm_log_e(
                candidate, control, share, ratio=margin, concentration=k
            ).tolist(),
            "rollback_threshold_alpha_05": math.log(1 / 0.05),
            "null_share_margin_1_25": failures.tolerated_share(share, margin),
        }
    )


@kind("stratified/cmh")
def _(inputs: Inputs) -> Answer:
    found = [
        (
            (s["canary_fail"], s["canary_fail"] + s["canary_ok"]),
            (s["control_fail"], s["control_fail"] + s["control_ok"]),
        )
        for s in inputs["strata"]
    ]
    z = strata.cmh(found)
    assert z is not None
    odds = strata.odds_ratio(found)
    pooled = proportion.newcombe(
        (sum(one[0] for one, _ in found), sum(one[1] for one, _ in found)),
        (sum(zero[0] for _, zero in found), sum(zero[1] for _, zero in found)),
    )
    return Answer(
        values={
            "chi2": z * z,
            "p": 2 * (1 - 0.5 * math.erfc(-abs(z) / math.sqrt(2))),
            "pooled_or": odds.value,
            "or_ci": ends(odds.interval),
            "naive_pooled_p": pooled.p,
        }
    )


@kind("sequential/group_sequential")
def _(inputs: Inputs) -> Answer:
    looks, alpha = inputs["looks"], inputs["alpha"]
    information = [(k + 1) / looks for k in range(looks)]
    sides = 2 if inputs["two_sided"] else 1
    return Answer(
        values={
            "pocock_z": group_sequential.classical_bounds(information, alpha=alpha, sides=sides, power=0.0)[
                0
            ],
            "obf_z": group_sequential.classical_bounds(information, alpha=alpha, sides=sides, power=0.5),
        }
    )


@kind("sequential/alpha_spending")
def _(inputs: Inputs) -> Answer:
    if "t^2" in inputs["spending"]:
        spending = group_sequential.power_spending(2.0)
    else:
        spending = group_sequential.obrien_fleming
    sides = inputs.get("sides", 2)
    return Answer(
        values={
            "z": group_sequential.bounds(
                inputs["info"], alpha=inputs["alpha"], sides=sides, spending=spending
            )
        }
    )


@kind("sequential/naive_peeking_inflation")
def _(inputs: Inputs) -> Answer:
    z = quantile(1 - inputs["nominal_alpha"] / 2)
    return Answer(
        values={
            "type1": {
                str(looks): group_sequential.crossing_probability(
                    [z] * looks, [k + 1.0 for k in range(looks)]
                )
                for looks in inputs["looks"]
            }
        }
    )


def table(inputs: Inputs) -> paired.PairTable:
    return paired.PairTable(
        both=inputs["both_pass"],
        control_only=inputs["only_control_pass"],
        candidate_only=inputs["only_candidate_pass"],
        neither=inputs["both_fail"],
    )


@kind("paired_binary/mcnemar")
def _(inputs: Inputs) -> Answer:
    pairs = table(inputs)
    chi = paired.mcnemar_chi_square(pairs)
    return Answer(
        values={
            "exact_p": paired.mcnemar_exact(pairs),
            "mid_p": paired.mcnemar_mid_p(pairs),
            "chi2_cc": None if chi is None else {"stat": chi.statistic, "p": chi.p},
            "diff": pairs.difference,
            "wald_se": pairs.wald_se,
        }
    )


@kind("paired_binary/difference_ci")
def _(inputs: Inputs) -> Answer:
    pairs, alpha = table(inputs), inputs["alpha"]
    return Answer(
        values={
            "bonett_price_paired_ci": ends(paired.bonett_price(pairs, alpha=alpha).interval),
            "newcombe_mover_paired_ci": ends(paired.newcombe_paired(pairs, alpha=alpha).interval),
        },
        left_out=("mj_floor_paired_ci", "mj_unfloored_paired_ci", "tango_scc_paired_ci"),
    )


@kind("multiplicity/adjust")
def _(inputs: Inputs) -> Answer:
    p = inputs["p"]
    return Answer(
        values={
            "bonferroni": multiplicity.bonferroni(p),
            "holm": multiplicity.holm(p),
            "simes-hochberg": multiplicity.hochberg(p),
            "hommel": multiplicity.hommel(p),
            "fdr_bh": multiplicity.benjamini_hochberg(p),
            "fdr_by": multiplicity.benjamini_hochberg(p, any_dependence=True),
        }
    )


@kind("multiplicity/e_bh")
def _(inputs: Inputs) -> Answer:
    return Answer(values={"rejected": multiplicity.e_benjamini_hochberg(inputs["e"], alpha=inputs["alpha"])})


@kind("paired_mean/permutation")
def _(inputs: Inputs) -> Answer:
    p = paired.sign_flip_p(inputs["diffs"])
    return Answer(values={"p": p, "scipy_p": p})


@kind("binary/one_sample_ci")
def _(inputs: Inputs) -> Answer:
    count, n, alpha = inputs["successes"], inputs["n"], inputs["alpha"]
    return Answer(
        values={
            "wilson": ends(proportion.wilson(count, n, alpha=alpha)),
            "clopper_pearson": ends(proportion.clopper_pearson(count, n, alpha=alpha)),
            "jeffreys": ends(proportion.bayes_interval(count, n, prior=0.5, alpha=alpha)),
            "agresti_coull": ends(proportion.agresti_coull(count, n, alpha=alpha)),
            "bayes_uniform": ends(proportion.bayes_interval(count, n, prior=1.0, alpha=alpha)),
        },
        left_out=("wald",),
    )


@kind("binary/two_sample_ci")
def _(inputs: Inputs) -> Answer:
    candidate, control, alpha = tuple(inputs["candidate"]), tuple(inputs["control"]), inputs["alpha"]
    corrected = ends(proportion.score_interval(candidate, control, alpha=alpha).interval)
    hybrid = proportion.newcombe(candidate, control, alpha=alpha)
    caffo = proportion.agresti_caffo(candidate, control, alpha=alpha)
    return Answer(
        values={
            "diff": hybrid.value,
            "mn_corrected": corrected,
            "mn_uncorrected": ends(
                proportion.score_interval(candidate, control, alpha=alpha, corrected=False).interval
            ),
            "newcombe": ends(hybrid.interval),
            "ci_diff": {
                "newcomb": ends(hybrid.interval),
                "agresti-caffo": ends(caffo.interval),
                "miettinen_nurminen": corrected,
            },
        },
        left_out=("published_mn", "p_diff", "ci_ratio", "ci_diff.wald"),
    )


@kind("clustering/clustered_se")
def _(inputs: Inputs) -> Answer:
    scores = inputs["scores"]
    modulus = int(inputs["cluster"].split("%")[1])
    found = paired.clustered_difference(paired.paired_sums(scores, [i % modulus for i in range(len(scores))]))
    alone = paired.clustered_difference(paired.paired_sums(scores))
    assert found.se is not None
    return Answer(
        values={
            "se_cr1": found.se,
            "se_cr0_paper": found.se * math.sqrt((modulus - 1) / modulus),
            "se_naive": alone.se,
        },
        left_out=("statsmodels_cr1",),
    )


@kind("ratio/delta_method")
def _(inputs: Inputs) -> Answer:
    if "mean" in inputs["control"]:
        return _named_ratio(inputs)
    candidate, control = _ratio_sums(inputs["treatment"]), _ratio_sums(inputs["control"])
    found = mean.ratio_difference(candidate, control, alpha=inputs["alpha"])
    return Answer(
        values={
            **as_published(found),
            "ratio_control": control.ratio,
            "ratio_treatment": candidate.ratio,
            "var_control": control.variance * control.n,
            "var_treatment": candidate.variance * candidate.n,
        }
    )


def _from_covariances(raw: Inputs, top: str, bottom: str) -> Cluster:
    n, y, m = raw["n"], raw["mean"][top], raw["mean"][bottom]
    return Cluster(
        n=n,
        y=n * y,
        m=n * m,
        yy=raw["var"][top] * (n - 1) + n * y * y,
        mm=raw["var"][bottom] * (n - 1) + n * m * m,
        ym=raw["cov"][f"{top}|{bottom}"] * (n - 1) + n * y * m,
    )


def _named_ratio(inputs: Inputs) -> Answer:
    control = _from_covariances(inputs["control"], "orders", "sessions")
    candidate = _from_covariances(inputs["treatment"], "orders", "sessions")
    found = mean.ratio_difference(candidate, control, alpha=inputs["alpha"])
    logs = mean.ratio_log_ratio(candidate, control, alpha=inputs["alpha"])
    assert found.interval is not None
    assert logs.interval is not None
    assert found.value is not None
    assert found.se is not None
    assert logs.value is not None
    return Answer(
        values={
            "control": control.ratio,
            "treatment": candidate.ratio,
            "effect_size": found.value,
            "effect_size_ci_lower": found.interval.lower,
            "effect_size_ci_upper": found.interval.upper,
            "rel_effect_size": math.expm1(logs.value),
            "rel_effect_size_ci_lower": math.expm1(logs.interval.lower),
            "rel_effect_size_ci_upper": math.expm1(logs.interval.upper),
            "pvalue": found.p,
            "statistic": found.value / found.se,
        }
    )


@kind("edge/zero_variance_p1")
def _(inputs: Inputs) -> Answer:
    found = proportion.newcombe(tuple(inputs["treatment"]), tuple(inputs["control"]))
    assert found.interval is not None
    holds = found.value == 0.0 and found.interval.lower < 0.0 < found.interval.upper
    welch = mean.welch(plain_variance(inputs["treatment"]), plain_variance(inputs["control"]))
    return Answer(
        values={"diff": found.value, "newcombe95": ends(found.interval), "welch": welch.status},
        holds=holds and welch.status == "insufficient_data" and welch.interval is None,
    )


@kind("edge/negative_variance")
def _(inputs: Inputs) -> Answer:
    found = mean.welch(moments(inputs["treatment"]), moments(inputs["control"]))
    return Answer(
        values={"status": found.status, "p": found.p, "ci": ends(found.interval)},
        holds=found.status == "insufficient_data" and found.p is None and found.interval is None,
    )


@kind("edge/negative_baseline")
def _(inputs: Inputs) -> Answer:
    return Answer(values={"relative": mean.relative_change(inputs["treatment"], inputs["control"])})


@kind("noninferiority/proportion")
def _(inputs: Inputs) -> Answer:
    candidate, control = tuple(inputs["candidate"]), tuple(inputs["control"])
    margin, alpha = inputs["margin"], inputs["alpha"]
    sign = 1.0 if inputs["higher_is_better"] else -1.0
    z = sign * proportion.margin_score(candidate, control, -sign * margin, corrected=True)
    other = sign * proportion.margin_score(candidate, control, sign * margin, corrected=True)
    plain = proportion.newcombe(candidate, control)
    assert plain.value is not None
    assert plain.se is not None
    p = 0.5 * math.erfc(z / math.sqrt(2))
    return Answer(
        values={
            "score_z": z,
            "p_noninferiority_score": p,
            "p_noninferiority_wald": 0.5 * math.erfc((sign * plain.value + margin) / plain.se / math.sqrt(2)),
            "tost_p": max(p, 0.5 * math.erfc(-other / math.sqrt(2))),
            "ci90_score": ends(proportion.score_interval(candidate, control, alpha=2 * alpha).interval),
            "noninferior": p < alpha,
        }
    )


@kind("noninferiority/peer_bug")
def _(inputs: Inputs) -> Answer:
    """The restricted estimate must have the greatest likelihood of all that keep the difference."""
    zs, p0s, best = [], [], True
    for case in inputs["cases"]:
        candidate, control, d = tuple(case["candidate"]), tuple(case["control"]), case["value"]

        def likelihood(p0: float, one: Any = candidate, zero: Any = control, d: float = d) -> float:
            return sum(
                x * math.log(p) + (n - x) * math.log1p(-p) for (x, n), p in ((one, p0 + d), (zero, p0))
            )

        _, p0 = proportion.restricted(candidate, control, d)
        best = best and all(likelihood(p0) >= likelihood(p0 + step) for step in (-1e-5, 1e-5))
        zs.append(proportion.margin_score(candidate, control, d, corrected=True))
        p0s.append(p0)
    return Answer(values={"correct_z": zs, "correct_p0_null": p0s}, holds=best)


def _moments_of(values: list[float]) -> Moments:
    return Moments(n=len(values), total=math.fsum(values), squares=math.fsum(v * v for v in values))


def _upper_p(found: Estimate, null: float) -> float:
    """P(T >= t) for the one-sided test that the effect exceeds `null`."""
    from scipy import stats

    assert found.value is not None
    assert found.se is not None
    return float(stats.t.sf((found.value - null) / found.se, found.df))


@kind("noninferiority/two_sample_mean")
def _(inputs: Inputs) -> Answer:
    found = mean.welch(_moments_of(inputs["candidate"]), _moments_of(inputs["control"]))
    lower, upper = _upper_p(found, inputs["low"]), 1.0 - _upper_p(found, inputs["high"])
    return Answer(values={"tost_p": max(lower, upper), "p_lower": lower, "p_upper": upper})


@kind("noninferiority/paired_mean")
def _(inputs: Inputs) -> Answer:
    d = [one - zero for one, zero in zip(inputs["candidate"], inputs["control"], strict=True)]
    found = paired.clustered_difference(paired.paired_sums(d))
    assert found.value is not None
    assert found.se is not None
    low, high = inputs["low"], inputs["high"]
    p_low, p_high = _upper_p(found, low), 1.0 - _upper_p(found, high)
    return Answer(
        values={
            "tost_p": max(p_low, p_high),
            "lower": [(found.value - low) / found.se, p_low, found.df],
            "upper": [(found.value - high) / found.se, p_high, found.df],
            "mean_diff": found.value,
            "noninferior_margin_0_3_p": p_low,
        }
    )


@kind("binary/two_sample_exact")
def _(inputs: Inputs) -> Answer:
    candidate, control = tuple(inputs["treatment"]), tuple(inputs["control"])
    found = proportion.exact_p(candidate, control)
    assert found is not None
    name, p = found
    return Answer(values={"p": {name: p}}, left_out=("norm_no_corr", "norm_unpooled_corr"))
