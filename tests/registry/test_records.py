"""Tags that others wrote become an endpoint or a reason, never an exception."""

from __future__ import annotations

import json

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
