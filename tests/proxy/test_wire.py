"""Which bytes change on the way to the engine."""

from __future__ import annotations

import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import wire
from proxy.errors import Refusal
from proxy.limits import Limits
from proxy.steering import NESTS, steers

CHAT = "/v1/chat/completions"
LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
KEYS = st.text(max_size=5) | st.just("model")
JSON = st.recursive(
    LEAVES | st.sampled_from(["model", '"model":']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
RESERVED = {"model", "messages", "stream", "n", "stop", "metadata"}
EXTRA = st.dictionaries(
    st.text(max_size=6).filter(lambda k: not steers(k.casefold()) and k.casefold() not in RESERVED),
    JSON,
    max_size=4,
)


@given(EXTRA, st.text(min_size=1, max_size=9), st.text(min_size=1, max_size=9), st.booleans(), st.randoms())
def test_only_the_two_named_fields_change(extra, name, served, stream, shuffle) -> None:
    fields = {**extra, "model": name, "messages": []}
    if stream:
        fields["stream"] = True
    order = list(fields)
    shuffle.shuffle(order)
    document = {key: fields[key] for key in order}
    style = shuffle.choice([orjson.dumps, lambda d: orjson.dumps(d, option=orjson.OPT_INDENT_2)])
    ask = wire.parse(CHAT, style(document), Limits())
    sent = orjson.loads(wire.engine_body(ask, served))
    expected = {**document, "model": served}
    if stream:
        expected["stream_options"] = {"include_usage": True}
    assert sent == expected


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"mod\u0065l": "chat", "messages": [{"model": "x"}]}',
        rb'{"messages": ["\u006D \u00e9"], "\u006D\u006fde\u006C": "chat"}',
        rb'{"messages": ["\u00e9", "\"model\": \"x\""], "model" : "chat"}',
        rb'{"messages": ["\u00e9 \u006d"], "user": "mod\u0065l", "model":"chat"}',
        rb'{"messages": ["\"model\": \"x\""], "model" : "chat"}',
        rb'{"user": "model", "messages": [], "model":"chat"  }',
        rb'{"messages": [{"a": [1, {"model": 2}]}], "z": {}, "model":"chat"}',
    ],
)
def test_the_model_is_found_however_it_is_spelt(raw: bytes) -> None:
    ask = wire.parse(CHAT, raw, Limits())
    sent = orjson.loads(wire.engine_body(ask, "served"))
    assert sent == {**orjson.loads(raw), "model": "served"}


@pytest.mark.parametrize("again", [b"model", b"mod\\u0065l", b"\\u006D\\u006F\\u0064\\u0065\\u006C"])
def test_a_model_named_twice_is_refused(again: bytes) -> None:
    with pytest.raises(Refusal, match="2 times"):
        wire.parse(CHAT, b'{"model":"a","messages":[],"%b":"b"}' % again, Limits())


def test_a_body_of_many_tokens_is_walked_in_time() -> None:
    """The walk over a body with escapes must not hold up everybody else (reliability row 28)."""
    body = b'{"user":"model","junk":[' + b"0," * 2_000_000 + b'0],"messages":[],"model":"a"}'
    started = time.process_time()
    ask = wire.parse(CHAT, body, Limits())
    assert ask.spans is not None, "this one is walked"
    assert wire.engine_body(ask, "served") == body.replace(b'"a"', b'"served"')
    assert time.process_time() - started < 1.0


def test_an_escape_in_a_text_is_no_reason_for_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text of a language with accents has them, as `json.dumps` writes it."""
    monkeypatch.setattr(wire, "top_level", None)
    options = b'"stream_options":{"include_usage":false}'
    raw = b'{"model":"chat","stream":true,%b,"messages":["Gr\\u00fc\\u00dfe"]}' % options
    sent = orjson.loads(wire.engine_body(wire.parse(CHAT, raw, Limits()), "served"))
    assert (sent["model"], sent["stream_options"]) == ("served", {"include_usage": True})


def test_no_body_is_walked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[bytes] = []
    walk = wire.top_level
    monkeypatch.setattr(wire, "top_level", lambda body: walked.append(body) or walk(body))
    raw = b'{"mod\\u0065l":"a","stream":true,"messages":["stream_options"],"stream_options":{"x":{"y":{}}}}'
    ask = wire.parse(CHAT, raw, Limits())
    for served in ("b", "c"):
        sent = orjson.loads(wire.engine_body(ask, served))
        options = {"x": {"y": {}}, "include_usage": True}
        assert sent == {**orjson.loads(raw), "model": served, "stream_options": options}
    assert walked == [raw]


@pytest.mark.parametrize("seen", [b"\\u00e9", b"\\u006d", b""])
def test_a_large_body_with_escapes_holds_up_nobody(seen: bytes) -> None:
    """8 MB of short lines were walked twice each way: 0.6 s for the whole worker."""
    text = seen + b"a\\n" * (2 << 20)
    body = b'{"model":"chat","stream":true,"stream_options":{"include_usage":false},"messages":["%b"]}' % text
    started = time.process_time()
    orjson.loads(body)
    parsing = time.process_time() - started
    started = time.process_time()
    wire.engine_body(wire.parse(CHAT, body, Limits()), "served")
    assert time.process_time() - started < 4 * parsing + 0.05


@pytest.mark.parametrize(
    "field", ["Model", "MODEL", "\u017ftream", "Stream_Options", "N", "Max_Tokens", "Stop"]
)
def test_a_field_that_some_engines_take_for_another_is_refused(field: str) -> None:
    """encoding/json of Go tells no case apart, and takes a long s for one: the engine would be asked
    something else than what was checked."""
    body = orjson.dumps({"model": "a", "messages": [], field: "b"})
    with pytest.raises(Refusal) as refused:
        wire.parse(CHAT, body, Limits())
    assert (refused.value.code, refused.value.param) == ("ambiguous_field", field)


def test_fields_that_only_look_unusual_pass() -> None:
    body = orjson.dumps({"model": "a", "messages": [], "Models": 1, "modelo": 2, "User": "x", "": 3})
    assert wire.engine_body(wire.parse(CHAT, body, Limits()), "a") is body


def test_what_is_usual_needs_no_second_look() -> None:
    assert wire._USUAL.isdisjoint(wire._COSTLY | {"stream_options", *NESTS})
    assert not any(map(steers, wire._USUAL))


def test_stream_options_keep_what_the_client_set() -> None:
    raw = b'{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":false,"x":"}"}}'
    sent = orjson.loads(wire.engine_body(wire.parse(CHAT, raw, Limits()), "a"))
    assert sent["stream_options"] == {"include_usage": True, "x": "}"}
    raw = b'{"model":"a","messages":[],"stream":true,"stream_options":null}'
    sent = orjson.loads(wire.engine_body(wire.parse(CHAT, raw, Limits()), "a"))
    assert sent["stream_options"] == {"include_usage": True}


def test_no_change_is_no_copy() -> None:
    body = b'{"model":"a","messages":[]}'
    assert wire.engine_body(wire.parse(CHAT, body, Limits()), "a") is body


@pytest.mark.parametrize(("path", "field"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
def test_a_long_list_of_tokens_is_one_prompt(path: str, field: str) -> None:
    limits = Limits(messages=10)
    for many, fits in (([7] * 11, True), (["a"] * 11, False), ([[7]] * 11, False)):
        body = orjson.dumps({"model": "a", field: many})
        if fits:
            wire.parse(path, body, limits)
        else:
            with pytest.raises(Refusal, match="at most 10"):
                wire.parse(path, body, limits)


def _large(text: str, times: int) -> bytes:
    return orjson.dumps({"model": "chat", "messages": [{"role": "user", "content": text * times}]})


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2, {"b": "c\\\\"}]},\n', "f(x)[0] = {}; g: h, \\", 'say "{" and "["\n']
)
def test_a_large_text_of_code_is_a_text(text: str) -> None:
    """What stands inside a text is nothing to read, however many braces it has."""
    body = _large(text, (2 << 20) // len(text) * 2)
    assert len(body) > 2 << 20
    assert wire.parse(CHAT, body, Limits(json_parts=1000, json_commas=1000)).model == "chat"


@pytest.mark.parametrize("piece", [b"{},", b'{"a":1},', b'"{",', b'"\\"{",', b'"\\\\",{},', b"[1],"])
def test_a_large_body_of_many_pieces_is_not_read(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"model":"chat","messages":[],"x":[' + piece * (4_000_000 // len(piece)) + b"1]}"
    monkeypatch.setattr(wire.orjson, "loads", lambda body: pytest.fail("it was read"))
    with pytest.raises(Refusal) as refused:
        wire.parse(CHAT, body, Limits())
    assert refused.value.code == "too_many_items"
