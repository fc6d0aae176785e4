"""The unmodified `openai` client against the proxy: only the base URL is another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from .conftest import MODEL, Stack

MESSAGES = [{"role": "user", "content": "Where is my parcel?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_order",
        "parameters": {"type": "object", "properties": {"order_id": {"type": "integer"}}},
    },
}


@pytest.fixture
def client(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.base_url, api_key="sk-any", max_retries=0, timeout=10) as client:
        yield client


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].finish_reason == "stop"
    assert "parcel" in answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint == "simulated"


def test_chat_streamed_is_the_same_text_without_events_nobody_asked_for(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_chat_streamed_with_usage(client: OpenAI) -> None:
    options = {"include_usage": True}
    *_, last = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options=options
    )
    assert (last.choices, last.usage.completion_tokens > 0) == ([], True)


async def test_chat_with_the_asynchronous_client(stack: Stack) -> None:
    async with AsyncOpenAI(base_url=stack.base_url, api_key="sk-any", max_retries=0) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        chunks = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        assert text == whole.choices[0].message.content


def test_options_reach_the_engine(client: OpenAI, stack: Stack) -> None:
    """Known fields, fields of vLLM that OpenAI does not have, and several choices."""
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, n=2, max_tokens=4, logprobs=True, extra_body={"top_k": 7}
    )
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert len(answer.choices[1].logprobs.content) == 4
    sent = json.loads(stack.engine.counters.last_body)
    assert (sent["top_k"], sent["n"], sent["model"]) == (7, 2, "org/support-v1")


def test_tool_calls(client: OpenAI) -> None:
    asked = {"model": MODEL, "messages": MESSAGES, "tools": [TOOL], "tool_choice": "required"}
    (call,) = client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert call.function.name == "get_order"
    with client.chat.completions.stream(**asked) as stream:
        message = stream.get_final_completion().choices[0]
    assert message.finish_reason == "tool_calls"
    assert message.message.tool_calls[0].function.arguments == call.function.arguments


def test_a_tools_answer_may_come_back(client: OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_order", "arguments": "{}"}}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"state": "sent"}'},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=history, tools=[TOOL])
    assert answer.choices[0].message.content


class Triage(BaseModel):
    category: str
    urgent: bool


def test_structured_answers(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Triage)
    assert isinstance(answer.choices[0].message.parsed, Triage)


def test_structured_responses(client: OpenAI) -> None:
    answer = client.responses.parse(model=MODEL, input="Where is my order?", text_format=Triage)
    assert isinstance(answer.output_parsed, Triage)


def test_completions(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="Dear customer", max_tokens=9)
    chunks = client.completions.create(model=MODEL, prompt="Dear customer", max_tokens=9, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text != ""


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(client: OpenAI, encoding: str) -> None:
    answer = client.embeddings.create(model=MODEL, input=["a", "b"], encoding_format=encoding)
    assert len(answer.data) == 2
    default = client.embeddings.create(model=MODEL, input="a").data[0].embedding
    assert len(default) == 64


def test_models(client: OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]


def test_headers_say_what_answered(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    assert raw.headers["x-turnout-model-version"] == "1"
    assert len(raw.headers["x-turnout-request-id"]) == 36
    assert raw.headers["x-simulated"] == "1"


def test_errors_are_the_clients_own_exceptions(client: OpenAI) -> None:
    def ask(**fields: object) -> None:
        client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **fields})

    with pytest.raises(openai.NotFoundError) as unknown:
        ask(model="unheard-of")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="messages"):
        ask(messages="hello")
    with pytest.raises(openai.BadRequestError, match="expected 0 to"):
        ask(max_tokens=-1)  # the proxy's word
    with pytest.raises(openai.BadRequestError, match="at least 1"):
        ask(max_tokens=0)  # the engine's
    with pytest.raises(openai.BadRequestError, match="is refused"):
        ask(extra_body={"api_base": "http://127.0.0.1:1"})
    with pytest.raises(openai.RateLimitError):
        ask(model="429")
    with pytest.raises(openai.APIError, match="engine died"):
        for _ in client.chat.completions.create(model="error-event", messages=MESSAGES, stream=True):
            pass


def test_an_answer_cut_short_is_an_error_and_no_end(client: OpenAI) -> None:
    with pytest.raises(Exception, match=r"incomplete|reset|peer closed"):
        list(client.chat.completions.create(model="cut-at-600", messages=MESSAGES, stream=True))


@pytest.mark.parametrize("stream", [True, False])
def test_giving_up_frees_the_engine(client: OpenAI, stack: Stack, stream: bool) -> None:
    before = stack.engine.counters.aborted
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(
            model="hang", messages=MESSAGES, stream=stream
        )
    deadline = time.monotonic() + 2
    while stack.engine.counters.aborted == before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert stack.engine.counters.aborted == before + 1


def test_closing_a_stream_frees_the_engine(client: OpenAI, stack: Stack) -> None:
    before = stack.engine.counters.aborted
    stream = client.chat.completions.create(model="bandwidth-2000", messages=MESSAGES, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 2
    while stack.engine.counters.aborted == before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert stack.engine.counters.aborted == before + 1
