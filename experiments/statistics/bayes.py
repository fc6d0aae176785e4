"""How probable is it that the candidate is better, and what would a wrong choice cost? A normal posterior.

For people who ask in those words; no verdict uses it. With a flat prior the posterior is the estimate and
its standard error, and the interval is the fixed-look interval: valid for one look, like that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy

from .estimate import Interval, check_level, quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """A normal posterior of an effect: its mean and standard deviation."""

    mean: float
    sd: float

    def interval(self, alpha: float = 0.05) -> Interval:
        """The central credible interval of 1 - alpha."""
        check_level(alpha)
        half = quantile(1.0 - alpha / 2.0) * self.sd
        return Interval(lower=self.mean - half, upper=self.mean + half, level=1.0 - alpha)

    @property
    def chance_to_win(self) -> float:
        """The probability that the effect is above zero."""
        return float(scipy.special.ndtr(self.mean / self.sd)) if self.sd > 0.0 else float(self.mean > 0.0)

    @property
    def expected_loss(self) -> tuple[float, float]:
        """What is lost on average by keeping the control, E[max(effect, 0)], and by taking the candidate."""
        if not self.sd > 0.0:
            return max(self.mean, 0.0), max(-self.mean, 0.0)
        ratio = self.mean / self.sd
        density = math.exp(-0.5 * ratio * ratio) / math.sqrt(2.0 * math.pi)
        return (
            max(0.0, self.mean * float(scipy.special.ndtr(ratio)) + self.sd * density),
            max(0.0, self.sd * density - self.mean * float(scipy.special.ndtr(-ratio))),
        )


def posterior(value: float, se: float, *, prior: Posterior | None = None) -> Posterior | None:
    """The posterior of an estimate; flat prior if none is given. None without a positive standard error."""
    if not (math.isfinite(value) and 0.0 < se < math.inf):
        return None
    if prior is None or not 0.0 < prior.sd < math.inf:
        return Posterior(mean=value, sd=se)
    precision = 1.0 / se**2 + 1.0 / prior.sd**2
    mean = (value / se**2 + prior.mean / prior.sd**2) / precision
    return Posterior(mean=mean, sd=1.0 / math.sqrt(precision))
