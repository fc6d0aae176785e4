"""What has a worker done so far, counted so that counting costs next to nothing?

Every record is counted once, when it is written: its outcome, its duration, and of a stream the time to the
first piece and between pieces. So is what never became a request. The sums of a worker are a small JSON
document; those of several add up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from operator import sub
from typing import Any, Final, NamedTuple

from experiments.ledger.exchange import ExchangeRecord

#: Upper bounds of the buckets, in microseconds; what is above the last is counted as well.
DURATION_US: Final = tuple(
    int(seconds * 1e6)
    for seconds in (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
)
GAP_US: Final = tuple(
    int(seconds * 1e6) for seconds in (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
)


class Labels(NamedTuple):
    """What the numbers are told apart by. All of it comes from the routing table: there are few."""

    model: str
    version: int | None
    experiment: str | None
    arm: str | None
    role: str


def _zeros(bounds: tuple[int, ...]) -> list[int]:
    return [0] * (len(bounds) + 1)


@dataclass(slots=True)
class Numbers:
    """Counts of one set of labels: by outcome, and of what was shed by reason. A histogram is the count of
    each bucket; its sum is in microseconds."""

    outcomes: dict[str, int] = field(default_factory=dict)
    duration: list[int] = field(default_factory=lambda: _zeros(DURATION_US))
    duration_us: int = 0
    first: list[int] = field(default_factory=lambda: _zeros(DURATION_US))
    first_us: int = 0
    gaps: list[int] = field(default_factory=lambda: _zeros(GAP_US))
    gaps_us: int = 0
    shed: dict[str, int] = field(default_factory=dict)

    def add(self, other: Numbers) -> None:
        """Take up what another has counted."""
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        for reason, count in other.shed.items():
            self.shed[reason] = self.shed.get(reason, 0) + count
        for mine, theirs in (
            (self.duration, other.duration),
            (self.first, other.first),
            (self.gaps, other.gaps),
        ):
            mine[:] = map(int.__add__, mine, theirs)
        self.duration_us += other.duration_us
        self.first_us += other.first_us
        self.gaps_us += other.gaps_us


class Metrics:
    """The sums of one worker, or of several."""

    def __init__(self) -> None:
        self.numbers: dict[Labels, Numbers] = {}
        #: requests that never were whole, by why: they belong to no model yet and leave no row
        self.unread: Counter[str] = Counter()

    def observe(self, record: ExchangeRecord) -> None:
        """Count one exchange."""
        arm = record.served_arm
        experiment = None if arm is None else record.experiment  # who stayed outside is not in it
        labels = record.model, record.served_version, experiment, arm, record.role
        numbers = self.numbers.get(labels)  # type: ignore[call-overload]  # equal to the Labels, and sooner made
        if numbers is None:
            numbers = self.numbers[Labels(*labels)] = Numbers()
        outcomes, outcome = numbers.outcomes, record.outcome
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome == "shed":
            reason = record.error_code or "unknown"
            numbers.shed[reason] = numbers.shed.get(reason, 0) + 1
        duration = record.duration_us
        numbers.duration[bisect_left(DURATION_US, duration)] += 1
        numbers.duration_us += duration
        if record.stream and record.chunk_us:
            times = record.chunk_us
            first = times[0]
            numbers.first[bisect_left(DURATION_US, first)] += 1
            numbers.first_us += first
            gaps = numbers.gaps
            for bucket in map(bisect_left, repeat(GAP_US), map(sub, times[1:], times)):
                gaps[bucket] += 1
            numbers.gaps_us += times[-1] - first

    def add(self, other: Metrics) -> None:
        """Take up what another has counted."""
        for labels, numbers in other.numbers.items():
            self.numbers.setdefault(labels, Numbers()).add(numbers)
        self.unread.update(other.unread)

    def document(self) -> dict[str, Any]:
        """Plain lists and counts, for JSON."""
        numbers = [
            [list(labels), [getattr(numbers, name) for name in Numbers.__slots__]]
            for labels, numbers in self.numbers.items()
        ]
        return {"numbers": numbers, "unread": dict(self.unread)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Metrics:
        """The sums that a document holds. Raises TypeError, KeyError or ValueError for any other document."""
        found = cls()
        for labels, values in document["numbers"]:
            found.numbers[Labels(*labels)] = Numbers(*values)
        found.unread.update(document["unread"])
        return found


class Gauges(NamedTuple):
    """How a worker is at the moment, and what it has lost."""

    in_flight: int
    connections: int
    snapshot: int
    records_written: int
    records_lost: int
    shadow_in_flight: int
    shadow_bytes: int
    tasks: int
    open_files: int
    resident_bytes: int

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Gauges:
        """Raises TypeError or KeyError for any other document."""
        return cls(**{name: int(document[name]) for name in cls._fields})
