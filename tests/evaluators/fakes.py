"""A Turnout in miniature, in this process, over real HTTP: the proxy's chat endpoint as golden runs see it,
and the part of the control API that keeps them. Its answers are a function that the test gives."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from experiments.client import MARK

TOKEN = "secret-token"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the engine does with one question."""

    text: str | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    status: int = 200
    finish: str | None = "stop"
    cut: bool = False  # the body breaks off
    hang: bool = False  # no answer before the client has gone
    version: int | None = None  # another version answers
    refused: bool = False  # Turnout itself answers: no version header
    retry_after: str | None = None
    body: bytes | None = None

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            error = {"message": f"status {self.status}", "type": "x", "param": None, "code": "test_code"}
            return json.dumps({"error": error}).encode()
        calls = [
            {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(self.tool_calls)
        ]
        message = {"role": "assistant", "content": self.text, **({"tool_calls": calls} if calls else {})}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


Answer = Callable[[str, int], Reply]  # last user message, version


@dataclass
class FakeTurnout:
    """Proxy and control API at one `url`."""

    answer: Answer
    versions: Mapping[str, int] = field(default_factory=lambda: {"production": 1, "candidate": 2})
    asked: list[tuple[str, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    redact: list[str] = field(default_factory=list)
    draws: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    worksheets: dict[str, dict[str, Any]] = field(default_factory=dict)
    fail_results: int = 0  # so many posts of results are answered 503
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    def times_asked(self) -> Counter[tuple[str, int]]:
        return Counter(self.asked)

    # the control API

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        params = params or {}
        if path.endswith("/recording"):
            return {"recording": "full", "redact": self.redact}
        if path.startswith("/api/models/"):
            name = path.rsplit("/", 1)[1]
            return {
                "name": name,
                "production": self.versions.get("production"),
                "versions": [
                    {"version": version, "aliases": [alias], "endpoint": {"served_name": f"{name}{version}"}}
                    for alias, version in self.versions.items()
                ],
            }
        if path == "/api/golden/runs":
            found = [
                run
                for run in reversed(self.runs.values())
                if all(str(run[key]) == str(value) for key, value in params.items())
            ]
            return found
        if path == "/api/golden/comparisons":
            return self.comparisons[-1:]
        if path == "/api/golden/draws":
            return self.draws
        if path == "/api/golden/labels":
            return self.labels
        run_id = path.removeprefix("/api/golden/runs/")
        return {"run": self.runs[run_id], "results": list(self.rows[run_id].values())}

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        with self.lock:
            return self._post(path, json.loads(json.dumps(body, allow_nan=False)))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/api/golden/runs":
            run = {**body, "status": "running", "summary": None, "mlflow_run_id": None}
            run["started_at"] = "2026-11-28T08:12:30+00:00"
            self.rows.setdefault(body["run_id"], {})
            return self.runs.setdefault(body["run_id"], run)
        if path == "/api/golden/comparisons":
            self.comparisons.append(body)
            return body
        if path == "/api/golden/draws":
            self.draws.append(body)
            return body
        if path == "/api/golden/labels":
            self.labels.extend(body["labels"])
            return {"stored": len(body["labels"]), "ignored": 0}
        if path == "/api/golden/worksheet":
            self.worksheets[body["evaluator"]] = body
            return {"tasks": len(body["tasks"])}
        run_id, verb = path.removeprefix("/api/golden/runs/").split("/")
        if verb == "finish":
            self.runs[run_id] |= {
                "status": body["status"],
                "summary": body["summary"],
                "mlflow_run_id": "ml-1",
            }
            return self.runs[run_id]
        if self.fail_results:
            self.fail_results -= 1
            raise FakeRefusal("the ledger is away", 503)
        if self.runs[run_id]["status"] == "complete":
            raise FakeRefusal("finished", 409)
        stored = self.rows[run_id]
        before = len(stored)
        for row in body["results"]:
            stored.setdefault((row["item_id"], row["repeat"], row["evaluator"]), row)
        return {"stored": len(stored) - before, "ignored": 0}


class FakeRefusal(Exception):
    """What the fake API answers in place of a result."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.code = "test_code"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, fake: FakeTurnout) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests, not of their output."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet: no waiting for a delayed acknowledgement

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self._json(200, self.server.fake.get(parts.path, dict(parse_qsl(parts.query))))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/chat/completions":
            self._chat(body)
            return
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._json(401, {"error": {"message": "wrong token", "code": "invalid_token"}})
            return
        try:
            self._json(200, self.server.fake.post(self.path, body))
        except FakeRefusal as refusal:
            self._json(refusal.status, {"error": {"message": str(refusal), "code": refusal.code}})

    def _chat(self, body: dict[str, Any]) -> None:
        fake, question = self.server.fake, body["messages"][-1]["content"]
        version = int(self.headers["x-turnout-version"])
        with fake.lock:
            fake.asked.append((question, version))
            fake.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.headers["x-turnout-admin"] != TOKEN:
            self._reply(Reply(status=403, refused=True), version)
            return
        self._reply(fake.answer(question, version), version)

    def _reply(self, reply: Reply, version: int) -> None:
        if reply.hang:
            self.server.fake.stopped.wait(20)
            self.close_connection = True
            return
        content = reply.content()
        self.send_response(reply.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("x-turnout-request-id", f"req-{len(self.server.fake.asked)}")
        if not reply.refused:
            self.send_header("x-turnout-model-version", str(reply.version or version))
        if reply.retry_after is not None:
            self.send_header("retry-after", reply.retry_after)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if reply.cut else content)
        self.close_connection = self.close_connection or reply.cut

    def _json(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header(MARK, "1")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(answer: Answer, **fields: Any) -> Iterator[FakeTurnout]:
    """A fake Turnout on a free port of the loopback, until the block ends."""
    fake = FakeTurnout(answer=answer, **fields)
    server = _Server(fake)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
