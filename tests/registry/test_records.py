"""Tags that others wrote become an endpoint or a reason, never an exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import EndpointSpec, InvalidEntry
from registry.records import REPLICAS, SERVED_NAME, endpoint_from, version_tag


def test_an_endpoint_comes_back_from_its_tags() -> None:
    endpoint = EndpointSpec(replicas=("http://a:1", "http://b:2"), served_name="org/model", engine="sglang")
    assert endpoint_from(endpoint.tags()) == (endpoint, None)


def test_an_endpoint_is_checked_when_made() -> None:
    with pytest.raises(InvalidEntry, match="replica"):
        EndpointSpec(replicas=("http://a:1/v1",), served_name="chat")
    with pytest.raises(InvalidEntry, match="served name"):
        EndpointSpec(replicas=("http://a:1",), served_name="")


@pytest.mark.parametrize(
    "replicas",
    [
        "http://a:1",
        "[]",
        "{}",
        "[1]",
        "[null]",
        "[[]]",
        '"http://a:1"',
        '["http://u:p@a:1"]',
        "[" * 100_000,
        '["http://a:1", "file:///etc/passwd"]',
    ],
    ids=lambda text: text[:30],
)
def test_a_broken_endpoint_is_no_endpoint_and_a_problem(replicas: str) -> None:
    endpoint, problem = endpoint_from({REPLICAS: replicas, SERVED_NAME: "chat"})
    assert endpoint is None
    assert problem is not None
    assert "turnout.replicas" in problem


@given(
    st.dictionaries(st.sampled_from([REPLICAS, SERVED_NAME]), st.text() | st.lists(st.text()).map(json.dumps))
)
def test_no_tags_raise(tags: dict[str, str]) -> None:
    endpoint, problem = endpoint_from(tags)
    assert endpoint is None or problem is None
    assert (problem is None) == (REPLICAS not in tags or endpoint is not None)


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("", None), ("x", None), ("-1", None), ("3.0", None)])
def test_a_former_version_that_is_none_is_nothing_to_go_back_to(text: str, number: int | None) -> None:
    assert version_tag({"k": text}, "k") == number
    assert version_tag({}, "k") is None


CLAUDE = EndpointSpec(
    replicas=(), served_name="anthropic/claude-sonnet-4-5", engine="litellm", credential="ANTHROPIC_API_KEY"
)


def test_a_provider_has_a_credentials_name_and_no_address() -> None:
    assert endpoint_from(CLAUDE.tags()) == (CLAUDE, None)
    assert json.loads(CLAUDE.tags()[REPLICAS]) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"replicas": ("http://a:1",), "served_name": "anthropic/x", "engine": "litellm"},
        {"replicas": (), "served_name": "ollama/x", "engine": "litellm"},
        {"replicas": (), "served_name": "chat", "engine": "vllm"},
        {"replicas": ("http://a:1",), "served_name": "chat", "credential": "OPENAI_API_KEY"},
        {"replicas": (), "served_name": "openai/x", "engine": "litellm", "credential": "sk-123"},
    ],
)
def test_an_endpoint_is_an_engine_or_a_provider(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidEntry):
        EndpointSpec(**fields)


def test_an_engine_may_be_given_a_key_of_its_own_by_name() -> None:
    engine = EndpointSpec(replicas=("http://a:1",), served_name="chat", credential="ENGINE_A_API_KEY")
    assert endpoint_from(engine.tags()) == (engine, None)
    assert EndpointSpec(replicas=("http://a:1",), served_name="chat", credential="ENGINE_API_KEY")


def test_what_is_left_of_a_provider_does_not_break_an_engine() -> None:
    tags = {**CLAUDE.tags(), REPLICAS: '["http://a:1"]', SERVED_NAME: "chat", "turnout.engine": "vllm"}
    endpoint, problem = endpoint_from(tags)
    assert problem is None
    assert endpoint is not None
    assert endpoint.credential is None
