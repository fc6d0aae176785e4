"""The controller as a process: it starts, refuses a second one, and stops at once although workers wait."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from experiments.client import ControlClient
from turnout.processes import free_port

from .plane import AB


def command(data: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "experiments", "--data", str(data), "--port", str(port)]


@contextmanager
def controller(data: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    with (data.parent / "controller.log").open("ab") as log:
        process = subprocess.Popen(command(data, port), stdout=log, stderr=log)
    try:
        until(lambda: answers(port), process, data.parent / "controller.log")
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def until(question: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not question():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_the_life_of_a_controller(stocked_mlflow: Path, tmp_path: Path) -> None:
    data, port = tmp_path / "data", free_port()
    data.mkdir()
    shutil.copy(stocked_mlflow, data / "mlflow.db")
    url = f"http://127.0.0.1:{port}"
    with controller(data, port) as process:
        token = (data / "token").read_text().strip()
        api = ControlClient(url, token)
        started = api.post("/api/experiments", {"spec_yaml": AB, "filename": "ab.yaml"})
        assert started["state"] == "running"

        second = subprocess.run(
            command(data, free_port()), capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 1
        assert "held by another process" in second.stderr
        assert "Traceback" not in second.stderr

        version = api.get("/api/health")["snapshot"]
        process.send_signal(signal.SIGKILL)
        process.wait()

    with controller(data, port) as process:
        until(
            lambda: len(api.get("/api/models/chat")["versions"][0]["aliases"]) > 0,
            process,
            tmp_path / "controller.log",
        )
        assert api.get("/api/experiments/faster")["state"] == "running"
        after = api.get("/api/health")["snapshot"]
        assert after > version

        polled: list[int] = []

        def poll() -> None:
            answer = httpx.get(
                f"{url}/snapshot", params={"have": after, "worker": "w1", "wait": 30},
                timeout=40, trust_env=False,
            )  # fmt: skip
            polled.append(answer.status_code)

        waiting = threading.Thread(target=poll)
        waiting.start()
        until(lambda: api.get("/api/health")["workers"], process, tmp_path / "controller.log")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        waiting.join(5)
        assert time.monotonic() - began < 10
        assert polled == [304]
        api.close()


@pytest.mark.slow
def test_a_controller_whose_ledger_is_given_up_ends_so_that_it_is_started_again(
    stocked_mlflow: Path, tmp_path: Path
) -> None:
    """DuckDB gives a database up where the disk runs out under it, for as long as the process lives."""
    shutil.copy(stocked_mlflow, tmp_path / "mlflow.db")
    code = f"""
import sys, duckdb
from experiments.__main__ import main
from experiments.controller import Controller

def fail(connection):
    raise duckdb.FatalException("the database has been invalidated")

Controller.tidy = lambda self: self.store.write(fail)
sys.exit(main(["--data", {str(tmp_path)!r}, "--port", "{free_port()}"]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1, ended.stderr
    assert "has to be opened anew" in ended.stderr
