"""`litellm.completion` against the proxy: only the base URL is another."""

from __future__ import annotations

import os
from typing import Any

import pytest

from .conftest import MODEL, Stack

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or importing it asks the network for prices
litellm = pytest.importorskip("litellm")

#: pydantic's remarks on classes of litellm's, and the event loop that it leaves open
pytestmark = [
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class 'ChatCompletion:UserWarning:pydantic"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning:litellm"),
]

MESSAGES = [{"role": "user", "content": "Where is my parcel?"}]


@pytest.fixture(params=["openai", "hosted_vllm"])
def asked(request: pytest.FixtureRequest, stack: Stack) -> dict[str, Any]:
    """Both providers of litellm that people use for an OpenAI-compatible engine."""
    return {
        "model": f"{request.param}/{MODEL}",
        "api_base": stack.base_url,
        "api_key": "sk-any",
        "messages": MESSAGES,
        "num_retries": 0,
        "timeout": 10,
    }


def test_completion(asked: dict[str, Any]) -> None:
    answer = litellm.completion(**asked)
    assert "parcel" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0


def test_streamed(asked: dict[str, Any]) -> None:
    whole = litellm.completion(**asked).choices[0].message.content
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.choices[0].message.content == whole
    assert built.usage.completion_tokens > 0


async def test_asynchronously(asked: dict[str, Any]) -> None:
    whole = await litellm.acompletion(**asked)
    stream = await litellm.acompletion(**asked, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


def test_errors_are_litellms_own_exceptions(asked: dict[str, Any]) -> None:
    provider = asked["model"].partition("/")[0]
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**asked, "model": f"{provider}/unheard-of"})
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(**{**asked, "model": f"{provider}/429"})
