"""By how much do two versions differ on paired items, and how surely?

Chooses the method by the shape of the scores and calls `experiments.statistics`; no formula lives here.

- yes-or-no scores, one answer an item, every item on its own: McNemar's mid-p and the adjusted interval of
  Bonett and Price (2012);
- anything else (repeats, grades, weights, items in clusters): the paired t over clusters with the jackknife's
  standard error, on the items and two pseudo-clusters, one of each direction, as Bonett and Price add two
  pseudo-pairs. Scores lie in [0, 1], so the two are as extreme as clusters can be; without them thirty equal
  pairs would claim an interval of width zero. They are as large as the design effect: one item where items
  stand alone, up to a whole cluster where clusters lose or gain their items together. The estimate shown is
  of the items alone.

How often the interval holds the truth is simulated by `python -m bench.golden_clusters`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from experiments.statistics.estimate import Estimate
from experiments.statistics.paired import PairTable, bonett_price, design_effect, jackknife_difference

_DIRECTIONS: Final = (1.0, -1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedValue:
    """One item's scores in both versions, each in [0, 1], and the cluster it belongs to."""

    control: float
    candidate: float
    cluster: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Candidate minus control, with its interval at `level`. `p_value` is two-sided."""

    estimate: float
    lower: float
    upper: float
    level: float
    method: str
    method_version: str
    p_value: float | None

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
    if _is_plain(values):
        found = bonett_price(_table(values), alpha=alpha)
        return _effect(found, found.method)
    mean_weight = math.fsum(value.weight for value in values) / len(values)
    by_cluster: dict[str, list[tuple[float, float]]] = {}
    for value in values:
        weight = value.weight / mean_weight  # of mean 1, so that a pseudo-pair weighs as much as an item
        by_cluster.setdefault(value.cluster, []).append((weight, value.candidate - value.control))
    clusters = list(by_cluster.values())
    size = design_effect(clusters)
    guards = [[(size, direction)] for direction in _DIRECTIONS]
    found = jackknife_difference([*clusters, *guards], guards=len(guards), alpha=alpha)
    total = math.fsum(weight * difference for cluster in clusters for weight, difference in cluster)
    return _effect(found, f"{found.method}-adjusted", total / len(values))


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


def _effect(found: Estimate, method: str, value: float | None = None) -> Effect | None:
    if found.interval is None or found.value is None:
        return None
    return Effect(
        estimate=found.value if value is None else value,
        lower=found.interval.lower,
        upper=found.interval.upper,
        level=found.interval.level,
        method=method,
        method_version=found.version,
        p_value=found.p,
    )
