"""Which of two answers is preferred, and which of several versions is strongest?

Win rates with ties as a half; both orders of a judged pair, so that a judge's liking for the first place
cancels out and is tested; Bradley and Terry's model for more than two versions, whose strengths, unlike Elo
updates, do not depend on the order in which the games came.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import Estimate, Interval, StatisticsError, lacking
from .mean import t_estimate
from .paired import PairTable, mcnemar_exact
from .proportion import wilson

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wins:
    """Judged prompts by their result for the candidate."""

    wins: int
    ties: int
    losses: int

    @property
    def n(self) -> int:
        """The number of prompts."""
        return self.wins + self.ties + self.losses


def win_rate(found: Wins, *, alpha: float = 0.05, normal: bool = False) -> Estimate:
    """The mean of win 1, tie 1/2, loss 0, with the t interval (or with `normal` z); p is of 1/2."""
    method = "win-rate-z" if normal else "win-rate-t"
    if not found.n:
        return lacking("no_data", method)
    n = found.n
    value = (found.wins + 0.5 * found.ties) / n
    if n < 2:
        return lacking("insufficient_data", method, value)
    squares = found.wins * (1.0 - value) ** 2 + found.ties * (0.5 - value) ** 2 + found.losses * value**2
    df = math.inf if normal else n - 1.0
    return t_estimate(value, squares / (n - 1) / n, df, alpha=alpha, method=method, null=0.5)


def sign_p(found: Wins) -> float:
    """The exact two-sided sign test of wins against losses; ties are dropped. 1.0 without either."""
    decisive = found.wins + found.losses
    return float(scipy.stats.binomtest(found.wins, decisive, 0.5).pvalue) if decisive else 1.0


def decisive_interval(found: Wins, *, alpha: float = 0.05) -> Interval:
    """Wilson's interval of the wins among wins and losses; (0, 1) without either."""
    return wilson(found.wins, found.wins + found.losses, alpha=alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class BothOrders:
    """Prompts judged in both orders. In order 1 the candidate stands first, in order 2 the control.

    `first_place` counts prompts where the first answer won in both orders, `second_place` the second.
    """

    candidate: int
    control: int
    first_place: int
    second_place: int
    ties: int = 0

    @property
    def n(self) -> int:
        """The number of prompts."""
        return self.candidate + self.control + self.first_place + self.second_place + self.ties

    @property
    def wins(self) -> Wins:
        """As wins and losses: an inconsistent verdict is a tie."""
        return Wins(
            wins=self.candidate,
            ties=self.first_place + self.second_place + self.ties,
            losses=self.control,
        )

    @property
    def consistency(self) -> float | None:
        """The share of prompts judged alike in both orders; None without prompts."""
        inconsistent = self.first_place + self.second_place
        return 1.0 - inconsistent / self.n if self.n else None


def position_bias_p(found: BothOrders) -> float:
    """McNemar's exact test of the two inconsistent cells: does the judge favour a place?"""
    return mcnemar_exact(
        PairTable(
            both=found.candidate,
            control_only=found.second_place,
            candidate_only=found.first_place,
            neither=found.control,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """Log strengths that add up to zero, their covariance, and whether the games connect all versions."""

    log_strengths: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    def probability(self, one: int, other: int) -> float:
        """With which probability version `one` beats version `other`."""
        return float(scipy.special.expit(self.log_strengths[one] - self.log_strengths[other]))

    def elo(self) -> tuple[float, ...]:
        """The strengths in Elo points: 400 / ln 10 for each unit."""
        return tuple(400.0 / math.log(10.0) * value for value in self.log_strengths)

    def difference(self, one: int, other: int, *, alpha: float = 0.05) -> Estimate:
        """The difference of two log strengths with its normal interval."""
        c = np.asarray(self.covariance)
        variance = float(c[one, one] + c[other, other] - 2.0 * c[one, other])
        value = self.log_strengths[one] - self.log_strengths[other]
        return t_estimate(value, variance, math.inf, alpha=alpha, method="bradley-terry")


def bradley_terry(wins: Sequence[Sequence[float]], *, iterations: int = 200) -> Strengths | None:
    """The likeliest log strengths of wins[i][j], how often i beat j (a tie is half a win for each).

    Newton's method on the centred strengths. None where the likelihood has no maximum: some group of versions
    never lost to, or never met, the others (Ford 1957).
    """
    w = np.asarray(wins, np.float64)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or w.shape[0] < 2 or not np.all(w >= 0.0):
        raise StatisticsError(f"wins of shape {w.shape} are no square table of counts")
    w = w * (1.0 - np.eye(len(w)))
    if not _strongly_connected(w > 0.0):
        return None
    games, size = w + w.T, len(w)
    theta = np.zeros(size)
    centre = np.full((size, size), 1.0 / size)
    for _ in range(iterations):
        p = scipy.special.expit(np.subtract.outer(theta, theta))
        slope = (w - games * p).sum(axis=1)
        weight = games * p * (1.0 - p)
        curvature = np.diag(weight.sum(axis=1)) - weight
        step = np.linalg.solve(curvature + centre, slope)
        step *= min(1.0, 2.0 / max(1e-300, float(np.abs(step).max())))
        theta = theta + step - (theta + step).mean()
        if float(np.abs(step).max()) < 1e-12:
            break
    inverse = np.linalg.inv(curvature + centre) - centre
    return Strengths(
        log_strengths=tuple(float(v) for v in theta),
        covariance=tuple(tuple(float(v) for v in row) for row in inverse),
    )


def _strongly_connected(beats: npt.NDArray[np.bool_]) -> bool:
    reach = beats | np.eye(len(beats), dtype=bool)
    for _ in range(len(beats)):
        reach = reach | ((reach.astype(np.int64) @ reach.astype(np.int64)) > 0)
    return bool(reach.all())


def strength_intervals(
    found: Strengths, games: npt.ArrayLike, *, alpha: float = 0.05
) -> list[Interval | None]:
    """The intervals of the log strengths, from the wins in each cluster: shape (clusters, k, k).

    What a cluster's games would do to the strengths is summed over the clusters (the sandwich of White 1982,
    CR1, t with one less), so that games of one item, template or document may hang together as they like.
    None with fewer than two clusters, and where all of them are alike.
    """
    w = np.asarray(games, np.float64)
    count, size = len(w), len(found.log_strengths)
    if count < 2:
        return [None] * size
    theta = np.asarray(found.log_strengths)
    p = scipy.special.expit(np.subtract.outer(theta, theta))
    slopes = (w - (w + w.transpose(0, 2, 1)) * p).sum(axis=2)
    pushes = slopes @ np.asarray(found.covariance)
    variances = count / (count - 1) * (pushes * pushes).sum(axis=0)
    return [
        None
        if variance <= 1e-15
        else t_estimate(
            float(value), float(variance), count - 1.0, alpha=alpha, method="bradley-terry"
        ).interval
        for value, variance in zip(theta, variances, strict=True)
    ]
