"""Which of several versions do judges of pairs prefer, once each has met some of the others?

Every stored comparison of two versions on a golden set that has judged pairs is a tournament's round. Over
all of them Bradley and Terry's model gives each version one strength, which does not depend on the order in
which the rounds came; its interval is by drawing the items anew, because the pairs of one item hang together.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from experiments.statistics.estimate import Interval
from experiments.statistics.pairwise import bradley_terry, strength_intervals

#: What a pair was worth to the candidate.
_WORTH: Final = {"candidate": 1.0, "tie": 0.5, "control": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One version: its log strength about the mean of all (None if it cannot be told) and the interval of it,
    its wins (a tie is half) and its pairs."""

    version: int
    strength: float | None
    interval: Interval | None
    wins: float
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The strongest first. `beats` has the probability that the row's version is preferred to the column's,
    in the order of `standings`; empty where the pairs do not connect the versions."""

    evaluator: str
    items: int
    rounds: int
    standings: tuple[Standing, ...]
    beats: tuple[tuple[float, ...], ...]
    problem: str | None = None


def rank(comparisons: Sequence[Mapping[str, Any]], *, alpha: float = 0.05) -> list[Ranking]:
    """A ranking for each check with judged pairs, from stored comparisons, the newest first.

    Of two versions that were compared several times on the set the newest comparison counts. All must be of
    one hash of the set: what was asked of others is no common ground.
    """
    newest: dict[frozenset[int], Mapping[str, Any]] = {}
    for one in comparisons:
        newest.setdefault(frozenset((one["control_version"], one["candidate_version"])), one)
    names = {
        pair["evaluator"] for one in newest.values() for pair in _pairs(one) if pair["preferred"] in _WORTH
    }
    return [_rank(name, list(newest.values()), alpha) for name in sorted(names)]


def _pairs(comparison: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (comparison["result"].get("preferences") or {}).get("pairs", ())
    return found


def _rank(evaluator: str, rounds: Sequence[Mapping[str, Any]], alpha: float) -> Ranking:
    judged = [
        (pair["item_id"], one["candidate_version"], one["control_version"], _WORTH[pair["preferred"]])
        for one in rounds
        for pair in _pairs(one)
        if pair["evaluator"] == evaluator and pair["preferred"] in _WORTH
    ]
    versions = sorted({version for _, a, b, _ in judged for version in (a, b)})
    place = {version: number for number, version in enumerate(versions)}
    items = {item for item, *_ in judged}
    # A comparison of an earlier Turnout does not say which items are of one cluster; another one of them may.
    tied = {item: item for item in items}
    tied |= {pair["item_id"]: pair["cluster"] for one in rounds for pair in _pairs(one) if "cluster" in pair}
    clusters = {name: number for number, name in enumerate(dict.fromkeys(tied[item] for item, *_ in judged))}
    wins = np.zeros((len(clusters), len(versions), len(versions)))
    for item, candidate, control, worth in judged:
        at = clusters[tied[item]]
        wins[at, place[candidate], place[control]] += worth
        wins[at, place[control], place[candidate]] += 1.0 - worth
    table = wins.sum(axis=0)
    found = bradley_terry(table.tolist())
    intervals = strength_intervals(found, wins, alpha=alpha) if found else [None] * len(versions)
    standings = [
        Standing(
            version=version,
            strength=None if found is None else found.log_strengths[at],
            interval=intervals[at],
            wins=float(table[at].sum()),
            pairs=round(float(table[at].sum() + table[:, at].sum())),
        )
        for version, at in place.items()
    ]
    standings.sort(key=lambda one: (-(one.strength or 0.0), -one.wins, one.version))
    order = [place[one.version] for one in standings]
    return Ranking(
        evaluator=evaluator,
        items=len(items),
        rounds=len({frozenset((a, b)) for _, a, b, _ in judged}),
        standings=tuple(standings),
        beats=()
        if found is None
        else tuple(tuple(found.probability(one, other) for other in order) for one in order),
        problem=None if found else _UNCONNECTED,
    )


_UNCONNECTED: Final = (
    "the pairs do not say how all of these versions compare: some never met the others, or never lost, or"
    " never won"
)
