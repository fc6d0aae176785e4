"""How much traffic does a candidate get, in which steps, and what is copied to it?"""

from __future__ import annotations

import itertools
from typing import Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from .fields import Duration, Points, Strict, contradiction, wrong
from .recorded import Recorded
from .shadow import Pressure, Prices, Size


class AbTraffic(Strict):
    """A fixed share of the units."""

    weight: Points = Field(default=50.0, description="the candidate's percentage of the units, such as 50")

    @field_validator("weight", mode="after")
    @classmethod
    def _somebody(cls, value: float) -> float:
        return _some_control(_some_traffic(value))


class CanaryTraffic(Strict):
    """A share that grows step by step."""

    ramp: list[Points] = Field(
        default=[1.0, 5.0, 10.0, 25.0, 50.0],
        min_length=1,
        max_length=50,
        description="the candidate's percentages, each larger than the one before, such as [5, 25, 50]",
    )
    min_units: int = Field(default=100, ge=0, description="candidate units before the next step: 0 or more")
    min_duration: Duration = Field(default=600.0, description="a duration such as 10m")
    hold_at: list[Points] = Field(
        default=[],
        max_length=50,
        description="percentages of the ramp at which it waits for `turnout experiment advance`",
    )

    @model_validator(mode="after")
    def _holds_on_the_ramp(self) -> CanaryTraffic:
        stray = [step for step in self.hold_at if step not in self.ramp]
        if stray:
            raise contradiction(
                f"hold_at {stray}", "percentages that are steps of the ramp", f"Use {self.ramp}"
            )
        return self

    @field_validator("ramp", mode="after")
    @classmethod
    def _grows(cls, steps: list[float]) -> list[float]:
        _some_traffic(steps[0])
        if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            expected = "percentages, each larger than the one before, such as [5, 25, 50]"
            raise wrong(steps, expected, f"Write {sorted(set(steps))}")
        _some_control(steps[-1])
        return steps


class ShadowTraffic(Strict):
    """A share of the requests, copied to a candidate whose answers nobody sees. With `recorded` they are
    requests of the past, which `turnout replay` puts to it.
    """

    share: Points = Field(
        default=100.0, description="the percentage of the units that is mirrored, such as 20"
    )
    tools: Literal["skip", "send"] = Field(
        default="skip", description="skip or send: what to do with requests that offer tools"
    )
    max_in_flight: int = Field(
        default=16, ge=1, le=10_000, description="copies under way at once, 1 to 10000"
    )
    sample: Literal["unit", "request"] = Field(
        default="unit", description="unit or request: whether the share is of the units or of the requests"
    )
    max_bytes: Size = Field(
        default=32_000_000, description="a size such as 32MB: what copies under way may hold"
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=10**15, description="how many tokens all copies together may use"
    )
    max_cost: float | None = Field(
        default=None, gt=0, le=1e9, description="how much all copies together may cost, such as 20"
    )
    prices: Prices | None = Field(
        default=None, description="a mapping such as {prompt: 0.15, completion: 0.6}, per million tokens"
    )
    timeout: Duration = Field(default=300.0, gt=0, description="a duration such as 5m: the longest copy")
    pressure: Pressure = Field(
        default=Pressure(), description="a mapping such as {waiting: 8, kv_cache: 90%}"
    )
    priority: int | None = Field(
        default=None,
        ge=-(2**31),
        lt=2**31,
        description="what the engine's field `priority` gets in a copy: vLLM serves low numbers first",
    )

    recorded: Recorded | None = Field(
        default=None, description="a mapping such as {since: 24h, limit: 5000}: replayed, not live"
    )

    @model_validator(mode="after")
    def _knows_what_it_costs(self) -> ShadowTraffic:
        if self.max_cost is not None and self.prices is None:
            raise contradiction(
                "max_cost without prices", "prices", "Add prices: {prompt: 0.15, completion: 0.6}"
            )
        return self

    @field_validator("share", mode="after")
    @classmethod
    def _somebody(cls, value: float) -> float:
        return _some_traffic(value)


def _some_traffic(value: float) -> float:
    # Parts per million are the grain of assignment: less than one of them is nobody.
    if value < 0.0001:
        raise wrong(value, "more than 0: a candidate without traffic cannot be judged")
    return value


def _some_control(value: float) -> float:
    if value > 99.9999:
        raise wrong(
            value,
            "less than 100: with nobody on control there is nothing to compare the candidate with",
            "Write 50, and give it everybody by `turnout promote`, or `on_ship: promote`",
        )
    return value


Traffic: TypeAlias = AbTraffic | CanaryTraffic | ShadowTraffic
