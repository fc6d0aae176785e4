"""What is one row of the ledger, and how does it travel from a proxy to the collector?

An exchange is one request to one upstream and what came of it. The proxy writes raw bytes and times;
whatever needs understanding (text, tokens, time to first token) is worked out later by the collector.
This module knows the record and its bytes, and neither files nor databases.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import orjson
from zlib_ng.zlib_ng import crc32  # zlib's, seven times as fast

Outcome = Literal[
    "complete",  # a whole answer
    "length",  # a whole answer that ran into max_tokens
    "truncated",  # the stream was cut: no finish reason, no [DONE]
    "empty",  # status 200 with neither text nor tool call
    "upstream_error",  # 5xx, connection failed, or an error event inside the stream
    "upstream_rejected",  # the engine answered 4xx
    "overloaded",  # the engine answered 429 or 503
    "timeout",  # no first byte, or no next byte, in time
    "client_gone",  # the client left before the end
    "rejected",  # Turnout itself refused the request: never eligible
    "shed",  # a shadow copy that was not sent
]
OUTCOMES: Final = frozenset(get_args(Outcome))
#: The model failed: these count in error rates.
FAILURES: Final = frozenset(
    ("truncated", "empty", "upstream_error", "upstream_rejected", "overloaded", "timeout")
)
#: Nobody knows how it would have ended: missing data, reported as such.
MISSING: Final = frozenset(("client_gone", "shed"))
#: Why a copy is shed that its engine or provider answered with 429, and those that are not sent thereafter.
RATE_LIMITED: Final = "rate_limited"
#: Codes of the proxy's for want of a key that is good: they say nothing of the version.
UNKEYED: Final = frozenset(
    ("provider_credential_missing", "provider_credential_refused", "engine_refused_key")
)

Role = Literal["primary", "shadow"]
#: Why a request of an experiment's model is in none of its arms.
Outside = Literal[
    "no_unit",  # nothing names its unit: there is nobody to assign
    "excluded",  # by a rule of the experiment's file
    "holdout",  # its unit is held out of every experiment
    "exclusive",  # its unit is not in the experiment's part of its group
]
Origin = Literal["live", "golden", "forced", "replay"]
Recording = Literal["full", "redacted", "numbers"]


class RecordError(ValueError):
    """Bytes that are no record."""


@dataclass(slots=True)
class ExchangeRecord:
    """One exchange as the proxy saw it. Times are microseconds since `started_ns` (unix nanoseconds).

    `assigned_*` is what the hash gave the unit, `served_*` what answered: a fallback changes only the
    latter, and then `arm_outcome` keeps how the assigned arm itself ended (intention to treat).
    A request that an experiment's rules keep out has the experiment, no arm, and in `outside` the reason.
    `serial` counts a worker's rows of one experiment, phase and arm from 1: a number that the ledger does
    not have is a row that was lost. `traceparent` is what the client said of its own span, if anything.
    `chunk_us[i]` is when the i-th piece of the body came, `chunk_ends[i]` the body's length after it.
    Not frozen: it is filled in while the exchange runs, and written once.
    """

    exchange_id: str
    request_id: str
    started_ns: int
    path: str
    model: str
    worker: str
    role: Role = "primary"
    origin: Origin = "live"
    pair_id: str | None = None
    experiment: str | None = None
    phase: int = 0
    assigned_arm: str | None = None
    served_arm: str | None = None
    assigned_version: int | None = None
    served_version: int | None = None
    unit: str | None = None
    tenant: str | None = None
    snapshot: int = 0
    stream: bool = False
    status: int = 0
    outcome: Outcome = "complete"
    arm_outcome: Outcome | None = None
    error_code: str | None = None
    attempts: int = 1
    first_byte_us: int | None = None
    duration_us: int = 0
    content_type: str = ""
    clipped: bool = False
    recording: Recording = "full"
    outside: Outside | None = None
    serial: int | None = None
    traceparent: str | None = None
    request: bytes = b""
    response: bytes = b""
    chunk_us: tuple[int, ...] = ()
    chunk_ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRecord:
    """`count` exchanges that a worker could not write (a full disk, say) between two instants."""

    worker: str
    since_ns: int
    until_ns: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRecord:
    """What the application says later about the answer to a request; the latest per name wins.

    With a `unit` (the ledger's name for it) in place of `request_id` it is about that unit's last answer
    before. A `key` counts once, however often it is sent.
    """

    request_id: str = ""
    name: str
    value: float
    at_ns: int
    worker: str
    unit: str | None = None
    key: str | None = None


Record = ExchangeRecord | LossRecord | FeedbackRecord

MAGIC: Final = b"TXR1"
#: magic, crc32 of all that follows, then the lengths of head, request, response and number of chunks
_FRAME: Final = struct.Struct("<4sIIIII")
_OPENING: Final = struct.Struct("<4sI")
_LENGTHS: Final = struct.Struct("<IIII")
_JOINED_BYTES: Final = 64 << 10
_BYTES_FIELDS: Final = frozenset(("request", "response", "chunk_us", "chunk_ends"))
#: By the kind that their heads name.
_SMALL: Final[dict[str, tuple[type[LossRecord | FeedbackRecord], tuple[str, ...]]]] = {
    kind: (record, tuple(f.name for f in fields(record)))
    for kind, record in (("loss", LossRecord), ("feedback", FeedbackRecord))
}
_EXCHANGE_FIELDS: Final = tuple(f.name for f in fields(ExchangeRecord) if f.name not in _BYTES_FIELDS)
#: Fields are added at the end; none changes its meaning without another MAGIC. A worker that is older than
#: its collector writes this many of them, or more; what a newer one adds to those known here is left out.
_FEWEST_FIELDS: Final = _EXCHANGE_FIELDS.index("outside")


def _exchange_head(record: ExchangeRecord) -> tuple[Any, ...]:
    """The values of `_EXCHANGE_FIELDS`, spelt out: `attrgetter` takes six times as long, for each request."""
    return (
        record.exchange_id,
        record.request_id,
        record.started_ns,
        record.path,
        record.model,
        record.worker,
        record.role,
        record.origin,
        record.pair_id,
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
        record.outcome,
        record.arm_outcome,
        record.error_code,
        record.attempts,
        record.first_byte_us,
        record.duration_us,
        record.content_type,
        record.clipped,
        record.recording,
        record.outside,
        record.serial,
        record.traceparent,
    )


_ONE_CHUNK: Final = struct.Struct("<2I")


@lru_cache(maxsize=256)
def _chunks(count: int) -> struct.Struct:
    """The times of so many pieces, and their ends."""
    return struct.Struct(f"<{2 * count}I")


def encode(record: Record) -> list[bytes]:
    """The record as pieces for one `os.writev`: long bodies are not copied."""
    if isinstance(record, ExchangeRecord):
        head = orjson.dumps(_exchange_head(record))
        request, response, times = record.request, record.response, record.chunk_us
        count = len(times)
        if count == 1:  # what most answers are
            chunks = _ONE_CHUNK.pack(times[0], record.chunk_ends[0])
        else:
            chunks = _chunks(count).pack(*times, *record.chunk_ends)
    else:
        kind = "loss" if isinstance(record, LossRecord) else "feedback"
        head = orjson.dumps({"kind": kind, **{f.name: getattr(record, f.name) for f in fields(record)}})
        request = response = chunks = b""
        count = 0
    lengths = _LENGTHS.pack(len(head), len(request), len(response), count)
    if len(request) + len(response) < _JOINED_BYTES:  # a little is sooner copied than written in pieces
        body = b"".join((lengths, head, request, response, chunks))
        return [_OPENING.pack(MAGIC, crc32(body)), body]
    crc = crc32(head, crc32(lengths))
    crc = crc32(chunks, crc32(response, crc32(request, crc)))
    return [_OPENING.pack(MAGIC, crc) + lengths, head, request, response, chunks]


def decode(buffer: bytes, offset: int) -> tuple[Record, int]:
    """The record at `offset` and the offset after it. Raises RecordError on anything else."""
    body = offset + _FRAME.size
    if body > len(buffer):
        raise RecordError("the frame is cut")
    magic, crc, head_len, request_len, response_len, count = _FRAME.unpack_from(buffer, offset)
    end = body + head_len + request_len + response_len + 8 * count
    if magic != MAGIC or end > len(buffer):
        raise RecordError("no record starts here" if magic != MAGIC else "the record is cut")
    if crc32(memoryview(buffer)[offset + 8 : end]) != crc:
        raise RecordError("the checksum does not match")
    request_at = body + head_len
    response_at = request_at + request_len
    chunks_at = response_at + response_len
    head = orjson.loads(buffer[body:request_at])
    if isinstance(head, dict):
        return _decode_small(head), end
    if len(head) < _FEWEST_FIELDS:
        raise RecordError(f"{len(head)} fields where at least {_FEWEST_FIELDS} were expected")
    chunks = array("I")
    chunks.frombytes(buffer[chunks_at:end])
    record = ExchangeRecord(
        **dict(zip(_EXCHANGE_FIELDS, head, strict=False)),
        request=buffer[request_at:response_at],
        response=buffer[response_at:chunks_at],
        chunk_us=tuple(chunks[:count]),
        chunk_ends=tuple(chunks[count:]),
    )
    return record, end


def _decode_small(head: dict[str, Any]) -> Record:
    kind = head.get("kind")
    try:
        if kind in _SMALL:
            known, names = _SMALL[kind]
            return known(**{name: head[name] for name in names if name in head})
    except TypeError as error:
        raise RecordError(f"a {kind} record with the wrong fields: {error}") from error
    raise RecordError(f"unknown kind of record: {kind!r}")
