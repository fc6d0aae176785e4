"""`curl` against the proxy: what the README shows, and what a shell script relies on."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from .conftest import MODEL, Stack

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Where is my parcel?"}]}


def curl(*arguments: str, body: object = None) -> subprocess.CompletedProcess[bytes]:
    command = [str(CURL), "--silent", "--show-error", "--max-time", "20", "--noproxy", "*", *arguments]
    if body is not None:
        command += ["--header", "Content-Type: application/json", "--data-binary", "@-"]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return subprocess.run(command, input=raw, capture_output=True, timeout=30, check=False)


def test_json(stack: Stack) -> None:
    done = curl("--fail", f"{stack.base_url}/chat/completions", body=BODY)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "parcel" in json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_streamed(stack: Stack) -> None:
    done = curl("--no-buffer", f"{stack.base_url}/chat/completions", body={**BODY, "stream": True})
    assert (done.returncode, done.stderr) == (0, b"")
    *events, done_event, rest = done.stdout.split(b"\n\n")
    assert (done_event, rest) == (b"data: [DONE]", b"")
    deltas = [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"] for event in events]
    whole = json.loads(curl(f"{stack.base_url}/chat/completions", body=BODY).stdout)
    assert "".join(delta["content"] for delta in deltas) == whole["choices"][0]["message"]["content"]


def test_headers_and_status(stack: Stack) -> None:
    done = curl("--include", f"{stack.base_url}/chat/completions", body={**BODY, "model": "nobody"})
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert json.loads(body)["error"]["code"] == "model_not_found"


def test_a_large_body_waits_for_100_continue(stack: Stack) -> None:
    body = {**BODY, "padding": "x" * 3_000_000, "max_tokens": 3}
    done = curl("--header", "Expect: 100-continue", f"{stack.base_url}/chat/completions", body=body)
    assert json.loads(done.stdout)["choices"][0]["finish_reason"] == "length"
    assert json.loads(stack.engine.counters.last_body)["padding"] == body["padding"]


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
@pytest.mark.parametrize("stream", [True, False])
def test_http_versions(stack: Stack, version: str, stream: bool) -> None:
    """HTTP/1.0 has no chunks; a client that offers HTTP/2 is answered in HTTP/1.1."""
    done = curl(version, f"{stack.base_url}/chat/completions", body={**BODY, "stream": stream})
    assert (done.returncode, done.stderr) == (0, b"")
    if stream:
        assert done.stdout.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(done.stdout)["choices"][0]["finish_reason"] == "stop"
    assert b"\r\n" not in done.stdout


def test_an_upload_in_chunks(stack: Stack) -> None:
    done = curl("--header", "Transfer-Encoding: chunked", f"{stack.base_url}/chat/completions", body=BODY)
    assert json.loads(done.stdout)["choices"][0]["finish_reason"] == "stop"
    assert json.loads(stack.engine.counters.last_body)["messages"] == BODY["messages"]


def test_two_requests_on_one_connection(stack: Stack) -> None:
    url = f"{stack.base_url}/models"
    done = curl("--write-out", "%{num_connects}", url, url)
    assert done.stdout.endswith(b"0")
    assert b"}1{" in done.stdout


def test_what_is_no_json_is_refused(stack: Stack) -> None:
    done = curl(f"{stack.base_url}/chat/completions", body=b"{'model':")
    assert json.loads(done.stdout)["error"]["code"] == "malformed_json"
