"""What is known after each request? Running estimates and standard errors of a draw, for all moments at once.

The same numbers as `mean.welch`, `mean.ratio_difference` over users, and `strata`, vectorised over
time; `tests/bench` holds them against those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .streams import Draw

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Estimate, standard error and effective n after each request; z is 0 without a standard error."""

    estimate: Floats
    se: Floats
    n: Floats
    of_score: bool = False

    @property
    def information(self) -> Floats:
        """How looks correlate: the score's variance, or 1 / se^2 of an estimate; 0 before there is any."""
        if self.of_score:
            return self.se**2
        with np.errstate(divide="ignore"):
            return np.where(self.se > 0.0, self.se**-2.0, 0.0)

    @property
    def z(self) -> Floats:
        """Estimate over standard error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.se > 0.0, self.estimate / self.se, 0.0)


def _arm(member: Floats, outcome: Floats) -> tuple[Floats, Floats, Floats]:
    """n, mean and variance of a unit, of one arm after each request."""
    n = np.cumsum(member, axis=1)
    total = np.cumsum(member * outcome, axis=1)
    squares = np.cumsum(member * outcome * outcome, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        variance = np.maximum(squares - n * mean * mean, 0.0) / (n - 1.0)
    return n, mean, variance


def differences(draw: Draw) -> Running:
    """The difference of means by request, as if requests were independent."""
    member = draw.candidate.astype(np.float64)
    n1, mean1, variance1 = _arm(member, draw.outcome)
    n0, mean0, variance0 = _arm(1.0 - member, draw.outcome)
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt(variance1 / n1 + variance0 / n0)
    ready = (n1 > 1) & (n0 > 1) & np.isfinite(se)
    return Running(estimate=np.where(ready, mean1 - mean0, 0.0), se=np.where(ready, se, 0.0), n=n1 + n0)


def by_user(draw: Draw, *, borrowed: bool = False) -> Running:
    """The difference of the arms' ratios with the variance over users (F4): what Turnout does. `borrowed`:
    the candidate's user varies no less than control's, as a guardrail has it."""
    assert draw.user is not None
    parts = [_ratio(draw, member) for member in (draw.candidate, ~draw.candidate)]
    (r1, v1, c1), (r0, v0, c0) = parts
    with np.errstate(divide="ignore", invalid="ignore"):
        v1 = np.fmax(v1, v0 * c0 / c1) if borrowed else v1
        se = np.sqrt(v1 + v0)
    ready = (c1 > 1) & (c0 > 1) & np.isfinite(se)
    return Running(estimate=np.where(ready, r1 - r0, 0.0), se=np.where(ready, se, 0.0), n=c1 + c0)


def _ratio(draw: Draw, member: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """One arm's ratio, its variance over users, and the number of users, after each request."""
    assert draw.user is not None
    rows, requests = draw.outcome.shape
    order = np.argsort(draw.user, axis=1, kind="stable")
    flat = order + np.arange(rows)[:, None] * requests
    y = (draw.outcome * member).ravel()[flat]
    m = member.astype(np.float64).ravel()[flat]
    sorted_user = np.take_along_axis(draw.user, order, axis=1)
    start = np.ones((rows, requests), bool)
    start[:, 1:] = sorted_user[:, 1:] != sorted_user[:, :-1]
    first = np.maximum.accumulate(np.where(start, np.arange(requests), 0), axis=1)

    def before(values: Floats) -> Floats:
        """What the same user had before this request."""
        running = np.cumsum(values, axis=1)
        past = running - values
        return past - np.take_along_axis(past, first, axis=1)

    y_before, m_before = before(y), before(m)

    def in_time(values: Floats) -> Floats:
        back = np.empty(rows * requests)
        back[flat.ravel()] = values.ravel()
        return np.cumsum(back.reshape(rows, requests), axis=1)

    yy, mm = in_time((2 * y_before + y) * y), in_time((2 * m_before + m) * m)
    ym = in_time((y_before + y) * (m_before + m) - y_before * m_before)
    users = in_time(((m > 0) & (m_before == 0)).astype(np.float64))
    total_y = np.cumsum(draw.outcome * member, axis=1)
    total_m = np.cumsum(member.astype(np.float64), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = total_y / total_m
        residual = np.maximum(yy + ratio * ratio * mm - 2.0 * ratio * ym, 0.0)
        variance = residual / (users - 1.0) * users / total_m**2
    return ratio, variance, users


def by_table(draw: Draw) -> Running:
    """The Cochran-Mantel-Haenszel excess over stages (F16), or over the one stage there is, and its error.

    The variance is the one under equal shares: it is not zero where the candidate has not failed yet.
    """
    excess = variance = weights = np.zeros(draw.outcome.shape)
    stages = [np.ones(draw.outcome.shape[1])]
    if draw.stage is not None:
        stages = [(draw.stage == stage).astype(np.float64) for stage in np.unique(draw.stage)]
    for inside in stages:
        n1 = np.cumsum(draw.candidate * inside, axis=1)
        n = np.broadcast_to(np.cumsum(inside), n1.shape)
        x1 = np.cumsum(draw.candidate * inside * draw.outcome, axis=1)
        x = np.cumsum(inside * draw.outcome, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where(n > 0, n1 * (n - n1) / n, 0.0)
            excess = excess + np.where(weight > 0, x1 - n1 * x / n, 0.0)
            variance = variance + np.where(weight > 0, weight * (x / n) * (n - x) / (n - 1.0), 0.0)
        weights = weights + weight
    return Running(estimate=excess, se=np.sqrt(variance), n=4.0 * weights, of_score=True)


def by_stage(draw: Draw, *, borrowed: bool = False) -> Running:
    """The stages' differences, or that of the one stage there is, weighted by n1 n0 / (n1 + n0): strata are
    never pooled. `borrowed`: the candidate varies no less than control, as a guardrail has it."""
    weighted = variance = weights = np.zeros(draw.outcome.shape)
    stages = [np.ones(draw.outcome.shape[1])]
    if draw.stage is not None:
        stages = [(draw.stage == stage).astype(np.float64) for stage in np.unique(draw.stage)]
    for inside in stages:
        n1, mean1, var1 = _arm(draw.candidate * inside, draw.outcome)
        n0, mean0, var0 = _arm(~draw.candidate * inside, draw.outcome)
        var1 = np.fmax(var1, var0) if borrowed else var1
        ready = (n1 > 1) & (n0 > 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where(ready, n1 * n0 / (n1 + n0), 0.0)
            weighted = weighted + np.where(ready, weight * (mean1 - mean0), 0.0)
            variance = variance + np.where(ready, weight**2 * (var1 / n1 + var0 / n0), 0.0)
        weights = weights + weight
    some = weights > 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return Running(
            estimate=np.where(some, weighted / weights, 0.0),
            se=np.where(some, np.sqrt(variance) / weights, 0.0),
            n=4.0 * weights,
        )


def failures_by_arm(draw: Draw) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The candidate's and the control's failures after each request."""
    failed = draw.outcome < 0.5
    return np.cumsum(draw.candidate & failed, axis=1), np.cumsum(~draw.candidate & failed, axis=1)
