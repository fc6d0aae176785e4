"""By how much do two versions differ on paired items, and how surely?

Chooses the method by the shape of the scores and calls `experiments.statistics`; no formula lives here.

- yes-or-no scores, one answer an item, every item on its own: McNemar's mid-p and the adjusted interval of
  Bonett and Price (2012);
- anything else (repeats, items in clusters): the paired t over clusters (CR1, clusters - 1 degrees of
  freedom) on the items and the same two pseudo-pairs that Bonett and Price add, one of each direction,
  each a cluster of its own. Scores lie in [0, 1], so the two are as extreme as pairs can be; without them
  thirty equal pairs would claim an interval of width zero. The estimate shown is of the items alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from experiments.statistics.estimate import Estimate
from experiments.statistics.paired import PairTable, bonett_price, clustered_difference, paired_sums

_PSEUDO_PAIRS: Final = (1.0, -1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedValue:
    """One item's scores in both versions, each in [0, 1], and the cluster it belongs to."""

    control: float
    candidate: float
    cluster: str


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
    differences = [value.candidate - value.control for value in values]
    clusters: list[object] = [value.cluster for value in values]
    found = clustered_difference(
        paired_sums([*differences, *_PSEUDO_PAIRS], [*clusters, *((sign,) for sign in _PSEUDO_PAIRS)]),
        alpha=alpha,
    )
    return _effect(found, "paired-t-clustered-adjusted", sum(differences) / len(differences))


def _is_plain(values: Sequence[PairedValue]) -> bool:
    """Yes-or-no scores of items that each stand alone."""
    alone = max(Counter(value.cluster for value in values).values()) == 1
    return alone and all({value.control, value.candidate} <= {0.0, 1.0} for value in values)


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
