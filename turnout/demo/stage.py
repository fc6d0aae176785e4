"""What must be running for the demo? Four simulated engines, and Turnout itself in a folder of its own."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from experiments.client import ControlClient
from proxy import roster
from proxy.roster import NoSupervisor
from turnout.processes import Processes, Program, free_port, programs, refusal
from turnout.settings import Settings
from turnout.simulation import Profile

MODEL: Final = "support-chat"
_MARK: Final = ".turnout-demo"

#: The versions of the demo: production, and three candidates. All of them are simulated.
VERSIONS: Final = {
    1: Profile(name=MODEL, quality=0.80, error_rate=0.01, ttft_ms=12, tokens_per_s=600, jitter=0.3),
    2: Profile(name=MODEL, quality=0.50, ttft_ms=10, tokens_per_s=700, jitter=0.3),
    3: Profile(name=MODEL, quality=0.92, ttft_ms=12, tokens_per_s=600, jitter=0.3),
    4: Profile(name=MODEL, quality=0.96, ttft_ms=9, tokens_per_s=800, jitter=0.3),
}


class DemoImpossible(RuntimeError):
    """The demo cannot start; the message says why and what to do."""


def golden_set() -> Path:
    """The example golden set: in the repository, or packed beside this module in a wheel."""
    for folder in (Path(__file__).parents[2] / "examples/goldens/support", Path(__file__).parent / "support"):
        if (folder / "items.jsonl").exists():
            return folder
    raise DemoImpossible("the example golden set is missing: run `turnout demo` from a checkout")


def fresh_folder(data: Path) -> Path:
    """An empty folder for this run. Only what an earlier demo made, and does not use, is removed."""
    with suppress(NoSupervisor):
        pid = roster.read(data).pid
        raise DemoImpossible(f"a demo runs on {data} (proxy {pid}): end it, or give another --data")
    try:
        if data.exists():
            if any(data.iterdir()) and not (data / _MARK).exists():
                raise DemoImpossible(
                    f"{data} was not made by a demo, so it is not touched: give another --data"
                )
            shutil.rmtree(data)
        data.mkdir(parents=True)
        (data / _MARK).touch()
    except OSError as error:
        raise DemoImpossible(f"{data} cannot be made: {error.strerror}; give another --data") from None
    return data


def _port(wanted: int) -> int:
    """The usual port, or a free one where somebody else has it."""
    return wanted if refusal(wanted) is None else free_port()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The running demo."""

    settings: Settings
    processes: Processes
    api: ControlClient
    golden: Path
    ports: dict[int, int]

    def register(self) -> None:
        """One model, four versions, the first in production: entries in MLflow."""
        for version, port in self.ports.items():
            body: dict[str, Any] = {
                "replicas": [f"http://127.0.0.1:{port}"],
                "served_name": MODEL,
                "engine": "simulated",
                "aliases": ["production"] if version == 1 else [],
                "tags": {"simulated": "true"},
                "source": None,
            }
            self.api.post(f"/api/models/{MODEL}/versions", body)

    def degrade(self, version: int, error_rate: float) -> None:
        """Put an engine that fails under load in the place of one that did not: no golden set sees this."""
        profile = replace(VERSIONS[version], error_rate=error_rate)
        self.processes.replace(_engine(version, self.ports[version], profile, self.golden))


def _engine(version: int, port: int, profile: Profile, golden: Path) -> Program:
    command = [sys.executable, "-m", "turnout.simulation", "--port", str(port)]
    command += ["--profile", orjson.dumps(asdict(profile)).decode()]
    command += ["--answers", str(golden / "items.jsonl")]
    return Program(
        name=f"engine-v{version}",
        command=tuple(command),
        port=port,
        healthy=f"http://127.0.0.1:{port}/health",
    )


def prepare(data: Path) -> Stage:
    """Choose ports and a folder; nothing runs yet. Raises DemoImpossible."""
    golden = golden_set()
    settings = Settings(
        data=fresh_folder(data),
        tracking_uri=None,
        control_url=None,
        proxy_url=None,
        token=os.environ.get("TURNOUT_TOKEN"),  # as the controller will have it
        host="127.0.0.1",
        proxy_port=_port(8080),
        control_port=_port(8081),
        dashboard_port=_port(8501),
        workers=1,
    )
    ports = {version: free_port() for version in VERSIONS}
    api = ControlClient(settings.control_address)
    return Stage(settings=settings, processes=Processes(settings.data), api=api, golden=golden, ports=ports)


def raise_curtain(stage: Stage) -> Stage:
    """Start everything and wait until it answers; the stage with the token. Raises ProcessFailed."""
    processes = stage.processes
    started = [
        _engine(version, stage.ports[version], profile, stage.golden) for version, profile in VERSIONS.items()
    ]
    started += programs(stage.settings)
    for program in started:
        processes.start(program)
    for program in started:
        processes.wait(program.name)
    stage.api.close()
    token = stage.settings.read_token()
    return replace(stage, api=ControlClient(stage.settings.control_address, token))
