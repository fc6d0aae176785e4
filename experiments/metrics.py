"""Which metrics exist, of which kind, and where in the ledger does each come from?

The catalogue maps a name in a spec to what the statistics need (kind, direction) and to what the ledger
needs (two SQL expressions over a row of `exchanges`). It runs no query and computes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from .ledger.exchange import FAILURES, MISSING

Kind = Literal["binary", "mean", "log_mean"]
Direction = Literal["increase", "decrease"]


class MetricError(ValueError):
    """A metric's name that the catalogue does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. `value_sql` and `observed_sql` are expressions over one row of `exchanges` (alias `x`).

    `value_sql` is 1.0 or 0.0 for a binary metric and the logarithm of the quantity for a log mean; it is
    read only where `observed_sql` is true. An eligible row where that is false counts as missing if
    `expected_sql` is true there, and does not concern this metric otherwise.
    A feedback metric has `feedback` set: its value is `f.value` of the joined feedback of that name.
    """

    name: str
    title: str
    kind: Kind
    direction: Direction
    display_unit: str
    value_sql: str
    observed_sql: str
    expected_sql: str = "true"
    feedback: str | None = None


def _listed(outcomes: frozenset[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(outcomes))


#: The assigned arm's own fate counts, also where control stepped in for it (intention to treat).
_OUTCOME: Final = "coalesce(x.arm_outcome, x.outcome)"
_SEEN: Final = f"{_OUTCOME} NOT IN ({_listed(MISSING)}, 'rejected')"
_ANSWERED: Final = f"{_OUTCOME} IN ('complete', 'length')"
#: A fallback's times are the control's, not the assigned arm's.
_OWN_TIME: Final = f"{_ANSWERED} AND x.arm_outcome IS NULL"

_FEEDBACK: Final = re.compile(r"feedback:([A-Za-z0-9_.-]{1,64})")

CATALOGUE: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            name="error_rate",
            title="errors",
            kind="binary",
            direction="decrease",
            display_unit="% of units",
            value_sql=f"CASE WHEN {_OUTCOME} IN ({_listed(FAILURES)}) THEN 1.0 ELSE 0.0 END",
            observed_sql=_SEEN,
        ),
        Metric(
            name="truncation_rate",
            title="answers cut short",
            kind="binary",
            direction="decrease",
            display_unit="% of units",
            value_sql=f"CASE WHEN {_OUTCOME} IN ('truncated', 'length') THEN 1.0 ELSE 0.0 END",
            observed_sql=_SEEN,
        ),
        Metric(
            name="latency",
            title="latency",
            kind="log_mean",
            direction="decrease",
            display_unit="ms",
            value_sql="ln(greatest(x.duration_ms, 0.001))",
            observed_sql=f"{_OWN_TIME} AND x.duration_ms IS NOT NULL",
            expected_sql=_ANSWERED,
        ),
        Metric(
            name="ttft",
            title="time to the first token",
            kind="log_mean",
            direction="decrease",
            display_unit="ms",
            value_sql="ln(greatest(x.ttft_ms, 0.001))",
            observed_sql=f"{_OWN_TIME} AND x.stream AND x.ttft_ms IS NOT NULL",
            expected_sql=f"x.stream AND {_ANSWERED}",
        ),
        Metric(
            name="completion_tokens",
            title="tokens per answer",
            kind="mean",
            direction="decrease",
            display_unit="tokens",
            value_sql="CAST(x.completion_tokens AS DOUBLE)",
            observed_sql=f"{_OWN_TIME} AND x.completion_tokens IS NOT NULL",
            expected_sql=_ANSWERED,
        ),
    )
}


def metric(name: str) -> Metric:
    """The metric of that name; `feedback:NAME` is made on the spot. Raises MetricError."""
    found = CATALOGUE.get(name)
    if found is not None:
        return found
    match = _FEEDBACK.fullmatch(name)
    if match is None:
        known = ", ".join([*CATALOGUE, "feedback:NAME"])
        raise MetricError(f"unknown metric {name!r}: the catalogue has {known}")
    return Metric(
        name=name,
        title=f"feedback {match[1]!r}",
        kind="mean",
        direction="increase",
        display_unit="",
        value_sql="f.value",
        observed_sql="f.value IS NOT NULL",
        # Feedback is volunteered: an exchange without it is not missing, and coverage is shown as n.
        expected_sql="f.value IS NOT NULL",
        feedback=match[1],
    )
