"""How often do the intervals hold the truth? At one look for every kind of metric, and at all times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments.statistics import (
    allocation,
    confidence_sequence,
    counts,
    covariate,
    mean,
    paired,
    pairwise,
    prediction_powered,
    proportion,
    quantiles,
    shares_below,
    strata,
)
from experiments.statistics.estimate import Estimate
from experiments.statistics.moments import Cluster, Moments

from . import running
from .streams import Stream

Rng = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An interval, what it is of, and the truth that it should hold."""

    method: str
    setting: str
    truth: float
    draw: Callable[[Rng], Estimate]
    replications: int = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """The share of intervals that held the truth, its Monte-Carlo error, and how many gave none."""

    case: Case
    coverage: float
    error: float
    without: int


def moments(values: np.ndarray) -> Moments:
    """Sums of an array."""
    return Moments(n=int(values.size), total=float(values.sum()), squares=float((values**2).sum()))


def _shares(n: int, candidate: float, control: float) -> Callable[[Rng], Estimate]:
    return lambda rng: proportion.newcombe(
        (int(rng.binomial(n, candidate)), n), (int(rng.binomial(n, control)), n)
    )


def _judge(rng: Rng) -> Estimate:
    return mean.welch(moments(rng.beta(4, 2, 60)), moments(rng.beta(4, 2, 120)))


def _latency(rng: Rng) -> Estimate:
    return mean.welch(moments(rng.normal(0.14, 0.8, 200)), moments(rng.normal(0.0, 0.8, 400)))


def _raw_latency(rng: Rng) -> Estimate:
    return mean.log_ratio(
        moments(np.exp(rng.normal(0.14, 0.8, 1000))), moments(np.exp(rng.normal(0.0, 0.8, 1000)))
    )


def _cluster(rng: Rng, users: int) -> Cluster:
    """Tokens per second: a user's requests share a speed."""
    m = rng.poisson(4.0, users) + 1.0
    y = m * np.exp(rng.normal(0.0, 0.3, users)) + rng.normal(0.0, 0.3, users) * np.sqrt(m)
    return Cluster.of(y, m)


def _ratio(rng: Rng) -> Estimate:
    return mean.ratio_difference(_cluster(rng, 150), _cluster(rng, 200))


def _shares_below(level: float, n: int, slow: float = 0.0) -> Callable[[Rng], Estimate]:
    """Of latencies, of which the share `slow` takes eight times as long, with nothing in between."""

    def sample(rng: Rng) -> shares_below.Ordered:
        spread, late = (0.2, rng.random(n) < slow) if slow else (0.8, False)
        return shares_below.ordered(np.exp(rng.normal(0.0, spread, n) + np.log(8.0) * late))

    def drawn(rng: Rng) -> Estimate:
        layer = shares_below.Layer(candidate=sample(rng), control=sample(rng), level=level)
        return shares_below.QuantileContrast([layer]).estimate(alpha=0.05)

    return drawn


def _order_statistics(level: float, n: int) -> Callable[[Rng], Estimate]:
    return lambda rng: quantiles.quantile_difference(
        quantiles.summarise(np.exp(rng.normal(0.0, 0.8, n)), level),
        quantiles.summarise(np.exp(rng.normal(0.0, 0.8, n)), level),
    )


def _clustered_quantile(rng: Rng) -> Estimate:
    arms = []
    for _ in range(2):
        speed = np.repeat(rng.normal(0.0, 0.5, 200), 10)
        units = np.repeat(np.arange(200), 10)
        arms.append(
            quantiles.summarise(np.exp(speed + rng.normal(0.0, 0.6, 2000)), 0.9, units=units.tolist())
        )
    return quantiles.quantile_difference(*arms)


def _counts(rng: Rng) -> Estimate:
    candidate = counts.Events(count=int(rng.poisson(12)), exposure=1000.0)
    return counts.compare_rates(candidate, counts.Events(count=int(rng.poisson(54)), exposure=9000.0))


def _adjusted(rng: Rng, n: int, effect: float) -> covariate.Adjusted:
    pre = rng.normal(10.0, 2.0, n)
    post = effect + 0.8 * pre + rng.normal(0.0, 1.0, n)
    return covariate.Adjusted(post=moments(post), pre=moments(pre), cross=float(pre @ post))


def _cuped(rng: Rng) -> Estimate:
    return covariate.cuped(_adjusted(rng, 150, 0.2), _adjusted(rng, 160, 0.0))


def _ppi(rng: Rng) -> Estimate:
    truth = (rng.random(1080) < 0.72).astype(float)
    judge = np.where(rng.random(1080) < 0.85, truth, 1.0 - truth)
    y, f, rest = truth[:80], judge[:80], judge[80:]
    labelled = prediction_powered.Labelled(y=moments(y), f=moments(f), yf=float(y @ f))
    return prediction_powered.mean(labelled, moments(rest))


def _golden(rng: Rng) -> Estimate:
    items = rng.normal(0.0, 0.3, 60)[:, None] + rng.normal(0.05, 0.4, (60, 4))
    return paired.clustered_difference(
        paired.paired_sums(items.ravel().tolist(), np.repeat(np.arange(60), 4).tolist())
    )


def _wins(rng: Rng) -> Estimate:
    wins, ties, losses = rng.multinomial(100, [0.45, 0.15, 0.40]).tolist()
    return pairwise.win_rate(pairwise.Wins(wins=wins, ties=ties, losses=losses))


def _stages(rng: Rng) -> Estimate:
    tables = []
    for share, error in ((0.05, 0.01), (0.2, 0.03), (0.5, 0.05)):
        n1 = int(rng.binomial(1667, share))
        n0 = 1667 - n1
        tables.append(((int(rng.binomial(n1, error)), n1), (int(rng.binomial(n0, error)), n0)))
    return strata.share_difference(tables)


def _adaptive(rng: Rng) -> Estimate:
    """Two batches; the second follows the first one's outcome."""
    outcomes: tuple[list[float], list[float]] = ([], [])
    weights: tuple[list[float], list[float]] = ([], [])
    share = 0.5
    for _ in range(2):
        arm = rng.random(500) < share
        y = (rng.random(500) < 0.3).astype(float)
        for index, member, p in ((0, arm, share), (1, ~arm, 1.0 - share)):
            outcomes[index].extend(y[member].tolist())
            weights[index].extend([p] * int(member.sum()))
        share = 0.8 if y[arm].mean() > y[~arm].mean() else 0.2
    return allocation.weighted_difference(
        allocation.weighted_sums(outcomes[0], weights[0]), allocation.weighted_sums(outcomes[1], weights[1])
    )


def cases() -> list[Case]:
    """Every kind of metric, in sizes that occur."""
    return [*_shares_and_means(), *_quantiles(), *_other_kinds()]


def _shares_and_means() -> list[Case]:
    return [
        Case(
            method="newcombe",
            setting="shares .93 and .95, 200 units each",
            truth=-0.02,
            draw=_shares(200, 0.93, 0.95),
        ),
        Case(
            method="newcombe",
            setting="shares .02 and .02, 1,000 units each",
            truth=0.0,
            draw=_shares(1000, 0.02, 0.02),
        ),
        Case(
            method="newcombe",
            setting="shares .995 and .995, 400 units each",
            truth=0.0,
            draw=_shares(400, 0.995, 0.995),
        ),
        Case(
            method="stratified newcombe",
            setting="ramp of three stages, errors drift .01 to .05",
            truth=0.0,
            draw=_stages,
        ),
        Case(method="welch", setting="judge scores, 60 and 120 units", truth=0.0, draw=_judge),
        Case(method="welch on logs", setting="log latency, 200 and 400 requests", truth=0.14, draw=_latency),
        Case(method="log ratio", setting="raw latency, 1,000 requests each", truth=0.14, draw=_raw_latency),
        Case(
            method="ratio (delta)", setting="tokens per second over 150 and 200 users", truth=0.0, draw=_ratio
        ),
    ]


def _quantiles() -> list[Case]:
    return [
        Case(
            method="shares below p50",
            setting="latency, 500 requests each",
            truth=0.0,
            draw=_shares_below(0.5, 500),
            replications=2000,
        ),
        Case(
            method="shares below p95",
            setting="latency, 1,000 requests each",
            truth=0.0,
            draw=_shares_below(0.95, 1000),
            replications=2000,
        ),
        Case(
            method="shares below p99",
            setting="latency, 4,000 requests each",
            truth=0.0,
            draw=_shares_below(0.99, 4000),
            replications=2000,
        ),
        Case(
            method="shares below p95",
            setting="latency, 1,000 requests each, 5 % eight times as long",
            truth=0.0,
            draw=_shares_below(0.95, 1000, slow=0.05),
            replications=2000,
        ),
        Case(
            method="order statistic p95",
            setting="latency, 1,000 requests each",
            truth=0.0,
            draw=_order_statistics(0.95, 1000),
        ),
        Case(
            method="clustered p90",
            setting="200 users with 10 requests each",
            truth=0.0,
            draw=_clustered_quantile,
            replications=2000,
        ),
    ]


def _other_kinds() -> list[Case]:
    return [
        Case(method="rate ratio (mid-p)", setting="12 and 54 events expected", truth=2.0, draw=_counts),
        Case(method="cuped", setting="150 and 160 units, correlation .85", truth=0.2, draw=_cuped),
        Case(method="ppi++", setting="80 labels, 1,000 judged", truth=0.72, draw=_ppi),
        Case(method="paired t, clustered", setting="60 scenarios with 4 items", truth=0.05, draw=_golden),
        Case(method="win rate", setting="100 prompts", truth=0.525, draw=_wins),
        Case(
            method="ipw difference",
            setting="two batches, the second follows the first",
            truth=0.0,
            draw=_adaptive,
        ),
    ]


def run(seed: int = 3) -> list[Covered]:
    """Coverage of every case."""
    found = []
    for index, case in enumerate(cases()):
        rng = np.random.default_rng([seed, index])
        held = without = 0
        for _ in range(case.replications):
            estimate = case.draw(rng)
            if estimate.interval is None:
                without += 1
            else:
                held += case.truth in estimate.interval
        rate = held / max(1, case.replications - without)
        error = math.sqrt(rate * (1.0 - rate) / case.replications)
        found.append(Covered(case=case, coverage=rate, error=error, without=without))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Always:
    """How often an interval held the truth at every moment, and when it first excluded zero."""

    everywhere: float
    at_stop: float
    mean_estimate_at_stop: float


def always(*, sequential: bool, replications: int = 2000, seed: int = 4, burn_in: int = 100) -> Always:
    """Coverage of the truth -.02 (.95 to .93) at all times, by the sequence or the fixed interval."""
    stream = Stream(name="pass95", effect=-0.02)
    everywhere, stopped, estimates = [], [], []
    table = np.array(
        [
            confidence_sequence.critical_value(float(n), alpha=0.05, best_at=stream.requests / 2)
            if sequential
            else 1.959964
            for n in range(1, stream.requests + 1)
        ]
    )
    for draw in stream.draws(replications, seed):
        found = running.differences(draw)
        late = np.arange(stream.requests) >= burn_in - 1
        half = found.se * table
        inside = (np.abs(found.estimate + 0.02) <= half) | ~late
        crossed = (np.abs(found.estimate) > half) & late & (found.se > 0)
        everywhere.extend(inside.all(axis=1).tolist())
        some = crossed.any(axis=1)
        at = crossed.argmax(axis=1)
        rows = np.flatnonzero(some)
        stopped.extend(inside[rows, at[rows]].tolist())
        estimates.extend(found.estimate[rows, at[rows]].tolist())
    return Always(
        everywhere=float(np.mean(everywhere)),
        at_stop=float(np.mean(stopped)),
        mean_estimate_at_stop=float(np.mean(estimates)),
    )
