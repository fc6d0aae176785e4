"""What does an experiment declare as a whole?"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, Literal

import orjson
from pydantic import Field

from .. import metrics
from ..evidence import AnalysisSpec, Goal
from .conduct import Exclude, Exclusive, Policies
from .fields import ExperimentName, ModelName, Points, Strict, UnitKind, VersionRef
from .measures import Analysis, GoldenGate, Metrics
from .stages import Stage, Stages
from .traffic import AbTraffic, CanaryTraffic, ShadowTraffic

Mode = Literal["shadow", "canary", "ab", "chain"]
OnShip = Literal["hold", "promote"]
#: statistics.md §2.4: how much worse a candidate's failure rate may be before that counts.
DEFAULT_TOLERATED_RATIO: Final = 1.25


class ExperimentSpec(Strict):
    """A declared comparison of a model's control version with a candidate version."""

    experiment: ExperimentName = Field(description="the experiment's name, such as faster-chat")
    model: ModelName = Field(description="the name of a registered model")
    mode: Mode = Field(description="one of shadow, canary, ab; or stages instead")
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
    policies: Policies = Field(default=Policies(), description="a mapping such as {no_traffic: roll_back}")
    exclude: Exclude | None = Field(default=None, description="a mapping such as {tenants: [acme]}")
    exclusive: Exclusive | None = Field(
        default=None, description="a mapping such as {group: checkout, units: [0, 50]}"
    )
    holdout: Points = Field(
        default=0.0, lt=100, description="the percentage of the units that never enter any experiment"
    )

    @property
    def plan(self) -> tuple[Stage, ...]:
        """The stages with traffic, the first one first."""
        raise NotImplementedError

    @property
    def gate(self) -> GoldenGate | None:
        """The golden run that comes before any traffic, None if none is asked for."""
        return self.golden

    def digest(self) -> str:
        """SHA-256 (hex) of what is declared, whatever the file looks like: the same spec, the same digest."""
        return sha256(orjson.dumps(self.model_dump(), option=orjson.OPT_SORT_KEYS)).hexdigest()


class _OneStage(ExperimentSpec):
    """An experiment with one mode from its beginning to its end."""

    @property
    def plan(self) -> tuple[Stage, ...]:
        assert self.mode != "chain"
        return (Stage(mode=self.mode, traffic=self.traffic, analysis=self.analysis, last=True),)


class AbSpec(_OneStage):
    """mode: ab."""

    mode: Literal["ab"] = Field(description="ab")
    traffic: AbTraffic = Field(default=AbTraffic(), description="a mapping such as {weight: 50}")


class CanarySpec(_OneStage):
    """mode: canary."""

    mode: Literal["canary"] = Field(description="canary")
    traffic: CanaryTraffic = Field(
        default=CanaryTraffic(), description="a mapping such as {ramp: [5, 25, 50]}"
    )


class ShadowSpec(_OneStage):
    """mode: shadow."""

    mode: Literal["shadow"] = Field(description="shadow")
    traffic: ShadowTraffic = Field(default=ShadowTraffic(), description="a mapping such as {share: 20}")


class ChainSpec(ExperimentSpec):
    """stages: one after the other; each one's verdict is the permission for the next."""

    mode: Literal["chain"] = Field(default="chain", description="chain, or left out")
    traffic: None = Field(default=None, description="nothing: each stage has its own")
    stages: Stages = Field(description="a mapping with golden, shadow, canary, ab")

    @property
    def plan(self) -> tuple[Stage, ...]:
        return self.stages.plan(self.analysis)

    @property
    def gate(self) -> GoldenGate | None:
        return self.golden or self.stages.golden


BY_MODE: Final[dict[str, type[ExperimentSpec]]] = {
    "ab": AbSpec,
    "canary": CanarySpec,
    "shadow": ShadowSpec,
    "chain": ChainSpec,
}


def analysis_of(
    spec: ExperimentSpec,
    *,
    control_version: int,
    candidate_version: int,
    stage: int = 0,
    first_phase: int = 1,
) -> AnalysisSpec:
    """What the statistics need of a stage. `first_phase` is the one with which the stage began.

    Before the last stage nothing but harm is judged: what the candidate is hoped to be better at is the last
    one's question, and a shadow's answers get no feedback, because nobody sees them. Where the requests are
    replayed, no time is compared: the two answers are of different hours.
    """
    here = spec.plan[stage]
    declared = here.analysis
    return AnalysisSpec(
        experiment=spec.experiment,
        mode=here.mode,
        unit=spec.unit,
        goals=_goals(spec, here),
        control_version=control_version,
        candidate_version=candidate_version,
        alpha=declared.alpha,
        rollback_alpha=declared.rollback_alpha,
        power=declared.power,
        horizon=declared.horizon,
        looks=declared.looks,
        history_s=declared.history,
        min_duration_s=declared.min_duration,
        max_duration_s=declared.max_duration,
        golden_required=spec.gate is not None,
        first_phase=first_phase,
        full_share=here.weights_ppm[-1] / 1e6 if here.mode == "canary" else 0.0,
        recorded=here.recorded is not None,
    )


def _goals(spec: ExperimentSpec, here: Stage) -> tuple[Goal, ...]:
    success = [
        Goal(
            metric=spec.metrics.measured(goal.metric),
            role="success",
            mde=goal.mde,
            margin=goal.margin,
            equivalent=goal.goal == "equivalent",
            adjusted=goal.adjust and here.mode != "shadow",
        )
        for goal in (spec.metrics.success if here.last else ())
    ]
    guardrails = [
        Goal(
            metric=spec.metrics.measured(rail.metric),
            role="guardrail",
            tolerated_ratio=rail.tolerated_ratio or DEFAULT_TOLERATED_RATIO,
            margin=rail.margin,
            adjusted=rail.adjust and here.mode != "shadow",
        )
        for rail in spec.metrics.guardrails
        if _asked(spec, here, rail.metric)
    ]
    exploratory = [
        Goal(metric=spec.metrics.measured(one.metric), role="exploratory")
        for one in spec.metrics.exploratory
        if _asked(spec, here, one.metric)
    ]
    return (*success, *guardrails, *exploratory)


def _asked(spec: ExperimentSpec, stage: Stage, name: str) -> bool:
    """Whether a stage is asked for it: where it can be measured; and if that is nowhere, in the last one,
    which then ships nothing."""
    return _has(stage, name) or (stage.last and not any(_has(one, name) for one in spec.plan))


def _has(stage: Stage, name: str) -> bool:
    """Whether a stage can measure it: a mirrored answer gets no feedback, a preference is of pairs, and
    answers of different hours tell no times."""
    found = metrics.metric(name)
    if stage.recorded is not None and found.timed:
        return False
    return found.in_pairs if stage.mode == "shadow" else not found.preference
