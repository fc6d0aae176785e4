"""Which items do two runs have in common, and what is each worth in both?

By id and content hash: a changed item is another question. What is missing has a worst and a best value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.estimates import PairedValue
from evaluators.golden import Check, GoldenItem, GoldenSet, ItemScore
from evaluators.summary import RunResults, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One item in both runs."""

    item: GoldenItem
    control: Tally
    candidate: Tally


def match_items(
    golden: GoldenSet, control: RunResults, candidate: RunResults
) -> tuple[list[GoldenItem], list[str], list[str], list[str]]:
    """The items to compare; the ids of those that are another question in a run; and of those that only the
    control run or only the candidate run has."""
    comparable: list[GoldenItem] = []
    changed: list[str] = []
    only: dict[str, list[str]] = {"control": [], "candidate": []}
    for item in golden.items:
        in_control, in_candidate = _presence(golden, item, control), _presence(golden, item, candidate)
        if "changed" in (in_control, in_candidate):
            changed.append(item.id)
        elif in_control == in_candidate == "present":
            comparable.append(item)
        elif in_control == "present":
            only["control"].append(item.id)
        elif in_candidate == "present":
            only["candidate"].append(item.id)
    known = {item.id for item in golden.items}
    only["control"].extend(sorted(set(control.rows) - set(candidate.rows) - known))
    only["candidate"].extend(sorted(set(candidate.rows) - set(control.rows) - known))
    return comparable, changed, only["control"], only["candidate"]


def _presence(golden: GoldenSet, item: GoldenItem, run: RunResults) -> str:
    rows = run.rows.get(item.id, ())
    if not rows:  # a run of this very set was to ask it: missing there, and counted so
        return "present" if run.set_hash == golden.hash else "absent"
    return "present" if any(row.item_hash == item.hash for row in rows) else "changed"


def pair_of(
    item: GoldenItem,
    control: RunResults,
    candidate: RunResults,
    checks: Sequence[Check] | None = None,
    *,
    score: ItemScore = "all",
) -> Pair | None:
    """The item in both runs, by its deciding checks or by these; None where none of them applies to it."""
    left, right = control.tally(item, checks, score=score), candidate.tally(item, checks, score=score)
    return None if left is None or right is None else Pair(item=item, control=left, candidate=right)


def observed(pairs: Sequence[Pair]) -> list[PairedValue]:
    """The pairs that were scored in both versions."""
    return [
        PairedValue(control=control, candidate=candidate, cluster=pair.item.cluster, weight=pair.item.weight)
        for pair in pairs
        if (control := pair.control.mean) is not None and (candidate := pair.candidate.mean) is not None
    ]


def imputed(pairs: Sequence[Pair], *, worst: bool) -> list[PairedValue]:
    """All pairs, with what is missing taken at its worst (or best) for the candidate."""
    return [
        PairedValue(
            control=pair.control.highest if worst else pair.control.lowest,
            candidate=pair.candidate.lowest if worst else pair.candidate.highest,
            cluster=pair.item.cluster,
            weight=pair.item.weight,
        )
        for pair in pairs
    ]
