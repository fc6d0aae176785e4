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

Reference = str | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One use of a scorer by one item.

    `key` names it among the item's checks and in the ledger; `gate` says that the item passes only if this
    check does; `negate` turns the scorer's yes into a no; `target_errors` overrides the set's policy.
    """

    key: str
    type: str
    version: str
    options: Any
    gate: bool = True
    negate: bool = False
    target_errors: TargetErrors | None = None


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
class Policy:
    """How a set judges: declared with it, before a version is seen.

    `margin` is the drop in the share of passed items that is tolerated (0.05: five points); intervals are at
    level 1 - `alpha`; `coverage_floor` is the share of items that must be scored in both versions;
    `min_pass_rate` is a floor of the pass rate whatever production does.
    """

    margin: float = 0.05
    alpha: float = 0.05
    coverage_floor: float = 0.98
    min_pass_rate: float | None = None
    target_errors: TargetErrors = "zero"
    length: LengthPolicy = "zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSet:
    """A named set of items. `hash` is `golden@sha256:...` over the ids, hashes, clusters and tags."""

    name: str
    hash: str
    items: tuple[GoldenItem, ...]
    policy: Policy = field(default_factory=Policy)
    description: str = ""

    @property
    def evaluators(self) -> dict[str, str]:
        """The checks in use, by key, each with its scorer and version: `regex@1`."""
        found = {check.key: f"{check.type}@{check.version}" for item in self.items for check in item.checks}
        return dict(sorted(found.items()))
