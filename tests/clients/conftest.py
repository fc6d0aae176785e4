"""A proxy as people run it, a process of its own, in front of a simulated engine."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from experiments.snapshot import Endpoint, ModelRoute, Snapshot
from turnout.processes import free_port
from turnout.simulation import Profile, SimulatedEngine, running_engine

MODEL = "support"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """`url` is what a client gets as its base URL; `engine` is what answers behind it."""

    url: str
    engine: SimulatedEngine

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


def _write_snapshot(data: Path, engine: SimulatedEngine) -> None:
    """What a proxy left behind when it last knew a controller. The faults are models of their own."""
    faults = ("tool-call", "429", "error-event", "echo-auth", "hang", "cut-at-600", "bandwidth-2000")
    served = {MODEL: engine.profile.name} | {fault: fault for fault in faults}
    table = Snapshot(
        version=1,
        published_ns=time.time_ns(),
        models={name: ModelRoute(model=name, production=1) for name in served},
        endpoints={
            (name, 1): Endpoint(
                model=name, version=1, served_name=behind, engine="simulated", replicas=(engine.url,)
            )
            for name, behind in served.items()
        },
    )
    (data / "proxy-snapshot.json").write_bytes(table.to_json())


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the proxy ended with {process.returncode}"
        try:
            with urlopen(f"{url}/readyz", timeout=1):
                return
        except OSError:  # refused, or accepted for a worker that is still starting
            time.sleep(0.05)
    raise AssertionError("the proxy was not ready in 20 s")


@pytest.fixture(scope="package", autouse=True)
def leftovers() -> Iterator[None]:
    """litellm keeps its clients for minutes, with sockets of loops that are gone, and drops them in the midst
    of somebody else's test: they go here."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        if (litellm := sys.modules.get("litellm")) is not None:
            litellm.in_memory_llm_clients_cache.flush_cache()
        gc.collect()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One proxy and one engine for all client tests; no controller: the proxy has its last snapshot."""
    data = tmp_path_factory.mktemp("proxy")
    port = free_port()
    command = [sys.executable, "-m", "proxy", "--data", str(data), "--port", str(port)]
    command += ["--control-url", "http://127.0.0.1:1"]
    with running_engine(Profile(name="org/support-v1")) as engine:
        _write_snapshot(data, engine)
        with (data / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                url = f"http://127.0.0.1:{port}"
                _wait_until_ready(url, process)
                yield Stack(url=url, engine=engine)
            finally:
                process.terminate()
                process.wait(30)
