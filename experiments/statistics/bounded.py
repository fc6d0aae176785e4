"""By how much do clusters of pairs differ, where every difference lies between two limits, as scores' do?

A standard error knows of no loss that it has not seen: where large drops are rare, it is too small just when
few of them have come. Here, as far as the sums do not tell, a difference is taken to be as skewed as its
limits let it be. No asymptotics: clusters of which all are alike are the plainest case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import scipy

from .estimate import Estimate, Interval, check_level, log_two_sided, quantile
from .incomplete_beta import log_upper_tail
from .paired import PairedSums

#: Stakes tried at once, as parts of the largest that cannot ruin; small ones see small effects.
STAKES: Final = np.geomspace(0.005, 0.95, 24)
_RUINED: Final = np.log1p(-STAKES)
#: Of a sum of squares, what floats leave of zero.
_ROUNDING: Final = 1e-12
#: How many clusters at the limit are thought to have been seen besides.
_GUARDS: Final = 2.0
_METHOD: Final = "paired-bounded"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedClusters:
    """`n` clusters of which each has a mean difference in [low, high]; their mean is `value`.

    `squares` and `cubes` are the sums over them of (a cluster's mean - value)^2 and ^3; `cubes` None: not
    known, and taken to be as bad as can be. Clusters of unequal sizes are worth `n` of one size (Kish 1965).
    """

    n: float
    value: float
    squares: float
    cubes: float | None
    low: float
    high: float

    @classmethod
    def of(cls, sums: PairedSums, *, low: float, high: float, parts: float = 1.0) -> BoundedClusters | None:
        """What the sums are of; None of fewer than two clusters, or where the limits do not hold. `parts`: of
        how many that have nothing to do with each other a cluster is made, 1 where it may be lost whole."""
        if sums.clusters < 2 or sums.m <= 0.0 or sums.mm <= 0.0:
            return None
        value = sums.d / sums.m
        squares = sums.dd + value * value * sums.mm - 2.0 * value * sums.md
        if squares <= _ROUNDING * (abs(sums.dd) + value * value * sums.mm):
            squares = 0.0
        room = (value - low) * (high - value)
        # No cluster is larger than the root of mm, and so of no more of the squares that the limits allow.
        if not low <= value <= high or squares > math.sqrt(sums.mm) * sums.m * room * (1.0 + 1e-6) + 1e-9:
            return None
        whole = min(float(sums.clusters), sums.m**2 / sums.mm)
        n = parts * whole
        if squares:  # one large cluster among many: so few as that leaves two points for the variance
            n = min(n, sums.m**2 * room / squares)
        known = whole > 1.0 and n > 1.0 and parts > 1.0
        freedom = whole / (whole - 1.0) * (n - 1.0) / n if known else 1.0
        third = sums.residual_cubes if squares else 0.0
        return cls(
            n=n,
            value=value,
            squares=squares * (n / sums.m) ** 2 * freedom,
            cubes=None if third is None else third * (n / sums.m) ** 3,
            low=low,
            high=high,
        )

    def enough(self, null: float, *, alpha: float, most: float) -> float | None:
        """How many times as many of these exclude `null` from below, or 0 from above; None above `most`."""
        size = quantile(1.0 - alpha / 2.0)

        def held(factor: float) -> bool:
            more = self.times(factor)
            return more.z(null) < size and more.z(0.0) > -size

        if held(most):
            return None
        return _crossing(1.0, most, held, within=1e-6) if held(1.0) else 1.0

    def times(self, factor: float) -> BoundedClusters:
        """`factor` times as many clusters, if they came out as these did."""
        return replace(
            self,
            n=factor * self.n,
            squares=factor * self.squares,
            cubes=None if self.cubes is None else factor * self.cubes,
        )

    def _far(self, null: float) -> float:
        """How far off the value, on the side of `null`, is the one of two points whose distribution has the
        clusters' variance and skewness. Two clusters more, at the limit, are counted among them: with none
        seen the skewness is as bad as can be, with many it is theirs. Those far out on the other side are no
        comfort."""
        below = self.value > null
        reach = self.value - self.low if below else self.high - self.value
        if self.cubes is None:
            return reach
        drops = max(0.0, -self.cubes if below else self.cubes)
        skew = (drops + _GUARDS * reach**3) / (self.squares + _GUARDS * reach**2)
        far = 0.5 * (skew + math.sqrt(skew * skew + 4.0 * self._variance))
        return min(reach, max(far, 2.0 * abs(self.value - null)))

    @property
    def _limits(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def _variance(self) -> float:
        most = (self.value - self.low) * (self.high - self.value)
        return min(most, self.squares / (self.n - 1.0)) if self.n > 1.0 else most

    def z(self, null: float) -> float:
        """The z of the one-sided test of "the mean is `null`", a number between the limits; positive where
        it is more.

        The exact binomial test of how many clusters are at the far one of two points, of which one as near
        the limit as the clusters' skewness has it. Exact where clusters lie at two points, or all at one."""
        distance = abs(self.value - null)
        if distance == 0.0:
            return 0.0
        far = self._far(null)
        near = self._variance / far
        share = min((near + distance) / (near + far), 1.0 - 1e-15)
        seen = self.n * near / (near + far)
        log_p = float(log_upper_tail(seen + 1.0, self.n - seen, share))
        size = -float(scipy.special.ndtri_exp(min(log_p, -math.log(2.0))))
        return math.copysign(size, self.value - null)

    def log_e(self, null: float, *, above: bool) -> float:
        """ln e against "the mean is not above (or below) `null`", a number between the limits, at any time.

        A bettor multiplies the capital by 1 + stake * (x / null - 1), x from the lower (upper) limit, at each
        cluster; several have a part of it each. With this mean and variance they have at least what they had
        if all clusters that are not at that limit were alike, since the logarithm's third derivative is
        positive: so that this is never more than what a bettor really has."""
        end = self.low if above else self.high
        reach = abs(self.value - end)
        variance = self.squares / self.n
        if reach > 0.0:
            lost = variance / (variance + reach * reach)
            other = (reach + variance / reach) / abs(null - end)
        else:
            lost, other = 1.0, 0.0
        capital = self.n * (lost * _RUINED + (1.0 - lost) * np.log1p(STAKES * (other - 1.0)))
        most = float(capital.max())
        return most + math.log(float(np.exp(capital - most).mean()))

    def estimate(self, *, alpha: float) -> Estimate:
        """The difference with its interval, of which each end leaves out the truth at most at alpha / 2."""
        check_level(alpha)
        size = quantile(1.0 - alpha / 2.0)
        lower, upper = (self._end(limit, lambda null: abs(self.z(null)) < size) for limit in self._limits)
        return Estimate(
            status="ok",
            method=_METHOD,
            value=self.value,
            se=math.sqrt(self._variance / self.n),
            interval=Interval(lower=lower, upper=upper, level=1.0 - alpha),
            log_p=log_two_sided(self.z(0.0)),
        )

    def away(self, z: float) -> float:
        """How far below the value what is excluded at `z` begins; at most to the lower limit."""
        return self.value - self._end(self.low, lambda null: self.z(null) < z)

    def band(self, *, alpha: float) -> Interval:
        """The means against which no bettor has won, of two on either side: at every moment at once."""
        check_level(alpha)
        most = math.log(2.0 / alpha)
        lower, upper = (
            self._end(limit, lambda null: self.log_e(null, above=null < self.value) < most)
            for limit in self._limits
        )
        return Interval(lower=lower, upper=upper, level=1.0 - alpha)

    def _end(self, limit: float, held: Callable[[float], bool]) -> float:
        """Where `held`, which is true at the value, ends on the way to the limit, within a billionth."""
        return _crossing(self.value, limit, held, within=1e-9 * (self.high - self.low))


def _crossing(inside: float, outside: float, held: Callable[[float], bool], *, within: float) -> float:
    """Where `held`, which is true `inside`, ends on the way to `outside`; not before, and so close to it."""
    while abs(inside - outside) > within:
        middle = 0.5 * (inside + outside)
        inside, outside = (middle, outside) if held(middle) else (inside, middle)
    return outside


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedArm:
    """`n` independent units with values in [0, 1]: their mean, and the variance of one."""

    n: float
    mean: float
    variance: float

    @property
    def turned(self) -> BoundedArm:
        """The same, counted from 1 downwards."""
        return BoundedArm(n=self.n, mean=1.0 - self.mean, variance=self.variance)

    @property
    def third(self) -> float:
        """How far the mean's third moment can be below zero: with all of the variance from units at 0."""
        return self.variance * (self.mean - self.variance / self.mean) / self.n**2 if self.mean > 0.0 else 0.0


def arms_z(value: float, se: float, one: BoundedArm, zero: BoundedArm, *, factor: float = 1.0) -> float:
    """The z of `value`, the difference of `one`'s mean and `factor` times `zero`'s with its standard error,
    were the two as skewed as their limits let them be: as `BoundedClusters.z`, with a unit of `one` at 0, or
    of `zero` at 1, as what may not have been seen. Positive where the value is."""
    if value < 0.0:
        return -arms_z(-value, se, one.turned, zero.turned, factor=factor)
    n, variance = one.n, se * se * one.n
    reach = max(one.mean, factor * (1.0 - zero.mean) * n / zero.n, math.sqrt(variance))
    third = one.third + factor**3 * zero.turned.third
    return BoundedClusters(
        n=n,
        value=value,
        squares=variance * (n - 1.0),
        cubes=-third * n**3,
        low=value - reach,
        high=value + reach + 2.0 * variance / reach,
    ).z(0.0)


def arms_interval(estimate: Estimate, one: BoundedArm, zero: BoundedArm, *, alpha: float = 0.05) -> Estimate:
    """The difference of two arms' means with an interval no end of which `arms_z` would not exclude."""
    if estimate.value is None or estimate.se is None or estimate.interval is None:
        return estimate
    size, value, se = quantile(1.0 - alpha / 2.0), estimate.value, estimate.se
    lower, upper = estimate.interval.lower, estimate.interval.upper

    def end(side: float, told: float) -> float:
        """The lower (1) or upper (-1) one, and no nearer to the value than it was told."""
        away = _crossing(0.0, 2.0, lambda away: abs(arms_z(side * away, se, one, zero)) < size, within=1e-7)
        return side * min(side * told, side * value - away)

    log_p = log_two_sided(arms_z(value, se, one, zero))
    return replace(
        estimate,
        interval=Interval(lower=end(1.0, lower), upper=end(-1.0, upper), level=estimate.interval.level),
        log_p=max(log_p, log_p if estimate.log_p is None else estimate.log_p),
    )
