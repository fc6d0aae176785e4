"""When does each rule reject? From a draw to the request after which it would have, through public functions.

A rule maps a draw to a matrix of booleans, "rejects after this request", or for rules that look at certain
times to the same with False between the looks. Ours, and other platforms' for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from experiments.statistics import (
    betting,
    confidence_sequence,
    elsewhere,
    evalues,
    failures,
    group_sequential,
    predictable,
    shares_below,
    strata,
)
from experiments.statistics.estimate import quantile
from experiments.verdict.contrast import BURN_IN_ARM

from . import running
from .streams import LIMIT, STAGE_SHARES, Draw, Stream

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rule = Callable[[Draw, Stream], Bools]


@lru_cache(maxsize=64)
def _criticals(requests: int, alpha: float, best_at: float) -> Floats:
    of = confidence_sequence.critical_value
    return np.array([of(float(n), alpha=alpha, best_at=best_at) for n in range(requests + 1)])


def _interpolated(table: Floats, n: Floats) -> Floats:
    """Critical values at effective numbers of units that are not whole."""
    return np.interp(n, np.arange(table.size), np.where(np.isfinite(table), table, 1e9))


#: What several rules need of one draw is computed once.
_KEPT: WeakKeyDictionary[Draw, dict[str, running.Running]] = WeakKeyDictionary()


def _once(draw: Draw, name: str, compute: Callable[[Draw], running.Running]) -> running.Running:
    kept = _KEPT.setdefault(draw, {})
    if name not in kept:
        kept[name] = compute(draw)
    return kept[name]


def _by_request(draw: Draw) -> running.Running:
    """As if every request were a unit of its own, and there were no stages."""
    return _once(draw, "request", running.differences)


def _estimates(draw: Draw) -> running.Running:
    """By the unit of assignment, within stages, shares by their tables: as Turnout analyses."""
    if draw.user is not None:
        return _once(draw, "user", running.by_user)
    if draw.binary:
        return _once(draw, "table", running.by_table)
    return _once(draw, "stage", running.by_stage) if draw.stage is not None else _by_request(draw)


def _guarded(draw: Draw) -> running.Running:
    """As a guardrail on a mean has it: the candidate varies no less than control."""
    if draw.user is not None:
        return running.by_user(draw, borrowed=True)
    return running.by_stage(draw, borrowed=True)


# --- ours ------------------------------------------------------------------------------------------------


def fixed(*, alpha: float = 0.05) -> Rule:
    """One look at the horizon."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        z = _estimates(draw).z
        out = np.zeros(z.shape, bool)
        out[:, -1] = np.abs(z[:, -1]) > quantile(1.0 - alpha / 2.0)
        return out

    return rule


def group_looks(looks: int = 20, *, alpha: float = 0.05) -> Rule:
    """Lan-DeMets O'Brien-Fleming-type looks, equally spaced, at the information that really came."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        found = _estimates(draw)
        at = np.arange(1, looks + 1) * stream.requests // looks - 1
        # The information that came, of a typical replication: stages do not weigh alike.
        came = np.maximum.accumulate(np.median(found.information[:, at], axis=0))
        bounds = group_sequential.bounds(
            [(k + 1) / looks for k in range(looks)], alpha=alpha, information=np.maximum(came, 1e-9).tolist()
        )
        out = np.zeros(found.z.shape, bool)
        out[:, at] = np.abs(found.z[:, at]) >= np.asarray(bounds)
        return out

    return rule


def sequence(*, alpha: float = 0.05, best_at: float | None = None, by_request: bool = False) -> Rule:
    """The two-sided asymptotic sequence after every request (F6); tuned to half the horizon by default."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        found = _by_request(draw) if by_request else _estimates(draw)
        tuned = stream.requests / 2 if best_at is None else best_at
        table = _criticals(stream.requests, alpha, tuned)
        return np.asarray(np.abs(found.z) >= _interpolated(table, found.n))

    return rule


def harm_sequence(*, alpha: float = 0.05, higher_is_better: bool = True) -> Rule:
    """The one-sided e-process of a guardrail on a mean, at its margin, from so many units of each arm on."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        found = _once(draw, "guardrail", _guarded)
        sign = -1.0 if higher_is_better else 1.0
        log_e = confidence_sequence.harm_log_e(sign * found.z, found.n, alpha=alpha, horizon=stream.requests)
        units = np.cumsum(draw.candidate, axis=1)
        settled = np.minimum(units, np.arange(1, stream.requests + 1) - units) >= BURN_IN_ARM
        return (log_e >= -math.log(alpha)) & settled

    return rule


def _log_e_of(grid: Callable[[Floats, Floats], Floats], one: Floats, zero: Floats) -> Floats:
    """e-values by table: each pair of counts is computed once."""
    rows, columns = np.arange(one.max() + 1)[:, None], np.arange(zero.max() + 1)[None, :]
    return np.asarray(grid(rows, columns)[one, zero])


def _staged(draw: Draw, stream: Stream, log_e: Callable[[Floats, Floats, float], Floats]) -> Floats:
    """ln e over stages: earlier stages keep theirs, the counts start again."""
    if draw.stage is None:
        one, zero = running.failures_by_arm(draw)
        return _log_e_of(lambda a, b: log_e(a, b, stream.share), one, zero)
    failed, total = draw.outcome < 0.5, np.zeros(draw.outcome.shape)
    for stage, share in enumerate(STAGE_SHARES):
        inside = failed & (draw.stage == stage)
        one, zero = np.cumsum(draw.candidate & inside, axis=1), np.cumsum(~draw.candidate & inside, axis=1)
        total += _log_e_of(lambda a, b, s=share: log_e(a, b, s), one, zero)
    return total


def failure_harm(*, alpha: float = 0.05, ratio: float = 1.0) -> Rule:
    """F9: does the candidate fail more than `ratio` times as often? One-sided, from the first failure."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        found = _staged(draw, stream, lambda a, b, s: failures.harm_log_e(a, b, s, ratio=ratio))
        return np.asarray(found >= -math.log(alpha))

    return rule


def failure_imbalance(*, alpha: float = 0.05) -> Rule:
    """F8: the average over concentrations, two-sided."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        each = [
            _staged(draw, stream, lambda a, b, s, k=k: failures.imbalance_log_e(a, b, s, concentration=k))
            for k in failures.CONCENTRATIONS
        ]
        mixed = np.logaddexp.reduce(each, axis=0) - math.log(len(each))
        return np.asarray(mixed >= -math.log(alpha))

    return rule


def on_logs(rule: Rule) -> Rule:
    """The rule on the logarithm of a latency."""

    def logged(draw: Draw, stream: Stream) -> Bools:
        return rule(replace(draw, outcome=np.log(draw.outcome)), stream)

    return logged


def on_limit(rule: Rule, limit: float = LIMIT) -> Rule:
    """The rule on whether a latency keeps a limit: 1 if it does."""

    def kept(draw: Draw, stream: Stream) -> Bools:
        return rule(replace(draw, outcome=(draw.outcome <= limit).astype(np.float64), binary=True), stream)

    return kept


def high_quantile(level: float = 0.95, *, alpha: float = 0.05) -> Rule:
    """One look at the end at a quantile, by the shares below it."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        out = np.zeros(draw.outcome.shape, bool)
        for row, (arm, outcome) in enumerate(zip(draw.candidate, draw.outcome, strict=True)):
            one, zero = shares_below.ordered(outcome[arm]), shares_below.ordered(outcome[~arm])
            layer = shares_below.Layer(candidate=one, control=zero, level=level)
            out[row, -1] = abs(layer.z(0.0)) > quantile(1.0 - alpha / 2.0)
        return out

    return rule


def _pairs(draw: Draw) -> tuple[list[Floats], list[Floats], list[npt.NDArray[np.int64]]]:
    """The i-th candidate outcome beside the i-th of the control, and the request that completed the pair."""
    ones, zeros, at = [], [], []
    for arm, outcome in zip(draw.candidate, draw.outcome, strict=True):
        first, second = np.flatnonzero(arm), np.flatnonzero(~arm)
        n = min(first.size, second.size)
        ones.append(outcome[first[:n]])
        zeros.append(outcome[second[:n]])
        at.append(np.maximum(first[:n], second[:n]))
    return ones, zeros, at


def _at_requests(
    draw: Draw, logs: Sequence[Floats], at: Sequence[npt.NDArray[np.int64]], alpha: float
) -> Bools:
    out = np.zeros(draw.outcome.shape, bool)
    for row, (log, when) in enumerate(zip(logs, at, strict=True)):
        out[row, when[log >= -math.log(alpha)]] = True
    return out


def betting_pairs(*, alpha: float = 0.05) -> Rule:
    """F7 on matched pairs: (y1 - y0 + 1) / 2 has mean 1/2 under the null."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        ones, zeros, at = _pairs(draw)
        logs = [
            betting.kelly_log_capital(((one - zero) + 1.0) / 2.0, 0.5)
            for one, zero in zip(ones, zeros, strict=True)
        ]
        return _at_requests(draw, logs, at, alpha)

    return rule


def betting_weighted(*, alpha: float = 0.05) -> Rule:
    """Betting on inverse-propensity outcomes: each request alone, no pairs."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        reach = 1.0 / min(stream.share, 1.0 - stream.share)
        out = np.zeros(draw.outcome.shape, bool)
        for row, (arm, outcome) in enumerate(zip(draw.candidate, draw.outcome, strict=True)):
            values = predictable.effect_outcomes(outcome, arm, stream.share, centre=0.5)
            capital = predictable.betting_log_capital(
                (values + reach) / (2.0 * reach), 0.5, alpha=alpha, hedge=True
            )
            out[row] = capital >= -math.log(alpha)
        return out

    return rule


def safe_tables(*, alpha: float = 0.05) -> Rule:
    """F10: the safe test of two by two tables on blocks of one and one."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        ones, zeros, at = _pairs(draw)
        logs = [evalues.safe_two_by_two_log_e(one, zero) for one, zero in zip(ones, zeros, strict=True)]
        return _at_requests(draw, logs, at, alpha)

    return rule


def stratified_test(*, alpha: float = 0.05) -> Rule:
    """Cochran-Mantel-Haenszel over the stages, one look at the end (F16)."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        assert draw.stage is not None
        out = np.zeros(draw.outcome.shape, bool)
        for row, (arm, outcome) in enumerate(zip(draw.candidate, draw.outcome, strict=True)):
            tables = []
            for stage in range(3):
                inside = draw.stage == stage
                one, zero = outcome[inside & arm], outcome[inside & ~arm]
                tables.append(((int((one < 0.5).sum()), one.size), (int((zero < 0.5).sum()), zero.size)))
            z = strata.cmh(tables)
            out[row, -1] = z is not None and abs(z) > quantile(1.0 - alpha / 2.0)
        return out

    return rule


# --- elsewhere -----------------------------------------------------------------------------------------


def naive(every: int = 1, *, alpha: float = 0.05, one_sided: bool = False) -> Rule:
    """The fixed-look z again and again."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        z = _by_request(draw).z
        level = quantile(1.0 - (alpha if one_sided else alpha / 2.0))
        crossed = -z > level if one_sided else np.abs(z) > level
        crossed[:, np.arange(stream.requests) % every != every - 1] = False
        return np.asarray(crossed)

    return rule


def mixture_ratio(*, tau: float = 0.02, alpha: float = 0.05) -> Rule:
    """The mSPRT with tau the least effect of interest, on the plug-in variance."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        found = _by_request(draw)
        se = np.where(found.se > 0.0, found.se, 1.0)
        logs = evalues.msprt_log_e(found.estimate, 1.0, sigma=se, tau=tau)
        return np.asarray((logs >= -math.log(alpha)) & (found.se > 0.0))

    return rule


def hybrid(*, running_alpha: float = 0.01, final_alpha: float = 0.04) -> Rule:
    """A sequence at .01 all the way, and a fixed look at .04 at the end."""
    along, last = sequence(alpha=running_alpha), fixed(alpha=final_alpha)
    return lambda draw, stream: along(draw, stream) | last(draw, stream)


def flat_boundary(*, alpha: float = 0.05) -> Rule:
    """Statsig's z*."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        found = _by_request(draw)
        n1 = max(1.0, stream.share * stream.requests)
        level = elsewhere.statsig_critical_value(n1, stream.requests - n1, alpha=alpha)
        return np.asarray(np.abs(found.z) >= level)

    return rule


def best_arm_stop(*, delta: float = 0.05) -> Rule:
    """Track-and-stop's rule with two arms: (gap^2 / (2 V)) > ln((1 + ln n) / delta)."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        found = _by_request(draw)
        with np.errstate(divide="ignore"):
            threshold = np.log((1.0 + np.log(np.arange(1, stream.requests + 1))) / delta)
        return np.asarray(0.5 * found.z**2 > threshold)

    return rule


def pooled(*, alpha: float = 0.05) -> Rule:
    """One look at the end that forgets the stages."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        z = _by_request(draw).z
        out = np.zeros(z.shape, bool)
        out[:, -1] = np.abs(z[:, -1]) > quantile(1.0 - alpha / 2.0)
        return out

    return rule


def inverse_variance(*, alpha: float = 0.05) -> Rule:
    """Stages combined by their own variances: weights that follow the outcome."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        assert draw.stage is not None
        top = bottom = np.zeros(len(draw.outcome))
        for stage in range(3):
            inside = draw.stage == stage
            part = running.differences(
                Draw(candidate=draw.candidate[:, inside], outcome=draw.outcome[:, inside])
            )
            variance = np.maximum(part.se[:, -1] ** 2, 1e-12)
            top, bottom = top + part.estimate[:, -1] / variance, bottom + 1.0 / variance
        out = np.zeros(draw.outcome.shape, bool)
        out[:, -1] = np.abs(top / np.sqrt(bottom)) > quantile(1.0 - alpha / 2.0)
        return out

    return rule


def windows(*, size: int = 50, limit: float = 0.05, failed_checks: int = 1) -> Rule:
    """Threshold checks on windows of the canary's requests; rolled back at so many failed ones."""

    def rule(draw: Draw, stream: Stream) -> Bools:
        out = np.zeros(draw.outcome.shape, bool)
        for row, (arm, outcome) in enumerate(zip(draw.candidate, draw.outcome, strict=True)):
            at = np.flatnonzero(arm)
            whole = at.size // size
            failed = (outcome[at[: whole * size]] < 0.5).reshape(whole, size).mean(axis=1) > limit
            checks = np.flatnonzero(np.cumsum(failed) >= failed_checks)
            if checks.size:
                out[row, at[(checks[0] + 1) * size - 1]] = True
        return out

    return rule


# --- what comes of a rule ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Characteristic:
    """How often a rule rejects, its Monte-Carlo error, and after how many requests.

    `median` and `mean` count streams without a rejection as the whole horizon; `exposed` is the median number
    of the candidate's requests before a rejection, among those that rejected.
    """

    rate: float
    error: float
    median: float
    mean: float
    exposed: float | None
    replications: int


def characteristics(
    rules: Mapping[str, Rule],
    stream: Stream,
    *,
    replications: int = 2000,
    seed: int = 1,
    burn_in: int = 0,
) -> dict[str, Characteristic]:
    """Runs rules on the same draws of a stream; rejections in the first `burn_in` requests do not count."""
    first: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in rules}
    seen: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in rules}
    for draw in stream.draws(replications, seed):
        exposure = np.cumsum(draw.candidate, axis=1)
        for name, rule in rules.items():
            crossed = rule(draw, stream)
            crossed[:, : max(0, burn_in - 1)] = False
            any_ = crossed.any(axis=1)
            at = np.where(any_, crossed.argmax(axis=1) + 1, 0)
            first[name].append(at)
            seen[name].append(np.where(any_, exposure[np.arange(len(at)), at - 1], -1))
    return {
        name: _summary(np.concatenate(first[name]), np.concatenate(seen[name]), stream, replications)
        for name in rules
    }


def characteristic(
    rule: Rule, stream: Stream, *, replications: int = 2000, seed: int = 1, burn_in: int = 0
) -> Characteristic:
    """The same of one rule."""
    found = characteristics({"": rule}, stream, replications=replications, seed=seed, burn_in=burn_in)
    return found[""]


def _summary(
    at: npt.NDArray[np.int64], exposed: npt.NDArray[np.int64], stream: Stream, replications: int
) -> Characteristic:
    rate = float((at > 0).mean())
    stopped = np.where(at > 0, at, stream.requests)
    caught = exposed[exposed >= 0]
    return Characteristic(
        rate=rate,
        error=math.sqrt(max(rate * (1.0 - rate), 1.0 / replications) / replications),
        median=float(np.median(stopped)),
        mean=float(stopped.mean()),
        exposed=float(np.median(caught)) if caught.size else None,
        replications=replications,
    )
