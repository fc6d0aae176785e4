"""What of a request does a mirrored copy carry, and what must it not?

A copy is an experiment of ours, not a wish of the user: it leaves nothing behind at a provider, names nobody
and steps behind whoever waits. The rest are the client's own bytes. No I/O here.
"""

from __future__ import annotations

from typing import Final

from . import wire
from .heads import MARK

#: What stores the answer, or names the user, at the other end.
LEFT_OUT: Final = frozenset(("store", "metadata", "user", "safety_identifier"))


def copy_head(head: bytes) -> bytes:
    """The header lines of a copy, from those of the request."""
    return b"%b%b: 1\r\n" % (head, MARK)


def copy_body(ask: wire.Ask, served_name: str, priority: int | None) -> bytes:
    """The bytes for the engine, without what a copy must not carry. Raises Refusal for what cannot be cut."""
    body = wire.engine_body(ask, served_name)
    unwanted = LEFT_OUT if priority is None else LEFT_OUT | {"priority"}
    if unwanted.isdisjoint(ask.document):
        if priority is None:
            return body
        kept = [body[body.index(b"{") + 1 : body.rindex(b"}")]]
    else:
        kept = [body[low:high] for key, low, _, high in wire.top_level(body) if key not in unwanted]
    if priority is not None:
        kept.append(b'"priority":%d' % priority)
    return b"{%b}" % b",".join(kept)
