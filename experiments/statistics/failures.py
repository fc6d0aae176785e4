"""Does the candidate fail more often? E-processes on the arm of each failure (F8, F9).

Given that some unit failed, which arm it was in is a coin with the candidate's share of the traffic,
whatever the failure rate does over the day (Lindon and Malek 2022). So no baseline, no variance and no
minimum n are needed, and one may look after every failure.

What is counted are units by their first failure, each once in the whole experiment. Sticky units make the
failures of one user land in one arm together, and a count of exchanges would take one unlucky user for
many; but the arms of *different* units are independent draws of the hash, so over units the process is
exact under any clustering. A new phase restarts the counts with its own share; the phases multiply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import Interval, StatisticsError, check_level
from .incomplete_beta import log_upper_tail

Floats = npt.NDArray[np.float64]

#: Mixed over in the two-sided process: each is best near another number of failures.
CONCENTRATIONS = (2.0, 10.0, 50.0, 250.0)
#: Of the one-sided process; it hardly matters between 2 and 30.
CONCENTRATION = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCount:
    """Failing units of the two arms in one phase, and the candidate's share among candidate and control."""

    candidate: int
    control: int
    share: float


def _check(share: float) -> None:
    if not 0.0 < share < 1.0:
        raise StatisticsError(
            f"the candidate's share is {share!r}: a number strictly between 0 and 1 is needed"
        )


def tolerated_share(share: float, ratio: float) -> float:
    """Which share of the failures is the candidate's when it fails `ratio` times as often."""
    _check(share)
    if not 0.0 < ratio < math.inf:
        raise StatisticsError(f"the tolerated ratio is {ratio!r}: a positive number is needed")
    return share * ratio / (share * ratio + 1.0 - share)


def imbalance_log_e(
    candidate: npt.ArrayLike, control: npt.ArrayLike, share: float, *, concentration: float = CONCENTRATION
) -> Floats:
    """ln e of F8 for counts of failures (arrays broadcast): is the candidate's share of them another?"""
    _check(share)
    c1, c0 = np.asarray(candidate, np.float64), np.asarray(control, np.float64)
    a, b = concentration * share, concentration * (1.0 - share)
    gained = scipy.special.betaln(a + c1, b + c0) - scipy.special.betaln(a, b)
    return np.asarray(gained - c1 * math.log(share) - c0 * math.log1p(-share), np.float64)


def harm_log_e(
    candidate: npt.ArrayLike,
    control: npt.ArrayLike,
    share: float,
    *,
    ratio: float = 1.0,
    concentration: float = CONCENTRATION,
) -> Floats:
    """ln e of F9 for counts (arrays broadcast): does the candidate fail more than `ratio` times as often?

    The Beta of F8 restricted to shares above the tolerated one, against that very share; a supermartingale
    for every smaller one too. Shape of the result: that of the counts, broadcast.
    """
    edge = tolerated_share(share, ratio)
    c1, c0 = np.asarray(candidate, np.float64), np.asarray(control, np.float64)
    a, b = concentration * edge, concentration * (1.0 - edge)
    gained = scipy.special.betaln(a + c1, b + c0) - scipy.special.betaln(a, b)
    kept = log_upper_tail(a + c1, b + c0, edge) - log_upper_tail(np.asarray(a), np.asarray(b), edge)
    return np.asarray(gained + kept - c1 * math.log(edge) - c0 * math.log1p(-edge), np.float64)


def imbalance(phases: Iterable[FailureCount], *, concentrations: Sequence[float] = CONCENTRATIONS) -> float:
    """ln e of F8 over phases: for each concentration the phases multiply, then the concentrations average."""
    counted = list(phases)
    each = [
        sum(
            float(imbalance_log_e(phase.candidate, phase.control, phase.share, concentration=k))
            for phase in counted
        )
        for k in concentrations
    ]
    return float(scipy.special.logsumexp(each)) - math.log(len(each))


def harm(phases: Iterable[FailureCount], *, ratio: float, concentration: float = CONCENTRATION) -> float:
    """ln e of F9 over phases; 0.0 (e = 1) before the first failure. Compare with ln(1 / alpha)."""
    return sum(
        float(
            harm_log_e(phase.candidate, phase.control, phase.share, ratio=ratio, concentration=concentration)
        )
        for phase in phases
    )


def rate_ratio_sequence(
    candidate: int, control: int, share: float, *, alpha: float = 0.05, concentration: float = CONCENTRATION
) -> Interval:
    """The ratio of the failure rates, valid after every failure at once: the ratios that F8 does not exclude.

    (0, inf) before the first failure. The candidate's share of the failures is bounded where the Beta mixture
    over it stays below 1 / alpha, and a share is a ratio once the traffic's share is known.
    """
    _check(share)
    check_level(alpha)
    total = candidate + control
    if total == 0:
        return Interval(lower=0.0, upper=math.inf, level=1.0 - alpha)
    a, b = concentration * share, concentration * (1.0 - share)
    gained = float(scipy.special.betaln(a + candidate, b + control) - scipy.special.betaln(a, b)) + math.log(
        alpha
    )
    base = math.log(share) - math.log1p(-share)

    def above(log_ratio: float) -> float:
        """ln of the likelihood of this ratio, less what is needed not to be excluded."""
        odds = base + log_ratio
        log_one, log_zero = -float(np.logaddexp(0.0, -odds)), -float(np.logaddexp(0.0, odds))
        return candidate * log_one + control * log_zero - gained

    best = math.log(max(candidate, 0.5) / max(control, 0.5)) - base
    lower = 0.0 if candidate == 0 else math.exp(_edge(above, best, -1.0))
    upper = math.inf if control == 0 else math.exp(_edge(above, best, 1.0))
    return Interval(lower=lower, upper=upper, level=1.0 - alpha)


def _edge(above: Callable[[float], float], inside: float, step: float) -> float:
    while above(inside) < 0.0 and abs(inside) < 600.0:  # a stand-in for a best ratio of 0 or infinity
        inside -= step
    outside = inside + step
    while above(outside) > 0.0:
        outside += 2.0 * step
    return float(scipy.optimize.brentq(above, inside, outside, xtol=1e-12))
