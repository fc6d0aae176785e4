"""Of which trace is an exchange a part? Worked out from its row alone, the same whoever asks and when.

Needs none of OpenTelemetry's machinery, which reads the environment as it is imported.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .ledger.store import Row

_PROPAGATOR: Final = TraceContextTextMapPropagator()


def trace_id_of(row: Row) -> str:
    """The trace of which an exchange is a part, as 32 hexadecimal digits."""
    return trace.format_trace_id(origin(row)[0])


def origin(row: Row) -> tuple[int, Context]:
    """An exchange's trace, and the client's span in it, if there is one.

    Without trace context the trace is called as the request is: its id without the dashes. A replay is no
    part of what the client did.
    """
    carrier = {"traceparent": row["traceparent"]} if row["traceparent"] else {}
    client = _PROPAGATOR.extract(carrier, Context())
    context = trace.get_current_span(client).get_span_context()
    if context.is_valid:
        return context.trace_id, client
    name = row["exchange_id"] if row["origin"] == "replay" else row["request_id"]
    try:
        return UUID(name).int, client
    except ValueError:  # no proxy of ours has named it
        return _digest(name, 16), client


def _digest(name: str, size: int) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=size).digest())


def span_id(exchange_id: str) -> int:
    """The number of an exchange's span, the same whoever works it out."""
    return _digest(exchange_id, 8)
