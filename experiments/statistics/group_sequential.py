"""How far must z be at each look, so that all looks together err with probability alpha?

Lan and DeMets' (1983) spending of alpha by an O'Brien-Fleming-type function, with the bounds found by the
recursive integration of Armitage, McPherson and Rowe (1969) at the information that really came: looks
may be early, late, or one final look that comes before or after the horizon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import StatisticsError, check_level, quantile

Spending = Callable[[float, float], float]
Floats = npt.NDArray[np.float64]

#: Beyond this z there is nothing left to spend that a float could tell from zero.
_FARTHEST = 8.0
#: Points of Simpson's rule on one look's continuation region; errors are below 1e-6 in z.
_POINTS = 401


def obrien_fleming(alpha: float, fraction: float) -> float:
    """One side's alpha spent at an information fraction: 2 (1 - Phi(z_{1 - alpha/2} / sqrt(t)))."""
    if fraction <= 0.0:
        return 0.0
    return 2.0 * float(scipy.special.ndtr(-quantile(1.0 - alpha / 2.0) / math.sqrt(min(1.0, fraction))))


def pocock_spending(alpha: float, fraction: float) -> float:
    """The Pocock-type function: alpha ln(1 + (e - 1) t), which spends early."""
    return alpha * math.log1p((math.e - 1.0) * min(1.0, max(0.0, fraction)))


def power_spending(exponent: float) -> Spending:
    """The family alpha * t^exponent of Kim and DeMets (1987)."""

    def spent(alpha: float, fraction: float) -> float:
        return float(alpha * min(1.0, max(0.0, fraction)) ** exponent)

    return spent


def bounds(
    fractions: Sequence[float],
    *,
    alpha: float,
    sides: int = 2,
    information: Sequence[float] | None = None,
    spending: Spending = obrien_fleming,
    final: bool = True,
) -> list[float]:
    """The bound on z at each look. `alpha` is of both sides together; sides = 1 bounds z from above only.

    `fractions` of the horizon say how much alpha may be spent by each look, increasing; above 1 all is.
    `information` (any scale, increasing) says how the looks correlate, and is `fractions` if not given:
    the two differ where units do not weigh the same in each phase. With `final`, the last look spends all
    that is left, whatever its fraction: an experiment that ends early loses no alpha. A look that brought
    no new information has the bound infinity; if it is the final one, the bound of what is left alone, which
    holds however it hangs together with the others. Raises StatisticsError on an empty or falling sequence.
    """
    check_level(alpha)
    known = list(fractions if information is None else information)
    if not known or len(known) != len(fractions) or sides not in (1, 2):
        raise StatisticsError("one look or more, an information for each, and one or two sides are needed")
    if any(not value > 0.0 for value in known):
        raise StatisticsError(f"information is {known!r}: positive numbers are needed")
    side_alpha = alpha / sides
    spent = [spending(side_alpha, fraction) for fraction in fractions]
    if final:
        spent[-1] = side_alpha
    found = list(_solve(tuple(known), tuple(spent), sides))
    if final and found[-1] == math.inf:
        used = max((part for part, z in zip(spent, found, strict=True) if z < math.inf), default=0.0)
        if spent[-1] - used > 1e-12:
            found[-1] = quantile(1.0 - (spent[-1] - used))
    return found


@lru_cache(maxsize=256)
def _solve(information: tuple[float, ...], spent: tuple[float, ...], sides: int) -> tuple[float, ...]:
    # Kept: at one look most metrics of an experiment ask for the same bound.
    found: list[float] = []
    points: Floats = np.zeros(1)
    mass: Floats = np.ones(1)
    at = before = 0.0
    for total, allowed in zip(information, spent, strict=True):
        step, spend = total - at, allowed - before
        if step <= 1e-12 * total or spend <= 1e-16:
            found.append(math.inf)
            if step > 1e-12 * total:
                points, mass = _carry(points, mass, step, total, math.inf, sides)
                at = total
            continue
        bound = _bound(points, mass, step, total, spend)
        found.append(bound)
        points, mass = _carry(points, mass, step, total, bound, sides)
        at, before = total, allowed
    return tuple(found)


def _bound(points: Floats, mass: Floats, step: float, total: float, spend: float) -> float:
    def excess(z: float) -> float:
        crossing = scipy.special.ndtr((points - z * math.sqrt(total)) / math.sqrt(step))
        return float(mass @ crossing) - spend

    if excess(_FARTHEST) > 0.0:
        return _FARTHEST
    if excess(-_FARTHEST) < 0.0:
        return -_FARTHEST
    return float(scipy.optimize.brentq(excess, -_FARTHEST, _FARTHEST, xtol=1e-10))


def _carry(
    points: Floats, mass: Floats, step: float, total: float, bound: float, sides: int, drift: float = 0.0
) -> tuple[Floats, Floats]:
    """The score's distribution after a look, as weighted points of the region in which one goes on."""
    scale = math.sqrt(total)
    mean = drift * scale  # of z: what is farther from it than a float can tell is left out
    high = min(bound, mean + _FARTHEST) * scale
    low = max(-bound if sides == 2 else -math.inf, mean - _FARTHEST) * scale
    if not high > low:
        return np.array([low]), np.zeros(1)
    grid = np.linspace(low, high, _POINTS)
    simpson = np.full(_POINTS, 2.0)
    simpson[1::2] = 4.0
    simpson[[0, -1]] = 1.0
    simpson *= (high - low) / (_POINTS - 1) / 3.0
    gaps = (grid[:, None] - points[None, :] - drift * step) / math.sqrt(step)
    density = np.exp(-0.5 * gaps * gaps) @ mass / math.sqrt(2.0 * math.pi * step)
    return grid, density * simpson


def crossing_probability(z: Sequence[float], information: Sequence[float], *, sides: int = 2) -> float:
    """The probability that a drift-free z crosses the given bounds at any of the looks."""
    points: Floats = np.zeros(1)
    mass: Floats = np.ones(1)
    crossed = at = 0.0
    for bound, total in zip(z, information, strict=True):
        step = total - at
        beyond = scipy.special.ndtr((points - bound * math.sqrt(total)) / math.sqrt(step))
        crossed += sides * float(mass @ beyond)
        points, mass = _carry(points, mass, step, total, bound, sides)
        at = total
    return crossed


def classical_bounds(
    information: Sequence[float], *, alpha: float, sides: int = 2, power: float = 0.5
) -> list[float]:
    """Bounds c * t^-power for looks fixed beforehand: Pocock (1977) with 0, O'Brien and Fleming with 1/2."""
    check_level(alpha)
    fractions = [value / information[-1] for value in information]

    def excess(c: float) -> float:
        return crossing_probability([c * t**-power for t in fractions], information, sides=sides) - alpha

    c = float(scipy.optimize.brentq(excess, 0.5, 7.0, xtol=1e-10))
    return [c * t**-power for t in fractions]


def drifted_crossing(
    z: Sequence[float], information: Sequence[float], *, drift: float, sides: int = 2
) -> float:
    """The power of bounds on z where z has mean drift * sqrt(information): crossing in the drift's direction.

    With two sides, paths that crossed the other way before are not counted.
    """
    points: Floats = np.zeros(1)
    mass: Floats = np.ones(1)
    crossed = at = 0.0
    for bound, total in zip(z, information, strict=True):
        step = total - at
        if step <= 0.0:
            continue
        beyond = scipy.special.ndtr((points + drift * step - bound * math.sqrt(total)) / math.sqrt(step))
        crossed += float(mass @ beyond)
        points, mass = _carry(points, mass, step, total, bound, sides, drift)
        at = total
    return crossed


def inflation(
    fractions: Sequence[float],
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    sides: int = 2,
    spending: Spending = obrien_fleming,
) -> float:
    """How many times the fixed-look sample size the horizon must be for the same power."""
    fixed = quantile(1.0 - alpha / sides) + quantile(power)
    z = bounds(fractions, alpha=alpha, sides=sides, spending=spending)

    def gap(drift: float) -> float:
        return drifted_crossing(z, fractions, drift=drift, sides=sides) - power

    drift = float(scipy.optimize.brentq(gap, 0.5 * fixed, 3.0 * fixed, xtol=1e-8))
    return (drift / fixed) ** 2 * fractions[-1]
