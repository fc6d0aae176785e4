"""The event with the token counts is taken out, and no other byte."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.stripping import UsageStripper

DELTA = 'data: {"choices":[{"delta":{"content":"\\"choices\\":[] \\"usage\\":{ é"}}]}'
USAGE = 'data: {"id":"x","choices": [],"usage": {"prompt_tokens":1}}'


@given(
    st.lists(
        st.sampled_from(
            [
                DELTA,
                USAGE,
                ": ping",
                'data: {"LONG": {"usage": {}, "choices":[]}}',
                "data: LONG",
                'data: {"delta":1}',
                "data: [DONE]",
            ]
        ),
        max_size=6,
    ),
    st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"]),
    st.lists(st.integers(0, 400) | st.integers(0, 50_000), max_size=12),
    st.booleans(),
)
def test_stripping_does_not_depend_on_how_bytes_arrive(
    events: list[str], end: str, cuts: list[int], torn: bool
) -> None:
    events = [event.replace("LONG", "x" * 20_000) for event in events]
    whole = "".join(event + end for event in events).encode() + (b"data: {" if torn else b"")
    expected = "".join(event + end for event in events if event != USAGE).encode() + (
        b"data: {" if torn else b""
    )
    stripper = UsageStripper()
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    got = b"".join(stripper.feed(whole[a:b]) for a, b in pairwise(edges))
    assert got + stripper.finish() == expected
