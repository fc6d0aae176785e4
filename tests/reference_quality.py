"""How are the kinds about judges, preferences, planning and allocation computed?"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from experiments.statistics import (
    agreement,
    allocation,
    contingency,
    mean,
    pairwise,
    planning,
    prediction_powered,
)
from experiments.statistics.estimate import Estimate
from experiments.statistics.mean import Alternative
from experiments.statistics.moments import Moments
from tests.reference_kinds import (
    Answer,
    Figures,
    Inputs,
    arm,
    candidate_of,
    control_of,
    ends,
    fraction,
    kind,
    moments,
    number,
)


@kind("agreement/cohen_kappa")
def _(inputs: Inputs) -> Answer:
    table = inputs["table"]
    alpha = inputs.get("alpha", 0.05)
    found = agreement.kappa(table, alpha=alpha)
    # With two labels there is no nearer and farther: weighted kappa says nothing more.
    ordered = len(table) > 2
    return Answer(
        values={
            "kappa": found.value,
            "std": found.se,
            "ci": ends(found.interval),
            "raw_agreement": agreement.raw_agreement(table),
            "weighted_linear": agreement.kappa(table, weights="linear").value if ordered else None,
            "weighted_quadratic": agreement.kappa(table, weights="quadratic").value if ordered else None,
        }
    )


# --- prediction-powered inference ----------------------------------------------------------------------


def _ppi_sums(inputs: Inputs) -> tuple[prediction_powered.Labelled, Moments]:
    sums, stored = inputs.get("label_sums"), inputs.get("data")
    if isinstance(stored, dict) and "label_sums" in stored and sums is None:
        return _ppi_sums(stored)
    if sums is not None:
        # Binary labels: a value is its own square, unless squares are told.
        n, N = inputs["n_labeled"], inputs["N_unlabeled"]

        def of(count: int, name: str) -> Moments:
            return Moments(n=count, total=sums[name], squares=sums.get(f"{name}2", sums[name]))

        labelled = prediction_powered.Labelled(y=of(n, "sumY"), f=of(n, "sumYhat"), yf=sums["sumYYhat"])
        return labelled, of(N, "sumYhat_unlabeled")
    if isinstance(stored, dict):
        first = int(stored["labelled"])
        truth, judge = np.asarray(stored["truth"], float), np.asarray(stored["judge"], float)
        y, f, rest = truth[:first], judge[:first], judge[first:]
    else:
        y, f, rest = (np.asarray(inputs[name], float) for name in ("Y", "Yhat", "Yhat_unlabeled"))
    labelled = prediction_powered.Labelled(y=moments(y.tolist()), f=moments(f.tolist()), yf=float(y @ f))
    return labelled, moments(rest.tolist())


def _published(labelled: prediction_powered.Labelled, rest: Moments, **more: Any) -> Estimate:
    """The normal interval, as the reference implementation has it."""
    return prediction_powered.mean(labelled, rest, normal=True, **more)


@kind("ppi/mean")
def _(inputs: Inputs) -> Answer:
    labelled, rest = _ppi_sums(inputs)
    alpha = inputs.get("alpha", 0.05)
    plain = _published(labelled, rest, alpha=alpha, lam=1.0)
    tuned = _published(labelled, rest, alpha=alpha)
    alone = _published(labelled, rest, alpha=alpha, lam=0.0)

    def p_of(digits: str) -> float | None:
        return _published(labelled, rest, alpha=alpha, null=fraction(digits)).p

    return Answer(
        values=Figures(
            {
                "judge_only_mean": rest.mean,
                "human_mean": labelled.y.mean,
                "classical_ci": ends(alone.interval),
                "ppi_lam1": {"point": plain.value, "ci": ends(plain.interval)},
                "ppi_pp": {"point": tuned.value, "ci": ends(tuned.interval)},
                "lam": prediction_powered.tuning(labelled, rest),
            },
            {r"p_null_([\d_]+)": p_of},
        )
    )


@kind("ppi/peer_bug")
def _(inputs: Inputs) -> Answer:
    """A one-sided interval keeps its infinite end, whether lam is tuned or given."""
    labelled, rest = _ppi_sums(inputs)
    call = inputs.get("call", "")
    asked = re.search(r"alternative='(\w[\w-]*)'", call)
    name = asked[1] if asked else inputs.get("alternative", "larger")
    sides: dict[str, Alternative] = {"larger": "greater", "smaller": "less"}
    side = sides.get(name, "two-sided")
    lam = re.search(r"lam=([\d.]+)", call)
    alpha = inputs.get("alpha", 0.05)
    tuned = _published(labelled, rest, alpha=alpha, alternative=side, lam=float(lam[1]) if lam else None)
    two_sided = _published(labelled, rest, alpha=alpha)
    plain = _published(labelled, rest, alpha=alpha, alternative=side, lam=1.0)
    one, two = tuned.interval, two_sided.interval
    holds = one is not None and two is not None
    if one is not None and two is not None:
        open_up, open_down = one.upper == math.inf, one.lower == -math.inf
        holds = (open_up, open_down) == (side == "greater", side == "less")
        if open_up:
            holds = holds and one.lower > two.lower
        if open_down:
            holds = holds and one.upper < two.upper
    return Answer(
        values={
            "one_sided": ends(one),
            "two_sided": ends(two),
            "with_lam1_one_sided": ends(plain.interval),
        },
        holds=holds,
    )


@kind("ppi/power")
def _(inputs: Inputs) -> Answer:
    found = planning.label_plan(
        inputs["ppi_corr"],
        label_cost=inputs["cost_Y"],
        judge_cost=inputs["cost_Yhat"],
        item_cost=inputs.get("cost_X", 0.0),
        effective_n=inputs.get("effective_n"),
        budget=inputs.get("budget"),
    )
    return Answer(
        values={
            "n": found.n,
            "N": found.N,
            "cost": found.cost,
            "effective_n": found.effective_n,
            "ppi_corr": inputs["ppi_corr"],
        }
    )


# --- preferences ---------------------------------------------------------------------------------------


@kind("pairwise/win_rate")
def _(inputs: Inputs) -> Answer:
    found = pairwise.Wins(wins=inputs["wins"], ties=inputs.get("ties", 0), losses=inputs["losses"])
    alpha = inputs.get("alpha", 0.05)
    rate = pairwise.win_rate(found, alpha=alpha)
    normal = pairwise.win_rate(found, alpha=alpha, normal=True)
    return Answer(
        values={
            "win_rate": rate.value,
            "se": rate.se,
            "ci": ends(normal.interval),
            "t_ci": ends(rate.interval),
            "sign_test_p": pairwise.sign_p(found),
            "wilson_decisive": ends(pairwise.decisive_interval(found, alpha=alpha)),
            "t_p": rate.p,
        }
    )


@kind("pairwise/position_swap")
def _(inputs: Inputs) -> Answer:
    found = pairwise.BothOrders(
        candidate=inputs["consistent_candidate"],
        control=inputs["consistent_control"],
        first_place=inputs["order1_cand_order2_ctrl"],
        second_place=inputs["order1_ctrl_order2_cand"],
        ties=inputs.get("ties", 0),
    )
    rate = pairwise.win_rate(found.wins)
    return Answer(
        values={
            "per_item_score_mean": rate.value,
            "consistency": found.consistency,
            "position_bias_mcnemar_p": pairwise.position_bias_p(found),
            "se": rate.se,
            "sign_test_on_consistent_p": pairwise.sign_p(found.wins),
            "first_position_win_rate": None,
        }
    )


@kind("pairwise/bradley_terry")
def _(inputs: Inputs) -> Answer:
    found = pairwise.bradley_terry(inputs["wins"])
    if found is None:
        return Answer(values={"log_strength_centered": None, "elo_scale": None})

    def beats(one: str, other: str) -> float:
        return found.probability(int(one), int(other))

    return Answer(
        values=Figures(
            {"log_strength_centered": list(found.log_strengths), "elo_scale": list(found.elo())},
            {r"p_(\d+)_beats_(\d+)": beats},
        )
    )


# --- planning ------------------------------------------------------------------------------------------


def _sides(inputs: Inputs) -> int:
    return 1 if inputs.get("alternative", "two-sided") != "two-sided" or inputs.get("one_sided") else 2


@kind("power/two_proportions")
def _(inputs: Inputs) -> Answer:
    control, difference = inputs["p_control"], inputs["diff"]
    shared = {"alpha": inputs["alpha"], "ratio": inputs.get("ratio", 1), "sides": _sides(inputs)}
    n = planning.units_for_shares(control, difference, power=inputs["power"], **shared)
    return Answer(
        values={
            "n_per_arm_statsmodels": n,
            "power_check": planning.power_of_shares(n, control, difference, **shared),
            "n_cohen_h": planning.units_for_shares_arcsine(
                control, difference, power=inputs["power"], **shared
            ),
        }
    )


@kind("power/two_sample_t")
def _(inputs: Inputs) -> Answer:
    pooled = inputs["pooled"]
    name = next(iter(pooled["mean"]))
    base, variance = pooled["mean"][name], pooled["var"][name]
    shared: dict[str, Any] = {
        "variance": variance,
        "alpha": inputs["alpha"],
        "power": inputs["power"],
        "ratio": inputs.get("ratio", 1),
        "sides": _sides(inputs),
    }
    values: dict[str, Any] = {}
    if "effect_size" in inputs:
        wanted = planning.units_for_t(inputs["effect_size"] * abs(base), **shared)
        absolute = planning.units_for_t(inputs["effect_size"], **shared)
        told = inputs.get("effect", "absolute")
        values["n_obs_total"] = math.ceil(wanted if told == "relative" else absolute)
        values["n_obs_total_relative"] = math.ceil(wanted)

    def detectable(n: str) -> float:
        return planning.detectable_by_t(float(n), **shared)

    return Answer(
        values=Figures(
            values,
            {
                r"mde_abs_at_(\d+)": detectable,
                r"mde_rel_at_(\d+)": lambda n: detectable(n) / abs(base),
            },
        )
    )


@kind("power/z_test")
def _(inputs: Inputs) -> Answer:
    control, candidate = moments(control_of(inputs)), moments(candidate_of(inputs))
    alpha, power = inputs["alpha"], inputs["power"]
    sides = _sides(inputs)
    found = mean.welch(candidate, control, alpha=alpha, normal=True)
    effect = inputs["mde_relative"] * control.mean
    ratio = control.n / candidate.n
    shared: dict[str, Any] = {"alpha": alpha, "power": power, "sides": sides}
    # Sums that equal their squares are counts of events: the variance follows from the share.
    binary = control.total == control.squares and candidate.total == candidate.squares
    own = control.mean * (1.0 - control.mean) if binary else control.variance
    raised = control.mean + effect
    other = raised * (1.0 - raised) if binary else own
    per_candidate = planning.units_for_means(other, effect, control_variance=own, ratio=ratio, **shared)
    if binary:
        powered = planning.powered_difference(control.mean, control.n, candidate.n, **shared)
        found = contingency.wald_difference(
            (round(candidate.total), candidate.n), (round(control.total), control.n), alpha=alpha
        )
    else:
        powered = planning.powered_effect(own, control.n, candidate.n, **shared)
    return Answer(
        values={
            "difference": found.value,
            "ci": ends(found.interval),
            "p": found.p,
            "powered_effect": powered,
            "required_sample_size": float(math.ceil(math.ceil(per_candidate) * (1.0 + ratio))),
        }
    )


@kind("power/additional_sample")
def _(inputs: Inputs) -> Answer:
    control, candidate = moments(control_of(inputs)), moments(candidate_of(inputs))
    relative = "target_mde_relative" in inputs
    found = (mean.relative if relative else mean.welch)(candidate, control)
    assert found.se is not None
    more = planning.more_units(
        found.se,
        control.n + candidate.n,
        arm(inputs, "target_mde_relative", "target_mde"),
        alpha=inputs["alpha"],
        power=inputs["target_power"],
        best_at=inputs.get("tuning_N") if inputs.get("sequential") else None,
    )
    return Answer(
        values={
            "scaling_factor": more.factor,
            "test_suite_value": more.factor,
            "power_now": more.power_now,
        }
    )


@kind("power/paired_eval")
def _(inputs: Inputs) -> Answer:
    generations = number(inputs.get("K", 1))
    within_control = number(inputs.get("sigma2_A", 0)) / number(inputs.get("K_A", generations))
    within_candidate = number(inputs.get("sigma2_B", 0)) / number(inputs.get("K_B", generations))
    between = number(inputs["omega2"])
    shared = {"alpha": inputs["alpha"], "power": inputs["power"], "sides": _sides(inputs)}
    values: dict[str, Any] = {}
    if "delta" in inputs:
        values["n"] = planning.golden_items(
            number(inputs["delta"]),
            between=between,
            within_candidate=within_candidate,
            within_control=within_control,
            **shared,
        )
    if "n" in inputs:
        sd = math.sqrt(between + within_candidate + within_control)
        values["mde"] = planning.paired_detectable(sd, inputs["n"], **shared)
    return Answer(values=values)


@kind("power/clustered_mde")
def _(inputs: Inputs) -> Answer:
    sd, icc, pairs = inputs["sd_diff"], inputs.get("icc", 0.0), inputs["n_pairs"]
    clusters = inputs.get("n_clusters")
    size = pairs / clusters if clusters else 1.0
    shared = {"alpha": inputs["alpha"], "power": inputs["power"], "sides": _sides(inputs)}

    def required(digits: str) -> int:
        return math.ceil(planning.paired_units(sd, fraction(digits), cluster_size=size, icc=icc, **shared))

    return Answer(
        values=Figures(
            {
                "mde": planning.paired_detectable(sd, pairs, clusters=clusters, icc=icc, **shared),
                "deff": planning.design_effect(size, icc),
            },
            {r"required_n_for_([\d_]+)": required},
        )
    )


@kind("variance/resampling")
def _(inputs: Inputs) -> Answer:
    return Answer(values={"var_ratio": [planning.resampling_variance(number(k)) for k in inputs["K"]]})


@kind("decision/alpha_beta_allocation")
def _(inputs: Inputs) -> Answer:
    found = planning.allocate_risks(
        inputs["success_metrics"], inputs["guardrails"], alpha=inputs["alpha"], power=inputs["power"]
    )
    return Answer(
        values={
            "alpha_per_success": found.alpha_success,
            "alpha_per_guardrail": found.alpha_guardrail,
            "power_per_metric": found.power,
        }
    )


# --- allocation ----------------------------------------------------------------------------------------


def _goal(inputs: Inputs) -> allocation.Goal:
    text = str(inputs.get("goal", "maximise"))
    return "minimise" if text.startswith("min") or inputs.get("inverse") else "maximise"


@kind("bandit/thompson")
def _(inputs: Inputs) -> Answer:
    arms = [moments(raw) for raw in inputs["arms"]]
    draws = max(20_000, inputs.get("draws", 10_000))

    def weights(top_two: bool, floor: float) -> list[float]:
        found = allocation.thompson(arms, goal=_goal(inputs), top_two=top_two, floor=floor, draws=draws)
        return list(found.shares)

    found = allocation.thompson(arms, goal=_goal(inputs), draws=draws)
    return Answer(
        values=Figures(
            {"best_arm_probabilities": list(found.best), "weights_pure_thompson": weights(False, 0.0)},
            {
                r"weights_top_two_floor_([\d_]+)": lambda digits: weights(True, fraction(digits)),
                r"weights_floor_([\d_]+)": lambda digits: weights(False, fraction(digits)),
                r"weights_top_two": lambda: weights(True, 0.0),
            },
        )
    )


@kind("bandit/peer_bug")
def _(inputs: Inputs) -> Answer:
    """The best arm, in the direction that counts, is among the best two nearly always."""
    means, n, goal = inputs["arms_mean"], inputs["n"], _goal(inputs)
    variances = inputs.get("arms_variance", [abs(m * (1.0 - m)) or 0.01 for m in means])
    arms = [
        Moments(n=n, total=n * m, squares=v * (n - 1) + n * m * m)
        for m, v in zip(means, variances, strict=True)
    ]
    found = allocation.thompson(arms, goal=goal, floor=0.0)
    best = means.index(min(means) if goal == "minimise" else max(means))
    holds = found.top_two[best] >= max(found.top_two) - 1e-9 and found.top_two[best] >= 0.25
    if found.best[best] > 0.99:
        holds = holds and abs(found.top_two[best] - 0.5) < 0.01
    return Answer(
        values={"best_arm_probabilities": list(found.best), "weights": list(found.top_two)}, holds=holds
    )


def _pulls(inputs: Inputs) -> list[allocation.Pulls]:
    rows = zip(inputs["counts"], inputs["means"], inputs["variances"], strict=True)
    return [allocation.Pulls(n=n, mean=m, variance=v) for n, m, v in rows]


@kind("bandit/track_and_stop_stopping")
def _(inputs: Inputs) -> Answer:
    found = allocation.best_arm(
        _pulls(inputs),
        delta=inputs.get("delta", 0.05),
        epsilon=inputs.get("epsilon", 0.0),
        least_pulls=inputs.get("min_pulls", 10),
        goal=_goal(inputs),
    )
    return Answer(
        values={
            "min_glr": found.min_glr,
            "threshold": found.threshold,
            "stop": found.stop,
            "winner": found.winner,
        }
    )


@kind("bandit/optimal_allocation")
def _(inputs: Inputs) -> Answer:
    arms = _pulls(inputs)
    epsilon = inputs.get("epsilon", 0.0)
    weights = allocation.optimal_shares(
        arms,
        epsilon=epsilon,
        least=inputs.get("min_prob", 0.0),
        regularisation=inputs.get("reg0", 0.01),
        goal=_goal(inputs),
    )
    free = allocation.optimal_shares(arms, epsilon=epsilon, goal=_goal(inputs))
    return Answer(values={"weights": weights, "closed_form_no_reg": free})
