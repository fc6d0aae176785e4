"""What does a judge's reply come to? A verdict and what it cost, or the name of what it is instead."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.golden import GoldenItem
from evaluators.judges.question import Question, Verdict
from evaluators.models import ChatModel, ModelReply
from evaluators.score import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a judge said to one question; `verdict` is None where that is no verdict."""

    verdict: Verdict | None
    reply: ModelReply


async def ask(judge: ChatModel, question: Question, *, seed: int) -> Heard:
    """Put the question. A reply that was cut is no verdict, whatever it says. Raises ModelUnavailable."""
    reply = await judge.reply(question.messages, schema=question.schema, seed=seed)
    whole = reply.finish_reason != "length"
    return Heard(verdict=question.verdict(reply.text) if whole else None, reply=reply)


def structured_output(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The field of OpenAI's API that holds an answer to a schema."""
    named = {"name": "verdict", "schema": dict(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def seed_of(item: GoldenItem, repeat: int) -> int:
    """The seed of a judge's call: the same for the same question, another for each repeat."""
    return zlib.crc32(f"{item.hash}:{repeat}".encode()) & 0x7FFFFFFF


def judged(
    name: str, value: float, label: str, why: str, heard: Sequence[Heard], identity: str, **metadata: Any
) -> Score:
    """The score that these replies make together."""
    return Score(
        name=name,
        status="scored",
        value=value,
        label=label,
        explanation=why,
        **_cost(heard),
        metadata={"judge": identity, **metadata},
    )


def no_verdict(name: str, heard: Sequence[Heard], identity: str) -> Score:
    """One of these replies is no verdict: unscored, with the beginning of what it said."""
    reply = next(one.reply for one in heard if one.verdict is None)
    why = "is cut" if reply.finish_reason == "length" else "has no verdict of the schema"
    return Score(
        name=name,
        status="unscored",
        label="unparseable",
        explanation=f"the judge's reply {why}: {reply.text[:200]!r}",
        **_cost(heard),
        metadata={"judge": identity},
    )


def _cost(heard: Sequence[Heard]) -> dict[str, Any]:
    """Of calls made side by side: dollars and tokens add up, and the longest time counts."""
    costs = [one.reply.cost_usd for one in heard if one.reply.cost_usd is not None]
    tokens = [one.reply.tokens for one in heard if one.reply.tokens is not None]
    times = [one.reply.latency_ms for one in heard if one.reply.latency_ms is not None]
    return {
        "cost_usd": math.fsum(costs) if costs else None,
        "tokens": sum(tokens) if tokens else None,
        "latency_ms": max(times, default=None),
    }
