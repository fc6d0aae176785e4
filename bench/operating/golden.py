"""How often do the intervals for golden sets hold the truth? Coverage of paired intervals, table by table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.statistics import contingency, paired, paired_scores, proportion
from experiments.statistics.bounded import BoundedClusters
from experiments.statistics.estimate import Estimate, lacking
from experiments.statistics.paired import PairedSums, PairTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The share of replications whose interval held the truth, and the mean width of the intervals."""

    coverage: float
    width: float
    error: float


def _paired_t(table: PairTable, alpha: float) -> Estimate:
    d, discordant = table.candidate_only - table.control_only, table.candidate_only + table.control_only
    n = float(table.n)
    sums = PairedSums(clusters=table.n, d=d, m=n, dd=discordant, md=d, mm=n)
    return paired.clustered_difference(sums, alpha=alpha)


def _bounded(table: PairTable, alpha: float) -> Estimate:
    found = BoundedClusters.of(table.sums, low=-1.0, high=1.0)
    return lacking("no_data", "paired-bounded") if found is None else found.estimate(alpha=alpha)


def _intervals(table: PairTable, alpha: float) -> dict[str, Estimate]:
    one, zero = table.both + table.candidate_only, table.both + table.control_only
    return {
        "wald": paired_scores.wald(table, alpha=alpha),
        "paired_t": _paired_t(table, alpha),
        "bounded": _bounded(table, alpha),
        "bonett_price": paired.bonett_price(table, alpha=alpha),
        "newcombe_paired": paired.newcombe_paired(table, alpha=alpha),
        "may_johnson": paired_scores.may_johnson(table, alpha=alpha),
        "tango_corrected": paired_scores.tango(table, alpha=alpha, continuity=0.125),
        "unpaired_newcombe": proportion.newcombe((one, table.n), (zero, table.n), alpha=alpha),
    }


def paired_coverage(
    n: int,
    *,
    both: float,
    only_control: float,
    only_candidate: float,
    replications: int = 40_000,
    alpha: float = 0.05,
    seed: int = 2,
) -> dict[str, Coverage]:
    """Coverage and width for tables of n pairs with these cell probabilities; equal tables are counted once.

    A method without an interval for a table has one of no width at its estimate.
    """
    rng = np.random.default_rng(seed)
    cells = [both, only_control, only_candidate, 1.0 - both - only_control - only_candidate]
    drawn, weight = np.unique(rng.multinomial(n, cells, replications), axis=0, return_counts=True)
    truth = only_candidate - only_control
    held: dict[str, float] = {}
    wide: dict[str, float] = {}
    for row, count in zip(drawn.tolist(), weight.tolist(), strict=True):
        table = PairTable(both=row[0], control_only=row[1], candidate_only=row[2], neither=row[3])
        for name, found in _intervals(table, alpha).items():
            ends = found.interval
            value = found.value or 0.0
            lower, upper = (value, value) if ends is None else (ends.lower, ends.upper)
            held[name] = held.get(name, 0.0) + count * (lower <= truth <= upper)
            wide[name] = wide.get(name, 0.0) + count * (upper - lower)
    return {
        name: Coverage(
            coverage=held[name] / replications,
            width=wide[name] / replications,
            error=float(np.sqrt(held[name] / replications * (1 - held[name] / replications) / replications)),
        )
        for name in held
    }


def one_share_coverage(share: float, n: int, *, alpha: float = 0.05) -> dict[str, float]:
    """Exact coverage of intervals for one share: every count, weighted by its probability."""
    from scipy import stats

    counts = np.arange(n + 1)
    weight = stats.binom.pmf(counts, n, share)
    found = {"wald": 0.0, "wilson": 0.0, "clopper_pearson": 0.0}
    for count, w in zip(counts.tolist(), weight.tolist(), strict=True):
        plain = contingency.wald_share(count, n, alpha=alpha)
        found["wald"] += w * (plain is not None and share in plain)
        found["wilson"] += w * (share in proportion.wilson(count, n, alpha=alpha))
        found["clopper_pearson"] += w * (share in proportion.clopper_pearson(count, n, alpha=alpha))
    return found
