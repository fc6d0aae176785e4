"""How may the engine misbehave? Faults have names, so that a test can ask for one as for a model.

A fault is asked for by the model's name (`"model": "rst-at-37"`), by the body field `simulated_fault`, by
the header `x-simulated-fault`, or for the whole engine; several are joined by `+` ("slow-ttft-200+crlf").

    ok                 none
    slow-ttft-MS       the head at once, the first token after MS (as vLLM under load)
    slow-head-MS       nothing at all for MS
    slow-close-MS      the answer at once, its end after MS
    hang               never a head          hang-body    a head and never a body
    hang-at-N          N bytes of body, then silence
    slice-N            the body in pieces of N bytes      bandwidth-N   N bytes of body a second
    crlf · comments · no-space · bom     spellings of server-sent events that decoders must know
    eof-clean          a well-framed end after some tokens: no finish reason, no [DONE]
    no-done · no-finish                  one of the two is missing
    cut-at-N · rst-at-N   N bytes of body, then the connection ends (FIN · RST)
    rst                a reset before the head
    error-event        an error inside the stream; a 500 where there is no stream
    5xx (= 500), 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504
    echo-auth          a 401 that repeats the Authorization header
    tool-call · empty · big (8 MB of text) · big-N (N bytes of text)
    no-keepalive       closes, and says so             stale   closes at once, and does not say so
    stale-drop         keeps the connection, and closes it unanswered at its next request
    early-response     answers before the request's body has come, and closes
    garbage            something that is not HTTP
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final


class FaultError(ValueError):
    """No such fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The faults of one exchange. Times in seconds, places in bytes of body; None: never."""

    head_delay: float = 0.0
    token_delay: float = 0.0
    end_delay: float = 0.0
    hang: bool = False
    hang_at: int | None = None
    cut_at: int | None = None
    rst_at: int | None = None
    rst: bool = False
    slice: int = 0
    bandwidth: int = 0
    crlf: bool = False
    comments: bool = False
    no_space: bool = False
    bom: bool = False
    eof_clean: bool = False
    no_done: bool = False
    no_finish: bool = False
    error_event: bool = False
    status: int = 0
    echo_auth: bool = False
    tool_call: bool = False
    empty: bool = False
    big: int = 0
    no_keepalive: bool = False
    stale: bool = False
    stale_drop: bool = False
    early_response: bool = False
    garbage: bool = False

    @classmethod
    def parse(cls, names: str) -> Faults:
        """The faults that `names`, joined by "+", stand for. Raises FaultError."""
        return _parse(names)

    def and_also(self, other: Faults) -> Faults:
        """Both: what `other` sets wins."""
        return replace(self, **dict(other.changes()))

    def changes(self) -> Iterator[tuple[str, Any]]:
        """The fields that differ from an engine that behaves."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                yield each.name, value


NONE: Final = Faults()
BIG: Final = 8 << 20

_FLAGS: Final = frozenset(
    """hang rst crlf comments no-space bom eof-clean no-done no-finish error-event echo-auth tool-call empty
    no-keepalive stale stale-drop early-response garbage""".split()  # noqa: SIM905
)
_STATUSES: Final = frozenset((400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504))
_MILLISECONDS: Final = {
    "slow-ttft": "token_delay",
    "slow-head": "head_delay",
    "slow-close": "end_delay",
}
_COUNTS: Final = {
    "hang-at": "hang_at",
    "cut-at": "cut_at",
    "rst-at": "rst_at",
    "slice": "slice",
    "bandwidth": "bandwidth",
    "big": "big",
}
_NUMBERED: Final = re.compile(r"([a-z-]+)-(\d{1,9})")


def _one(name: str) -> dict[str, Any]:
    if name in ("ok", ""):
        return {}
    if name in _FLAGS:
        return {name.replace("-", "_"): True}
    if name == "5xx":
        return {"status": 500}
    if name == "hang-body":
        return {"hang_at": 0}
    if name == "big":
        return {"big": BIG}
    if name.isdecimal() and int(name) in _STATUSES:
        return {"status": int(name)}
    match = _NUMBERED.fullmatch(name)
    if match and match[1] in _MILLISECONDS:
        return {_MILLISECONDS[match[1]]: int(match[2]) / 1e3}
    if match and match[1] in _COUNTS:
        return {_COUNTS[match[1]]: int(match[2])}
    raise FaultError(f"{name!r} is no fault: turnout/simulation/faults.py lists them")


@lru_cache(maxsize=256)
def _parse(names: str) -> Faults:
    found: dict[str, Any] = {}
    for name in names.split("+"):
        found.update(_one(name.strip()))
    return Faults(**found)


@lru_cache(maxsize=256)
def named_by(model: str) -> Faults | None:
    """The faults that a model name stands for; None if it is a model's name."""
    try:
        return _parse(model)
    except FaultError:
        return None
