"""How is a recorded request put to a candidate, as a live shadow would have copied it?

`turnout replay` brings the request; the copy is made, capped, stripped, sent and recorded by `shadow`, so
that its pair is the same as a live one. What differs is that somebody waits for its end. Where the end says
nothing of the candidate (a cap, an engine that is full or away), there is no row, and it may be asked again.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Final

import orjson

from experiments.ledger.exchange import RATE_LIMITED, UNKEYED, ExchangeRecord
from experiments.snapshot import Endpoint, Mirror, UnknownModel

from . import auth, wire
from .application import Request, Responder
from .breaker import OPEN
from .copying import copy_record
from .errors import Refusal
from .heads import RequestHead
from .server import ClientConnection

if TYPE_CHECKING:
    from .shadow import Copy
    from .worker import Worker

PATH: Final = "/v1/replay"

#: Reasons for which a copy will not be sent, however often it is tried.
_FOR_GOOD: Final = frozenset(("tools_skipped", "stored_elsewhere", "not_copied", "excluded"))
#: Ends that are the engine's state, or the operator's mistake, and no answer to this request.
_NOT_ASKED: Final = UNKEYED | {"upstream_unreachable"}
_FIELDS: Final = {"experiment": str, "model": str, "pair": str, "path": str}
_MESSAGES: Final = {
    "engine_overloaded": "The candidate's engine says that it has too much to do: ask again, more slowly.",
    RATE_LIMITED: "The candidate's engine or provider takes no more requests now (429): ask again later.",
    "upstream_unreachable": "The candidate's engine cannot be reached.",
    OPEN: "Nothing succeeds at the candidate (the last: {cause}), and it is asked once in 5 s only.",
    "engine_refused_key": "The candidate's engine does not take the key that Turnout has for it.",
    "provider_credential_missing": "The candidate's provider is not asked: the variable that holds its key is"
    " not set in the proxy's environment. Set it, and restart the proxy.",
    "provider_credential_refused": "The candidate's provider does not take the key that Turnout has for it.",
    "experiment_tokens": "The copies have used the tokens that the experiment may use.",
    "experiment_cost": "The copies have used the money that the experiment may use.",
    "not_recorded": "The answer could not be stored: is the proxy's disk full?",
}


class Replay(Responder):
    """One recorded request. Its client hears how the copy ended, never what was answered.

    The body is a line of JSON (experiment, model, path, pair: the primary's id; unit and tenant, as the
    ledger has them) and then the bytes that the client once sent.
    """

    def __init__(self, worker: Worker, request: Request, client: ClientConnection) -> None:
        self._worker = worker
        self._request = request
        self._client = client
        self._copy: Copy | None = None
        self._gone = False

    def start(self) -> bool:
        """Whether it is under way. Raises Refusal for what is no replay, or of no experiment that has one."""
        snapshot = self._worker.snapshot
        auth.require_admin(snapshot, self._request.headers)
        line, _, body = self._request.body.partition(b"\n")
        about = _about(line)
        try:
            found = snapshot.replays(about["model"], about["experiment"])
        except UnknownModel:
            found = None
        if found is None:
            message = (
                f"No experiment {about['experiment'][:200]!r} takes recorded requests now: has it ended?"
            )
            raise Refusal(409, "no_replay", message)
        mirror, endpoint = found
        self._mirror: Mirror = mirror
        record = self._record(about, mirror, endpoint)
        try:
            ask = wire.parse(about["path"], body, self._worker.limits)
        except Refusal:  # the limits were others when it was recorded
            return self._shed(record, "not_copied")
        record.stream = ask.stream
        rules = mirror.exclude
        if rules is not None and rules.covers(record.tenant, {}, ask.document.get("metadata")):
            return self._shed(record, "excluded")
        # What the client's head said is not recorded.
        head = RequestHead(method="POST", path=ask.path, headers={}, keep_alive=True, chunked_ok=True)
        asked = Request(head, body, self._request.started_ns, self._request.started)
        self._copy = self._worker.shadows.start(mirror, endpoint, ask, asked, record, self._ended)
        return self._copy is not None

    def _record(self, about: dict[str, Any], mirror: Mirror, endpoint: Endpoint) -> ExchangeRecord:
        """The row of the copy; what it has in common with its primary is in `about`."""
        snapshot, pair, model = self._worker.snapshot, about["pair"], about["model"]
        primary = ExchangeRecord(
            pair, pair, self._request.started_ns, about["path"], model, self._worker.name
        )
        primary.unit, primary.tenant = about.get("unit"), about.get("tenant")
        primary.snapshot, primary.recording = snapshot.version, snapshot.model(model).recording
        record = copy_record(mirror, endpoint, primary)
        record.origin = "replay"
        return record

    def _shed(self, record: ExchangeRecord, reason: str) -> bool:
        record.outcome, record.error_code = "shed", reason
        self._ended(record)
        return False

    def _ended(self, record: ExchangeRecord) -> None:
        """The row first, then the word: who hears of an end can rely on its being recorded."""
        if self._gone:
            return
        again = self._again(record)
        if again is None and not self._worker.append(record):
            again = 503, "not_recorded"
        if again is not None:
            status, code = again
            message = _MESSAGES.get(code, f"No copy is sent just now: {code.replace('_', ' ')}.")
            message = message.replace("{cause}", self._cause())
            rest = ceil(self._worker.shadows.rests_for(self._mirror.experiment))
            lines = b"retry-after: %d\r\n" % rest if code == RATE_LIMITED and rest else b""
            self._client.decline(Refusal(status, code, message), lines)
            return
        ended = {"outcome": record.outcome, "status": record.status, "error_code": record.error_code}
        self._client.respond(200, orjson.dumps(ended))

    def _again(self, record: ExchangeRecord) -> tuple[int, str] | None:
        """Status and code where this end is not the candidate's; None where it is the pair's other half."""
        code = record.error_code or ""
        if record.outcome == "overloaded":
            return 503, "engine_overloaded"
        if code == OPEN and self._cause() in _NOT_ASKED:  # of whom that is known already
            code = self._cause()
        if code in _NOT_ASKED:
            return 502, code
        if record.outcome != "shed" or code in _FOR_GOOD:
            return None
        mine, all_ = self._worker.shadows.others(self._mirror.experiment)
        if (code == "experiment_bytes" and not mine) or (code == "worker_bytes" and not all_):
            return None  # it was alone, and too large all the same
        return 503, code

    def _cause(self) -> str:
        return self._worker.shadows.left_alone(self._mirror)

    def client_gone(self) -> None:
        self._gone = True
        if self._copy is not None:
            self._copy.withdraw()


def _about(line: bytes) -> dict[str, Any]:
    """The first line. Raises Refusal."""
    try:
        about = orjson.loads(line)
    except ValueError:
        about = None
    if not isinstance(about, dict):
        message = "The body begins with a line of JSON about the recorded request; then its bytes follow."
        raise Refusal(400, "malformed_json", message)
    for name, kind in _FIELDS.items():
        if not isinstance(about.get(name), kind) or not about[name]:
            raise Refusal(400, "invalid_type", f"{name!r} is missing: expected a text.", name)
    for name in ("unit", "tenant"):
        if not isinstance(about.get(name), str | None):
            raise Refusal(400, "invalid_type", f"{name!r} is no text.", name)
    if about["path"] not in wire.APIS:
        raise Refusal(404, "path_not_found", f"'path' is none of {', '.join(wire.APIS)}.", "path")
    return about
