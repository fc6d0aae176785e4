"""Which metrics exist, of which kind, and where in the ledger does each come from?

The catalogue maps a name in a spec to what the statistics need (kind, direction) and to what the ledger
needs (SQL expressions over a row of `ledger.facts.EXCHANGES`). It runs no query and computes nothing.

A name says everything: `latency`, `latency.p95`, `latency>800ms`, `feedback:NAME`, `score:NAME<0.5`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from . import quantities
from .ledger.transcript import Turn

Kind = Literal["binary", "mean", "log_mean", "ratio", "quantile"]
#: Kinds whose values and effects are logarithms, shown as levels and ratios.
LOGARITHMIC: Final[tuple[Kind, ...]] = ("log_mean", "quantile")
Direction = Literal["increase", "decrease"]
#: What is said of an exchange after it ended, and in which table.
Source = Literal["feedback", "scores"]


class MetricError(ValueError):
    """A metric's name that the catalogue does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What tokens of one version cost, per million, in whatever currency."""

    prompt: float
    completion: float
    cached: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. The SQL is of expressions over one row of `ledger.facts.EXCHANGES`, `x`.

    `value_sql` is a condition for a binary metric, the logarithm of the quantity for a log mean or a
    quantile, the numerator of a ratio, and otherwise the value; it is read only where `observed_sql` is
    true. `weight_sql` is a ratio's denominator, and 1 for all others. An eligible row where `observed_sql`
    is false counts as missing if `expected_sql` is true there, and does not concern this metric otherwise.
    A metric with a `source` has its values in another table, under the name `named`; what came more than
    `within_s` seconds after the request began does not count; `closed`: only of requests that began that
    long ago. Scores are of one version of their evaluator: `version`, or if that is None the one that the
    experiment's first score is of. Of a binary metric the event is a value under `below`. `preference` says
    that the value is the candidate's half of a pair's 1.
    A `timed` metric depends on how busy engines and caches were just then: two answers of different hours
    cannot be compared on it.
    """

    name: str
    title: str
    kind: Kind
    direction: Direction
    display_unit: str
    value_sql: str
    observed_sql: str
    expected_sql: str = "true"
    weight_sql: str = "1"
    quantile: float | None = None
    source: Source | None = None
    named: str = ""
    within_s: float | None = None
    closed: bool = False
    version: str | None = None
    below: float | None = None
    preference: bool = False
    needs_prices: bool = False
    timed: bool = False

    @property
    def on_log_scale(self) -> bool:
        """Whether value and effect are logarithms, shown as levels and ratios."""
        return self.kind in LOGARITHMIC

    @property
    def limits(self) -> tuple[float, float] | None:
        """Between which two numbers a pair's difference lies, None where nothing limits it: scores are from 0
        to 1, and of a preference the control's half is 1/2."""
        if self.source != "scores" or self.kind != "mean":
            return None
        return (-0.5, 0.5) if self.preference else (-1.0, 1.0)

    @property
    def in_pairs(self) -> bool:
        """Whether mirrored pairs have it: feedback is on one answer."""
        return self.source != "feedback"


#: Columns of `ledger.facts.EXCHANGES`: the assigned arm's own fate counts, whoever stepped in for it.
_SEEN: Final = "x.seen"
_ANSWERED: Final = "x.answered"
_OWN: Final = "x.own"


def _share(name: str, title: str, condition: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        kind="binary",
        direction="decrease",
        display_unit="% of units",
        value_sql=condition,
        observed_sql=_SEEN,
    )


def _log(column: str) -> str:
    """A time's logarithm, from a microsecond on. `greatest` would take four times as long."""
    return f"ln(CASE WHEN {column} > 0.001::DOUBLE THEN {column} ELSE 0.001::DOUBLE END)"


def _time(name: str, title: str, column: str, *, streams: bool = False) -> Metric:
    also = "x.stream AND " if streams else ""
    return Metric(
        name=name,
        title=title,
        kind="log_mean",
        direction="decrease",
        display_unit="ms",
        value_sql=_log(f"x.{column}"),
        observed_sql=f"{also}{_OWN} AND x.{column} IS NOT NULL",
        expected_sql=f"{also}{_ANSWERED}",
        timed=True,
    )


def _tokens(name: str, title: str) -> Metric:
    """The mean of a count of tokens, which is a column of the same name."""
    return Metric(
        name=name,
        title=title,
        kind="mean",
        direction="decrease",
        display_unit="tokens",
        value_sql=f"x.{name}",
        observed_sql=f"{_OWN} AND x.{name} IS NOT NULL",
        expected_sql=_ANSWERED,
    )


#: The evaluator whose scores say whether an answer is what the request's own `response_format` asks for.
SCHEMA_EVALUATOR: Final = "schema.response_format"


def _said_by(name: str, evaluator: str, version: str | None, *, below: float | None = None) -> Metric:
    """An evaluator's scores: their mean, or with `below` the share of units with a score under it.

    Where control answered for a failed candidate, its answer is not the candidate's.
    """
    of_version = "" if version is None else f" by {version}"
    return Metric(
        name=name,
        title=f"score {evaluator!r}{of_version}" + ("" if below is None else f" under {below:g}"),
        kind="mean" if below is None else "binary",
        direction="increase" if below is None else "decrease",
        display_unit="" if below is None else "% of units",
        value_sql="",
        observed_sql="x.arm_outcome IS NULL",
        source="scores",
        named=evaluator,
        version=version,
        below=below,
    )


#: Quantities of which quantiles, arithmetic means and shares beyond a limit can be asked too.
_TIMES: Final = {
    metric.name: metric
    for metric in (
        _time("latency", "latency", "duration_ms"),
        _time("ttft", "time to the first token", "ttft_ms", streams=True),
        _time("inter_token_gap", "time between tokens", "gap_mean_ms", streams=True),
    )
}

#: Dollars for a thousand requests: the ledger's sums are exact to a millionth of the unit.
_COST: Final = (
    "(coalesce(x.prompt_tokens, 0) * {prompt} + coalesce(x.completion_tokens, 0) * {completion}"
    " - coalesce(x.cached_tokens, 0) * {saved}) / 1000.0"
)

CATALOGUE: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        _share("error_rate", "errors", "x.failed"),
        _share("truncation_rate", "answers cut short", "x.cut"),
        *_TIMES.values(),
        replace(
            _TIMES["latency"],
            name="latency_mean",
            title="mean latency",
            kind="mean",
            value_sql="x.duration_ms",
        ),
        _tokens("completion_tokens", "tokens per answer"),
        _tokens("prompt_tokens", "tokens per prompt"),
        Metric(
            name="tokens_per_second",
            title="tokens per second",
            kind="ratio",
            direction="increase",
            display_unit="tokens/s",
            value_sql="x.completion_tokens",
            weight_sql="x.duration_ms / 1000.0",
            observed_sql=f"{_OWN} AND x.completion_tokens IS NOT NULL",
            expected_sql=_ANSWERED,
            timed=True,
        ),
        Metric(
            name="cached_share",
            title="prompt tokens from the cache",
            kind="ratio",
            direction="increase",
            display_unit="of the prompt tokens",
            value_sql="coalesce(x.cached_tokens, 0)",
            weight_sql="x.prompt_tokens",
            observed_sql=f"{_OWN} AND x.prompt_tokens > 0",
            expected_sql=_ANSWERED,
            timed=True,
        ),
        Metric(
            name="cost",
            title="cost of 1,000 requests",
            kind="mean",
            direction="decrease",
            display_unit="per 1k",
            value_sql=_COST,
            observed_sql=f"{_OWN} AND x.completion_tokens IS NOT NULL",
            expected_sql=_ANSWERED,
            needs_prices=True,
        ),
        replace(
            _said_by("schema_violations", SCHEMA_EVALUATOR, None, below=1.0),
            title="answers against their schema",
        ),
    )
}
#: What a name may be besides the catalogue's own, for messages.
PATTERNS: Final = (
    "latency.p95",
    "latency>800ms",
    "feedback:NAME",
    "feedback:NAME@7d",
    "score:NAME",
    "score:NAME<0.5",
    "preference:NAME",
)


def metric(name: str) -> Metric:
    """The metric of that name. Raises MetricError, which says what there is."""
    found = CATALOGUE.get(name)
    if found is not None:
        return found
    for pattern, make in _MADE:
        match = pattern.fullmatch(name)
        if match is not None:
            return make(match)
    raise MetricError(f"unknown metric {name!r}: the catalogue has {', '.join((*CATALOGUE, *PATTERNS))}")


def priced(found: Metric, prices: tuple[tuple[str, Prices], ...]) -> Metric:
    """The metric with each arm's prices in its SQL; unchanged if it needs none. Raises MetricError."""
    if not found.needs_prices:
        return found
    if not prices:
        raise MetricError(f"{found.name} needs prices")
    cases = "".join(
        f" WHEN x.assigned_arm = '{arm}' THEN "
        + _COST.format(
            prompt=repr(float(each.prompt)),
            completion=repr(float(each.completion)),
            saved=repr(0.0 if each.cached is None else float(each.prompt) - float(each.cached)),
        )
        for arm, each in prices
    )
    return replace(found, value_sql=f"CASE{cases} END", needs_prices=False)


def on_turns(found: Metric, turn: Turn) -> Metric:
    """The metric on first turns, or on later ones, only. What is missing is the whole metric's business."""
    observed = f"({found.observed_sql}) AND x.turn = '{turn}'"
    return replace(found, name=f"{found.name}@{turn}", observed_sql=observed, expected_sql="false")


def closed(found: Metric) -> Metric:
    """The metric with a window, of those requests only whose window is over."""
    return replace(found, name=f"{found.name}@closed", closed=True)


def _quantile(match: re.Match[str]) -> Metric:
    base = _TIMES[match[1]]
    percent = match[2]
    title = f"{percent} of {base.title}"
    return replace(base, name=match[0], title=title, kind="quantile", quantile=int(percent[1:]) / 100)


def _beyond(match: re.Match[str]) -> Metric:
    base = _TIMES[match[1]]
    try:
        limit_ms = quantities.seconds(match[2]) * 1000.0
    except ValueError:
        raise MetricError(f"{match[0]!r}: {match[2]!r} is no duration such as 800ms or 2s") from None
    column = base.value_sql.partition("CASE WHEN ")[2].partition(" ")[0]
    return replace(
        base,
        name=match[0],
        title=f"{base.title} beyond {match[2]}",
        kind="binary",
        display_unit="% of units",
        value_sql=f"{column} > {limit_ms!r}",
    )


def _feedback(match: re.Match[str]) -> Metric:
    """Feedback is volunteered: an exchange without it is not missing, and coverage is shown as n."""
    within = None
    if match[2] is not None:
        try:
            within = quantities.seconds(match[2])
        except ValueError:
            raise MetricError(f"{match[0]!r}: {match[2]!r} is no duration such as 12h or 7d") from None
    return Metric(
        name=match[0],
        title=f"feedback {match[1]!r}" + (f" within {match[2]}" if match[2] else ""),
        kind="mean",
        direction="increase",
        display_unit="",
        value_sql="",
        observed_sql="true",
        source="feedback",
        named=match[1],
        within_s=within,
    )


def _score(match: re.Match[str]) -> Metric:
    below = None if match[3] is None else float(match[3])
    return _said_by(match[0], match[1], match[2], below=below)


def _preference(match: re.Match[str]) -> Metric:
    """A judge of pairs: 1 where it prefers the candidate, 1/2 for a tie. Against 1/2."""
    found = _said_by(match[0], match[1], match[2])
    return replace(found, title=f"preference {match[1]!r}", preference=True)


_EVALUATOR: Final = r"([A-Za-z0-9][A-Za-z0-9._/-]{0,127})(?:@([A-Za-z0-9@:._/-]{1,128}))?"
_MADE: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Metric]], ...]] = (
    (re.compile(rf"({'|'.join(_TIMES)})\.(p50|p90|p95|p99)"), _quantile),
    (re.compile(rf"({'|'.join(_TIMES)})>([0-9.a-z]+)"), _beyond),
    (re.compile(r"feedback:([A-Za-z0-9_.-]{1,64})(?:@([0-9.a-z]+))?"), _feedback),
    (re.compile(rf"score:{_EVALUATOR}(?:<([0-9]+(?:\.[0-9]+)?))?"), _score),
    (re.compile(rf"preference:{_EVALUATOR}"), _preference),
)
