"""What does an experiment's YAML file declare, and is it a declaration that can be run?

Text in, `ExperimentSpec` out; or every problem at once, each with file, line, field, what was found, what
was expected and how to mend it. Knows no registry and no ledger: whether the versions exist is asked at
the start (`experiments.lifecycle`).
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, TypeAlias

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from registry import names
from registry.errors import InvalidEntry

from . import metrics, quantities
from .document import Document, Path, check, in_order, read_document, shown
from .errors import DocumentError, Problem
from .evidence import AnalysisSpec, Goal

Mode = Literal["shadow", "canary", "ab"]
OnShip = Literal["hold", "promote"]
#: statistics.md §2.4: how much worse a candidate's failure rate may be before that counts.
DEFAULT_TOLERATED_RATIO: Final = 1.25

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_UNIT: Final = re.compile(r"user|session|tenant|request|header:[A-Za-z0-9-]{1,64}")


def _wrong(value: object, expected: str, mend: str | None = None) -> PydanticCustomError:
    return _contradiction(shown(value), expected, mend)


def _contradiction(found: str, expected: str, mend: str | None = None) -> PydanticCustomError:
    context = {"found": found, "expected": expected}
    return PydanticCustomError("turnout", "{expected}", context | ({"mend": mend} if mend else {}))


def _reads(parse: Callable[[object], float], expected: str, mend: str) -> BeforeValidator:
    def read(value: object) -> float:
        try:
            return parse(value)
        except ValueError:
            raise _wrong(value, expected, mend) from None

    return BeforeValidator(read)


def _matches(pattern: re.Pattern[str], expected: str) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _wrong(value, expected)
        return value

    return BeforeValidator(read)


def _version(value: object) -> int | str:
    try:
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            return names.reference(value)
    except InvalidEntry:
        pass
    raise _wrong(value, "a version number such as 3, or an alias such as production")


def _model(value: object) -> object:
    try:
        return names.model_name(value)  # type: ignore[arg-type]  # it refuses what is no text
    except InvalidEntry:
        raise _wrong(value, "a registered model's name") from None


def _metric(value: object) -> object:
    try:
        return metrics.metric(str(value)).name
    except metrics.MetricError:
        near = difflib.get_close_matches(str(value), metrics.CATALOGUE, n=1)
        mend = f"Did you mean {near[0]!r}?" if near else None
        raise _wrong(value, f"one of {', '.join(metrics.CATALOGUE)}, or feedback:NAME", mend) from None


Duration: TypeAlias = Annotated[
    float,
    _reads(quantities.seconds, "a duration such as 30s, 10m, 12h or 7d", "Write the unit with the number"),
]
Points: TypeAlias = Annotated[
    float, _reads(quantities.points, "a percentage from 0 to 100, such as 5 or 5%", "Write 5 or 5%")
]
Share: TypeAlias = Annotated[
    float,
    _reads(
        quantities.fraction,
        "a share between 0% and 100%, such as 5% or 0.05",
        "Write the % sign, or a fraction",
    ),
]
VersionRef: TypeAlias = Annotated[int | str, BeforeValidator(_version)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SuccessMetric(_Strict):
    """What the candidate is hoped to be better at."""

    metric: Annotated[str, BeforeValidator(_metric)] = Field(description="a metric's name, such as latency")
    mde: Share | None = Field(
        default=None, description="the smallest relative improvement worth finding, such as 5%"
    )


class Guardrail(_Strict):
    """What the candidate must not be worse at, and by how much it may be before that counts."""

    metric: Annotated[str, BeforeValidator(_metric)] = Field(
        description="a metric's name, such as error_rate"
    )
    tolerated_ratio: float | None = Field(
        default=None,
        gt=1,
        le=100,
        description="how many times the control's failure rate is tolerated: a number above 1, such as 1.25",
    )
    margin: Share | None = Field(
        default=None, description="the relative worsening that is tolerated, such as 10%"
    )

    @model_validator(mode="after")
    def _fits_the_metric(self) -> Guardrail:
        counts_failures = metrics.metric(self.metric).kind == "binary"
        if not counts_failures and self.tolerated_ratio is not None:
            raise _contradiction(
                f"tolerated_ratio for {self.metric}",
                "margin: tolerated_ratio is for failure rates",
                "Write margin: 10% instead",
            )
        if not counts_failures and self.margin is None:
            raise _contradiction(
                f"no margin for {self.metric}",
                "margin: the worsening that is tolerated",
                "A guardrail against any harm at all can never be passed: add margin: 10%",
            )
        return self


class Metrics(_Strict):
    """What decides."""

    success: list[SuccessMetric] = Field(default=[], description="a list of success metrics")
    guardrails: list[Guardrail] = Field(default=[], description="a list of guardrails")


class Analysis(_Strict):
    """How sure to be, how long to wait."""

    alpha: Share = Field(default=0.05, lt=0.5, description="the chance of shipping by luck: below 0.5")
    rollback_alpha: Share = Field(
        default=0.01, lt=0.5, description="the chance of rolling a healthy candidate back: below 0.5"
    )
    power: Share = Field(default=0.8, gt=0.5, description="the chance of seeing a real effect: above 0.5")
    horizon: int = Field(
        default=5000, ge=2, le=1_000_000_000, description="the number of units after which it ends: 2 or more"
    )
    looks: int = Field(default=5, ge=1, le=100, description="how often to look before the horizon: 1 to 100")
    min_duration: Duration = Field(default=0.0, description="a duration such as 1h")
    max_duration: Duration = Field(default=7 * 86_400.0, description="a duration such as 7d")

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Analysis:
        if self.max_duration < self.min_duration:
            longest = quantities.duration_text(self.max_duration)
            raise _contradiction(
                f"max_duration {longest}, shorter than min_duration", "min_duration <= max_duration"
            )
        return self


class GoldenGate(_Strict):
    """The golden run that a candidate must have passed before it gets traffic."""

    require: Literal["pass"] = Field(description="the word pass")
    set: str = Field(min_length=1, max_length=200, description="the name of a golden set")


class AbTraffic(_Strict):
    """A fixed share of the units."""

    weight: Points = Field(default=50.0, description="the candidate's percentage of the units, such as 50")

    @field_validator("weight", mode="after")
    @classmethod
    def _somebody(cls, value: float) -> float:
        return _some_traffic(value)


class CanaryTraffic(_Strict):
    """A share that grows step by step."""

    ramp: list[Points] = Field(
        default=[1.0, 5.0, 10.0, 25.0, 50.0],
        min_length=1,
        max_length=50,
        description="the candidate's percentages, each larger than the one before, such as [5, 25, 50]",
    )
    min_units: int = Field(default=100, ge=0, description="candidate units before the next step: 0 or more")
    min_duration: Duration = Field(default=600.0, description="a duration such as 10m")

    @field_validator("ramp", mode="after")
    @classmethod
    def _grows(cls, steps: list[float]) -> list[float]:
        _some_traffic(steps[0])
        if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            expected = "percentages, each larger than the one before, such as [5, 25, 50]"
            raise _wrong(steps, expected, f"Write {sorted(set(steps))}")
        return steps


class ShadowTraffic(_Strict):
    """A share of the requests, copied to a candidate whose answers nobody sees."""

    share: Points = Field(
        default=100.0, description="the percentage of the units that is mirrored, such as 20"
    )
    tools: Literal["skip", "send"] = Field(
        default="skip", description="skip or send: what to do with requests that offer tools"
    )
    max_in_flight: int = Field(
        default=16, ge=1, le=10_000, description="copies under way at once, 1 to 10000"
    )

    @field_validator("share", mode="after")
    @classmethod
    def _somebody(cls, value: float) -> float:
        return _some_traffic(value)


def _some_traffic(value: float) -> float:
    # Parts per million are the grain of assignment: less than one of them is nobody.
    if value < 0.0001:
        raise _wrong(value, "more than 0: a candidate without traffic cannot be judged")
    return value


Traffic: TypeAlias = AbTraffic | CanaryTraffic | ShadowTraffic


class ExperimentSpec(_Strict):
    """A declared comparison of a model's control version with a candidate version."""

    experiment: Annotated[str, _matches(_NAME, "a name of a-z, 0-9, '.', '_' and '-', at most 63 long")] = (
        Field(description="the experiment's name, such as faster-chat")
    )
    model: Annotated[str, BeforeValidator(_model)] = Field(description="the name of a registered model")
    mode: Mode = Field(description="one of shadow, canary, ab")
    control: VersionRef = Field(default="production", description="a version number or an alias")
    candidate: VersionRef = Field(description="a version number such as 3, or an alias")
    unit: Annotated[str, _matches(_UNIT, "user, session, tenant, request or header:NAME")] = Field(
        default="user", description="user, session, tenant, request or header:NAME"
    )
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


_BY_MODE: Final[dict[str, type[ExperimentSpec]]] = {"ab": AbSpec, "canary": CanarySpec, "shadow": ShadowSpec}


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


def read_spec(text: str, file: str = "spec.yaml") -> ExperimentSpec:
    """Parse and check a spec. Raises DocumentError with every problem that can be seen at once."""
    document = read_document(text, file)
    mode = document.value.get("mode") if isinstance(document.value, dict) else None
    problems = list(_contradictions(document))
    spec = None
    try:
        spec = check(
            document, _BY_MODE.get(mode, ExperimentSpec) if isinstance(mode, str) else ExperimentSpec
        )
    except DocumentError as error:
        problems += error.problems
    if problems or spec is None:
        raise DocumentError(in_order(problems))
    return spec


def _contradictions(document: Document) -> Iterator[Problem]:
    """What no single field can know: fields that are right one by one and wrong together."""
    value = document.value
    if not isinstance(value, dict):
        return
    metrics = value.get("metrics")
    entries = metrics if isinstance(metrics, dict) else {}
    for role in ("success", "guardrails"):
        seen: dict[str, int] = {}
        listed = entries.get(role)
        for index, entry in enumerate(listed if isinstance(listed, list) else []):
            name = entry.get("metric") if isinstance(entry, dict) else None
            if isinstance(name, str) and name in seen:
                path: Path = ("metrics", role, index, "metric")
                yield document.problem(
                    path, f"{name!r} a second time", "each metric once", "Remove one of the two"
                )
            elif isinstance(name, str):
                seen[name] = index
    if not entries.get("success") and not entries.get("guardrails"):
        yield document.problem(
            ("metrics",),
            "no metric",
            "at least one success metric or guardrail",
            "Add metrics: {guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]}",
        )
    control, candidate = value.get("control", "production"), value.get("candidate")
    if candidate is not None and str(control) == str(candidate):
        yield document.problem(
            ("candidate",),
            shown(candidate),
            "another version than the control",
            "Name the version to be tried",
        )
