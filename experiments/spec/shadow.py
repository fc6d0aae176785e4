"""What may a shadow cost, and when does it stand back for those who have users waiting?"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field

from .. import quantities
from .fields import Share, Strict, wrong


def _size(value: object) -> int:
    try:
        return quantities.size(value)
    except ValueError:
        raise wrong(value, "a size such as 500KB or 32MB", "Write the unit with the number") from None


Size: TypeAlias = Annotated[int, BeforeValidator(_size), Field(ge=1)]


class Prices(Strict):
    """What a million tokens cost, in a currency of your own."""

    prompt: float = Field(ge=0, le=1e6, description="the price of a million prompt tokens, such as 0.15")
    completion: float = Field(
        ge=0, le=1e6, description="the price of a million completion tokens, such as 0.6"
    )


class Pressure(Strict):
    """How busy an engine may be before no more copies are sent to it. Read from the engine's own /metrics."""

    waiting: int = Field(
        default=8, ge=0, le=100_000, description="requests waiting in the engine, 0 for not watched"
    )
    kv_cache: Share | None = Field(default=0.9, description="the used share of the KV cache, such as 90%")
