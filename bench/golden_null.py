"""How often does a golden comparison fail a version that is no worse, and does its interval hold the truth?

    python -m bench.golden_null [--comparisons 500] [--seed 1]

Two versions that answer each item rightly with the same probability, drawn anew for every comparison: single
answers, five repeats, items in clusters of five, graded scores, and two gates at once; 30, 50 and 200 items.
Bars: false failures at most alpha (within the simulation's own error), coverage of the interval at least 94 %
(likewise), and, with 5 % of the answers missing, inconclusive whenever the worst and the best that they could
have been lead to different verdicts. Prints a table and one line of JSON; exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.comparison import Comparison, compare
from evaluators.golden import Check, GoldenItem, GoldenSet, MetricPolicy, Policy
from evaluators.results import ResultRow
from evaluators.scorers import Options
from evaluators.summary import RunResults

ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    name: str
    repeats: int = 1
    cluster: int = 1
    graded: bool = False
    gates: int = 1


DESIGNS = (
    Design(name="single"),
    Design(name="repeats", repeats=5),
    Design(name="clusters", cluster=5),
    Design(name="graded", graded=True),
    Design(name="two gates", gates=2),
)


def make_set(n: int, design: Design) -> GoldenSet:
    checks = tuple(
        Check(key=f"c{k}", type="exact", version="1", options=Options()) for k in range(design.gates)
    )
    items = tuple(
        GoldenItem(
            id=f"q{k}", hash=f"h{k}", messages=(), checks=checks,
            cluster_id=f"c{k // design.cluster}" if design.cluster > 1 else None,
        )
        for k in range(n)
    )  # fmt: skip
    metrics = {} if design.gates == 1 else {check.key: MetricPolicy(margin=0.05) for check in checks}
    item_score = "mean" if design.graded else "all"
    policy = Policy(alpha=ALPHA, coverage_floor=0.9, metrics=metrics, item_score=item_score)
    return GoldenSet(name="null", hash="golden@null", items=items, policy=policy)


def results(golden: GoldenSet, version: int, values: np.ndarray) -> RunResults:
    """A run; `values` of shape (items, repeats, checks), NaN where an answer has no score."""
    rows = [
        ResultRow(
            item_id=item.id, item_hash=item.hash, repeat=repeat,
            evaluator=check.key, evaluator_version="exact@1",
            status="unscored" if math.isnan(value := float(values[k, repeat, c])) else "scored",
            value=None if math.isnan(value) else value,
            outcome="complete",
        )
        for k, item in enumerate(golden.items)
        for repeat in range(values.shape[1])
        for c, check in enumerate(item.checks)
    ]  # fmt: skip
    return RunResults.of(f"r{version}", version, golden.hash, values.shape[1], rows)


def draw(rng: np.random.Generator, n: int, design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Both versions' values: each item has its own chance, shared by its cluster, and the same in both."""
    groups = -(-n // design.cluster)
    chance = np.repeat(rng.beta(4.0, 0.7, groups), design.cluster)[:n]
    shape = (n, design.repeats, design.gates)
    p = np.broadcast_to(chance[:, None, None], shape)
    if design.graded:
        noise = rng.normal(0.0, 0.15, (2, *shape))
        return tuple(np.clip(p + part, 0.0, 1.0) for part in noise)  # type: ignore[return-value]
    return rng.binomial(1, p).astype(float), rng.binomial(1, p).astype(float)


def run(golden: GoldenSet, values: Sequence[np.ndarray]) -> Comparison:
    return compare(golden, results(golden, 1, values[0]), results(golden, 2, values[1]))


def measure(n: int, design: Design, comparisons: int, rng: np.random.Generator) -> dict[str, float]:
    golden = make_set(n, design)
    counts = dict.fromkeys(("fail", "pass", "inconclusive", "covered", "flips", "flips_inconclusive"), 0)
    for _ in range(comparisons):
        values = draw(rng, n, design)
        found = run(golden, values)
        counts[found.verdict] += 1
        effect = found.gate.effect
        counts["covered"] += effect is not None and effect.lower <= 0.0 <= effect.upper
        gone = [np.where(rng.random((n, design.repeats, 1)) < 0.025, np.nan, v) for v in values]
        worst = run(golden, [np.nan_to_num(gone[0], nan=1.0), np.nan_to_num(gone[1], nan=0.0)])
        best = run(golden, [np.nan_to_num(gone[0], nan=0.0), np.nan_to_num(gone[1], nan=1.0)])
        if worst.verdict != best.verdict:
            counts["flips"] += 1
            counts["flips_inconclusive"] += run(golden, gone).verdict == "inconclusive"
    shares = {name: count / comparisons for name, count in counts.items()}
    return {**shares, "flips": counts["flips"], "flips_inconclusive": counts["flips_inconclusive"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--comparisons", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--design", choices=[design.name for design in DESIGNS], help="this one alone")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    slack_alpha = 1.645 * math.sqrt(ALPHA * (1 - ALPHA) / arguments.comparisons)
    slack_level = 1.645 * math.sqrt(0.94 * 0.06 / arguments.comparisons)
    titles = ("false fail", "coverage", "pass", "inconclusive", "flips caught")
    print("design       n  " + "  ".join(f"{title:>12}" for title in titles))
    ok, worst = True, {"fail": 0.0, "covered": 1.0}
    for design in (one for one in DESIGNS if arguments.design in (None, one.name)):
        for n in (30, 50, 200):
            found = measure(n, design, arguments.comparisons, rng)
            shares = "  ".join(
                f"{found[name]:>12.1%}" for name in ("fail", "covered", "pass", "inconclusive")
            )
            flips = f"{found['flips_inconclusive']:.0f} of {found['flips']:.0f}"
            print(f"{design.name:<10} {n:>3}  {shares}  {flips:>12}")
            worst["fail"] = max(worst["fail"], found["fail"])
            worst["covered"] = min(worst["covered"], found["covered"])
            ok = ok and found["fail"] <= ALPHA + slack_alpha and found["covered"] >= 0.94 - slack_level
            ok = ok and found["flips_inconclusive"] == found["flips"]
    print(json.dumps({"comparisons": arguments.comparisons, **worst, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
