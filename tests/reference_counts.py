"""How are the kinds about counts, strata, multiplicity and numbers of units computed?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments.statistics import (
    counts,
    failures,
    multiplicity,
    proportion,
    sample_ratio,
    strata,
)
from experiments.statistics.estimate import log_two_sided
from tests.reference_kinds import (
    Answer,
    Figures,
    Inputs,
    arm,
    by_number,
    ends,
    kind,
    named,
)


def _events(inputs: Inputs) -> tuple[counts.Events, counts.Events]:
    return (
        counts.Events(count=inputs["candidate_errors"], exposure=inputs["candidate_exposure"]),
        counts.Events(count=inputs["control_errors"], exposure=inputs["control_exposure"]),
    )


@kind("counts/poisson_two_sample")
def _(inputs: Inputs) -> Answer:
    candidate, control = _events(inputs)
    alpha = inputs.get("alpha", 0.05)
    traffic = candidate.exposure / (candidate.exposure + control.exposure)

    def anytime(concentration: float) -> float:
        log_e = failures.imbalance_log_e(candidate.count, control.count, traffic, concentration=concentration)
        return math.exp(min(0.0, -float(log_e)))

    left_out = []
    if candidate.exposure != control.exposure:
        # The reference's formula forgets the exposures: its interval does not even hold its own estimate.
        left_out.append("ci_ratio.sqrtcc")
    return Answer(
        values={
            "rate_ratio": counts.rate_ratio(candidate, control),
            "p": {
                "exact-cond": counts.exact_p(candidate, control),
                "cond-midp": counts.mid_p(candidate, control),
                "score": counts.score_p(candidate, control),
                "etest-score": counts.e_test_p(candidate, control),
            },
            "ci_ratio": {
                "score": ends(counts.score_interval(candidate, control, alpha=alpha)),
                "waldcc": ends(counts.wald_interval(candidate, control, alpha=alpha)),
                "sqrtcc": ends(counts.root_interval(candidate, control, alpha=alpha)),
                "mover": ends(counts.mover_interval(candidate, control, alpha=alpha)),
                "exact": ends(counts.exact_interval(candidate, control, alpha=alpha)),
            },
            "conditional_binomial_p": counts.exact_p(candidate, control),
            "anytime_p_dirichlet_concentration": by_number(anytime),
        },
        left_out=tuple(left_out),
    )


@kind("counts/peer_bug")
def _(inputs: Inputs) -> Answer:
    """Without control events the ratio's interval is (lower, inf), and never narrower than the score's."""
    candidate, control = _events(inputs)
    alpha = inputs.get("alpha", 0.05)
    exact = counts.exact_interval(candidate, control, alpha=alpha)
    score = counts.score_interval(candidate, control, alpha=alpha)
    mover = counts.mover_interval(candidate, control, alpha=alpha)
    holds = exact is None
    if exact is not None and score is not None:
        open_end = control.count == 0
        holds = exact.lower < exact.upper and score.lower < score.upper
        holds = holds and (exact.upper == math.inf) == open_end == (score.upper == math.inf)
        holds = holds and (candidate.count > 0) == (exact.lower > 0.0)
    return Answer(
        values={
            "exact": ends(exact),
            "score": ends(score),
            "mover": ends(mover),
            "exact_conditional_lower": None if exact is None else exact.lower,
        },
        holds=holds,
    )


@kind("counts/sequential_canary")
def _(inputs: Inputs) -> Answer:
    per_look = np.asarray(inputs["errors_control_canary"], np.float64)
    totals = np.cumsum(per_look, axis=0)
    control_share, candidate_share = inputs["traffic_share"]
    traffic = candidate_share / (control_share + candidate_share)
    k, alpha = inputs["k"], inputs.get("alpha", 0.05)
    logs = failures.imbalance_log_e(totals[:, 1], totals[:, 0], traffic, concentration=k)
    instant = np.exp(-logs)
    bands = [
        failures.rate_ratio_sequence(int(one), int(zero), traffic, alpha=alpha, concentration=k)
        for zero, one in totals
    ]
    return Answer(
        values={
            "instant_p_1_over_odds": instant.tolist(),
            "running_p": np.minimum(1.0, np.minimum.accumulate(instant)).tolist(),
            "log_rate_ratio_ci": [
                [-math.inf if band.lower == 0.0 else math.log(band.lower), math.log(band.upper)]
                for band in bands
            ],
        }
    )


@kind("guardrail/one_sided_e_process")
def _(inputs: Inputs) -> Answer:
    candidate = [point["canary_failures"] for point in inputs["points"]]
    control = [point["control_failures"] for point in inputs["points"]]
    traffic, k = inputs["canary_share"], inputs.get("k", failures.CONCENTRATION)
    margins = inputs["margin_rate_ratio"]
    values: dict[str, Any] = {}
    for margin in margins if isinstance(margins, list) else [margins]:
        values[f"log_e_margin_{named(margin)}"] = failures.harm_log_e(
            candidate, control, traffic, ratio=margin, concentration=k
        ).tolist()
        values[f"null_share_margin_{named(margin)}"] = failures.tolerated_share(traffic, margin)
    rules = {
        r"rollback_threshold_alpha_(\d+)": lambda digits: -math.log(float(f"0.{digits}")),
    }
    return Answer(values=Figures(values, rules))


# --- strata, multiplicity, numbers of units ------------------------------------------------------------


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
    odds = strata.odds_ratio(found, alpha=inputs.get("alpha", 0.05))
    pooled = proportion.newcombe(
        (sum(one[0] for one, _ in found), sum(one[1] for one, _ in found)),
        (sum(zero[0] for _, zero in found), sum(zero[1] for _, zero in found)),
    )
    return Answer(
        values={
            "chi2": None if z is None else z * z,
            "p": None if z is None else math.exp(log_two_sided(z)),
            "pooled_or": odds.value,
            "or_ci": ends(odds.interval),
            "naive_pooled_p": pooled.p,
        }
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
    return Answer(
        values={"rejected": multiplicity.e_benjamini_hochberg(inputs["e"], alpha=inputs.get("alpha", 0.05))}
    )


@kind("srm/chi_square")
def _(inputs: Inputs) -> Answer:
    weights = arm(inputs, "weights", "null")
    return Answer(values={"p": math.exp(sample_ratio.chi_square_log_p(inputs["observed"], weights))})


@kind("srm/exact_binomial")
def _(inputs: Inputs) -> Answer:
    control, candidate = inputs["observed"]
    ratio = inputs.get("ratio", 1)
    found = sample_ratio.binomial_test(candidate, control, share=ratio / (1.0 + ratio))
    return Answer(values={"binom_p": found.exact, "norm_corr_p": found.normal})


@kind("srm/sequential_dirichlet")
def _(inputs: Inputs) -> Answer:
    totals = np.cumsum(np.asarray(inputs["data"]), axis=0)
    null = inputs["null"]
    logs = sample_ratio.log_e(totals, null, concentration=inputs.get("dirichlet_concentration", 10_000))
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
    shares, ks = tuple(inputs["null"]), inputs.get("concentrations", sample_ratio.CONCENTRATIONS)
    each = [[float(sample_ratio.log_e(row, shares, concentration=k)) for k in ks] for row in inputs["counts"]]
    mixed = [
        sample_ratio.mismatch([sample_ratio.ArmCounts(units=tuple(row), shares=shares)], concentrations=ks)
        for row in inputs["counts"]
    ]
    return Answer(values={"log_e_each": each, "log_e_mixture": mixed})
