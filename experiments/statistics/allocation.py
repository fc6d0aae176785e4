"""Which share of the traffic should each version get, if it may follow the evidence? Off by default.

Top-two Thompson sampling with floors, and the best-arm stopping rule of track-and-stop. Allocation that
follows the outcome biases plain means: log each unit's propensity, and analyse by it (`predictable
.effect_outcomes`, `weighted_mean`). Stopping with a winner among equals is legal for best-arm identification
and no test of harm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import Estimate, StatisticsError, check_level, lacking
from .mean import t_estimate
from .moments import Moments

Floats = npt.NDArray[np.float64]
Goal = Literal["maximise", "minimise"]

#: What an arm gets at least, by default.
FLOOR = 0.01
_VARIANCE_FLOOR = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """For each arm: the probability to be best, to be among the best two (summing to 1), and its share."""

    best: tuple[float, ...]
    top_two: tuple[float, ...]
    shares: tuple[float, ...]


def floored(shares: Sequence[float], floor: float) -> list[float]:
    """floor + (1 - k floor) share: at least `floor` for each, adding up to 1, in the order they had.

    Equal shares where the floors do not fit.
    """
    raw = np.maximum(0.0, np.asarray(shares, np.float64))
    least = max(0.0, floor)
    k = raw.size
    if k == 0:
        return []
    total = float(raw.sum())
    if least * k >= 1.0 or total <= 0.0:
        return [1.0 / k] * k
    return [float(value) for value in least + (1.0 - k * least) * raw / total]


def posterior_draws(arms: Sequence[Moments], *, draws: int = 10_000, seed: int = 0) -> Floats:
    """Draws of each arm's mean from its normal posterior under a flat prior; shape (draws, arms).

    An arm that has no standard error yet is drawn so widely that it is tried.
    """
    rng = np.random.default_rng(seed)
    means = np.array([arm.mean if arm.n else 0.0 for arm in arms])
    known = [arm.variance / arm.n for arm in arms if arm.usable]
    spread = float(np.ptp(means)) if len(arms) else 0.0
    wide = 100.0 * (max(known, default=1.0) + spread**2) + 1e-300
    sds = np.sqrt([arm.variance / arm.n if arm.usable else wide for arm in arms])
    return np.asarray(means + sds * rng.standard_normal((draws, len(arms))), np.float64)


def thompson(
    arms: Sequence[Moments],
    *,
    goal: Goal = "maximise",
    top_two: bool = True,
    floor: float = FLOOR,
    draws: int = 10_000,
    seed: int = 0,
) -> Weights:
    """Shares by how often an arm is the best, or with `top_two` among the best two, of posterior draws.

    For what should be small (`minimise`) the best is the smallest: the best arm always has its half.
    """
    if len(arms) < 2:
        raise StatisticsError(f"{len(arms)} arms: two or more are needed")
    y = posterior_draws(arms, draws=draws, seed=seed)
    order = np.argsort(-y if goal == "maximise" else y, axis=1)
    first = np.bincount(order[:, 0], minlength=len(arms)) / draws
    second = np.bincount(order[:, 1], minlength=len(arms)) / draws
    both = (first + second) / 2.0
    return Weights(
        best=tuple(float(v) for v in first),
        top_two=tuple(float(v) for v in both),
        shares=tuple(floored((both if top_two else first).tolist(), floor)),
    )


# --- the best arm --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulls:
    """How often an arm was tried, and the mean and variance of what came of it."""

    n: int
    mean: float
    variance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BestArm:
    """The leader's least likelihood ratio over another arm, what it must exceed, and who won, if any."""

    min_glr: float
    threshold: float
    stop: bool
    winner: int | None


def leader(arms: Sequence[Pulls], goal: Goal = "maximise") -> int:
    """The arm with the best mean; of equals the one known best, then the first. No number is the worst."""
    sign = 1.0 if goal == "maximise" else -1.0
    worth = [sign * arm.mean if math.isfinite(arm.mean) else -math.inf for arm in arms]
    equal = [i for i, value in enumerate(worth) if value >= max(worth) - 1e-10]
    return min(equal, key=lambda i: (arms[i].variance / max(1, arms[i].n), i))


def best_arm(
    arms: Sequence[Pulls],
    *,
    delta: float = 0.05,
    epsilon: float = 0.0,
    least_pulls: int = 10,
    goal: Goal = "maximise",
) -> BestArm:
    """Whether the leader is best (within `epsilon`) but for probability delta: track-and-stop's rule.

    min over others of (gap + epsilon)^2 / (2 (v_l / n_l + v_i / n_i)) against ln((1 + ln n) / delta)
    (Garivier and Kaufmann 2016). Not before `least_pulls` of each arm.
    """
    check_level(delta)
    if len(arms) < 2:
        raise StatisticsError(f"{len(arms)} arms: two or more are needed")
    total = sum(arm.n for arm in arms)
    threshold = math.log((1.0 + math.log(max(1, total))) / delta)
    first = leader(arms, goal)
    sign = 1.0 if goal == "maximise" else -1.0
    ratios = []
    for i, arm in enumerate(arms):
        if i == first:
            continue
        top = arms[first]
        if not top.n or not arm.n:
            ratios.append(0.0)
            continue
        gap = sign * (top.mean - arm.mean) + epsilon
        spread = max(top.variance, _VARIANCE_FLOOR) / top.n + max(arm.variance, _VARIANCE_FLOOR) / arm.n
        ratios.append(gap * gap / (2.0 * spread) if gap > 0.0 else 0.0)
    glr = min(ratios)
    stop = min(arm.n for arm in arms) >= least_pulls and glr > threshold
    return BestArm(min_glr=glr, threshold=threshold, stop=stop, winner=first if stop else None)


def optimal_shares(
    arms: Sequence[Pulls],
    *,
    epsilon: float = 0.0,
    least: float = 0.0,
    regularisation: float = 0.0,
    goal: Goal = "maximise",
) -> list[float]:
    """The shares that make the best arm known soonest, pulled towards equal ones.

    Minimises over w the largest 2 (v_l / w_l + v_i / w_i) / gap_i^2 (Garivier and Kaufmann 2016), plus
    regularisation / sqrt(n) times the squared distance from equal shares. With two arms and no pull, w is
    proportional to the standard deviations.
    """
    k = len(arms)
    if k < 2:
        raise StatisticsError(f"{k} arms: two or more are needed")
    if least * k > 1.0 + 1e-12:
        raise StatisticsError(f"{k} arms with at least {least!r} each do not fit into 1")
    first = leader(arms, goal)
    sign = 1.0 if goal == "maximise" else -1.0
    variances = np.maximum([arm.variance for arm in arms], _VARIANCE_FLOOR)
    gaps2 = np.maximum([(sign * (arms[first].mean - arm.mean) + epsilon) ** 2 for arm in arms], 1e-6)
    pull = regularisation / math.sqrt(max(1, sum(arm.n for arm in arms)))
    others = np.array([i for i in range(k) if i != first])
    scale = float(np.max(2.0 * (variances[first] + variances[others]) * k / gaps2[others]))

    def costs(w: Floats) -> Floats:
        return np.asarray(2.0 * (variances[first] / w[first] + variances[others] / w[others]) / gaps2[others])

    def objective(x: Floats) -> float:
        return float(x[-1]) + pull / scale * float(((x[:-1] - 1.0 / k) ** 2).sum())

    # The epigraph form: minimise t + pull |w - 1/k|^2 with each cost at most t, t in units of `scale`.
    low = max(least, 1e-6)
    constraints: list[Any] = [
        {"type": "eq", "fun": lambda x: float(x[:-1].sum()) - 1.0},
        {"type": "ineq", "fun": lambda x: x[-1] - costs(x[:-1]) / scale},
    ]
    found = scipy.optimize.minimize(
        objective,
        np.append(np.full(k, 1.0 / k), 1.0),
        method="SLSQP",
        bounds=[*[(low, 1.0)] * k, (0.0, np.inf)],
        constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    w = np.clip(found.x[:-1], low, 1.0)
    return [float(value) for value in w / w.sum()]


# --- analysis under a changing propensity --------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedSums:
    """Sums over an arm's units with the weight 1 / propensity: w, w y, w^2, w^2 y, w^2 y^2; n units."""

    n: int
    w: float
    wy: float
    ww: float
    wwy: float
    wwyy: float


def weighted_sums(outcomes: npt.ArrayLike, propensities: npt.ArrayLike) -> WeightedSums:
    """The sums from each unit's outcome and the logged probability with which it got the arm it got."""
    y, p = np.asarray(outcomes, np.float64), np.asarray(propensities, np.float64)
    if y.size and not (np.all(p > 0.0) and np.all(p <= 1.0)):
        raise StatisticsError("propensities must lie in (0, 1]")
    w = 1.0 / p
    return WeightedSums(
        n=int(y.size),
        w=float(w.sum()),
        wy=float(w @ y),
        ww=float(w @ w),
        wwy=float((w * w) @ y),
        wwyy=float((w * w) @ (y * y)),
    )


def weighted_mean(sums: WeightedSums, *, alpha: float = 0.05) -> Estimate:
    """The mean by normalised inverse-propensity weights (Hajek), with its linearised standard error."""
    method = "ipw-mean"
    if sums.n == 0 or sums.w <= 0.0:
        return lacking("no_data", method)
    value = sums.wy / sums.w
    squares = sums.wwyy - 2.0 * value * sums.wwy + value * value * sums.ww
    if sums.n < 2 or squares <= 1e-12 * abs(sums.wwyy):
        return lacking("insufficient_data", method, value)
    variance = sums.n / (sums.n - 1.0) * squares / sums.w**2
    return t_estimate(value, variance, sums.n - 1.0, alpha=alpha, method=method)


def weighted_difference(candidate: WeightedSums, control: WeightedSums, *, alpha: float = 0.05) -> Estimate:
    """The difference of two arms' inverse-propensity means."""
    method = "ipw-difference"
    one, zero = weighted_mean(candidate), weighted_mean(control)
    for arm in (one, zero):
        if arm.status == "no_data":
            return lacking("no_data", method)
    if one.value is None or zero.value is None:
        return lacking("insufficient_data", method)
    value = one.value - zero.value
    if one.se is None or zero.se is None:
        return lacking("insufficient_data", method, value)
    variance = one.se**2 + zero.se**2
    df = variance**2 / (one.se**4 / (candidate.n - 1) + zero.se**4 / (control.n - 1))
    return t_estimate(value, variance, df, alpha=alpha, method=method)
