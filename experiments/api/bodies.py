"""What may be sent to the control API? Pydantic at the edge; unknown fields of a body are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field, StringConstraints

from ..declared import MAX_FILES
from ..steering.control import Author

Identity = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Version = Annotated[int, Field(ge=1, lt=2**31)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Reason = Annotated[str, StringConstraints(max_length=2000)]
FileName = Annotated[str, StringConstraints(min_length=1, max_length=5000)]
#: How long a list is at most.
Limit = Annotated[int, Query(ge=1, le=1000)]


class NewVersion(BaseModel):
    """A version to be registered, and where it is served; or where its weights are, to be served later."""

    replicas: list[str] = Field(
        default=[], description="base URLs, such as http://127.0.0.1:9001; none: it is not served yet"
    )
    served_name: str | None = Field(
        default=None, description="the engine's name for it; default: the model's"
    )
    engine: str = Field(
        default="vllm",
        description="vllm, sglang, llama.cpp, ...; litellm for a provider: no replicas, and served_name is "
        "PROVIDER/MODEL",
    )
    credential: str | None = Field(
        default=None,
        description="of a provider: the variable of the proxy's environment that holds its key, such as "
        "ANTHROPIC_API_KEY",
    )
    aliases: list[str] = Field(default=[], description="aliases to set, such as production")
    tags: dict[str, str] = Field(default={}, description="tags of your own")
    source: str | None = Field(default=None, description="where the weights are: a path or a hub's id")


class Why(BaseModel):
    """Who wants it, and why."""

    reason: Reason | None = None
    actor: Short = "operator"

    @property
    def author(self) -> Author:
        return Author(actor=self.actor, reason=self.reason)


class Promote(Why):
    """Which version is to become production. Without a version: the one that a verdict says to ship."""

    version: int | str | None = None
    force: bool = False
    dry_run: bool = False


class Rollback(Why):
    """`experiment` releases the candidate of that one alone; `production` true takes production itself back
    even while an experiment runs."""

    dry_run: bool = False
    experiment: str | None = None
    production: bool = False


class SpecText(BaseModel):
    """An experiment's YAML, and the name of the file that it came from, for the messages."""

    spec_yaml: str
    filename: FileName = "spec.yaml"


class NewExperiment(SpecText):
    """An experiment that begins. A `draft` gets no traffic before it is submitted."""

    actor: Short = "operator"
    draft: bool = False


class DeclaredFile(BaseModel):
    """A file of the folder: its path for the messages, its last part says what it is, and its text."""

    path: FileName
    text: str


class Apply(BaseModel):
    """What is to be: turnout.yaml and experiments' files. `plan` is the digest that a dry run answered."""

    files: Annotated[list[DeclaredFile], Field(max_length=MAX_FILES)]
    prune: bool = Field(
        default=False, description="stop the experiments that an apply began and no file declares"
    )
    dry_run: bool = False
    plan: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    actor: Short = "operator"
    reference: Short | None = Field(default=None, description="where the files come from: a git commit")


class PastTraffic(SpecText):
    """A spec whose metrics are asked of the traffic so far: of how many days, and of how many units."""

    days: Annotated[float, Field(gt=0, le=366)] = 7.0
    units: Annotated[int, Field(ge=1, le=50_000)] = 20_000


class NewRun(BaseModel):
    """A golden run that begins. The client makes the id, so that sending it twice does no harm."""

    run_id: Identity
    set_name: Short
    set_hash: Short
    model: Short
    version: Version
    parameters: dict[str, Any] = {}


class Result(BaseModel):
    """How one evaluator scored one item."""

    item_id: Short
    item_hash: Short
    repeat: int = Field(ge=0)
    evaluator: Short
    evaluator_version: str
    status: Literal["scored", "unscored", "error", "skipped"]
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    label: str | None = None
    explanation: str | None = None
    detail: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    outcome: str | None = None
    request_id: str | None = None


class Results(BaseModel):
    """At most 500 results."""

    results: list[Result] = Field(max_length=500)


class Finish(BaseModel):
    """How a run ended, and its summary."""

    status: Literal["complete", "partial", "failed"]
    summary: dict[str, Any]


class Comparison(BaseModel):
    """Two runs of the same set, compared by the client."""

    comparison_id: Identity
    set_name: Short
    set_hash: Short
    model: Short
    control_run: Identity
    candidate_run: Identity
    control_version: Version
    candidate_version: Version
    verdict: Literal["pass", "fail", "inconclusive"]
    result: dict[str, Any]


class LabelDraw(BaseModel):
    """So many items of two runs, in the order that the seed gives, are to be labelled for one check."""

    draw_id: Identity
    control_run: Identity
    candidate_run: Identity
    evaluator: Short
    seed: Short
    size: int = Field(ge=1, le=100_000)
    declared_by: Short = "operator"


class TaskOrigin(BaseModel):
    """What a label says of its task, which is a hash of all that was shown, and of where it came from."""

    task: Short
    set_name: Short
    item_id: Short
    item_hash: Short
    evaluator: Short
    evaluator_version: Short
    judge: Short | None = None
    criterion: Short


class HumanLabel(TaskOrigin):
    """What somebody said of a task. A grade of null is "cannot tell"."""

    label_id: Identity
    labeller: Short
    grade: Short | None
    note: Annotated[str, StringConstraints(max_length=4000)] | None = None
    draw_id: Identity


class LabelTask(BaseModel):
    """What somebody is to grade: one answer, or the first and the second of a pair. `label` is what a label
    says of it; `place` that of its item in the order of the draw; `grades` go from worst to best."""

    place: int = Field(ge=0)
    label: TaskOrigin
    question: str
    reference: str = ""
    answers: list[str] = Field(min_length=1, max_length=2)
    criterion: str
    grades: list[str] = Field(min_length=1)


class LabelWorksheet(BaseModel):
    """What people may be asked about two runs by one check, in the order of the draw. `open` items differ,
    of `needed` ones a label is needed, and the first `items` are handed in. No task says whose answer it is,
    nor what a judge said."""

    control_run: Identity
    candidate_run: Identity
    evaluator: Short
    set_name: Short
    seed: Short
    needed: int = Field(ge=0)
    open: int = Field(ge=0)
    items: int = Field(ge=0)
    tasks: list[LabelTask]


class HumanLabels(BaseModel):
    """At most 500 labels."""

    labels: list[HumanLabel] = Field(max_length=500)


class Preflight(BaseModel):
    """A candidate held against a control before it has traffic; `result` has the findings."""

    preflight_id: Identity
    model: Short
    control_version: Version
    candidate_version: Version
    verdict: Literal["pass", "fail", "inconclusive"]
    result: dict[str, Any]


class GateState(BaseModel):
    """Where a version stands on its way to traffic; what is None is not known yet, and its tag stays.

    `key` is a hash of all that a conclusion was drawn from: while it is the same, the conclusion stands.
    """

    state: Literal["seen", "fingerprinted", "preflight", "golden", "passed", "failed", "inconclusive"]
    key: Short | None = None
    verdict: Short | None = None
    golden: Short | None = None
    fingerprint: Short | None = None


class ExchangeScore(BaseModel):
    """What one evaluator, in one version, says of one exchange (of a pair: of the mirrored one)."""

    exchange_id: Short
    evaluator: Short
    evaluator_version: Short
    status: Literal["scored", "unscored", "error", "skipped"]
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    label: Short | None = None
    explanation: Annotated[str, StringConstraints(max_length=4000)] | None = None
    cost_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class ExchangeScores(BaseModel):
    """At most 500 scores."""

    scores: list[ExchangeScore] = Field(max_length=500)


class Forget(Why):
    """Whom to forget, by the names that applications give (`user`, a session, ...)."""

    units: Annotated[
        list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=1000)
    ]
    dry_run: bool = False
