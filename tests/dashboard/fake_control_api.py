"""A control API that answers from a story (stories.py) and can be told to fail in the ways real ones do."""

import json
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "a-token-for-tests"


class FakeControlApi:
    """Serves `story` on a loopback port. `asked`: what was asked for.

    `fault` is None or a key of `FAULTS`; `lost`: what is posted is done, but its answer breaks off;
    `unreadable`: the end of a route that answers 500.
    """

    def __init__(self, story: dict[str, Any], port: int = 0) -> None:
        self.story = story
        self.fault: str | None = None
        self.lost = False
        self.unreadable: str | None = None
        self.asked: list[str] = []
        self.posted: list[tuple[str, dict[str, Any], str | None]] = []
        api = self

        class Answerer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api._answer(self, None)

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                api._answer(self, json.loads(self.rfile.read(length) or b"{}"))

            def log_message(self, format: str, *args: Any) -> None:
                """Silence: the tests read what was posted, not a log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Answerer)
        self._server.daemon_threads = False  # closing waits for the last answer
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeControlApi":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> None:
        self.asked.append(request.path)
        status, payload = self._fault(request.path) or self._route(request, body)
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(raw)))
        if status == 302:
            request.send_header("location", "http://evil.test/")
        request.end_headers()
        broken = self.lost and body is not None and not body.get("dry_run")
        request.wfile.write(raw[: len(raw) // 2] if broken else raw)
        request.close_connection = True

    def _fault(self, route: str) -> tuple[int, Any] | None:
        unreadable = self.unreadable is not None and route.endswith(self.unreadable)
        return FAULTS["500"] if unreadable else FAULTS[self.fault] if self.fault else None

    def _route(self, request: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> tuple[int, Any]:
        split = urlsplit(request.path)
        parts = [unquote(part) for part in split.path.split("/")][2:]
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        if body is not None:
            return self._post(parts, body, request.headers.get("authorization"))
        story = self.story
        if story["health"].get("as_of") is not None:
            story["health"]["as_of"] = datetime.fromtimestamp(time.time_ns() / 1e9, tz=UTC).isoformat()
        match parts:
            case ["overview"]:
                return 200, {
                    "as_of": story["health"]["as_of"],
                    "models": story["models"],
                    "experiments": [summary(one) for one in story["experiments"]],
                    "health": story["health"],
                }
            case ["health"]:
                return 200, story["health"]
            case ["models"]:
                return 200, story["models"]
            case ["models", name]:
                named = [one for one in story["models"] if one["name"] == name]
                return (200, named[0]) if named else missing(name)
            case ["experiments"]:
                return 200, [summary(one) for one in story["experiments"]]
            case ["experiments", name, *rest]:
                return self._experiment(name, rest, query)
            case ["decisions"]:
                return 200, story["decisions"]
            case ["golden", "runs"]:
                return 200, story["runs"]
            case ["golden", "runs", run_id]:
                found = [run for run in story["runs"] if run["run_id"] == run_id]
                return (
                    (200, {"run": found[0], "results": story["results"].get(run_id, [])})
                    if found
                    else missing(run_id)
                )
            case ["golden", "comparisons"]:
                return 200, story["comparisons"]
            case ["golden", "draws"]:
                return 200, [draw for draw in story["draws"] if draw["evaluator"] == query["evaluator"]]
            case ["golden", "worksheet"] if story["worksheet"] is not None:
                return 200, story["worksheet"]
            case ["golden", "labels"]:
                return 200, story["labels"]
            case ["preflights"]:
                return 200, story["preflights"]
        return missing(request.path)

    def _experiment(self, name: str, rest: list[str], query: dict[str, str]) -> tuple[int, Any]:
        found = [one for one in self.story["experiments"] if one["name"] == name]
        if not found:
            return missing(name)
        if not rest:
            return 200, found[0]
        if rest == ["timeline"]:
            return 200, self.story["timeline"]
        pairs = [pair for pair in self.story["pairs"] if keeps(pair, query.get("filter", "all"))]
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 50))
        return 200, {"total": len(pairs), "pairs": pairs[offset : offset + limit]}

    def _post(self, parts: list[str], body: dict[str, Any], authorization: str | None) -> tuple[int, Any]:
        self.posted.append(("/".join(parts), body, authorization))
        if authorization != f"Bearer {TOKEN}":
            return 401, refusal("this changes state: send the token", "invalid_token")
        match parts:
            case ["models", _, "promote"] if not body.get("force") and self.story.get("refuse_promote"):
                return 409, refusal(
                    "there is no passing verdict for v2; use force with a reason", "no_passing_verdict"
                )
            case ["models", model, action]:
                return 200, {
                    "decision_id": "d-1",
                    "action": action,
                    "model": model,
                    "from_version": 1,
                    "to_version": body.get("version", 1),
                    "verdict_kind": "ship",
                    "forced": bool(body.get("force")),
                    "elapsed_ms": 184.0,
                    "changed": [
                        "alias production v1 → v3",
                        "experiment faster-chat ends: all units go to v3",
                    ],
                    "acknowledged_by": ["proxy-1", "proxy-2"],
                    "unacknowledged": [],
                }
            case ["golden", "labels"]:
                self.story["labels"] += body["labels"]
                return 200, {"stored": len(body["labels"]), "ignored": 0}
            case ["experiments", name, "stop"]:
                return 200, next(one for one in self.story["experiments"] if one["name"] == name) | {
                    "state": "kept"
                }
        return missing("/".join(parts))


def summary(view: dict[str, Any]) -> dict[str, Any]:
    """What the controller lists of an experiment: no spec, no phases, of the verdict only what it says."""
    verdict = view["verdict"]
    short = None if verdict is None else {name: verdict.get(name) for name in ("kind", "label", "sentence")}
    return {
        name: value for name, value in view.items() if name not in ("spec_yaml", "phases", "pipeline")
    } | {"verdict": short}


def keeps(pair: dict[str, Any], wanted: str) -> bool:
    control, candidate = pair["control"] or {}, pair["candidate"] or {}
    if wanted == "different":
        return control.get("text") != candidate.get("text")
    if wanted == "failed":
        return candidate.get("outcome") not in ("complete", "length")
    if wanted == "longer":
        return len(candidate.get("text") or "") > len(control.get("text") or "")
    return True


def refusal(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def missing(what: str) -> tuple[int, dict[str, Any]]:
    return 404, refusal(f"{what} does not exist", "not_found")


FAULTS: dict[str, tuple[int, Any]] = {
    "500": (500, refusal("the ledger could not be read", "internal_error")),
    "text": (200, b"<html>a login page</html>"),
    "wrong_shape": (200, {"models": "three", "experiments": 7, "pairs": None, "traffic": 1}),
    "deep": (200, b"[" * 100_000),
    "empty_body": (200, b""),
    "no_time": (200, b'{"as_of": 1e999}'),
    "redirect": (302, b""),
}


def main() -> None:
    """Serve a story by hand, to look at the pages: `python -m tests.dashboard.fake_control_api 8081 rich`."""
    import sys

    from . import nasty, stories

    port, story = int(sys.argv[1]), getattr(nasty, sys.argv[2], None) or getattr(stories, sys.argv[2])
    with FakeControlApi(story(), port) as api:
        sys.stdout.write(f"{api.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
