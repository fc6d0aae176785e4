"""What does a verdict start from? The declared analysis and sums over the ledger, both frozen.

Sums over units are all that the statistics need: no row of the ledger comes this far, so that ten million
exchanges cost as much as ten. This module holds the shapes; `ledger.evidence` fills them by SQL,
`verdict` judges them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal

from .metrics import Metric
from .statistics.moments import Past

Role = Literal["success", "guardrail", "exploratory"]
Mode = Literal["shadow", "canary", "ab"]
Golden = Literal["pass", "fail", "inconclusive"]

#: Weights are parts per million: a smaller share of the traffic is none.
SMALLEST_SHARE: Final = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One metric of an experiment and what is asked of it.

    `equivalent` (success): the candidate is hoped to be the same within the margin, not better.
    `mde` (success): the smallest relative improvement worth finding. `tolerated_ratio` (binary guardrail):
    the candidate is rolled back once its failure rate is shown to exceed the control's by more than this
    factor. `margin` is the worsening that shipping tolerates: relative for means and log means (0.1 = 10 %),
    a difference of shares for binary metrics (0.02 = two percentage points).
    """

    metric: Metric
    role: Role
    mde: float | None = None
    tolerated_ratio: float = 1.25
    margin: float | None = None
    equivalent: bool = False
    #: Adjusted for what the unit did before the experiment (CUPED).
    adjusted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSpec:
    """What was declared before the start, as far as the statistics need it. `horizon` counts units.

    `horizon` is the number of units (pairs' clusters in a shadow) at which the experiment ends, `looks` the
    number of equally spaced looks up to it. Durations are seconds.
    """

    experiment: str
    mode: Mode
    unit: str
    goals: tuple[Goal, ...]
    control: str = "control"
    candidate: str = "candidate"
    control_version: int | None = None
    candidate_version: int | None = None
    alpha: float = 0.05
    rollback_alpha: float = 0.01
    power: float = 0.8
    horizon: int = 5000
    looks: int = 5
    min_duration_s: float = 0.0
    max_duration_s: float = 7 * 86_400.0
    golden_required: bool = False
    #: The phase with which the stage that is judged began; what came before it is another stage's evidence.
    first_phase: int = 1
    #: How far back before the experiment a unit's own past is read, for goals that are adjusted for it.
    history_s: float = 14 * 86_400.0
    #: A canary's last weight as a share: before it is reached nothing is shipped. 0: there is no ramp.
    full_share: float = 0.0
    #: Its requests are recorded ones: there is an end to them, and units that have a pair may get more.
    recorded: bool = False

    def named(self, role: Role) -> tuple[Goal, ...]:
        """The goals of one role, in the order in which they were declared."""
        return tuple(goal for goal in self.goals if goal.role == role)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCount:
    """Assignments of one arm in one phase, counted where the arm was decided (primary, live).

    `units` are the units first seen in this phase: each unit is counted once in an experiment, so that
    phases are independent draws; `present` are all units seen in it. `expected_share` is the arm's share of
    the traffic in this phase.
    """

    phase: int
    arm: str
    expected_share: float
    units: int
    exchanges: int
    present: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSums:
    """Sums over the units of one arm in one phase, of each unit's own totals in that phase.

    y_u is the sum of the metric's value over the unit's observed exchanges, m_u their number, or for a ratio
    the sum of its denominator; `y`, `m`, `yy`, `mm`, `ym` are the sums of y_u, m_u, y_u^2, m_u^2 and y_u*m_u
    over the `units` with an observed exchange. Of a binary metric only m and mm are kept.
    `exchanges` is the number of eligible exchanges, `observed` those with a value, `missing` those that
    should have had one.
    `failing_units` (binary) counts units by their *first* failure in the whole experiment: a unit counts
    once, in the phase and the arm where it first failed, and never again. `missing_units` counts units by
    their first missing value in the same way.
    """

    metric: str
    phase: int
    arm: str
    units: int
    exchanges: int
    missing: int
    y: float
    m: float
    yy: float
    mm: float
    ym: float
    failing_units: int = 0
    missing_units: int = 0
    observed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Cross products over the units that were seen in two phases; `a` is the earlier phase.

    Sticky units make the phases' estimates dependent; with these sums that is accounted for exactly.
    `yy` is the sum of y_ua*y_ub, `ym` of y_ua*m_ub, `my` of m_ua*y_ub, `mm` of m_ua*m_ub.
    """

    metric: str
    phase_a: int
    arm_a: str
    phase_b: int
    arm_b: str
    yy: float
    ym: float
    my: float
    mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PastSums(Past):
    """What the units of a metric's sums did before the experiment, and how that hangs together with since.

    a_u and b_u are the unit's y and m of the time before (zero if it was not there); the sums are over the
    units that `MetricSums` counts.
    """

    metric: str
    phase: int
    arm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PastOverlap:
    """The same over the units that were seen in two phases: `ya` is of the earlier phase's y and a_u, `ay` of
    a_u and the later phase's y, and so on."""

    metric: str
    phase_a: int
    arm_a: str
    phase_b: int
    arm_b: str
    aa: float
    ab: float
    bb: float
    ya: float
    yb: float
    ma: float
    mb: float
    ay: float
    by: float
    am: float
    bm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often each size of a value occurred in one arm and phase, all exchanges alike.

    Bin b is of values from exp(b / 1000) up to exp((b + 1) / 1000), in the metric's unit. Bins increase.
    """

    metric: str
    phase: int
    arm: str
    bins: tuple[int, ...]
    counts: tuple[int, ...]

    def place(self, level: float) -> int:
        """Which of the bins has the quantile; there must be one."""
        ends = list(accumulate(self.counts))
        return min(bisect_left(ends, min(1.0, max(0.0, level)) * ends[-1]), len(ends) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSums:
    """Sums over the clusters (units) of mirrored pairs whose first pair is of one phase: a unit counts once,
    with all its pairs, however often a shadow was paused. Differences are candidate - control.

    d_c is the sum of the differences over the cluster's complete pairs, m_c their number; `d`, `dd`, `md`,
    `mm` are the sums of d_c, d_c^2, m_c*d_c, m_c^2 over `clusters`. `missing` pairs lack one side.
    n11, n10, n01, n00 (binary): pairs in which both, only control, only candidate, neither failed, one pair
    for each cluster (the earliest), so that the table's entries are independent.
    `control_y` is the sum of the control's values: the level from which a ratio is taken.
    Of differences that have limits, `cubes` are the sums over clusters of d_c^3, m_c*d_c^2, m_c^2*d_c and
    m_c^3, with d_c to the thousandth: how skewed they are.
    Of a ratio metric, `totals` are the sums over the complete pairs of (candidate's numerator, denominator,
    control's numerator, denominator), and `products` those over clusters of the products of their totals:
    the upper triangle of the 4 x 4 matrix, row by row.
    """

    metric: str
    phase: int
    clusters: int
    pairs: int
    missing: int
    d: float
    dd: float
    md: float
    mm: float
    n11: int = 0
    n10: int = 0
    n01: int = 0
    n00: int = 0
    control_y: float = 0.0
    cubes: tuple[float, ...] = ()
    totals: tuple[float, ...] = ()
    products: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PairQuantile:
    """How often a quantile is not exceeded by the two halves of a stage's pairs, together.

    a_c, b_c are how many of a cluster's pairs have the candidate's, the control's half in or below `bins`
    (those of the two quantiles, as in `Histogram`), m_c their number; the rest are sums over `clusters`.
    """

    metric: str
    bins: tuple[int, int]
    clusters: int
    a: int
    b: int
    m: int
    aa: int
    bb: int
    ab: int
    am: int
    bm: int
    mm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One place's rows: an arm (`inside`), or a reason for being in none.

    `outcomes` count rows by how the assigned arm itself ended, `fell_back` those of them that control
    answered in its stead, `shed` copies and requests that were not sent, by reason. `missing` are rows that
    a worker has numbered and the ledger does not have.
    """

    place: str
    inside: bool = True
    outcomes: tuple[tuple[str, int], ...] = ()
    shed: tuple[tuple[str, int], ...] = ()
    fell_back: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How far into the ledger something looked: how many rows of each table there were.

    Rows of these tables are appended and never deleted, so the same cut is the same rows for ever.
    """

    exchanges: int = 0
    feedback: int = 0
    scores: int = 0


NOTHING: Final = Cut()


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """A version of what measures, by which an experiment's answers were scored.

    `metric` is a metric whose values are scores, and `scores` their number by this version; or `golden:SET`,
    and then `version` is the set's hash. `counted`: this is the one version that the metric's sums are of.
    `complete`: it has scored everything that any version has.
    """

    metric: str
    version: str
    scores: int
    counted: bool
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of an experiment at one instant, from the rows of the ledger before `cut`."""

    experiment: str
    as_of_ns: int
    started_ns: int
    arms: tuple[ArmCount, ...] = ()
    sums: tuple[MetricSums, ...] = ()
    pairs: tuple[PairSums, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    past: tuple[PastSums, ...] = ()
    past_overlaps: tuple[PastOverlap, ...] = ()
    units_in_two_arms: int = 0
    recorded: int = 0
    lost: int = 0
    golden: Golden | None = None
    histograms: tuple[Histogram, ...] = ()
    instruments: tuple[Instrument, ...] = ()
    pair_quantiles: tuple[PairQuantile, ...] = ()
    cut: Cut = NOTHING
    #: Nothing more will come: every recorded request that a replay was to ask has been asked.
    exhausted: bool = False
    accounts: tuple[Account, ...] = ()
    #: A shadow: the model's requests since the stage began of which no copy was to be made.
    not_copied: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A scheduled look that was taken, and how many units there were.

    `effective` is 4 * sum over phases of n1*n0/(n1+n0): what the units are worth, told as
    units of an even split. `information` is what was known of a metric then, where that is more than units.
    """

    at_ns: int
    units: int
    effective: float
    information: Mapping[str, float] = field(default_factory=dict)
