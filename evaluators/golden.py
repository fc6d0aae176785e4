"""What is a golden set: which questions, what is right, and by which policy is it judged?

The values only; `evaluators.loading` reads them from files. An item is identified across versions of its
set by id and content hash: a changed item is another question and is not compared with its former self.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: What an answer that failed is worth: 0, or nothing that one can know.
TargetErrors = Literal["zero", "unscored"]
#: What to do with an answer that ran into max_tokens: 0 as for a failure, or score what is there.
LengthPolicy = Literal["zero", "score"]

#: How an item's checks make its score: it passes when all gating ones do, or it is worth their weighted mean.
ItemScore = Literal["all", "mean"]
#: Who evaluates: code, a model that sees one answer, or a model that sees both versions' answers.
Kind = Literal["code", "judge", "pairwise"]

Reference = str | float

_SLACK = 1e-9  # a mean of thirds may miss its threshold in the last bit only


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One use of an evaluator by one item.

    `key` names it among the item's checks and in the ledger; `gate` says that the verdict depends on it;
    `negate` turns yes into no; `target_errors` overrides the set's policy. A score of at least `threshold`
    passes; `weight` counts where an item is worth the mean of its checks.
    """

    key: str
    type: str
    version: str
    options: Any
    gate: bool = True
    negate: bool = False
    target_errors: TargetErrors | None = None
    kind: Kind = "code"
    threshold: float = 1.0
    weight: float = 1.0

    @property
    def decisive(self) -> bool:
        """Whether the item's passing depends on it. A judge's opinion never makes an item pass or fail: it
        gates as a metric of its own, corrected by human labels (`evaluators.comparison`)."""
        return self.gate and self.kind == "code"

    @property
    def evaluator_version(self) -> str:
        """What made a score: `regex@1`. Scores of different versions are not compared."""
        return f"{self.type}@{self.version}"

    def passes(self, value: float | None) -> bool:
        """Whether a score of this value is a pass; without a value it is none."""
        return value is not None and value >= self.threshold - _SLACK


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenItem:
    """One question in the shape of an OpenAI chat body, with the checks of its answer.

    `hash` covers what determines an answer and its score: input, reference, checks. `cluster_id` ties items
    that are not independent (one conversation, template or document); without one an item stands alone.
    """

    id: str
    hash: str
    messages: tuple[Mapping[str, Any], ...]
    checks: tuple[Check, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    response_format: Mapping[str, Any] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    reference: tuple[Reference, ...] = ()
    tags: tuple[str, ...] = ()
    cluster_id: str | None = None
    weight: float = 1.0
    human_label: str | float | bool | None = None
    source: Mapping[str, Any] | None = None
    added: str | None = None

    def body(self, model: str) -> dict[str, Any]:
        """The chat completion request that asks this question of `model`."""
        body: dict[str, Any] = {"model": model, "messages": list(self.messages)}
        if self.tools:
            body["tools"] = list(self.tools)
        if self.response_format is not None:
            body["response_format"] = self.response_format
        return {**body, **self.params}

    @property
    def cluster(self) -> str:
        """What the item is analysed with: its cluster, or itself (the prefixes keep the two apart)."""
        return f"cluster:{self.cluster_id}" if self.cluster_id is not None else f"item:{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPolicy:
    """What one evaluator's mean may lose: `margin` in the units of its score, which lies in [0, 1]. With
    `gate` the comparison depends on it; without, it is shown."""

    margin: float
    gate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a set judges: declared with it, before a version is seen.

    `margin` is the drop in the share of passed items that is tolerated (0.05: five points); intervals are at
    level 1 - `alpha`; `coverage_floor` is the share of items that must be scored in both versions;
    `min_pass_rate` is a floor of the pass rate whatever production does; `item_score` says what an item is
    worth; `metrics` gives evaluators, by key, a margin of their own.
    """

    margin: float = 0.05
    alpha: float = 0.05
    coverage_floor: float = 0.98
    min_pass_rate: float | None = None
    target_errors: TargetErrors = "zero"
    length: LengthPolicy = "zero"
    item_score: ItemScore = "all"
    metrics: Mapping[str, MetricPolicy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeChoice:
    """Who judges and who embeds: `model` of the registry (with a version's number or alias) through the
    proxy, or a `provider`'s model in litellm's spelling (`openai/gpt-4.1-mini`), at `api_base` if given.

    `embeddings` is the model of an OpenAI-compatible endpoint at `embeddings_base`. Keys of providers come
    from their environment variables, never from a golden set.
    """

    model: str | None = None
    version: str = "production"
    provider: str | None = None
    api_base: str | None = None
    max_tokens: int = 1024
    concurrency: int = 8
    timeout_s: float = 60.0
    embeddings: str | None = None
    embeddings_base: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSet:
    """A named set of items. `hash` is `golden@sha256:...` over the ids, hashes, clusters and tags."""

    name: str
    hash: str
    items: tuple[GoldenItem, ...]
    policy: Policy = field(default_factory=Policy)
    description: str = ""
    judge: JudgeChoice | None = None

    @property
    def evaluators(self) -> dict[str, str]:
        """The checks in use, by key, each with its scorer and version: `regex@1`."""
        found = {check.key: check.evaluator_version for item in self.items for check in item.checks}
        return dict(sorted(found.items()))

    @property
    def judged(self) -> dict[str, bool]:
        """The checks that are judged and not computed, by key; true for those that gate."""
        checks = [check for item in self.items for check in item.checks if check.kind != "code"]
        gating = {check.key for check in checks if check.gate}
        gating |= {key for key, metric in self.policy.metrics.items() if metric.gate}
        return {key: key in gating for key in sorted({check.key for check in checks})}

    @property
    def decided_by_means(self) -> bool:
        """Whether no item passes or fails by itself, as where judges alone gate: what has a margin decides
        then."""
        return not any(check.decisive for item in self.items for check in item.checks)

    @property
    def compares(self) -> bool:
        """Whether a judge is to be shown both versions' answers at once."""
        return any(check.kind == "pairwise" for item in self.items for check in item.checks)
