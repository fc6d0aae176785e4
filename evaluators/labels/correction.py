"""By how much do two versions differ by a judge's check, once people's labels hold the judge to account?

Chooses the method and calls `experiments.statistics`; no formula lives here.

- all open items labelled: the judge is not needed; the effect is the people's (`evaluators.estimates`);
- a random sample of them: prediction-powered inference over clusters. Two pseudo-clusters, one of each
  direction and as large as a labelled one is on average, stand in for what a small sample has not shown:
  without them thirty labels cover a drop of 5 points in 86 of 100 cases, with them in 99
  (bench/judge_labels.py). It is no surer than the binomial bound on the labelled clusters
  (`statistics.bounded`): a rare loss that neither judge nor people have met may be there all the same.

The judge's own difference is never the effect. Without a whole sample there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from evaluators.estimates import Effect, PairedValue, paired_effect
from evaluators.labels.agreement import Agreement, among, with_judge
from evaluators.labels.cases import Case, Cases
from evaluators.labels.draw import Draw, level
from evaluators.labels.label import People
from experiments.statistics.bounded import BoundedClusters
from experiments.statistics.estimate import Estimate, Interval
from experiments.statistics.paired import cluster_sums
from experiments.statistics.prediction_powered import ClusterSums, clustered_mean

_DIRECTIONS: Final = (1.0, -1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What people's labels make of one judge's check.

    Of its `items` with answers in both runs, `open` need a label for their difference to be known. By the
    last of the `declarations` the `drawn` ones are to be labelled, and `needed` at least; `labelled` are, of
    which `undecided` ones got no grade. `effect` is there once the sample is whole; `worst` and `best` are
    the same with all that is undecided, or `missing` an answer, at its worst and best for the candidate.
    """

    evaluator: str
    judges: tuple[str, ...]
    items: int
    open: int
    needed: int
    declarations: int
    drawn: int
    labelled: int
    undecided: int
    missing: int
    labellers: tuple[str, ...]
    effect: Effect | None
    worst: Effect | None
    best: Effect | None
    agreement: Agreement | None
    among: tuple[Agreement, ...]

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        effects = {name: None if (found := fields[name]) is None else found.to_json() for name in _EFFECTS}
        return {
            **fields,
            **effects,
            "judges": list(self.judges),
            "labellers": list(self.labellers),
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "among": [one.to_json() for one in self.among],
        }


_EFFECTS: Final = ("effect", "worst", "best")


def sample_of(cases: Cases, draws: Sequence[Draw]) -> list[Case]:
    """The sample that is in force, in the order of the draw; empty without a draw."""
    return cases.drawn(draws[-1].size) if draws else []


def correction(cases: Cases, people: People, *, alpha: float) -> Correction:
    """The correction of one check."""
    draws = people.draws_of(cases.evaluator, cases.seed)
    sample = sample_of(cases, draws)
    terms = [term for case in sample for term in case.terms]
    known = [ends for case in sample if (ends := case.ends(people)) is not None]
    effects: dict[str, Effect | None] = dict.fromkeys(_EFFECTS)
    if cases.cases and len(known) == len(sample) >= cases.needed:
        effects = _effects(cases, sample, known, alpha=level(alpha, len(draws)))
    return Correction(
        evaluator=cases.evaluator,
        judges=cases.judges,
        items=len(cases.cases),
        open=len(cases.open),
        needed=cases.needed,
        declarations=len(draws),
        drawn=len(sample),
        labelled=len(known),
        undecided=sum(low < high for low, high in known),
        missing=len(cases.missing),
        labellers=tuple(sorted({name for term in terms for name in people.said.get(term.task.hash, ())})),
        agreement=with_judge(terms, people, ", ".join(cases.judges) or "judge"),
        among=among(terms, people),
        **effects,
    )


def _effects(
    cases: Cases, sample: Sequence[Case], known: Sequence[tuple[float, float]], *, alpha: float
) -> dict[str, Effect | None]:
    """With what is undecided in the middle of what it can be, and with it and what is missing at both
    ends."""

    def effect(truths: Sequence[float]) -> Effect | None:
        return effect_of(cases.cases, sample, truths, alpha=alpha)

    return {
        "effect": effect([(low + high) / 2 for low, high in known]),
        "worst": _shifted(effect([low for low, _ in known]), cases, -1.0),
        "best": _shifted(effect([high for _, high in known]), cases, 1.0),
    }


def effect_of(
    cases: Sequence[Case], sample: Sequence[Case], truths: Sequence[float], *, alpha: float
) -> Effect | None:
    """The effect over all cases, if people found these `truths` of the sampled ones; None where it says too
    little."""
    known = {case.item.id: truth for case, truth in zip(sample, truths, strict=True)}
    known |= {case.item.id: case.offset for case in cases if not case.terms}
    if len(known) == len(cases):
        return paired_effect([_value(case, known[case.item.id]) for case in cases], alpha=alpha)
    clusters = _clusters(cases, known)
    labelled = [one.m for one in clusters if one.m > 0.0]
    size = math.fsum(labelled) / len(labelled)
    guards = [ClusterSums(m=size, y=size * direction) for direction in _DIRECTIONS]
    found, plain = clustered_mean([*clusters, *guards], alpha=alpha), clustered_mean(clusters, alpha=alpha)
    if found.interval is None or plain.value is None:
        return None
    unseen = _unseen(clusters, plain, alpha=alpha) or found.interval
    return Effect(
        estimate=plain.value,
        lower=max(-1.0, min(found.interval.lower, unseen.lower)),
        upper=min(1.0, max(found.interval.upper, unseen.upper)),
        level=found.interval.level,
        method=f"{found.method}-adjusted",
        method_version=found.version,
        p_value=found.p,
    )


def _unseen(clusters: Sequence[ClusterSums], plain: Estimate, *, alpha: float) -> Interval | None:
    """The interval of `plain`, were its labelled clusters as skewed as people found them and as they may be
    besides; None of fewer than two."""
    labelled = cluster_sums([[(one.m, one.y / one.m)] for one in clusters if one.m > 0.0])
    told = BoundedClusters.of(labelled, low=-1.0, high=1.0)
    if told is None or plain.value is None:
        return None
    open_ = math.fsum(one.m + one.rest_m for one in clusters)
    whole = open_ + math.fsum(one.known_m for one in clusters)
    share, known = open_ / whole, math.fsum(one.known_y for one in clusters) / whole
    bounded = BoundedClusters(
        n=told.n,
        value=min(known + share, max(known - share, plain.value)),
        squares=(plain.se or 0.0) ** 2 * told.n * max(0.0, told.n - 1.0),
        cubes=None if told.cubes is None else told.cubes * share**3,
        low=known - share,
        high=known + share,
    )
    return bounded.estimate(alpha=alpha).interval


def _clusters(cases: Sequence[Case], known: dict[str, float]) -> list[ClusterSums]:
    found: dict[str, ClusterSums] = {}
    for case in cases:
        sums, weight = found.get(case.item.cluster, ClusterSums()), case.item.weight
        if not case.terms:
            sums = replace(sums, known_m=sums.known_m + weight, known_y=sums.known_y + weight * case.offset)
        elif case.item.id in known:
            sums = replace(
                sums,
                m=sums.m + weight,
                y=sums.y + weight * known[case.item.id],
                f=sums.f + weight * case.judged,
            )
        else:
            sums = replace(sums, rest_m=sums.rest_m + weight, rest_f=sums.rest_f + weight * case.judged)
        found[case.item.cluster] = sums
    return list(found.values())


def _value(case: Case, difference: float) -> PairedValue:
    return PairedValue(
        control=max(0.0, -difference),
        candidate=max(0.0, difference),
        cluster=case.item.cluster,
        weight=case.item.weight,
    )


def _shifted(effect: Effect | None, cases: Cases, difference: float) -> Effect | None:
    """The effect over all items, if each of those that are missing differed by so much. The p-value stays:
    that of an effect beyond zero is at most as large, and a verdict needs the interval too."""
    if effect is None or not cases.missing:
        return effect
    there, gone = math.fsum(case.item.weight for case in cases.cases), math.fsum(cases.missing)
    share, shift = there / (there + gone), difference * gone / (there + gone)
    return replace(
        effect,
        estimate=share * effect.estimate + shift,
        lower=share * effect.lower + shift,
        upper=share * effect.upper + shift,
    )
