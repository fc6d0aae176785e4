"""How is a judge asked that some provider serves? Through litellm's SDK.

The only module of the evaluators that imports litellm, and only when such a judge is first asked: it takes
seconds. Keys are read by litellm from the provider's environment variables; nothing of a golden set names
one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from evaluators.errors import ModelUnavailable
from evaluators.models import ModelReply
from evaluators.target import Retry


class ProviderJudge:
    """A provider's model in litellm's spelling, such as `openai/gpt-4.1-mini`; at `api_base` if given."""

    def __init__(
        self,
        *,
        model: str,
        api_base: str | None = None,
        max_tokens: int = 1024,
        concurrency: int = 8,
        timeout_s: float = 60.0,
        retry: Retry | None = None,
    ) -> None:
        self.identity = model
        self._api_base, self._max_tokens, self._timeout_s = api_base, max_tokens, timeout_s
        self._slots = asyncio.Semaphore(concurrency)
        self._retry, self._jitter = retry or Retry(), Random()
        self._structured = True

    async def reply(
        self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any], seed: int
    ) -> ModelReply:
        """Its answer, asked to be JSON of `schema`. Raises ModelUnavailable."""
        litellm = await asyncio.to_thread(_litellm)
        attempt = 1
        while True:
            try:
                async with self._slots:
                    return await self._once(litellm, messages, schema, seed)
            except litellm.exceptions.BadRequestError as error:
                if not self._structured:
                    raise ModelUnavailable(f"the judge {self.identity} refuses: {error}") from error
                self._structured = False  # it may know no response_format: the schema is held all the same
                continue
            except Exception as error:
                # litellm raises its own tree and whatever a provider's client raises.
                status = getattr(error, "status_code", None)
                if attempt >= self._retry.attempts or (isinstance(status, int) and 400 <= status < 429):
                    raise ModelUnavailable(f"the judge {self.identity} does not answer: {error}") from error
            attempt += 1
            await asyncio.sleep(self._retry.wait_s(attempt, None, self._jitter))

    async def _once(
        self, litellm: Any, messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any], seed: int
    ) -> ModelReply:
        started = time.monotonic()
        wanted: dict[str, Any] = {}
        if self._structured:
            verdict = {"name": "verdict", "schema": dict(schema), "strict": True}
            wanted = {"response_format": {"type": "json_schema", "json_schema": verdict}}
        response = await litellm.acompletion(
            model=self.identity,
            messages=[dict(message) for message in messages],
            api_base=self._api_base,
            temperature=0,
            seed=seed,
            max_tokens=self._max_tokens,
            timeout=self._timeout_s,
            num_retries=0,
            drop_params=True,  # a model without seed or temperature is asked without them
            **wanted,
        )
        choice = response.choices[0]
        return ModelReply(
            text=choice.message.content or "",
            finish_reason=choice.finish_reason,
            cost_usd=_cost(litellm, response),
            tokens=getattr(getattr(response, "usage", None), "total_tokens", None),
            latency_ms=(time.monotonic() - started) * 1000,
        )


@cache
def _litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm


def _cost(litellm: Any, response: Any) -> float | None:
    """What the call cost in US dollars; None for a model without a listed price."""
    try:
        return float(litellm.completion_cost(response)) or None
    except Exception:  # litellm raises whatever, for a model that its price list lacks
        return None
