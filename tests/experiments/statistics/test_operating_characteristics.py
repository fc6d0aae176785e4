"""How often are the rules wrong, and how soon right? Small seeded simulations of the public functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from bench.operating import adaptive, ramps
from experiments.evidence import AnalysisSpec, Evidence, Goal, MetricSums
from experiments.metrics import metric
from experiments.statistics import (
    confidence_sequence,
    failures,
    group_sequential,
    paired,
    sample_ratio,
    strata,
)
from experiments.statistics.bounded import BoundedClusters
from experiments.statistics.estimate import Estimate, quantile
from experiments.statistics.moments import Cluster
from experiments.verdict.comparison import compare
from experiments.verdict.contrast import BURN_IN_ARM, signed_z

Floats = npt.NDArray[np.float64]

REPLICATIONS = 1000
REQUESTS = 5000


def _failure_counts(
    rng: np.random.Generator, error: tuple[float, float], share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    candidate = rng.random((REPLICATIONS, REQUESTS)) < share
    failed = rng.random((REPLICATIONS, REQUESTS)) < np.where(candidate, error[1], error[0])
    return (
        np.cumsum(candidate & failed, axis=1, dtype=np.int32),
        np.cumsum(~candidate & failed, axis=1, dtype=np.int32),
        np.cumsum(candidate, axis=1, dtype=np.int32),
    )


def _log_e(one: np.ndarray, zero: np.ndarray, share: float) -> np.ndarray:
    grid = failures.harm_log_e(np.arange(one.max() + 1)[:, None], np.arange(zero.max() + 1)[None, :], share)
    return grid[one, zero]


def test_a_healthy_canary_looked_at_after_every_request_is_rarely_rolled_back() -> None:
    one, zero, _ = _failure_counts(np.random.default_rng(11), (0.02, 0.02), 0.1)
    rate = float(np.mean((_log_e(one, zero, 0.1) >= math.log(20)).any(axis=1)))
    assert rate <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / REPLICATIONS)


def test_a_bad_canary_is_caught_within_160_of_its_requests() -> None:
    one, zero, seen = _failure_counts(np.random.default_rng(12), (0.02, 0.06), 0.1)
    crossed = _log_e(one, zero, 0.1) >= math.log(20)
    caught = crossed.any(axis=1)
    assert float(np.mean(caught)) >= 0.94
    first = seen[np.arange(REPLICATIONS), crossed.argmax(axis=1)][caught]
    assert float(np.median(first)) <= 160


def test_sticky_users_with_many_failures_do_not_inflate_the_false_alarms() -> None:
    # Half of the failures come from few users; units are counted by their first failure.
    rng = np.random.default_rng(13)
    users, alarms = 500, 0
    for _ in range(300):
        arm = rng.random(users) < 0.1
        frailty = rng.beta(0.1, 2.0, users)
        order = rng.integers(0, users, REQUESTS)
        failed = rng.random(REQUESTS) < frailty[order]
        _, first = np.unique(order[failed], return_index=True)
        sequence = arm[order[failed][np.sort(first)]]
        one, zero = np.cumsum(sequence), np.cumsum(~sequence)
        alarms += bool((failures.harm_log_e(one, zero, 0.1) >= math.log(20)).any())
    assert alarms / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_the_one_sided_sequence_keeps_its_level_from_its_burn_in_on() -> None:
    rng = np.random.default_rng(14)
    x = np.where(rng.random((REPLICATIONS, REQUESTS)) < 0.5, 1.0, -1.0) * rng.normal(
        size=(REPLICATIONS, REQUESTS)
    )
    n = np.arange(1, REQUESTS + 1)
    z = np.cumsum(x, axis=1) / np.sqrt(n)
    bound = np.array(
        [confidence_sequence.one_sided_critical_value(k, alpha=0.05, best_at=2500) for k in n[99:]]
    )
    assert float(np.mean((z[:, 99:] >= bound).any(axis=1))) <= 0.05


def guardrail_alarms(values: Floats, *, sign: float, floored: bool) -> float:
    """How often a guardrail on a mean is ever crossed between equals, at a share of 10 %, looked at after
    each unit from the burn-in on. `values` are (replications, units); a sign of 1 says that more is worse."""
    rng = np.random.default_rng(17)
    candidate = rng.random(values.shape) < 0.1
    found = []
    for arm in (candidate, ~candidate):
        n, y, yy = (np.cumsum(power * arm, axis=1)[:, 99:] for power in (values**0, values, values**2))
        found.append((n, y / n, (yy / n - (y / n) ** 2) * n / (n - 1)))
    (n1, mean1, one), (n0, mean0, zero) = found
    with np.errstate(all="ignore"):
        spread = np.maximum(one, zero) if floored else one
        z = sign * (mean1 - mean0) / np.sqrt(spread / n1 + zero / n0)
    z[np.minimum(n1, n0) < BURN_IN_ARM] = np.nan
    log_e = confidence_sequence.harm_log_e(z, 4 * n1 * n0 / (n1 + n0), alpha=0.05, horizon=REQUESTS)
    return float(np.mean((log_e >= math.log(20)).any(axis=1)))


@pytest.mark.parametrize(
    ("name", "sign"), [("judge", 1.0), ("judge", -1.0), ("skewed", 1.0), ("skewed", -1.0)]
)
def test_a_guardrail_on_a_mean_keeps_its_level_from_its_burn_in_on(name: str, sign: float) -> None:
    """Also where values are skewed and the candidate's are few: a judge that passes nine in ten, a cost."""
    rng = np.random.default_rng(18)
    size = (400, REQUESTS)
    values = (rng.random(size) < 0.9) * 1.0 if name == "judge" else np.exp(rng.normal(scale=0.8, size=size))
    assert guardrail_alarms(values, sign=sign, floored=True) <= 0.05
    if (name, sign) == ("judge", 1.0):
        assert guardrail_alarms(values, sign=sign, floored=False) > 0.1, (
            "why the spread is control's at least"
        )


def test_looks_keep_their_level_and_most_of_the_power() -> None:
    rng = np.random.default_rng(15)
    looks = np.arange(1, 6) / 5
    bounds = np.array(group_sequential.bounds(looks.tolist(), alpha=0.05))
    steps = rng.normal(size=(20_000, 5)) * math.sqrt(0.2)
    score = np.cumsum(steps, axis=1)
    null = np.abs(score / np.sqrt(looks)) >= bounds
    assert abs(float(np.mean(null.any(axis=1))) - 0.05) <= 0.005
    drifted = (score + 2.8016 * looks) / np.sqrt(looks) >= bounds
    assert float(np.mean(drifted.any(axis=1))) >= 0.78


def test_a_mismatch_of_53_to_47_is_found_in_most_runs() -> None:
    rng = np.random.default_rng(16)
    one = np.cumsum(rng.random((REPLICATIONS, REQUESTS)) < 0.53, axis=1)[:, 99::50]
    at = np.arange(100, REQUESTS + 1, 50)
    counts = np.stack([one, at - one], axis=-1)
    each = [sample_ratio.log_e(counts, (0.5, 0.5), concentration=k) for k in sample_ratio.CONCENTRATIONS]
    mixed = np.logaddexp.reduce(each, axis=0) - math.log(len(each))
    assert float(np.mean((mixed >= math.log(100)).any(axis=1))) >= 0.73


@pytest.mark.parametrize("ramp", ramps.RAMPS, ids=lambda ramp: ramp.name)
def test_looks_at_a_ramp_spend_alpha_whatever_the_base_rate_does(ramp: ramps.Ramp) -> None:
    by_variance, _ = ramps.rejections(ramp, replications=10_000)
    assert abs(by_variance - 0.05) < 0.004 + 3 * (0.05 * 0.95 / 10_000) ** 0.5


def test_by_units_alone_looks_at_a_ramp_err_too_often_or_lose_power() -> None:
    steep, falling = (
        next(r for r in ramps.RAMPS if r.name == f"errors {way}") for way in (".005 to .3", ".2 to .005")
    )
    assert ramps.rejections(steep)[1] > 0.056
    with_variance, by_units = ramps.rejections(falling, factor=1.4)
    assert with_variance > by_units + 0.02


def test_where_the_share_follows_the_outcome_and_the_base_rate_drifts_only_propensities_help() -> None:
    found = adaptive.false_alarms(adaptive=True, drift=0.15, replications=40)
    assert found["plain means"] > 0.5
    assert found["by propensity"] < 0.2


#: Differences of scores in pairs, of mean `-drop`: a few answers lose all, or half; others vary besides.
DIFFERENCES: dict[str, Callable[[np.random.Generator, int, float], Floats]] = {
    "all lost": lambda rng, n, drop: -1.0 * (rng.random(n) < drop),
    "half lost": lambda rng, n, drop: -0.5 * (rng.random(n) < 2.0 * drop),
    "all lost, others vary": lambda rng, n, drop: (
        -1.0 * (rng.random(n) < drop) + rng.choice([-0.05, 0.05], size=n)
    ),
    "won and lost": lambda rng, n, drop: rng.choice(
        [-1.0, 0.0, 1.0], size=n, p=[0.1 + drop / 2, 0.8, 0.1 - drop / 2]
    ),
    "normal": lambda rng, n, drop: rng.normal(-drop, 0.2, size=n),
}


def passes(name: str, n: int, margin: float, *, drop: float, by_t: bool) -> float:
    """How often pairs whose scores drop by `drop` are called not worse by `margin`, one-sided at 5 %."""
    rng, found = np.random.default_rng(21), 0
    for _ in range(1500):
        sums = paired.paired_sums(DIFFERENCES[name](rng, n, drop).tolist())
        if by_t:
            t = paired.clustered_difference(sums, null=-margin)
            found += t.value is not None and t.value > -margin and t.p is not None and t.p < 0.1
        else:
            bounded = BoundedClusters.of(sums, low=-1.0, high=1.0)
            found += bounded is not None and bounded.z(-margin) > quantile(0.95)
    return found / 1500


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize(("n", "margin"), [(30, 0.09), (100, 0.045), (400, 0.03)])
def test_a_drop_in_few_pairs_is_rarely_called_none(name: str, n: int, margin: float) -> None:
    assert passes(name, n, margin, drop=margin, by_t=False) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1500)


def test_by_the_paired_t_drops_that_are_rare_are_called_none_too_often() -> None:
    assert passes("all lost", 100, 0.045, drop=0.045, by_t=True) > 0.13
    assert passes("all lost, others vary", 100, 0.045, drop=0.045, by_t=True) > 0.1


@pytest.mark.parametrize("margin", [0.02, 0.05])
@pytest.mark.parametrize("control_only", [0.0, 0.01, 0.05])
def test_a_shadow_that_fails_more_often_by_the_margin_is_rarely_called_safe(
    margin: float, control_only: float
) -> None:
    """Of n pairs, k fail in the candidate alone and c in the control alone."""

    def level(safe: Callable[[paired.PairTable], bool], n: int) -> float:
        found, most = 0.0, round(3.0 * n * (margin + control_only)) + 12
        for c in range(most if control_only else 1):
            rest = stats.binom.pmf(np.arange(most), n - c, (margin + control_only) / (1.0 - control_only))
            for k in range(min(most, n - c)):
                table = paired.PairTable(both=0, control_only=c, candidate_only=k, neither=n - c - k)
                if not safe(table):  # nor is any with more
                    break
                found += float(stats.binom.pmf(c, n, control_only) * rest[k])
        return found

    def bounded(table: paired.PairTable) -> bool:
        found = BoundedClusters.of(table.sums, low=-1.0, high=1.0)
        return found is not None and found.z(margin) < -quantile(0.95)

    def adjusted_wald(table: paired.PairTable) -> bool:
        interval = paired.bonett_price(table, alpha=0.1).interval
        return interval is not None and interval.upper < margin

    sizes = [n for n in (40, 60, 118, 150, 250) if n * margin > 1.0]
    assert max(level(bounded, n) for n in sizes) <= 0.056
    if (margin, control_only) == (0.02, 0.0):
        assert max(level(adjusted_wald, n) for n in sizes) > 0.075, "why not Bonett and Price's"


@pytest.mark.parametrize(("name", "n", "margin"), [("won and lost", 400, 0.06), ("normal", 100, 0.05)])
def test_what_it_costs_to_count_with_drops_that_were_not_seen(name: str, n: int, margin: float) -> None:
    by_t = passes(name, n, margin, drop=0.0, by_t=True)
    assert by_t > 0.7
    assert passes(name, n, margin, drop=0.0, by_t=False) > by_t - 0.12


def test_scores_that_often_drop_a_little_and_rarely_win_all_are_rarely_taken_for_harm() -> None:
    """Looked at after every tenth pair, by the bettor's capital and by the asymptotic sequence before it."""
    rng, margin, alarms = np.random.default_rng(22), 0.09, {"betting": 0, "asymptotic": 0}
    n = np.arange(20, 1500, 10)
    for _ in range(200):
        d = np.where(rng.random(n[-1]) < 0.01, 1.0, -(margin + 0.01) / 0.99)
        d += rng.choice([-0.02, 0.02], size=d.size)
        sums, squares = np.cumsum(d)[n - 1], np.cumsum(d * d)[n - 1]
        mean = sums / n
        se = np.sqrt((squares / n - mean**2) / (n - 1))
        asymptotic = confidence_sequence.harm_log_e((-margin - mean) / se, n, alpha=0.05, horizon=5000)
        alarms["asymptotic"] += bool((asymptotic[n >= 100] >= math.log(20)).any())
        capital = [
            BoundedClusters(n=k, value=m, squares=s - k * m * m, cubes=None, low=-1.0, high=1.0).log_e(
                -margin, above=False
            )
            for k, m, s in zip(n, mean, squares, strict=True)
        ]
        alarms["betting"] += max(capital) >= math.log(20)
    assert alarms["betting"] / 200 <= 0.05
    assert alarms["asymptotic"] / 200 > 0.2


def without_interval(estimate: Estimate, *_: object, **__: object) -> Estimate:
    return estimate


def arms_called(
    candidate: float, control: float, units: tuple[int, int], *, margin: float
) -> dict[str, float]:
    """How often a score of 0 or 1, of which the two arms lose these shares, is called better, at 2.5 %, and
    not worse by the margin, at 5 %: as it is, and by Welch's t."""
    goal = Goal(metric=metric("score:judge"), role="guardrail", margin=margin)
    spec = AnalysisSpec(experiment="e", mode="ab", unit="user", goals=(goal,))
    rng, found, runs = (
        np.random.default_rng(23),
        dict.fromkeys(("better", "safe", "t better", "t safe"), 0),
        400,
    )
    for _ in range(runs):
        arms = []
        for arm, share, n in (("candidate", candidate, units[0]), ("control", control, units[1])):
            y = float(n - rng.binomial(n, share))
            arms.append(
                MetricSums(
                    metric=goal.metric.name,
                    phase=1,
                    arm=arm,
                    units=n,
                    exchanges=n,
                    missing=0,
                    y=y,
                    m=float(n),
                    yy=y,
                    mm=float(n),
                    ym=y,
                )
            )
        evidence = Evidence(experiment="e", as_of_ns=0, started_ns=0, sums=tuple(arms))
        with patch(
            "experiments.verdict.comparison.arms_interval", without_interval
        ):  # nine tenths of the time
            one = compare(spec, evidence, goal, harm_alpha=0.01)
        found["better"] += (one.z_better or 0.0) > quantile(0.975)
        found["safe"] += (one.z_noninferior or 0.0) > quantile(0.95)
        clusters = [Cluster(n=a.units, y=a.y, m=a.m, yy=a.yy, mm=a.mm, ym=a.ym) for a in arms]
        layer = strata.MeanStratum(candidate=clusters[0], control=clusters[1])
        for name, factor, level in (("t better", 1.0, 0.975), ("t safe", 1.0 - margin, 0.95)):
            z = signed_z(strata.mean_contrast([layer], control_factor=factor), 1.0)
            found[name] += z is not None and z > quantile(level)
    return {name: count / runs for name, count in found.items()}


@pytest.mark.parametrize("units", [(50, 50), (30, 3000), (300, 30_000)])
@pytest.mark.parametrize("lost", [0.0, 0.02])
def test_a_score_that_few_units_on_an_arm_happen_not_to_lose_is_called_neither_better_nor_safe(
    units: tuple[int, int], lost: float
) -> None:
    worse = arms_called(1.0 - (1.0 - lost) * 0.9, lost, units, margin=0.1)
    assert worse["safe"] <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    same = arms_called(lost, lost, units, margin=0.1)
    assert same["better"] <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / 300)


def test_by_welchs_t_it_is_and_where_units_are_many_nothing_is_lost() -> None:
    assert arms_called(0.118, 0.02, (50, 5000), margin=0.1)["t safe"] > 0.09
    assert arms_called(0.02, 0.02, (50, 5000), margin=0.1)["t better"] > 0.3
    many = arms_called(0.02, 0.02, (300, 30_000), margin=0.05)
    assert many["safe"] > many["t safe"] - 0.02
    few = arms_called(0.02, 0.02, (100, 100), margin=0.05)
    assert few["safe"] > few["t safe"] - 0.1
