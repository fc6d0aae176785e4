"""Which header lines cross the proxy, and which heads has it seen before?

Heads repeat: a client's differ by the length of the body, an engine's by that and by the second of its
`date`. One that llhttp has accepted is kept by its bytes without these; when the same bytes come again, the
answer to every question about them is known. Nothing here reads a head of a kind that llhttp has not read
first. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any, Final, Generic, TypeVar

#: In a copy's head. Whoever gets it, another Turnout included, mirrors it no further.
MARK: Final = b"x-turnout-mirrored"
#: What of the client's headers the engine gets. Credentials are Turnout's business and end here.
FORWARDED: Final = (
    MARK,
    b"accept",
    b"content-type",
    b"user-agent",
    b"x-request-id",
    b"traceparent",
    b"tracestate",
    b"anthropic-version",
    b"anthropic-beta",
)
#: Headers whose values are lists: in several lines they are one longer list (RFC 9110 §5.3).
LISTS: Final = frozenset((b"accept", b"anthropic-beta", b"connection", b"tracestate"))
#: What ends at this hop, as does what `connection` names. The length is said anew by whoever writes a head.
HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)

#: Headers by which an admin overrides the assignment; from anyone else they are refused.
CONTROL_HEADERS: Final = (b"x-turnout-arm", b"x-turnout-version", b"x-turnout-origin")

#: Headers that mean one thing. Sent twice, a front and an engine could each believe another one.
_SINGLE: Final = frozenset(
    (b"host", b"authorization", b"x-api-key", b"content-type", b"content-encoding", b"expect")
)

#: Version, trace, parent and flags; what later versions of the format put behind them is nobody's business.
#: Version ff, and a trace or a parent of zeros, are none.
_SPAN: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?=-|\Z)"
)

_RETRY_AFTER: Final = re.compile(rb"^retry-after: ([^\r\n]*)", re.MULTILINE)

Headers = Iterable[tuple[bytes, bytes]]


def single(name: bytes) -> bool:
    """Whether a header may have one value only: what identifies, frames or steers a request."""
    return name in _SINGLE or name.startswith(b"x-turnout-")


def framing_fault(version: str, headers: Mapping[bytes, bytes]) -> str | None:
    """What RFC 9112 forbids of a request and llhttp lets pass; None if there is nothing."""
    if version not in ("1.1", "1.0"):
        return "the request line ends with HTTP/1.1"
    if version == "1.1" and b"host" not in headers:
        return "the header 'host' is missing"
    coding = headers.get(b"transfer-encoding")
    if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
        return "the only transfer-encoding is 'chunked', in HTTP/1.1"
    return None


_ABSOLUTE: Final = re.compile(rb"(?i)https?://[^/?]*")


def path_of(target: bytes) -> str:
    """The path of a request's target. In absolute form (RFC 9112 §3.2.2) a host is named as well: it leads
    nowhere, since this is no forward proxy."""
    host = _ABSOLUTE.match(target)
    path = target[host.end() if host else 0 :].partition(b"?")[0]
    return path.decode("latin-1") or "/"


@dataclass(slots=True, eq=False)
class RequestHead:
    """A client's request line and headers. Names are lower case; of a repeated header the first value stands,
    of one in `LISTS` all of them.

    `forwarded` are the lines that the engine gets, `overrides` whether an admin's wish is among the headers,
    `is_json` whether the body says that it is JSON, and not compressed, `stays_unsaid` whether the client
    takes it for granted that the connection stays, `traceparent` the span at the client of which the request
    is a part, if that is said well (W3C Trace Context §3.2).
    `known_to` and `tenant` are a note of `auth.tenant`: the routing table in which the key was found, and
    whose it is.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    keep_alive: bool
    chunked_ok: bool
    forwarded: bytes = field(init=False)
    is_json: bool = field(init=False)
    overrides: bool = field(init=False)
    stays_unsaid: bool = field(init=False)
    traceparent: str | None = field(init=False)
    known_to: Any = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        headers = self.headers
        self.forwarded = forwarded(headers)
        media_type = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        plain = headers.get(b"content-encoding", b"identity").lower() == b"identity"
        self.is_json = plain and media_type == b"application/json"
        self.overrides = not headers.keys().isdisjoint(CONTROL_HEADERS)
        self.stays_unsaid = self.keep_alive and self.chunked_ok  # HTTP/1.0 has to be told
        span = _SPAN.match(headers.get(b"traceparent", b""))
        self.traceparent = span[0].decode() if span else None


def forwarded(headers: dict[bytes, bytes]) -> bytes:
    """The header lines for the engine."""
    ending = named(headers[b"connection"]) - {MARK} if b"connection" in headers else ()
    lines = [
        b"%b: %b\r\n" % (name, headers[name]) for name in FORWARDED if name in headers and name not in ending
    ]
    if b"content-type" not in headers or b"content-type" in ending:
        lines.append(b"content-type: application/json\r\n")
    return b"".join(lines)


def named(connection: bytes) -> frozenset[bytes]:
    """The headers that a `connection` header names: they are for this hop alone (RFC 9110 §7.6.1)."""
    return frozenset(name.strip().lower() for name in connection.split(b","))


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """An engine's status and headers. `lines` go to the client; `length` is the body's, where it is told.

    `is_stream`: the body is server-sent events. `date` is the one date in the lines; empty if they have none,
    or several.
    """

    status: int
    lines: bytes
    content_type: str
    length: int | None = None
    is_stream: bool = False
    date: bytes = b""

    def at(self, date: bytes) -> AnswerHead:
        """The same at another time, of a head that has a date."""
        lines = self.lines.replace(b"date: " + self.date, b"date: " + date)
        return AnswerHead(self.status, lines, self.content_type, self.length, self.is_stream, date)


def seconds_asked(head: AnswerHead) -> float:
    """In how many seconds an engine wants to be asked again; 0 where it does not say."""
    said = _RETRY_AFTER.search(head.lines)
    date = head.date.decode("latin-1") or None
    return float(seconds_to_wait(said[1].decode("latin-1"), date) or 0) if said else 0.0


def seconds_to_wait(said: str, date: str | None) -> bytes:
    """A `retry-after` in whole seconds, whether it says them or an instant (held against the answer's own
    `date`, since clocks differ); empty for what is neither."""
    if said.isascii() and said.isdigit():
        return said.encode()
    try:
        then = parsedate_to_datetime(said).timestamp()
        now = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return b""
    return str(max(0, ceil(then - now))).encode()


def answer_head(status: int, headers: Headers) -> AnswerHead:
    """What a client is to know of an answer. Header names are lower case."""
    lines: list[bytes] = []
    content_type, length = "", None
    headers = tuple(headers)
    ending = HOP_BY_HOP.union(*(named(value) for name, value in headers if name == b"connection"))
    for name, value in headers:
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
        elif name == b"content-type":
            content_type = value.decode("latin-1")
        if name not in ending and not name.startswith(b"x-turnout-"):
            lines.append(b"%b: %b\r\n" % (name, value))
    is_stream = content_type.lower().startswith("text/event-stream")
    crossing = b"".join(lines)
    date = next((value for name, value in headers if name == b"date"), b"")
    if crossing.count(b"date: ") != 1 or b"date: %b\r\n" % date not in crossing:
        date = b""
    return AnswerHead(status, crossing, content_type, length, is_stream, date)


#: A message that came in one piece: its head without the digits of the length, and its body.
Framed = tuple[bytes, bytes]


#: A longer head is not kept.
_LONGEST: Final = 4096
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,8})\r\n")
#: The one form in which a server may write it (RFC 9110 §5.6.7).
_FIXDATE: Final = rb"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
_DATE: Final = re.compile(rb"\r\n[Dd]ate: (%b)\r\n" % _FIXDATE)


def framed(data: bytes) -> Framed | None:
    """The one message that the data may be, whole and with a declared length; None if it is anything else.

    Whether the head is one that may be acted on is for `KnownHeads` to say.
    """
    end = data.find(b"\r\n\r\n", 0, _LONGEST) + 4
    match = _LENGTH.search(data, 0, end)
    if match is None:
        return None
    low, high = match.span(1)
    if len(data) - end != int(data[low:high]):
        return None
    return data[:low] + data[high:end], data[end:]


def raw_head(data: bytes) -> bytes:
    """The head with which the data begins; nothing if it is not whole, or too long to be kept."""
    end = data.find(b"\r\n\r\n", 0, _LONGEST) + 4
    return data[:end] if end >= 4 else b""


_Head = TypeVar("_Head", RequestHead, AnswerHead)


class KnownHeads(Generic[_Head]):
    """What llhttp made of heads, by their bytes. Bounded: when full, it begins anew."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._known: dict[bytes, _Head] = {}
        self._expect_none()

    def _expect_none(self) -> None:
        #: The head that was met last: its bytes before and after the digits of the length, where the body
        #: began, and which lengths have as many digits.
        self._before = self._after = b""
        self._body, self._least, self._most_bytes = 0, 1, 0
        self._last: _Head | None = None

    def expected(self, data: bytes) -> tuple[_Head, bytes] | None:
        """Head and body of the one message that the data may be, if its head is the last one once more."""
        at = self._body
        size = len(data) - at
        if self._least <= size <= self._most_bytes and data[:at] == b"".join(
            (self._before, str(size).encode(), self._after)
        ):
            return self._last, data[at:]  # type: ignore[return-value]  # there once one is expected
        return None

    def find(self, data: bytes, message: Framed | None) -> tuple[_Head, bytes] | None:
        """Head and body of the message that `framed` has seen in the data; None: it is not known."""
        if message is None:
            return None
        template, body = message
        head = self._again(template)
        if head is None:
            return None
        self._expect(data, len(data) - len(body), head)
        return head, body

    def _expect(self, data: bytes, end: int, head: _Head) -> None:
        length = _LENGTH.search(data, 0, end)
        if length is not None:
            low, high = length.span(1)
            self._before, self._after, self._body = data[:low], data[high:end], end
            self._least, self._most_bytes = 10 ** (high - low - 1), 10 ** (high - low) - 1
            self._last = head

    def _again(self, template: bytes) -> _Head | None:
        return self._known.get(template)

    def learn(self, template: bytes, head: _Head) -> None:
        """Remember a head that was parsed as the whole message `template` came from."""
        self._keep(self._known, template, head)

    def _keep(self, known: dict[bytes, _Head], template: bytes, head: _Head) -> None:
        if len(known) >= self._most:
            known.clear()
        known[template] = head

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()
        self._expect_none()


class KnownAnswers(KnownHeads[AnswerHead]):
    """What llhttp made of engines' heads, whatever the second at which they were written."""

    def __init__(self, most: int = 512) -> None:
        super().__init__(most)
        self._streams: dict[bytes, AnswerHead] = {}
        self._raw = b""  # the head of a stream that was met last
        self._stream: AnswerHead | None = None

    def stream(self, data: bytes) -> tuple[AnswerHead, bytes] | None:
        """The head of a stream in chunks with which the data begins, and its bytes; None: it is not known."""
        raw = self._raw
        if raw and data.startswith(raw):
            return self._stream, raw  # type: ignore[return-value]  # there once its bytes are
        raw = raw_head(data)
        head = _dated(self._streams, raw) if raw else None
        if head is None:
            return None
        self._raw, self._stream = raw, head
        return head, raw

    def learn_stream(self, raw: bytes, head: AnswerHead) -> None:
        """Remember the head of an answer in chunks, after which the connection stays."""
        undated, date = _undated(raw)
        if head.date == date:
            self._keep(self._streams, undated, head)

    def learn(self, template: bytes, head: AnswerHead) -> None:
        undated, date = _undated(template)
        if head.date == date:
            super().learn(undated, head)

    def _again(self, template: bytes) -> AnswerHead | None:
        return _dated(self._known, template)


def _undated(raw: bytes) -> tuple[bytes, bytes]:
    """A head without the value of its date, and that; empty, if it has none in the form of all dates."""
    match = _DATE.search(raw)
    if match is None:
        return raw, b""
    low, high = match.span(1)
    return raw[:low] + raw[high:], raw[low:high]


def _dated(known: dict[bytes, AnswerHead], raw: bytes) -> AnswerHead | None:
    """What is known of a head, with the date that it has this time."""
    undated, date = _undated(raw)
    head = known.get(undated)
    if head is None or head.date == date:
        return head
    return head.at(date) if head.date and date else None
