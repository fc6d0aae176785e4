"""Who sends the demo's traffic? A made-up shop's support chat, written as its engineers would write it.

It knows the `openai` client, one base URL and the feedback path. That an experiment is running behind the
URL it cannot tell. Each customer asks one thing, streaming or not, and says whether the answer helped.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
from openai import APIError, AsyncOpenAI


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a customer asks, and what helps; tools and formats as the golden set has them."""

    body: dict[str, Any]
    answer: str | None
    tool: str | None


def read_questions(items: Path) -> list[Question]:
    """The golden set's questions with their answer keys: the customers know what they need."""
    questions = []
    for line in items.read_text("utf-8").splitlines():
        item = json.loads(line)
        given = {key: value for key, value in item["input"].items() if key != "params"}
        source = item["source"]
        tool = source.get("tool_call")
        questions.append(
            Question(
                body={**given, **item["input"].get("params", {})},
                answer=source.get("answer"),
                tool=tool["name"] + json.dumps(tool["arguments"], sort_keys=True) if tool else None,
            )
        )
    return questions


@dataclass(slots=True)
class Traffic:
    """What the shop saw: answers by version, and requests that failed for a customer."""

    served: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    helped: int = 0


class Shop:
    """Customers, a few at a time. `model` is all that the application names."""

    def __init__(self, base_url: str, model: str, questions: list[Question], *, at_once: int = 12) -> None:
        self._client = AsyncOpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0, timeout=30)
        self._feedback = httpx.AsyncClient(base_url=base_url, timeout=10)
        self._model = model
        self._questions = questions
        self._at_once = at_once
        self._customers = 0
        self._random = Random(2026)
        self.traffic = Traffic()

    async def open(self, until: Callable[[], bool], at_most: int) -> None:
        """Serve customers until `until` says so, or `at_most` have come."""
        left = at_most

        async def queue() -> None:
            nonlocal left
            while left > 0 and not until():
                left -= 1
                await self._customer()

        await asyncio.gather(*(queue() for _ in range(self._at_once)))

    async def close(self) -> None:
        await self._client.close()
        await self._feedback.aclose()

    async def _customer(self) -> None:
        self._customers += 1
        question = self._random.choice(self._questions)
        request = {**question.body, "model": self._model, "user": f"customer-{self._customers}"}
        try:
            if self._customers % 2:
                request_id, version, text, tool = await self._stream(request)
            else:
                request_id, version, text, tool = await self._whole(request)
        except (APIError, httpx.HTTPError):
            self.traffic.failed += 1
            return
        self.traffic.served[version] += 1
        helped = (question.answer is not None and text.strip() == question.answer) or (
            question.tool is not None and tool == question.tool
        )
        self.traffic.helped += helped
        await self._feedback.post(
            "/v1/feedback", json={"request_id": request_id, "name": "helped", "value": helped}
        )

    async def _whole(self, request: dict[str, Any]) -> tuple[str, str, str, str]:
        raw = await self._client.chat.completions.with_raw_response.create(**request)
        message = raw.parse().choices[0].message
        call = message.tool_calls[0].function if message.tool_calls else None
        tool = _tool(call.name, call.arguments) if call else ""
        return *_headers(raw.headers), message.content or "", tool

    async def _stream(self, request: dict[str, Any]) -> tuple[str, str, str, str]:
        raw = await self._client.chat.completions.with_raw_response.create(**request, stream=True)
        text, name, arguments = "", "", ""
        async for chunk in raw.parse():
            delta = chunk.choices[0].delta
            text += delta.content or ""
            for call in delta.tool_calls or ():
                name += call.function.name or ""
                arguments += call.function.arguments or ""
        return *_headers(raw.headers), text, _tool(name, arguments) if name else ""


def _headers(headers: Any) -> tuple[str, str]:
    return headers["x-turnout-request-id"], headers["x-turnout-model-version"]


def _tool(name: str, arguments: str) -> str:
    try:
        return name + json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return name
