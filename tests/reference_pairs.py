"""How are the kinds about ranks, pairs of numbers, clusters and margins computed?"""

from __future__ import annotations

import math
import re
from typing import Any

from experiments.statistics import (
    elsewhere,
    mean,
    noninferiority,
    paired,
    paired_scores,
    ranks,
)
from experiments.statistics.estimate import Estimate
from tests.reference_kinds import (
    Answer,
    Inputs,
    candidate_of,
    control_of,
    ends,
    kind,
    moments,
    named,
)
from tests.reference_means import arms


@kind("latency/rank")
def _(inputs: Inputs) -> Answer:
    candidate, control = candidate_of(inputs), control_of(inputs)
    alpha = inputs.get("alpha", 0.05)
    test = ranks.mann_whitney(candidate, control)
    found = ranks.brunner_munzel(candidate, control, alpha=alpha)
    logs = None
    if min([*candidate, *control], default=0.0) > 0.0:
        logs = mean.welch(
            moments([math.log(value) for value in candidate]), moments([math.log(value) for value in control])
        ).value
    return Answer(
        values={
            "mannwhitney": None if test is None else {"U": test.statistic, "p": test.p},
            "brunner_munzel": None if found is None else {"stat": found.statistic, "p": found.p},
            "prob_candidate_larger": ranks.superiority(candidate, control),
            "prob_ci": None if found is None else ends(found.interval),
            "hodges_lehmann": ranks.hodges_lehmann(candidate, control),
            "log_ratio_of_geo_means": logs,
        }
    )


@kind("canary/mann_whitney_ci")
def _(inputs: Inputs) -> Answer:
    candidate, control = candidate_of(inputs), control_of(inputs)
    found = ranks.shift_interval(candidate, control, alpha=1.0 - inputs.get("confidence", 0.95))
    test = ranks.mann_whitney(candidate, control)
    return Answer(
        values={
            "ci": ends(found.interval),
            "hodges_lehmann": found.value,
            "mannwhitney_p": None if test is None else test.p,
        }
    )


@kind("canary/peer_failure")
def _(inputs: Inputs) -> Answer:
    """A candidate passes only if it is shown to be within the tolerance, a part of the control's mean."""
    candidate, control = candidate_of(inputs), control_of(inputs)
    level, tolerance = 1.0 - inputs.get("confidence", 0.98), inputs.get("tolerance", 0.25)
    windows = mean.welch(moments(candidate), moments(control))
    base = moments(control).mean
    within = noninferiority.below(windows, tolerance * abs(base))
    passes = within is not None and within.p < level
    shift = ranks.shift_interval(candidate, control, alpha=level)
    found = ranks.brunner_munzel(candidate, control)
    return Answer(
        values={
            "turnout": "Pass" if passes else "not shown to be safe",
            "kayenta_label": elsewhere.kayenta_label(
                candidate, control, tolerance=tolerance, confidence=1.0 - level
            ),
            "ci": ends(shift.interval),
            "hodges_lehmann": shift.value,
            "welch_p": windows.p,
            "brunner_munzel_p": None if found is None else found.p,
        },
        holds=not passes,
    )


@kind("effect_size/cles")
def _(inputs: Inputs) -> Answer:
    return Answer(values={"cles": ranks.superiority(candidate_of(inputs), control_of(inputs))})


@kind("effect_size/cohens_d")
def _(inputs: Inputs) -> Answer:
    candidate, control = candidate_of(inputs), control_of(inputs)
    return Answer(values={"d": ranks.cohen_d(candidate, control), "g": ranks.hedges_g(candidate, control)})


def _differences(inputs: Inputs) -> list[float]:
    pairs = zip(candidate_of(inputs), control_of(inputs), strict=True)
    return [one - zero for one, zero in pairs]


@kind("paired_mean/battery")
def _(inputs: Inputs) -> Answer:
    d, alpha = _differences(inputs), inputs.get("alpha", 0.05)
    candidate, control = candidate_of(inputs), control_of(inputs)
    found = paired.clustered_difference(paired.paired_sums(d), alpha=alpha)
    unpaired = mean.welch(moments(candidate), moments(control))
    signed, pratt = paired_scores.wilcoxon(d), paired_scores.wilcoxon(d, pratt=True)
    signs = paired_scores.sign_test(d)
    t = found.value / found.se if found.value is not None and found.se else None
    return Answer(
        values={
            "mean_diff": found.value,
            "paired_t": {"t": t, "p": found.p, "ci": ends(found.interval)},
            "unpaired_welch_p": unpaired.p,
            "wilcoxon": None if signed is None else {"stat": signed.statistic, "p": signed.p},
            "wilcoxon_pratt_p": None if pratt is None else pratt.p,
            "sign_test": {"pos": signs.positive, "neg": signs.negative, "p": signs.p},
            "cohens_dz": paired_scores.standardised(d),
            "hedges_gz": paired_scores.standardised(d, corrected=True),
            "rank_biserial": paired_scores.rank_biserial(d),
            "corr": paired_scores.correlation(candidate, control),
        }
    )


@kind("paired_mean/permutation")
def _(inputs: Inputs) -> Answer:
    p = paired.sign_flip_p(inputs["diffs"] if "diffs" in inputs else _differences(inputs))
    return Answer(values={"p": p, "scipy_p": p})


@kind("clustering/clustered_se")
def _(inputs: Inputs) -> Answer:
    scores, clusters = inputs["scores"], inputs["cluster"]
    if isinstance(clusters, str):
        modulus = re.fullmatch(r"i\s*%\s*(\d+)", clusters)
        division = re.fullmatch(r"i\s*//\s*(\d+)", clusters)
        if modulus:
            clusters = [i % int(modulus[1]) for i in range(len(scores))]
        elif division:
            clusters = [i // int(division[1]) for i in range(len(scores))]
    found = paired.clustered_difference(paired.paired_sums(scores, clusters))
    plain = paired.clustered_difference(paired.paired_sums(scores, clusters), corrected=False)
    alone = paired.clustered_difference(paired.paired_sums(scores))
    return Answer(
        values={
            "se_cr1": found.se,
            "se_cr0_paper": plain.se,
            "se_naive": alone.se,
        },
        left_out=("statsmodels_cr1",),
    )


# --- margins -------------------------------------------------------------------------------------------


def _margins(found: Estimate, inputs: Inputs) -> dict[str, Any]:
    low, high = inputs["low"], inputs["high"]
    both = noninferiority.equivalence(found, low, high)
    if both is None:
        return {"tost_p": None}
    return {
        "tost_p": both.p,
        "p_lower": both.lower.p,
        "p_upper": both.upper.p,
        "lower": [both.lower.statistic, both.lower.p, both.lower.df],
        "upper": [both.upper.statistic, both.upper.p, both.upper.df],
        "mean_diff": found.value,
        f"noninferior_margin_{named(abs(low))}_p": both.lower.p,
    }


@kind("noninferiority/two_sample_mean")
def _(inputs: Inputs) -> Answer:
    return Answer(values=_margins(mean.welch(*arms(inputs)), inputs))


@kind("noninferiority/paired_mean")
def _(inputs: Inputs) -> Answer:
    found = paired.clustered_difference(paired.paired_sums(_differences(inputs)))
    return Answer(values=_margins(found, inputs))


@kind("edge/negative_variance")
def _(inputs: Inputs) -> Answer:
    found = mean.welch(*arms(inputs))
    return Answer(
        values={"status": found.status, "p": found.p, "ci": ends(found.interval)},
        holds=found.status in ("insufficient_data", "no_data") and found.p is None and found.interval is None,
    )


@kind("edge/negative_baseline")
def _(inputs: Inputs) -> Answer:
    return Answer(values={"relative": mean.relative_change(candidate_of(inputs), control_of(inputs))})
