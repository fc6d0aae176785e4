"""What may stand in a golden set's files? The shapes of set.yaml and of one line of items.jsonl.

Pydantic models for the edge only: `evaluators.loading` turns them into the frozen values of
`evaluators.golden`. A field that is not declared here is an error, so that a typo cannot switch a check off.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from evaluators.golden import ItemScore, LengthPolicy, Reference, TargetErrors

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
#: The runner sets these itself.
_RESERVED: Final = frozenset(
    ("model", "messages", "tools", "response_format", "stream", "stream_options", "n")
)

ReferenceRow = StrictStr | StrictInt | StrictFloat


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FunctionCallRow(_Row):
    """The function of a tool call in a message."""

    name: str
    arguments: str


class MessageToolCallRow(BaseModel):
    """A tool call in an assistant's message."""

    model_config = ConfigDict(extra="allow", frozen=True)
    function: FunctionCallRow


class MessageRow(BaseModel):
    """One chat message. Fields beyond these are passed on: engines know more than any list of ours."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[MessageToolCallRow] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> MessageRow:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content may be null only in an assistant's message with tool_calls")
        return self


class FunctionRow(BaseModel):
    """The declaration of a function."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str


class ToolRow(BaseModel):
    """One declared tool."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    type: Literal["function"]
    function: FunctionRow


class InputRow(_Row):
    """The question: an OpenAI chat body, with the sampling parameters under `params`."""

    messages: list[MessageRow] = Field(min_length=1)
    tools: list[ToolRow] | None = None
    response_format: dict[str, Any] | None = None
    params: dict[str, Any] | None = None

    @field_validator("params")
    @classmethod
    def _not_reserved(cls, params: dict[str, Any] | None) -> dict[str, Any] | None:
        if params and (reserved := sorted(_RESERVED & set(params))):
            raise ValueError(f"{', '.join(reserved)} cannot stand here: the run sets it, or input does")
        return params


class CheckRow(_Row):
    """What every check may say; the rest of its fields are the options of its scorer."""

    type: str
    key: Annotated[str, Field(pattern=_NAME, max_length=64)] | None = None
    gate: bool | None = None
    negate: bool = Field(default=False, alias="not")
    target_errors: TargetErrors | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    weight: float = Field(default=1.0, gt=0)


class ItemRow(_Row):
    """One line of items.jsonl. `checks` is read by the scorers they name."""

    id: str = Field(pattern=_NAME, max_length=200)
    input: InputRow
    reference: ReferenceRow | list[ReferenceRow] | None = None
    checks: list[Any] | None = None
    tags: list[str] = Field(default_factory=list)
    cluster_id: str | None = None
    weight: float = Field(default=1.0, gt=0)
    human_label: StrictStr | StrictFloat | StrictInt | bool | None = None
    source: dict[str, Any] | None = None
    added: Annotated[date, Field(strict=False)] | None = None

    @property
    def references(self) -> tuple[Reference, ...]:
        """All right answers, in their order."""
        if self.reference is None:
            return ()
        return tuple(self.reference) if isinstance(self.reference, list) else (self.reference,)


class MetricRow(_Row):
    """What set.yaml says of one evaluator's mean."""

    margin: float = Field(ge=0, lt=1, description="a share from 0 to below 1, such as 0.05")
    gate: bool = Field(default=True, description="true or false")


class JudgeRow(_Row):
    """Who judges (see `evaluators.golden.JudgeChoice`)."""

    model: str | None = Field(default=None, description="a model of the registry")
    version: str = Field(default="production", description="a version's number or alias, in quotation marks")
    provider: str | None = Field(default=None, description="a model as litellm spells it")
    api_base: str | None = Field(default=None, description="an address, http://... or https://...")
    max_tokens: int = Field(default=1024, ge=16, le=100_000, description="a whole number from 16")
    concurrency: int = Field(default=8, ge=1, le=256, description="a whole number from 1 to 256")
    timeout_s: float = Field(default=60.0, gt=0, description="seconds")
    embeddings: str | None = Field(default=None, description="an embedding model")
    embeddings_base: str | None = Field(default=None, description="an address ending in /v1")

    @model_validator(mode="after")
    def _one_judge(self) -> JudgeRow:
        if self.model and self.provider:
            raise ValueError("a judge is a `model` of the registry or a `provider`'s, not both")
        if not (self.model or self.provider or self.embeddings):
            raise ValueError("name a `model` of the registry, a `provider`'s model, or `embeddings`")
        if bool(self.embeddings) != bool(self.embeddings_base):
            raise ValueError("`embeddings` and `embeddings_base` go together")
        return self


class SetRow(_Row):
    """set.yaml: the set's name and the policy it is judged by (see `evaluators.golden.Policy`)."""

    name: str | None = Field(
        default=None, pattern=_NAME, max_length=100, description="letters, digits, dot, dash and underscore"
    )
    description: str = Field(default="", description="a text")
    margin: float = Field(default=0.05, ge=0, lt=1, description="a share from 0 to below 1, such as 0.05")
    alpha: float = Field(default=0.05, gt=0, le=0.5, description="a share above 0 and up to 0.5")
    coverage_floor: float = Field(default=0.98, ge=0, le=1, description="a share from 0 to 1")
    min_pass_rate: float | None = Field(default=None, ge=0, le=1, description="a share from 0 to 1")
    target_errors: TargetErrors = Field(default="zero", description="zero or unscored")
    length: LengthPolicy = Field(default="zero", description="zero or score")
    item_score: ItemScore = Field(default="all", description="all or mean")
    metrics: dict[str, MetricRow] = Field(default_factory=dict, description="a margin by check key")
    evaluators: list[str] = Field(default_factory=list, description="a list of Python files beside set.yaml")
    judge: JudgeRow | None = Field(default=None, description="model: or provider:")
    default_checks: list[dict[str, Any]] | None = Field(default=None, description="a list of checks")
