"""A copy carries the client's bytes, and nothing that stores, names or outranks anybody."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import wire
from proxy.copying import LEFT_OUT, copy_body, copy_head
from proxy.errors import Refusal
from proxy.limits import Limits

MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'


def ask(body: bytes) -> wire.Ask:
    return wire.parse("/v1/chat/completions", body, Limits())


def test_a_body_with_nothing_to_leave_out_is_the_clients_own() -> None:
    body = b'{ "model":"chat" , %b, "temperature":1.0 }' % MESSAGES
    assert copy_body(ask(body), "chat", None) == body


def test_what_stores_or_names_is_cut_out_and_the_rest_is_byte_for_byte() -> None:
    body = (
        b'{"store":true,"model":"chat","us\\u0065r":"ada","top_p":1.0,%b,"metadata":{"session_id":"s","a":[1]},'
        b'"safety_identifier":"x","seed":1e2}'
    ) % MESSAGES
    assert copy_body(ask(body), "chat", None) == b'{"model":"chat","top_p":1.0,%b,"seed":1e2}' % MESSAGES


@pytest.mark.parametrize("given_priority", [b"", b'"priority":-5,'])
def test_the_priority_is_the_experiments(given_priority: bytes) -> None:
    body = b'{%b"model":"chat",%b}' % (given_priority, MESSAGES)
    made = orjson.loads(copy_body(ask(body), "served", 1000))
    assert made == {"model": "served", **orjson.loads(b"{%b}" % MESSAGES), "priority": 1000}


def test_a_field_that_is_there_twice_is_cut_out_twice() -> None:
    body = b'{"user":"a","model":"chat",%b,"user":"b"}' % MESSAGES
    assert copy_body(ask(body), "chat", None) == b'{"model":"chat",%b}' % MESSAGES


def test_what_cannot_be_walked_is_refused() -> None:
    body = b'{"user":"a","model":"chat",%b,"x":%b}' % (MESSAGES, b"9" * 5000)
    with pytest.raises(Refusal):
        copy_body(ask(body), "chat", None)


def test_what_nests_deeply_is_cut_or_refused() -> None:
    """How deep the walk can go depends on the interpreter: 3.12 and later go deeper than bodies may nest."""
    rest = b'"model":"chat",%b,"x":%b' % (MESSAGES, b"[" * 1000 + b"]" * 1000)
    try:
        made = copy_body(ask(b'{"user":"a",%b}' % rest), "chat", None)
    except Refusal as refusal:
        made = refusal.message.encode()
    assert made == b"{%b}" % rest or b"too deeply" in made


def test_a_copy_is_marked() -> None:
    assert copy_head(b"accept: */*\r\n") == b"accept: */*\r\nx-turnout-mirrored: 1\r\n"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    fields=st.dictionaries(
        st.sampled_from([*sorted(LEFT_OUT), "priority", "seed", "top_p", "stop", "ä"]), _VALUES, max_size=8
    ),
    stream=st.booleans(),
    priority=st.none() | st.integers(-9, 9),
)
def test_whatever_the_body_the_copy_is_it_less_what_is_left_out(
    fields: dict[str, object], stream: bool, priority: int | None
) -> None:
    document = {**fields, "model": "chat", "messages": [], "stream": stream}
    made = orjson.loads(copy_body(ask(orjson.dumps(document)), "v2", priority))
    expected = {name: value for name, value in document.items() if name not in LEFT_OUT} | {"model": "v2"}
    if stream:
        expected["stream_options"] = {"include_usage": True}
    if priority is not None:
        expected["priority"] = priority
    assert made == expected
