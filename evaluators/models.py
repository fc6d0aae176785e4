"""How do evaluators ask a model, a judge or an embedder, without knowing who serves it?

Values and protocols only. `evaluators.judges` has those that speak through the proxy and through litellm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evaluators.score import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """What a model said, and what it cost: US dollars where a price is known, tokens, milliseconds."""

    text: str
    finish_reason: str | None = None
    cost_usd: float | None = None
    tokens: int | None = None
    latency_ms: float | None = None


class ChatModel(Protocol):
    """A model that judges. `identity` tells it from every other: part of a score's provenance."""

    @property
    def identity(self) -> str: ...

    async def reply(
        self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any], seed: int
    ) -> ModelReply:
        """Its answer at temperature 0, asked to be JSON of `schema`. Raises ModelUnavailable."""
        ...


class Embedder(Protocol):
    """A model that turns texts into vectors."""

    @property
    def identity(self) -> str: ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text. Raises ModelUnavailable."""
        ...


class Scores(Protocol):
    """Scores that judges gave before, by a key of everything they depend on."""

    def get(self, key: str) -> Score | None: ...
    def put(self, key: str, score: Score) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What evaluators may use beside the item and its answer; None where the set or the caller gives none."""

    judge: ChatModel | None = None
    embedder: Embedder | None = None
    cache: Scores | None = None


NO_SERVICES = Services()
