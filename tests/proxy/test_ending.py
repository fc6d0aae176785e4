"""The last event of a stream is seen in the piece that ends it, however the stream is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.ending import EndOfStream

TEXT = rb'{"delta":"event: message_stop\n\nevent: response.completed\n\ndata: [DONE]"}'
STREAMS = {
    "/v1/chat/completions": (b"data: " + TEXT + b"\n\n", b"data: [DONE]", b"\n\n"),
    "/v1/completions": (b": ping\r\n\r\ndata: " + TEXT + b"\r\n\r\n", b"data:[DONE]", b"\r\n\r\n"),
    "/v1/messages": (
        b"event: content_block_delta\ndata: " + TEXT + b"\n\n",
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b"",
    ),
    "/v1/responses": (
        b"event: response.output_text.delta\r\ndata: " + TEXT + b"\r\n\r\n",
        b'event: response.completed\r\ndata: {"text":"event: x","response":{}}\r\n\r\n',
        b"",
    ),
}


@given(path=st.sampled_from(sorted(STREAMS)), data=st.data())
def test_the_end_is_seen_in_the_piece_that_holds_its_last_byte(path: str, data: st.DataObject) -> None:
    before, last, after = STREAMS[path]
    whole = before + last + after
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    ending = EndOfStream(path)
    at = 0
    seen_at: int | None = None
    for cut in (*cuts, len(whole)):
        if ending.within(whole[at:cut]) and seen_at is None:
            seen_at = at
            assert cut >= len(before) + len(last)
        at = cut
    assert seen_at is not None
    assert seen_at < len(before) + len(last)


@given(path=st.sampled_from(sorted(STREAMS)), data=st.data())
def test_a_stream_that_was_cut_has_no_end(path: str, data: st.DataObject) -> None:
    before, last, _ = STREAMS[path]
    whole = before + last[:-1]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    ending = EndOfStream(path)
    pieces = [whole[low:high] for low, high in zip((0, *cuts), (*cuts, len(whole)), strict=True)]
    assert not any(ending.within(piece) for piece in pieces)
