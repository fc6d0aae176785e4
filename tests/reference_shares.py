"""How are the kinds about shares, tables, counts and numbers of units computed?"""

from __future__ import annotations

import math
from typing import Any

from experiments.statistics import (
    contingency,
    mean,
    noninferiority,
    paired,
    paired_scores,
    proportion,
)
from experiments.statistics.contingency import Alternative
from experiments.statistics.estimate import Estimate, log_two_sided
from experiments.statistics.proportion import Share
from tests.reference_kinds import (
    Answer,
    Inputs,
    candidate_of,
    control_of,
    ends,
    kind,
    moments,
    plain_variance,
    share,
)


def _shares(inputs: Inputs) -> tuple[Share, Share]:
    return share(candidate_of(inputs)), share(control_of(inputs))


def _one_sided(z: float) -> float:
    """P(Z >= z)."""
    half = math.exp(log_two_sided(z)) / 2.0
    return half if z >= 0.0 else 1.0 - half


@kind("binary/one_sample_ci")
def _(inputs: Inputs) -> Answer:
    count, n, alpha = inputs["successes"], inputs["n"], inputs.get("alpha", 0.05)
    plain = contingency.wald_share(count, n, alpha=alpha)
    return Answer(
        values={
            "wilson": ends(proportion.wilson(count, n, alpha=alpha)),
            "clopper_pearson": ends(proportion.clopper_pearson(count, n, alpha=alpha)),
            "jeffreys": ends(proportion.bayes_interval(count, n, prior=0.5, alpha=alpha)),
            "agresti_coull": ends(proportion.agresti_coull(count, n, alpha=alpha)),
            "bayes_uniform": ends(proportion.bayes_interval(count, n, prior=1.0, alpha=alpha)),
            "wald": ends(plain),
        },
        # At 0/n and n/n the plain interval has no width: Turnout gives none.
        left_out=("wald",) if plain is None else (),
    )


@kind("binary/two_sample_ci")
def _(inputs: Inputs) -> Answer:
    candidate, control = _shares(inputs)
    alpha = inputs.get("alpha", 0.05)
    corrected = ends(proportion.score_interval(candidate, control, alpha=alpha).interval)
    hybrid = proportion.newcombe(candidate, control, alpha=alpha)
    caffo = proportion.agresti_caffo(candidate, control, alpha=alpha)
    plain = contingency.wald_difference(candidate, control, alpha=alpha)
    ratios = {
        "log": contingency.risk_ratio_log(candidate, control, alpha=alpha),
        "log-adjusted": contingency.risk_ratio_log(candidate, control, alpha=alpha, adjusted=True),
        "score": contingency.risk_ratio_interval(candidate, control, alpha=alpha),
    }
    score = proportion.score_interval(candidate, control, alpha=alpha)
    # Intervals of no width, which other software prints and Turnout refuses to.
    refused = ["ci_diff.wald", "p_diff.wald"] if plain.interval is None else []
    refused += [f"ci_ratio.{name}" for name, found in ratios.items() if found.interval is None]
    return Answer(
        values={
            "diff": hybrid.value,
            "mn_corrected": corrected,
            "published_mn": ends(
                proportion.score_interval(candidate, control, alpha=alpha, corrected=False).interval
            ),
            "mn_uncorrected": ends(
                proportion.score_interval(candidate, control, alpha=alpha, corrected=False).interval
            ),
            "newcombe": ends(hybrid.interval),
            "ci_diff": {
                "newcomb": ends(hybrid.interval),
                "agresti-caffo": ends(caffo.interval),
                "wald": ends(plain.interval),
                "miettinen_nurminen": corrected,
            },
            "p_diff": {
                "wald": plain.p,
                "agresti-caffo": caffo.p,
                "score": score.p,
                "fisher": contingency.fisher(candidate, control),
                "boschloo": contingency.boschloo(candidate, control),
            },
            "ci_ratio": {name: ends(found.interval) for name, found in ratios.items()},
        },
        # Printed to two or three digits; the same interval is compared in full beside it.
        left_out=("published_mn", *refused),
    )


def _plain_test(inputs: Inputs, found: Estimate, logs: Estimate) -> dict[str, Any]:
    relative = None
    if logs.interval is not None:
        relative = [logs.interval.lower - 1.0, logs.interval.upper - 1.0]
    cut = None
    if found.interval is not None:
        cut = [max(-1.0, found.interval.lower), min(1.0, found.interval.upper)]
    return {"p": found.p, "ci": cut, "rel_ci": relative}


@kind("binary/two_sample_exact")
def _(inputs: Inputs) -> Answer:
    candidate, control = _shares(inputs)
    alpha = inputs.get("alpha", 0.05)
    side: Alternative = inputs.get("alternative", "two-sided")

    def plain(pooled: bool, corrected: bool) -> dict[str, Any]:
        found = contingency.wald_difference(
            candidate, control, alpha=alpha, pooled=pooled, corrected=corrected
        )
        logs = contingency.risk_ratio_log(candidate, control, alpha=alpha, pooled=pooled)
        return _plain_test(inputs, found, logs)

    return Answer(
        values={
            "p": {
                "barnard": contingency.barnard(candidate, control, alternative=side, pooled=True),
                "boschloo": contingency.boschloo(candidate, control, alternative=side),
                "fisher": contingency.fisher(candidate, control, alternative=side),
                "log-likelihood": contingency.chi_square(candidate, control, likelihood=True),
                "pearson": contingency.chi_square(candidate, control),
            },
            "norm_no_corr": plain(True, False),
            "norm_unpooled_corr": plain(False, True),
            "norm_unpooled_no_corr": plain(False, False),
            "norm_corr": plain(True, True),
        }
    )


@kind("edge/zero_variance_p1")
def _(inputs: Inputs) -> Answer:
    candidate, control = _shares(inputs)
    found = proportion.newcombe(candidate, control)
    welch = mean.welch(plain_variance(candidate), plain_variance(control))
    around = (
        found.interval is not None
        and found.value is not None
        and found.interval.lower < found.interval.upper
        and found.value in found.interval
    )
    one_flat = all(count in (0, n) for count, n in (candidate, control))
    refused = welch.status != "ok" and welch.interval is None
    return Answer(
        values={"diff": found.value, "newcombe95": ends(found.interval), "welch": welch.status},
        holds=around and (refused or not one_flat),
    )


# --- margins -------------------------------------------------------------------------------------------


@kind("noninferiority/proportion")
def _(inputs: Inputs) -> Answer:
    candidate, control = _shares(inputs)
    margin, alpha = inputs["margin"], inputs.get("alpha", 0.05)
    higher = inputs.get("higher_is_better", True)
    sign = 1.0 if higher else -1.0
    z = sign * proportion.margin_score(candidate, control, -sign * margin, corrected=True)
    other = sign * proportion.margin_score(candidate, control, sign * margin, corrected=True)
    plain = contingency.wald_difference(candidate, control)
    wald = noninferiority.above(plain, -margin) if higher else noninferiority.below(plain, margin)
    p = _one_sided(z)
    return Answer(
        values={
            "score_z": z,
            "p_noninferiority_score": p,
            "p_noninferiority_wald": None if wald is None else wald.p,
            "tost_p": max(p, _one_sided(-other)),
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
            return float(
                sum(
                    (x * math.log(p) if x else 0.0) + ((n - x) * math.log1p(-p) if n - x else 0.0)
                    if 0.0 < p < 1.0 or (p == 0.0 and not x) or (p == 1.0 and x == n)
                    else -math.inf
                    for (x, n), p in ((one, p0 + d), (zero, p0))
                )
            )

        _, p0 = proportion.restricted(candidate, control, d)
        best = best and all(
            likelihood(p0) >= likelihood(p0 + step)
            for step in (-1e-5, 1e-5)
            if 0.0 <= p0 + step <= 1.0 and 0.0 <= p0 + step + d <= 1.0
        )
        zs.append(proportion.margin_score(candidate, control, d, corrected=True))
        p0s.append(p0)
    return Answer(values={"correct_z": zs, "correct_p0_null": p0s}, holds=best)


@kind("noninferiority/z_test_relative_margin")
def _(inputs: Inputs) -> Answer:
    raw = candidate_of(inputs), control_of(inputs)
    if isinstance(raw[0], dict):
        candidate, control = moments(raw[0]), moments(raw[1])
        plain = mean.welch(candidate, control)
        base = control.mean
    else:
        plain = contingency.wald_difference(share(raw[0]), share(raw[1]))
        base = raw[1][0] / raw[1][1]
    found = noninferiority.relative_margin(
        plain,
        base,
        inputs["nim_relative"],
        higher_is_better=inputs.get("preferred", "increase") == "increase",
        alpha=inputs.get("alpha", 0.05),
    )
    null = noninferiority.relative_null(
        base, inputs["nim_relative"], higher_is_better=inputs.get("preferred", "increase") == "increase"
    )
    return Answer(
        values={
            "difference": found.value,
            "null_hypothesis": null,
            "p": found.p,
            "hand_p": found.p,
            "ci": ends(found.interval),
        }
    )


# --- pairs of binary outcomes --------------------------------------------------------------------------


def table(inputs: Inputs) -> paired.PairTable:
    """A table of pairs by who passed."""
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
    pairs, alpha = table(inputs), inputs.get("alpha", 0.05)
    return Answer(
        values={
            "bonett_price_paired_ci": ends(paired.bonett_price(pairs, alpha=alpha).interval),
            "newcombe_mover_paired_ci": ends(paired.newcombe_paired(pairs, alpha=alpha).interval),
            "mj_floor_paired_ci": ends(paired_scores.may_johnson(pairs, alpha=alpha).interval),
            "mj_unfloored_paired_ci": ends(paired_scores.may_johnson(pairs, alpha=alpha, floor=0.0).interval),
            "tango_scc_paired_ci": ends(paired_scores.tango(pairs, alpha=alpha, continuity=0.125).interval),
        }
    )
