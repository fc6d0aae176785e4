"""Do the arms have the numbers of units that they should have? The sequential test of sample-ratio mismatch.

A Dirichlet-multinomial e-process against the shares declared for each phase (Lindon and Malek 2022), mixed
over concentrations: a single large one (10000 is a common default) is blind for thousands of units. Units
are counted once, in the phase in which they were first seen, so phases multiply.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import StatisticsError, log_two_sided

CONCENTRATIONS = (10.0, 100.0, 1000.0, 10000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """Units of every arm in one phase, and the shares of the traffic they should have had (sum 1)."""

    units: tuple[int, ...]
    shares: tuple[float, ...]


def log_e(units: npt.ArrayLike, shares: Sequence[float], *, concentration: float) -> npt.NDArray[np.float64]:
    """ln e for counts of units: the arms along the last axis, anything before it broadcasts.

    ln of Dirichlet-multinomial(concentration * shares) over multinomial(shares).
    """
    null = np.asarray(shares, np.float64)
    if np.any(null <= 0.0) or not math.isclose(float(null.sum()), 1.0, abs_tol=1e-6):
        raise StatisticsError(
            f"the shares are {tuple(shares)!r}: positive numbers that add up to 1 are needed"
        )
    counts = np.asarray(units, np.float64)
    prior = concentration * null
    gained = (
        scipy.special.gammaln(prior + counts) - scipy.special.gammaln(prior) - counts * np.log(null)
    ).sum(axis=-1)
    total = counts.sum(axis=-1)
    lost = scipy.special.gammaln(concentration + total) - scipy.special.gammaln(concentration)
    return np.asarray(gained - lost, np.float64)


def mismatch(phases: Iterable[ArmCounts], *, concentrations: Sequence[float] = CONCENTRATIONS) -> float:
    """ln e over phases: for each concentration the phases multiply, then the concentrations average."""
    counted = list(phases)
    each = [
        sum(float(log_e(phase.units, phase.shares, concentration=k)) for phase in counted)
        for k in concentrations
    ]
    return float(scipy.special.logsumexp(each)) - math.log(len(each))


def chi_square_log_p(units: Sequence[int], shares: Sequence[float]) -> float:
    """ln of Pearson's chi-square p-value: one look only, for comparison with other tools."""
    counts, null = np.asarray(units, np.float64), np.asarray(shares, np.float64)
    expected = null / null.sum() * counts.sum()
    if counts.sum() == 0.0:
        return 0.0
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return float(scipy.stats.chi2.logsf(statistic, len(counts) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class BinomialTest:
    """Two-sided p-values of the candidate's number of units: exact, and normal with continuity correction."""

    exact: float
    normal: float


def binomial_test(candidate: int, control: int, *, share: float = 0.5) -> BinomialTest:
    """One look only, for comparison with other tools: is the candidate's number binomial with `share`?"""
    if not 0.0 < share < 1.0:
        raise StatisticsError(f"the share is {share!r}: a number strictly between 0 and 1 is needed")
    total = candidate + control
    if total == 0:
        return BinomialTest(exact=1.0, normal=1.0)
    exact = float(scipy.stats.binomtest(candidate, total, share).pvalue)
    distance = max(0.0, abs(candidate - total * share) - 0.5)
    z = distance / math.sqrt(total * share * (1.0 - share))
    return BinomialTest(exact=exact, normal=math.exp(log_two_sided(z)))
