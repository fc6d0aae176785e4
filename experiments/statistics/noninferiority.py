"""Is the candidate at most a margin worse, or the same within margins? One-sided tests against a margin.

For means and anything with a standard error; shares have `proportion.margin_score`, phases `strata.margin_z`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .estimate import Estimate, StatisticsError, lacking, log_two_sided
from .mean import t_estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginTest:
    """The t (or z) of an effect against a margin, its degrees of freedom, and the one-sided p."""

    statistic: float
    df: float
    p: float


def _upper(statistic: float, df: float) -> float:
    half = math.exp(log_two_sided(statistic, df)) / 2.0
    return half if statistic >= 0.0 else 1.0 - half


def above(found: Estimate, margin: float) -> MarginTest | None:
    """The test that the effect exceeds `margin` (for non-inferiority: minus the tolerated harm)."""
    if found.status != "ok" or found.value is None or not found.se:
        return None
    statistic = (found.value - margin) / found.se
    return MarginTest(statistic=statistic, df=found.df, p=_upper(statistic, found.df))


def below(found: Estimate, margin: float) -> MarginTest | None:
    """The test that the effect lies below `margin`."""
    if found.status != "ok" or found.value is None or not found.se:
        return None
    statistic = (found.value - margin) / found.se
    return MarginTest(statistic=statistic, df=found.df, p=_upper(-statistic, found.df))


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Two one-sided tests (TOST; Schuirmann 1987): the effect lies between two margins if both reject."""

    lower: MarginTest
    upper: MarginTest

    @property
    def p(self) -> float:
        """The larger of the two p-values."""
        return max(self.lower.p, self.upper.p)


def equivalence(found: Estimate, low: float, high: float) -> Equivalence | None:
    """Whether an effect lies within (low, high); None without a standard error."""
    if not low < high:
        raise StatisticsError(f"the margins {low!r} and {high!r} leave nothing between them")
    lower, upper = above(found, low), below(found, high)
    return None if lower is None or upper is None else Equivalence(lower=lower, upper=upper)


def relative_null(base: float, margin: float, *, higher_is_better: bool) -> float:
    """The difference that a relative margin means: -|margin * base| where higher is better, else +."""
    return math.copysign(abs(margin * base), -1.0 if higher_is_better else 1.0)


def relative_margin(
    found: Estimate, base: float, margin: float, *, higher_is_better: bool, alpha: float = 0.05
) -> Estimate:
    """The effect against a margin stated as a part of the control's mean, with a one-sided interval.

    The base counts as known, as is usual; p is that of "worse than the margin". `value` is the effect.
    """
    method = "relative-margin-z"
    if found.status != "ok" or found.value is None or not found.se:
        return lacking(found.status if found.status != "ok" else "insufficient_data", method, found.value)
    null = relative_null(base, margin, higher_is_better=higher_is_better)
    return t_estimate(
        found.value,
        found.se**2,
        math.inf,
        alpha=alpha,
        method=method,
        null=null,
        alternative="greater" if higher_is_better else "less",
    )
