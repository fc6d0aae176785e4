"""What does an experiment's YAML file declare, and is it a declaration that can be run?

Text in, `ExperimentSpec` out; or every problem at once, each with file, line, field, what was found, what
was expected and how to mend it. Knows no registry and no ledger: whether the versions exist is asked at
the start (`experiments.steering.control`).
"""

from __future__ import annotations

from .conduct import Exclude, Exclusive, Policies, Policy
from .declaration import (
    DEFAULT_TOLERATED_RATIO,
    AbSpec,
    CanarySpec,
    ChainSpec,
    ExperimentSpec,
    Mode,
    OnShip,
    ShadowSpec,
    analysis_of,
)
from .fields import Duration, Points, Share, VersionRef
from .measures import Analysis, GoldenGate, Guardrail, Metrics, SuccessMetric
from .reading import read_spec
from .recorded import Recorded
from .shadow import Pressure, Prices
from .stages import AbStage, CanaryStage, ShadowStage, Stage, StageMode, Stages
from .traffic import AbTraffic, CanaryTraffic, ShadowTraffic, Traffic

__all__ = [
    "DEFAULT_TOLERATED_RATIO",
    "AbSpec",
    "AbStage",
    "AbTraffic",
    "Analysis",
    "CanarySpec",
    "CanaryStage",
    "CanaryTraffic",
    "ChainSpec",
    "Duration",
    "Exclude",
    "Exclusive",
    "ExperimentSpec",
    "GoldenGate",
    "Guardrail",
    "Metrics",
    "Mode",
    "OnShip",
    "Points",
    "Policies",
    "Policy",
    "Pressure",
    "Prices",
    "Recorded",
    "ShadowSpec",
    "ShadowStage",
    "ShadowTraffic",
    "Share",
    "Stage",
    "StageMode",
    "Stages",
    "SuccessMetric",
    "Traffic",
    "VersionRef",
    "analysis_of",
    "read_spec",
]
