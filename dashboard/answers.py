"""What does the control API answer, and which of it does the dashboard read?

Pydantic at the edge: unknown fields are ignored and most fields may be missing, so that an older or newer
controller still gives a page. It must not know how anything is shown.
"""

import math
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

T = TypeVar("T")


def _instant(value: Any) -> Any:
    """Seconds, milli-, micro- or nanoseconds since 1970, or ISO 8601; a time without a zone is UTC."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
        if not math.isfinite(seconds):
            raise ValueError("a time must be a finite number")
        while abs(seconds) > 1e11:  # beyond the year 5138: a finer unit
            seconds /= 1000
        return datetime.fromtimestamp(seconds, tz=UTC)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value


def _mapping(value: Any) -> Any:
    return {} if value is None else value


def _sequence(value: Any) -> Any:
    return () if value is None else value


Instant = Annotated[datetime, BeforeValidator(_instant)]
#: As an older controller may say null for none.
Many: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(_sequence)]
Named: TypeAlias = Annotated[dict[str, T], BeforeValidator(_mapping)]
JsonObject: TypeAlias = Named[Any]


class Answer(BaseModel):
    """A part of an answer: read only, tolerant of additions."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class EndpointAnswer(Answer):
    replicas: Many[str] = ()
    served_name: str | None = None
    engine: str | None = None


class VersionAnswer(Answer):
    version: int
    aliases: Many[str] = ()
    endpoint: EndpointAnswer | None = None
    problem: str | None = None
    tags: JsonObject = {}


class ModelAnswer(Answer):
    name: str
    production: int | None = None
    former: int | None = None
    versions: Many[VersionAnswer] = ()


class ArmAnswer(Answer):
    arm: str
    version: int | None = None
    weight_pct: float | None = None


class Reason(Answer):
    code: str = ""
    severity: str = "note"
    text: str = ""


class MetricArm(Answer):
    arm: str
    version: int | None = None
    units: int | None = None
    n: int | None = None
    missing: int | None = None
    value: float | None = None


class Effect(Answer):
    """An estimate with its interval. On `scale` ratio the null is 1, on difference 0."""

    scale: str = "difference"
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    level: float | None = None
    method: str | None = None
    null: float | None = None


class Metric(Answer):
    metric: str
    title: str | None = None
    role: str = "exploratory"
    kind: str = "mean"
    direction: str | None = None
    display_unit: str | None = None
    unit: str | None = None
    arms: Many[MetricArm] = ()
    effect: Effect | None = None
    band: Effect | None = None
    margin: float | None = None
    e_value: float | None = None
    threshold: float | None = None
    z: float | None = None
    z_bound: float | None = None
    adjusted_p: float | None = None
    instrument: str | None = None
    state: str = "no_data"
    text: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_scale(cls, values: Any) -> Any:
        """The band is on the effect's scale and does not say so again; alone it is what the kind implies."""
        if not isinstance(values, dict) or not isinstance(values.get("band"), dict):
            return values
        effect = values["effect"] if isinstance(values.get("effect"), dict) else {}
        implied = effect.get("scale") or ("ratio" if values.get("kind") == "log_mean" else "difference")
        return {**values, "band": {"scale": implied, "null": effect.get("null"), **values["band"]}}

    def arm(self, name: str) -> MetricArm | None:
        """The figures of one arm, or None if the metric has none for it."""
        return next((arm for arm in self.arms if arm.arm == name), None)


class Srm(Answer):
    """Sample-ratio check: do the arms hold the share of units that the split says?"""

    e_value: float | None = None
    threshold: float | None = None
    observed: JsonObject = {}
    expected: JsonObject = {}
    state: str | None = None


class Look(Answer):
    planned: int | None = None
    done: int | None = None


class TurnStratum(Answer):
    """A metric on the first turns of conversations, or on the later ones."""

    arms: Many[MetricArm] = ()
    effect: Effect | None = None
    text: str | None = None


class Turn(Answer):
    metric: str
    first: TurnStratum
    later: TurnStratum
    state: str = "insufficient_data"


class Verdict(Answer):
    kind: str
    label: str | None = None
    sentence: str | None = None
    reasons: Many[Reason] = ()
    metrics: Many[Metric] = ()
    turns: Many[Turn] = ()
    srm: Srm | None = None
    look: Look | None = None
    units: int | None = None
    horizon: int | None = None
    as_of: Instant | None = None
    digest: str | None = None


class Guardrail(Answer):
    metric: str
    state: str = "no_data"


class ArmAccount(Answer):
    assigned: int | None = None
    outcomes: Named[int] = {}
    failed: int | None = None
    fell_back: int | None = None
    shed: Named[int] = {}
    missing: int | None = None


class Replay(Answer):
    """Where the recorded requests of a replay stand: selected = paired + skipped + remaining."""

    selected: int | None = None
    paired: int | None = None
    skipped: Named[int] = {}
    remaining: int | None = None


class Window(Answer):
    """A stretch of the past."""

    since: Instant | None = None
    until: Instant | None = None


class Accounting(Answer):
    eligible: int | None = None
    recorded: int | None = None
    missing: int | None = None
    lost: int | None = None
    by_arm: Named[ArmAccount] = {}
    replay: Replay | None = None
    outside: Named[int] = {}
    not_copied: int | None = None


class Permission(Answer):
    """What let a candidate into a stage."""

    reason: str | None = None
    verdict_hash: str | None = None


class Step(Answer):
    """A stage of an experiment, or the promotion at its end."""

    stage: str
    state: str = "to_come"
    time_s: float | None = None
    verdict: Verdict | None = None
    permission: Permission | None = None


class Phase(Answer):
    phase: int
    started_at: Instant | None = None
    ended_at: Instant | None = None
    candidate_pct: float | None = None


class Experiment(Answer):
    """An ExperimentSummary, or an ExperimentView with its further fields filled."""

    name: str
    model: str
    mode: str = ""
    state: str = ""
    unit: str | None = None
    #: How much of the units may enter: the arms' weights are shares of these.
    entering_pct: float = 100.0
    arms: Many[ArmAnswer] = ()
    phase: int | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    age_s: float | None = None
    verdict: Verdict | None = None
    waiting_for: str | None = None
    note: str | None = None
    candidate_pct: float | None = None
    units: int | None = None
    horizon: int | None = None
    days_left: float | None = None
    guardrails: Many[Guardrail] = ()
    data_age_s: float | None = None
    recorded: Window | None = None
    accounting: Accounting | None = None
    spec_yaml: str | None = None
    phases: Many[Phase] = ()
    pipeline: Many[Step] = ()

    @property
    def candidate(self) -> ArmAnswer | None:
        """The first arm that is not control: what promote would promote."""
        return next((arm for arm in self.arms if arm.arm != "control"), None)

    @property
    def control(self) -> ArmAnswer | None:
        """The arm that everything is compared with."""
        return next((arm for arm in self.arms if arm.arm == "control"), None)


class Collector(Answer):
    lag_s: float | None = None
    segments_waiting: int | None = None
    rows: int | None = None
    torn_bytes: int | None = None
    quarantined: int | None = None


class Worker(Answer):
    worker: str
    snapshot: int | None = None
    last_seen_s: float | None = None


class RegistryState(Answer):
    ok: bool | None = None
    error: str | None = None
    last_ok_s: float | None = None


class LedgerState(Answer):
    path: str | None = None
    bytes: int | None = None
    exchanges: int | None = None


class TracesState(Answer):
    behind: int = 0
    skipped: int = 0
    error: str | None = None


class Health(Answer):
    as_of: Instant | None
    collector: Collector | None = None
    workers: Many[Worker] = ()
    snapshot: int | None = None
    snapshot_saved: bool | None = None
    losses: int | None = None
    pending: Many[str] = ()
    not_routed: Many[str] = ()
    config_error: str | None = None
    troubles: Many[str] = ()
    registry: RegistryState | None = None
    ledger: LedgerState | None = None
    traces: TracesState | None = None


class Overview(Answer):
    as_of: Instant | None = None
    models: tuple[ModelAnswer, ...]
    experiments: tuple[Experiment, ...]
    health: Health | None = None


class TrafficBucket(Answer):
    at: Instant
    arm: str | None = None
    phase: int | None = None
    #: Users' requests that are counted a second time, as the candidate's copies.
    mirrored: bool = False
    requests: int = 0
    failures: int | None = None
    p50_ttft_ms: float | None = None


class EffectAt(Answer):
    at: Instant
    stage: str = ""
    metric: str
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    scale: str | None = None
    margin: float | None = None


class Event(Answer):
    at: Instant
    action: str = ""
    actor: str | None = None
    reason: str | None = None
    text: str = ""
    state: str | None = None


class Timeline(Answer):
    traffic: tuple[TrafficBucket, ...]
    effects: Many[EffectAt] = ()
    events: Many[Event] = ()


class Output(Answer):
    version: int | None = None
    text: str | None = None
    tool_calls: Any = None
    outcome: str | None = None
    finish_reason: str | None = None
    ttft_ms: float | None = None
    duration_ms: float | None = None
    completion_tokens: int | None = None


class Pair(Answer):
    at: Instant | None = None
    prompt: str | None = None
    control: Output | None = None
    candidate: Output | None = None


class Pairs(Answer):
    total: int
    pairs: tuple[Pair, ...]


class Decision(Answer):
    """A decision row, or the DecisionView that promote and rollback answer."""

    decision_id: str | None = None
    at: Instant | None = None
    actor: str | None = None
    action: str = ""
    model: str | None = None
    experiment: str | None = None
    from_version: int | None = None
    to_version: int | None = None
    verdict_kind: str | None = None
    verdict_hash: str | None = None
    forced: bool | None = None
    reason: str | None = None
    state: str | None = None
    changed: Many[str] = ()
    unacknowledged: Many[str] = ()
    pending: Many[str] = ()
    elapsed_ms: float | None = None


class GoldenResult(Answer):
    item_id: str
    evaluator: str = ""
    status: str = ""
    value: float | None = None
    label: str | None = None
    explanation: str | None = None
    outcome: str | None = None
    detail: JsonObject = {}


class GoldenRun(Answer):
    run_id: str
    set_name: str | None = None
    model: str | None = None
    version: int | None = None
    status: str | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    results: int | None = None
    summary: JsonObject = {}


class GoldenRunResults(Answer):
    """One run with all its results."""

    run: GoldenRun
    results: Many[GoldenResult] = ()


class GoldenComparison(Answer):
    set_name: str | None = None
    model: str | None = None
    control_run: str | None = None
    candidate_run: str | None = None
    control_version: int | None = None
    candidate_version: int | None = None
    verdict: str = ""
    at: Instant | None = None
    result: JsonObject = {}


class Preflight(Answer):
    """A candidate held against a control before it has traffic; `result` has the findings, `outdated` what is
    another engine since."""

    model: str | None = None
    control_version: int | None = None
    candidate_version: int | None = None
    verdict: str = ""
    at: Instant | None = None
    result: JsonObject = {}
    outdated: Many[str] = ()
