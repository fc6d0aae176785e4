"""How often does a golden comparison pass a candidate that is worse by just the margin, and one that is not?

    python -m bench.golden_margin [--comparisons 2000] [--seed 1] [--items 20 40 80 200 500]

The effect of `evaluators.estimates` on 20 to 500 items, at margins of 5 and 10 points, for differences of
many shapes: some items lost whole and the others the same, or varying a little; yes or no, won and lost;
judged 0, ½, 1; grades of five steps; many small losses and rare large gains; three repeats an item; in
clusters whose items are lost apart, half as one, or as one. Shares that pass where the truth is the margin
(nominal alpha / 2), half of it, and none; beside it what Bonett and Price's interval, and the paired t with
one pseudo-item of each direction, would have passed. Bar: at the margin at most alpha / 2 and one point,
within the simulation's own error. Prints a table and one line of JSON; exit code 1 if the bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from evaluators.estimates import PairedValue, clustered
from experiments.statistics.estimate import quantile
from experiments.statistics.paired import PairTable, bonett_price, clustered_difference, paired_sums

ALPHA = 0.05
MARGINS = (0.05, 0.1)
ITEMS = (20, 40, 80, 200, 500)

Draws = npt.NDArray[np.float64]
#: n items' differences whose mean is as much below zero as is asked for.
Shape = Callable[[np.random.Generator, int, float], Draws]


def levels(*worth: float, base: Sequence[float], lose: float) -> Shape:
    """Differences worth so much with the probabilities `base`; the drop is made by moving items from "the
    same" to the level `lose`, as many as that takes."""
    same = worth.index(0.0)

    def draw(rng: np.random.Generator, n: int, drop: float) -> Draws:
        p = np.array(base)
        moved = (drop + float(np.dot(worth, p))) / -lose
        p[worth.index(lose)] += moved
        p[same] -= moved
        return np.asarray(rng.choice(worth, n, p=p), np.float64)

    return draw


def repeated(rng: np.random.Generator, n: int, drop: float) -> Draws:
    """Three answers an item; an item's chance is beta, and the candidate's a part of control's."""
    chance = rng.beta(4.0, 1.0, n)
    control, candidate = rng.binomial(3, chance), rng.binomial(3, chance * (1.0 - drop / 0.8))
    return np.asarray((candidate - control) / 3.0, np.float64)


SHAPES: dict[str, Shape] = {
    "some lost whole, the rest the same": levels(-1.0, 0.0, base=(0.0, 1.0), lose=-1.0),
    "some lost whole, the rest vary a little": levels(
        -1.0, -0.25, 0.0, 0.25, base=(0.0, 0.2, 0.6, 0.2), lose=-1.0
    ),
    "yes or no, a tenth won or lost": levels(-1.0, 0.0, 1.0, base=(0.025, 0.95, 0.025), lose=-1.0),
    "yes or no, a third won or lost": levels(-1.0, 0.0, 1.0, base=(0.14, 0.72, 0.14), lose=-1.0),
    "judged 0, ½, 1": levels(-1.0, -0.5, 0.0, 0.5, 1.0, base=(0.03, 0.1, 0.74, 0.1, 0.03), lose=-0.5),
    "graded 1 to 5": levels(
        *(-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75),
        base=(0.01, 0.05, 0.12, 0.64, 0.12, 0.05, 0.01),
        lose=-0.25,
    ),
    "many small losses, rare large gains": levels(
        -0.25, 0.0, 1.0, base=(0.12, 0.85, 0.03), lose=-0.25
    ),
    "three repeats an item": repeated,
}  # fmt: skip
#: name, items in a cluster, the share of its items that do as the cluster.
CLUSTERS = (("apart", 5, 0.0), ("half as one", 5, 0.5), ("as one", 5, 1.0), ("as one", 3, 1.0))


def in_clusters(size: int, common: float, differing: float) -> Shape:
    """Yes-or-no items, `differing` of them and the drop won or lost, each as its cluster or as it likes."""

    def draw(rng: np.random.Generator, n: int, drop: float) -> Draws:
        u, shared = rng.random(n), np.repeat(rng.random(n // size + 1), size)[:n]
        u = np.where(rng.random(n) < common, shared, u)
        lost, gained = drop + differing / 2.0, differing / 2.0
        return np.where(u < lost, -1.0, np.where(u < lost + gained, 1.0, 0.0))

    return draw


def ours(found: Draws, size: int, margin: float) -> bool:
    """Whether the comparison would pass."""
    values = [
        PairedValue(control=max(0.0, -d), candidate=max(0.0, d), cluster=f"{at // size}")
        for at, d in enumerate(found.tolist())
    ]
    bounded = clustered(values)
    return bounded is not None and bounded.z(-margin) > quantile(1.0 - ALPHA / 2.0)


def other(found: Draws, size: int, margin: float) -> bool:
    """Whether it would by Bonett and Price, or by the t with pseudo-items."""
    yes_or_no = size == 1 and set(np.abs(found).tolist()) <= {0.0, 1.0}
    if yes_or_no:
        up, down = int((found > 0.0).sum()), int((found < 0.0).sum())
        table = PairTable(both=len(found) - up - down, control_only=down, candidate_only=up, neither=0)
        told = bonett_price(table, alpha=ALPHA).interval
    else:
        clusters = [*(at // size for at in range(len(found))), -1, -2]
        told = clustered_difference(paired_sums([*found.tolist(), 1.0, -1.0], clusters), alpha=ALPHA).interval
    return told is not None and told.lower > -margin


def cells(items: Sequence[int]) -> Iterator[tuple[str, Shape, int, int]]:
    """Name, shape, items, items in a cluster."""
    for n in items:
        for name, shape in SHAPES.items():
            yield name, shape, n, 1
        for kind, size, common in CLUSTERS:
            for differing in (0.0, 0.05):
                rest = "the rest the same" if not differing else "a few won"
                name = f"clusters of {size}, {kind}, {rest}"
                yield name, in_clusters(size, common, differing), n * size, size


def passed(
    rng: np.random.Generator, shape: Shape, n: int, size: int, drop: float, margin: float, times: int
) -> tuple[float, float]:
    """The shares that pass, ours and the others'. Which item is which says nothing, so that what came out in
    another order is not reckoned anew."""
    count, known = np.zeros(2), dict[bytes, tuple[bool, bool]]()
    for _ in range(times):
        found = np.sort(shape(rng, n, drop).reshape(-1, size), axis=1)
        found = found[np.lexsort(found.T)].ravel()
        key = found.tobytes()
        if key not in known:
            known[key] = ours(found, size, margin), other(found, size, margin)
        count += known[key]
    share = count / times
    return float(share[0]), float(share[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--comparisons", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--items", type=int, nargs="+", default=list(ITEMS), help="items, or clusters")
    arguments = parser.parse_args()
    rng, times = np.random.default_rng(arguments.seed), arguments.comparisons
    print("items margin  passed at the margin, half of it, no difference; in brackets the others'")
    worst = {"ours": 0.0, "others": 0.0}
    for name, shape, n, size in cells(arguments.items):
        for margin in MARGINS:
            shares = [
                passed(rng, shape, n, size, drop, margin, times) for drop in (margin, margin / 2.0, 0.0)
            ]
            told = "  ".join(f"{one:>6.1%} ({two:>6.1%})" for one, two in shares)
            print(f"{n:>5} {margin:>6.0%}  {told}  {name}", flush=True)
            worst = {key: max(worst[key], share) for key, share in zip(worst, shares[0], strict=True)}
    bar = ALPHA / 2.0 + 0.01
    ok = worst["ours"] <= bar + 2.0 * math.sqrt(bar * (1.0 - bar) / times)
    print(json.dumps({"comparisons": times, **worst, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
