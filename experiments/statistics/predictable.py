"""Where does a bounded mean lie, at every moment, without asymptotics? Betting and plug-in sequences.

Waudby-Smith and Ramdas (2024): stakes from the values before, so that the capital is a martingale under each
candidate mean; the means against which nobody got rich are the confidence sequence. Values in [0, 1]; others
are rescaled by the caller. For streams of single values: hundreds or thousands, not millions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .estimate import Interval, StatisticsError, check_level

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Lower and upper ends after each value; shapes (n,)."""

    lower: Floats
    upper: Floats


def _unit(values: Sequence[float] | Floats) -> Floats:
    x = np.asarray(values, np.float64)
    if x.size and not (np.all(x >= 0.0) and np.all(x <= 1.0)):
        raise StatisticsError("values outside [0, 1]: rescale them first")
    return x


def stakes(values: Sequence[float] | Floats, *, alpha: float) -> Floats:
    """sqrt(2 ln(1 / alpha) / (t ln(1 + t) var_{t-1})): what to stake on each value, knowing those before.

    Mean and variance start as one value at 1/2 with variance 1/4.
    """
    check_level(alpha)
    x = np.asarray(values, np.float64)
    t = np.arange(1, x.size + 1)
    mean = np.minimum((0.5 + np.cumsum(x)) / (t + 1.0), 1.0)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1.0)
    before = np.concatenate(([0.25], variance[:-1]))[: x.size]
    return np.asarray(np.sqrt(-2.0 * math.log(alpha) / (t * np.log1p(t) * before)), np.float64)


def betting_log_capital(
    values: Sequence[float] | Floats,
    mean: float,
    *,
    alpha: float = 0.05,
    up_share: float = 0.5,
    truncation: float = 0.5,
    hedge: bool = False,
) -> Floats:
    """ln of the capital after each value against "the mean is `mean`"; at 1 / alpha the mean is excluded.

    Two bettors start with `up_share` and the rest; the larger capital counts, or with `hedge` their sum,
    which is a little more. Stakes are cut to `truncation` of what could ruin. Shape (n,).
    """
    check_level(alpha)
    x = _unit(values)
    if not 0.0 <= mean <= 1.0:
        raise StatisticsError(f"the mean {mean!r} lies outside [0, 1]")
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.minimum(stakes(x, alpha=alpha * up_share), truncation / mean if mean > 0.0 else math.inf)
        down = np.minimum(
            stakes(x, alpha=alpha * (1.0 - up_share)), truncation / (1.0 - mean) if mean < 1.0 else math.inf
        )
        rising = np.cumsum(np.log1p(up * (x - mean))) + math.log(up_share)
        falling = np.cumsum(np.log1p(-down * (x - mean))) + math.log1p(-up_share)
    return np.asarray(np.logaddexp(rising, falling) if hedge else np.maximum(rising, falling), np.float64)


def betting_sequence(
    values: Sequence[float] | Floats, *, alpha: float = 0.05, breaks: int = 1000, intersect: bool = True
) -> Sequences:
    """The means (on a grid of `breaks` + 1) against which the capital stays below 1 / alpha.

    Each end is taken one grid step outwards, so that the grid costs nothing; `intersect` keeps what was
    excluded excluded. Memory is of order n times `breaks`.
    """
    x = _unit(values)
    grid = np.arange(breaks + 1) / breaks
    alive = np.stack(
        [betting_log_capital(x, float(m), alpha=alpha) <= -math.log(alpha) for m in grid], axis=-1
    )
    some = alive.any(axis=-1)
    first = np.where(some, alive.argmax(axis=-1), 0)
    last = np.where(some, breaks - alive[:, ::-1].argmax(axis=-1), breaks)
    lower = grid[np.maximum(first - 1, 0)]
    upper = grid[np.minimum(last + 1, breaks)]
    if intersect:
        lower, upper = np.maximum.accumulate(lower), np.minimum.accumulate(upper)
    return Sequences(lower=lower, upper=upper)


def betting_interval(
    values: Sequence[float] | Floats, *, alpha: float = 0.05, up_share: float = 0.5, precision: float = 1e-6
) -> Interval:
    """The betting sequence's running intersection after the last value, without a grid.

    By bisection on "was this mean ever excluded?", each end taken outwards by `precision` at most.
    """
    check_level(alpha)
    x = _unit(values)
    if not x.size:
        return Interval(lower=0.0, upper=1.0, level=1.0 - alpha)
    threshold = -math.log(alpha)

    def excluded(mean: float) -> bool:
        capital = betting_log_capital(x, mean, alpha=alpha, up_share=up_share)
        return bool(np.nanmax(capital) >= threshold)

    centre = float(x.mean())

    def end(outside: float) -> float:
        inside = centre
        if not excluded(outside):
            return outside
        while abs(inside - outside) > precision:
            middle = 0.5 * (inside + outside)
            inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
        return outside

    return Interval(lower=end(0.0), upper=end(1.0), level=1.0 - alpha)


def betting_stop(
    values: Sequence[float] | Floats, mean: float, *, alpha: float = 0.05, precision: float = 0.0
) -> int | None:
    """After how many values the betting sequence, `precision` outwards, leaves out `mean`; or None."""
    x = _unit(values)
    found = []
    for near in (mean + precision, mean - precision):
        if not 0.0 <= near <= 1.0 or not x.size:
            continue
        crossed = betting_log_capital(x, near, alpha=alpha) >= -math.log(alpha)
        before = np.cumsum(x) / np.arange(1, x.size + 1)
        away = crossed & ((before > near) if near >= mean else (before < near))
        if precision == 0.0:
            away = crossed
        if away.any():
            found.append(int(away.argmax()) + 1)
    return min(found, default=None)


def empirical_bernstein(
    values: Sequence[float] | Floats, *, alpha: float = 0.05, truncation: float = 0.5, intersect: bool = False
) -> Sequences:
    """The plug-in empirical Bernstein sequence (their Theorem 2), one side at alpha / 2 each."""
    x = _unit(values)
    lower = _bernstein_lower(x, alpha / 2.0, truncation)
    upper = 1.0 - _bernstein_lower(1.0 - x, alpha / 2.0, truncation)
    return _sequences(lower, upper, intersect)


def _bernstein_lower(x: Floats, alpha: float, truncation: float) -> Floats:
    check_level(alpha)
    t = np.arange(1, x.size + 1)
    before = np.concatenate(([0.0], np.cumsum(x)[:-1] / t[:-1])) if x.size else x
    lam = np.minimum(stakes(x, alpha=alpha), truncation)
    penalty = (x - before) ** 2 * (-np.log1p(-lam) - lam)
    return _predictable_lower(x, lam, penalty, alpha)


def hoeffding(values: Sequence[float] | Floats, *, alpha: float = 0.05, intersect: bool = False) -> Sequences:
    """The plug-in Hoeffding sequence: it knows the bounds of the values and nothing of their variance."""
    x = _unit(values)
    lower = _hoeffding_lower(x, alpha / 2.0)
    upper = 1.0 - _hoeffding_lower(1.0 - x, alpha / 2.0)
    return _sequences(lower, upper, intersect)


def _hoeffding_lower(x: Floats, alpha: float) -> Floats:
    check_level(alpha)
    t = np.arange(1, x.size + 1)
    lam = np.minimum(np.sqrt(-8.0 * math.log(alpha) / (t * np.log1p(t))), 1.0)
    return _predictable_lower(x, lam, lam**2 / 8.0, alpha)


def _predictable_lower(x: Floats, lam: Floats, penalty: Floats, alpha: float) -> Floats:
    staked = np.cumsum(lam)
    found = (np.cumsum(lam * x) - np.cumsum(penalty) + math.log(alpha)) / staked
    return np.asarray(np.maximum(found, 0.0), np.float64)


def _sequences(lower: Floats, upper: Floats, intersect: bool) -> Sequences:
    if intersect:
        lower, upper = np.maximum.accumulate(lower), np.minimum.accumulate(upper)
    return Sequences(lower=lower, upper=upper)


def effect_outcomes(
    outcomes: npt.ArrayLike, treated: npt.ArrayLike, propensity: npt.ArrayLike, *, centre: float = 0.0
) -> Floats:
    """(y - c) (a / pi - (1 - a) / (1 - pi)): values whose mean is the effect, whatever pi was each time.

    c is the mean of the outcomes before (first `centre`), which takes their level out of the variance. With
    the logged propensity of each unit this is how adaptive allocation is analysed. Shape (n,).
    """
    y, a = np.asarray(outcomes, np.float64), np.asarray(treated, np.float64)
    pi = np.broadcast_to(np.asarray(propensity, np.float64), y.shape)
    if y.size and not (np.all(pi > 0.0) and np.all(pi < 1.0)):
        raise StatisticsError("a propensity of 0 or 1: such a unit says nothing about the other arm")
    seen = np.arange(y.size)
    past = np.concatenate(([0.0], np.cumsum(y)[:-1]))[: y.size]
    c = np.where(seen > 0, past / np.maximum(seen, 1), centre)
    return np.asarray((y - c) * (a / pi - (1.0 - a) / (1.0 - pi)), np.float64)


def asymptotic_sequence(
    values: Sequence[float] | Floats, *, alpha: float = 0.05, rho: float, burn_in: int = 100
) -> Sequences:
    """The asymptotic sequence of a mean (F6) after each value; infinite before `burn_in`.

    Half-width sd * sqrt((n + rho) (ln(1 + n / rho) - 2 ln alpha)) / n.
    """
    check_level(alpha)
    x = np.asarray(values, np.float64)
    n = np.arange(1, x.size + 1)
    shift = float(x[0]) if x.size else 0.0
    y = x - shift
    mean = np.cumsum(y) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.maximum(np.cumsum(y * y) - n * mean * mean, 0.0) / (n - 1)
    half = np.sqrt(variance * (n + rho) * (np.log1p(n / rho) - 2.0 * math.log(alpha))) / n
    half = np.where((n < max(2, burn_in)) | (half <= 0.0), math.inf, half)
    return Sequences(lower=mean + shift - half, upper=mean + shift + half)
