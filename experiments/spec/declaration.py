"""What does an experiment declare as a whole?"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, Literal

import orjson
from pydantic import Field

from .. import metrics
from ..evidence import AnalysisSpec, Goal
from .fields import ExperimentName, ModelName, Strict, UnitKind, VersionRef
from .measures import Analysis, GoldenGate, Metrics
from .traffic import AbTraffic, CanaryTraffic, ShadowTraffic, Traffic

Mode = Literal["shadow", "canary", "ab"]
OnShip = Literal["hold", "promote"]
#: statistics.md §2.4: how much worse a candidate's failure rate may be before that counts.
DEFAULT_TOLERATED_RATIO: Final = 1.25


class ExperimentSpec(Strict):
    """A declared comparison of a model's control version with a candidate version."""

    experiment: ExperimentName = Field(description="the experiment's name, such as faster-chat")
    model: ModelName = Field(description="the name of a registered model")
    mode: Mode = Field(description="one of shadow, canary, ab")
    control: VersionRef = Field(default="production", description="a version number or an alias")
    candidate: VersionRef = Field(description="a version number such as 3, or an alias")
    unit: UnitKind = Field(default="user", description="user, session, tenant, request or header:NAME")
    traffic: Any = Field(default=None, description="a mapping")
    metrics: Metrics = Field(default=Metrics(), description="a mapping with success and guardrails")
    analysis: Analysis = Field(default=Analysis(), description="a mapping such as {horizon: 5000}")
    golden: GoldenGate | None = Field(
        default=None, description="a mapping such as {require: pass, set: support}"
    )
    on_ship: OnShip = Field(default="hold", description="hold or promote")

    @property
    def weights_ppm(self) -> tuple[int, ...]:
        """The candidate's weights, one a phase, in parts per million. A shadow's share for a shadow."""
        traffic: Traffic = self.traffic
        if isinstance(traffic, CanaryTraffic):
            return tuple(_ppm(step) for step in traffic.ramp)
        return (_ppm(traffic.weight if isinstance(traffic, AbTraffic) else traffic.share),)

    def digest(self) -> str:
        """SHA-256 (hex) of what is declared, whatever the file looks like: the same spec, the same digest."""
        return sha256(orjson.dumps(self.model_dump(), option=orjson.OPT_SORT_KEYS)).hexdigest()


class AbSpec(ExperimentSpec):
    """mode: ab."""

    mode: Literal["ab"] = Field(description="ab")
    traffic: AbTraffic = Field(default=AbTraffic(), description="a mapping such as {weight: 50}")


class CanarySpec(ExperimentSpec):
    """mode: canary."""

    mode: Literal["canary"] = Field(description="canary")
    traffic: CanaryTraffic = Field(
        default=CanaryTraffic(), description="a mapping such as {ramp: [5, 25, 50]}"
    )


class ShadowSpec(ExperimentSpec):
    """mode: shadow."""

    mode: Literal["shadow"] = Field(description="shadow")
    traffic: ShadowTraffic = Field(default=ShadowTraffic(), description="a mapping such as {share: 20}")


BY_MODE: Final[dict[str, type[ExperimentSpec]]] = {"ab": AbSpec, "canary": CanarySpec, "shadow": ShadowSpec}


def analysis_of(spec: ExperimentSpec, *, control_version: int, candidate_version: int) -> AnalysisSpec:
    """What the statistics need of a spec."""
    success = [
        Goal(metric=metrics.metric(goal.metric), role="success", mde=goal.mde)
        for goal in spec.metrics.success
    ]
    guardrails = [
        Goal(
            metric=metrics.metric(rail.metric),
            role="guardrail",
            tolerated_ratio=rail.tolerated_ratio or DEFAULT_TOLERATED_RATIO,
            margin=rail.margin,
        )
        for rail in spec.metrics.guardrails
    ]
    declared = spec.analysis
    return AnalysisSpec(
        experiment=spec.experiment,
        mode=spec.mode,
        unit=spec.unit,
        goals=(*success, *guardrails),
        control_version=control_version,
        candidate_version=candidate_version,
        alpha=declared.alpha,
        rollback_alpha=declared.rollback_alpha,
        power=declared.power,
        horizon=declared.horizon,
        looks=declared.looks,
        min_duration_s=declared.min_duration,
        max_duration_s=declared.max_duration,
        golden_required=spec.golden is not None,
    )


def _ppm(percentage: float) -> int:
    return round(percentage * 10_000)
