"""By how much do two versions differ on paired items, and how surely?

Chooses the method and calls `experiments.statistics`; no formula lives here. Scores lie in [0, 1], so that
a difference has limits, and the interval is the one that a shadow's scores have (`statistics.bounded`): what
was not seen to be lost may be lost all the same. Clusters are what is counted; one counts as several as far
as its items were seen to differ apart from each other. That it is worse is told by McNemar's mid-p where
scores are yes or no, one answer an item, every item on its own.

How often the interval holds the truth, and how often what is worse by the margin passes, is simulated by
`python -m bench.golden_clusters` and `python -m bench.golden_margin`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.statistics.bounded import BoundedClusters
from experiments.statistics.estimate import Estimate
from experiments.statistics.paired import (
    Cluster,
    PairTable,
    cluster_sums,
    independent_parts,
    mcnemar_mid_p,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedValue:
    """One item's scores in both versions, each in [0, 1], and the cluster it belongs to."""

    control: float
    candidate: float
    cluster: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Candidate minus control, with its interval at `level`. `p_value` is two-sided. `clusters`: what it was
    had from, if from nothing else."""

    estimate: float
    lower: float
    upper: float
    level: float
    method: str
    method_version: str
    p_value: float | None
    clusters: BoundedClusters | None = field(default=None, compare=False)

    @property
    def significant(self) -> bool:
        """Whether the test rejects equality at the level of the interval."""
        return self.p_value is not None and self.p_value < 1.0 - self.level

    def to_json(self) -> dict[str, Any]:
        names = ("estimate", "lower", "upper", "level", "method", "method_version")
        return {name: getattr(self, name) for name in names}


def paired_effect(values: Sequence[PairedValue], *, alpha: float) -> Effect | None:
    """The effect over items, or None without any."""
    if not values:
        return None
    bounded = clustered(values)
    if bounded is None:  # one cluster says nothing of another
        return _alone(_clusters(values)[0], alpha)
    found = bounded.estimate(alpha=alpha)
    return _effect(found, mcnemar_mid_p(_table(values)) if _is_plain(values) else found.p, bounded)


def _alone(cluster: Cluster, alpha: float) -> Effect:
    return Effect(
        estimate=math.fsum(weight * d for weight, d in cluster) / math.fsum(weight for weight, _ in cluster),
        lower=-1.0,
        upper=1.0,
        level=1.0 - alpha,
        method="one-cluster",
        method_version="1",
        p_value=None,
    )


def clustered(values: Sequence[PairedValue]) -> BoundedClusters | None:
    """The clusters of items as what their effect is had from; None of a single one."""
    clusters = _clusters(values)
    return BoundedClusters.of(cluster_sums(clusters), low=-1.0, high=1.0, parts=independent_parts(clusters))


def _clusters(values: Sequence[PairedValue]) -> list[Cluster]:
    mean_weight = math.fsum(value.weight for value in values) / len(values)
    by_cluster: dict[str, list[tuple[float, float]]] = {}
    for value in values:
        pair = (value.weight / mean_weight, value.candidate - value.control)
        by_cluster.setdefault(value.cluster, []).append(pair)
    return list(by_cluster.values())


def _is_plain(values: Sequence[PairedValue]) -> bool:
    """Yes-or-no scores of items that each stand alone."""
    alone = max(Counter(value.cluster for value in values).values()) == 1
    equal = len({value.weight for value in values}) == 1
    return alone and equal and all({value.control, value.candidate} <= {0.0, 1.0} for value in values)


def _table(values: Sequence[PairedValue]) -> PairTable:
    cells = Counter((value.control, value.candidate) for value in values)
    return PairTable(
        both=cells[1.0, 1.0],
        control_only=cells[1.0, 0.0],
        candidate_only=cells[0.0, 1.0],
        neither=cells[0.0, 0.0],
    )


def _effect(found: Estimate, p: float | None, clusters: BoundedClusters) -> Effect | None:
    if found.interval is None or found.value is None:
        return None
    return Effect(
        estimate=found.value,
        lower=found.interval.lower,
        upper=found.interval.upper,
        level=found.interval.level,
        method=found.method,
        method_version=found.version,
        p_value=p,
        clusters=clusters,
    )
