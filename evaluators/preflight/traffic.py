"""Would the candidate take the prompts that production gets? Its context length against recorded requests.

Each recorded chat is counted by the candidate's own `/tokenize`, or by its recorded prompt tokens where there
is none, and with what it asks for as max_tokens must fit into max_model_len; what does not gets a 400.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from evaluators.canonical import why_no_json
from evaluators.ledger import ControlApi
from evaluators.preflight.engine import EngineClient, EngineFacts, NotAnswered
from evaluators.preflight.finding import Finding, Status, unchecked

_CHAT: Final = "/v1/chat/completions"
_REFUSED_SHARE: Final = 0.001
_MOST_TOKENS: Final = 2**31  # what is asked for above it does not fit either


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPrompt:
    """A recorded chat: its messages and tools (None if its body was not kept), tokens counted then, and the
    tokens that it asked for."""

    exchange_id: str
    question: Mapping[str, Any] | None
    prompt_tokens: int
    max_tokens: int


def recorded_prompts(api: ControlApi, model: str, most: int) -> list[RecordedPrompt]:
    """The newest chats that production answered, `most` at most."""
    # Golden runs and replays may have asked more than a page since.
    listed = api.get("/api/exchanges", {"model": model, "origin": "live", "limit": 1000})
    chats = [
        one
        for one in listed
        if one.get("path") == _CHAT and one.get("role") == "primary" and one.get("prompt_tokens")
    ]
    return [_prompt(api.get(f"/api/exchanges/{one['exchange_id']}"), one) for one in chats[:most]]


def _prompt(found: Mapping[str, Any], listed: Mapping[str, Any]) -> RecordedPrompt:
    body = _body(found)
    asked = (body or {}).get("max_completion_tokens") or (body or {}).get("max_tokens")
    question = None
    if body is not None and isinstance(body.get("messages"), list):
        question = {"messages": body["messages"], "add_generation_prompt": True}
        question |= {"tools": body["tools"]} if body.get("tools") else {}
    return RecordedPrompt(
        exchange_id=str(listed["exchange_id"]),
        question=question,
        prompt_tokens=int(listed["prompt_tokens"]),
        max_tokens=min(asked, _MOST_TOKENS) if isinstance(asked, int) and asked > 0 else 0,
    )


def _body(found: Mapping[str, Any]) -> dict[str, Any] | None:
    if not found.get("request"):  # `clipped` is said of the answer
        return None
    try:
        body = json.loads(found["request"])
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) and why_no_json(body) is None else None


async def counted(client: EngineClient | None, prompts: Sequence[RecordedPrompt]) -> list[int]:
    """Tokens of each prompt by the engine's own count, or as recorded where it does not count."""
    found, able = [], True
    for prompt in prompts:
        tokens = prompt.prompt_tokens
        if client is not None and able and prompt.question is not None:
            try:
                tokens = len((await client.tokens(prompt.question)).ids)
            except NotAnswered as error:
                able = error.status not in (None, 404)  # a prompt may be refused, an engine be unable
        found.append(tokens)
    return found


def context(
    control: EngineFacts, candidate: EngineFacts, prompts: Sequence[RecordedPrompt], tokens: Sequence[int]
) -> Finding:
    """The finding: which share of recorded prompts the candidate would refuse."""
    if candidate.max_model_len is None:
        return unchecked(
            "context", f"the candidate's engine ({candidate.engine}) does not say its context length"
        )
    cap, former = candidate.max_model_len, control.max_model_len
    shorter = former is not None and cap < former
    numbers: dict[str, float | int | str | None] = {
        "max_model_len": cap,
        "former_max_model_len": former,
        "prompts": len(prompts),
    }
    change = f"The context has {cap} tokens{'' if former in (None, cap) else f', it had {former}'}"
    if not prompts:
        sentence = f"{change}; no recorded prompt to hold against it."
        return Finding(
            check="context", status="warn" if shorter else "note", sentence=sentence, numbers=numbers
        )
    needs = [count + prompt.max_tokens for count, prompt in zip(tokens, prompts, strict=True)]
    refused = [prompt.exchange_id for need, prompt in zip(needs, prompts, strict=True) if need > cap]
    share = len(refused) / len(prompts)
    numbers |= {"refused": len(refused), "longest": max(needs)}
    status: Status = "fail" if share > _REFUSED_SHARE else "warn" if shorter else "ok"
    fit = f"{len(refused)} of {len(prompts)} recorded prompts would not fit"
    sentence = f"{change}; {fit} (the longest needs {max(needs)})."
    return Finding(
        check="context", status=status, sentence=sentence, items=tuple(refused[:20]), numbers=numbers
    )
