"""What does a request body ask for, and which of its bytes must change on the way to the engine?

The body is parsed once, to read it. What is sent on are the client's own bytes, except for the value of
`model` (the name the engine serves) and `stream_options.include_usage` (so that tokens can be counted; for
`stripping` to take out again). No I/O here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json import JSONDecoder
from typing import Any, Final

import orjson

from .errors import Refusal
from .limits import Limits
from .steering import NESTS, refuse_steering


@dataclass(frozen=True, slots=True)
class Api:
    """What is known of the bodies of one endpoint. `content` is the field that it cannot do without.

    `streams`: the answer may be events. `counts_on_request`: token counts of a stream are sent to those who
    ask for them in `stream_options`; elsewhere they always are.
    """

    content: str | None
    types: tuple[type, ...] = ()
    expected: str = ""
    streams: bool = False
    counts_on_request: bool = False


_TEXTS: Final = ((str, list), "a string or a list")
_MESSAGES: Final = ("messages", (list,), "a list of messages")
#: The endpoints that are routed. Their answers are recorded as they are; `ledger.transcript` reads them.
APIS: Final[Mapping[str, Api]] = {
    "/v1/chat/completions": Api(*_MESSAGES, streams=True, counts_on_request=True),
    "/v1/completions": Api("prompt", *_TEXTS, streams=True, counts_on_request=True),
    "/v1/embeddings": Api("input", *_TEXTS),
    "/v1/responses": Api("input", *_TEXTS, streams=True),
    "/v1/messages": Api(*_MESSAGES, streams=True),
    "/v1/rerank": Api("documents", (list, dict), "a list of documents"),
    "/v1/score": Api(None),  # engines have named its two texts in several ways
    "/tokenize": Api(None),  # a prompt or messages
    "/detokenize": Api("tokens", (list,), "a list of token ids"),
}


Span = tuple[int, int]


@dataclass(slots=True)
class Ask:
    """What the proxy needs to know of a body; `document` is the parse, `body` the client's bytes.

    `hides_usage`: the token counts of a stream are asked for on Turnout's own account, and kept from the
    client. `spans` are where the values of the fields lie that may change, once a walk has found them.
    """

    path: str
    body: bytes
    document: dict[str, Any]
    model: str
    stream: bool
    hides_usage: bool
    spans: Mapping[str, Span] | None = None

    @property
    def has_tools(self) -> bool:
        """Whether the engine's answer may call tools."""
        return bool(self.document.get("tools") or self.document.get("functions"))

    @property
    def continues(self) -> bool:
        """Whether it goes on from what was stored where it was answered before: nobody else has that."""
        return bool(self.document.get("previous_response_id") or self.document.get("conversation"))


def _wrong(code: str, message: str, param: str | None = None) -> Refusal:
    return Refusal(400, code, message, param)


def parse(path: str, body: bytes, limits: Limits) -> Ask:
    """Read and check a body. Raises Refusal with the field that is wrong."""
    if len(body) > _LARGE:
        _refuse_crowded(body, limits)
    try:
        document: Any = orjson.loads(body)
    except ValueError as error:
        message = f"The body is not valid JSON: {error}. Send one JSON object in UTF-8."
        raise _wrong("malformed_json", message) from None
    if not isinstance(document, dict):
        raise _wrong("malformed_json", f"The body is {_kind(document)}: expected a JSON object.")
    api = APIS[path]
    model, streams = _check_fields(api, document, limits)
    hides_usage = streams and api.counts_on_request
    options = document.get("stream_options")
    if options and options.get("include_usage") is True:
        hides_usage = False  # the client itself asked for the event
    # What is ambiguous is refused before anything is sent, also where this endpoint needs no replacement.
    if _plain(body, "model") and ("stream_options" not in document or _plain(body, "stream_options")):
        return Ask(path, body, document, model, streams, hides_usage)
    return Ask(path, body, document, model, streams, hides_usage, _walk(body, document))


def _check_fields(api: Api, document: dict[str, Any], limits: Limits) -> tuple[str, bool]:
    """The model, and whether the answer may be events. Raises Refusal."""
    if len(document) > limits.json_fields:
        raise _wrong("too_many_items", f"The body has {len(document)} fields: at most {limits.json_fields}.")
    _check_unusual(document, limits)
    model = document.get("model")
    if not isinstance(model, str) or not model:
        found = "is missing" if model is None else f"is {_kind(model)}"
        raise _wrong("invalid_type", f"'model' {found}: expected the name of a registered model.", "model")
    stream = document.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong("invalid_type", f"'stream' is {_kind(stream)}: expected true or false.", "stream")
    _check_content(api, document, limits)
    return model, stream is True and api.streams


def _check_unusual(document: dict[str, Any], limits: Limits) -> None:
    strange: list[str] = []
    for field, value in document.items():
        if field in _USUAL:
            continue
        cap = _CAPS.get(field)
        if cap is not None:
            if type(value) is not int or not cap[0] <= value <= cap[1](limits):
                _check_cost(field, value, limits)
        elif field in _LISTS:
            _check_cost(field, value, limits)
        else:
            strange.append(field)
    if strange:
        _check_strange(strange, document, limits)


def _check_strange(strange: list[str], document: dict[str, Any], limits: Limits) -> None:
    for nest in NESTS:
        inner = document.get(nest)
        if isinstance(inner, dict) and len(inner) > limits.json_fields:
            message = f"'{nest}' has {len(inner)} fields: at most {limits.json_fields}."
            raise _wrong("too_many_items", message, nest)
    refuse_steering(strange, document)
    for field in strange:
        folded = field.casefold()
        if folded in _TOLD_APART and folded != field:  # to encoding/json of Go the two are one
            message = f"'{field[:100]}' is refused: some engines read it as '{folded}'. Spell it so."
            raise _wrong("ambiguous_field", message, field[:100])
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        message = f"'stream_options' is {_kind(options)}: expected an object."
        raise _wrong("invalid_type", message, "stream_options")


#: A smaller body is read whatever it holds: that takes tens of milliseconds at most.
_LARGE: Final = 1 << 20
_WINDOW: Final = 256 << 10


def _refuse_crowded(body: bytes, limits: Limits) -> None:
    """A body that would take long to read is not read. Raises Refusal.

    What stands inside texts does not count. Window by window, so that what is crowded costs little.
    """
    quotes = parts = commas = at = 0
    while at < len(body):
        window = body[at : at + _WINDOW]
        if (len(window) - len(window.rstrip(b"\\"))) & 1:  # its last byte escapes the next one
            window = body[at : at + _WINDOW + 1]
        at += len(window)
        pieces = window.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        outside = b"".join(pieces[quotes & 1 :: 2])  # an odd number of quotes: it began inside a text
        quotes += len(pieces) - 1
        parts += outside.count(b"{") + outside.count(b"[") + outside.count(b":")
        commas += outside.count(b",")
        if parts > limits.json_parts or commas > limits.json_commas or quotes > 4 * limits.json_parts:
            most = f"{limits.json_parts} objects, lists and fields, and {limits.json_commas} commas"
            raise _wrong("too_many_items", f"A body over 1 MiB has at most {most}: this one has more.")


def _check_content(api: Api, document: dict[str, Any], limits: Limits) -> None:
    name = api.content
    if name is None:
        return
    content = document.get(name)
    if not isinstance(content, api.types):
        found = "is missing" if content is None else f"is {_kind(content)}"
        raise _wrong("invalid_type", f"'{name}' {found}: expected {api.expected}.", name)
    # A list of token ids is one prompt, however long: the engine's context is its limit.
    ids = str in api.types or name == "tokens"
    if isinstance(content, list) and len(content) > limits.messages and not (ids and type(content[0]) is int):
        raise _wrong("too_many_items", f"'{name}' has {len(content)} items: at most {limits.messages}.", name)


#: Fields by which a small request can cost an engine much: the least value, and the limit that caps it.
#: A count of -1, by which vLLM means its whole vocabulary, is below the least.
_CAPS: Final[Mapping[str, tuple[int, Callable[[Limits], int]]]] = {
    "n": (1, lambda limits: limits.choices),
    "best_of": (1, lambda limits: limits.choices),
    "max_tokens": (0, lambda limits: limits.output_tokens),
    "max_completion_tokens": (0, lambda limits: limits.output_tokens),
    "max_output_tokens": (0, lambda limits: limits.output_tokens),
    "logprobs": (0, lambda limits: limits.logprobs),
    "top_logprobs": (0, lambda limits: limits.logprobs),
    "prompt_logprobs": (0, lambda limits: limits.logprobs),
}
_LISTS: Final = frozenset(("stop", "stop_token_ids", "stop_sequences"))
_COSTLY: Final = frozenset((*_CAPS, *_LISTS))
#: Of these there must not be another that differs in case only.
_TOLD_APART: Final = _COSTLY | {"model", "stream", "stream_options"}
#: Fields of which no more is to be known: a body that has no others is looked through once.
# fmt: off
_USUAL: Final = frozenset((
    "model", "stream", "messages", "prompt", "input", "user", "safety_identifier", "prompt_cache_key",
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "min_tokens", "ignore_eos", "response_format", "tools", "tool_choice",
    "parallel_tool_calls", "functions", "function_call", "reasoning", "reasoning_effort", "thinking",
    "verbosity", "modalities", "audio", "prediction", "service_tier", "store", "suffix", "echo", "system",
    "instructions", "text", "include", "truncation", "previous_response_id", "conversation", "background",
    "encoding_format", "dimensions", "query", "documents", "top_n", "return_documents", "text_1", "text_2",
    "tokens", "add_special_tokens", "chat_template_kwargs",
))
# fmt: on


def _check_cost(field: str, value: Any, limits: Limits) -> None:
    if field in _LISTS:
        if isinstance(value, list) and len(value) > limits.stops:
            most = limits.stops
            raise _wrong("too_many_items", f"'{field}' has {len(value)} items: at most {most}.", field)
        return
    if value is None or (field == "logprobs" and isinstance(value, bool)):
        return  # `logprobs` is a switch for chats and a number for completions
    least, cap = _CAPS[field]
    most = cap(limits)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong("invalid_type", f"'{field}' is {_kind(value)}: expected a whole number.", field)
    if not least <= value <= most:
        raise _wrong("out_of_range", f"'{field}' is {value}: expected {least} to {most}.", field)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def engine_body(ask: Ask, served_name: str) -> bytes:
    """The bytes for the engine: the client's, with `model` and `include_usage` set. Never raises."""
    if served_name == ask.model and not ask.stream:
        return ask.body
    edits: list[tuple[Span, bytes]] = []
    if served_name != ask.model:
        edits.append((_span(ask, "model"), orjson.dumps(served_name)))
    if ask.stream and ask.hides_usage:
        if "stream_options" in ask.document:
            options = {**(ask.document["stream_options"] or {}), "include_usage": True}
            edits.append((_span(ask, "stream_options"), orjson.dumps(options)))
        else:
            start = ask.body.index(b"{") + 1
            edits.append(((start, start), b'"stream_options":{"include_usage":true},'))
    body = ask.body
    if len(edits) > 1:
        edits.sort(reverse=True)  # from the end, so that the spans stay true
    for (low, high), value in edits:
        body = body[:low] + value + body[high:]
    return body


_JSON: Final = JSONDecoder()
_GAP: Final = re.compile(r"[ \t\r\n,:]*")
#: The fields whose values may change.
_CHANGING: Final = ("model", "stream_options")
_SIMPLE: Final = {
    name: re.compile(
        rb'"' + name.encode() + rb'"\s*:\s*("(?:[^"\\]|\\.)*"|\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}|null)'
    )
    for name in _CHANGING
}
_QUOTED: Final = {name: b'"%b"' % name.encode() for name in _CHANGING}


def _letter(code: int) -> bytes:
    r"""A pattern for a letter as itself or as its escape, `\u006d` or `\u006D`."""
    return rb"(?:%c|\\u00%x[%x%X])" % (code, code >> 4, code & 15, code & 15)


_SPELT: Final = {
    name: re.compile(b'"%b"' % b"".join(_letter(code) for code in name.encode())) for name in _CHANGING
}


_BACKSLASH: Final = ord("\\")  # looked for as a number: for bytes, `in` first finds that they are no number


def _plain(body: bytes, name: str) -> bool:
    """Whether a key is spelt once in the whole body, be it with escapes.

    Then it is the one the parser found; all else takes the walk over the fields.
    """
    # The first look for an escape is many times cheaper than the second. Those of ASCII begin with two zeros.
    if _BACKSLASH in body and b"\\u00" in body:
        once = _SPELT[name].search(body)
        return once is not None and _SPELT[name].search(body, once.end()) is None
    at = body.find(_QUOTED[name])
    return at >= 0 and body.find(_QUOTED[name], at + 1) < 0


def _span(ask: Ask, name: str) -> Span:
    """Where the value of a top-level field lies that is there, in a body that `parse` has let through."""
    if ask.spans is None:
        match = _SIMPLE[name].search(ask.body)
        if match:
            return match.span(1)
        ask.spans = _walk(ask.body, ask.document)
    return ask.spans[name]


def _walk(body: bytes, document: dict[str, Any]) -> Mapping[str, Span]:
    """Where the values of the fields lie that may change, by one walk over all fields.

    Raises Refusal if one of them is there twice.
    """
    fields = top_level(body)
    spans: dict[str, Span] = {}
    for name in _CHANGING:
        found = [(low, high) for key, _, low, high in fields if key == name]
        if name in document and len(found) != 1:
            raise _wrong("duplicate_field", f"'{name}' is there {len(found)} times: send it once.", name)
        spans.update((name, span) for span in found)
    return spans


def top_level(body: bytes) -> list[tuple[str, int, int, int]]:
    """The top-level fields of valid JSON, in order: key, where it begins, where its value begins and ends.

    Parsed one by one, in C. Raises Refusal for what nests too deeply.
    """
    text = body.decode("latin-1")  # one character per byte; only what is ASCII matters here
    fields: list[tuple[str, int, int, int]] = []
    at = _after_gap(text, text.index("{") + 1)
    try:
        while text[at] != "}":
            start = at
            key, at = _JSON.raw_decode(text, at)
            low = _after_gap(text, at)
            _, high = _JSON.raw_decode(text, low)
            fields.append((key, start, low, high))
            at = _after_gap(text, high)
    except (ValueError, RecursionError):
        raise _wrong(
            "malformed_json", "The body nests too deeply, or has a number of thousands of digits."
        ) from None
    return fields


def _after_gap(text: str, at: int) -> int:
    match = _GAP.match(text, at)
    return match.end() if match else at
