"""What do thirty labels make of a judge that leans? False passes, false fails, and where the truth lies.

    python -m bench.judge_labels [--comparisons 400] [--seed 1] [--design NAME]

Two versions whose answers are good or bad, a judge that is right nine times in ten and, one time in ten,
passes a bad answer of the candidate's besides, and a labeller who knows. The set tolerates a drop of 10
points. Three truths: no difference; a drop of exactly 10 points, at which a pass is false; a drop of 20.
Items that stand alone, in clusters of five, and where half of the answers are the same; 30 and 60 labels of
100 and 300 items. Bars: without labels nothing passes; with them the interval holds the truth in at least 94
% of the comparisons, and false passes and false fails are at most alpha (each within the simulation's own
error). Beside the verdict the passes of the judge's gate alone, which are the false ones that count. Prints a
table and one line of JSON; exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluators.comparison import Comparison, compare
from evaluators.deciding import Bar, decide, decide_all
from evaluators.estimates import Effect, PairedValue, paired_effect
from evaluators.golden import GoldenItem, GoldenSet
from evaluators.labels.cases import Case, Cases, Term
from evaluators.labels.correction import effect_of
from evaluators.labels.task import Task
from tests.evaluators.labelled import KEY, judged_run, judged_set

ALPHA = 0.05
#: That nothing passes without labels is a rule and no chance: so many comparisons show it.
WITHOUT = 2
MARGIN = 0.1
YAML = f"judge: {{model: examiner}}\nmargin: {MARGIN}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    name: str
    cluster: int = 1
    same: float = 0.0  # share of items with the same answer from both


DESIGNS = (
    Design(name="single"),
    Design(name="half the same", same=0.5),
    Design(name="clusters of 5", cluster=5),
)
SIZES = ((100, 30), (300, 30), (300, 60))
#: The difference of the shares of good answers, and of items on which the versions differ.
TRUTHS = ((0.0, 0.2), (-MARGIN, 0.3), (-2 * MARGIN, 0.4))


def draw(
    rng: np.random.Generator, n: int, design: Design, truth: float, discordant: float
) -> list[np.ndarray]:
    """Whether each answer is good: control's, candidate's; and where both say the same. What a cluster has in
    common is one item in two; over all items the difference is `truth` on average."""
    groups = np.arange(n) // design.cluster
    common = rng.random(groups[-1] + 1)[groups]
    u = np.where(rng.random(n) < 0.5, common, rng.random(n)) if design.cluster > 1 else rng.random(n)
    same = rng.random(n) < design.same
    open_ = 1.0 - design.same
    lost = (discordant - truth) / 2 / open_
    gained = (discordant + truth) / 2 / open_
    base = rng.random(n) < 0.8
    control = np.where(~same & (u < lost), True, np.where(~same & (u < lost + gained), False, base))
    candidate = np.where(~same & (u < lost), False, np.where(~same & (u < lost + gained), True, base))
    return [control, candidate, same]


def judged(rng: np.random.Generator, good: np.ndarray, lean: float) -> list[str | None]:
    said = np.where(rng.random(len(good)) < 0.9, good, ~good) | (rng.random(len(good)) < lean)
    return ["pass" if one else "fail" for one in said]


def said(good: np.ndarray, same: np.ndarray, word: str) -> list[str]:
    return [
        f"{'good' if right else 'bad'} {'a' if alike else word}"
        for right, alike in zip(good, same, strict=True)
    ]


def without_labels(
    rng: np.random.Generator, golden: GoldenSet, design: Design, truth: float, discordant: float
) -> Comparison:
    """A whole comparison, of which nobody has labelled anything."""
    control, candidate, same = draw(rng, len(golden.items), design, truth, discordant)
    arms = enumerate(zip((control, candidate), ("a", "b"), (0.0, 0.1), strict=True), start=1)
    runs = [
        judged_run(golden, said(good, same, word), judged(rng, good, lean), version=version)
        for version, (good, word, lean) in arms
    ]
    return compare(golden, *runs)


def term_of(item: GoldenItem) -> Term:
    """What stands for an item's two answers before people, who are asked for the difference at once."""
    return Term(task=Task(item=item, check=item.checks[-1], answers=()), factor=1.0)


def with_labels(
    rng: np.random.Generator, golden: GoldenSet, design: Design, truth: float, discordant: float, labels: int
) -> Effect:
    """What labels make of the judge's difference in such a comparison."""
    control, candidate, same = draw(rng, len(golden.items), design, truth, discordant)
    told = zip(judged(rng, control, 0.0), judged(rng, candidate, 0.1), strict=True)
    cases = Cases(
        evaluator=KEY,
        seed=rng.bytes(16).hex(),
        cases=tuple(
            Case(item=item, judged=0.0)
            if alike
            else Case(item=item, judged=float((after == "pass") - (before == "pass")), terms=(term_of(item),))
            for item, alike, (before, after) in zip(golden.items, same, told, strict=True)
        ),
        missing=(),
    )
    sample = cases.drawn(labels)
    truths = dict(zip((item.id for item in golden.items), candidate.astype(float) - control, strict=True))
    effect = effect_of(cases.cases, sample, [truths[case.item.id] for case in sample], alpha=ALPHA)
    assert effect is not None
    return effect


def measure(
    rng: np.random.Generator, design: Design, n: int, labels: int, truth: float, discordant: float, times: int
) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        cluster = {} if design.cluster == 1 else {"cluster_id": lambda k: f"c{k // design.cluster}"}
        golden = judged_set(Path(folder), n, YAML, **cluster)
    counts: Counter[str] = Counter()
    for _ in range(WITHOUT):
        found = without_labels(rng, golden, design, truth, discordant)
        counts["passed without labels"] += found.verdict == "pass"
    items = [PairedValue(control=1.0, candidate=1.0, cluster=item.cluster) for item in golden.items]
    in_code = paired_effect(items, alpha=ALPHA)  # of the check in code, which every answer passes
    for _ in range(times):
        effect = with_labels(rng, golden, design, truth, discordant, labels)
        verdict = decide_all([Bar(effect=one, margin=MARGIN) for one in (in_code, effect)], ALPHA)
        counts["covered"] += effect.lower <= truth <= effect.upper
        counts["width"] += round(1000 * (effect.upper - effect.lower))
        counts[verdict] += 1
        counts["judge alone"] += decide(effect, MARGIN) == "pass"
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--comparisons", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--design", choices=[design.name for design in DESIGNS], help="this one alone")
    arguments = parser.parse_args()
    rng, times = np.random.default_rng(arguments.seed), arguments.comparisons
    slack, slack_level = (1.645 * math.sqrt(p * (1 - p) / times) for p in (ALPHA, 0.94))
    print(f"{'design':<14} items labels  truth  covered  width    pass   fail  inconclusive  judge passes")
    worst = {"covered": 1.0, "false pass": 0.0, "false fail": 0.0, "passed without labels": 0.0}
    for design in (one for one in DESIGNS if arguments.design in (None, one.name)):
        for n, labels in SIZES:
            for truth, discordant in TRUTHS:
                found = measure(rng, design, n, labels, truth, discordant, times)
                shares = {name: count / times for name, count in found.items()}
                print(
                    f"{design.name:<14} {n:>5} {labels:>6} {100 * truth:>+6.0f} "
                    f"{shares['covered']:>8.1%} "
                    f"{shares['width'] / 10:>6.1f} {shares.get('pass', 0):>7.1%} "
                    f"{shares.get('fail', 0):>6.1%} "
                    f"{shares.get('inconclusive', 0):>13.1%} {shares.get('judge alone', 0):>13.1%}",
                    flush=True,
                )
                name = "false pass" if truth < 0 else "false fail"
                worst[name] = max(worst[name], shares.get("judge alone" if truth < 0 else "fail", 0.0))
                worst["covered"] = min(worst["covered"], shares["covered"])
                worst["passed without labels"] += found["passed without labels"]
    ok = worst["covered"] >= 0.94 - slack_level and not worst["passed without labels"]
    ok = ok and max(worst["false pass"], worst["false fail"]) <= ALPHA + slack
    print(json.dumps({"comparisons": times, **worst, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
