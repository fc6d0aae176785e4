"""What of a record is kept, and in which shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.ledger import recording
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.recording import Patience, RecordingPolicy
from experiments.ledger.rows import BODIES, EXCHANGES, MISFITS, PROMPT_CAP, Row, pack, rows_of, unpack
from experiments.patterns import compiled

from .samples import START_NS, chat_answer, chat_request, delta, record, sse

MAIL = compiled(r"[\w.]+@[\w.]+")


@given(st.binary(max_size=3000))
def test_packing_is_undone_by_unpacking(body: bytes) -> None:
    assert unpack(pack(body)) == body


def test_nothing_packs_to_nothing() -> None:
    assert (pack(None), unpack(None)) == (None, None)


def body_of(exchange: ExchangeRecord, policy: RecordingPolicy) -> dict[str, Any] | None:
    found: list[Row] = rows_of(exchange, "s", policy).bodies
    return dict(zip(BODIES.names, found[0], strict=True)) if found else None


def test_in_full_the_very_bytes_are_kept() -> None:
    exchange = record(1, request=b'{ "messages" : [] , "x": "\xff"}')
    body = body_of(exchange, RecordingPolicy())
    assert body is not None
    assert unpack(body["request"]) == exchange.request
    assert unpack(body["response"]) == exchange.response


def test_redacted_bodies_hold_nothing_that_matches() -> None:
    call = {"id": "c", "function": {"name": "send", "arguments": r'{"to": "ada\u0040example.org"}'}}
    exchange = record(
        1,
        request=chat_request("write to ada@example.org"),
        response=chat_answer("ada@example.org it is", tool_calls=[call], reasoning="ada@example.org?"),
    )
    body = body_of(exchange, RecordingPolicy(recording="redacted", redact=(MAIL,)))
    assert body is not None
    assert (body["prompt"], body["text"]) == ("write to [redacted]", "[redacted] it is")
    body |= {name: unpack(body[name]) for name in ("request", "response")}
    assert body["response"]
    assert "ada" not in repr(body)


def test_a_prompt_is_redacted_before_it_is_cut() -> None:
    asked = "x " * (PROMPT_CAP // 2 - 4) + "1234567812345678 and more"
    policy = RecordingPolicy(recording="redacted", redact=(compiled("[0-9]{16}"),))
    for kind, end in ((RecordingPolicy(), "12345678…"), (policy, "[redacte…")):
        body = body_of(record(1, request=chat_request(asked)), kind)
        assert body is not None
        assert (len(body["prompt"]), body["prompt"][-9:]) == (PROMPT_CAP + 1, end)


@pytest.mark.parametrize(
    "ending", [{"clipped": True}, {"outcome": "client_gone"}, {"outcome": "timeout"}, {}], ids=str
)
def test_of_an_answer_that_broke_off_no_beginning_of_a_match_is_kept(ending: dict[str, Any]) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "pay", "arguments": '{"card": "123456781234'}}
    stream = sse(delta("your card is 123456"), delta("781234", tool_calls=[call]))
    exchange = record(1, response=stream, content_type="text/event-stream", **ending)
    body = body_of(exchange, RecordingPolicy(recording="redacted", redact=(compiled("[0-9]{16}"),)))
    assert body is not None
    assert body["text"] == "your card is [redacted]"
    assert "1234" not in repr(body)


@pytest.mark.parametrize("finish", ["length", "content_filter"])
@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_that_was_stopped_broke_off_too(finish: str, streamed: bool) -> None:
    said = "your card is 123456781234"
    response = sse(delta(said), delta(finish=finish), "[DONE]") if streamed else chat_answer(said, finish)
    kind = "text/event-stream" if streamed else "application/json"
    exchange = record(1, response=response, content_type=kind)
    body = body_of(exchange, RecordingPolicy(recording="redacted", redact=(compiled("[0-9]{16}"),)))
    assert body is not None
    assert (body["text"], body["response"]) == ("your card is [redacted]", None)


def test_the_error_of_an_engine_is_kept_redacted() -> None:
    exchange = record(1, status=500, outcome="upstream_error", response=b'{"error": "ada@example.org"}')
    body = body_of(exchange, RecordingPolicy(recording="redacted", redact=(MAIL,)))
    assert body is not None
    assert unpack(body["response"]) == b'{"error":"[redacted]"}'


def test_what_could_not_be_redacted_in_time_is_not_kept_and_its_numbers_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "ONE_BODY_S", 0.05)
    exchange, patience = record(1, request=chat_request("a" * 4000 + "!")), Patience()
    policy = RecordingPolicy(recording="redacted", redact=(compiled("(a+)+$"),))
    rows = rows_of(exchange, "s", policy, patience)
    assert (len(rows.exchanges), rows.bodies, patience.withheld) == (1, [], {exchange.model: 1})


@pytest.mark.parametrize(
    "policy", [RecordingPolicy(recording="numbers", redact=(MAIL,)), RecordingPolicy(recording="redacted")]
)
def test_no_body_where_numbers_are_asked_for_or_nobody_says_what_to_redact(policy: RecordingPolicy) -> None:
    assert body_of(record(1), policy) is None


def test_the_outcome_is_refined_and_a_code_of_the_proxy_is_kept() -> None:
    rows = rows_of(record(1, response=chat_answer("")), "s", RecordingPolicy())
    row = dict(zip(EXCHANGES.names, rows.exchanges[0], strict=True))
    assert (row["outcome"], row["error_code"]) == ("empty", None)
    assert (row["started_at"], row["duration_ms"]) == ((START_NS + 1_000_000) // 1000, 250.0)
    cut = record(1, response=b"{", error_code="early_close")
    row = dict(zip(EXCHANGES.names, rows_of(cut, "s", RecordingPolicy()).exchanges[0], strict=True))
    assert (row["outcome"], row["error_code"]) == ("upstream_error", "early_close")


def test_a_value_that_does_not_fit_its_column_is_found_before_the_database() -> None:
    with pytest.raises(MISFITS):
        rows_of(record(1, phase=2**40), "s", RecordingPolicy()).tables()
    with pytest.raises(ValueError, match="worker is missing"):
        rows_of(record(1, worker=None), "s", RecordingPolicy()).tables()
