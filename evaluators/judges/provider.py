"""How is a judge asked that some provider serves? Through litellm's SDK.

The only module of the evaluators that imports litellm, and only when such a judge is first asked: it takes
seconds. A provider's key is read by litellm from the provider's environment variable, and goes to the
provider alone: an address of the golden set's own (`api_base`) gets TURNOUT_JUDGE_KEY or none, for a set may
be somebody else's file. Answers are asked for whole: of a stream that was cut litellm says that it stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from math import inf
from typing import Any, Final

from evaluators.admission import OVERLOADED, Taken
from evaluators.errors import ModelRefused, ModelUnavailable
from evaluators.judges.asking import structured_output
from evaluators.judges.attempts import Again, Attempts
from evaluators.models import ModelReply
from evaluators.pacing import Retry
from evaluators.wellformed import well_formed
from experiments.blotting import blotted

#: The key for a judge at `api_base`.
JUDGE_KEY: Final = "TURNOUT_JUDGE_KEY"
#: The last one is Anthropic's own.
_OVERLOADED: Final = OVERLOADED | {529}
_NOT_THIS: Final = frozenset((400, 413, 422))
#: What some say of a question that their moderation stops; of one that has never answered, it is the key's.
_FLAGGED: Final = 403
_SHOWN: Final = 300


class ProviderJudge:
    """A provider's model in litellm's spelling, such as `openai/gpt-4.1-mini`; at `api_base` if given. Use as
    an async context manager."""

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
        self.identity = f"{model} at {api_base}" if api_base else model
        self._model, self._api_base = model, api_base
        self._max_tokens, self._timeout_s = max_tokens, timeout_s
        self._attempts = Attempts(concurrency, retry)
        self._structured = True
        self._answered = False
        self._taken = Taken()
        self._litellm: Any = None

    async def __aenter__(self) -> ProviderJudge:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._litellm is not None:  # its clients belong to this event loop
            await self._litellm.close_litellm_async_clients()
            self._litellm.in_memory_llm_clients_cache.flush_cache()

    @property
    def lowest_concurrency(self) -> int:
        """How many attempts the provider bore at a time when it bore the fewest."""
        return self._attempts.lowest_concurrency

    async def reply(
        self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any], seed: int
    ) -> ModelReply:
        """Its answer, asked to be JSON of `schema`. Raises ModelUnavailable, ModelRefused."""
        self._litellm = await asyncio.to_thread(_litellm)
        asked = {"messages": [dict(message) for message in messages], "seed": seed}
        if not self._structured:
            return await self._attempts.make(lambda: self._once(asked))
        try:
            return await self._attempts.make(lambda: self._once({**asked, **structured_output(schema)}))
        except ModelRefused:
            found = await self._attempts.make(lambda: self._once(asked))
        self._structured = False  # it was the field, which this model does not know
        return found

    async def _once(self, question: Mapping[str, Any]) -> ModelReply:
        started = time.monotonic()
        asked = self._taken.asked({"temperature": 0, "max_tokens": self._max_tokens, **question})
        at = {"api_base": self._api_base, "api_key": os.environ.get(JUDGE_KEY) or "none"}
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._litellm.acompletion(
                    model=self._model,
                    timeout=self._timeout_s,
                    num_retries=0,
                    max_retries=0,
                    drop_params=True,  # what litellm knows that a model does not take
                    **(at if self._api_base else {}),
                    **asked,
                )
        except TimeoutError:
            raise ModelUnavailable(
                f"{self.identity} gives no whole answer in {self._timeout_s:g} s"
            ) from None
        except Exception as error:  # litellm raises its own tree and whatever a provider's client raises
            if getattr(error, "status_code", None) not in _NOT_THIS or not self._taken.learned(
                asked, getattr(error, "param", None)
            ):
                raise self._fault(error) from None
            return await self._once(question)
        self._answered = True
        return self._read(response, (time.monotonic() - started) * 1000)

    def _fault(self, error: Exception) -> Exception:
        """What an error means for this question, without what could be a key."""
        status = getattr(error, "status_code", None)
        told = f"the judge {self.identity}: {type(error).__name__} (status {status})"
        if status in _NOT_THIS or (status == _FLAGGED and self._answered):
            return ModelRefused(f"{told}: {blotted(str(error))[:_SHOWN]}")
        if status in _OVERLOADED:
            return Again(told, "overloaded", _retry_after(error))
        if isinstance(status, int) and 400 <= status < 500:  # the key, the model's name, a timeout
            return ModelUnavailable(told)
        return Again(told, "failed")

    def _read(self, response: Any, took_ms: float) -> ModelReply:
        choice = response.choices[0]
        tokens = getattr(getattr(response, "usage", None), "total_tokens", None)
        return ModelReply(
            text=well_formed(choice.message.content or ""),
            finish_reason=choice.finish_reason,
            cost_usd=cost_usd(response, self._model),
            tokens=tokens if isinstance(tokens, int) else None,
            latency_ms=took_ms,
        )


def cost_usd(answer: Any, model: str) -> float | None:
    """US dollars of a chat completion by the prices that came with litellm, for a model in its spelling; None
    for one that has none there. The first call takes seconds."""
    try:
        cost = float(_litellm().completion_cost(answer, model=model))
    except Exception:  # litellm raises whatever, for a model that its price list lacks
        return None
    return cost if 0 < cost < inf else None


def priced(model: str) -> bool:
    """Whether it is known what a provider's model costs. The first call takes seconds."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}
    message = {"role": "assistant", "content": "?"}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return cost_usd({"model": model, "choices": choices, "usage": usage}, model) is not None


def _retry_after(error: Exception) -> str | None:
    headers = getattr(error, "litellm_response_headers", None)
    headers = headers or getattr(getattr(error, "response", None), "headers", None) or {}
    value = headers.get("retry-after")
    return None if value is None else str(value)


@cache
def _litellm() -> Any:
    """litellm with nothing of its own: no network for prices or headers, no telemetry, no talk."""
    for name in ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"):
        os.environ[name] = "True"
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # its messages quote requests and answers
    return litellm
