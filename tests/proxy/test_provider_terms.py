"""What passes to a provider, and what of its words comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.errors import Refusal
from proxy.provider_terms import CHAT, EMBEDDINGS, event, keywords, refusal, scrubbed, unsupported
from proxy.steering import ROUTING_FIELDS

HI = [{"role": "user", "content": "hi"}]


def test_openais_fields_pass_and_turnouts_end_here() -> None:
    document = {"model": "chat", "messages": HI, "temperature": 0.5, "user": "ada", "stop": None}
    document |= {"metadata": {"session_id": "s"}, "store": True, "prompt_cache_key": "k"}
    assert keywords(CHAT, document) == {"messages": HI, "temperature": 0.5, "user": "ada"}


def test_what_asks_for_nothing_is_refused_by_nobody() -> None:
    nothing = {"n": 1, "presence_penalty": 0.0, "frequency_penalty": 0, "logprobs": False, "logit_bias": {}}
    assert keywords(CHAT, {"model": "chat", "messages": HI, **nothing}) == {"messages": HI}
    something = {"n": 2, "presence_penalty": 0.5, "logprobs": True, "logit_bias": {"1": 1}}
    assert keywords(CHAT, {"messages": HI, **something}) == {"messages": HI, **something}


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("anthropic does not support parameters: ['seed'], for model=claude-sonnet-4-5.", "seed"),
        ("O-series models don't support temperature=0. Only temperature=1 is supported.", "temperature"),
        ("bedrock does not support parameters: ['n', 'seed']", "n"),
        ("It cannot.", None),
    ],
)
def test_the_field_that_a_model_does_not_take_is_named(said: str, field: str | None) -> None:
    refused = unsupported(said, {"messages": HI, "seed": 1, "temperature": 0, "n": 2})
    assert (refused.code, refused.param) == ("unsupported_field", field)


@pytest.mark.parametrize(
    "name",
    [*sorted(ROUTING_FIELDS), "top_k", "extra_body", "num_retries", "cache", "guardrails", "api_key "],
)
def test_any_other_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        keywords(CHAT, {"model": "chat", "messages": HI, name: "x"})
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "unsupported_field", name)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages", "/v1/rerank", "/tokenize"])
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(Refusal, match="asked through"):
        keywords(path, {"model": "chat"})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "file", "file": {"file_id": "gs://bucket/secret"}},
        {"type": "video_url", "video_url": {"url": " HTTPS://example.com"}},
        {"type": "new", "deeply": [{"nested": {"url": "file:///etc/passwd"}}]},
    ],
)
def test_nothing_is_fetched_for_a_client(part: Any) -> None:
    with pytest.raises(Refusal) as refused:
        keywords(CHAT, {"messages": [{"role": "user", "content": [part]}]})
    assert refused.value.code == "address_refused"


def test_a_message_that_is_no_object_is_the_clients_to_mend() -> None:
    with pytest.raises(Refusal, match="A message is null") as refused:
        keywords(CHAT, {"messages": [*HI, None]})
    assert (refused.value.status, refused.value.code) == (400, "invalid_type")


def test_data_and_text_with_addresses_pass() -> None:
    parts = [
        {"type": "text", "text": "https://example.com says hi"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert keywords(CHAT, {"messages": [{"role": "user", "content": parts}]})
    assert keywords(EMBEDDINGS, {"input": "https://example.com"}) == {"input": "https://example.com"}


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (400, 400, "provider_rejected"),
        (422, 422, "provider_rejected"),
        (429, 429, "provider_overloaded"),
        (500, 500, "provider_failed"),
        (503, 503, "provider_failed"),
        (529, 503, "provider_overloaded"),
        (302, 502, "provider_failed"),
    ],
)
def test_what_a_status_becomes(status: int, expected: int, code: str) -> None:
    refused = refusal(status, "no", [])
    assert (refused.status, refused.code) == (expected, code)


KEY = "sk-ant-api03-AbCdEf0123456789"


@pytest.mark.parametrize(
    "said",
    [
        f"litellm.BadRequestError: AnthropicException - invalid x-api-key {KEY}",
        f"Authorization: Bearer {KEY}",
        f'{{"error": {{"message": "bad key={KEY}"}}}}',
        f"https://host/v1?key={KEY}&alt=sse",
        f'b\'{{"token": "{KEY}"}}\'',
    ],
)
def test_no_key_comes_back(said: str) -> None:
    for secrets in ([KEY], []):
        text = scrubbed(said, secrets)
        assert KEY not in text
        assert "AbCdEf0123456789" not in text


def test_the_providers_own_words_come_back() -> None:
    inner = json.dumps({"error": {"message": 'max_tokens: 9999 > 4096, "too" many'}})
    said = f"litellm.BadRequestError: XException - {inner}"
    assert scrubbed(said, []) == 'max_tokens: 9999 > 4096, "too" many'
    assert scrubbed("litellm.BadRequestError: prompt is too long", []) == "prompt is too long"
    assert len(scrubbed("word " * 1000, [])) == 501


def test_token_counts_come_without_choices() -> None:
    counts = {"choices": [{"index": 0, "delta": {}}], "usage": {"prompt_tokens": 1}}
    assert b'"choices":[]' in event(counts)
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}
    assert b'"finish_reason":"stop"' in event(last)
    assert event({"choices": [{"index": 0}]}) == (
        b'data: {"choices":[{"index":0,"finish_reason":null,"delta":{}}]}\n\n'
    )
