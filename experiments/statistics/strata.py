"""How do the phases of an experiment add up? Strata are compared within, then combined; never pooled.

Cochran-Mantel-Haenszel (F16) and a difference of shares over strata, and weighted sums of the phases'
differences of means. Each weight comes from the numbers of units alone, so that it cannot follow the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .estimate import Estimate, Interval, lacking, log_two_sided, quantile
from .mean import satterthwaite, t_estimate
from .moments import Cluster
from .proportion import Share, newcombe, score_variance, wilson

#: Two arms' shares in one stratum: candidate, control.
Stratum = tuple[Share, Share]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanStratum:
    """Two arms' sums over units in one stratum."""

    candidate: Cluster
    control: Cluster

    @property
    def outnumbered(self) -> Literal["candidate", "control"] | None:
        """The arm that has less than half as many units as the other."""
        return outnumbered(self.candidate.n, self.control.n)

    @property
    def wary(self) -> MeanStratum:
        """With the variance of a unit of the outnumbered arm at least that of the other's."""
        match self.outnumbered:
            case "candidate":
                return replace(self, candidate=self.candidate.no_less_spread_than(self.control))
            case "control":
                return replace(self, control=self.control.no_less_spread_than(self.candidate))
            case _:
                return self


def outnumbered(candidate: int, control: int) -> Literal["candidate", "control"] | None:
    """The arm whose few units must not be asked alone how much a unit varies; None where neither is so few.

    Where values are skewed, a mean that is too low by luck comes with a variance that is: too few large
    values came. Two arms of like size are so skewed that it cancels in their difference; one of few is not.
    """
    if 2 * candidate < control:
        return "candidate"
    return "control" if 2 * control < candidate else None


def harmonic(n1: int, n0: int) -> float:
    """n1 n0 / (n1 + n0): what two arms' units weigh (Mantel and Haenszel); 0.0 if either is empty."""
    return n1 * n0 / (n1 + n0) if n1 > 0 and n0 > 0 else 0.0


def cmh(strata: Sequence[Stratum]) -> float | None:
    """The Cochran-Mantel-Haenszel z of equal shares in every stratum (F16); None if no stratum can tell."""
    excess = sum(
        x1 - n1 * (x1 + x0) / (n1 + n0) for (x1, n1), (x0, n0) in strata if n1 and n0 and n1 + n0 > 1
    )
    variance = cmh_information(strata)
    return excess / math.sqrt(variance) if variance > 0.0 else None


def cmh_information(strata: Sequence[Stratum]) -> float:
    """The variance of CMH's excess of events: what looks at a growing ramp know of each other.

    A stratum in which events are rare says little, however many units it has; numbers of units alone would
    let a rate that drifts along the ramp change the error of a plan of looks.
    """
    found = 0.0
    for (x1, n1), (x0, n0) in strata:
        n, m = n1 + n0, x1 + x0
        if n1 and n0 and n > 1:
            found += n1 * n0 * (m / n) * ((n - m) / n) / (n - 1)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class OddsRatio:
    """The common odds ratio of strata; None where a sum of cross products is zero."""

    value: float | None
    interval: Interval | None


def odds_ratio(strata: Sequence[Stratum], *, alpha: float = 0.05) -> OddsRatio:
    """Mantel and Haenszel's common odds ratio with the variance of Robins, Breslow and Greenland (1986)."""
    r = s = pr = ps_qr = qs = 0.0
    for (x1, n1), (x0, n0) in strata:
        n = n1 + n0
        if n1 == 0 or n0 == 0:
            continue
        ad, bc = x1 * (n0 - x0) / n, (n1 - x1) * x0 / n
        p, q = (x1 + n0 - x0) / n, (n1 - x1 + x0) / n
        r, s = r + ad, s + bc
        pr, ps_qr, qs = pr + p * ad, ps_qr + p * bc + q * ad, qs + q * bc
    if r == 0.0 or s == 0.0:
        return OddsRatio(value=None, interval=None)
    half = quantile(1.0 - alpha / 2.0) * math.sqrt(pr / (2 * r * r) + ps_qr / (2 * r * s) + qs / (2 * s * s))
    interval = Interval(lower=r / s * math.exp(-half), upper=r / s * math.exp(half), level=1.0 - alpha)
    return OddsRatio(value=r / s, interval=interval)


def _weights(strata: Sequence[Stratum]) -> list[float]:
    raw = [harmonic(n1, n0) for (_, n1), (_, n0) in strata]
    total = sum(raw)
    return [weight / total for weight in raw] if total > 0.0 else []


def share_difference(strata: Sequence[Stratum], *, alpha: float = 0.05) -> Estimate:
    """The weighted difference of shares; with one stratum, Newcombe's.

    Over several, Wilson's limits of every arm are combined as in Zou and Donner (2008), which is what
    Newcombe's interval generalises to; the p-value is CMH's.
    """
    compared = [pair for pair in strata if pair[0][1] and pair[1][1]]
    if not compared:
        return lacking("no_data", "newcombe")
    if len(compared) == 1:
        return newcombe(*compared[0], alpha=alpha)
    value = below = above = variance = 0.0
    for weight, ((x1, n1), (x0, n0)) in zip(_weights(compared), compared, strict=True):
        p1, p0 = x1 / n1, x0 / n0
        w1, w0 = wilson(x1, n1, alpha=alpha), wilson(x0, n0, alpha=alpha)
        value += weight * (p1 - p0)
        below += weight**2 * ((p1 - w1.lower) ** 2 + (w0.upper - p0) ** 2)
        above += weight**2 * ((w1.upper - p1) ** 2 + (p0 - w0.lower) ** 2)
        variance += weight**2 * (p1 * (1.0 - p1) / n1 + p0 * (1.0 - p0) / n0)
    z = cmh(compared)
    return Estimate(
        status="ok",
        method="stratified-newcombe",
        value=value,
        se=math.sqrt(variance),
        interval=Interval(lower=value - math.sqrt(below), upper=value + math.sqrt(above), level=1.0 - alpha),
        log_p=0.0 if z is None else log_two_sided(z),
    )


def margin_z(strata: Sequence[Stratum], difference: float) -> float | None:
    """Farrington and Manning's score z of p1 - p0 = difference in every stratum, weights as in CMH.

    None without a stratum in which both arms have units, or where the score has no variance.
    """
    compared = [pair for pair in strata if pair[0][1] and pair[1][1]]
    distance = variance = 0.0
    for weight, (one, zero) in zip(_weights(compared), compared, strict=True):
        distance += weight * (one[0] / one[1] - zero[0] / zero[1] - difference)
        variance += weight**2 * score_variance(one, zero, difference, corrected=False)
    return distance / math.sqrt(variance) if variance > 0.0 else None


def mean_weights(strata: Sequence[MeanStratum]) -> list[float]:
    """What each stratum weighs in `mean_contrast`, before they are made to add up to 1. A stratum with fewer
    than two units in an arm has no standard error, says nothing and weighs nothing."""
    return [
        harmonic(s.candidate.n, s.control.n)
        if min(s.candidate.n, s.control.n) > 1 and s.candidate.m and s.control.m
        else 0.0
        for s in strata
    ]


def mean_contrast(
    strata: Sequence[MeanStratum],
    *,
    alpha: float = 0.05,
    control_factor: float = 1.0,
    shift: float = 0.0,
    covariance: Mapping[tuple[int, str, int, str], float] | None = None,
) -> Estimate:
    """The weighted sum over strata of R1 - control_factor * R0 - shift, with its standard error.

    Where units are of unequal sizes, they count as the fewer that they are worth (Carter, Schnepel and
    Steigerwald 2017), and a large one's residual as too small (`Cluster.missed`): one tenant with half of
    the requests makes two arms differ whatever the versions do.

    `covariance` has, for units seen in two strata (indices i < j), the covariance of the two arms' ratios,
    keyed (i, arm, j, arm) with arms "candidate" and "control".
    """
    weights = mean_weights(strata)
    total = sum(weights)
    method = "welch" if len(strata) == 1 else "stratified-welch"
    if total == 0.0:
        some = any(s.candidate.n and s.control.n for s in strata)
        return lacking("insufficient_data" if some else "no_data", method)
    sign = {"candidate": 1.0, "control": -control_factor}
    value = 0.0
    parts: list[tuple[float, float]] = []
    for weight, s in zip(weights, strata, strict=True):
        if weight > 0.0:
            value += weight / total * (s.candidate.ratio - control_factor * s.control.ratio - shift)
            for part, arm in ((weight, s.candidate), (weight * control_factor, s.control)):
                # However much one unit has, its own square is one degree of freedom.
                parts.append(((part / total) ** 2 * arm.variance * arm.missed, max(2.0, arm.worth)))
    variance = sum(part for part, _ in parts)
    for (i, arm_i, j, arm_j), shared in (covariance or {}).items():
        variance += 2.0 * weights[i] * weights[j] / total**2 * sign[arm_i] * sign[arm_j] * shared
    return t_estimate(value, variance, satterthwaite(parts), alpha=alpha, method=method)


def shared_covariance(a: Cluster, b: Cluster, *, yy: float, ym: float, my: float, mm: float) -> float:
    """The covariance of two ratios of sums whose units are partly the same, from the cross products.

    With residuals r = y - R m, sum over the shared units of r_a r_b, divided by M_a M_b, and as much larger
    as the two variances are taken to be.
    """
    if not a.m or not b.m:
        return 0.0
    ra, rb = a.ratio, b.ratio
    return math.sqrt(a.missed * b.missed) * (yy - rb * ym - ra * my + ra * rb * mm) / (a.m * b.m)
