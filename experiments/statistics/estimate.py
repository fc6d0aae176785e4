"""What does every method of this package answer with? An estimate, or the name of what is lacking.

It knows no method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import scipy

from .incomplete_beta import log_upper_tail

#: ok; nothing observed; too little or without spread; an order statistic beyond the data; NaN or infinite.
Status = Literal["ok", "no_data", "insufficient_data", "insufficient_resolution", "not_finite"]


class StatisticsError(ValueError):
    """An argument that no data could cause: a level or a share outside (0, 1), a negative count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A closed interval at confidence `level`; an end may be infinite, never NaN."""

    lower: float
    upper: float
    level: float

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a method says. With a status other than "ok", everything that was not found is None.

    `log_p` is the natural logarithm of the two-sided p-value: p itself underflows where effects are strong.
    `df` is infinite for a normal reference distribution.
    """

    status: Status
    method: str
    version: str = "1"
    value: float | None = None
    se: float | None = None
    df: float = math.inf
    interval: Interval | None = None
    log_p: float | None = None

    @property
    def p(self) -> float | None:
        """The p-value; 0.0 where it is smaller than a float can hold (see `log_p`)."""
        return None if self.log_p is None else math.exp(self.log_p)


def lacking(status: Status, method: str, value: float | None = None) -> Estimate:
    """An estimate that has no interval, and says why."""
    return Estimate(status=status, method=method, value=value)


def check_level(alpha: float) -> None:
    """Raises StatisticsError unless 0 < alpha < 1."""
    if not 0.0 < alpha < 1.0:
        raise StatisticsError(f"alpha is {alpha!r}: a probability strictly between 0 and 1 is needed")


def log_two_sided(statistic: float, df: float = math.inf) -> float:
    """ln of the two-sided p-value of a t (or, with infinite df, normal) statistic, without underflow."""
    size = -abs(statistic)
    if math.isinf(df):
        return min(0.0, math.log(2.0) + float(scipy.special.log_ndtr(size)))
    square = statistic * statistic
    if not 0.0 < square < math.inf:
        return 0.0 if square == 0.0 else -math.inf if math.isinf(square) else math.nan
    # P(|T| > t) = I_y(df/2, 1/2) at y = df / (df + t^2).
    log_y = -math.log1p(square / df)
    tail = log_upper_tail(0.5, df / 2.0, square / (df + square), log_complement=log_y)
    return min(0.0, float(tail))


def as_z(statistic: float, df: float = math.inf) -> float:
    """The z with the same one-sided p as a t statistic, and its sign."""
    half = min(log_two_sided(statistic, df) - math.log(2.0), math.log(0.5))
    return math.copysign(-float(scipy.special.ndtri_exp(half)), statistic)


def quantile(probability: float, df: float = math.inf) -> float:
    """The quantile of Student's t, or with infinite df of the normal distribution."""
    return float(
        scipy.special.ndtri(probability) if math.isinf(df) else scipy.special.stdtrit(df, probability)
    )
