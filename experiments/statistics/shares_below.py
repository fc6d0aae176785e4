"""By which ratio do two samples' quantiles differ, told by the shares of values below them?

If the quantiles differ by the ratio r, then some x has the share p of control's values below it and r x the
same share of the candidate's. Shares are binomial whatever the values' density is; a standard error of the
quantile itself is not (Woodruff 1952): where values leave a gap, of an answer from a cache or not, the
quantile jumps from one side to the other, and its error is told too small on one of them. What the data say
against r is therefore the least over x (as in Howard and Ramdas 2022; in Kosorok 1999 densities are needed),
and the interval has the ratios against which they do not say enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import Estimate, Interval, as_z, lacking, log_two_sided, quantile

Floats = npt.NDArray[np.float64]

_METHOD: Final = "shares-below"
#: Points between the two quantiles (and as far beyond) at which a common x is looked for besides the values'.
_BETWEEN: Final = 49
#: No two quantiles are farther apart, as a logarithm.
_FARTHEST: Final = 30.0
#: Nothing is told more closely than this, as a logarithm: far less than a histogram's bin.
_CLOSE: Final = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Ordered:
    """One sample: at each of `at`, logarithms that increase, the share `below`; straight in between.

    The values are worth `n` independent ones. Shapes (k,).
    """

    at: Floats
    below: Floats
    n: float

    def share(self, x: Floats) -> Floats:
        """The share at or below."""
        return np.asarray(np.interp(x, self.at, self.below, left=0.0, right=1.0), np.float64)

    def quantile(self, level: float) -> float:
        """Where the share is `level`, as a logarithm."""
        after = min(int(np.searchsorted(self.below, level)), self.at.size - 1)
        before = max(0, after - 1)
        low, high = float(self.below[before]), float(self.below[after])
        part = (level - low) / (high - low) if high > low else 1.0
        return float(self.at[before] + min(1.0, max(0.0, part)) * (self.at[after] - self.at[before]))


def ordered(values: Sequence[float] | Floats) -> Ordered:
    """A sample of independent values above zero; there must be some."""
    at, counts = np.unique(np.log(np.asarray(values, np.float64)), return_counts=True)
    after = np.cumsum(counts)
    return Ordered(at, (after - 0.5 * counts) / after[-1], float(after[-1]))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Layer:
    """Two samples at a quantile's `level`, which weigh `weight`.

    `correlation` is of the two shares, where values come in pairs; `df` are the degrees of freedom of what
    the values are worth, infinite where they are independent.
    """

    candidate: Ordered
    control: Ordered
    level: float
    weight: float = 1.0
    correlation: float = 0.0
    df: float = math.inf

    @property
    def value(self) -> float:
        """ln of the candidate's quantile over the control's."""
        return self.candidate.quantile(self.level) - self.control.quantile(self.level)

    def z(self, null: float) -> float:
        """The z of "the ratio's logarithm is `null`", positive where it is more."""
        one, zero = self.candidate.quantile(self.level) - null, self.control.quantile(self.level)
        apart = one - zero
        if apart == 0.0:
            return 0.0
        # A common quantile lies between the two, unless the two shares hang together.
        beyond = abs(apart) if self.correlation else 0.0
        low, high = min(one, zero) - beyond, max(one, zero) + beyond
        inside = [
            at[np.searchsorted(at, low) : np.searchsorted(at, high)]
            for at in (self.candidate.at - null, self.control.at)
        ]
        x = np.concatenate([*inside, np.linspace(low, high, _BETWEEN)])
        a = _signed(self.candidate.share(x + null), self.level, self.candidate.n)
        b = _signed(self.control.share(x), self.level, self.control.n)
        r = self.correlation
        least = float(((a * a - 2.0 * r * a * b + b * b) / (1.0 - r * r)).min())
        return as_z(math.copysign(math.sqrt(max(0.0, least)), apart), self.df)


@dataclass(frozen=True, slots=True, eq=False)
class QuantileContrast:
    """One layer or more. Units that were seen in several make them hang together by as much as nobody knows:
    their z are averaged, as if they did entirely, which says never too much."""

    layers: Sequence[Layer]

    @property
    def value(self) -> float:
        """The layers' average, by weight."""
        total = math.fsum(layer.weight for layer in self.layers)
        return math.fsum(layer.weight * layer.value for layer in self.layers) / total

    def z(self, null: float) -> float:
        """As a layer's; a standard error falls with the root of the weight."""
        roots = [math.sqrt(layer.weight) for layer in self.layers]
        each = (root * layer.z(null) for root, layer in zip(roots, self.layers, strict=True))
        return math.fsum(each) / math.fsum(roots)

    def between(self, size: float) -> tuple[float, float] | None:
        """The ratios' logarithms that a z of `size` does not exclude; None where there is no end to them."""
        value = self.value
        below = _end(lambda away: abs(self.z(value - away)) - size)
        above = _end(lambda away: abs(self.z(value + away)) - size)
        return None if below is None or above is None else (value - below, value + above)

    def estimate(self, *, alpha: float) -> Estimate:
        """The value and its interval, of which half is `se` standard errors."""
        method = _METHOD if len(self.layers) == 1 else f"stratified-{_METHOD}"
        method = f"paired-{method}" if any(layer.correlation for layer in self.layers) else method
        size = quantile(1.0 - alpha / 2.0)
        found = self.between(size)
        if found is None:
            return lacking("insufficient_data", method, self.value)
        return Estimate(
            status="ok",
            method=method,
            value=self.value,
            se=(found[1] - found[0]) / (2.0 * size),
            interval=Interval(lower=found[0], upper=found[1], level=1.0 - alpha),
            log_p=log_two_sided(self.z(0.0)),
        )


def _end(excess: Callable[[float], float]) -> float | None:
    """How far away the excess, which is below zero near by, is not any more; None where it stays so."""
    near, far = 0.0, 0.02
    while excess(far) < 0.0:
        near, far = far, 2.0 * far
        if far > _FARTHEST:
            return None
    return float(scipy.optimize.brentq(excess, near, far, xtol=_CLOSE)) if excess(near) < 0.0 else near


def _signed(share: Floats, level: float, n: float) -> Floats:
    """How many standard errors shares lie off the level: by the binomial's variance or by its likelihood,
    whichever says less. On its long side the one says too much, on its short side the other."""
    off = share - level
    inside = np.clip(share, 0.5 / (n + 1.0), 1.0 - 0.5 / (n + 1.0))
    likely = inside * np.log(inside / level) + (1.0 - inside) * np.log((1.0 - inside) / (1.0 - level))
    squares = np.minimum(off * off / (level * (1.0 - level)), 2.0 * np.maximum(0.0, likely))
    return np.asarray(np.sign(off) * np.sqrt(n * squares), np.float64)
