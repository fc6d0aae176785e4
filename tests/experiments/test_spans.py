"""Spans: what they say, where they belong, and that a backend that is away misses none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from experiments.ledger.collector import Collector
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import SpoolWriter
from experiments.ledger.store import DatabaseError, Store
from experiments.ledger.traffic import exchanges
from experiments.spans import BATCH, TOO_LATE_S, Tracing, of_environment
from experiments.traces import trace_id_of
from tests.experiments.ledger.samples import START_NS, chat_stream, even_chunks, record

from .otlp import Backend, attributes

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = CLIENT[3:35]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    made = Backend()
    for name in ("TRACES_ENDPOINT", "PROTOCOL", "TRACES_PROTOCOL", "HEADERS"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    yield made
    made.close()


class Ledger:
    """A store that is filled as the collector does, its clock, and who tells of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_ns = START_NS
        self.seconds = 0.0
        self.store = Store(folder / "ledger.duckdb", threads=2)

    def collect(self, *records: ExchangeRecord) -> None:
        writer = SpoolWriter(self.folder / "spool", "w")
        for each in records:
            assert writer.append(each)
        writer.close()
        for _ in range(2):
            Collector(self.store, self.folder / "spool").collect_once()

    def tracing(self) -> Tracing:
        made = of_environment(self.store, lambda: self.now_ns)
        assert made is not None
        made._clock = lambda: self.seconds
        return made

    def told(self, *records: ExchangeRecord) -> Tracing:
        made = self.tracing()
        made.tell()  # from now on
        self.collect(*records)
        made.tell()
        return made


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.store.close()


def test_a_span_says_what_the_row_knows(ledger: Ledger, backend: Backend) -> None:
    body = chat_stream(["it ", "went ", "well"])
    streamed = even_chunks(body, 40, first_us=20_000) | {"content_type": "text/event-stream", "stream": True}
    row = record(
        1, experiment="faster", phase=2, assigned_arm="candidate", served_arm="candidate", unit="a-person",
        assigned_version=2, served_version=2, tenant="shop", traceparent=CLIENT, **streamed,
    )  # fmt: skip
    ledger.told(row)
    [span] = backend.spans
    assert (span.name, span.kind, span.status.code) == (
        "chat chat",
        Span.SPAN_KIND_CLIENT,
        Status.STATUS_CODE_UNSET,
    )
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CLIENT[36:52])
    assert span.start_time_unix_nano == row.started_ns
    assert span.end_time_unix_nano - span.start_time_unix_nano == row.duration_us * 1000
    found = attributes(span)
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.request.model"] == "chat"
    assert found["gen_ai.response.finish_reasons"] == ["stop"]
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (7, 3)
    assert 0.02 <= found["gen_ai.response.time_to_first_chunk"] < row.duration_us / 1e6
    assert found["http.response.status_code"] == 200
    assert (found["turnout.experiment"], found["turnout.phase"]) == ("faster", 2)
    assert (found["turnout.arm"], found["turnout.version"]) == ("candidate", 2)
    assert found["turnout.tenant"] == "shop"
    assert found["turnout.exchange_id"] == row.exchange_id
    assert not any("a-person" in str(value) or "well" in str(value) for value in found.values())
    assert backend.service() == "turnout"


def test_without_trace_context_a_trace_is_called_as_its_request(ledger: Ledger, backend: Backend) -> None:
    plain, broken, nil = (
        record(1),
        record(2, traceparent="00-xyz"),
        record(3, traceparent=f"00-{'0' * 32}-1-01"),
    )
    foreign = record(4, exchange_id="not-a-uuid", request_id="not-a-uuid")
    ledger.told(plain, broken, nil, foreign)
    spans = backend.spans
    assert [span.trace_id.hex() for span in spans[:3]] == [
        one.request_id.replace("-", "") for one in (plain, broken, nil)
    ]
    assert all(not span.parent_span_id for span in spans)
    assert len({span.span_id for span in spans}) == 4
    [row] = ledger.store.read("SELECT * FROM exchanges WHERE exchange_id = ?", [plain.exchange_id])
    assert trace_id_of(row) == spans[0].trace_id.hex()


def test_a_copy_is_a_part_of_its_request_and_a_replay_is_not(ledger: Ledger, backend: Backend) -> None:
    primary = record(1, traceparent=CLIENT)
    half = {"role": "shadow", "request_id": primary.request_id, "pair_id": primary.exchange_id}
    live, later = record(2, traceparent=CLIENT, **half), record(3, origin="replay", **half)
    unsent = record(4, outcome="shed", status=0, **half)
    ledger.told(primary, live, later, unsent)
    asked, copied, replayed = backend.spans
    assert (copied.trace_id, copied.parent_span_id) == (asked.trace_id, asked.span_id)
    assert (replayed.trace_id.hex(), replayed.parent_span_id) == (later.exchange_id.replace("-", ""), b"")
    for span, rows in ((asked, [primary, live]), (replayed, [later])):
        found = exchanges(ledger.store, trace_id=span.trace_id.hex())
        assert {row["exchange_id"] for row in found} == {row.exchange_id for row in rows}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (
            {"outcome": "upstream_error", "status": 502, "error_code": "upstream_unreachable"},
            "upstream_unreachable",
        ),
        ({"outcome": "timeout", "status": 504}, "timeout"),
        (
            {"outcome": "rejected", "status": 404, "error_code": "model_not_found", "model": ""},
            "model_not_found",
        ),
        ({"outcome": "client_gone"}, None),
    ],
)
def test_what_went_wrong_is_an_error(
    ledger: Ledger, backend: Backend, fields: dict[str, Any], error: str | None
) -> None:
    ledger.told(record(1, response=b"", chunk_us=(), chunk_ends=(), **fields))
    [span] = backend.spans
    assert (span.status.code == Status.STATUS_CODE_ERROR) == (error is not None)
    assert attributes(span).get("error.type") == error
    assert span.name == f"chat {fields.get('model', 'chat')}".rstrip()


def test_what_was_there_before_is_not_told(ledger: Ledger, backend: Backend) -> None:
    ledger.collect(record(1))
    ledger.told(record(2))
    assert [attributes(span)["turnout.exchange_id"] for span in backend.spans] == [record(2).exchange_id]


def test_a_client_that_is_not_sampled_is_not_told(ledger: Ledger, backend: Backend) -> None:
    tracing = ledger.told(record(1, traceparent=f"{CLIENT[:-2]}00"), record(2))
    assert [attributes(span)["turnout.exchange_id"] for span in backend.spans] == [record(2).exchange_id]
    assert (tracing.progress.told, tracing.progress.skipped) == (1, 0)


def test_a_share_of_the_traces_can_be_asked_for(
    ledger: Ledger, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    ledger.told(record(1), record(2, traceparent=CLIENT))
    assert [span.trace_id.hex() for span in backend.spans] == [TRACE]


@pytest.mark.filterwarnings("default")
def test_a_backend_that_is_away_misses_nothing(ledger: Ledger, backend: Backend) -> None:
    backend.status = 400  # what OpenTelemetry's exporter tries once
    tracing = ledger.told(*(record(number) for number in range(BATCH + 3)))
    assert (tracing.progress.told, tracing.progress.behind) == (0, BATCH + 3)
    assert "takes no spans" in (tracing.progress.error or "")
    backend.status = 200
    tracing.tell()
    assert tracing.progress.told == 0, "it is not asked again at once"
    ledger.seconds += 1.0
    tracing.tell()
    told = [attributes(span)["turnout.exchange_id"] for span in backend.spans]
    assert told == [record(number).exchange_id for number in range(BATCH + 3)]
    assert (tracing.progress.told, tracing.progress.behind, tracing.progress.error) == (BATCH + 3, 0, None)


def test_spans_that_are_refused_for_good_hold_up_no_others(ledger: Ledger, backend: Backend) -> None:
    records = [record(number) for number in range(BATCH + 40)]
    bad = {records[number].exchange_id for number in (0, 1, 77, BATCH + 39)}
    backend.refuses = bad
    tracing = ledger.told(*records)
    told = [attributes(span)["turnout.exchange_id"] for span in backend.spans]
    assert told == [one.exchange_id for one in records if one.exchange_id not in bad]
    assert (tracing.progress.told, tracing.progress.skipped, tracing.progress.error) == (len(told), 4, None)


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_what_somebody_may_mend_costs_no_span(ledger: Ledger, backend: Backend, status: int) -> None:
    backend.status = status
    tracing = ledger.told(record(1))
    assert (tracing.progress.told, tracing.progress.skipped, tracing.progress.behind) == (0, 0, 1)


@pytest.mark.filterwarnings("default")
def test_a_restart_goes_on_where_it_was_and_leaves_out_what_is_too_late(
    ledger: Ledger, backend: Backend
) -> None:
    backend.status = 400
    ledger.told(record(1))
    backend.status = 200
    late = 2 * TOO_LATE_S * 10**9
    ledger.now_ns += late
    long_ago = ledger.now_ns - (TOO_LATE_S + 60) * 10**9
    ledger.collect(record(2, started_ns=long_ago, duration_us=TOO_LATE_S * 10**6))  # a stream of an hour
    again = ledger.tracing()
    again.tell()
    assert [attributes(span)["turnout.exchange_id"] for span in backend.spans] == [record(2).exchange_id]
    assert (again.progress.told, again.progress.skipped) == (1, 1)
    twice = ledger.tracing()
    twice.tell()
    assert len(backend.spans) == 1


def test_what_was_taken_is_not_sent_again_while_the_ledger_takes_no_writes(
    ledger: Ledger, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = ledger.told()
    ledger.collect(record(1))

    def refuse(change: object) -> None:
        raise DatabaseError("no space left on device")

    with monkeypatch.context() as there:
        there.setattr(ledger.store, "write", refuse)
        with pytest.raises(DatabaseError):
            tracing.tell()
        tracing.tell()
    ledger.collect(record(2))
    tracing.tell()
    ledger.tracing().tell()
    assert [attributes(span)["turnout.exchange_id"] for span in backend.spans] == [
        record(number).exchange_id for number in (1, 2)
    ]


def test_closed_it_breaks_off(ledger: Ledger, backend: Backend) -> None:
    tracing = ledger.told()
    ledger.collect(record(1))
    tracing.close()
    tracing.tell()
    assert backend.spans == []
    ledger.tracing().tell()
    assert len(backend.spans) == 1


def test_the_environment_says_where_and_whether(
    ledger: Ledger, backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=llm")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway")
    secret = backend.url.replace("//", "//ada:hush@")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{secret}/v1/traces")
    tracing = ledger.told(record(1))
    assert (backend.headers[0]["x-team"], backend.service()) == ("llm", "gateway")
    assert tracing.progress.endpoint == backend.url.removeprefix("http://")

    for name, value in (
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ):
        with monkeypatch.context() as there:
            there.setenv(name, value)
            assert of_environment(ledger.store, lambda: 1) is None
    assert "http/protobuf only" in caplog.text
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    assert of_environment(ledger.store, lambda: 1) is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),  # read as the library is imported
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-4"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "nobody"),
    ],
)
def test_a_controller_starts_whatever_the_variables_say(
    tmp_path: Path, backend: Backend, variable: str, value: str
) -> None:
    """In a process of its own, for some are read once."""
    program = (
        "import pathlib, sys\n"
        "from experiments.controller import Controller, ControllerOptions\n"
        "options = ControllerOptions(data=pathlib.Path(sys.argv[1]), tracking_uri='sqlite://', token='a')\n"
        "Controller(options).store.close()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run(command, env=os.environ | {variable: value}, check=True)
