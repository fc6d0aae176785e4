"""A registry behind a real MLflow server, and what is said when it goes away: at once, never "no version"."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from registry import EndpointSpec, Move, NoSuchModel, Registry, RegistryRefused, RegistryUnreachable
from registry.connection import Connection, shown_uri, sqlite_uri

from .server import MlflowServer


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[MlflowServer]:
    running = MlflowServer(database, tmp_path)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.mark.slow
def test_an_mlflow_server_does_all_that_sqlite_does_until_it_is_stopped(
    server: MlflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(server.url)
    endpoint = EndpointSpec(replicas=("http://127.0.0.1:9001",), served_name="chat")
    # A path as source: a server takes none, so it is kept beside.
    registry.register("chat", endpoint, source="/models/plain", aliases=("production",), tags={"a": "b"})
    registry.register("chat", endpoint, aliases=("candidate",))
    assert registry.version("chat", "production").source == "/models/plain"
    assert registry.promote("chat", 2) == Move(former=1, current=2, changed=True)
    assert registry.promote("chat", 2) == Move(former=1, current=2, changed=False)
    assert registry.rollback("chat") == Move(former=2, current=1, changed=True)
    assert registry.log_golden_run("chat", 2, "golden", params={"n": 1}, metrics={"pass_rate": 1.0})
    assert capsys.readouterr().out == ""  # MLflow's own word names the address, with a password in it
    assert [(model.name, model.production) for model in registry.models()] == [("chat", 1)]
    with pytest.raises(NoSuchModel):
        registry.model("other")

    server.stop()
    for question in (
        registry.models,
        lambda: registry.version("chat", "production"),
        lambda: registry.model("other"),
        lambda: registry.promote("chat", 2),
        lambda: registry.rollback("chat"),
        lambda: registry.register("chat", endpoint),
        Registry(server.url).ping,
    ):
        began = time.monotonic()
        with pytest.raises(RegistryUnreachable, match=r"does not answer \(ConnectionRefusedError"):
            question()
        assert time.monotonic() - began < 5


def test_a_server_that_never_answers_does_not_hang_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(RegistryUnreachable, match=r"TimeoutError|timed out"):
            Registry(url).models()
        assert time.monotonic() - began < 6 + 10  # two tries of a second, and the import when it is the first


class AnswerNotMlflow(BaseHTTPRequestHandler):
    """Any other web server: 404 and a page. The first part of the path chooses the status."""

    def do_GET(self) -> None:
        status = int(self.path.split("/")[1])
        body = b'{"error_code": "PERMISSION_DENIED", "message": "no"}' if status == 403 else b"<html>?</html>"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def not_mlflow() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), AnswerNotMlflow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("status", [200, 404, 401, 500])
def test_a_page_of_another_server_is_no_missing_model(not_mlflow: str, status: int) -> None:
    with pytest.raises(RegistryUnreachable, match="is the MLflow server running there"):
        Registry(f"{not_mlflow}/{status}").model("chat")


def test_a_refusal_is_neither_missing_nor_unreachable(not_mlflow: str) -> None:
    with pytest.raises(RegistryRefused, match="refuses"):
        Registry(f"{not_mlflow}/403").model("chat")


def test_messages_hold_no_password() -> None:
    uri = "postgresql://turnout:hunter2@127.0.0.1:1/mlflow"
    assert shown_uri(uri) == "postgresql://127.0.0.1:1/mlflow"
    with pytest.raises(RegistryUnreachable) as raised:
        Registry(uri).models()
    assert "hunter2" not in str(raised.value)


def test_importing_the_registry_does_not_import_mlflow() -> None:
    program = "import sys, registry; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_artifacts_cannot_run_code_and_nobody_is_counted(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    registry.ping()
    from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION, MLFLOW_DISABLE_TELEMETRY

    assert MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False
    assert MLFLOW_DISABLE_TELEMETRY.get() is True


@pytest.mark.parametrize("folder", ["data", "a b", "d\u00e4ta", "job_feature%2Fx", "50% off", "a#b", "it's"])
def test_a_database_lies_where_its_folder_is_whatever_that_is_called(tmp_path: Path, folder: str) -> None:
    """Jenkins calls workspaces after branches, with %2F for a slash."""
    file = tmp_path / folder / "mlflow.db"
    file.parent.mkdir()
    uri = sqlite_uri(file)
    assert Connection(uri).sqlite_file == file
    with create_engine(uri).connect():
        assert file.exists()
    if "%" not in folder:
        assert uri == f"sqlite:///{file}"


def test_the_working_folder_may_have_both_kinds_of_quotes_in_its_name(tmp_path: Path) -> None:
    """MLflow writes its path into SQL as Python writes a text: the registry could not be opened at all."""
    folder = tmp_path / 'it\'s "quoted"'
    folder.mkdir()
    code = (
        "from registry.connection import Connection\n"
        f"with Connection('sqlite:///{tmp_path}/mlflow.db').asking('look') as client:\n"
        "    print(client.get_experiment('0').name)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "Default\n", done.stderr[-500:]
