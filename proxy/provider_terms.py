"""What of a request may be put to a provider, and what of its answer or refusal may come back?

Only fields of OpenAI's own API pass, each listed here: to litellm any keyword can be a destination, a
credential or a callback. Files are taken as `data:` only, since litellm would fetch an address itself. What
a provider says of a refused request is passed on without anything that could be a secret. Pure.
"""

from __future__ import annotations

import re
import struct
from base64 import b64encode
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

from experiments.blotting import blotted

from .errors import Refusal

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"

# fmt: off
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    CHAT: frozenset((
        "messages", "stream", "stream_options", "temperature", "top_p", "n", "max_tokens",
        "max_completion_tokens", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
        "top_logprobs", "response_format", "seed", "tools", "tool_choice", "parallel_tool_calls", "functions",
        "function_call", "reasoning_effort", "thinking", "modalities", "audio", "prediction", "service_tier",
        "verbosity", "web_search_options", "user",
    )),
    EMBEDDINGS: frozenset(("input", "dimensions", "encoding_format", "user")),
}
# fmt: on
#: What these fields do where they are left out: it asks for nothing, and some providers refuse the field.
_LEFT_OUT: Final[Mapping[str, Any]] = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "logit_bias": {},
}
#: Of use to Turnout (a session, a unit) or to OpenAI's own storage: they end here, and change no answer.
_ENDING_HERE: Final = frozenset(("model", "metadata", "store", "prompt_cache_key", "safety_identifier"))
_ADDRESS: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")

#: Statuses that say what is wrong with the request: the client can mend it, so it reads why.
_CLIENTS: Final = frozenset((400, 403, 404, 409, 413, 422))
#: Statuses that say "not now", the second one Anthropic's own, and what they are to a client.
_NOT_NOW: Final = {429: 429, 529: 503}
#: litellm's error where it has no status; it also stands for whatever litellm did not expect.
NO_STATUS: Final = "APIConnectionError"
_LONGEST: Final = 500
_LITELLM_PREFIX: Final = re.compile(r"^(?:litellm\.)?(?:\w*(?:Error|Exception)(?::|\s-)\s*)+")
#: What litellm's own users could set; nobody can here.
_HINT: Final = re.compile(r" ?To drop (?:these|it)\b.*", re.DOTALL)
_PARAM: Final = re.compile(r'"param"\s*:\s*"(\w+)"')
#: OpenRouter, xAI and those behind a moderating gateway say such of a prompt, and say it with a 403.
_FLAGGED: Final = re.compile(
    r"moderat|flagged|(?:content|safety|usage)[ _-]?(?:policy|policies|filter|check|violat|guideline)"
    r"|content violates|safety_check",
    re.IGNORECASE,
)
_MESSAGE: Final = re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\.)+)"')


def keywords(path: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The request as litellm's keywords. Raises Refusal with the field that a provider is not given."""
    allowed = _FIELDS.get(path)
    if allowed is None:
        known = ", ".join(_FIELDS)
        message = f"This model's provider is asked through {known} only."
        raise Refusal(400, "unsupported_by_provider", message)
    for name in document:
        if name not in allowed and name not in _ENDING_HERE:
            message = f"'{name[:100]}' is refused: this model's provider is given OpenAI's own fields only."
            raise Refusal(400, "unsupported_field", message, name[:100])
    for message in document.get("messages") or ():
        if not isinstance(message, dict):
            text = f"A message is {orjson.dumps(message).decode()[:100]}: expected an object."
            raise Refusal(400, "invalid_type", text, "messages")
        _refuse_addresses(message)
    asked = {name: document[name] for name in allowed if document.get(name) is not None}
    return {name: value for name, value in asked.items() if name not in _LEFT_OUT or value != _LEFT_OUT[name]}


def _refuse_addresses(message: Mapping[str, Any]) -> None:
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") != "text" and any(map(_ADDRESS.match, _texts(part))):
            text = "A file for this model's provider is sent in the request, as a 'data:' URL."
            raise Refusal(400, "address_refused", text, "messages")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def packed_vector(vector: Any) -> Any:
    """A vector in base64, as the bytes of float32: what OpenAI's own client asks for."""
    if not isinstance(vector, list):
        return vector
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def event(chunk: dict[str, Any]) -> bytes:
    """One event of a stream. Token counts come without choices, as OpenAI sends them."""
    choices = chunk.get("choices") or []
    if chunk.get("usage") and not any(choice.get("finish_reason") or _says(choice) for choice in choices):
        chunk["choices"] = []
    for choice in chunk.get("choices") or ():
        choice.setdefault("finish_reason", None)
        choice.setdefault("delta", {})
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _says(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return any(value for name, value in delta.items() if name != "role")


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it, the last one first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        yield one
        seen.add(id(one))
        one = one.__cause__ or one.__context__


def fault(error: BaseException, status: int | None, *, streamed: bool) -> str | None:
    """The code of what went wrong with the asking or the answer; None where the provider, or litellm in its
    place, refuses. `status` is that of the answer that came (None: none did).

    litellm's own word tells little: a connection that broke off has a status of 500 there, an answer that
    cannot be read one of 422, and a request that cannot be translated is a connection error.
    """
    types = {base.__name__ for one in causes(error) for base in type(one).__mro__}
    vague = type(error).__name__ == NO_STATUS or not isinstance(getattr(error, "status_code", None), int)
    if "TransportError" in types:
        return "upstream_unreachable" if "ConnectError" in types else "upstream_cut"
    if status is None:
        return "provider_not_asked" if vague else None
    if status >= 400:
        return None
    if status >= 300:
        return "upstream_redirect"
    # A stream may still tell of a refusal, among its events.
    return None if streamed and not vague else "provider_garbled"


class Oversized(Exception):
    """The provider's answer has more bytes than the proxy holds."""


class Seen:
    """What the HTTP client has seen of an answer: its status, when to ask again (seconds, empty: not said),
    and in its bytes, unpacked, as they pass whether Gemini has said why it ended. `streamed`: events were
    asked for. At most so many bytes are taken."""

    _SAID: Final = re.compile(rb'(?<!\\)"finishReason"\s*:\s*"')  # inside a text the quotes are escaped

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self.streamed = False
        self.status: int | None = None
        self.retry_after = b""
        self.finished = False
        self._tail = b""

    @property
    def oversized(self) -> bool:
        """Whether more came than is taken."""
        return self._taken > self._most

    def look(self, data: bytes) -> None:
        """The next bytes. Raises Oversized where they are too many, with those before them."""
        self._taken += len(data)
        if self.oversized:
            raise Oversized
        text = self._tail + data
        self.finished = self.finished or self._SAID.search(text) is not None
        self._tail = text[-64:]


def named(said: str, param: object, fields: Container[str]) -> str | None:
    """Which of a request's fields a provider's refusal is about, as OpenAI's `param` says it, in litellm's
    error or in the words that it quotes; None: it names none."""
    if param is None and (found := _PARAM.search(said)) is not None:
        param = found[1]
    return param if isinstance(param, str) and param in fields else None


def flagged(said: str) -> bool:
    """Whether a provider's 403 says that it is about what was asked (its moderation, its terms of use), and
    not about the key."""
    return _FLAGGED.search(said) is not None


def refusal(status: int, said: str, secrets: Iterable[str], field: str | None = None) -> Refusal:
    """What a client reads of a provider's error: its own words where they help, and never a secret. `field`:
    of the request, if it is known which one the provider does not take."""
    if status in _CLIENTS:
        return Refusal(status, "provider_rejected", f"The provider says: {scrubbed(said, secrets)}", field)
    if status in _NOT_NOW:
        message = "The provider takes no more requests now; try again later."
        return Refusal(_NOT_NOW[status], "provider_overloaded", message)
    message = f"The provider failed with status {status}."
    return Refusal(status if 500 <= status < 600 else 502, "provider_failed", message)


def unsupported(said: str, fields: Iterable[str]) -> Refusal:
    """What a client reads where litellm knows that a provider's model does not take one of these fields."""
    text = scrubbed(said, ())
    words = re.findall(r"\w+", text)
    first = min((name for name in fields if name in words), key=words.index, default=None)
    return Refusal(400, "unsupported_field", text, first)


def scrubbed(said: str, secrets: Iterable[str]) -> str:
    """A provider's words without what could be a key, in one line."""
    inner = _MESSAGE.search(said)
    said = inner[1].replace('\\"', '"') if inner else _LITELLM_PREFIX.sub("", said)
    text = blotted(" ".join(said.split()), secrets)
    text = _HINT.sub("", text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
