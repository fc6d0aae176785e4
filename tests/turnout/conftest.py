"""A control API on a port of its own, for commands to speak to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from experiments.api import create_app
from tests.experiments.plane import TOKEN, Plane


@pytest.fixture
def terminal() -> Iterator[None]:
    """SIGHUP ends programs, as in a terminal: under nohup these tests' children would inherit that it does
    not."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.fixture
def plane(stocked_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    """A running control API on model `chat`; the environment tells commands where it is."""
    monkeypatch.setattr("experiments.steering.control.RECORD_S", 0.0)
    made = Plane(tmp_path / "data", stocked_mlflow)
    made.start()
    app = create_app(made.controller)
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    monkeypatch.setenv("TURNOUT_CONTROL_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("TURNOUT_DATA", str(made.data))
    monkeypatch.setenv("COLUMNS", "200")
    (made.data / "token").write_text(TOKEN)
    yield made
    server.should_exit = True
    thread.join()
    made.kill()
