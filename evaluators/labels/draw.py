"""Which items are put before people? A simple random sample, drawn by the program and never by hand.

The draw is an order of all items that are open to a label: by a hash of seed and item. The seed follows from
the two runs, whose random ids are made before there is an answer: nobody can choose it, and anybody can draw
again. The sample is the beginning of that order, so that a greater sample holds the smaller one.

Its size is declared before the first label. Looking at the result, labelling some more and looking again is
another test; each further declaration therefore halves the level: alpha, alpha / 2, alpha / 4, ... A pass
needs one end of the interval only, so that all looks together pass a version that is worse by more than the
margin with probability alpha at most (a union bound).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from evaluators.canonical import content_hash

#: So many drawn items must be labelled before a judge may gate (or all that are open, where they are fewer).
MIN_LABELLED: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One declaration: of these two runs' items with this check, `size` are labelled. `declared_by` is a
    name."""

    draw_id: str
    control_run: str
    candidate_run: str
    evaluator: str
    seed: str
    size: int
    declared_by: str = ""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Draw:
        """The draw as the control API gives it; fields of later versions are left out."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__ if row.get(name) is not None})

    def to_json(self) -> dict[str, Any]:
        """The draw as the control API takes it."""
        return asdict(self)


def seed_of(control_run: str, candidate_run: str, evaluator: str) -> str:
    """The seed of the draw for one check of two runs."""
    return content_hash([control_run, candidate_run, evaluator]).removeprefix("sha256:")[:16]


def in_order(seed: str, item_ids: Iterable[str]) -> list[str]:
    """The items in the order in which they are drawn."""
    return sorted(item_ids, key=lambda item_id: (_rank(seed, item_id), item_id))


def chosen(seed: str, item_id: str, repeats: Sequence[int]) -> int:
    """The repeat whose answers are shown: one at random. Raises IndexError when there is none."""
    return repeats[int(_rank(seed, f"repeat:{item_id}")[:8], 16) % len(repeats)]


def level(alpha: float, declarations: int) -> float:
    """The level of the test after so many declarations."""
    return float(alpha / 2 ** max(0, declarations - 1))


def _rank(seed: str, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()
