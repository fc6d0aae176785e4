"""What is done without asking when evidence is missing or bad, and who is kept out of an experiment?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .fields import Duration, GroupName, Points, Strict, contradiction

Policy = Literal["hold", "roll_back", "warn"]
_CHOICE = "hold, roll_back or warn"


class Policies(Strict):
    """What follows when the evidence cannot be used. Nothing is shipped meanwhile, whatever is chosen.

    `hold`: the ramp stands still. `roll_back`: the candidate loses its traffic. `warn`: it is recorded, and
    the ramp goes on.
    """

    sample_ratio: Policy = Field(default="hold", description=_CHOICE)
    missing_outcomes: Policy = Field(default="hold", description=_CHOICE)
    judge_changed: Policy = Field(default="hold", description=_CHOICE)
    no_traffic: Policy = Field(default="hold", description=_CHOICE)
    no_traffic_after: Duration = Field(default=3600.0, description="a duration such as 1h")


class Exclude(Strict):
    """Requests that never enter the experiment: production answers them, and no metric counts them."""

    tenants: list[str] = Field(default=[], max_length=1000, description="a list of tenants")
    headers: dict[str, str] = Field(default={}, description='a mapping such as {x-internal: "1"}')
    tags: dict[str, str] = Field(
        default={}, description="a mapping of the request's metadata, such as {tier: gold}"
    )

    @model_validator(mode="after")
    def _somebody(self) -> Exclude:
        if not self.tenants and not self.headers and not self.tags:
            raise contradiction("nothing", "tenants, headers or tags", "Name them, or remove the key")
        return self


class Exclusive(Strict):
    """Units that this experiment has for itself: experiments of one group never share a unit."""

    group: GroupName = Field(description="the group's name")
    units: list[Points] = Field(
        min_length=2,
        max_length=2,
        description="the part of the group's units, such as [0, 50]; experiments of one group do not overlap",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Exclusive:
        if self.units[1] <= self.units[0]:
            raise contradiction(f"units {list(self.units)}", "a smaller number, then a larger one")
        return self
