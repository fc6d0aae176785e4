"""What is measured, how sure must one be, and what must a candidate have passed before?"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

from pydantic import Field, model_validator

from .. import metrics, quantities
from .fields import Duration, MetricName, Share, Strict, contradiction

_ADJUST: Final = "true: less what the unit's own past explains (CUPED); for means and ratios"
Adjustable = TypeVar("Adjustable", "SuccessMetric", "Guardrail")


class SuccessMetric(Strict):
    """What the candidate is hoped to be better at."""

    metric: MetricName = Field(description="a metric's name, such as latency")
    mde: Share | None = Field(
        default=None, description="the smallest relative improvement worth finding, such as 5%"
    )
    goal: Literal["better", "equivalent"] = Field(default="better", description="better or equivalent")
    margin: Share | None = Field(
        default=None, description="how far apart still is equivalent, such as 5%; for goal: equivalent"
    )
    adjust: bool = Field(default=False, description=_ADJUST)

    @model_validator(mode="after")
    def _margin_where_equivalent(self) -> SuccessMetric:
        if (self.margin is not None) != (self.goal == "equivalent"):
            raise contradiction(
                f"goal: {self.goal} {'without' if self.margin is None else 'with'} a margin",
                "a margin with goal: equivalent, and only there",
                "What is the same within nothing cannot be shown: add margin: 5%",
            )
        return _adjustable(self)


class Guardrail(Strict):
    """What the candidate must not be worse at, and by how much it may be before that counts."""

    metric: MetricName = Field(description="a metric's name, such as error_rate")
    tolerated_ratio: float | None = Field(
        default=None,
        gt=1,
        le=100,
        description="how many times the control's failure rate is tolerated: a number above 1, such as 1.25",
    )
    margin: Share | None = Field(
        default=None, description="the relative worsening that is tolerated, such as 10%"
    )
    adjust: bool = Field(default=False, description=_ADJUST)

    @model_validator(mode="after")
    def _fits_the_metric(self) -> Guardrail:
        counts_failures = metrics.metric(self.metric).kind == "binary"
        if not counts_failures and self.tolerated_ratio is not None:
            raise contradiction(
                f"tolerated_ratio for {self.metric}",
                "margin: tolerated_ratio is for failure rates",
                "Write margin: 10% instead",
            )
        if not counts_failures and self.margin is None:
            raise contradiction(
                f"no margin for {self.metric}",
                "margin: the worsening that is tolerated",
                "A guardrail against any harm at all can never be passed: add margin: 10%",
            )
        return _adjustable(self)


def _adjustable(declared: Adjustable) -> Adjustable:
    """Only what is a mean or a ratio of exchanges has a past by which it can be adjusted."""
    found = metrics.metric(declared.metric)
    if declared.adjust and (found.source is not None or found.kind in ("binary", "quantile")):
        raise contradiction(
            f"adjust for {declared.metric}",
            "adjust with a mean or a ratio of what is in the exchanges, such as latency or tokens_per_second",
            "Leave adjust out",
        )
    return declared


class ExploratoryMetric(Strict):
    """What is only looked at: it decides nothing."""

    metric: MetricName = Field(description="a metric's name, such as completion_tokens")


class TokenPrices(Strict):
    """What a version's tokens cost, per million."""

    prompt: float = Field(ge=0, le=1e6, description="the price of a million prompt tokens, such as 0.15")
    completion: float = Field(
        ge=0, le=1e6, description="the price of a million completion tokens, such as 0.60"
    )
    cached: float | None = Field(
        default=None, ge=0, le=1e6, description="the price of a million prompt tokens from the cache"
    )


class Prices(Strict):
    """What each arm's tokens cost."""

    control: TokenPrices = Field(description="a mapping such as {prompt: 0.15, completion: 0.60}")
    candidate: TokenPrices = Field(description="a mapping such as {prompt: 0.10, completion: 0.40}")


class Metrics(Strict):
    """What decides, and what is looked at besides."""

    success: list[SuccessMetric] = Field(default=[], description="a list of success metrics")
    guardrails: list[Guardrail] = Field(default=[], description="a list of guardrails")
    exploratory: list[ExploratoryMetric] = Field(default=[], description="a list of metrics")
    prices: Prices | None = Field(default=None, description="a mapping with control and candidate")

    @model_validator(mode="after")
    def _priced(self) -> Metrics:
        named = [
            *(one.metric for one in self.success),
            *(one.metric for one in self.guardrails),
            *(one.metric for one in self.exploratory),
        ]
        if "cost" in named and self.prices is None:
            raise contradiction(
                "cost without prices",
                "prices: what each arm's tokens cost, per million",
                "Add prices: {control: {prompt: 0.15, completion: 0.60}, candidate: {...}} to metrics",
            )
        return self

    def measured(self, name: str) -> metrics.Metric:
        """The metric of that name, with the prices that it needs."""
        prices = self.prices
        if prices is None:
            return metrics.metric(name)
        arms = tuple(
            (arm, metrics.Prices(prompt=of.prompt, completion=of.completion, cached=of.cached))
            for arm, of in (("control", prices.control), ("candidate", prices.candidate))
        )
        return metrics.priced(metrics.metric(name), arms)


class Analysis(Strict):
    """How sure to be, how long to wait."""

    alpha: Share = Field(default=0.05, lt=0.5, description="the chance of shipping by luck: below 0.5")
    rollback_alpha: Share = Field(
        default=0.01, lt=0.5, description="the chance of rolling a healthy candidate back: below 0.5"
    )
    power: Share = Field(
        default=0.8,
        gt=0.5,
        le=0.9999,
        description="the chance of seeing a real effect: above 0.5, at most 0.9999",
    )
    horizon: int = Field(
        default=5000,
        ge=2,
        le=1_000_000_000,
        description="the number of units after which it ends: 2 to 1,000,000,000",
    )
    looks: int = Field(default=5, ge=1, le=100, description="how often to look before the horizon: 1 to 100")
    history: Duration = Field(
        default=14 * 86_400.0,
        gt=0,
        description="a duration such as 14d: how far back a unit's past is read for metrics with adjust",
    )
    min_duration: Duration = Field(default=0.0, description="a duration such as 1h")
    max_duration: Duration = Field(default=7 * 86_400.0, description="a duration such as 7d")

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Analysis:
        if self.max_duration < self.min_duration:
            longest = quantities.duration_text(self.max_duration)
            raise contradiction(
                f"max_duration {longest}, shorter than min_duration", "min_duration <= max_duration"
            )
        return self


class GoldenGate(Strict):
    """The golden run that a candidate must have passed before it gets traffic."""

    require: Literal["pass"] = Field(description="the word pass")
    set: str = Field(min_length=1, max_length=200, description="the name of a golden set")
