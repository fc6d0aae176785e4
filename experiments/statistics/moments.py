"""What is known of one arm's units: their number, sums and sums of squares.

Holds the sums and turns them into a mean and its variance; compares nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Relative size below which a difference of large sums is rounding, not variance.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """n values, their sum and their sum of squares."""

    n: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """The mean; NaN without values."""
        return self.total / self.n if self.n > 0 else math.nan

    @property
    def variance(self) -> float:
        """The sample variance (n - 1). NaN below two values, or if the sums are no sums of squares."""
        if self.n < 2:
            return math.nan
        return _spread(self.squares, self.total * self.mean) / (self.n - 1)

    @property
    def usable(self) -> bool:
        """Whether a standard error can be had: two or more values, finite, with spread."""
        return math.isfinite(self.total) and self.variance > 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How unequal n units are: the sums of m, how many observations each has, and of its squares."""

    n: int
    m: float
    mm: float

    @property
    def worth(self) -> float:
        """Of how many units with the same number of observations these are worth (Kish 1965): M^2 / sum m^2,
        between 1 and n."""
        return min(float(self.n), max(1.0, self.m * self.m / self.mm)) if self.mm > 0.0 else float(self.n)

    @property
    def missed(self) -> float:
        """By what the variance of a ratio over units is too small at most, as a factor of at least 1.

        A unit with much of the observations draws the ratio to itself, so that its residual says little of
        how far off it is. If all observations of a unit are alike, the sum of squared residuals is expected
        to be s - 2 c + s^2 of what it should be, with s = sum w^2, c = sum w^3 and w = m / M (the bias of
        Bell and McCaffrey 2002). c is not among the sums: it is the most that n units and s allow, one large
        unit and the rest alike. For equal units this is n / (n - 1), which the variance has already.
        """
        n, s = self.n, 1.0 / self.worth
        if n < 2:
            return 1.0
        most = min(1.0, 1.0 / n + math.sqrt(max(0.0, s - 1.0 / n) * (1.0 - 1.0 / n)))
        left = s - 2.0 * (most**3 + (1.0 - most) ** 3 / (n - 1) ** 2) + s * s
        return max(1.0, s / left * (n - 1) / n) if left > 0.0 else math.inf

    @property
    def freedom(self) -> float:
        """Degrees of freedom: however much one unit has, its own square is one of them."""
        return max(2.0, self.worth) - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Sums over n units of each unit's totals y (the value) and m (how many observations it is of).

    With m = 1 for each unit this is a plain mean of y.
    """

    n: int
    y: float
    m: float
    yy: float
    mm: float
    ym: float

    @classmethod
    def of(cls, y: npt.NDArray[np.float64], m: npt.NDArray[np.float64]) -> Cluster:
        """The sums of n units' totals, two arrays of shape (n,)."""
        return cls(
            n=len(y),
            y=float(y.sum()),
            m=float(m.sum()),
            yy=float(y @ y),
            mm=float(m @ m),
            ym=float(y @ m),
        )

    @property
    def ratio(self) -> float:
        """sum(y) / sum(m); NaN without observations."""
        return self.y / self.m if self.m else math.nan

    @property
    def residual_squares(self) -> float:
        """The sum over units of (y - R m)^2."""
        r = self.ratio
        return _spread(self.yy + r * r * self.mm, 2.0 * r * self.ym)

    @property
    def variance(self) -> float:
        """The variance of `ratio` by the delta method over units (F4); NaN below two units.

        (s_y^2 + R^2 s_m^2 - 2 R s_ym) / (n mean(m)^2), written with residuals, which sum to zero.
        """
        if self.n < 2 or not self.m:
            return math.nan
        return self.residual_squares / (self.n - 1) * self.n / (self.m * self.m)

    @property
    def worth(self) -> float:
        """Of how many units with the same number of observations these are worth (`Sizes.worth`)."""
        return Sizes(n=self.n, m=self.m, mm=self.mm).worth

    @property
    def missed(self) -> float:
        """By what `variance` is too small at most, as a factor of at least 1 (`Sizes.missed`)."""
        return Sizes(n=self.n, m=self.m, mm=self.mm).missed

    @property
    def usable(self) -> bool:
        """Whether a standard error can be had."""
        return math.isfinite(self.ratio) and 0.0 < self.variance < math.inf

    def no_less_spread_than(self, other: Cluster) -> Cluster:
        """This with one unit's variance at least the other's; unchanged where either has none to tell."""
        if self.n < 2 or other.n < 2 or not self.m or not other.m:
            return self
        wanted = other.variance * other.n * (self.n - 1) * (self.m / self.n) ** 2
        lacking = wanted - self.residual_squares
        return replace(self, yy=self.yy + lacking) if 0.0 < lacking < math.inf else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Sums over a `Cluster`'s units of a and b, the unit's y and m before, and of products with them."""

    a: float
    b: float
    aa: float
    ab: float
    bb: float
    ya: float
    yb: float
    ma: float
    mb: float

    def total(self, ratio: float) -> float:
        """The sum of h = a - ratio * b."""
        return self.a - ratio * self.b

    def squares(self, ratio: float) -> float:
        """The sum of h^2."""
        return self.aa - 2.0 * ratio * self.ab + ratio * ratio * self.bb

    def with_y(self, ratio: float) -> float:
        """The sum of y h."""
        return self.ya - ratio * self.yb

    def with_m(self, ratio: float) -> float:
        """The sum of m h."""
        return self.ma - ratio * self.mb


def _spread(large: float, other: float) -> float:
    """large - other, or zero where that is only what rounding left; NaN where it is far below zero."""
    difference = large - other
    if difference > _ROUNDING * abs(large):
        return difference
    return math.nan if difference < -1e-6 * (abs(large) + abs(other)) else 0.0
