"""Only what an allow-list lets through enters the registry: hostile names and addresses stay outside."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import InvalidEntry, models_uri, names

HOSTILE = [
    "",
    ".",
    "..",
    "../chat",
    "chat/../../etc",
    "%2e%2e%2fchat",
    "%252e%252e",
    "/etc/passwd",
    "C:\\chat",
    "\\\\host\\share",
    "chat\0",
    "chat\n",
    "chat ",
    " chat",
    "Chat",
    "chát",
    "‮tahc",
    "сhat",  # a Cyrillic letter
    "chat'--",
    "chat;drop",
    "-chat",
    "_chat",
    "chat:1",
    "chat@production",
    "a" * 65,
    "a" * 4096,
    "\x1b[31mchat",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_refused_without_reaching_the_screen(name: str) -> None:
    with pytest.raises(InvalidEntry, match="expected 1 to 64 characters") as raised:
        names.model_name(name)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 250
    with pytest.raises(InvalidEntry):
        names.alias_name(name)


@given(st.text(max_size=80))
def test_every_accepted_name_is_safe_in_a_path_and_a_url(name: str) -> None:
    try:
        names.model_name(name)
    except InvalidEntry:
        return
    assert re.fullmatch(r"[a-z0-9._-]+", name, re.ASCII)
    assert name not in (".", "..")


@pytest.mark.parametrize("name", ["chat", "0", "llama-3.1-8b_instruct", "a" * 64])
def test_ordinary_names_pass(name: str) -> None:
    assert names.model_name(name) == name


@pytest.mark.parametrize("alias", ["latest", "v3", "3", "007"])
def test_an_alias_cannot_pose_as_a_version(alias: str) -> None:
    with pytest.raises(InvalidEntry, match="are taken"):
        names.alias_name(alias)


@pytest.mark.parametrize("value", [0, -1, True, "0", "1.0", "٣", "3\n", "", 2**31, "99999999999"])
def test_a_version_is_a_whole_positive_number(value: int | str) -> None:
    with pytest.raises(InvalidEntry, match="version"):
        names.version_number(value)


def test_a_reference_is_a_number_or_an_alias() -> None:
    assert names.reference(3) == names.reference("3") == 3
    assert names.reference("candidate") == "candidate"


@pytest.mark.parametrize(
    ("given_url", "stored"),
    [
        ("http://127.0.0.1:9001", "http://127.0.0.1:9001"),
        ("https://GPU-7.example.com:443/", "https://gpu-7.example.com:443"),
        ("http://[::1]:9001", "http://[::1]:9001"),
        ("HTTP://localhost:80", "http://localhost:80"),
    ],
)
def test_a_replica_is_scheme_host_and_port(given_url: str, stored: str) -> None:
    assert names.replica_url(given_url) == stored


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9001",
        "//127.0.0.1:9001",
        "ftp://127.0.0.1:21",
        "file:///etc/passwd",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://:9001",
        "http://user:secret@127.0.0.1:9001",
        "http://user@127.0.0.1:9001",
        "http://@127.0.0.1:9001",
        "http://127.0.0.1:9001/v1",
        "http://127.0.0.1:9001/..",
        "http://127.0.0.1:9001/%2e%2e",
        "http://127.0.0.1:9001?x=1",
        "http://127.0.0.1:9001?",
        "http://127.0.0.1:9001#f",
        "http://127.0.0.1:9001\\@evil.example:80",
        "http://evil.example\\@127.0.0.1:9001",
        "http://127.0.0.1:9001\r\nHost: evil",
        "http://127.0.0.1 :9001",
        "http://127.0.0.1\t:9001",
        "http://exämple.com:80",
        "http://a..b:80",
        "http://-a.example:80",
        "http://[::1:9001",
        "http://[fe80::1%eth0]:9001",
        "http://[evil]:9001",
        "http://" + "a" * 300 + ":80",
    ],
    ids=ascii,
)
def test_a_replica_with_anything_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidEntry, match="expected http://HOST:PORT"):
        names.replica_url(url)


def test_replicas_are_a_list_without_repetitions_and_not_empty() -> None:
    assert names.replica_urls(["http://a:1/", "http://b:1", "http://a:1"]) == ("http://a:1", "http://b:1")
    with pytest.raises(InvalidEntry, match="0 replicas"):
        names.replica_urls([])
    with pytest.raises(InvalidEntry, match="a list of base URLs"):
        names.replica_urls("http://a:1")


@pytest.mark.parametrize(
    "uri",
    ["models:/chat", "models:/chat@", "models:/chat/3@a", "runs:/chat/3", "models:/../3", "models://chat/3"],
)
def test_a_models_uri_names_a_version_or_an_alias(uri: str) -> None:
    assert models_uri("models:/chat/3") == ("chat", 3)
    assert models_uri("models:/chat@candidate") == ("chat", "candidate")
    with pytest.raises(InvalidEntry):
        models_uri(uri)


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (names.served_name, "--port=1"),
        (names.served_name, "a b"),
        (names.engine_name, "vllm; rm"),
        (names.source_text, "--model"),
        (names.source_text, "a\nb"),
    ],
)
def test_what_ends_up_on_a_command_line_cannot_pose_as_an_option(
    check: Callable[[str], str], value: str
) -> None:
    with pytest.raises(InvalidEntry):
        check(value)


@pytest.mark.parametrize("key", ["turnout.replicas", "mlflow.user", "", "a b", "a" * 101])
def test_reserved_and_malformed_tags_are_refused(key: str) -> None:
    with pytest.raises(InvalidEntry, match="tag"):
        names.free_tags({key: "x"})


@pytest.mark.parametrize(
    "value",
    ["anthropic/claude-sonnet-4-5", "bedrock/eu.anthropic.claude-v2:1", "together_ai/meta-llama/Llama-3"],
)
def test_a_providers_model_names_a_known_provider(value: str) -> None:
    assert names.provider_model(value) == value


@pytest.mark.parametrize(
    "value", ["gpt-4.1", "openai/", "ollama/llama3", "litellm_proxy/x", "Anthropic/x", "a b/c", ""]
)
def test_no_other_provider_is_asked(value: str) -> None:
    with pytest.raises(InvalidEntry, match="served name"):
        names.provider_model(value)


@pytest.mark.parametrize(
    "value", ["sk-ant-0123456789", "PATH", "TURNOUT_TOKEN", "my_api_key", "AWS_SECRET_ACCESS_KEY", ""]
)
def test_a_credential_is_the_name_of_a_key_and_is_not_repeated(value: str) -> None:
    with pytest.raises(InvalidEntry) as refused:
        names.credential_name(value, names.LITELLM)
    assert not value or value not in str(refused.value)
    assert names.credential_name("ANTHROPIC_API_KEY", names.LITELLM) == "ANTHROPIC_API_KEY"
