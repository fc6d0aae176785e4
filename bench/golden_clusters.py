"""How often does the interval of items in clusters hold the truth, few and uneven and alike as clusters are?

    python -m bench.golden_clusters [--comparisons 1000] [--seed 1]

The effect of `evaluators.estimates` on yes-or-no items in clusters: 6 to 40 clusters of five, of one to ten
items, and with one that has a third of all; whose items differ independently, half of them as one, or all as
one; no difference, and drops of 10 and 20 points. Beside it the cluster-robust t without pseudo-clusters
(F17). Bar: at least 94 % within the simulation's own error for clusters of one size whose items are not all
as one; uneven ones, and those, are shown. Prints a table and one line of JSON; exit code 1 if the bar is
missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence

import numpy as np

from evaluators.estimates import PairedValue, paired_effect
from experiments.statistics.paired import clustered_difference, paired_sums

_UNEVEN = (1, 1, 2, 3, 5, 8, 10, 10)
#: name, sizes of the clusters
DESIGNS = (
    *((f"{n} of five", (5,) * n) for n in (6, 10, 20, 40)),
    *((f"{n} uneven", (_UNEVEN * 4)[:n]) for n in (8, 16, 32)),
    *((f"{n}, one large", (3 * n // 2, *(3,) * (n - 1))) for n in (10, 20)),
)
#: The difference of the shares of passed items, and of items on which the versions differ.
TRUTHS = ((0.0, 0.05), (0.0, 0.2), (-0.1, 0.15), (-0.1, 0.3), (-0.2, 0.4))


def draw(
    rng: np.random.Generator, sizes: Sequence[int], truth: float, differing: float, common: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each item's cluster, and candidate less control: -1, 0 or 1. An item does as its cluster with the
    probability `common`, else as it likes."""
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    shared = rng.random(len(sizes))[cluster]
    u = np.where(rng.random(len(cluster)) < common, shared, rng.random(len(cluster)))
    lost, gained = (differing - truth) / 2, (differing + truth) / 2
    return cluster, np.where(u < lost, -1.0, np.where(u < lost + gained, 1.0, 0.0))


def measure(
    rng: np.random.Generator, sizes: Sequence[int], truth: float, differing: float, common: float, times: int
) -> tuple[float, float, float, float]:
    """Shares of intervals that hold the truth, and their mean widths: ours and the plain one's."""
    found = np.zeros(4)
    for _ in range(times):
        cluster, d = draw(rng, sizes, truth, differing, common)
        effect = paired_effect(
            [
                PairedValue(control=max(0.0, -one), candidate=max(0.0, one), cluster=f"c{at}")
                for at, one in zip(cluster.tolist(), d.tolist(), strict=True)
            ],
            alpha=0.05,
        )
        plain = clustered_difference(paired_sums(d.tolist(), cluster.tolist())).interval
        assert effect is not None
        lower, upper = (0.0, 0.0) if plain is None else (plain.lower, plain.upper)
        found += (
            effect.lower <= truth <= effect.upper, effect.upper - effect.lower,
            lower <= truth <= upper, upper - lower,
        )  # fmt: skip
    ours, width, theirs, plain_width = (found / times).tolist()
    return ours, width, theirs, plain_width


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, times = np.random.default_rng(arguments.seed), arguments.comparisons
    print("clusters        as one  truth  differing  covered  width   without pseudo-clusters")
    worst = {"covered": 1.0, "covered_plain": 1.0, "covered_hard": 1.0, "covered_hard_plain": 1.0}
    for name, sizes in DESIGNS:
        for common in (0.0, 0.5, 1.0):
            for truth, differing in TRUTHS:
                ours, width, theirs, plain = measure(rng, sizes, truth, differing, common, times)
                kind = "covered" if common < 1.0 and "of five" in name else "covered_hard"
                worst[kind] = min(worst[kind], ours)
                worst[f"{kind}_plain"] = min(worst[f"{kind}_plain"], theirs)
                print(
                    f"{name:<15} {common:>6.1f} {100 * truth:>+6.0f} {differing:>9.0%} {ours:>9.1%} "
                    f"{100 * width:>6.1f} {theirs:>10.1%} {100 * plain:>6.1f}",
                    flush=True,
                )
    ok = worst["covered"] >= 0.94 - 1.645 * math.sqrt(0.94 * 0.06 / times)
    print(json.dumps({"comparisons": times, **worst, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
