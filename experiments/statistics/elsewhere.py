"""What would another platform have said of the same numbers? For comparison; no verdict uses it.

Critical values, margins and labels of other tools, as their documentation or source gives them, so that a
change of platform can be explained and their operating characteristics measured beside ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from .confidence_sequence import tuning
from .estimate import check_level, quantile
from .ranks import shift_interval

#: GrowthBook looks for a one-sided p between these, and reports them at the ends.
_GROWTHBOOK_P = (1e-5, 0.4999)


def statsig_critical_value(
    n_candidate: float,
    n_control: float,
    *,
    variance_candidate: float = 1.0,
    variance_control: float = 1.0,
    alpha: float = 0.05,
) -> float:
    """Statsig's z*: sqrt((V + tau) / tau (-2 ln(alpha / 2) - ln(V / (V + tau)))).

    V = v1 / n1 + v0 / n0 and tau = z^2 (v1 + v0) / (n1 + n0): a flat boundary where arms are balanced, since
    tau shrinks with V. No martingale stands behind it.
    """
    check_level(alpha)
    v = variance_candidate / n_candidate + variance_control / n_control
    tau = (
        quantile(1.0 - alpha / 2.0) ** 2 * (variance_candidate + variance_control) / (n_candidate + n_control)
    )
    return math.sqrt((v + tau) / tau * (-2.0 * math.log(alpha / 2.0) - math.log(v / (v + tau))))


def tensorzero_rho(alpha: float = 0.05, *, best_at: float = 100.0) -> float:
    """TensorZero's rho, by default for 100 values: sqrt((-2 ln alpha + ln(-2 ln alpha) + 1) / best_at)."""
    log = -2.0 * math.log(alpha)
    return math.sqrt((log + math.log(log) + 1.0) / best_at)


def tensorzero_margin(n: float, variance: float, *, alpha: float = 0.05, rho: float | None = None) -> float:
    """TensorZero's half-width: sqrt((n v rho^2 + 1) / (n^2 rho^2) ln((n v rho^2 + 1) / alpha^2)).

    It depends on the unit of measurement, and is not zero where nothing varies.
    """
    check_level(alpha)
    r2 = (tensorzero_rho(alpha) if rho is None else rho) ** 2
    scaled = n * variance * r2 + 1.0
    return math.sqrt(scaled / (n * n * r2) * (math.log(scaled) - 2.0 * math.log(alpha)))


def growthbook_one_sided_p(value: float, se: float, n: float, *, alpha: float, best_at: float) -> float:
    """The p that GrowthBook prints for its one-sided sequential test of "greater than 0".

    A bisection that stops once the bound is within 1e-6 of zero, returning the next midpoint: up to a few
    1e-4 off `confidence_sequence.one_sided_p`, and never outside [1e-5, 0.4999].
    """
    spread = n * tuning(min(2.0 * alpha, 0.999), best_at)
    if spread <= 0.0:
        return _GROWTHBOOK_P[1]

    def bound(at: float) -> float:
        # The tuning stays that of `alpha`; only the level of the interval is searched.
        level = math.log1p(math.sqrt(spread + 1.0) / (2.0 * at))
        return value - se * math.sqrt(2.0 * (spread + 1.0) / spread * level)

    low, high = _GROWTHBOOK_P
    if bound(low) > 0.0:
        return low
    if bound(high) < 0.0:
        return high
    at = 0.5 * (low + high)
    for _ in range(100):
        gap = bound(at)
        if gap < 0.0:
            low = at
        else:
            high = at
        at = 0.5 * (low + high)
        if abs(gap) < 1e-6:
            break
    return at


Label = Literal["High", "Low", "Pass"]


def kayenta_label(
    candidate: Sequence[float], control: Sequence[float], *, tolerance: float = 0.25, confidence: float = 0.98
) -> Label:
    """Kayenta's judgement of a metric: High or Low if the shift's interval lies beyond tolerance * |shift|.

    The tolerance is a part of the very difference it judges, and a rank test of windows cannot see sparse
    errors: it passes a candidate at a hundred times the control in seven windows of ten.
    """
    found = shift_interval(candidate, control, alpha=1.0 - confidence)
    if found.interval is None or found.value is None:
        return "Pass"
    edge = tolerance * abs(found.value)
    if found.interval.lower > edge:
        return "High"
    return "Low" if found.interval.upper < -edge else "Pass"
