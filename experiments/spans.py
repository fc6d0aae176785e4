"""Which span does an exchange become, and who is told of it? OpenTelemetry over OTLP, from the ledger.

The names are those of its conventions for generative AI; what only Turnout knows (experiment, arm, version,
how it ended) stands beside them as `turnout.*`. Neither what was said nor who said it leaves the ledger.
Where spans go, and which, is said by OpenTelemetry's own variables; without an endpoint nothing is told.
How far it has come is in the ledger: a backend that is away misses nothing that it takes within an hour, and
after a crash a span may come twice, with the same id. What it refuses for good (400, 413) is sought in ever
smaller batches, left out and counted. Traffic and the collector wait for none of this.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from .ledger import exported
from .ledger.exchange import FAILURES
from .ledger.store import Row, Store, nanoseconds
from .traces import origin, span_id

log = logging.getLogger("turnout.traces")

#: Spans in one request to the backend: what OpenTelemetry's own processors send.
BATCH: Final = 512
#: What ended longer ago than this is not told any more, in seconds: backends close their books.
TOO_LATE_S: Final = 3600
#: Between attempts that fail, in seconds, from one on twice as long each time.
LONGEST_PAUSE_S: Final = 300

#: The backend will never take it (OTLP over HTTP, "failures that are not retryable"): it is not for a
#: missing permission or a wrong address, which somebody may mend.
_FOR_GOOD: Final = frozenset((400, 413))
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
#: They name who makes the session in place of us: then nobody tells us a status.
_OWN_SESSION: Final = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
)
#: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans: what the request asks for.
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_SCOPE: Final = InstrumentationScope("turnout")
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How telling fares: spans `told`, exchanges `skipped` because they were too late or the backend refuses
    their spans, and rows `behind`."""

    endpoint: str
    told: int = 0
    skipped: int = 0
    behind: int = 0
    error: str | None = None


class Tracing:
    """Tells. One thread calls `tell`; any may read `progress`."""

    def __init__(
        self,
        store: Store,
        exporter: SpanExporter,
        *,
        endpoint: str,
        now_ns: Callable[[], int],
        answered: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._store = store
        self._exporter = exporter
        self._now_ns = now_ns
        self._answered = answered  # the status of the backend's last answer, None if it is not known
        self._batch = BATCH
        self._clock = time.monotonic
        # Only for what it reads from the environment: the resource and the sampler.
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._next = exported.position(store)
        self._pause_s, self._not_before = 1.0, 0.0
        self.progress = Progress(endpoint=endpoint)

    def tell(self) -> None:
        """One round: all that has been collected, unless the backend does not take it."""
        if self._next is None:  # told of what is collected from now on
            self._advance(exported.end(self._store))
        while self._clock() >= self._not_before:
            number = self._next or 0
            rows = exported.since(self._store, number, self._batch)
            if not rows:
                self.progress = replace(self.progress, behind=0)
                return
            oldest_ns = self._now_ns() - TOO_LATE_S * 10**9
            fresh = [row for row in rows if _ended_ns(row) >= oldest_ns]
            spans = [span for row in fresh if (span := self._span(row)) is not None]
            told = len(spans)
            if spans and not self._takes(spans):
                if self._answered() not in _FOR_GOOD or not self._takes([]):
                    self._put_off()
                    return
                if len(rows) > 1:
                    self._batch = len(rows) // 2
                    continue
                log.warning("the span of exchange %s is refused and left out", rows[0]["exchange_id"])
                fresh, told = [], 0
            self._pause_s = 1.0
            self._batch = min(2 * self._batch, BATCH)
            self._advance(number + len(rows))
            self.progress = replace(
                self.progress,
                told=self.progress.told + told,
                skipped=self.progress.skipped + len(rows) - len(fresh),
                error=None,
            )

    def _takes(self, spans: list[ReadableSpan]) -> bool:
        """Whether the backend takes these; none at all are taken by any that is there."""
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Break off what is being sent; it is sent again after the next start."""
        self._not_before = inf
        self._exporter.shutdown()

    def _advance(self, number: int) -> None:
        self._next = number  # first: what was taken is not sent again because the disk is full
        self._store.write(lambda connection: exported.save_position(connection, number))

    def _put_off(self) -> None:
        """OpenTelemetry's exporter has tried for a while and said in the log why it gave up."""
        error = f"{self.progress.endpoint} takes no spans: they wait in the ledger, for an hour at most"
        if self.progress.error is None:
            log.warning(error)
        self.progress = replace(
            self.progress, error=error, behind=exported.end(self._store) - (self._next or 0)
        )
        self._not_before = max(self._not_before, self._clock() + self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _span(self, row: Row) -> ReadableSpan | None:
        """None if there is nothing to tell: a copy that was not sent, or a trace that is not sampled."""
        if row["outcome"] == "shed":
            return None
        trace_id, client = origin(row)
        name = f"{_operation(row)} {row['model']}".rstrip()
        sampled = self._provider.sampler.should_sample(client, trace_id, name).decision
        if sampled is not Decision.RECORD_AND_SAMPLE:
            return None
        parent = trace.get_current_span(client).get_span_context()
        if (row["role"], row["origin"]) == ("shadow", "live"):  # a copy is a part of its request
            parent = SpanContext(
                trace_id, span_id(row["pair_id"] or ""), is_remote=True, trace_flags=_SAMPLED
            )
        failed = row["outcome"] in FAILURES or row["outcome"] == "rejected"
        return ReadableSpan(
            name,
            context=SpanContext(trace_id, span_id(row["exchange_id"]), False, _SAMPLED),
            parent=parent if parent.is_valid else None,
            resource=self._provider.resource,
            attributes={name: value for name, value in _attributes(row, failed).items() if value is not None},
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=nanoseconds(row["started_at"]),
            end_time=_ended_ns(row),
            instrumentation_scope=_SCOPE,
        )


def of_environment(store: Store, now_ns: Callable[[], int]) -> Tracing | None:
    """What OpenTelemetry's variables ask for, None if nothing."""
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if endpoint is None or off or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        log.error("spans are told by http/protobuf only (port 4318 by custom), not by %s: none are", protocol)
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # only where needed
    from requests import Response, Session

    answers: deque[int] = deque(maxlen=1)

    def note(answer: Response, *_: object, **__: object) -> None:
        answers.append(answer.status_code)

    session = None
    if not any(os.environ.get(name) for name in _OWN_SESSION):
        session = Session()
        session.hooks["response"].append(note)
    host = urlsplit(endpoint).netloc.rpartition("@")[2] or endpoint  # a password is nobody's to read
    log.info("exchanges are told as spans to %s", host)
    exporter = OTLPSpanExporter(session=session)
    return Tracing(
        store,
        exporter,
        endpoint=host,
        now_ns=now_ns,
        answered=lambda: answers[-1] if answers else None,
    )


def _ended_ns(row: Row) -> int:
    lasted_ms: float = row["duration_ms"]
    return nanoseconds(row["started_at"]) + round(lasted_ms * 1e6)


def _operation(row: Row) -> str:
    return _OPERATIONS.get(row["path"]) or str(row["path"]).rpartition("/")[2]


def _attributes(row: Row, failed: bool) -> dict[str, Any]:
    """What a span says; None is left out."""
    first_chunk = row["ttft_ms"] if row["stream"] else None
    return {
        "gen_ai.operation.name": _operation(row),
        # The dialect that is spoken, as the conventions have it where another engine speaks it.
        "gen_ai.provider.name": "anthropic" if row["path"] == "/v1/messages" else "openai",
        "gen_ai.request.model": row["model"] or None,
        "gen_ai.request.stream": row["stream"] or None,
        "gen_ai.response.finish_reasons": [row["finish_reason"]] if row["finish_reason"] else None,
        "gen_ai.response.time_to_first_chunk": None if first_chunk is None else first_chunk / 1000,
        "gen_ai.usage.input_tokens": row["prompt_tokens"],
        "gen_ai.usage.output_tokens": row["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": row["cached_tokens"],
        "http.response.status_code": row["status"] or None,
        "error.type": (row["error_code"] or row["outcome"]) if failed else None,
        "url.path": row["path"],
        "turnout.exchange_id": row["exchange_id"],
        "turnout.request_id": row["request_id"],
        "turnout.role": row["role"],
        "turnout.origin": row["origin"],
        "turnout.outcome": row["outcome"],
        "turnout.tenant": row["tenant"],
        "turnout.experiment": row["experiment"],
        "turnout.phase": row["phase"] or None,
        "turnout.arm": row["assigned_arm"],
        "turnout.arm_outcome": row["arm_outcome"],
        "turnout.served_arm": row["served_arm"],
        "turnout.version": row["served_version"],
        "turnout.outside": row["outside"],
        "turnout.attempts": row["attempts"],
    }


def _resource() -> Resource:
    """What the environment says of this service; its name is `turnout` unless that says another."""
    found = Resource.create()
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return found.merge(Resource({SERVICE_NAME: "turnout"}))
    return found
