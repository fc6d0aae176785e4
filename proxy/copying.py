"""What of a request does a mirrored copy carry, and what must it not?

A copy is an experiment of ours, not a wish of the user: it leaves nothing behind at a provider, names nobody
and steps behind whoever waits. The rest are the client's own bytes. No I/O here.
"""

from __future__ import annotations

from typing import Final

from experiments.ledger.exchange import ExchangeRecord
from experiments.snapshot import Endpoint, Mirror

from . import wire
from .heads import MARK
from .identity import new_id

#: What stores the answer, or names the user, at the other end.
LEFT_OUT: Final = frozenset(("store", "metadata", "user", "safety_identifier"))

#: What lets the model call tools, some of which the other end itself would run.
_TOOLS: Final = frozenset(("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"))


def copy_record(mirror: Mirror, endpoint: Endpoint, primary: ExchangeRecord) -> ExchangeRecord:
    """The row of a copy before it is sent: the candidate's half of the pair that `primary` begins."""
    return ExchangeRecord(
        exchange_id=new_id(primary.started_ns),
        request_id=primary.request_id,
        pair_id=primary.request_id,
        role="shadow",
        started_ns=primary.started_ns,
        path=primary.path,
        model=primary.model,
        worker=primary.worker,
        experiment=mirror.experiment,
        phase=mirror.phase,
        assigned_arm=mirror.arm,
        served_arm=mirror.arm,
        assigned_version=endpoint.version,
        served_version=endpoint.version,
        unit=primary.unit,
        tenant=primary.tenant,
        snapshot=primary.snapshot,
        stream=primary.stream,
        recording=primary.recording,
        traceparent=primary.traceparent,
    )


def copy_head(head: bytes) -> bytes:
    """The header lines of a copy, from those of the request."""
    return b"%b%b: 1\r\n" % (head, MARK)


def copy_body(ask: wire.Ask, served_name: str, priority: int | None, *, tools: bool = True) -> bytes:
    """The bytes for the engine, without what a copy must not carry. Raises Refusal for what cannot be cut.

    With a `priority` that one stands in it; `tools`: whether the model may call those of the request.
    """
    body = wire.engine_body(ask, served_name)
    unwanted = LEFT_OUT if priority is None else LEFT_OUT | {"priority"}
    if not tools:
        unwanted |= _TOOLS
    if unwanted.isdisjoint(ask.document):
        if priority is None:
            return body
        kept = [body[body.index(b"{") + 1 : body.rindex(b"}")]]
    else:
        kept = [body[low:high] for key, low, _, high in wire.top_level(body) if key not in unwanted]
    if priority is not None:
        kept.append(b'"priority":%d' % priority)
    return b"{%b}" % b",".join(kept)
