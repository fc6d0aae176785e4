"""How much may one client ask of a worker, and how long may anything take?

The engines behind are built for trusted callers: this is their only shield (docs/reference/limits.md).
"""

from __future__ import annotations

import difflib
import logging
import resource
from dataclasses import dataclass, fields, replace
from typing import Final

log = logging.getLogger("turnout.proxy")

#: The environment variable that sets limits: `body_bytes=67108864, first_byte_seconds=1800`.
VARIABLE: Final = "TURNOUT_LIMITS"
#: More is no limit of anything, and overflows what counts with it.
_LARGEST: Final = 10**15
#: What a worker may need after its drain time: for its last rows, and the process that asks providers.
_LAST_SECONDS: Final = 7.0
#: Descriptors that are not connections: the spool, the log, the snapshot, clients that are being refused.
_OTHER_FILES: Final = 128


class LimitError(ValueError):
    """A limit that cannot be set; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes, counts and seconds. Every default can be changed by `TURNOUT_LIMITS`."""

    head_bytes: int = 64 << 10
    header_count: int = 200
    body_bytes: int = 16 << 20
    connections: int = 4096
    pipelined: int = 16
    #: of a response, kept for the ledger; what exceeds it is relayed and not recorded
    recorded_bytes: int = 8 << 20
    #: of all requests that have come and all answers that are kept, together, in a worker
    held_bytes: int = 512 << 20
    #: of a provider's answer: it is translated as a whole, and of a stream litellm keeps every piece
    provider_bytes: int = 128 << 20
    #: bytes waiting for a slow reader before the engine is left alone; one read (250 KB) may be on top
    write_buffer: int = 4 << 10

    head_seconds: float = 10.0
    body_seconds: float = 60.0
    keep_alive_seconds: float = 75.0
    stalled_reader_seconds: float = 60.0
    connect_seconds: float = 3.0
    first_byte_seconds: float = 600.0
    idle_seconds: float = 120.0
    #: of one answer from its request to its end, however much comes: an engine that drips is no engine
    total_seconds: float = 3600.0
    #: on the way out: requests on idle connections are still taken this long, then what is begun may end
    last_call_seconds: float = 1.0
    drain_seconds: float = 30.0

    #: fan-out of one request (vLLM CVE-2026-34756 and kin): more is refused
    choices: int = 128
    messages: int = 4096
    output_tokens: int = 1 << 20
    logprobs: int = 128
    stops: int = 256
    unit_characters: int = 512
    #: of a body: fields at the top; and of one over 1 MiB, objects, lists and fields, and commas (a list of a
    #: million token ids has as many), since a value of three bytes costs as much to read as a page of text
    json_fields: int = 1024
    json_parts: int = 1 << 17
    json_commas: int = 1 << 21

    #: a candidate with so many failures and no success gets no more units from this worker; a request whose
    #: answer has not begun after so long counts as one; and so often it is asked whether it answers again
    breaker_failures: int = 20
    breaker_stall_seconds: float = 60.0
    breaker_probe_seconds: float = 5.0

    #: all shadow copies of a worker together
    shadow_in_flight: int = 256
    shadow_bytes: int = 64 << 20

    @property
    def leaving_seconds(self) -> float:
        """How long a worker may take to end once it is told to: whoever kills it sooner cuts off answers."""
        return self.last_call_seconds + self.drain_seconds + _LAST_SECONDS


def read_limits(text: str) -> Limits:
    """The limits, with those that a text sets as `NAME=VALUE, ...`. Raises LimitError."""
    kinds = {each.name: type(each.default) for each in fields(Limits)}
    given: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign:
            raise LimitError(f"{part!r}: expected NAME=VALUE, separated by commas")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            raise LimitError(f"{name!r} is no limit" + (f": did you mean {near[0]}?" if near else ""))
        if name in given:
            raise LimitError(f"{name} is set twice")
        given[name] = _quantity(name, value, kinds[name])
    return replace(Limits(), **given)  # type: ignore[arg-type]


def _quantity(name: str, value: str, kind: type) -> float:
    """A number above zero. Raises LimitError."""
    try:
        number = float(value) if kind is float else int(value)
    except ValueError:
        number = 0
    if not 0 < number <= _LARGEST:
        expected = "a number of seconds above 0" if kind is float else "a whole number above 0"
        raise LimitError(f"{name}: expected {expected} and at most {_LARGEST:,}, not {value[:60]!r}")
    return number


def fitted(limits: Limits) -> Limits:
    """The limits, with as many connections as the system gives descriptors for.

    The soft limit is raised as far as need be and may be. Each client can cost two: its own and an engine's.
    Without this a crowd at the door would take those that reach the engines and write the ledger.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    room = max(1, (soft - _OTHER_FILES) // 2)
    if soft == resource.RLIM_INFINITY or room >= limits.connections:
        return limits
    log.warning("the system allows %d open files: %d clients at most; raise `ulimit -n` for more", soft, room)
    return replace(limits, connections=room)


class Budget:
    """Bytes that many share. What does not fit is for the caller to do without."""

    __slots__ = ("_limit", "held")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes more; if so, they are held until given back."""
        if self.held + size > self._limit:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """They are held no more."""
        self.held -= size
