"""Which arm does a unit belong to? A pure, salted hash: no state, no clock, no I/O.

Every proxy computes the same answer without talking to another, and so does SQL over the ledger
(docs/reference/assignment.md has the query), because the ledger stores the very unit id that is hashed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

try:  # Python's own: of a few bytes it is done before OpenSSL's has found out what it is to do
    from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]  # of 3.12 and later
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # a Python built without them
        from hashlib import sha256

#: Weights and ranges are integers in parts per million: exact, and the same in Python, JSON and SQL.
PPM = 1_000_000

#: A half-open interval [low, high) of points.
Range = tuple[int, int]
#: Arm name to the ranges that it owns.
Ranges = Mapping[str, tuple[Range, ...]]

CONTROL = "control"


class AssignmentError(ValueError):
    """The ranges or weights asked for cannot be had."""


def unit_id(raw: str) -> str:
    """The ledger's name for a unit: 16 hex digits, so that no user name is needed to analyse users."""
    digest: str = sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()
    return digest[:16]


@lru_cache(maxsize=4096)
def point(salt: str, unit: str) -> int:
    """Where a unit lies on [0, PPM): the top 60 bits of SHA-256 of ``salt:unit``, scaled.

    The scaling is exact integer arithmetic; its bias is below 2**-40 of a point's mass.
    """
    return int(sha256(f"{salt}:{unit}".encode()).hexdigest()[:15], 16) * PPM >> 60


def arm_at(ranges: Ranges, at: int) -> str:
    """The arm that owns a point. Raises AssignmentError if none does."""
    for arm, owned in ranges.items():
        if any(low <= at < high for low, high in owned):
            return arm
    raise AssignmentError(f"no arm owns point {at}: the ranges do not cover [0, {PPM})")


def initial_ranges(candidates: Mapping[str, int]) -> dict[str, tuple[Range, ...]]:
    """Ranges for a first phase: `candidates` maps arm to weight in ppm, control gets the rest."""
    return reweigh({CONTROL: ((0, PPM),)}, candidates)


def reweigh(ranges: Ranges, weights: Mapping[str, int]) -> dict[str, tuple[Range, ...]]:
    """New ranges in which each candidate has its weight in ppm and no unit moves without need.

    A growing arm takes from what control owned before; a shrinking arm gives back to control. So a
    ramp moves units from control to the candidate and none back. Only where the former control is
    too small for the growth asked for do units that another arm has just released move on at once.
    Arms that `weights` does not name are released whole.
    """
    _check(weights)
    owned = {arm: _normalised(parts) for arm, parts in ranges.items()}
    kept: dict[str, tuple[Range, ...]] = {}
    released: list[Range] = []
    for arm, parts in owned.items():
        if arm == CONTROL:
            continue
        keep, give = _split(parts, min(weights.get(arm, 0), _size(parts)))
        kept[arm] = keep
        released += give
    pool, spare = owned.get(CONTROL, ()), tuple(released)
    for arm, weight in weights.items():
        lacking = weight - _size(kept.get(arm, ()))
        pool, taken = _split(pool, max(0, _size(pool) - lacking))
        spare, also = _split(spare, max(0, _size(spare) - (lacking - _size(taken))))
        kept[arm] = _normalised(kept.get(arm, ()) + taken + also)
    result = {CONTROL: _normalised(pool + spare)}
    result.update((arm, kept[arm]) for arm in weights)
    return result


def _check(weights: Mapping[str, int]) -> None:
    if CONTROL in weights:
        raise AssignmentError("give weights for candidates only: control gets what they leave")
    for arm, weight in weights.items():
        if not 0 <= weight <= PPM:
            raise AssignmentError(f"weight of {arm!r} is {weight} ppm: expected 0 to {PPM}")
    if sum(weights.values()) > PPM:
        raise AssignmentError(f"the candidates' weights add up to {sum(weights.values())} ppm: at most {PPM}")


def _size(parts: tuple[Range, ...]) -> int:
    return sum(high - low for low, high in parts)


def _normalised(parts: tuple[Range, ...] | list[Range]) -> tuple[Range, ...]:
    """Sorted, empty ranges dropped, neighbours joined."""
    joined: list[Range] = []
    for low, high in sorted(part for part in parts if part[0] < part[1]):
        if joined and joined[-1][1] == low:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return tuple(joined)


def _split(parts: tuple[Range, ...], keep: int) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """The lowest `keep` points, and the rest."""
    low_side: list[Range] = []
    high_side: list[Range] = []
    for low, high in parts:
        cut = min(high, low + max(keep, 0))
        keep -= cut - low
        low_side.append((low, cut))
        high_side.append((cut, high))
    return _normalised(low_side), _normalised(high_side)
