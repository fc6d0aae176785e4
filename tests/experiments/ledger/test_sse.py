"""The event-stream decoder: the grammar, any cut, and agreement with the OpenAI client's decoder."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from experiments.ledger.sse import EventStream, events_in


def data_of(body: bytes) -> list[bytes]:
    return [event.data for event in events_in(body)[0]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": ping\n\ndata: a\n\n", [b"a"]),
        (b"id: 7\nretry: 10\nevent: x\ndata: a\n\n", [b"a"]),
        (b"data\n\n", [b""]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"event: lonely\n\ndata: a\n\n", [b"a"]),
        (b"", []),
        (b"data: unfinished\n", []),
    ],
)
def test_grammar(body: bytes, expected: list[bytes]) -> None:
    assert data_of(body) == expected


def test_an_event_knows_its_name_and_where_it_ends() -> None:
    body = b"event: error\ndata: a\n\ndata: b\r\n\r\n"
    events, tail, oversized = events_in(body)
    assert [(e.name, body[: e.end]) for e in events] == [(b"error", body[:22]), (b"", body)]
    assert (tail, oversized) == (b"", 0)


def test_the_fast_way_gives_the_ends_too() -> None:
    body = b"data: a\n\ndata: bc\n\n"
    assert [event.end for event in events_in(body)[0]] == [9, len(body)]


def test_what_is_left_unfinished_is_told() -> None:
    assert events_in(b"data: a\n\ndata: [DONE]")[1] == b"[DONE]"


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_an_event_above_the_cap_is_dropped_and_memory_stays_bounded(piece: int) -> None:
    body = b"data: ok\n\ndata: " + b"x" * 5000 + b"\ndata: more\n\ndata: ok too\n\n"
    stream = EventStream(cap=100)
    events = []
    for at in range(0, len(body), piece):
        events += stream.feed(body[at : at + piece])
        assert len(stream._rest) <= 100 + piece
    assert [event.data for event in events] == [b"ok", b"ok too"]
    assert stream.oversized == 1
    assert events[-1].end == len(body)


LINES = st.sampled_from(
    [b"data: ", b"data:", b"data", b":", b"event: x", b"id: 1", b"data: [DONE]", b"junk", b"\x00", b" "]
) | st.sampled_from(
    [b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", 'data: {"a": "🚂👨\u200d👩\u200d👧漢字é"}'.encode()]
)
BODIES = st.lists(LINES, max_size=40).map(b"".join)


@st.composite
def cut_bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    body = draw(BODIES)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=12)))
    edges = [0, *cuts, len(body)]
    return body, [body[a:b] for a, b in pairwise(edges)]


@settings(max_examples=2000, deadline=None)
@given(cut_bodies(), st.sampled_from([8, 20, 1 << 20]))
@example((b"data: a\r\n\r\n", [b"data: a\r", b"\n\r", b"\n"]), 1 << 20)
def test_where_a_stream_is_cut_makes_no_difference(cut: tuple[bytes, list[bytes]], cap: int) -> None:
    body, pieces = cut
    whole, parts = EventStream(cap=cap), EventStream(cap=cap)
    expected = whole.feed(body)
    last, tail = whole.finish()
    found = [event for piece in pieces for event in parts.feed(piece)]
    also, other_tail = parts.finish()
    assert found + also == expected + last
    assert (other_tail, parts.oversized) == (tail, whole.oversized)


@settings(max_examples=500, deadline=None)
@given(BODIES)
def test_byte_by_byte_equals_the_whole_body(body: bytes) -> None:
    stream = EventStream()
    found = [event for at in range(len(body)) for event in stream.feed(body[at : at + 1])]
    found += stream.finish()[0]
    assert found == events_in(body)[0]


@settings(max_examples=2000, deadline=None)
@given(BODIES.filter(lambda body: b"\xef\xbb\xbf" not in body))
def test_agrees_with_the_openai_client(body: bytes) -> None:
    """Their decoder also yields events without data, which the standard says not to dispatch."""
    theirs = [event.data.encode() for event in SSEDecoder().iter_bytes(iter([body])) if event.data]
    assert [data for data in data_of(body) if data] == theirs
