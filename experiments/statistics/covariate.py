"""How much of the noise was there before the experiment? Adjustment by a pre-exposure covariate.

CUPED (Deng, Xu, Kohavi and Walker 2013) for means and for ratios of sums over units: the covariate must be
fixed before the unit was assigned (or be the control's answer to the same request, for pairs), otherwise the
adjustment removes a part of the effect. The adjusted difference estimates the same effect with less noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .estimate import Estimate, lacking
from .mean import Alternative, satterthwaite, t_estimate
from .moments import Cluster, Moments, Past

Floats = npt.NDArray[np.float64]

#: A coefficient smaller than this is no adjustment.
_NO_ADJUSTMENT = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """Sums over n units of an outcome `post`, a covariate `pre`, and of their product."""

    post: Moments
    pre: Moments
    cross: float

    @property
    def n(self) -> int:
        """The number of units."""
        return self.post.n

    @property
    def covariance(self) -> float:
        """The sample covariance (n - 1) of outcome and covariate; NaN below two units."""
        if self.n < 2:
            return math.nan
        return (self.cross - self.post.total * self.pre.mean) / (self.n - 1)


def pooled_coefficient(arms: Sequence[Adjusted]) -> float:
    """theta: the covariance over the covariate's variance, of all arms as one sample; 0.0 without spread."""
    n = sum(arm.n for arm in arms)
    pre = Moments(n=n, total=sum(a.pre.total for a in arms), squares=sum(a.pre.squares for a in arms))
    post = Moments(n=n, total=sum(a.post.total for a in arms), squares=sum(a.post.squares for a in arms))
    joint = Adjusted(post=post, pre=pre, cross=sum(a.cross for a in arms))
    if not pre.usable or not post.usable or not math.isfinite(joint.covariance):
        return 0.0
    return joint.covariance / pre.variance


def cuped(
    candidate: Adjusted,
    control: Adjusted,
    *,
    alpha: float = 0.05,
    theta: float | None = None,
    alternative: Alternative = "two-sided",
    relative: bool = False,
) -> Estimate:
    """The difference of means adjusted for a covariate, with Welch's degrees of freedom.

    (post1 - theta pre1) - (post0 - theta pre0); the variance of one arm is s_post^2 + theta^2 s_pre^2 -
    2 theta cov. `theta` is the pooled coefficient where it is not given. `relative` divides by the size of
    the control's unadjusted mean (delta method); a base of zero has no answer.
    """
    if candidate.n == 0 or control.n == 0:
        return lacking("no_data", "cuped")
    slope = pooled_coefficient([candidate, control]) if theta is None else theta
    arms = (candidate, control)
    means = [arm.post.mean - slope * arm.pre.mean if slope else arm.post.mean for arm in arms]
    parts = [(_adjusted_variance(arm, slope) / arm.n, arm.n) for arm in arms]
    df = satterthwaite(parts)
    value, variance = means[0] - means[1], parts[0][0] + parts[1][0]
    if not relative:
        return t_estimate(value, variance, df, alpha=alpha, method="cuped", alternative=alternative)
    base = control.post.mean
    if base == 0.0 or not math.isfinite(base):
        return lacking("insufficient_data", "cuped-relative-delta")
    outer = candidate.post.mean / base
    variance = (parts[0][0] + _adjusted_variance(control, slope, outer) / control.n) / base**2
    return t_estimate(
        value / abs(base), variance, df, alpha=alpha, method="cuped-relative-delta", alternative=alternative
    )


def _adjusted_variance(arm: Adjusted, slope: float, outer: float = 1.0) -> float:
    """Of outer * post - slope * pre, for one unit; NaN below two units."""
    if arm.n < 2:
        return math.nan
    variance = outer * outer * arm.post.variance
    if slope:
        variance += slope * (slope * arm.pre.variance - 2.0 * outer * arm.covariance)
    return max(0.0, variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedRatio:
    """Means and covariances over n units of (top, bottom, top before, bottom before).

    The outcome is the ratio of the sums of `top` and `bottom`, the covariate the same ratio before. `means`
    has shape (4,), `covariances` shape (4, 4), with n - 1.
    """

    n: int
    means: tuple[float, float, float, float]
    covariances: tuple[tuple[float, ...], ...]

    @property
    def post(self) -> float:
        """The outcome's ratio; NaN without a denominator."""
        return self.means[0] / self.means[1] if self.means[1] else math.nan

    @property
    def pre(self) -> float:
        """The covariate's ratio; NaN without a denominator."""
        return self.means[2] / self.means[3] if self.means[3] else math.nan

    def _gradient(self) -> tuple[Floats, Floats]:
        return (
            np.array([1.0 / self.means[1], -self.post / self.means[1]]),
            np.array([1.0 / self.means[3], -self.pre / self.means[3]]),
        )

    def spreads(self) -> tuple[float, float, float]:
        """A unit's variance of the outcome's ratio, of the covariate's, and their covariance (delta)."""
        after, before = self._gradient()
        c = np.asarray(self.covariances, np.float64)
        return (
            float(after @ c[:2, :2] @ after),
            float(before @ c[2:, 2:] @ before),
            float(after @ c[:2, 2:] @ before),
        )


def ratio_coefficient(arms: Sequence[AdjustedRatio]) -> float:
    """theta for ratios: the arms' covariances over the covariates' variances, each arm alike; or 0.0."""
    spreads = [arm.spreads() for arm in arms]
    below = sum(before for _, before, _ in spreads)
    return sum(cross for *_, cross in spreads) / below if below > 0.0 else 0.0


def merged(arms: Sequence[AdjustedRatio]) -> AdjustedRatio:
    """All arms as one sample."""
    n = sum(arm.n for arm in arms)
    means = np.asarray([np.asarray(arm.means) * arm.n for arm in arms]).sum(axis=0) / n
    squares = np.zeros((4, 4))
    for arm in arms:
        apart = np.asarray(arm.means) - means
        squares += np.asarray(arm.covariances) * (arm.n - 1) + arm.n * np.outer(apart, apart)
    found = squares / (n - 1)
    return AdjustedRatio(
        n=n,
        means=(float(means[0]), float(means[1]), float(means[2]), float(means[3])),
        covariances=tuple(tuple(float(v) for v in row) for row in found),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedArms:
    """Two arms' adjusted ratios, with each one's variance (of the ratio, not of a unit)."""

    candidate: float
    control: float
    candidate_variance: float
    control_variance: float
    theta: float


def adjusted_ratios(
    candidate: AdjustedRatio, control: AdjustedRatio, *, theta: float | None = None
) -> AdjustedArms | None:
    """Each arm's ratio less theta times (its covariate - the pooled covariate); None without denominators."""
    arms = (candidate, control)
    if min(arm.n for arm in arms) < 2 or not all(arm.means[1] and arm.means[3] for arm in arms):
        return None
    slope = ratio_coefficient(arms) if theta is None else theta
    if abs(slope) < _NO_ADJUSTMENT:
        slope = 0.0
    grand = merged(arms).pre
    variances = []
    for arm in arms:
        after, before, cross = arm.spreads()
        variances.append(max(0.0, after + slope * slope * before - 2.0 * slope * cross) / arm.n)
    return AdjustedArms(
        candidate=candidate.post - slope * (candidate.pre - grand),
        control=control.post - slope * (control.pre - grand),
        candidate_variance=variances[0],
        control_variance=variances[1],
        theta=slope,
    )


def _both(
    candidate: AdjustedRatio, control: AdjustedRatio, theta: float | None, method: str
) -> AdjustedArms | Estimate:
    """The adjusted arms, or what is lacking for them."""
    if candidate.n == 0 or control.n == 0:
        return lacking("no_data", method)
    return adjusted_ratios(candidate, control, theta=theta) or lacking("insufficient_data", method)


def cuped_ratio(
    candidate: AdjustedRatio,
    control: AdjustedRatio,
    *,
    alpha: float = 0.05,
    theta: float | None = None,
    alternative: Alternative = "two-sided",
    normal: bool = False,
) -> Estimate:
    """The difference of two adjusted ratios; Welch's degrees of freedom, or the normal's with `normal`."""
    found = _both(candidate, control, theta, "cuped-ratio")
    if isinstance(found, Estimate):
        return found
    parts = [(found.candidate_variance, candidate.n), (found.control_variance, control.n)]
    variance, df = sum(part for part, _ in parts), math.inf if normal else satterthwaite(parts)
    value = found.candidate - found.control
    return t_estimate(value, variance, df, alpha=alpha, method="cuped-ratio", alternative=alternative)


def cuped_ratio_log(
    candidate: AdjustedRatio,
    control: AdjustedRatio,
    *,
    alpha: float = 0.05,
    theta: float | None = None,
    alternative: Alternative = "two-sided",
    normal: bool = False,
) -> Estimate:
    """ln of the quotient of two adjusted ratios, both of which must be positive."""
    method = "cuped-ratio-log"
    found = _both(candidate, control, theta, method)
    if isinstance(found, Estimate):
        return found
    if min(found.candidate, found.control) <= 0.0:
        return lacking("insufficient_data", method)
    parts = [
        (found.candidate_variance / found.candidate**2, candidate.n),
        (found.control_variance / found.control**2, control.n),
    ]
    variance, df = sum(part for part, _ in parts), math.inf if normal else satterthwaite(parts)
    value = math.log(found.candidate / found.control)
    return t_estimate(value, variance, df, alpha=alpha, method=method, alternative=alternative)


def cuped_ratio_relative(
    candidate: AdjustedRatio, control: AdjustedRatio, *, alpha: float = 0.05, theta: float | None = None
) -> Estimate:
    """The adjusted difference over the size of the control's unadjusted ratio, by the delta method.

    The base's own noise, and its correlation with the adjusted difference, enter the variance.
    """
    method = "cuped-ratio-relative"
    found = _both(candidate, control, theta, method)
    if isinstance(found, Estimate):
        return found
    base = control.post
    if not base or not math.isfinite(base):
        return lacking("insufficient_data", method)
    slope = found.theta
    lift = (found.candidate - found.control) / abs(base)
    after, before, cross = control.spreads()
    # d lift / d(post0) = -(1 + lift sign(base)) / |base|, d lift / d(pre0) = theta / |base|.
    outer = 1.0 + lift * math.copysign(1.0, base)
    of_control = (outer * outer * after + slope * slope * before - 2.0 * outer * slope * cross) / control.n
    variance = (found.candidate_variance + max(0.0, of_control)) / base**2
    parts = [(found.candidate_variance, candidate.n), (found.control_variance, control.n)]
    return t_estimate(lift, variance, satterthwaite(parts), alpha=alpha, method=method)


# --- within the sums over units that a verdict starts from ---------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """One arm in one stratum: its sums, its units' past, and `ratio`, the past's of both arms together.

    h = a - ratio * b has mean zero in the stratum, and by the draw of the arms in each of them.
    """

    now: Cluster
    past: Past
    ratio: float

    def adjusted(self, theta: float) -> Cluster:
        """The sums of y - theta h in place of those of y: the same ratio is expected, with less noise."""
        now, past, r = self.now, self.past, self.ratio
        return Cluster(
            n=now.n,
            y=now.y - theta * past.total(r),
            m=now.m,
            yy=now.yy - 2.0 * theta * past.with_y(r) + theta * theta * past.squares(r),
            mm=now.mm,
            ym=now.ym - theta * past.with_m(r),
        )


def residual_coefficient(arms: Sequence[tuple[float, Remembered]]) -> float:
    """theta over arms and strata, each with its ratio's weight in the contrast; 0.0 if it is not known.

    The weighted covariance of h and the residuals y - R m over h's variance: it makes the contrast's
    variance least, but for units in several strata.
    """
    cross = below = 0.0
    for weight, arm in arms:
        if arm.now.n < 2 or not arm.now.m:
            continue
        scale = (weight / arm.now.m) ** 2
        h = arm.past.total(arm.ratio)
        cross += scale * (arm.past.with_y(arm.ratio) - arm.now.ratio * arm.past.with_m(arm.ratio))
        below += scale * max(0.0, arm.past.squares(arm.ratio) - h * h / arm.now.n)
    found = cross / below if below > 0.0 else 0.0
    return found if math.isfinite(found) else 0.0
