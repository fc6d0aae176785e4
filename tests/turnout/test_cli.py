"""What each command says it changed, and how it fails: one line on stderr, never a traceback."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

from experiments.client import ControlClient, ControlError
from tests.experiments.plane import AB, Plane
from turnout.cli import app
from turnout.operations import control_api, settings_in_force
from turnout.simulation import SimulatedEngine
from turnout.terminal import Screen


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(*arguments: str, code: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "ab.yaml"
    file.write_text(AB)
    return str(file)


def test_help_is_quick_and_lists_every_command() -> None:
    began = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "turnout.cli", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert time.monotonic() - began < 5  # the machine may be busy; what is imported is the point
    for name in (
        "up", "proxy", "controller", "dashboard", "models", "experiment", "promote", "rollback", "serve",
        "golden", "demo", "status",
    ):  # fmt: skip
        assert f" {name} " in told.stdout
    loaded = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert not loaded & {"mlflow", "duckdb", "pandas", "streamlit", "numpy", "httpx", "fastapi", "openai"}


@pytest.mark.parametrize("name", ["golden", "preflight", "plan"])
def test_the_help_of_what_calculates_loads_no_part_of_scipy(name: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "turnout.cli", name, "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert {"scipy", "experiments.statistics.estimate"} <= loaded, "else this shows nothing"
    assert not loaded & {"scipy.special", "scipy.stats", "scipy.optimize", "mlflow", "pandas", "streamlit"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("restart", "--timeout", "nan"),
        ("restart", "--timeout", "-1"),
        ("serve", "models:/chat@candidate", "--timeout", "nan"),
        ("up", "--proxy-port", "65536"),
        ("up", "--workers", "1000000000"),
        ("promote", "chat", "--version", "1e308"),
    ],
)
def test_numbers_that_nobody_can_mean_are_wrong_usage(arguments: tuple[str, ...]) -> None:
    failed(*arguments, code=2)


def test_an_argument_that_is_no_text_is_wrong_usage() -> None:
    command = [sys.executable, "-m", "turnout.cli", "models", "show", b"\xff"]
    told = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert (told.returncode, told.stderr) == (2, b"an argument is no text in UTF-8\n")


def test_a_release_from_registration_to_rollback(plane: Plane, spec: str) -> None:
    said = done("models", "register", "chat", "--replica", "http://127.0.0.1:9004", "--alias", "next")
    assert "Registered version 4 of chat; aliases: next." in said
    assert "http://127.0.0.1:9004" in done("models", "show", "chat")
    assert "chat" in done("models", "list")
    assert "faster is running" in done("experiment", "start", spec)
    assert "running" in done("experiment", "list")
    assert "1 under way, 0 over" in done("status")
    plane.controller.watch.look()
    assert "No data yet" in done("experiment", "status", "faster")
    assert "promotion_refused" not in failed("promote", "chat", "--version", "2")
    said = done("promote", "chat", "--version", "3", "--force", "--reason", "a drill")
    assert "Production of 'chat': version 1 -> 3" in said
    assert "Experiment 'faster' is over: production is kept" in said
    assert plane.production == 3
    assert "Nothing to change: version 3" in done("promote", "chat", "--version", "3")
    assert "Production of 'chat': version 3 -> 1" in done("rollback", "chat", "--dry-run")
    assert plane.production == 3
    done("rollback", "chat")
    plane.settle()
    assert plane.production == 1
    said = done("status")
    assert "snapshot" in said
    assert "0 under way, 1 over" in said
    assert "faster" not in said  # after a year of them nobody would see the rest


def test_a_part_of_the_units_is_told_with_the_arms(plane: Plane, spec: str) -> None:
    with Path(spec).open("a", encoding="utf-8") as file:
        file.write("exclusive: {group: rivals, units: [0, 40]}\n")
    assert "control v1 50 %, candidate v2 50 % in 40 % of the units." in done("experiment", "start", spec)
    assert "v1 50% / v2 50% in 40 % of the units" in done("experiment", "list")


def test_a_rollback_may_name_one_experiment(plane: Plane, spec: str) -> None:
    done("experiment", "start", spec)
    assert "version 2 of 'chat' would get no traffic" in done(
        "rollback", "chat", "--experiment", "faster", "--dry-run"
    ).replace("Version", "version")
    assert "no experiment 'slower'" in failed("rollback", "chat", "--experiment", "slower")
    assert "one of them" in failed("rollback", "chat", "--experiment", "faster", "--production", code=2)
    done("rollback", "chat", "--experiment", "faster")
    plane.settle()
    assert plane.state() == "rolled_back"
    assert "nothing to change" in done("rollback", "chat", "--experiment", "faster").lower()


def test_what_was_done_is_recorded_with_the_name_of_who_did_it(plane: Plane, spec: str) -> None:
    done("experiment", "start", spec)
    done("experiment", "stop", "faster", "--reason", "enough")
    plane.settle()
    actor, action, _ = plane.rows()[-1]
    assert action == "stop"
    assert actor not in ("", "operator")


@pytest.mark.parametrize(
    "command",
    [
        ("models", "list"), ("models", "show", "chat"), ("experiment", "list"), ("status",),
        ("rollback", "chat", "--dry-run", "--production"),
    ],
)  # fmt: skip
def test_machines_get_json(plane: Plane, command: tuple[str, ...]) -> None:
    plane.promote(2, force=True)
    assert isinstance(json.loads(done(*command, "--json")), (dict, list))


def test_a_bad_spec_is_told_line_by_line(plane: Plane, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(AB.replace("model: chat", "modle: chat").replace("weight: 50", "weight: 500"))
    said = failed("experiment", "start", str(file))
    assert f"{file}:2: modle: found the unknown key 'modle'" in said
    assert f"{file}:5: traffic.weight: found 500, expected a percentage from 0 to 100" in said
    file.write_text(AB + "analysis: {horizon: 1000000001}")
    said = failed("plan", str(file), code=2)
    assert "horizon: found 1000000001, expected the number of units after which it ends: 2 to 1,0" in said
    file.write_text(AB + "analysis: [")
    assert f"{file}:7: found text that is no YAML (" in failed("plan", str(file), code=2)


@pytest.mark.parametrize(
    ("command", "words", "code"),
    [
        (("models", "show", "chart"), "no model 'chart' is registered", 1),
        (("experiment", "status", "nope"), "no experiment 'nope'", 1),
        (("promote", "chat"), "no version of 'chat' has a passing verdict", 1),
        (("promote", "chat", "--force"), "--force needs --reason", 2),
        (("rollback", "chat"), "no version of 'chat' was in production before version 1", 1),
        (("experiment", "start", "/nowhere.yaml"), "cannot be read", 2),
        (("models", "register", "chat", "--replica", "ftp://x"), "expected http://HOST:PORT", 1),
        (("models", "register", "chat"), "neither replicas nor a source", 1),
        (("models", "register", "chat", "--replica", "http://h:1", "--tag", "x"), "key=value", 2),
        (("models", "register", "chat", "--tag", "x=1", "--tag", "x=2"), "--tag x is given twice", 2),
        (("promote", "chat", "--version", "9" * 23), "cannot be sent: Integer exceeds 64-bit range", 1),
        (("rollback", "chat", "--reason", "\udcff"), "text is UTF-8", 1),
        (("replay", "../models"), "'../models' is no experiment's name", 2),
        (("replay", ""), "'' is no experiment's name", 2),
        (("replay", "x" * 300), "is no experiment's name", 2),
        (("replay", "-m", "chat", "-c", "2", "--limit", "9" * 23), "traffic.recorded.limit: found 999", 2),
    ],
)
def test_a_refusal_is_a_line_on_stderr(plane: Plane, command: tuple[str, ...], words: str, code: int) -> None:
    assert words in failed(*command, code=code)


def test_a_controller_that_is_not_there_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_CONTROL_URL", "http://127.0.0.1:1")
    said = failed("models", "list")
    assert "http://127.0.0.1:1" in said
    assert "turnout up" in said


def test_a_wrong_token_is_told_with_the_place_of_the_right_one(plane: Plane) -> None:
    (plane.data / "token").write_text("wrong")
    said = failed("rollback", "chat")
    assert str(plane.data / "token") in said


def test_a_token_that_is_not_there_is_told_with_the_place_of_it(plane: Plane) -> None:
    (plane.data / "token").unlink()
    assert f"there is none: {plane.data / 'token'} cannot be read" in failed("rollback", "chat")


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("plan", "{spec}"),
        ("selftest", "--aa", "{spec}"),
        ("report", "faster", "--out", "/nowhere/report"),
        ("replay", "faster"),
        ("apply", "{folder}"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, spec: str, command: tuple[str, ...]
) -> None:
    command = tuple(part.format(spec=spec, folder=Path(spec).parent) for part in command)
    monkeypatch.setenv("TURNOUT_CONTROL_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TURNOUT_TOKEN", "t")
    monkeypatch.setenv("TURNOUT_PROXY_POTR", "1")
    assert "TURNOUT_PROXY_POTR is no setting" in failed(*command)
    monkeypatch.setenv("TURNOUT_PROXY_PORT", "many")
    assert "TURNOUT_PROXY_PORT" in failed(*command, code=2)


@pytest.mark.parametrize("address", ["foo", "http://[::1", "ftp://h:1", "http://a..b:1"])
def test_an_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("TURNOUT_CONTROL_URL", address)
    assert "TURNOUT_CONTROL_URL" in failed("status", code=2)


def test_a_token_that_fits_no_header_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_TOKEN", "t\u00f6ken")
    assert "TURNOUT_TOKEN" in failed("rollback", "chat")


def test_another_server_is_not_taken_for_a_controller(
    monkeypatch: pytest.MonkeyPatch, engine: SimulatedEngine
) -> None:
    monkeypatch.setenv("TURNOUT_CONTROL_URL", engine.url)
    assert "does not answer as a controller" in failed("models", "list")


class _Stranger(BaseHTTPRequestHandler):
    """Answers whatever is asked with JSON."""

    def do_GET(self) -> None:
        content = self.server.content  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        """Silent."""


@pytest.mark.parametrize("content", [b"[]", b'"hello"', b'{"health": 1, "state": "ok"}', b"null"])
def test_json_of_another_program_is_not_taken_for_a_controllers(
    monkeypatch: pytest.MonkeyPatch, spec: str, tmp_path: Path, content: bytes
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stranger)
    server.content = content  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("TURNOUT_CONTROL_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("TURNOUT_TOKEN", "t")
    try:
        for command, code in (
            ("status", 1),
            ("models list", 1),
            ("models register chat --replica http://h:1", 1),
            ("experiment list", 1),
            ("experiment watch faster", 1),
            (f"experiment start {spec}", 1),
            ("promote chat", 1),
            ("rehearse chat", 1),
            (f"plan {spec}", 1),
            ("replay faster", 1),
            ("replay -m chat -c 2", 1),
            (f"report faster --out {tmp_path / 'report'}", 1),
            (f"apply --dry-run {Path(spec).parent}", 1),
            ("preflight chat -c 2", 3),
        ):
            said = failed(*command.split(), code=code)
            assert "does not answer as a controller does" in said, command
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("command", "code"),
    [("status", 0), ("models list --json", 0), ("apply --dry-run {}", 3), ("apply --dry-run --json {}", 3)],
)
def test_a_reader_that_leaves_changes_no_exit_code(plane: Plane, spec: str, command: str, code: int) -> None:
    called = f"{sys.executable} -m turnout.cli {command.format(Path(spec).parent)}"
    shell = f"{called} | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (code, "")


@pytest.mark.parametrize(("option", "said"), [("--json", r"gr\u00f6\u00dfe"), ("", r"gr\xf6\xdfe")])
def test_an_output_that_has_not_every_letter_shows_what_it_has_not(
    plane: Plane, tmp_path: Path, option: str, said: str
) -> None:
    """An old locale, or PYTHONIOENCODING: every command that met such a letter ended with a traceback."""
    (tmp_path / "ab.yaml").write_text(AB + "exclude: {tags: {größe: l}}\n")
    command = [sys.executable, "-m", "turnout.cli", "apply", "--dry-run", *option.split(), str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (ended.returncode, ended.stderr) == (3, "")
    assert said in ended.stdout
    if option:
        json.loads(ended.stdout)


def test_the_proxy_is_not_taken_for_a_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors have the same shape."""
    client = ControlClient("http://127.0.0.1:8080")
    said = {"error": {"message": "No such path", "type": "t", "param": None, "code": "path_not_found"}}
    with closing(client), pytest.raises(ControlError, match="TURNOUT_CONTROL_URL"):
        client._parsed("GET", "/api/overview", httpx.Response(404, json=said))


def test_a_controller_that_hangs_is_not_said_to_be_away() -> None:
    """It may have done what it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        client = ControlClient(f"http://127.0.0.1:{hung.getsockname()[1]}", timeout_s=0.1)
        with pytest.raises(ControlError, match=r"did not answer within 0\.1 s; its log"):
            client.get("/api/overview")
        with closing(client), pytest.raises(ControlError, match="may have done what it was asked"):
            client.post("/api/models/chat/promote", {})


@pytest.mark.parametrize("terminal", [True, False])
def test_whoever_waits_sees_for_whom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, terminal: bool) -> None:
    """Seconds that go on in a terminal; elsewhere a line, once."""
    seen = io.StringIO()
    monkeypatch.setattr("turnout.terminal.err", Screen(file=seen, force_terminal=terminal, width=200))
    monkeypatch.setattr("turnout.terminal.PATIENCE_S", 0.05)
    monkeypatch.setattr("turnout.terminal.PIPED_PATIENCE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as hung:
        url = f"http://127.0.0.1:{hung.getsockname()[1]}"
        settings = settings_in_force(data=tmp_path, control_url=url)
        with pytest.raises(typer.Exit), control_api(settings, timeout_s=1.5) as api:
            api.get("/api/overview")
    told = f"waiting for the controller at {url}, 1.5 s at most"
    assert told in seen.getvalue()
    assert (f"{told}: 1 s" in seen.getvalue()) == terminal
    if not terminal:
        assert seen.getvalue().count("waiting") == 1


@pytest.mark.parametrize("name", ["a/b", "..", "", "a\\b", "a\nb", "\udcff"])
def test_a_name_leads_to_no_other_path(name: str) -> None:
    assert "no model's name" in failed("models", "show", name, code=2)


def test_a_data_folder_that_cannot_be_is_told() -> None:
    assert "--data" in failed("up", "--data", "/dev/null/x", code=2)


@pytest.mark.parametrize("command", ["up", "proxy", "controller"])
def test_a_data_folder_that_is_read_only_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "logs")
    told = failed(command, "--data", str(tmp_path), code=2)
    assert f"{tmp_path / 'logs'} cannot be written to" in told


def test_a_dry_run_says_that_nothing_was_changed(plane: Plane) -> None:
    plane.promote(2, force=True)
    assert "Dry run: nothing was changed." in done("rollback", "chat", "--dry-run")
    assert plane.production == 2


def test_a_piped_table_has_a_line_for_each_row(plane: Plane) -> None:
    address = "http://" + "a" * 60 + ":900"
    done("models", "register", "chat", "--replica", address, "--replica", address + "1")
    assert any(
        address in line and address + "1" in line for line in done("models", "show", "chat").splitlines()
    )


def test_control_characters_from_elsewhere_do_not_reach_the_terminal(plane: Plane) -> None:
    bell = "\x1b]0;owned\x07"
    said = run("experiment", "status", f"nope{bell}").output
    assert "nope" in said
    assert "\x1b" not in said
    assert "\x07" not in said
