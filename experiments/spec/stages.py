"""Which stages does a candidate go through, and what is done in each of them?

The order is always golden, shadow, canary, ab: each costs more than the one before, and each one's verdict
is the permission for the next. A file declares those that it wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from .fields import Strict, contradiction
from .measures import Analysis, GoldenGate
from .recorded import Recorded
from .traffic import AbTraffic, CanaryTraffic, ShadowTraffic, Traffic

#: How a candidate gets traffic in one stage.
StageMode = Literal["shadow", "canary", "ab"]
_OWN = "a mapping such as {horizon: 500}; default: the experiment's"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of an experiment with one mode, one plan of looks and a verdict of its own."""

    mode: StageMode
    traffic: Traffic
    analysis: Analysis
    last: bool

    @property
    def weights_ppm(self) -> tuple[int, ...]:
        """The candidate's weights, one a phase, in parts per million; of a shadow, the share mirrored."""
        if isinstance(self.traffic, CanaryTraffic):
            return tuple(_ppm(step) for step in self.traffic.ramp)
        traffic = self.traffic
        return (_ppm(traffic.weight if isinstance(traffic, AbTraffic) else traffic.share),)

    @property
    def recorded(self) -> Recorded | None:
        """Which recorded requests its copies are of; None where they are of live ones, or there are none."""
        return self.traffic.recorded if isinstance(self.traffic, ShadowTraffic) else None

    @property
    def holds_ppm(self) -> frozenset[int]:
        """The weights at which the ramp waits for its operator."""
        held = self.traffic.hold_at if isinstance(self.traffic, CanaryTraffic) else ()
        return frozenset(_ppm(step) for step in held)


def _ppm(percentage: float) -> int:
    return round(percentage * 10_000)


class ShadowStage(ShadowTraffic):
    """Copies of the traffic, whose answers nobody sees."""

    analysis: Analysis | None = Field(default=None, description=_OWN)


class CanaryStage(CanaryTraffic):
    """A share of the units that grows while the guardrails hold."""

    analysis: Analysis | None = Field(default=None, description=_OWN)


class AbStage(AbTraffic):
    """A fixed share of the units, up to a declared horizon."""

    analysis: Analysis | None = Field(default=None, description=_OWN)


class Stages(Strict):
    """The stages of a chain, in the order in which they are gone through."""

    golden: GoldenGate | None = Field(
        default=None, description="a mapping such as {require: pass, set: support}"
    )
    shadow: ShadowStage | None = Field(default=None, description="a mapping such as {share: 20}")
    canary: CanaryStage | None = Field(default=None, description="a mapping such as {ramp: [5, 25]}")
    ab: AbStage | None = Field(default=None, description="a mapping such as {weight: 50}")

    @model_validator(mode="after")
    def _some_traffic(self) -> Stages:
        if not (self.shadow or self.canary or self.ab):
            raise contradiction("no stage with traffic", "one of shadow, canary, ab", "Add ab: {weight: 50}")
        return self

    def plan(self, analysis: Analysis) -> tuple[Stage, ...]:
        """The stages with traffic; `analysis` is for those that declare none of their own."""
        declared: list[tuple[StageMode, ShadowStage | CanaryStage | AbStage]] = []
        if self.shadow:
            declared.append(("shadow", self.shadow))
        if self.canary:
            declared.append(("canary", self.canary))
        if self.ab:
            declared.append(("ab", self.ab))
        return tuple(
            Stage(
                mode=mode,
                traffic=traffic,
                analysis=traffic.analysis or analysis,
                last=number == len(declared),
            )
            for number, (mode, traffic) in enumerate(declared, start=1)
        )
