"""Which rows does a record become?

Pure: records in, Arrow tables with the columns of the ledger's tables out. Nothing here knows a database,
a file or a clock. A record whose values do not fit the columns raises `MISFITS`, alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any, Final

import orjson
import pyarrow as pa

from .exchange import OUTCOMES, ExchangeRecord, FeedbackRecord, LossRecord, Record
from .recording import Patience, RecordingPolicy, Redaction, RedactionTooSlow, stricter
from .transcript import ToolCall, Transcript, decode

_LZ4: Final = pa.Codec("lz4")
_STAMP: Final = pa.timestamp("us")
#: A prompt is shown, not analysed: more characters of it are cut off.
PROMPT_CAP: Final = 4000
#: How an answer ends that is whole on the wire, but not all that the model had to say.
_STOPPED: Final = frozenset(("content_filter", "refusal", "incomplete"))
_LATEST_NS: Final = 7_258_118_400 * 10**9  # the year 2200

EXCHANGES: Final = pa.schema(
    [
        pa.field("exchange_id", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("pair_id", pa.string()),
        pa.field("role", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("started_at", _STAMP, nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("experiment", pa.string()),
        pa.field("phase", pa.int32(), nullable=False),
        pa.field("assigned_arm", pa.string()),
        pa.field("served_arm", pa.string()),
        pa.field("assigned_version", pa.int32()),
        pa.field("served_version", pa.int32()),
        pa.field("unit", pa.string()),
        pa.field("tenant", pa.string()),
        pa.field("snapshot", pa.int64(), nullable=False),
        pa.field("stream", pa.bool_(), nullable=False),
        pa.field("status", pa.int32(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("arm_outcome", pa.string()),
        pa.field("error_code", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("first_byte_ms", pa.float64()),
        pa.field("ttft_ms", pa.float64()),
        pa.field("duration_ms", pa.float64(), nullable=False),
        pa.field("gap_mean_ms", pa.float64()),
        pa.field("gap_p99_ms", pa.float64()),
        pa.field("gap_max_ms", pa.float64()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("cached_tokens", pa.int64()),
        pa.field("finish_reason", pa.string()),
        pa.field("choices", pa.int32()),
        pa.field("chunks", pa.int32()),
        pa.field("request_bytes", pa.int64(), nullable=False),
        pa.field("response_bytes", pa.int64(), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("outside", pa.string()),
        pa.field("serial", pa.int64()),
        pa.field("turn", pa.string()),
        pa.field("traceparent", pa.string()),
    ]
)
BODIES: Final = pa.schema(
    [
        pa.field("exchange_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("started_at", _STAMP, nullable=False),
        pa.field("request", pa.binary()),
        pa.field("response", pa.binary()),
        pa.field("prompt", pa.string()),
        pa.field("text", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("tool_calls", pa.string()),
        pa.field("clipped", pa.bool_(), nullable=False),
        pa.field("redacted", pa.bool_(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
FEEDBACK: Final = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("at", _STAMP, nullable=False),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("unit", pa.string()),
        pa.field("key", pa.string()),
    ]
)
LOSSES: Final = pa.schema(
    [
        pa.field("worker", pa.string(), nullable=False),
        pa.field("since", _STAMP, nullable=False),
        pa.field("until", _STAMP, nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)

#: What a record whose values do not fit raises: Arrow's own errors are ValueErrors and TypeErrors.
MISFITS: Final = (ValueError, TypeError, KeyError, OverflowError, AttributeError, RecursionError)

Row = tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class Rows:
    """Rows of all four tables, in the order of their columns."""

    exchanges: list[Row] = field(default_factory=list)
    bodies: list[Row] = field(default_factory=list)
    feedback: list[Row] = field(default_factory=list)
    losses: list[Row] = field(default_factory=list)

    def extend(self, other: Rows) -> None:
        """Add another's rows after these."""
        self.exchanges += other.exchanges
        self.bodies += other.bodies
        self.feedback += other.feedback
        self.losses += other.losses

    def tables(self) -> dict[str, pa.Table]:
        """One Arrow table per table that has rows. Raises one of `MISFITS`."""
        named = {
            "exchanges": (EXCHANGES, self.exchanges),
            "bodies": (BODIES, self.bodies),
            "feedback": (FEEDBACK, self.feedback),
            "losses": (LOSSES, self.losses),
        }
        return {name: _table(schema, rows) for name, (schema, rows) in named.items() if rows}


def rows_of(record: Record, segment: str, policy: RecordingPolicy, patience: Patience | None = None) -> Rows:
    """The rows of one record. Raises one of `MISFITS` if it cannot be understood.

    A body that could not be redacted in the time that `patience` gives has no row.
    """
    if isinstance(record, LossRecord):
        return Rows(losses=[(record.worker, record.since_ns // 1000, record.until_ns // 1000, record.count)])
    if isinstance(record, FeedbackRecord):
        if not isfinite(record.value):
            raise ValueError(f"feedback {record.name!r} of {record.request_id} is {record.value}: no number")
        at = _stamp(record.at_ns)
        if not record.request_id and not record.unit:
            raise ValueError(f"feedback {record.name!r} names neither a request nor a unit")
        row = (record.request_id, record.name, record.value, at, segment, record.unit, record.key)
        return Rows(feedback=[row])
    if record.outcome not in OUTCOMES:
        raise ValueError(f"exchange {record.exchange_id} has the unknown outcome {record.outcome!r}")
    transcript = decode(
        record.path,
        record.content_type,
        record.status,
        record.response,
        record.chunk_us,
        record.chunk_ends,
        record.request,
        outcome=record.outcome,
        clipped=record.clipped,
    )
    body = _body_row(record, transcript, policy, patience or Patience())
    return Rows(exchanges=[_exchange_row(record, transcript, segment)], bodies=[] if body is None else [body])


def _exchange_row(record: ExchangeRecord, transcript: Transcript, segment: str) -> Row:
    return (
        record.exchange_id,
        record.request_id,
        record.pair_id,
        record.role,
        record.origin,
        _stamp(record.started_ns),
        record.path,
        record.model,
        record.experiment,
        record.phase,
        record.assigned_arm,
        record.served_arm,
        record.assigned_version,
        record.served_version,
        record.unit,
        record.tenant,
        record.snapshot,
        record.stream,
        record.status,
        transcript.outcome,
        record.arm_outcome,
        record.error_code or transcript.error_code,
        record.attempts,
        _ms(record.first_byte_us),
        _ms(transcript.ttft_us),
        record.duration_us / 1000,
        _ms(transcript.gap_mean_us),
        _ms(transcript.gap_p99_us),
        _ms(transcript.gap_max_us),
        transcript.prompt_tokens,
        transcript.completion_tokens,
        transcript.cached_tokens,
        transcript.finish_reason,
        transcript.choices,
        transcript.chunks,
        len(record.request),
        len(record.response),
        record.worker,
        segment,
        record.outside,
        record.serial,
        transcript.turn,
        record.traceparent,
    )


def _body_row(
    record: ExchangeRecord, said: Transcript, policy: RecordingPolicy, patience: Patience
) -> Row | None:
    mode = stricter(record.recording, policy.recording)
    # Asked to redact without being told what: then keeping nothing is the safe reading.
    if mode == "numbers" or (mode == "redacted" and not policy.redact):
        return None
    if mode == "full":
        return _body(record, said, (record.request, record.response), redacted=False)
    redaction = Redaction(policy.redact, patience.seconds())
    try:
        cut = record.clipped or said.outcome != "complete" or said.finish_reason in _STOPPED
        # Which of its texts break off the answer does not tell; the transcript knows.
        response = None if cut and said.choices else redaction.body(record.response)
        bodies = (redaction.body(record.request), response)
        return _body(record, _redacted(said, redaction, cut=cut), bodies, redacted=True)
    except RedactionTooSlow as error:
        patience.spend(redaction.took, record.model, error)
        return None


def _redacted(said: Transcript, redaction: Redaction, *, cut: bool) -> Transcript:
    """What was said, redacted; `cut`: the answer broke off."""
    text, reasoning = (
        None if part is None else redaction.text(part, cut=cut) for part in (said.text, said.reasoning)
    )
    calls = tuple(
        ToolCall(
            id=redaction.text(call.id, cut=cut),
            name=redaction.text(call.name, cut=cut),
            arguments=redaction.arguments(call.arguments, cut=cut),
        )
        for call in said.tool_calls
    )
    prompt = None if said.prompt is None else redaction.text(said.prompt)
    return replace(said, prompt=prompt, text=text, reasoning=reasoning, tool_calls=calls)


def _body(
    record: ExchangeRecord, said: Transcript, bodies: tuple[bytes | None, bytes | None], *, redacted: bool
) -> Row:
    calls = [asdict(call) for call in said.tool_calls]
    request, response = (pack(body) for body in bodies)
    prompt = said.prompt
    if prompt is not None and len(prompt) > PROMPT_CAP:  # after it was redacted: half a match is none
        prompt = prompt[:PROMPT_CAP] + "…"
    return (
        record.exchange_id,
        record.model,
        _stamp(record.started_ns),
        request,
        response,
        prompt,
        said.text,
        said.reasoning,
        orjson.dumps(calls).decode() if calls else None,
        record.clipped,
        redacted,
        sum(len(part) for part in (request, response, said.text, prompt) if part),
    )


def _stamp(ns: int) -> int:
    """Microseconds for a TIMESTAMP column. Raises ValueError for an instant that no clock can have shown."""
    if not 0 < ns < _LATEST_NS:
        raise ValueError(f"{ns} ns is no instant between 1970 and 2200")
    return ns // 1000


def _ms(us: float | None) -> float | None:
    return None if us is None else us / 1000


def pack(body: bytes | None) -> bytes | None:
    """A body as an LZ4 frame: 1 µs for a stream of 8 KB, which shrinks to a tenth."""
    return _LZ4.compress(body, asbytes=True) if body else body


def unpack(packed: bytes | None) -> bytes | None:
    """The body that was packed."""
    if not packed:
        return packed
    return pa.CompressedInputStream(pa.BufferReader(packed), "lz4").read()  # type: ignore[no-any-return]


def _table(schema: pa.Schema, rows: Sequence[Row]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, type=kind.type) for column, kind in zip(columns, schema, strict=True)]
    for array, kind in zip(arrays, schema, strict=True):
        if array.null_count and not kind.nullable:
            raise ValueError(f"{kind.name} is missing")
    return pa.Table.from_arrays(arrays, schema=schema)
