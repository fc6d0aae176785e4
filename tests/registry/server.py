"""A real MLflow server that a test can stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from turnout.processes import free_port


class MlflowServer:
    """`mlflow server` on loopback, in a session of its own so that all its processes end together."""

    def __init__(self, database: str, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = open(folder / "server.log", "wb")  # noqa: SIM115 - closed in stop()
        port = self.url.rpartition(":")[2]
        arguments = ["--backend-store-uri", database, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments],
            cwd=folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ
            | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(Path(self._log.name).read_text()[-2000:])

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It takes connections and answers nobody: worse than being gone, which one is told of at once."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """At once. Safe to repeat."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)
        self._log.close()
