"""A tracing backend: what takes OpenTelemetry's spans over HTTP, and keeps them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Backend:
    """Takes OTLP over HTTP; `status` is what it answers, 400 to what holds an exchange of `refuses`."""

    def __init__(self) -> None:
        self.status = 200
        self.refuses: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.requests: list[ExportTraceServiceRequest] = []
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                refused = any(name.encode() in body for name in backend.refuses)
                status = 400 if refused and backend.status == 200 else backend.status
                if status == 200:
                    backend.headers.append({name.lower(): value for name, value in self.headers.items()})
                    backend.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Span]:
        scopes = [
            scope for request in self.requests for one in request.resource_spans for scope in one.scope_spans
        ]
        return [span for scope in scopes for span in scope.spans]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def service(self) -> str:
        attributes = self.requests[-1].resource_spans[0].resource.attributes
        return next(one.value.string_value for one in attributes if one.key == "service.name")


def attributes(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        assert kind is not None
        value = getattr(one.value, kind)
        found[one.key] = [each.string_value for each in value.values] if kind == "array_value" else value
    return found
